"""One track from path to ending: what is written, what is left, what is learnt, and that nothing is done twice."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import mutagen
import pytest
from make_audio import encode, make
from make_bundle import make_track, tone

from daemon.change import Changer
from daemon.core import config
from daemon.core.audio import audio_id
from daemon.core.config import Config, GenreEntry, Mode, Tagging, Thresholds
from daemon.core.errors import BadFile, TryLater
from daemon.core.inference import Ensemble
from daemon.core.ledger import FileStatus, Ledger
from daemon.core.records import Abstained, Abstention, Applied, Parked, Suggested, Unchanged
from daemon.effects import tags
from daemon.moving import Mover
from daemon.pipeline import Judge, Pipeline, retry_or_park
from daemon.reading import Reader
from daemon.undoing import Undoer


@pytest.fixture
def pipeline(ensemble: Ensemble, ledger: Ledger, reader: Reader) -> Pipeline:
    return Pipeline(config.default(), ensemble, ledger, reader)


@pytest.fixture
def with_config(ensemble: Ensemble, ledger: Ledger, reader: Reader) -> Callable[..., Pipeline]:
    return lambda **sections: Pipeline(Config(**sections), ensemble, ledger, reader)


def genre(path: Path, *values: str) -> Path:
    file = mutagen.File(path, easy=True)
    file["genre"] = list(values)
    file.save()
    return path


def test_a_new_file_is_tagged_with_evidence_on_record(pipeline: Pipeline, ledger: Ledger, tmp_path: Path) -> None:
    path = make_track(tmp_path / "song.flac", "jazz")
    ending = pipeline.process(path, Mode.APPLY)
    assert isinstance(ending, Applied)
    assert tags.read(path).genres == ("jazz",)
    recorded = ledger.latest_decision(audio_id(path))
    assert recorded is not None
    _, decision = recorded
    assert (decision.genre, decision.bundle, len(decision.votes)) == ("jazz", "tones-1", 3)
    change = ledger.change(ending.change)
    assert change is not None and change.bundle == "tones-1"


def test_its_own_write_is_not_answered(pipeline: Pipeline, ledger: Ledger, tmp_path: Path) -> None:
    path = make_track(tmp_path / "song.flac", "jazz")
    pipeline.process(path, Mode.APPLY)
    assert pipeline.process(path, Mode.APPLY) == Unchanged(path, "seen already")
    assert len(ledger.decisions(audio_id(path))) == 1


def test_an_edit_of_another_tag_is_neither_a_correction_nor_new_work(
    pipeline: Pipeline, ledger: Ledger, tmp_path: Path
) -> None:
    path = make_track(tmp_path / "song.flac", "jazz")
    pipeline.process(path, Mode.APPLY)
    file = mutagen.File(path)
    file["title"] = "new title"
    file.save()
    assert isinstance(pipeline.process(path, Mode.APPLY), Unchanged)
    assert ledger.corrections(audio_id(path)) == []
    assert len(ledger.decisions(audio_id(path))) == 1


def test_the_owners_genre_is_learnt_and_never_overwritten(pipeline: Pipeline, ledger: Ledger, tmp_path: Path) -> None:
    path = make_track(tmp_path / "song.flac", "jazz")
    pipeline.process(path, Mode.APPLY)
    genre(path, "搖滾")
    assert pipeline.process(path, Mode.APPLY) == Unchanged(path, "the owner's label")
    (correction,) = ledger.corrections(audio_id(path))
    assert (correction.genres, correction.genre, correction.how) == (("搖滾",), "rock", "retagged")
    pipeline.apply(path)
    assert tags.read(path).genres == ("搖滾",)


def test_a_genre_outside_the_taxonomy_is_a_correction_too(pipeline: Pipeline, ledger: Ledger, tmp_path: Path) -> None:
    path = make_track(tmp_path / "song.flac", "jazz")
    pipeline.process(path, Mode.APPLY)
    genre(path, "Vaporwave")
    pipeline.process(path, Mode.APPLY)
    (correction,) = ledger.corrections(audio_id(path))
    assert (correction.genres, correction.genre) == (("Vaporwave",), None)


def test_a_moved_file_is_recognised_by_its_sound_and_not_done_again(
    pipeline: Pipeline, ledger: Ledger, tmp_path: Path
) -> None:
    path = make_track(tmp_path / "song.flac", "jazz")
    pipeline.process(path, Mode.APPLY)
    moved = path.rename(tmp_path / "renamed.flac")
    assert isinstance(pipeline.process(moved, Mode.APPLY), Unchanged)
    assert ledger.known(path) is None
    known = ledger.known(moved)
    assert known is not None and known.status is FileStatus.TAGGED
    assert len(ledger.decisions(audio_id(moved))) == 1


def test_moved_and_retagged_at_once_is_a_correction(pipeline: Pipeline, ledger: Ledger, tmp_path: Path) -> None:
    path = make_track(tmp_path / "song.flac", "jazz")
    pipeline.process(path, Mode.APPLY)
    moved = genre(path.rename(tmp_path / "renamed.flac"), "rock")
    pipeline.process(moved, Mode.APPLY)
    assert [correction.genre for correction in ledger.corrections(audio_id(moved))] == ["rock"]


def test_another_copy_of_a_corrected_track_gets_the_owners_label(
    pipeline: Pipeline, ledger: Ledger, tmp_path: Path
) -> None:
    path = make_track(tmp_path / "song.flac", "jazz")
    untagged = shutil.copy(path, tmp_path / "copy.flac")
    pipeline.process(path, Mode.APPLY)
    genre(path, "rock")
    pipeline.process(path, Mode.APPLY)
    assert isinstance(pipeline.process(Path(untagged), Mode.APPLY), Applied)
    assert tags.read(untagged).genres == ("rock",)


def test_an_unsure_track_is_left_without_a_genre(pipeline: Pipeline, ledger: Ledger, tmp_path: Path) -> None:
    path = make_track(tmp_path / "mixed.flac", "jazz", mixed_with="rock")
    before = path.read_bytes()
    assert pipeline.process(path, Mode.APPLY) == Abstained(path, Abstention.UNSURE)
    assert path.read_bytes() == before
    known = ledger.known(path)
    assert known is not None and (known.status, known.reason) == (FileStatus.ABSTAINED, "unsure")


def test_a_silent_track_is_left_and_said_to_be_silent(pipeline: Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "silence.flac"
    encode(path, tone(440, 5) * 0)
    assert pipeline.process(path, Mode.APPLY) == Abstained(path, Abstention.SILENT)


def test_what_the_taxonomy_has_no_genre_for_is_left(
    with_config: Callable[..., Pipeline], ledger: Ledger, tmp_path: Path
) -> None:
    taxonomy = (GenreEntry(name="古典", aliases=("classical",)), GenreEntry(name="jazz"))
    pipeline = with_config(taxonomy=taxonomy)
    rock = make_track(tmp_path / "rock.flac", "rock")
    assert pipeline.process(rock, Mode.APPLY) == Abstained(rock, Abstention.OUTSIDE_TAXONOMY)
    classical = make_track(tmp_path / "classical.flac", "classical")
    pipeline.process(classical, Mode.APPLY)
    assert tags.read(classical).genres == ("古典",)


def test_thresholds_of_config_and_genre_outrank_the_bundles(
    with_config: Callable[..., Pipeline], ledger: Ledger, tmp_path: Path
) -> None:
    daring = with_config(thresholds=Thresholds(default=0.0))
    mixed = make_track(tmp_path / "mixed.flac", "jazz", mixed_with="rock")
    assert isinstance(daring.process(mixed, Mode.APPLY), Applied)
    strict = with_config(
        taxonomy=(GenreEntry(name="jazz", threshold=1.0), GenreEntry(name="rock")),
        thresholds=Thresholds(default=0.0),
    )
    jazz = make_track(tmp_path / "jazz.mp3", "jazz")
    assert isinstance(strict.process(jazz, Mode.APPLY), Abstained)
    rock = make_track(tmp_path / "rock.mp3", "rock")
    assert isinstance(strict.process(rock, Mode.APPLY), Applied)


@pytest.mark.parametrize("mode", [Mode.SUGGEST, Mode.DRY_RUN])
def test_suggest_and_dry_run_write_nothing(pipeline: Pipeline, ledger: Ledger, tmp_path: Path, mode: Mode) -> None:
    path = make_track(tmp_path / "song.flac", "jazz")
    before, status = path.read_bytes(), path.stat()
    ending = pipeline.process(path, mode)
    assert ending == Suggested(path, ("jazz",))
    known = ledger.known(path)
    assert known is not None and known.suggestion == ("jazz",)
    assert (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) == (
        before,
        status.st_mtime_ns,
        status.st_ino,
    )
    assert ledger.changes_of(audio_id(path)) == []


def test_an_existing_genre_is_kept_whatever_the_model_hears(pipeline: Pipeline, tmp_path: Path) -> None:
    inside = genre(make_track(tmp_path / "inside.flac", "jazz"), "Rock")
    outside = genre(make_track(tmp_path / "outside.flac", "jazz"), "Vaporwave", "Folk, World, & Country")
    before = inside.read_bytes(), outside.read_bytes()
    assert isinstance(pipeline.process(inside, Mode.APPLY), Unchanged)
    assert isinstance(pipeline.process(outside, Mode.APPLY), Unchanged)
    assert (inside.read_bytes(), outside.read_bytes()) == before


def test_a_foreign_genre_is_kept_beside_ours_where_the_policy_says_append(
    with_config: Callable[..., Pipeline], ledger: Ledger, tmp_path: Path
) -> None:
    pipeline = with_config(tagging=Tagging(outside="append"))
    path = genre(make_track(tmp_path / "song.flac", "jazz"), "Vaporwave")
    pipeline.process(path, Mode.APPLY)
    assert tags.read(path).genres == ("Vaporwave", "jazz")


def test_a_bad_file_is_parked_and_taken_up_again_when_it_changes(
    pipeline: Pipeline, ledger: Ledger, tmp_path: Path
) -> None:
    path = tmp_path / "song.flac"
    path.write_text("no music")
    assert isinstance(pipeline.process(path, Mode.APPLY), Parked)
    assert [file.path for file in ledger.of_status(FileStatus.PARKED)] == [path]
    make_track(path, "jazz")
    assert isinstance(pipeline.process(path, Mode.APPLY), Applied)
    assert ledger.of_status(FileStatus.PARKED) == []


def test_a_hard_linked_file_is_parked_with_its_reason_and_untouched(pipeline: Pipeline, tmp_path: Path) -> None:
    path = make_track(tmp_path / "song.flac", "jazz")
    (tmp_path / "seeding.flac").hardlink_to(path)
    before = path.read_bytes()
    ending = pipeline.process(path, Mode.APPLY)
    assert isinstance(ending, Parked) and "link" in ending.reason
    assert path.read_bytes() == before


def test_a_file_that_is_gone_is_told_and_stays_known_since_its_volume_may_come_back(
    pipeline: Pipeline, ledger: Ledger, tmp_path: Path
) -> None:
    path = make_track(tmp_path / "song.flac", "jazz")
    pipeline.process(path, Mode.APPLY)
    away = path.rename(tmp_path / "away")
    assert pipeline.process(path, Mode.APPLY) == Unchanged(path, "gone")
    assert isinstance(pipeline.apply(path), Parked)
    genre(away.rename(path), "rock")
    pipeline.process(path, Mode.APPLY)
    assert [correction.genre for correction in ledger.corrections(audio_id(path))] == ["rock"]


def test_a_file_caught_in_the_middle_of_an_edit_is_not_forgotten(
    pipeline: Pipeline, ledger: Ledger, tmp_path: Path
) -> None:
    path = make_track(tmp_path / "song.flac", "jazz")
    pipeline.process(path, Mode.APPLY)
    genre(path, "rock")
    whole = path.read_bytes()
    path.write_bytes(whole[:20])
    assert isinstance(pipeline.process(path, Mode.APPLY), Parked)
    path.write_bytes(whole)
    assert pipeline.process(path, Mode.APPLY) == Unchanged(path, "the owner's label")
    assert [correction.genre for correction in ledger.corrections(audio_id(path))] == ["rock"]


def test_a_genre_that_the_owner_writes_while_the_track_is_heard_is_not_overwritten(
    pipeline: Pipeline, ledger: Ledger, reader: Reader, tmp_path: Path
) -> None:
    path = make_track(tmp_path / "song.flac", "jazz")
    sound = audio_id(path)
    genre(path, "Grunge")
    before = path.read_bytes()
    with pytest.raises(TryLater, match="changed meanwhile"):
        Changer(ledger, Tagging(), reader).write_genres(path, sound, (), ("jazz",), None)
    assert path.read_bytes() == before


def test_apply_learns_what_the_owner_changed_before_it_writes(
    with_config: Callable[..., Pipeline], ledger: Ledger, tmp_path: Path
) -> None:
    pipeline = with_config(tagging=Tagging(inside="replace"))
    path = make_track(tmp_path / "song.flac", "jazz")
    pipeline.process(path, Mode.APPLY)
    genre(path, "rock")
    pipeline.apply(path)
    assert tags.read(path).genres == ("rock",)
    assert [correction.genre for correction in ledger.corrections(audio_id(path))] == ["rock"]


def test_our_own_label_on_another_copy_is_not_taken_for_the_owners(
    pipeline: Pipeline, ledger: Ledger, tmp_path: Path
) -> None:
    first = make_track(tmp_path / "first.flac", "jazz")
    second = Path(shutil.copy(first, tmp_path / "second.flac"))
    pipeline.process(second, Mode.SUGGEST)
    pipeline.process(first, Mode.APPLY)
    second.unlink()
    file = mutagen.File(first)
    file["title"] = "new title"
    file.save()
    pipeline.process(first, Mode.APPLY)
    assert ledger.corrections(audio_id(first)) == []


def test_the_original_copied_here_anew_is_tagged_again(pipeline: Pipeline, ledger: Ledger, tmp_path: Path) -> None:
    source = make_track(tmp_path / "source.flac", "jazz")
    path = Path(shutil.copy(source, tmp_path / "song.flac"))
    pipeline.process(path, Mode.APPLY)
    path.unlink()
    again = Path(shutil.copy(source, tmp_path / "again.flac"))
    assert isinstance(pipeline.process(again, Mode.APPLY), Applied)


def test_a_genre_that_is_removed_so_that_the_old_bytes_are_there_again_does_not_come_back(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    path = make_track(tmp_path / "song.flac", "jazz")
    original = path.read_bytes()
    pipeline.process(path, Mode.APPLY)
    path.write_bytes(original)
    assert isinstance(pipeline.process(path, Mode.APPLY), Unchanged)
    assert path.read_bytes() == original


def test_a_copy_of_a_known_track_is_not_heard_again(pipeline: Pipeline, ledger: Ledger, tmp_path: Path) -> None:
    path = make_track(tmp_path / "song.flac", "jazz")
    pipeline.process(path, Mode.APPLY)
    copy = Path(shutil.copy(path, tmp_path / "copy.flac"))
    assert pipeline.process(copy, Mode.APPLY) == Unchanged(copy, "a copy of a known track")
    assert len(ledger.decisions(audio_id(path))) == 1
    known = ledger.known(copy)
    assert known is not None and known.status is FileStatus.TAGGED


def test_a_tree_that_is_copied_and_then_moved_is_told_apart(pipeline: Pipeline, ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    path = make_track(tmp_path / "a" / "song.flac", "jazz")
    pipeline.process(path, Mode.APPLY)
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    (tmp_path / "a").rename(tmp_path / "moved")
    for place in ("copy", "moved"):
        pipeline.process(tmp_path / place / "song.flac", Mode.APPLY)
    assert len(ledger.decisions(audio_id(tmp_path / "moved" / "song.flac"))) == 1
    assert {known.path.parent.name for known in ledger.known_by_sound(audio_id(tmp_path / "copy" / "song.flac"))} == {
        "copy",
        "moved",
    }
    assert ledger.corrections(audio_id(tmp_path / "copy" / "song.flac")) == []


def test_a_genre_that_the_owner_removed_does_not_come_back(pipeline: Pipeline, tmp_path: Path) -> None:
    path = make_track(tmp_path / "song.mp3", "jazz")
    pipeline.process(path, Mode.APPLY)
    file = mutagen.File(path)
    del file.tags["TCON"]
    file.save()
    assert isinstance(pipeline.process(path, Mode.APPLY), Unchanged)
    assert tags.read(path).genres == ()


def test_a_new_copy_is_heard_while_the_volume_with_the_first_one_is_away(
    pipeline: Pipeline, ledger: Ledger, tmp_path: Path
) -> None:
    (tmp_path / "volume").mkdir()
    first = make_track(tmp_path / "volume" / "first.flac", "jazz")
    copy = Path(shutil.copy(first, tmp_path / "copy.flac"))
    pipeline.process(first, Mode.APPLY)
    (tmp_path / "volume").rename(tmp_path / "unmounted")
    assert isinstance(pipeline.process(copy, Mode.APPLY), Applied)
    assert ledger.known(first) is not None


def test_a_container_that_cannot_be_tagged_is_parked_with_its_reason(pipeline: Pipeline, tmp_path: Path) -> None:
    path = make(tmp_path / "song.wav").rename(tmp_path / "song.mp3")
    assert not isinstance(pipeline.process(path, Mode.APPLY), Parked)


def test_a_file_that_can_hold_no_tags_is_heard_and_its_genre_recorded(
    pipeline: Pipeline, ledger: Ledger, tmp_path: Path
) -> None:
    path = make_track(tmp_path / "song.aac", "jazz")
    before = path.read_bytes()
    ending = pipeline.process(path, Mode.APPLY)
    assert isinstance(ending, Unchanged) and "AAC" in ending.reason
    assert path.read_bytes() == before
    known = ledger.known(path)
    assert known is not None and known.reason.startswith("jazz, untagged: ")


def test_after_undo_the_file_is_left_until_the_owner_asks(
    pipeline: Pipeline, ledger: Ledger, reader: Reader, tmp_path: Path
) -> None:
    path = make_track(tmp_path / "song.flac", "jazz")
    before = path.read_bytes()
    ending = pipeline.process(path, Mode.APPLY)
    assert isinstance(ending, Applied)
    Undoer(ledger, Changer(ledger, Tagging(), reader), Mover(ledger)).undo(ending.change)
    assert isinstance(pipeline.process(path, Mode.APPLY), Unchanged)
    assert path.read_bytes() == before
    assert isinstance(pipeline.apply(path), Applied)


def test_trouble_that_passes_is_retried_and_then_parked(pipeline: Pipeline, ledger: Ledger, tmp_path: Path) -> None:
    path = make_track(tmp_path / "song.flac", "jazz")
    with open(path, "r+b"), pytest.raises(TryLater) as trouble:
        pipeline.process(path, Mode.APPLY)
    assert retry_or_park(pipeline, trouble.value, attempts=1, max_attempts=2) is None
    parked = retry_or_park(pipeline, trouble.value, attempts=2, max_attempts=2)
    assert parked is not None and "2 times" in parked.reason
    assert [file.path for file in ledger.of_status(FileStatus.WAITING)] == [path]


def test_the_judge_hears_without_a_ledger_and_touches_nothing(
    ensemble: Ensemble, reader: Reader, tmp_path: Path
) -> None:
    settings = config.default()
    judge = Judge(settings, ensemble, settings.build_taxonomy(), reader)
    path = make_track(tmp_path / "song.opus", "classical")
    before, status = path.read_bytes(), path.stat()
    assert judge.hear(path).decision.genre == "classical"
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, status.st_mtime_ns)
    assert [entry.name for entry in tmp_path.iterdir()] == ["song.opus"]


def test_a_short_track_is_heard_whole(pipeline: Pipeline, tmp_path: Path) -> None:
    path = make_track(tmp_path / "jingle.mp3", "rock", seconds=0.8)
    assert isinstance(pipeline.process(path, Mode.APPLY), Applied)
    assert tags.read(path).genres == ("rock",)


@pytest.mark.data
def test_every_strange_file_of_two_tag_libraries_comes_to_an_ending_and_keeps_its_sound(
    pipeline: Pipeline, ledger: Ledger, reader: Reader, tmp_path: Path, data_dir: Path
) -> None:
    changer = Changer(ledger, Tagging(), reader)
    undoer = Undoer(ledger, changer, Mover(ledger))
    written = 0
    for number, source in enumerate(sorted(path for path in (data_dir / "corpora").rglob("*") if path.is_file())):
        path = Path(shutil.copy(source, tmp_path / f"{number}{source.suffix}"))
        before, sound = path.read_bytes(), _sound(path)
        # Most of these files are silent, so the model abstains; the write is then made by hand.
        assert isinstance(pipeline.process(path, Mode.DRY_RUN), Abstained | Parked | Suggested | Unchanged)
        assert path.read_bytes() == before, source.name
        if sound is None:
            continue
        try:
            change = changer.write_genres(path, sound, tags.read(path).genres, ("爵士", "80"), None)
        except BadFile as trouble:
            assert trouble.path == path and path.read_bytes() == before, source.name
            continue
        written += 1
        assert (tags.read(path).genres, audio_id(path)) == (("爵士", "80"), sound)
        undoer.undo(change.change)
        assert path.read_bytes() == before, source.name
    assert written > 60
    assert [path.name for path in tmp_path.iterdir() if "reclass-tmp" in path.name] == []


def _sound(path: Path) -> str | None:
    try:
        return audio_id(path)
    except BadFile:
        return None
