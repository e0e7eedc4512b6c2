"""MPEG audio (mp3, mp2): an ID3v2 tag in front, perhaps an ID3v1 tag at the end. Owns nothing but these two.

Genres are written into the ID3v2 tag, which is made where there is none, and an ID3v1 tag that exists gets its genre
byte set; none is added. A new ID3v2 tag repeats what an ID3v1 tag says, since many players stop reading at the first
kind that they find. APEv2 and Lyrics3 at the end stay as they are.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from mutagen.mp3 import HeaderNotFoundError, MPEGInfo

from daemon.effects.tags import id3
from daemon.effects.tags.splice import splice
from daemon.effects.tags.value import Format, Id3Version, Tags, WriteOptions, as_others, fingerprint, joined

_V1_SIZE = 128
_NO_V1_GENRE = 255
_V1_FIELDS = {"title": slice(3, 33), "artist": slice(33, 63), "album": slice(63, 93)}


@dataclass(frozen=True, slots=True)
class _Ends:
    """The tags of one file: `head` in front, `v1` (128 bytes) at the very end, `tail` whatever is tagged before it."""

    head: id3.Tag | None
    v1: bytes
    tail: bytes


def _recognises(file: BinaryIO) -> bool:
    file.seek(0)
    offset = id3.size_of(file.read(id3.HEADER_SIZE)) or 0
    file.seek(offset)
    start = file.read(2)
    if len(start) == 2 and start[0] == 0xFF and start[1] & 0xF6 == 0xF0:
        return False  # ADTS: raw AAC has the same sync word and "layer 0"
    try:
        info = MPEGInfo(file, offset)
    except HeaderNotFoundError:
        return False
    return not info.sketchy


def _read(file: BinaryIO, separator: str) -> Tags:
    ends = _ends(file)
    head = ends.head or id3.Tag(Id3Version.V24)
    genres = id3.genres(head, separator) or _v1_genres(ends.v1)
    return Tags(
        container="mp3",
        genres=genres,
        artist=joined(id3.text(head, "artist")) or _v1_text(ends.v1, "artist"),
        title=joined(id3.text(head, "title")) or _v1_text(ends.v1, "title"),
        album=joined(id3.text(head, "album")) or _v1_text(ends.v1, "album"),
        others=as_others(_others(head, ends)),
    )


def _others(head: id3.Tag, ends: _Ends) -> Iterator[tuple[str, str]]:
    """A frame that only repeats the ID3v1 tag is no information of its own, and neither is the version of no frames."""
    repeated = set(id3.others(id3.Tag(head.version, frames=_frames_of_v1(ends.v1, head.version))))
    told = [entry for entry in id3.others(head) if entry not in repeated]
    if told:
        yield "ID3v2 version", str(head.version)
    yield from told
    if ends.v1:
        yield "ID3v1", fingerprint(ends.v1[:-1])
    if ends.tail:
        yield "APEv2 or Lyrics3", fingerprint(ends.tail)


def _write_genres(file: BinaryIO, genres: tuple[str, ...], options: WriteOptions) -> None:
    ends = _ends(file)
    head = ends.head
    if ends.v1:
        file.seek(-1, os.SEEK_END)
        file.write(bytes([_v1_number(genres)]))
    if not genres and head is None:
        return
    if head is None:
        head = id3.Tag(options.new_id3)
    if not head.frames:
        head = dataclasses.replace(head, frames=_frames_of_v1(ends.v1, head.version))
    new = id3.with_genres(head, genres, options.id3_v23_separator)
    splice(file, 0, head.size, id3.render(new))


def _ends(file: BinaryIO) -> _Ends:
    file.seek(0)
    size = id3.size_of(file.read(id3.HEADER_SIZE))
    head = None
    if size is not None:
        file.seek(0)
        head = id3.parse(file.read(size))
    end = file.seek(0, os.SEEK_END)
    v1 = b""
    if end >= _V1_SIZE + (size or 0):
        file.seek(end - _V1_SIZE)
        v1 = file.read(_V1_SIZE)
        v1 = v1 if v1.startswith(b"TAG") else b""
    stop = end - len(v1)
    start = _tail_start(file, stop, size or 0)
    file.seek(start)
    return _Ends(head, v1, file.read(stop - start))


def _tail_start(file: BinaryIO, stop: int, floor: int) -> int:
    """Where the APEv2 and Lyrics3 tags that end at `stop` begin; `stop` where there are none."""
    start = stop
    while True:
        file.seek(max(floor, start - 32))
        footer = file.read(start - file.tell())
        size = _ape_size(footer) or _lyrics_size(footer)
        if size is None or start - size < floor:
            return start
        start -= size


def _ape_size(footer: bytes) -> int | None:
    if len(footer) < 32 or not footer.startswith(b"APETAGEX"):
        return None
    has_header = footer[23] & 0x80
    return max(32, int.from_bytes(footer[12:16], "little")) + (32 if has_header else 0)


def _lyrics_size(footer: bytes) -> int | None:
    if footer.endswith(b"LYRICS200") and footer[-15:-9].isdigit():
        return int(footer[-15:-9]) + 15
    return None


def _v1_text(v1: bytes, field: str) -> str | None:
    return _v1_bytes(v1, _V1_FIELDS[field]).decode("latin-1") or None


def _v1_bytes(v1: bytes, part: slice) -> bytes:
    return v1[part].split(b"\0")[0].strip()


def _v1_genres(v1: bytes) -> tuple[str, ...]:
    number = v1[-1] if v1 else _NO_V1_GENRE
    return (id3.ID3V1_GENRES[number],) if number < len(id3.ID3V1_GENRES) else ()


def _v1_number(genres: tuple[str, ...]) -> int:
    """The number of the first genre that the ID3v1 list knows; "none" where it knows none of them."""
    known = {name.casefold(): number for number, name in reversed(list(enumerate(id3.ID3V1_GENRES)))}
    return next((known[genre.casefold()] for genre in genres if genre.casefold() in known), _NO_V1_GENRE)


def _frames_of_v1(v1: bytes, version: int) -> tuple[id3.Frame, ...]:
    """What the ID3v1 tag says, as frames, with the bytes that it has: nobody can know in which code page they are."""
    if not v1 or version == 2:
        return ()
    year = b"TDRC" if version == Id3Version.V24 else b"TYER"
    values = {
        b"TIT2": _v1_bytes(v1, _V1_FIELDS["title"]),
        b"TPE1": _v1_bytes(v1, _V1_FIELDS["artist"]),
        b"TALB": _v1_bytes(v1, _V1_FIELDS["album"]),
        year: _v1_bytes(v1, slice(93, 97)),
        b"TRCK": str(v1[126]).encode() if v1[125] == 0 and v1[126] else b"",
    }
    frames = [id3.text_frame(name, value) for name, value in values.items() if value]
    comment = _v1_bytes(v1, slice(97, 125 if v1[125] == 0 else 127))
    if comment:
        frames.append(id3.Frame(b"COMM", 0, b"\0eng\0" + comment))
    return tuple(frames)


FORMAT = Format(
    name="mp3",
    suffixes=frozenset({".mp3", ".mp2", ".mpga"}),
    recognises=_recognises,
    read=_read,
    write_genres=_write_genres,
)
