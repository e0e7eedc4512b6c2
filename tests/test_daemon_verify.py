"""Verification: each difference between record, disk and queue is made for real, told once, and nothing is changed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import ledger_v1
import pytest

from daemon import verify as verification
from daemon.__main__ import Workshop
from daemon.core import ledger_backup
from daemon.core.errors import ConfigError
from daemon.core.ledger import ChangeKind, ChangeState, FileStatus, KnownFile, Ledger
from daemon.core.records import FileState
from daemon.effects import files
from daemon.effects.queue import Queue
from daemon.verify import Depth, Difference, Kind

SOUND = "a1" * 32


@pytest.fixture
def music(tmp_path: Path) -> Path:
    folder = tmp_path / "music"
    folder.mkdir()
    (folder / "cover.jpg").touch()
    return folder


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def workshop(tmp_path: Path, music: Path, state: Path) -> Workshop:
    config = tmp_path / "config.yaml"
    config.write_text(f"roots: [{{path: {music}}}]\nstate_directory: {state}\n", encoding="utf-8")
    return Workshop(config)


@pytest.fixture
def ledger(state: Path) -> Iterator[Ledger]:
    ledger = Ledger(state / "ledger.db")
    ledger.back_up()
    yield ledger
    ledger.close()


@pytest.fixture
def queue(state: Path, ledger: Ledger) -> Iterator[Queue]:
    queue = Queue(state / "queue.db")
    yield queue
    queue.close()


@pytest.fixture
def recorded(ledger: Ledger, music: Path) -> Callable[[str], Path]:
    """Puts a file on the disk and on record."""

    def record(name: str) -> Path:
        path = music / os.fsdecode(name.encode("utf-8", "surrogateescape"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape") * 100)
        remember(ledger, path)
        return path

    return record


def remember(ledger: Ledger, path: Path, audio_id: str | None = SOUND) -> None:
    state = FileState.of(path.lstat())
    ledger.remember(KnownFile(path, audio_id, state, ("Rock",), FileStatus.TAGGED, ""))


def write(ledger: Ledger, path: Path) -> int:
    """A change that wrote what the file holds now."""
    number = ledger.intend(SOUND, path, ChangeKind.TAG, before=[], after=["Rock"])
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    ledger.staged(
        number,
        temporary=path.with_name(files.temporary_name(path.name, "x1")),
        sha256_before="0" * 64,
        sha256_after=sha256,
        mtime_ns_before=1,
        patch=b"patch",
    )
    ledger.close_change(number, ChangeState.DONE)
    return number


def verify(workshop: Workshop, depth: Depth = Depth.STATES) -> list[Difference]:
    return list(verification.verify(workshop, depth=depth))


def told(workshop: Workshop, depth: Depth = Depth.STATES) -> list[tuple[Kind, Path]]:
    return [(difference.kind, difference.path) for difference in verify(workshop, depth)]


def test_where_everything_agrees_nothing_is_told(
    workshop: Workshop, recorded: Callable[[str], Path], ledger: Ledger, queue: Queue, music: Path
) -> None:
    """A queued file, a copy of the same sound, other people's files and hidden folders are no differences."""
    write(ledger, recorded("song.flac"))
    recorded("copy of song.flac")
    recorded("caf\udce9/日本語.mp3")
    waiting = music / "waiting.mp3"
    waiting.touch()
    queue.put(waiting, FileState.of(waiting.stat()))
    (music / ".hidden").mkdir()
    (music / ".hidden" / "song.mp3").touch()
    (music / "notes.txt").touch()
    assert verify(workshop, Depth.BYTES) == []


def test_looking_changes_nothing(
    workshop: Workshop, recorded: Callable[[str], Path], state: Path, queue: Queue
) -> None:
    recorded("song.flac").unlink()
    before = {path.name: path.read_bytes() for path in state.iterdir() if path.suffix == ".db"}
    assert verify(workshop, Depth.BYTES)
    assert {path.name: path.read_bytes() for path in state.iterdir() if path.suffix == ".db"} == before
    assert len(queue) == 0


# Recorded files


def test_a_recorded_file_that_is_gone_is_told(workshop: Workshop, recorded: Callable[[str], Path]) -> None:
    recorded("album/1.flac")
    gone = recorded("album/caf\udce9.flac")
    gone.unlink()
    assert told(workshop) == [(Kind.FILE_MISSING, gone)]


def test_a_folder_that_is_gone_or_empty_is_told_once(
    workshop: Workshop, recorded: Callable[[str], Path], ledger: Ledger, music: Path
) -> None:
    with ledger.transaction():
        for number in range(1200):
            recorded(f"disk/album {number % 3}/{number}.flac").unlink()
    emptied = [recorded(f"emptied/{number}.mp3") for number in range(3)]
    recorded("here.mp3")
    for number in range(2):
        (music / f"disk/album {number}").rmdir()
    for path in emptied:
        path.unlink()
    differences = verify(workshop)
    assert [(d.kind, d.path) for d in differences] == [
        # The deepest folder is still there, so nothing above it is empty.
        *((Kind.FOLDER_MISSING, music / f"disk/album {number}") for number in range(3)),
        (Kind.FOLDER_MISSING, music / "emptied"),
    ]
    assert [d.what.split(";")[0] for d in differences] == [
        *["400 files are recorded in it"] * 3,
        "3 files are recorded in it",
    ]


def test_a_whole_tree_that_is_gone_is_one_difference(
    workshop: Workshop, recorded: Callable[[str], Path], music: Path
) -> None:
    for number in range(6):
        path = recorded(f"disk/album {number % 3}/{number}.flac")
        path.unlink()
    for number in range(3):
        (music / f"disk/album {number}").rmdir()
    (difference,) = verify(workshop)
    assert (difference.kind, difference.path) == (Kind.FOLDER_MISSING, music / "disk")
    assert difference.what.startswith("6 files are")


@pytest.mark.parametrize("empty", [False, True], ids=["gone", "empty"])
def test_a_root_that_is_not_mounted_is_one_difference(
    workshop: Workshop, recorded: Callable[[str], Path], queue: Queue, music: Path, empty: bool
) -> None:
    for number in range(5):
        path = recorded(f"{number}.flac")
        queue.put(path, FileState.of(path.stat()))
        path.unlink()
    (music / "cover.jpg").unlink()
    if not empty:
        music.rmdir()
    (difference,) = verify(workshop, Depth.BYTES)
    assert (difference.kind, difference.path) == (Kind.ROOT_MISSING, music)
    assert "5 files are recorded in it" in difference.what
    assert ("is empty" in difference.what) == empty


def test_an_inbox_that_is_empty_is_no_difference(workshop: Workshop, ledger: Ledger, music: Path) -> None:
    (music / "cover.jpg").unlink()
    assert verify(workshop) == []


def test_a_recorded_file_that_was_changed_since_is_told(
    workshop: Workshop, recorded: Callable[[str], Path], queue: Queue
) -> None:
    changed, waits, moded = recorded("changed.flac"), recorded("waits.flac"), recorded("moded.flac")
    for path in (changed, waits):
        path.write_bytes(b"other")
    # A tagger may put size and mtime back; the change time tells.
    moded.chmod(0o600)
    moded.chmod(0o644)
    queue.put(waits, FileState.of(waits.stat()))
    assert told(workshop) == [(Kind.FILE_CHANGED, changed), (Kind.FILE_CHANGED, moded)]


def test_a_record_without_a_change_time_is_not_taken_for_a_change(
    workshop: Workshop, ledger: Ledger, music: Path
) -> None:
    path = music / "song.flac"
    path.write_bytes(b"sound")
    status = path.stat()
    old = FileState(status.st_size, status.st_mtime_ns, status.st_ino)
    ledger.remember(KnownFile(path, SOUND, old, (), FileStatus.UNCHANGED, ""))
    assert verify(workshop) == []


def test_a_folder_in_a_files_place_is_told(workshop: Workshop, recorded: Callable[[str], Path]) -> None:
    path = recorded("song.flac")
    path.unlink()
    path.mkdir()
    assert told(workshop) == [(Kind.FILE_CHANGED, path)]


# Bytes


def rot(path: Path) -> FileState:
    """Change a byte as a failing disk would, and return the state in which the file is now."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return FileState.of(path.stat())


def pretend_untouched(ledger: Ledger, state_folder: Path, path: Path, number: int) -> None:
    """Have the record say what it would, had only the bytes changed: the kernel lets nobody set a change time."""
    remember(ledger, path)
    with contextlib.closing(sqlite3.connect(state_folder / "ledger.db", isolation_level=None)) as connection:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        connection.execute("UPDATE changes SET finished_at = ? WHERE id = ?", (now, number))


def test_bytes_that_rotted_on_the_disk_are_found_by_a_look_at_every_byte(
    workshop: Workshop, recorded: Callable[[str], Path], ledger: Ledger, state: Path
) -> None:
    path = recorded("song.flac")
    number = write(ledger, path)
    rot(path)
    pretend_untouched(ledger, state, path, number)
    assert verify(workshop) == []
    (difference,) = verify(workshop, Depth.BYTES)
    assert (difference.kind, difference.path) == (Kind.BYTES_DIFFER, path)
    assert f"change {number} wrote" in difference.what


def test_what_the_owner_changed_after_our_change_is_not_taken_for_rot(
    workshop: Workshop, recorded: Callable[[str], Path], ledger: Ledger, state: Path
) -> None:
    path = recorded("song.flac")
    number = write(ledger, path)
    with contextlib.closing(sqlite3.connect(state / "ledger.db", isolation_level=None)) as connection:
        before = (datetime.now(UTC) - timedelta(seconds=10)).isoformat(timespec="milliseconds")
        connection.execute("UPDATE changes SET finished_at = ? WHERE id = ?", (before, number))
    rot(path)
    remember(ledger, path)
    assert verify(workshop, Depth.BYTES) == []


def test_bytes_are_compared_with_the_last_change_in_place(
    workshop: Workshop, recorded: Callable[[str], Path], ledger: Ledger, state: Path
) -> None:
    """An undone change, one that was rolled back and one of another copy of the sound do not count."""
    path, twin = recorded("song.flac"), recorded("twin.flac")
    first = write(ledger, path)
    path.write_bytes(b"as it was before")
    undoing = ledger.intend(SOUND, path, ChangeKind.UNDO, before=["Rock"], after=[], undoes=first)
    sha256 = hashlib.sha256(b"as it was before").hexdigest()
    ledger.staged(
        undoing, temporary=path, sha256_before="1" * 64, sha256_after=sha256, mtime_ns_before=1, patch=b"patch"
    )
    ledger.close_change(undoing, ChangeState.DONE)
    remember(ledger, path)
    ledger.close_change(write(ledger, path), ChangeState.ROLLED_BACK)
    write(ledger, twin)
    assert verify(workshop, Depth.BYTES) == []
    rot(path)
    pretend_untouched(ledger, state, path, undoing)
    assert told(workshop, Depth.BYTES) == [(Kind.BYTES_DIFFER, path)]


# The disk and the queue


def test_music_that_nobody_knows_of_is_told(
    workshop: Workshop, recorded: Callable[[str], Path], queue: Queue, music: Path
) -> None:
    recorded("known.flac")
    unknown = music / "sub" / os.fsdecode(b"caf\xe9.mp3")
    unknown.parent.mkdir()
    unknown.touch()
    assert told(workshop) == [(Kind.FILE_UNKNOWN, unknown)]


def test_a_job_for_a_file_that_is_gone_is_told(workshop: Workshop, queue: Queue, music: Path) -> None:
    gone = music / "gone.mp3"
    queue.put(gone, FileState(1, 2, 3, 4))
    assert told(workshop) == [(Kind.JOB_WITHOUT_FILE, gone)]


def test_a_temporary_copy_that_was_left_behind_is_told(workshop: Workshop, ledger: Ledger, music: Path) -> None:
    left = music / files.temporary_name("song.flac", "x1y2")
    left.touch()
    assert told(workshop) == [(Kind.LEFTOVER, left)]


def test_a_change_that_was_cut_off_is_told(workshop: Workshop, recorded: Callable[[str], Path], ledger: Ledger) -> None:
    path = recorded("song.flac")
    number = ledger.intend(SOUND, path, ChangeKind.TAG, before=[], after=["Rock"])
    (difference,) = verify(workshop)
    assert (difference.kind, difference.path) == (Kind.CHANGE_OPEN, path)
    assert difference.what.startswith(f"change {number} was begun")


def test_beside_a_running_daemon_its_work_is_no_difference(
    workshop: Workshop, recorded: Callable[[str], Path], ledger: Ledger, music: Path
) -> None:
    path = recorded("song.flac")
    ledger.intend(SOUND, path, ChangeKind.TAG, before=[], after=["Rock"])
    (music / files.temporary_name("song.flac", "x1y2")).touch()
    assert len(verify(workshop)) == 2
    with workshop.alone():
        assert verify(workshop) == []
        an_hour_later = datetime.now(UTC).timestamp() + 3700
        (left,) = verification.verify(workshop, now=lambda: an_hour_later)
    assert left.kind is Kind.LEFTOVER


# State files


def test_a_ledger_that_is_damaged_is_told_with_the_way_out(workshop: Workshop, ledger: Ledger, state: Path) -> None:
    ledger.close()
    (state / "ledger.db").write_bytes(b"no database" * 1000)
    (difference,) = verify(workshop)
    assert (difference.kind, difference.path) == (Kind.DATABASE, state / "ledger.db")
    assert "music-reclass ledger restore" in difference.advice


def test_a_page_of_zeros_in_the_ledger_is_told(workshop: Workshop, ledger: Ledger, state: Path) -> None:
    with ledger.transaction():
        for number in range(2000):
            ledger.state_fact(str(number), "x" * 500)
    ledger.close()
    path = state / "ledger.db"
    content = bytearray(path.read_bytes())
    content[-20 * 4096 : -10 * 4096] = bytes(10 * 4096)
    path.write_bytes(content)
    assert told(workshop) == [(Kind.DATABASE, path)]


def test_a_ledger_that_is_gone_is_told(workshop: Workshop, ledger: Ledger, state: Path) -> None:
    ledger.close()
    (state / "ledger.db").unlink()
    (difference,) = verify(workshop)
    assert difference.kind is Kind.DATABASE
    assert "music-reclass ledger restore" in difference.advice
    assert not (state / "ledger.db").exists()


def test_where_no_daemon_ever_ran_that_is_told(workshop: Workshop, state: Path) -> None:
    (difference,) = verify(workshop)
    assert (difference.kind, difference.advice) == (Kind.DATABASE, "nothing was recorded so far: start the daemon")
    assert not (state / "ledger.db").exists()


def test_a_ledger_of_an_older_version_is_told_and_not_migrated(workshop: Workshop, state: Path) -> None:
    ledger_v1.make_ledger(state / "ledger.db")
    kinds = {difference.kind: difference for difference in verify(workshop)}
    assert set(kinds) == {Kind.DATABASE, Kind.BACKUP}
    assert "its next start brings an older one up to date" in kinds[Kind.DATABASE].what
    assert ledger_v1.dump(state / "ledger.db")[0] == "1"


def test_a_queue_that_is_damaged_is_told_and_the_rest_is_still_compared(
    workshop: Workshop, recorded: Callable[[str], Path], state: Path
) -> None:
    gone = recorded("album/1.flac")
    recorded("album/2.flac")
    gone.unlink()
    (state / "queue.db").write_bytes(b"no database" * 1000)
    assert told(workshop) == [(Kind.DATABASE, state / "queue.db"), (Kind.FILE_MISSING, gone)]


def test_missing_old_and_unsound_copies_of_the_ledger_are_told(workshop: Workshop, ledger: Ledger, state: Path) -> None:
    folder = state / "backups"
    (made,) = ledger_backup.backups(folder)
    later = made.made_at + timedelta(days=5)
    (old,) = verification.verify(workshop, now=later.timestamp)
    assert (old.kind, old.path) == (Kind.BACKUP, made.path)
    assert "5 days old" in old.what
    made.path.write_bytes(b"no database")
    assert told(workshop) == [(Kind.BACKUP, made.path), (Kind.BACKUP, folder)]
    made.path.unlink()
    assert told(workshop) == [(Kind.BACKUP, folder)]


# Size


def test_differences_come_one_by_one_and_memory_does_not_grow_with_the_library(
    workshop: Workshop, ledger: Ledger, music: Path
) -> None:
    looked_at: list[None] = []
    count = 6_000
    with ledger.transaction():
        for number in range(count):
            path = music / f"album {number // 20}" / f"{number}.flac"
            ledger.remember(KnownFile(path, None, FileState(1, 2, 3, 4), (), FileStatus.UNCHANGED, ""))
    found = verification.verify(workshop, on_file=lambda path: looked_at.append(None))
    assert next(found).kind is Kind.FOLDER_MISSING
    assert len(looked_at) < 100, "the first difference was told before everything was looked at"
    tracemalloc.start()
    try:
        told = sum(1 for _ in found)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert told == count // 20 - 1
    assert len(looked_at) == count
    assert peak < 2_000_000


def test_a_config_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("roots: 7\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="roots"):
        verify(Workshop(config))


def test_folders_named_on_the_command_line_are_remembered(
    tmp_path: Path, state: Path, music: Path, ledger: Ledger
) -> None:
    """Without roots in the config, those that the daemon watched last are looked at."""
    config = tmp_path / "other.yaml"
    config.write_text(f"state_directory: {state}\n", encoding="utf-8")
    (music / "song.mp3").touch()
    assert told(Workshop(config)) == []
    (state / "status.json").write_text(f'{{"roots": ["{music}"]}}', encoding="utf-8")
    assert told(Workshop(config)) == [(Kind.FILE_UNKNOWN, music / "song.mp3")]
