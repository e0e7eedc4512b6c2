"""Tags as FFmpeg reads them: every spelling of their names, and genre texts parted where they hold several genres."""

from __future__ import annotations

from pathlib import Path

import pytest
from make_audio import SUFFIXES, make, tag

from daemon.core.audio import Sound
from daemon.core.tagtext import Tags, genre_names, parse


def known(name: str) -> bool:
    return name in {"rock", "pop", "R&B/Soul", "Rock; Pop"}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_container_tells_its_tags(tmp_path: Path, suffix: str) -> None:
    path = make(tmp_path / f"a{suffix}", 0.3, genres=None)
    tag(path, genres=["ポップ"], artist="Sigur Rós", title="Takk…", album="Best of 日本")
    with Sound(path) as sound:
        assert sound.tags == Tags("ポップ", "Sigur Rós", "Best of 日本", "Takk…")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_without_tags_tells_none(tmp_path: Path, suffix: str) -> None:
    with Sound(make(tmp_path / f"a{suffix}", 0.3, genres=None)) as sound:
        assert sound.tags == Tags()


def test_tags_are_read_without_disturbing_the_sound(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp3", 0.3)
    with Sound(path) as plain:
        digest = plain.packet_digest()
    with Sound(path) as sound:
        assert sound.tags.genre == "Old Genre"
        assert sound.packet_digest() == digest


def test_names_are_alike_in_every_spelling() -> None:
    assert parse({"ALBUMARTIST": "A"}) == parse({"album_artist": "A"}) == parse({"Album Artist": "A"})
    assert parse({"GENRE": " Jazz\0"}, {"artist": "B"}) == Tags(genre="Jazz", artist="B")


def test_the_container_comes_before_the_stream_unless_it_says_nothing() -> None:
    assert parse({"title": "album side"}, {"title": "stream"}).title == "album side"
    assert parse({"title": " "}, {"TITLE": "stream"}).title == "stream"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("rock", ("rock",)),
        ("Rock; Pop", ("Rock; Pop",)),
        ("Live;rock;pop;rock", ("Live", "rock", "pop")),
        ("R&B/Soul", ("R&B/Soul",)),
        ("Live;R&B/Soul", ("Live", "R&B/Soul")),
        ("rock/pop", ("rock", "pop")),
        ("Polka/Ska", ("Polka/Ska",)),
        ("Polka\0pop", ("Polka", "pop")),
        (" ; ", ()),
        ("", ()),
    ],
)
def test_a_genre_text_is_parted_only_as_far_as_the_genres_ask(text: str, names: tuple[str, ...]) -> None:
    assert genre_names(text, known) == names


def test_without_known_genres_a_text_is_parted_at_semicolons() -> None:
    assert genre_names("Drum & Bass;R&B/Soul") == ("Drum & Bass", "R&B/Soul")
