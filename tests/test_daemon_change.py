"""One change to one file: recorded before and after, reversible byte for byte, and whole after a crash anywhere."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

import mutagen
import pytest
from make_audio import SUFFIXES, make

from daemon.change import Changer, WriterLock
from daemon.core.audio import audio_id
from daemon.core.config import HardLinks, Tagging
from daemon.core.errors import BadFile, TryLater, UndoRefused
from daemon.core.ledger import ChangeState, Ledger
from daemon.effects import scan, tags
from daemon.moving import Mover
from daemon.reading import Reader
from daemon.undoing import Undoer


def write(ledger: Ledger, reader: Reader, path: Path, *genres: str, tagging: Tagging | None = None):
    before = tags.read(path).genres
    changer = Changer(ledger, tagging or Tagging(), reader)
    return changer.write_genres(path, audio_id(path), before, genres, "bundle-1")


def undoer(ledger: Ledger, reader: Reader) -> Undoer:
    return Undoer(ledger, Changer(ledger, Tagging(), reader), Mover(ledger))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_undo_and_its_undo_give_back_the_very_bytes_and_times(
    ledger: Ledger, reader: Reader, tmp_path: Path, suffix: str
) -> None:
    path = make(tmp_path / f"song{suffix}")
    os.utime(path, ns=(1_600_000_000_000_000_001, 1_500_000_000_123_456_789))
    original, status = path.read_bytes(), path.stat()
    tagged = write(ledger, reader, path, "爵士", "Bebop")
    after = path.read_bytes()
    assert tags.read(path).genres == ("爵士", "Bebop")
    assert after != original
    undone = undoer(ledger, reader).undo(tagged.change)
    assert path.read_bytes() == original
    assert (path.stat().st_mtime_ns, path.stat().st_mode) == (status.st_mtime_ns, status.st_mode)
    undoer(ledger, reader).undo(undone.change)
    assert path.read_bytes() == after


def test_the_ledger_knows_the_file_as_it_is_after_each_change(ledger: Ledger, reader: Reader, tmp_path: Path) -> None:
    path = make(tmp_path / "song.flac")
    applied = write(ledger, reader, path, "jazz")
    known = ledger.known(path)
    assert known is not None
    assert (known.state, known.genres) == (scan.state_of(path), ("jazz",))
    change = ledger.change(applied.change)
    assert change is not None and change.state is ChangeState.DONE
    undoer(ledger, reader).undo(applied.change)
    known = ledger.known(path)
    assert known is not None and known.state == scan.state_of(path)
    undone = ledger.change(applied.change)
    assert undone is not None and undone.state is ChangeState.UNDONE


def test_undo_follows_a_file_that_was_moved(ledger: Ledger, reader: Reader, tmp_path: Path) -> None:
    path = make(tmp_path / "song.mp3")
    original = path.read_bytes()
    applied = write(ledger, reader, path, "jazz")
    moved = tmp_path / "elsewhere.mp3"
    path.rename(moved)
    known = ledger.known(path)
    assert known is not None
    state = scan.state_of(moved)
    assert state is not None
    ledger.remember(type(known)(moved, known.audio_id, state, known.genres, known.status, ""))
    undoer(ledger, reader).undo(applied.change)
    assert moved.read_bytes() == original


def test_undo_is_refused_where_the_file_was_changed_since(ledger: Ledger, reader: Reader, tmp_path: Path) -> None:
    path = make(tmp_path / "song.mp3")
    applied = write(ledger, reader, path, "jazz")
    file = mutagen.File(path, easy=True)
    file["title"] = "another"
    file.save()
    theirs = path.read_bytes()
    with pytest.raises(UndoRefused, match="changed since"):
        undoer(ledger, reader).undo(applied.change)
    assert path.read_bytes() == theirs


def test_undo_is_refused_twice_for_nothing_and_for_a_file_that_is_gone(
    ledger: Ledger, reader: Reader, tmp_path: Path
) -> None:
    path = make(tmp_path / "song.mp3")
    applied = write(ledger, reader, path, "jazz")
    undo = undoer(ledger, reader)
    with pytest.raises(UndoRefused, match="no such change"):
        undo.undo(999)
    again = undo.undo(applied.change)
    with pytest.raises(UndoRefused, match="undone"):
        undo.undo(applied.change)
    path.unlink()
    with pytest.raises(UndoRefused, match="gone"):
        undo.undo(again.change)


def test_what_was_done_and_undone_since_a_time_is_not_undone_again(reader: Reader, tmp_path: Path) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    ledger = Ledger(tmp_path / "state" / "ledger.db", clock=lambda: now)
    before = write(ledger, reader, make(tmp_path / "before.mp3"), "jazz").change
    now = since = now + timedelta(hours=1)
    undo = undoer(ledger, reader)
    undone_after = undo.undo(before).change
    both_after = write(ledger, reader, make(tmp_path / "after.mp3", seed=2), "jazz").change
    undo.undo(both_after)
    kept = write(ledger, reader, make(tmp_path / "kept.mp3", seed=3), "jazz").change
    again = write(ledger, reader, make(tmp_path / "again.mp3", seed=4), "jazz").change
    redone = undo.undo(undo.undo(again).change).change
    assert [change.number for change in ledger.changes_since(since)] == [redone, kept, undone_after]
    ledger.close()


def test_a_file_that_somebody_is_writing_to_is_left_for_later(ledger: Ledger, reader: Reader, tmp_path: Path) -> None:
    path = make(tmp_path / "song.flac")
    before = path.read_bytes()
    with open(path, "r+b"), pytest.raises(TryLater, match="open for writing"):
        write(ledger, reader, path, "jazz")
    assert path.read_bytes() == before
    assert [change.state for change in ledger.changes_of(audio_id(path))] == [ChangeState.ROLLED_BACK]


def test_a_hard_linked_file_is_never_rewritten_unless_the_config_says_so(
    ledger: Ledger, reader: Reader, tmp_path: Path
) -> None:
    path = make(tmp_path / "song.flac")
    twin = tmp_path / "seeding.flac"
    twin.hardlink_to(path)
    before = path.read_bytes()
    with pytest.raises(BadFile, match="link"):
        write(ledger, reader, path, "jazz")
    assert path.read_bytes() == twin.read_bytes() == before
    write(ledger, reader, path, "jazz", tagging=Tagging(hard_links=HardLinks.REWRITE))
    assert tags.read(path).genres == ("jazz",)
    assert twin.read_bytes() == before


def test_only_a_writer_that_is_alone_may_clean_up(tmp_path: Path) -> None:
    first, second = WriterLock(tmp_path), WriterLock(tmp_path)
    first.share()
    assert not second.alone()
    first.close()
    assert second.alone()
    waiting = WriterLock(tmp_path)
    shared = threading.Event()
    thread = threading.Thread(target=lambda: (waiting.share(), shared.set()))
    thread.start()
    assert not shared.wait(0.05)
    second.share()
    assert shared.wait(10)
    thread.join()
    waiting.close()
    second.close()


# A crash anywhere: the process kills itself at its n-th call into the system (PEP 578 audit events: open, rename,
# remove, utime, chmod, copy, every SQLite statement's trace), for every n until it gets through alive.

_KILLED = -signal.SIGKILL


def _die_at(step: int, work) -> int:
    """Run `work` in a forked child that kills itself at its `step`-th audit event; the child's exit code."""
    with warnings.catch_warnings():
        # Python warns that other tests' libraries have threads; the child only touches files and SQLite.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        count = 0

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal count
            if event.startswith(("open", "os.", "shutil.", "sqlite3.", "fcntl.")):
                count += 1
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        code = 1
        try:
            sys.addaudithook(hook)
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _write_once(state: Path, path: Path) -> None:
    ledger = Ledger(state / "ledger.db")
    with Reader() as reader:
        write(ledger, reader, path, "jazz")


def _undo_once(state: Path, number: int) -> None:
    ledger = Ledger(state / "ledger.db")
    with Reader() as reader:
        undoer(ledger, reader).undo(number)


def test_a_change_on_a_volume_that_is_away_stays_open_until_it_is_back(
    ledger: Ledger, reader: Reader, tmp_path: Path
) -> None:
    (tmp_path / "volume").mkdir()
    path = make(tmp_path / "volume" / "song.mp3")
    original = path.read_bytes()
    number = write(ledger, reader, path, "jazz").change
    # As a crash between rename and record leaves it.
    ledger.close_change(number, ChangeState.STAGED)
    (tmp_path / "volume").rename(tmp_path / "unmounted")
    undo = undoer(ledger, reader)
    assert undo.recover() == 0
    (tmp_path / "unmounted").rename(tmp_path / "volume")
    assert undo.recover() == 1
    undo.undo(number)
    assert path.read_bytes() == original


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".mp3", ".ogg", ".m4a"])
def test_killed_at_any_step_of_a_write_the_file_is_whole_and_the_record_true(
    reader: Reader, tmp_path: Path, suffix: str
) -> None:
    source = make(tmp_path / f"source{suffix}").read_bytes()
    survived = False
    for step in range(1, 400):
        folder = tmp_path / f"at{step}"
        folder.mkdir()
        path = folder / f"song{suffix}"
        path.write_bytes(source)
        code = _die_at(step, lambda folder=folder, path=path: _write_once(folder / "state", path))
        assert code in (0, _KILLED)
        _check_recovered(reader, folder, path, source)
        if code == 0:
            survived = True
            break
    assert survived and step > 20


def _check_recovered(reader: Reader, folder: Path, path: Path, source: bytes) -> None:
    ledger = Ledger(folder / "state" / "ledger.db")
    undoer(ledger, reader).recover()
    assert ledger.open_changes() == []
    assert [entry.name for entry in folder.iterdir() if entry.is_file()] == [path.name]
    done = [change for change in ledger.changes_of(audio_id(path)) if change.state is ChangeState.DONE]
    if done:
        assert tags.read(path).genres == ("jazz",)
        known = ledger.known(path)
        assert known is not None and known.state == scan.state_of(path)
        undoer(ledger, reader).undo(done[0].number)
    assert path.read_bytes() == source
    ledger.close()


@pytest.mark.slow
def test_killed_at_any_step_of_an_undo_the_file_is_whole_and_the_record_true(reader: Reader, tmp_path: Path) -> None:
    source = make(tmp_path / "source.flac").read_bytes()
    survived = False
    for step in range(1, 400):
        folder = tmp_path / f"at{step}"
        folder.mkdir()
        path = folder / "song.flac"
        path.write_bytes(source)
        first = Ledger(folder / "state" / "ledger.db")
        number = write(first, reader, path, "jazz").change
        tagged = path.read_bytes()
        first.close()
        code = _die_at(step, lambda folder=folder, number=number: _undo_once(folder / "state", number))
        ledger = Ledger(folder / "state" / "ledger.db")
        undoer(ledger, reader).recover()
        assert ledger.open_changes() == []
        change = ledger.change(number)
        assert change is not None
        assert path.read_bytes() == (source if change.state is ChangeState.UNDONE else tagged)
        ledger.close()
        if code == 0:
            survived = True
            break
    assert survived and step > 20
