"""The ID3v1 tag as bytes: 128 of them, the genre a number in the last one. Touches no file."""

from __future__ import annotations

from typing import Final

from daemon.effects.tags import id3

NO_GENRE: Final = 255

_FIELDS = {"title": slice(3, 33), "artist": slice(33, 63), "album": slice(63, 93), "year": slice(93, 97)}


def text(tag: bytes, field: str) -> bytes:
    """What `field` holds, in a code page that nobody can know; empty where `tag` is, or where it says nothing."""
    if field == "track":
        return str(tag[126]).encode() if tag and tag[125] == 0 and tag[126] else b""
    part = slice(97, 125 if tag and tag[125] == 0 else 127) if field == "comment" else _FIELDS[field]
    return tag[part].split(b"\0")[0].strip()


def genres(tag: bytes) -> tuple[str, ...]:
    """The genre that the number stands for, if it stands for one."""
    number = tag[-1] if tag else NO_GENRE
    return (id3.ID3V1_GENRES[number],) if number < len(id3.ID3V1_GENRES) else ()


def number_of(genres: tuple[str, ...]) -> int:
    """The number of the first genre that the ID3v1 list knows; "none" where it knows none of them."""
    known = {name.casefold(): number for number, name in reversed(list(enumerate(id3.ID3V1_GENRES)))}
    return next((known[genre.casefold()] for genre in genres if genre.casefold() in known), NO_GENRE)
