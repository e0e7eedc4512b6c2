"""Building a data set: labels settled, useless files told apart, the split frozen, nothing lost and nothing torn."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_audio import SAMPLE_RATE_HZ, encode, make, tag

from daemon.core.audio import audio_id
from daemon.core.errors import ConfigError, TryLater
from daemon.core.ledger import ChangeKind, ChangeState, Ledger
from daemon.core.ledger_view import LedgerView, Unconfirmed
from daemon.core.taxonomy import STARTER_GENRES, Genre, Taxonomy
from trainer.tracks import manifest
from trainer.tracks.dataset import Settings, build, doubts
from trainer.tracks.importers import folders, ledger, table, tags
from trainer.tracks.importers.claim import Claim, Source
from trainer.tracks.manifest import NO_FOLD, DataSet, Split
from trainer.tracks.seen import NAME as SEEN
from trainer.tracks.summary import summary

CHECKOUT = Path(__file__).resolve().parents[1]
DATA = os.environ.get("MUSIC_RECLASS_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="MUSIC_RECLASS_DATA is unset: no real tracks to build of")

# Files are opened by this process and may be short: processes of their own have tests of their own.
HERE = Settings(workers=0, least_s=0.2)
TAXONOMY = Taxonomy([Genre("jazz", ("ジャズ",)), Genre("rock", ("Rock 'n' Roll",)), Genre("hip hop"), Genre("polka")])


def song(path: Path, seed: int, genres: Sequence[str] = (), artist: str = "", album: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    make(path, 0.4, seed, genres=None)
    if genres or artist or album:
        tag(path, genres=genres, artist=artist, album=album)
    return path


@pytest.fixture(scope="session")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two genres of six tracks each by three artists."""
    root = tmp_path_factory.mktemp("master")
    for number in range(12):
        genre = ("jazz", "rock")[number % 2]
        song(root / genre / f"{number:02}.flac", number, artist=f"{genre} band {number // 4}")
    return root


@pytest.fixture
def music(master: Path, tmp_path: Path) -> Path:
    """The library of `master`, of one's own."""
    return Path(shutil.copytree(master, tmp_path / "music"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "set"


def gather(music: Path, out: Path, settings: Settings = HERE, **more: Any) -> DataSet:
    return build(folders.claims(music), None, out, settings, **more)


def reasons(data: DataSet) -> dict[str, str]:
    return {left.path.name: left.reason for left in data.left_out}


def splits(data: DataSet) -> dict[str, tuple[Split, int]]:
    return {track.audio_id: (track.split, track.fold) for track in data.tracks}


@contextlib.contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """As on a full disk: writing beyond `size` bytes of a file fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# What is in a set


def test_a_set_of_folders_is_whole_and_comes_back(music: Path, out: Path) -> None:
    data = gather(music, out)
    assert data.labels == ("jazz", "rock")
    assert len(data.tracks) == 12
    assert data.left_out == ()
    first = data.tracks[0]
    assert first.path == music / "jazz/00.flac"
    assert (first.genre, first.artist, first.source) == ("jazz", "jazz band 0", "folders")
    assert (first.audio_id, round(first.duration_s, 2)) == (audio_id(first.path), 0.4)
    assert data.mapping == {"jazz": "jazz", "rock": "rock"}
    assert manifest.read(out).tracks == tuple(
        track.__class__(**{name: getattr(track, name) for name in track.__slots__} | {"duration_s": 0.4})
        for track in data.tracks
    )
    assert manifest.read(out).settings == data.settings
    assert {path.name for path in out.iterdir()} == {"tracks.csv", "left_out.csv", "dataset.json", SEEN}


def test_names_become_the_taxonomys_in_its_order(tmp_path: Path, out: Path) -> None:
    for number, name in enumerate(["Rock 'N' Roll", "ROCK", "ジャズ", "Jazz", "Ska", "Hip-Hop", "HIP HOP"]):
        song(tmp_path / "music" / name / "a.flac", number)
    data = build(folders.claims(tmp_path / "music", TAXONOMY), TAXONOMY, out, HERE)
    assert data.labels == ("jazz", "rock", "hip hop")
    assert data.mapping == {
        "Rock 'N' Roll": "rock",
        "ROCK": "rock",
        "ジャズ": "jazz",
        "Jazz": "jazz",
        "Ska": None,
        "Hip-Hop": "hip hop",
        "HIP HOP": "hip hop",
    }
    assert reasons(data) == {"a.flac": "unknown genre: Ska"}
    assert data.settings["without_tracks"] == ["polka"]


def test_without_a_taxonomy_spelling_variants_are_one_genre_by_the_commonest(tmp_path: Path, out: Path) -> None:
    for number, place in enumerate(["Hip-Hop/a", "Hip-Hop/b", "hip hop/c", "Jazz/d", "Jazz/e"]):
        song(tmp_path / "music" / f"{place}.flac", number)
    data = gather(tmp_path / "music", out)
    assert data.labels == ("Hip-Hop", "Jazz")
    for number in range(10, 13):
        song(tmp_path / "music/HIP HOP" / f"{number}.flac", number)
    assert gather(tmp_path / "music", out).labels == ("Hip-Hop", "Jazz")


def test_tags_give_genre_artist_and_album(tmp_path: Path, out: Path) -> None:
    song(tmp_path / "music/a.flac", 0, ["ジャズ"], "Nina", "Blues")
    song(tmp_path / "music/b.flac", 1, ["Live", "jazz"])
    song(tmp_path / "music/c.flac", 2, ["rock/polka"])
    song(tmp_path / "music/d.flac", 3, ["Rock"])
    song(tmp_path / "music/e.flac", 4, ["Ska"])
    song(tmp_path / "music/f.flac", 5)
    data = build(tags.claims(tmp_path / "music"), TAXONOMY, out, HERE)
    assert [track.genre for track in data.tracks] == ["jazz", "jazz", "rock", "rock"]
    assert (data.tracks[0].artist, data.tracks[0].album, data.tracks[0].source) == ("Nina", "Blues", "tags")
    assert reasons(data) == {"e.flac": "unknown genre: Ska", "f.flac": "no genre: its tags name none"}


def test_folders_name_the_artist_where_tags_do_not(tmp_path: Path, out: Path) -> None:
    song(tmp_path / "music/jazz/Folder Artist/Folder Album/a.flac", 0)
    song(tmp_path / "music/jazz/Folder Artist/b.flac", 1, artist="Tag Artist", album="Tag Album")
    song(tmp_path / "music/rock/c.flac", 2)
    song(tmp_path / "music/rock/d.flac", 3)
    found = {track.path.name: (track.artist, track.album) for track in gather(tmp_path / "music", out).tracks}
    assert found["a.flac"] == ("Folder Artist", "Folder Album")
    assert found["b.flac"] == ("Tag Artist", "Tag Album")


# What is left out


def test_twenty_useless_files_cost_nothing_but_themselves(music: Path, out: Path) -> None:
    for number in range(5):
        (music / "jazz" / f"empty {number}.mp3").touch()
        (music / "rock" / f"text {number}.mp3").write_text("no music\n" * 300)
        song(music / f"unlabelled {number}.flac", 20 + number)
        whole = song(music / "jazz" / f"torn {number}.flac", 30 + number)
        whole.write_bytes(whole.read_bytes()[: 40 + number])
    data = gather(music, out, Settings(workers=2, least_s=0.2))
    assert len(data.tracks) == 12
    assert Counter(left.reason.partition(":")[0] for left in data.left_out) == {"broken": 15, "no genre": 5}
    assert Counter(left.reason.partition(":")[0] for left in manifest.read(out).left_out)["broken"] == 15


def test_short_and_silent_files_are_left_out(music: Path, out: Path) -> None:
    make(music / "jazz/short.flac", 0.1, 50, genres=None)
    encode(music / "jazz/silent.flac", np.zeros((2, SAMPLE_RATE_HZ), np.float32))
    assert reasons(gather(music, out)) == {
        "short.flac": "too short: 0.1 s, at least 0.2 s are wanted",
        "silent.flac": "silent: nothing can be heard in it",
    }


def test_of_copies_one_is_kept(music: Path, out: Path) -> None:
    shutil.copy(music / "jazz/00.flac", music / "jazz/copy.flac")
    tag(music / "jazz/copy.flac", genres=["Jazz"])
    data = gather(music, out)
    assert len(data.tracks) == 12
    assert reasons(data) == {"copy.flac": f"same sound: as {music / 'jazz/00.flac'}"}


def test_copies_under_different_genres_are_all_left_out(music: Path, out: Path) -> None:
    shutil.copy(music / "jazz/00.flac", music / "rock/copy.flac")
    told = f"jazz (folders, {music / 'jazz/00.flac'}) or rock (folders, {music / 'rock/copy.flac'})"
    assert reasons(gather(music, out)) == dict.fromkeys(("00.flac", "copy.flac"), f"conflicting labels: {told}")


@pytest.mark.parametrize(
    ("stronger", "weaker"),
    [(Source.LEDGER, Source.TABLE), (Source.TABLE, Source.FOLDERS), (Source.FOLDERS, Source.TAGS)],
)
def test_of_two_sources_the_weightier_counts(music: Path, out: Path, stronger: Source, weaker: Source) -> None:
    shutil.copy(music / "jazz/00.flac", music / "rock/copy.flac")
    claims = [
        *(claim for claim in folders.claims(music) if claim.path.name not in ("00.flac", "copy.flac")),
        Claim(music / "jazz/00.flac", ("jazz",), weaker),
        Claim(music / "rock/copy.flac", ("rock",), stronger),
    ]
    found = {track.path.name: (track.genre, track.source) for track in build(claims, None, out, HERE).tracks}
    assert found["copy.flac"] == ("rock", stronger.value)
    assert "00.flac" not in found


def test_an_empty_class_and_one_with_a_single_track_are_named(music: Path, out: Path) -> None:
    (music / "polka").mkdir()
    song(music / "ska/only.flac", 60)
    data = gather(music, out)
    assert data.labels == ("jazz", "rock")
    assert reasons(data) == {
        "polka": "no music in the folder",
        "only.flac": "too few tracks: genre 'ska' has 1, at least 2 are wanted",
    }
    assert gather(music, out, Settings(workers=0, least_s=0.2, least=1)).labels == ("jazz", "rock", "ska")


def test_files_that_are_gone_are_left_out(music: Path, out: Path) -> None:
    claims = [*folders.claims(music), Claim(music / "jazz/gone.flac", ("jazz",), Source.TABLE)]
    assert reasons(build(claims, None, out, HERE)) == {"gone.flac": "missing: is not there, or no regular file"}


def test_a_set_of_one_genre_is_refused_and_says_why(music: Path, out: Path) -> None:
    shutil.rmtree(music / "rock")
    (music / "rock").mkdir()
    (music / "rock/a.mp3").write_text("no music")
    with pytest.raises(ConfigError) as caught:
        gather(music, out)
    first, second, third = caught.value.problems
    assert first == "a set needs at least two genres with tracks; there is jazz (6 tracks)"
    assert second == "left out, broken: 1 files"
    assert str(music / "rock/a.mp3") in third
    assert not (out / "dataset.json").exists()


def test_settings_that_make_no_sense_are_all_named(music: Path, out: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        gather(music, out, Settings(least=0, folds=1, valid=0.6, holdout=0.5))
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["least", "valid, holdout", "folds"]


# The ledger, and what models did


def test_the_owners_word_finds_its_track_where_it_was_moved_to(music: Path, out: Path) -> None:
    moved = music / "jazz/00.flac"
    claims = [
        *folders.claims(music),
        Claim(music / "gone.flac", ("rock",), Source.LEDGER, audio_id=audio_id(moved)),
        Claim(music / "jazz/02.flac", ("rock",), Source.LEDGER, audio_id="f" * 64),
    ]
    data = build(claims, None, out, HERE)
    found = {track.path.name: (track.genre, track.source) for track in data.tracks}
    assert found["00.flac"] == ("rock", "ledger")
    assert found["02.flac"] == ("jazz", "folders")
    assert reasons(data) == {"gone.flac": "missing: is not there, or no regular file"}


def test_what_a_model_wrote_or_filed_teaches_nothing(tmp_path: Path, out: Path) -> None:
    music = tmp_path / "music"
    for number in range(4):
        song(music / ("jazz", "rock")[number % 2] / f"{number}.flac", number)
    filed = song(music / "jazz/filed.flac", 7, ["jazz"])
    tagged = song(music / "rock/tagged.flac", 8, ["jazz"])
    words = {
        audio_id(filed): Unconfirmed(audio_id(filed), frozenset({"jazz"}), frozenset({filed})),
        audio_id(tagged): Unconfirmed(audio_id(tagged), frozenset({"Jazz"}), frozenset()),
    }
    claims = [*folders.claims(music, TAXONOMY), *tags.claims(music)]
    data = build(claims, TAXONOMY, out, HERE, models_words=words)
    found = {track.path.name: (track.genre, track.source) for track in data.tracks}
    assert found["tagged.flac"] == ("rock", "folders")
    assert reasons(data) == {"filed.flac": "never confirmed: jazz, which a model decided"}
    assert doubts(data) == []


def test_the_ledgers_words_make_a_set_and_its_models_words_do_not(tmp_path: Path, out: Path) -> None:
    music = tmp_path / "music"
    paths = [song(music / f"{number}.flac", number, ["jazz" if number % 2 else "rock"]) for number in range(5)]
    guessed = song(music / "guessed.flac", 5, ["jazz"])
    song(music / "unknown.flac", 6)
    with contextlib.closing(Ledger(tmp_path / "ledger.db")) as record:
        for path, genre in zip(paths, ("jazz", "jazz", "rock", "rock", None), strict=True):
            record.record_correction(audio_id(path), path, [genre or "Ska"], genre, "retagged")
        written = record.intend(
            audio_id(guessed), guessed, ChangeKind.TAG, before=[], after=["jazz"], bundle="starter-1"
        )
        record.close_change(written, ChangeState.DONE)
        with contextlib.closing(LedgerView(tmp_path / "ledger.db")) as view:
            claims = [*ledger.claims(view), *tags.claims(music)]
            data = build(claims, TAXONOMY, out, HERE, models_words=ledger.models_words(view))
    found = {track.path.name: (track.genre, track.source) for track in data.tracks}
    assert found == {
        "0.flac": ("jazz", "ledger"),
        "1.flac": ("jazz", "ledger"),
        "2.flac": ("rock", "ledger"),
        "3.flac": ("rock", "ledger"),
    }
    assert reasons(data) == {
        "4.flac": "unknown genre: Ska",
        "guessed.flac": "never confirmed: jazz, which a model decided",
        "unknown.flac": "no genre: its tags name none",
    }


# Doubts


def test_a_stray_track_of_a_steady_artist_is_doubted_and_kept(music: Path, out: Path) -> None:
    for number in range(4):
        song(music / "jazz" / f"x{number}.flac", 70 + number, artist="Nina")
    stray = song(music / "rock/x9.flac", 79, artist="NINA")
    data = gather(music, out)
    assert [(doubt.path, doubt.reason) for doubt in doubts(data)] == [
        (stray, "stray: rock, the other 4 of NINA are jazz")
    ]
    assert stray in {track.path for track in data.tracks}


def test_a_tag_that_contradicts_the_folder_is_doubted(music: Path, out: Path) -> None:
    path = song(music / "jazz/odd.flac", 80, ["Rock"])
    song(music / "jazz/even.flac", 81, ["Jazz"])
    song(music / "jazz/other.flac", 82, ["Whatever"])
    data = gather(music, out)
    assert [(doubt.path, doubt.reason) for doubt in doubts(manifest.read(out))] == [
        (path, "disagreement: folders say jazz, tags rock")
    ]
    assert len(data.tracks) == 15


# The split, and building again


def test_no_artist_is_in_two_places(music: Path, out: Path) -> None:
    data = gather(music, out)
    assert {track.split for track in data.tracks} == {Split.TRAIN, Split.VALID, Split.HOLDOUT} - (
        set() if data.of(Split.VALID) else {Split.VALID}
    )
    for artist in {track.artist for track in data.tracks}:
        assert len({(track.split, track.fold) for track in data.tracks if track.artist == artist}) == 1


def test_a_holdout_stays_frozen_as_the_set_grows(music: Path, out: Path) -> None:
    then = datetime(2026, 11, 22, tzinfo=UTC)
    settings = Settings(workers=0, least_s=0.2, holdout=0.34)
    first = gather(music, out, settings, clock=lambda: then)
    held = first.of(Split.HOLDOUT)
    assert held
    for number in range(6):
        song(music / "jazz" / f"new {number}.flac", 90 + number, artist=held[0].artist)
        song(music / "rock" / f"new {number}.flac", 100 + number, artist=f"new {number}")
    second = gather(music, out, settings)
    assert {track.audio_id for track in second.of(Split.HOLDOUT)} == {track.audio_id for track in held}
    assert {track.artist for track in second.of(Split.RESERVED)} == {held[0].artist}
    assert len(second.of(Split.RESERVED)) == 6
    assert splits(first).items() <= splits(second).items()
    assert second.settings["holdout"]["since"] == then.isoformat()


def test_a_held_out_track_follows_its_file_label_and_sound(music: Path, out: Path) -> None:
    settings = Settings(workers=0, least_s=0.2, holdout=0.34)
    one, two = gather(music, out, settings).of(Split.HOLDOUT)[:2]
    (music / "blues").mkdir()
    one.path.rename(music / "blues/moved.flac")
    song(music / "blues/another.flac", 110, artist="somebody else")
    song(two.path, 111, artist=two.artist)
    again = {track.path.name: track for track in gather(music, out, settings).tracks}
    assert (again["moved.flac"].genre, again["moved.flac"].split) == ("blues", Split.HOLDOUT)
    assert again[two.path.name].split is Split.HOLDOUT
    assert again[two.path.name].audio_id != two.audio_id


def test_what_was_held_out_comes_back_held_out(music: Path, out: Path) -> None:
    settings = Settings(workers=0, least_s=0.2, holdout=0.34)
    held = gather(music, out, settings).of(Split.HOLDOUT)
    away = music.parent / "away.flac"
    held[0].path.rename(away)
    assert len(gather(music, out, settings).of(Split.HOLDOUT)) == len(held) - 1
    away.rename(held[0].path)
    assert {t.audio_id for t in gather(music, out, settings).of(Split.HOLDOUT)} == {t.audio_id for t in held}


def test_a_holdout_is_drawn_afresh_only_when_asked(music: Path, out: Path) -> None:
    old = gather(music, out, Settings(workers=0, least_s=0.2, holdout=0.34, seed=1))
    kept = gather(music, out, Settings(workers=0, least_s=0.2, holdout=0.34, seed=2))
    fresh = gather(music, out, Settings(workers=0, least_s=0.2, holdout=0.34, seed=2, renew_holdout=True))
    assert splits(kept) == splits(old)
    assert {t.audio_id for t in fresh.of(Split.HOLDOUT)} != {t.audio_id for t in old.of(Split.HOLDOUT)}
    assert fresh.settings["holdout"]["sounds"].keys() == {t.audio_id for t in fresh.of(Split.HOLDOUT)}


def test_a_table_with_folds_keeps_them_and_has_no_holdout_unless_asked(music: Path, out: Path) -> None:
    rows = [f"{genre}/{n:02}.flac,{genre},{n // 4}" for n in range(12) for genre in [("jazz", "rock")[n % 2]]]
    (music / "tracks.csv").write_text("\n".join(["path,genre,fold", *rows]) + "\n")
    data = build(table.claims(music / "tracks.csv"), None, out, HERE)
    assert [track.fold for track in sorted(data.tracks, key=lambda t: t.path.name)] == [n // 4 for n in range(12)]
    assert data.of(Split.HOLDOUT) == []
    asked = build(table.claims(music / "tracks.csv"), None, out, Settings(workers=0, least_s=0.2, holdout=0.34))
    assert asked.of(Split.HOLDOUT)
    assert {track.fold for track in asked.of(Split.HOLDOUT)} == {NO_FOLD}


def test_a_damaged_set_is_no_licence_to_thaw_its_holdout(music: Path, out: Path) -> None:
    gather(music, out)
    (out / "dataset.json").write_text("{")
    with pytest.raises(ConfigError, match="is no data set"):
        gather(music, out)


def test_unchanged_files_are_not_opened_again(music: Path, out: Path) -> None:
    opened: list[int] = []
    gather(music, out, advance=lambda done, of: opened.append(of))
    gather(music, out, advance=lambda done, of: opened.append(of))
    song(music / "jazz/00.flac", 120)
    data = gather(music, out, advance=lambda done, of: opened.append(of))
    assert (opened[0], opened[13], opened[-1]) == (12, 0, 1)
    assert data.tracks[0].audio_id == audio_id(music / "jazz/00.flac")


def test_a_run_that_was_cut_off_goes_on_where_it_was(music: Path, out: Path) -> None:
    opened: list[int] = []

    def stop(done: int, of: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gather(music, out, advance=stop)
    gather(music, out, advance=lambda done, of: opened.append(of))
    assert opened[0] == 7


@pytest.mark.parametrize("new_tracks", [0, 40])
def test_a_full_disk_leaves_the_set_as_it_was(music: Path, out: Path, new_tracks: int) -> None:
    gather(music, out)
    before = {name: (out / name).read_bytes() for name in ("tracks.csv", "left_out.csv", "dataset.json")}
    for number in range(new_tracks):
        (music / "rock" / f"bad {number}.flac").write_text("no music")
    limit = (out / SEEN).stat().st_size + 100 if new_tracks else 1000
    with files_no_larger_than(limit), pytest.raises(TryLater) as caught:
        gather(music, out)
    assert caught.value.path == out
    assert "too large" in caught.value.reason
    assert {name: (out / name).read_bytes() for name in before} == before
    assert {path.name for path in out.iterdir()} == {*before, SEEN}
    assert len(gather(music, out).tracks) == 12


def test_a_folder_that_cannot_be_written_is_named(music: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Exception, match=str(tmp_path / "file/set")):
        gather(music, tmp_path / "file/set")


KILLED = """
import os, signal, sys
from pathlib import Path
from trainer.tracks.dataset import Settings, build
from trainer.tracks.importers import folders

def stop(done, of):
    if done == of:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    build(folders.claims(Path(sys.argv[1])), None, Path(sys.argv[2]), Settings(workers=1, least_s=0.2), stop)
"""


def test_a_killed_run_leaves_the_set_as_it_was(music: Path, out: Path, tmp_path: Path) -> None:
    gather(music, out)
    before = manifest.read(out)
    song(music / "jazz/new.flac", 130)
    (tmp_path / "killed.py").write_text(KILLED)
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, str(tmp_path / "killed.py"), str(music), str(out)]
    assert subprocess.run(command, env=environment, check=False).returncode == -9
    assert manifest.read(out) == before
    assert len(gather(music, out).tracks) == 13


# The summary


def test_the_summary_says_what_is_there_and_what_is_not(tmp_path: Path, out: Path) -> None:
    music = tmp_path / "music"
    for number in range(24):
        genre = "hip hop" if number % 12 == 0 else "ジャズ"
        song(music / genre / f"{number:02}.flac", number, artist="Nina" if number > 16 else f"band {number}")
    (music / "jazz/odd.flac").parent.mkdir()
    song(music / "jazz/odd.flac", 40, ["hip hop"])
    (music / "jazz" / os.fsdecode(b"caf\xe9.mp3")).write_text("no music")
    song(music / "Ska/a.flac", 41)
    data = build(folders.claims(music, TAXONOMY), TAXONOMY, out, HERE)
    lines = summary(data)
    text = "\n".join(lines)
    assert lines[0] == "25 tracks, 2 genres, 0.2 min, 18 known artists"
    assert lines[1].split()[:4] == ["genre", "tracks", "length", "artists"]
    assert "Imbalance: jazz has 11.5 times the tracks of hip hop" in text
    assert "Without a track: rock, polka." in text
    assert "Holdout: 3 tracks, frozen since 20" in text
    assert "unknown genre: Ska (a.flac)" in text
    assert "caf\\udce9.mp3" in text
    assert "disagreement: folders say jazz, tags hip hop" in text
    assert all(line.isprintable() for line in lines)


def test_the_summary_keeps_its_columns_with_wide_letters_and_narrow_terminals(tmp_path: Path, out: Path) -> None:
    from rich.cells import cell_len

    for number in range(8):
        song(tmp_path / "music" / ("ジャズとブルース", "rock")[number % 2] / f"{number}.flac", number)
    (tmp_path / "music/rock" / f"{'長い名前' * 20}.mp3").write_text("no music")
    data = gather(tmp_path / "music", out)
    _, head, rock, jazz = summary(data, 60)[:4]
    ends = {
        cell_len(line[: line.index(word) + len(word)]) for line, word in ((head, "tracks"), (rock, " 4"), (jazz, " 4"))
    }
    assert len(ends) == 1
    assert max(map(cell_len, summary(data, 60))) <= 60


# Real tracks


@pytest.mark.data
@pytest.mark.slow
@needs_data
def test_the_real_table_makes_the_set_that_its_readme_tells_of(out: Path) -> None:
    taxonomy = Taxonomy(STARTER_GENRES)
    data = build(table.claims(Path(DATA or "") / "tracks.csv"), taxonomy, out, Settings(workers=2))
    counts = Counter(track.genre for track in data.tracks)
    assert counts == {"classical": 128, "electronic": 39, "jazz": 59, "pop": 82, "rock": 145}
    assert Counter(left.reason for left in data.left_out) == {
        f"unknown genre: {name}": 5 for name in ("blues", "country", "disco", "hiphop", "metal", "reggae")
    }
    assert {track.source for track in data.tracks} == {"emotify", "gtzan"}
    assert all(10.0 < track.duration_s < 31.0 for track in data.tracks)
    folds = {(track.artist, track.fold) for track in data.tracks if track.artist}
    assert len(folds) == len({artist for artist, _ in folds})
