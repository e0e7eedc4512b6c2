"""Where labels come from: what folders, tags, tables and the ledger claim, before anybody judges it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.core.errors import ConfigError
from daemon.core.ledger import FileStatus, KnownFile, Ledger
from daemon.core.ledger_view import LedgerView
from daemon.core.records import FileState
from daemon.core.taxonomy import Genre, Taxonomy
from daemon.effects.tags import AUDIO_SUFFIXES
from trainer.tracks.importers import folders, ledger, table, tags
from trainer.tracks.importers.claim import Claim, Source
from trainer.tracks.importers.walk import MUSIC_SUFFIXES
from trainer.tracks.manifest import NO_FOLD, Track

SOUND = "a1" * 32
TAXONOMY = Taxonomy([Genre("jazz", ("ジャズ",), folder="01 Jazz"), Genre("hip hop")])


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def told(root: Path, taxonomy: Taxonomy | None = None) -> dict[str, Claim]:
    return {str(claim.path.relative_to(root)): claim for claim in folders.claims(root, taxonomy)}


# Folders


def test_the_first_folder_is_the_genre_and_those_below_are_artist_and_album(tmp_path: Path) -> None:
    touch(tmp_path, "Jazz/a.mp3", "Jazz/Nina/b.FLAC", "Jazz/Nina/Pastel Blues/c.ogg", "Jazz/Nina/Live/CD 2/d.ogg")
    assert list(told(tmp_path).values()) == [
        Claim(tmp_path / "Jazz/Nina/Live/CD 2/d.ogg", ("Jazz",), Source.FOLDERS, "Nina", "CD 2"),
        Claim(tmp_path / "Jazz/Nina/Pastel Blues/c.ogg", ("Jazz",), Source.FOLDERS, "Nina", "Pastel Blues"),
        Claim(tmp_path / "Jazz/Nina/b.FLAC", ("Jazz",), Source.FOLDERS, "Nina"),
        Claim(tmp_path / "Jazz/a.mp3", ("Jazz",), Source.FOLDERS),
    ]


def test_the_genre_is_the_first_folder_that_the_taxonomy_knows(tmp_path: Path) -> None:
    touch(tmp_path, "Library/ジャズ/Hip-Hop/a.mp3", "Library/Polka/A/b.mp3", "01 jazz/c.mp3", "HIP_HOP/d.mp3")
    found = told(tmp_path, TAXONOMY)
    assert found["Library/ジャズ/Hip-Hop/a.mp3"].names == ("ジャズ", "jazz")
    assert found["Library/ジャズ/Hip-Hop/a.mp3"].artist == "Hip-Hop"
    assert found["Library/Polka/A/b.mp3"].names == ("Library",)
    assert found["01 jazz/c.mp3"].names == ("01 jazz", "jazz")
    assert found["HIP_HOP/d.mp3"].names == ("HIP_HOP", "hip hop")


def test_what_is_no_music_is_passed_over(tmp_path: Path) -> None:
    touch(
        tmp_path, "jazz/cover.jpg", "jazz/._a.mp3", "jazz/.trash/b.mp3", "jazz/@eaDir/c.mp3", "jazz/d.reclass-tmp.mp3"
    )
    touch(tmp_path, "jazz/...And Justice for All.mp3", "jazz/.38 Special.mp3", ".hidden/e.mp3")
    assert list(told(tmp_path)) == ["jazz/...And Justice for All.mp3", "jazz/.38 Special.mp3"]


def test_a_folder_without_music_and_a_file_without_a_folder_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "jazz/a.mp3", "polka/notes.txt", "stray.mp3")
    found = told(tmp_path)
    assert found["polka"].trouble == "no music in the folder"
    assert found["stray.mp3"].trouble == "no genre: lies in none of the genre folders"


def test_linked_folders_are_entered_but_never_in_a_circle(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/a.mp3", "root/jazz/b.mp3")
    (tmp_path / "root/rock").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/jazz/up").symlink_to(tmp_path / "root")
    assert list(told(tmp_path / "root")) == ["jazz/b.mp3", "rock/a.mp3"]


def test_names_that_are_not_utf_8_are_kept(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.mp3")
    touch(tmp_path, f"jazz/{name}")
    assert list(told(tmp_path)) == [f"jazz/{name}"]


def test_a_root_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp3")
    for root in (tmp_path / "gone", tmp_path / "a.mp3"):
        with pytest.raises(ConfigError, match="cannot be read as a folder of music"):
            list(folders.claims(root))
        with pytest.raises(ConfigError, match="cannot be read as a folder of music"):
            list(tags.claims(root))


def test_every_suffix_that_the_daemon_watches_is_music_here() -> None:
    assert MUSIC_SUFFIXES == AUDIO_SUFFIXES


# Tags


def test_tags_are_asked_of_every_music_file_wherever_it_lies(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp3", "x/y/b.flac", "x/cover.png")
    assert list(tags.claims(tmp_path)) == [
        Claim(tmp_path / "a.mp3", (), Source.TAGS),
        Claim(tmp_path / "x/y/b.flac", (), Source.TAGS),
    ]


# Ledger


@pytest.fixture
def record(tmp_path: Path) -> Iterator[tuple[Ledger, LedgerView]]:
    made = Ledger(tmp_path / "ledger.db")
    view = LedgerView(tmp_path / "ledger.db")
    yield made, view
    view.close()
    made.close()


def test_the_ledger_claims_what_the_owner_said_where_the_file_is_now(
    record: tuple[Ledger, LedgerView], tmp_path: Path
) -> None:
    made, view = record
    touch(tmp_path, "moved.mp3")
    for path in (tmp_path / "moved.mp3", tmp_path / "gone.mp3"):
        made.remember(KnownFile(path, SOUND, FileState(1, 1, 1), ("Jazz",), FileStatus.UNCHANGED, ""))
    made.record_correction(SOUND, tmp_path / "before.mp3", ["ジャズ", "Live"], "jazz", "retagged")
    made.record_correction("b2" * 32, tmp_path / "never.mp3", ["Polka"], None, "retagged")
    assert list(ledger.claims(view)) == [
        Claim(tmp_path / "moved.mp3", ("jazz", "ジャズ", "Live"), Source.LEDGER, audio_id=SOUND),
        Claim(tmp_path / "never.mp3", ("Polka",), Source.LEDGER, audio_id="b2" * 32),
    ]


# Tables


def write(folder: Path, *lines: str, header: str = "path,genre,artist,fold") -> Path:
    touch(folder, "a.wav", "b.wav")
    manifest = folder / "tracks.csv"
    manifest.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return manifest


def test_a_table_claims_what_its_columns_tell(tmp_path: Path) -> None:
    header = "path,genre,fold,artist,album,dataset"
    manifest = write(tmp_path, "a.wav,jazz,3,Ä,B,gtzan", "b.wav,rock,,,,", "/c.wav,,,,,", header=header)
    assert table.claims(manifest) == [
        Claim(tmp_path / "a.wav", ("jazz",), Source.TABLE, "Ä", "B", 3, "gtzan"),
        Claim(tmp_path / "b.wav", ("rock",), Source.TABLE, fold=NO_FOLD),
        Claim(Path("/c.wav"), (), Source.TABLE, trouble="no genre: the table names none"),
    ]
    assert [claim.source for claim in table.claims(manifest)[:2]] == ["gtzan", "table"]


def test_a_table_from_a_spreadsheet_is_read(tmp_path: Path) -> None:
    manifest = write(tmp_path)
    manifest.write_text("path,genre\r\na.wav,ジャズ\r\n", encoding="utf-8-sig")
    assert [claim.names for claim in table.claims(manifest)] == [("ジャズ",)]


def test_every_bad_row_of_a_table_is_named(tmp_path: Path) -> None:
    manifest = write(tmp_path, ",jazz,,0", "a.wav,jazz,,minus one")
    with manifest.open("ab") as out:
        out.write(b"b.wav,caf\xe9,,\n")
    with pytest.raises(ConfigError) as caught:
        table.claims(manifest)
    assert caught.value.problems == [
        "line 2: path is empty",
        "line 3: fold must be 0 or a positive whole number, got 'minus one'",
        "line 4: genre is not text in UTF-8",
    ]


def test_a_table_without_its_columns_or_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="column missing: genre"):
        table.claims(write(tmp_path, "a.wav", header="path"))
    with pytest.raises(ConfigError, match="holds no tracks"):
        table.claims(write(tmp_path))
    with pytest.raises(ConfigError, match="cannot be read"):
        table.claims(tmp_path / "nothing.csv")


# Manifests: tables whose folds make a split


def test_paths_are_taken_from_the_manifests_folder(tmp_path: Path) -> None:
    manifest = write(tmp_path, "a.wav,jazz,Ärtist,0", "b.wav,rock,,1")
    assert table.read_manifest(manifest) == [
        Track(tmp_path / "a.wav", "jazz", 0, "Ärtist"),
        Track(tmp_path / "b.wav", "rock", 1),
    ]


def test_every_bad_row_is_named_with_its_reason(tmp_path: Path) -> None:
    manifest = write(
        tmp_path, "missing.wav,jazz,,0", "a.wav,,,0", "a.wav,jazz,,first", ",jazz,,1", "b.wav,rock,,0", "b.wav,rock,,0"
    )
    with pytest.raises(ConfigError) as caught:
        table.read_manifest(manifest)
    assert caught.value.problems == [
        "line 2: missing.wav does not exist",
        "line 3: genre is empty",
        "line 4: fold must be 0 or a positive whole number, got 'first'",
        "line 5: path is empty",
        "line 7: b.wav is already on line 6",
    ]


def test_an_artist_in_two_folds_is_refused(tmp_path: Path) -> None:
    manifest = write(tmp_path, "a.wav,jazz,Nina,0", "b.wav,rock,Nina,1")
    with pytest.raises(ConfigError, match=r"line 3: artist 'Nina' is in fold 1, but in fold 0 on line 2"):
        table.read_manifest(manifest)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="column missing: fold"):
        table.read_manifest(write(tmp_path, "a.wav,jazz", header="path,genre"))


def test_an_empty_or_unreadable_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no tracks"):
        table.read_manifest(write(tmp_path))
    with pytest.raises(ConfigError, match="cannot be read"):
        table.read_manifest(tmp_path / "nothing.csv")
