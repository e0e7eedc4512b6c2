"""The Vorbis comment block as bytes (flac, ogg, opus): reads fields, exchanges the genre fields. Touches no file.

Every other field is carried over byte for byte. mutagen would replace bytes that are not UTF-8 and drop fields
without "=" or with a key outside the standard.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from daemon.effects.tags.value import Unusable, fingerprint

_GENRE = b"genre"


@dataclass(frozen=True, slots=True)
class Comments:
    """A comment block: `fields` as stored, "KEY=value" as a rule; `rest` is what follows the last one."""

    vendor: bytes = b""
    fields: tuple[bytes, ...] = ()
    rest: bytes = b""


def parse(data: bytes) -> Comments:
    """Take apart the comment block in `data`.

    Raises:
        Unusable: the lengths inside do not fit into the block.
    """
    vendor, at = _string(data, 0)
    count, at = _number(data, at)
    if count > len(data) // 4:
        raise Unusable("its Vorbis comment is damaged")
    fields: list[bytes] = []
    for _ in range(count):
        field, at = _string(data, at)
        fields.append(field)
    return Comments(vendor, tuple(fields), data[at:])


def render(comments: Comments) -> bytes:
    """The bytes of `comments`; `parse` gives back the same value."""
    parts = [_sized(comments.vendor), len(comments.fields).to_bytes(4, "little")]
    parts += [_sized(field) for field in comments.fields]
    return b"".join(parts) + comments.rest


def text(comments: Comments, field: str) -> list[str]:
    """The values of `field`, whatever the case of its key."""
    wanted = field.lower().encode("ascii")
    return [value.decode("utf-8", "replace") for key, value in map(_pair, comments.fields) if key.lower() == wanted]


def genres(comments: Comments) -> tuple[str, ...]:
    """The genres, each once, in order."""
    values = (value.strip() for value in text(comments, "genre"))
    return tuple(dict.fromkeys(value for value in values if value))


def with_genres(comments: Comments, values: Sequence[str]) -> Comments:
    """`comments` with `values` as its genres, in the place and with the key of the first one that it had."""
    key, at = b"GENRE", len(comments.fields)
    for number, field in enumerate(comments.fields):
        if _is_genre(field):
            key, at = _pair(field)[0], number
            break
    new = [key + b"=" + value.encode("utf-8") for value in values]
    kept = [field for field in comments.fields[at:] if not _is_genre(field)]
    return dataclasses.replace(comments, fields=(*comments.fields[:at], *new, *kept))


def others(comments: Comments) -> Iterator[tuple[str, str]]:
    """Name and hash of the vendor and of every field that is not a genre."""
    if comments.vendor:
        yield "Vorbis vendor", fingerprint(comments.vendor)
    for field in comments.fields:
        if not _is_genre(field):
            yield f"Vorbis {_pair(field)[0].decode('latin-1')}", fingerprint(field)


def _is_genre(field: bytes) -> bool:
    return _pair(field)[0].lower() == _GENRE


def _pair(field: bytes) -> tuple[bytes, bytes]:
    key, equals, value = field.partition(b"=")
    return (key, value) if equals else (b"", field)


def _sized(value: bytes) -> bytes:
    return len(value).to_bytes(4, "little") + value


def _number(data: bytes, at: int) -> tuple[int, int]:
    if at + 4 > len(data):
        raise Unusable("its Vorbis comment is cut short")
    return int.from_bytes(data[at : at + 4], "little"), at + 4


def _string(data: bytes, at: int) -> tuple[bytes, int]:
    length, at = _number(data, at)
    if at + length > len(data):
        raise Unusable("its Vorbis comment is cut short")
    return data[at : at + length], at + length
