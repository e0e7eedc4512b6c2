"""What waits for the owner's word, what is tried again, and corrections that leave size and time as they were."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import mutagen
import pytest
from make_bundle import make_track

from daemon.core.audio import audio_id
from daemon.core.config import Config, Mode, Root, Settle, Tagging
from daemon.core.errors import BadFile, TryLater
from daemon.core.inference import Ensemble
from daemon.core.ledger import FileStatus, Ledger
from daemon.core.records import Applied, Parked, Suggested, Unchanged
from daemon.effects import scan, tags
from daemon.effects.queue import Queue
from daemon.intake import Intake
from daemon.pipeline import Pipeline, retry_or_park
from daemon.reading import Reader
from daemon.recognition import RESTORED_AT


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "music"
    root.mkdir()
    return root


@pytest.fixture
def build(ensemble: Ensemble, ledger: Ledger, reader: Reader, root: Path) -> Callable[..., Pipeline]:
    return lambda **sections: Pipeline(Config(roots=(Root(path=root),), **sections), ensemble, ledger, reader)


@pytest.fixture
def pipeline(build: Callable[..., Pipeline]) -> Pipeline:
    return build()


def retag_in_place(path: Path, genre: str) -> None:
    """As a player that writes inside the padding and preserves timestamps: size, inode and mtime stay."""
    before = path.stat()
    file = mutagen.File(path)
    file["genre"] = [genre]
    file.save(padding=lambda info: info.padding)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_ino, after.st_mtime_ns) == (before.st_size, before.st_ino, before.st_mtime_ns)


def write_genre(path: Path, genre: str) -> None:
    file = mutagen.File(path)
    file["genre"] = [genre]
    file.save()


# Suggestions


def test_an_accepted_suggestion_is_written_and_is_the_owners_label(
    pipeline: Pipeline, ledger: Ledger, root: Path
) -> None:
    path = make_track(root / "song.flac", "jazz")
    pipeline.process(path, Mode.SUGGEST)
    ending = pipeline.accept(path)
    assert isinstance(ending, Applied)
    assert tags.read(path).genres == ("jazz",)
    (correction,) = ledger.corrections(audio_id(path))
    assert (correction.genre, correction.how) == ("jazz", "accepted")
    change = ledger.change(ending.change)
    assert change is not None and change.bundle is None
    assert ledger.of_status(FileStatus.SUGGESTED) == []
    with pytest.raises(BadFile, match="nothing is suggested"):
        pipeline.accept(path)


def test_a_suggestion_is_not_written_over_what_the_owner_wrote_since(
    pipeline: Pipeline, ledger: Ledger, root: Path
) -> None:
    path = make_track(root / "song.flac", "jazz")
    pipeline.process(path, Mode.SUGGEST)
    write_genre(path, "Polka")
    with pytest.raises(BadFile, match="changed since"):
        pipeline.accept(path)
    assert tags.read(path).genres == ("Polka",)


def test_a_declined_suggestion_is_not_made_again(pipeline: Pipeline, ledger: Ledger, root: Path) -> None:
    path = make_track(root / "song.flac", "jazz")
    pipeline.process(path, Mode.SUGGEST)
    pipeline.decline(path)
    assert pipeline.process(path, Mode.SUGGEST) == Unchanged(path, "seen already")
    assert pipeline.process(path, Mode.APPLY) == Unchanged(path, "seen already")
    assert ledger.of_status(FileStatus.SUGGESTED) == []


def test_a_suggestion_survives_a_touch_and_a_move(pipeline: Pipeline, ledger: Ledger, root: Path) -> None:
    path = make_track(root / "song.flac", "jazz")
    pipeline.process(path, Mode.SUGGEST)
    moved = path.rename(root / "moved.flac")
    os.utime(moved)
    pipeline.process(moved, Mode.SUGGEST)
    (known,) = ledger.of_status(FileStatus.SUGGESTED)
    assert (known.path, known.suggestion) == (moved, ("jazz",))


def test_what_was_suggested_is_written_once_its_root_is_to_be_written_to(
    pipeline: Pipeline, ledger: Ledger, root: Path, tmp_path: Path
) -> None:
    path = make_track(root / "song.flac", "jazz")
    assert isinstance(pipeline.process(path, Mode.DRY_RUN), Suggested)
    queue = Queue(tmp_path / "queue.db")
    intake = Intake(ledger, queue, [Root(path=root, mode=Mode.SUGGEST)], Settle(quiet_s=0.01))
    intake.rescan(lambda: True)
    assert intake.settling == 0
    intake.set([Root(path=root)], Settle(quiet_s=0.01))
    intake.rescan(lambda: True)
    while not len(queue):
        intake.step(1.0)
    assert isinstance(pipeline.process(path, Mode.APPLY), Applied)
    job = queue.lease(60.0)
    assert job is not None
    queue.done(job)
    intake.rescan(lambda: True)
    assert intake.settling == 0
    queue.close()


# Trying again


def test_a_file_that_waits_for_a_better_moment_is_tried_at_the_next_start_and_not_before_a_day(
    pipeline: Pipeline, ledger: Ledger, root: Path, tmp_path: Path
) -> None:
    path = make_track(root / "song.flac", "jazz")
    assert retry_or_park(pipeline, TryLater(path, "no space left on device"), 5, 5) == Parked(
        path, "no space left on device (tried 5 times)"
    )
    queue = Queue(tmp_path / "queue.db")
    intake = Intake(ledger, queue, [Root(path=root)], Settle(quiet_s=0.01))
    intake.rescan(lambda: True)
    assert intake.settling == 1
    while not len(queue):
        intake.step(1.0)
    job = queue.lease(60.0)
    assert job is not None and job.path == path
    queue.done(job)
    intake.rescan(lambda: True)
    assert intake.settling == 0
    assert isinstance(pipeline.process(path, Mode.APPLY), Applied)
    queue.close()


# What only the change time tells


def test_a_genre_changed_within_the_padding_with_its_old_time_is_a_correction(
    pipeline: Pipeline, ledger: Ledger, root: Path
) -> None:
    path = make_track(root / "song.flac", "jazz")
    pipeline.process(path, Mode.APPLY)
    retag_in_place(path, "rock")
    assert pipeline.process(path, Mode.APPLY) == Unchanged(path, "the owner's label")
    assert [correction.genre for correction in ledger.corrections(audio_id(path))] == ["rock"]


def test_a_change_of_mode_or_a_new_link_costs_no_second_hearing(pipeline: Pipeline, ledger: Ledger, root: Path) -> None:
    path = make_track(root / "song.flac", "jazz")
    pipeline.process(path, Mode.APPLY)
    path.chmod(0o640)
    (root.parent / "backup.flac").hardlink_to(path)
    assert pipeline.process(path, Mode.APPLY) == Unchanged(path, "seen already")
    known = ledger.known(path)
    assert known is not None and known.state == scan.state_of(path)
    assert len(ledger.decisions(audio_id(path))) == 1


# Protected files


def test_a_write_protected_file_is_written_and_stays_protected_unless_the_config_says_otherwise(
    build: Callable[..., Pipeline], root: Path
) -> None:
    path = make_track(root / "song.flac", "jazz")
    path.chmod(0o444)
    before = path.read_bytes()
    ending = build(tagging=Tagging(read_only="park")).process(path, Mode.APPLY)
    assert isinstance(ending, Parked) and "protected" in ending.reason
    assert path.read_bytes() == before
    assert isinstance(build().apply(path), Applied)
    assert path.stat().st_mode & 0o777 == 0o444


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_keeps_its_owner_where_that_can_be_done(pipeline: Pipeline, root: Path) -> None:
    path = make_track(root / "song.flac", "jazz")
    os.chown(path, 12345, 12345)
    assert isinstance(pipeline.process(path, Mode.APPLY), Applied)
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12345)


# A restored ledger


def test_after_a_restore_our_own_later_writes_are_no_corrections(
    pipeline: Pipeline, ledger: Ledger, root: Path
) -> None:
    ours, theirs = make_track(root / "ours.flac", "jazz"), make_track(root / "theirs.flac", "rock")
    for path in (ours, theirs):
        pipeline.process(path, Mode.SUGGEST)
    write_genre(ours, "jazz")
    restored_at = ours.stat().st_ctime_ns // 1_000_000 + 20
    ledger.state_fact(RESTORED_AT, datetime.fromtimestamp(restored_at / 1000, UTC).isoformat(timespec="milliseconds"))
    while theirs.stat().st_ctime_ns // 1_000_000 <= restored_at:
        write_genre(theirs, "Polka")
    for path in (ours, theirs):
        pipeline.process(path, Mode.SUGGEST)
    assert ledger.corrections(audio_id(ours)) == []
    assert [correction.genres for correction in ledger.corrections(audio_id(theirs))] == [("Polka",)]


# Renamed trees


def test_a_renamed_tree_is_recognised_without_hearing_it_again(pipeline: Pipeline, ledger: Ledger, root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    paths = [make_track(root / "a" / "b" / f"{genre}.flac", genre) for genre in ("jazz", "rock", "classical")]
    for path in paths:
        pipeline.process(path, Mode.APPLY)
    (root / "a").rename(root / "z")
    for path in paths:
        moved = root / "z" / "b" / path.name
        assert isinstance(pipeline.process(moved, Mode.APPLY), Unchanged)
        assert ledger.known(path) is None
        known = ledger.known(moved)
        assert known is not None and known.status is FileStatus.TAGGED
        assert len(ledger.decisions(audio_id(moved))) == 1
        assert ledger.corrections(audio_id(moved)) == []
