"""Changes that belong together, what a crash cut off, and whose genre it is: the ways in which these meet."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import mutagen
import pytest
from make_bundle import make_track

from daemon.change import Changer
from daemon.core.audio import audio_id
from daemon.core.config import Config, Mode, Organise, Root, Tagging
from daemon.core.errors import BadFile, TryLater, UndoRefused
from daemon.core.inference import Ensemble
from daemon.core.ledger import ChangeKind, ChangeState, KnownFile, Ledger
from daemon.core.records import Applied, Moved, Parked, Unchanged
from daemon.effects import tags
from daemon.moving import Mover
from daemon.pipeline import Pipeline
from daemon.reading import Reader
from daemon.undoing import Undoer


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "music"
    (root / "in").mkdir(parents=True)
    return root


@pytest.fixture
def build(ensemble: Ensemble, ledger: Ledger, reader: Reader, root: Path) -> Callable[..., Pipeline]:
    def build(**organise: object) -> Pipeline:
        settings = {"enabled": True, "wait_s": 0.0} | organise
        config = Config(roots=(Root(path=root),), organise=Organise(**settings))
        return Pipeline(config, ensemble, ledger, reader)

    return build


@pytest.fixture
def pipeline(build: Callable[..., Pipeline]) -> Pipeline:
    return build()


@pytest.fixture
def undoer(ledger: Ledger, reader: Reader) -> Undoer:
    return Undoer(ledger, Changer(ledger, Tagging(), reader), Mover(ledger))


def write_genre(path: Path, genre: str) -> None:
    file = mutagen.File(path)
    file["genre"] = [genre]
    file.save()


def tagged(pipeline: Pipeline, path: Path, genre: str = "jazz") -> Applied:
    ending = pipeline.process(make_track(path, genre), Mode.APPLY)
    assert isinstance(ending, Applied)
    return ending


def filed(pipeline: Pipeline, path: Path, genre: str = "jazz") -> Moved:
    tagged(pipeline, path, genre)
    (moved,) = file_all(pipeline)
    assert isinstance(moved, Moved)
    return moved


def file_all(pipeline: Pipeline) -> list[object]:
    endings = []
    while (filing := pipeline.filer.due()) is not None:
        if (ending := pipeline.filer.carry_out(filing)) is None:
            break
        endings.append(ending)
    return endings


def known(ledger: Ledger, path: Path) -> KnownFile:
    found = ledger.known(path)
    assert found is not None
    return found


def corrections(ledger: Ledger, path: Path) -> list[tuple[str, ...]]:
    return [correction.genres for correction in ledger.corrections(audio_id(path))]


# Whose genre it is


def test_a_write_that_was_not_recorded_any_more_is_no_correction(
    pipeline: Pipeline, ledger: Ledger, root: Path
) -> None:
    path = make_track(root / "in" / "song.flac", "jazz")
    pipeline.process(path, Mode.SUGGEST)
    before = known(ledger, path)
    ending = pipeline.process(path, Mode.APPLY)
    assert isinstance(ending, Applied)
    ledger.close_change(ending.change, ChangeState.STAGED)
    ledger.remember(before)
    pipeline.process(path, Mode.APPLY)
    assert corrections(ledger, path) == []


def test_an_undo_that_was_not_recorded_any_more_is_no_correction(
    pipeline: Pipeline, ledger: Ledger, reader: Reader, undoer: Undoer, root: Path
) -> None:
    path = make_track(root / "in" / "song.flac", "jazz")
    write_genre(path, "Polka")
    assert isinstance(pipeline.process(path, Mode.APPLY), Unchanged)
    changer = Changer(ledger, Tagging(), reader)
    change = changer.write_genres(path, audio_id(path), ("Polka",), ("jazz",), "bundle").change
    ours = known(ledger, path)
    undone = undoer.undo(change)
    ledger.close_change(undone.change, ChangeState.STAGED)
    ledger.remember(ours)
    pipeline.process(path, Mode.APPLY)
    assert corrections(ledger, path) == []


def test_the_owners_return_to_our_genre_is_learnt(pipeline: Pipeline, ledger: Ledger, root: Path) -> None:
    path = root / "in" / "song.flac"
    tagged(pipeline, path)
    ours = path.read_bytes()
    write_genre(path, "rock")
    pipeline.process(path, Mode.APPLY)
    path.write_bytes(ours)
    pipeline.process(path, Mode.APPLY)
    assert corrections(ledger, path) == [("rock",), ("jazz",)]


def test_a_copy_of_a_track_in_an_unmounted_root_is_a_copy_and_no_correction(
    pipeline: Pipeline, ledger: Ledger, root: Path, tmp_path: Path
) -> None:
    path = root / "song.flac"
    tagged(pipeline, path)
    copy = Path(shutil.copy(path, tmp_path / "copy.flac"))
    write_genre(copy, "rock")
    root.rename(tmp_path / "away")
    root.mkdir()
    os.utime(root, (1e9, 1e9))  # a mount point is older than what was in its volume
    pipeline.process(copy, Mode.APPLY)
    assert corrections(ledger, copy) == []
    assert ledger.known(path) is not None


# What a crash left open


def test_a_change_in_an_empty_mount_point_stays_open_until_its_volume_is_back(
    pipeline: Pipeline, ledger: Ledger, undoer: Undoer, root: Path, tmp_path: Path
) -> None:
    path = root / "song.flac"
    number = tagged(pipeline, path).change
    ledger.close_change(number, ChangeState.STAGED)
    root.rename(tmp_path / "away")
    root.mkdir()
    assert undoer.recover() == 0
    root.rmdir()
    (tmp_path / "away").rename(root)
    assert undoer.recover() == 1
    change = ledger.change(number)
    assert change is not None and change.state is ChangeState.DONE


def test_a_change_whose_file_the_owner_edited_since_the_crash_is_in_place(
    pipeline: Pipeline, ledger: Ledger, undoer: Undoer, root: Path
) -> None:
    path = root / "in" / "song.flac"
    number = tagged(pipeline, path).change
    ledger.close_change(number, ChangeState.STAGED)
    ledger.forget(path)
    file = mutagen.File(path)
    file["title"] = "another"
    file.save()
    undoer.recover()
    change = ledger.change(number)
    assert change is not None and change.state is ChangeState.DONE
    pipeline.process(path, Mode.APPLY)
    assert corrections(ledger, path) == []


def test_one_change_that_cannot_be_settled_keeps_back_no_other(
    pipeline: Pipeline, ledger: Ledger, undoer: Undoer, root: Path
) -> None:
    long = root / "in" / ("x" * 300) / "song.flac"
    ledger.intend("00" * 32, long, ChangeKind.TAG, before=[], after=[])
    number = tagged(pipeline, root / "in" / "song.flac").change
    ledger.close_change(number, ChangeState.STAGED)
    undoer.recover()
    change = ledger.change(number)
    assert change is not None and change.state is ChangeState.DONE


# Wishes that outlive their reason


def test_a_genre_that_is_taken_back_before_the_move_moves_nothing(
    pipeline: Pipeline, ledger: Ledger, undoer: Undoer, root: Path
) -> None:
    path = root / "in" / "song.flac"
    undoer.undo(tagged(pipeline, path).change)
    assert ledger.filings() == []
    assert file_all(pipeline) == []
    assert path.exists()


def test_a_genre_outside_the_taxonomy_ends_the_wish(pipeline: Pipeline, ledger: Ledger, root: Path) -> None:
    path = root / "in" / "song.flac"
    tagged(pipeline, path)
    write_genre(path, "Vaporwave")
    pipeline.process(path, Mode.APPLY)
    assert ledger.filings() == []


def test_a_genre_that_the_owner_removes_before_the_move_moves_nothing(
    pipeline: Pipeline, ledger: Ledger, root: Path
) -> None:
    path = root / "in" / "song.flac"
    tagged(pipeline, path)
    file = mutagen.File(path)
    del file["genre"]
    file.save()
    pipeline.process(path, Mode.APPLY)
    assert ledger.filings() == []


def test_a_wish_that_was_taken_back_meanwhile_does_not_come_back(
    pipeline: Pipeline, ledger: Ledger, undoer: Undoer, root: Path
) -> None:
    path = root / "in" / "song.flac"
    number = tagged(pipeline, path).change
    filing = pipeline.filer.due()
    assert filing is not None
    undoer.undo(number)
    assert pipeline.filer.carry_out(filing) is None
    assert ledger.filings() == []
    assert path.exists()


def test_the_last_file_of_a_folder_that_is_retagged_and_moved_is_a_correction(
    pipeline: Pipeline, ledger: Ledger, root: Path
) -> None:
    path = root / "in" / "song.flac"
    tagged(pipeline, path)
    (root / "mine").mkdir()
    moved = Path(shutil.copy(path, root / "mine" / "song.flac"))
    path.unlink()
    write_genre(moved, "rock")
    pipeline.process(moved, Mode.APPLY)
    assert corrections(ledger, moved) == [("rock",)]


def test_another_file_at_the_same_place_is_not_moved_by_an_old_wish(
    pipeline: Pipeline, ledger: Ledger, root: Path
) -> None:
    path = root / "in" / "01.flac"
    tagged(pipeline, path)
    path.rename(root / "mine.flac")
    (filing,) = ledger.filings()
    make_track(path, "jazz", mixed_with="rock")
    pipeline.process(path, Mode.SUGGEST)
    ledger.ask_filing(filing)
    assert all(isinstance(ending, Unchanged) for ending in file_all(pipeline))
    assert path.exists()


def test_an_absent_root_does_not_use_up_the_attempts(pipeline: Pipeline, ledger: Ledger, root: Path) -> None:
    tagged(pipeline, root / "in" / "song.flac")
    root.rename(root.with_name("away"))
    for _ in range(10):
        (filing,) = ledger.filings()
        assert pipeline.filer.carry_out(filing) is None
    root.with_name("away").rename(root)
    (filing,) = ledger.filings()
    assert isinstance(pipeline.filer.carry_out(filing), Moved)


def test_a_change_that_fails_leaves_the_wish_of_another_alone(
    pipeline: Pipeline, ledger: Ledger, undoer: Undoer, root: Path
) -> None:
    path = root / "in" / "song.flac"
    number = tagged(pipeline, path).change
    with open(path, "r+b"), pytest.raises(TryLater):
        undoer.undo(number)
    (filing,) = ledger.filings()
    assert filing.act == number


def test_a_file_that_was_retagged_is_not_moved_by_what_the_record_believes(
    pipeline: Pipeline, ledger: Ledger, root: Path
) -> None:
    path = root / "in" / "song.flac"
    tagged(pipeline, path)
    before = known(ledger, path)
    write_genre(path, "rock")
    with pytest.raises(TryLater, match="was changed"):
        Mover(ledger).move(before, root / "jazz" / "song.flac", root, [], None)
    assert path.exists() and not (root / "jazz").exists()


# The owner's no


def test_an_undone_file_stays_undone_when_it_is_renamed_or_touched_or_was_parked(
    pipeline: Pipeline, ledger: Ledger, undoer: Undoer, root: Path
) -> None:
    path = root / "in" / "song.flac"
    undoer.undo(tagged(pipeline, path).change)
    renamed = path.rename(root / "in" / "renamed.flac")
    assert isinstance(pipeline.process(renamed, Mode.APPLY), Unchanged)
    whole = renamed.read_bytes()
    renamed.write_bytes(whole[:100])
    assert isinstance(pipeline.process(renamed, Mode.APPLY), Parked)
    renamed.write_bytes(whole)
    assert pipeline.process(renamed, Mode.APPLY) == Unchanged(renamed, "undone by the owner")
    assert isinstance(pipeline.apply(renamed), Applied)


def test_a_dry_run_by_hand_leaves_no_suggestion_behind(pipeline: Pipeline, ledger: Ledger, root: Path) -> None:
    path = make_track(root / "in" / "song.flac", "jazz")
    pipeline.apply(path, Mode.DRY_RUN)
    assert ledger.known(path) is None
    assert len(ledger.decisions(audio_id(path))) == 1


# Together or not at all


def test_what_fails_half_way_is_put_back_and_can_be_asked_for_again(
    pipeline: Pipeline, ledger: Ledger, undoer: Undoer, root: Path
) -> None:
    moved = filed(pipeline, root / "in" / "song.flac")
    change = ledger.change(moved.change)
    assert change is not None
    twin = root / "twin.flac"
    twin.hardlink_to(moved.path)  # the change of the bytes will be refused, the move not
    for _ in range(2):
        with pytest.raises(BadFile, match="hard links"):
            undoer.undo_act(change.act)
        assert moved.path.exists() and not (root / "in" / "song.flac").exists()
    twin.unlink()
    pipeline.process(moved.path, Mode.APPLY)
    undoer.undo_act(change.act)
    assert (root / "in" / "song.flac").exists() and not (root / "jazz").exists()
    assert tags.read(root / "in" / "song.flac").genres == ()


def test_undone_by_model_a_file_goes_back_whole_or_not_at_all(
    pipeline: Pipeline, ledger: Ledger, undoer: Undoer, root: Path
) -> None:
    first = filed(pipeline, root / "in" / "a.flac")
    (root / "in").mkdir()
    second = filed(pipeline, root / "in" / "b.flac", "rock")
    file = mutagen.File(first.path)
    file["title"] = "mine"
    file.save()
    pipeline.process(first.path, Mode.APPLY)
    groups = undoer.by_act(ledger.changes_by("tones-1"))
    assert [len(group) for group in groups] == [2, 2]
    undoer.undo_together(groups[0])
    with pytest.raises(UndoRefused, match="changed since"):
        undoer.undo_together(groups[1])
    assert first.path.exists() and not second.path.exists()


def test_of_two_copies_the_one_that_is_named_goes_back(
    pipeline: Pipeline, ledger: Ledger, undoer: Undoer, root: Path
) -> None:
    one = make_track(root / "in" / "one.flac", "jazz")
    other = Path(shutil.copy(one, root / "in" / "other.flac"))
    os.utime(other)
    numbers = {}
    for path in (one, other):
        ending = pipeline.process(path, Mode.APPLY)
        assert isinstance(ending, Applied)
        numbers[path] = ending.change
    undoer.undo_act(numbers[one], one)
    assert (tags.read(one).genres, tags.read(other).genres) == ((), ("jazz",))
