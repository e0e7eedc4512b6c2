"""Filing into genre folders: who is moved, when and where to, what comes along, and how all of it is taken back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import mutagen
import pytest
from make_audio import make
from make_bundle import make_track

from daemon.change import Changer
from daemon.core.audio import audio_id
from daemon.core.config import Config, GenreEntry, Mode, Organise, Root, Tagging
from daemon.core.errors import UndoRefused
from daemon.core.inference import Ensemble
from daemon.core.ledger import ChangeKind, ChangeState, Journey, Ledger
from daemon.core.records import Applied, Moved, Unchanged
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
    def build(mode: Mode = Mode.APPLY, **organise: object) -> Pipeline:
        settings = {"enabled": True, "wait_s": 0.0} | organise
        config = Config(roots=(Root(path=root, mode=mode),), organise=Organise(**settings))
        return Pipeline(config, ensemble, ledger, reader)

    return build


@pytest.fixture
def pipeline(build: Callable[..., Pipeline]) -> Pipeline:
    return build()


@pytest.fixture
def undoer(ledger: Ledger, reader: Reader) -> Undoer:
    return Undoer(ledger, Changer(ledger, Tagging(), reader), Mover(ledger))


def file_all(pipeline: Pipeline) -> list[object]:
    """Carry out every wish that is due."""
    endings = []
    while (filing := pipeline.filer.due()) is not None:
        ending = pipeline.filer.carry_out(filing)
        if ending is None:
            break
        endings.append(ending)
    return endings


def tree(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_a_tagged_file_is_moved_to_its_genre(pipeline: Pipeline, ledger: Ledger, root: Path) -> None:
    path = make_track(root / "in" / "song.flac", "jazz")
    pipeline.process(path, Mode.APPLY)
    (ending,) = file_all(pipeline)
    target = root / "jazz" / "in" / "song.flac"
    assert isinstance(ending, Moved) and ending.path == target
    assert tree(root) == {"jazz/in/song.flac"}
    assert tags.read(target).genres == ("jazz",)
    assert ledger.known(path) is None
    assert pipeline.process(target, Mode.APPLY) == Unchanged(target, "seen already")
    assert ledger.filings() == []


def test_the_move_waits_as_the_config_says(build: Callable[..., Pipeline], ledger: Ledger, root: Path) -> None:
    pipeline = build(wait_s=600.0)
    pipeline.process(make_track(root / "in" / "song.flac", "jazz"), Mode.APPLY)
    assert file_all(pipeline) == []
    (filing,) = ledger.filings()
    assert filing.due_at - filing.asked_at == 600.0
    assert 0 < (pipeline.filer.seconds_to_next() or 0) <= 600.0


def test_undoing_the_file_takes_back_move_and_genre_together(
    pipeline: Pipeline, ledger: Ledger, undoer: Undoer, root: Path
) -> None:
    path = make_track(root / "in" / "song.mp3", "jazz")
    original = path.read_bytes()
    pipeline.process(path, Mode.APPLY)
    (moved,) = file_all(pipeline)
    assert isinstance(moved, Moved)
    change = ledger.change(moved.change)
    assert change is not None
    tagged = moved.path.read_bytes()
    undone = undoer.undo_act(change.act)
    assert tree(root) == {"in/song.mp3"}
    assert path.read_bytes() == original
    assert not (root / "jazz").exists()
    assert ledger.filings() == []
    again = ledger.change(undone[0].change)
    assert again is not None
    undoer.undo_act(again.act)
    assert tree(root) == {"jazz/in/song.mp3"}
    assert moved.path.read_bytes() == tagged


def test_what_cannot_be_undone_whole_is_not_undone_in_part(pipeline: Pipeline, undoer: Undoer, root: Path) -> None:
    path = make_track(root / "in" / "song.flac", "jazz")
    pipeline.process(path, Mode.APPLY)
    (moved,) = file_all(pipeline)
    assert isinstance(moved, Moved)
    file = mutagen.File(moved.path)
    file["title"] = "another"
    file.save()
    with pytest.raises(UndoRefused, match="changed since"):
        undoer.undo_act(1)
    assert tree(root) == {"jazz/in/song.flac"}


def test_a_move_is_not_taken_back_over_another_file(pipeline: Pipeline, undoer: Undoer, root: Path) -> None:
    path = make_track(root / "in" / "song.flac", "jazz")
    pipeline.process(path, Mode.APPLY)
    file_all(pipeline)
    (root / "in").mkdir(exist_ok=True)
    other = make(root / "in" / "song.flac")
    theirs = other.read_bytes()
    with pytest.raises(UndoRefused, match="stands there now"):
        undoer.undo_act(1)
    assert other.read_bytes() == theirs


def test_another_track_of_the_same_name_is_not_overwritten(pipeline: Pipeline, root: Path) -> None:
    for folder, seed in (("jazz/a", 3.0), ("in/jazz/a", 2.0)):
        (root / folder).mkdir(parents=True)
        make_track(root / folder / "song.flac", "jazz", seconds=seed)
    first, second = root / "jazz" / "a" / "song.flac", root / "in" / "jazz" / "a" / "song.flac"
    target = root / "jazz" / "in" / "jazz" / "a"
    target.mkdir(parents=True)
    shutil.copy(make_track(root / "in" / "third.flac", "jazz", seconds=4.0), target / "song.flac")
    theirs = (target / "song.flac").read_bytes(), first.read_bytes()
    pipeline.process(second, Mode.APPLY)
    (ending,) = file_all(pipeline)
    assert isinstance(ending, Moved) and ending.path == target / "song (2).flac"
    assert ((target / "song.flac").read_bytes(), first.read_bytes()) == theirs


def test_the_same_track_twice_is_left_for_the_owner_to_choose(pipeline: Pipeline, root: Path, events: list) -> None:
    path = make_track(root / "in" / "song.flac", "jazz")
    copy = Path(shutil.copy(path, root / "copy.flac"))
    pipeline.process(path, Mode.APPLY)
    file_all(pipeline)
    (root / "in").mkdir(exist_ok=True)
    again = copy.rename(root / "in" / "song.flac")
    pipeline.process(again, Mode.APPLY)
    (ending,) = file_all(pipeline)
    assert isinstance(ending, Unchanged) and "the same track stands at" in ending.reason
    assert tree(root) == {"jazz/in/song.flac", "in/song.flac"}
    assert [event["event"] for event in events if event["event"] == "not_filed"] == ["not_filed"]


def test_what_belongs_to_a_track_comes_along_and_goes_back(pipeline: Pipeline, undoer: Undoer, root: Path) -> None:
    path = make_track(root / "in" / "song.flac", "jazz")
    for name in ("song.lrc", "song.flac.lrc", "song.jpg", "cover.jpg", "other.lrc"):
        (root / "in" / name).write_text(name)
    before = tree(root)
    pipeline.process(path, Mode.APPLY)
    file_all(pipeline)
    names = ("song.flac", "song.lrc", "song.flac.lrc", "song.jpg", "cover.jpg")
    assert tree(root) == {f"jazz/in/{name}" for name in names} | {"in/other.lrc"}
    undoer.undo_act(1)
    assert tree(root) == before


def test_when_the_last_track_of_an_album_goes_back_no_folder_of_ours_is_left(
    pipeline: Pipeline, undoer: Undoer, root: Path
) -> None:
    paths = [make_track(root / "in" / f"{number}.flac", "jazz", seconds=2.0 + number) for number in (1, 2)]
    (root / "rock").mkdir()
    acts = []
    for path in paths:
        ending = pipeline.process(path, Mode.APPLY)
        assert isinstance(ending, Applied)
        acts.append(ending.change)
    file_all(pipeline)
    for act in acts:
        undoer.undo_act(act)
    assert sorted(entry.name for entry in root.iterdir()) == ["in", "rock"]


def test_a_cover_stays_while_another_track_needs_it(pipeline: Pipeline, root: Path) -> None:
    path = make_track(root / "in" / "song.flac", "jazz")
    make(root / "in" / "other.flac")
    (root / "in" / "cover.jpg").write_text("cover")
    pipeline.process(path, Mode.APPLY)
    file_all(pipeline)
    assert tree(root) == {"jazz/in/song.flac", "in/other.flac", "in/cover.jpg"}


def test_a_companion_that_is_in_the_way_stays_behind(pipeline: Pipeline, root: Path, events: list) -> None:
    path = make_track(root / "in" / "song.flac", "jazz")
    (root / "in" / "song.lrc").write_text("mine")
    (root / "jazz" / "in").mkdir(parents=True)
    (root / "jazz" / "in" / "song.lrc").write_text("theirs")
    pipeline.process(path, Mode.APPLY)
    file_all(pipeline)
    assert (root / "in" / "song.lrc").read_text() == "mine"
    assert (root / "jazz" / "in" / "song.lrc").read_text() == "theirs"
    assert [event["event"] for event in events if event["event"] == "companion_left"] == ["companion_left"]


def test_only_folders_that_the_move_emptied_are_removed(pipeline: Pipeline, root: Path) -> None:
    (root / "in" / "album" / "disc 1").mkdir(parents=True)
    (root / "was empty").mkdir()
    path = make_track(root / "in" / "album" / "disc 1" / "song.flac", "jazz")
    pipeline.process(path, Mode.APPLY)
    file_all(pipeline)
    assert not (root / "in").exists()
    assert (root / "was empty").is_dir()
    assert root.is_dir()


def test_the_owners_new_genre_moves_the_file_and_leaves_the_genres_folder(pipeline: Pipeline, root: Path) -> None:
    (root / "rock").mkdir()
    path = make_track(root / "rock" / "song.flac", "jazz")
    file = mutagen.File(path)
    file["genre"] = ["rock"]
    file.save()
    pipeline.process(path, Mode.APPLY)
    (stays,) = file_all(pipeline)
    assert stays == Unchanged(path, "is in its place")
    file = mutagen.File(path)
    file["genre"] = ["jazz"]
    file.save()
    pipeline.process(path, Mode.APPLY)
    file_all(pipeline)
    assert tree(root) == {"jazz/song.flac"}
    assert (root / "rock").is_dir()


def test_a_file_that_the_owner_moves_stays_where_they_put_it(pipeline: Pipeline, ledger: Ledger, root: Path) -> None:
    path = make_track(root / "in" / "song.flac", "jazz")
    pipeline.process(path, Mode.APPLY)
    file_all(pipeline)
    (root / "mine").mkdir()
    mine = (root / "jazz" / "in" / "song.flac").rename(root / "mine" / "song.flac")
    pipeline.process(mine, Mode.APPLY)
    assert file_all(pipeline) == []
    assert tree(root) == {"mine/song.flac"}
    assert ledger.known(mine) is not None


def test_a_file_without_a_known_genre_stays(pipeline: Pipeline, root: Path) -> None:
    unsure = make_track(root / "in" / "unsure.flac", "jazz", mixed_with="rock")
    foreign = make_track(root / "in" / "foreign.flac", "jazz")
    file = mutagen.File(foreign)
    file["genre"] = ["Vaporwave"]
    file.save()
    for path in (unsure, foreign):
        pipeline.process(path, Mode.APPLY)
    assert file_all(pipeline) == []


@pytest.mark.parametrize("mode", [Mode.SUGGEST, Mode.DRY_RUN])
def test_nothing_is_moved_where_nothing_is_written(build: Callable[..., Pipeline], root: Path, mode: Mode) -> None:
    pipeline = build(mode)
    pipeline.process(make_track(root / "in" / "song.flac", "jazz"), mode)
    assert file_all(pipeline) == []


def test_a_file_that_can_hold_no_tags_is_filed_all_the_same(pipeline: Pipeline, root: Path) -> None:
    path = make_track(root / "in" / "song.aac", "jazz")
    pipeline.process(path, Mode.APPLY)
    file_all(pipeline)
    assert tree(root) == {"jazz/in/song.aac"}


def test_a_file_that_was_changed_meanwhile_waits_until_it_was_looked_at(pipeline: Pipeline, root: Path) -> None:
    path = make_track(root / "in" / "song.flac", "jazz")
    pipeline.process(path, Mode.APPLY)
    file = mutagen.File(path)
    file["genre"] = ["rock"]
    file.save()
    assert file_all(pipeline) == []
    pipeline.process(path, Mode.APPLY)
    file_all(pipeline)
    assert tree(root) == {"rock/in/song.flac"}


def test_an_unmounted_root_postpones_and_a_file_that_left_is_dropped(
    pipeline: Pipeline, ledger: Ledger, root: Path
) -> None:
    path = make_track(root / "in" / "song.flac", "jazz")
    pipeline.process(path, Mode.APPLY)
    root.rename(root.with_name("away"))
    root.mkdir()
    assert file_all(pipeline) == []
    assert len(ledger.filings()) == 1
    root.rmdir()
    root.with_name("away").rename(root)
    path.rename(root / "elsewhere.flac")
    (filing,) = ledger.filings()
    assert isinstance(pipeline.filer.carry_out(filing), Unchanged)
    assert ledger.filings() == []


@pytest.mark.parametrize(
    "artist", ["../../../etc", "/etc", "..", "AC/DC", "con", "a\0b\nc", "x" * 400, "\u202egpj.exe", " . "]
)
def test_no_tag_leads_out_of_the_root(build: Callable[..., Pipeline], root: Path, artist: str) -> None:
    pipeline = build(template="{genre}/{artist}/{album}/{name}")
    path = make_track(root / "in" / "song.flac", "jazz")
    file = mutagen.File(path)
    file["artist"] = [artist]
    file.save()
    pipeline.process(path, Mode.APPLY)
    (ending,) = file_all(pipeline)
    assert isinstance(ending, Moved)
    assert ending.path.resolve().is_relative_to(root.resolve() / "jazz")
    parts = ending.path.relative_to(root).parts
    assert len(parts) == 4 and parts[2] == "Unknown"
    assert not set(parts[1]) & set('<>:"/\\|?*\0\n\u202e')


def test_a_genre_folder_that_leads_elsewhere_is_refused(pipeline: Pipeline, root: Path, events: list) -> None:
    outside = root.with_name("outside")
    outside.mkdir()
    (root / "jazz").symlink_to(outside)
    path = make_track(root / "in" / "song.flac", "jazz")
    pipeline.process(path, Mode.APPLY)
    (ending,) = file_all(pipeline)
    assert isinstance(ending, Unchanged)
    assert path.exists() and list(outside.iterdir()) == []
    assert "not_filed" in [event["event"] for event in events]


def test_a_crash_between_move_and_record_is_settled_with_what_comes_along(
    pipeline: Pipeline, ledger: Ledger, undoer: Undoer, root: Path
) -> None:
    path = make_track(root / "in" / "song.flac", "jazz")
    words = root / "in" / "song.lrc"
    words.write_text("words")
    pipeline.process(path, Mode.APPLY)
    target = root / "jazz" / "in" / "song.flac"
    sound = audio_id(path)
    number = ledger.intend(sound, path, ChangeKind.MOVE, before=["jazz"], after=["jazz"], target=target, act=1)
    journey = Journey(((words, target.with_suffix(".lrc")),), (target.parent.parent, target.parent))
    ledger.staged_move(number, temporary=None, sha256=None, journey=journey)
    target.parent.mkdir(parents=True)
    path.rename(target)
    assert undoer.recover() == 1
    assert tree(root) == {"jazz/in/song.flac", "jazz/in/song.lrc"}
    change, known = ledger.change(number), ledger.known(target)
    assert change is not None and change.state is ChangeState.DONE
    assert known is not None and known.genres == ("jazz",)
    assert ledger.filings() == []
    undoer.undo_act(1)
    assert tree(root) == {"in/song.flac", "in/song.lrc"}


def test_a_crash_before_the_move_is_rolled_back_and_the_wish_stands(
    pipeline: Pipeline, ledger: Ledger, undoer: Undoer, root: Path
) -> None:
    path = make_track(root / "in" / "song.flac", "jazz")
    pipeline.process(path, Mode.APPLY)
    target = root / "jazz" / "in" / "song.flac"
    number = ledger.intend(audio_id(path), path, ChangeKind.MOVE, before=[], after=[], target=target)
    ledger.staged_move(number, temporary=None, sha256=None, journey=Journey((), (target.parent.parent, target.parent)))
    target.parent.mkdir(parents=True)
    assert undoer.recover() == 1
    assert tree(root) == {"in/song.flac"}
    assert not (root / "jazz").exists()
    file_all(pipeline)
    assert tree(root) == {"jazz/in/song.flac"}


def test_genres_have_folders_of_their_own_names(ensemble: Ensemble, ledger: Ledger, reader: Reader, root: Path) -> None:
    taxonomy = (GenreEntry(name="爵士", aliases=("jazz",)), GenreEntry(name="R&B/Soul", aliases=("rock",)))
    settings = Organise(enabled=True, wait_s=0.0, template="{genre}/{name}")
    config = Config(
        roots=(Root(path=root),), organise=settings, taxonomy=taxonomy, tagging=Tagging(id3_v23_separator=";")
    )
    pipeline = Pipeline(config, ensemble, ledger, reader)
    for genre in ("jazz", "rock"):
        pipeline.process(make_track(root / "in" / f"{genre}.flac", genre), Mode.APPLY)
    file_all(pipeline)
    assert tree(root) == {"爵士/jazz.flac", "R&B_Soul/rock.flac"}
