"""Finds where the sound of a file lies between its tags. Imports nothing of the program, changes no file.

Demuxers of raw streams (MPEG audio above all) take what follows the last frame for sound where they do not know the
tag, and a last frame that was cut short reaches into it. Whoever hashes or rewrites such a file therefore has to know
where the sound ends. Tags may follow each other in any order; they are found from the last one backwards.

Sizes: ID3v1 has 128 bytes ("TAG"), its extension 227 ("TAG+"). APEv2: the footer's size counts items and footer, not
the header. Lyrics3 v2: six digits that count from "LYRICSBEGIN" up to themselves; v1 has no size and at most 5,100
characters of text. An ID3v2.4 tag at the end has a footer ("3DI") that repeats its header (ID3v2.4.0 structure, 3.4).
"""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass
from typing import BinaryIO, Final

ID3V1_SIZE: Final = 128
APE_EDGE_SIZE: Final = 32
"""The size of the header and of the footer of an APEv2 tag."""

_EXTENSION_SIZE = 227
_ID3V2_EDGE = 10
_APE_IS_HEADER = 1 << 29
_LYRICS_BEGIN = b"LYRICSBEGIN"
_LYRICS1_REACH = len(_LYRICS_BEGIN) + 5100 + len(b"LYRICSEND")


class TrailerKind(enum.Enum):
    """The kinds of tag that may stand at the end."""

    ID3V1 = "ID3v1"
    ID3V1_EXTENSION = "ID3v1 extension"
    APE = "APEv2"
    LYRICS3 = "Lyrics3"
    ID3V2 = "ID3v2 at the end"


@dataclass(frozen=True, slots=True)
class Trailer:
    """One tag at the end of a file: its kind, and its bytes from `start` up to `end`."""

    kind: TrailerKind
    start: int
    end: int


def trailing_tags_start(file: BinaryIO) -> int:
    """Where the tags at the end of `file` begin, in bytes from its start; its size where it has none.

    A tag whose size cannot be right is none. The position in `file` afterwards is undefined.

    Raises:
        OSError: the disk failed while reading.
    """
    found = trailing_tags(file)
    return found[0].start if found else file.seek(0, os.SEEK_END)


def leading_tags_end(file: BinaryIO) -> int:
    """Where the tags at the start of `file` end, an ID3v2 tag and perhaps an APEv2 tag behind it; 0 where it has none.

    A tag whose size cannot be right is none. The position in `file` afterwards is undefined.

    Raises:
        OSError: the disk failed while reading.
    """
    end = file.seek(0, os.SEEK_END)
    start = _id3v2_size(_between(file, 0, _ID3V2_EDGE), b"ID3") or 0
    header = _between(file, start, start + APE_EDGE_SIZE)
    after = start + (APE_EDGE_SIZE + int.from_bytes(header[12:16], "little") if _is_ape_header(header) else 0)
    return next((place for place in (after, start) if place <= end), 0)


def trailing_tags(file: BinaryIO) -> tuple[Trailer, ...]:
    """The tags at the end of `file`, in the order in which they stand, without gaps up to the end of the file.

    Raises:
        OSError: the disk failed while reading.
    """
    # What looks like a tag inside a tag in front is a part of that one.
    floor = leading_tags_end(file)
    end = file.seek(0, os.SEEK_END)
    found: list[Trailer] = []
    while (trailer := _ending_at(file, end, floor)) is not None:
        found.append(trailer)
        end = trailer.start
    return tuple(reversed(found))


def _ending_at(file: BinaryIO, end: int, floor: int) -> Trailer | None:
    tail = _between(file, max(floor, end - _EXTENSION_SIZE), end)
    # The edge of an APEv2 tag has "TAG" inside, and may begin 131 bytes before the end.
    within_ape = tail[-ID3V1_SIZE - 3 :].startswith(b"APETAGEX")
    if len(tail) >= ID3V1_SIZE and tail[-ID3V1_SIZE:].startswith(b"TAG") and not within_ape:
        return Trailer(TrailerKind.ID3V1, end - ID3V1_SIZE, end)
    if tail.startswith(b"TAG+") and len(tail) == _EXTENSION_SIZE:
        return Trailer(TrailerKind.ID3V1_EXTENSION, end - _EXTENSION_SIZE, end)
    for kind, size_of in ((TrailerKind.APE, _ape_size), (TrailerKind.LYRICS3, _lyrics_size)):
        size = size_of(file, tail, end)
        if size is not None and size <= end - floor:
            return Trailer(kind, end - size, end)
    size = _id3v2_size(tail[-_ID3V2_EDGE:], b"3DI")
    if size is not None and size <= end - floor and _between(file, end - size, end - size + 3) == b"ID3":
        return Trailer(TrailerKind.ID3V2, end - size, end)
    return None


def _ape_size(file: BinaryIO, tail: bytes, end: int) -> int | None:
    footer = tail[-APE_EDGE_SIZE:]
    if len(footer) < APE_EDGE_SIZE or not footer.startswith(b"APETAGEX"):
        return None
    size = int.from_bytes(footer[12:16], "little")
    if int.from_bytes(footer[20:24], "little") & _APE_IS_HEADER or not APE_EDGE_SIZE <= size <= end:
        return None
    # The header is counted where it stands, since the flag that announces it is not to be relied upon.
    header = _between(file, max(0, end - size - APE_EDGE_SIZE), end - size)
    return size + (APE_EDGE_SIZE if _is_ape_header(header) else 0)


def _is_ape_header(edge: bytes) -> bool:
    flags = int.from_bytes(edge[20:24], "little")
    return len(edge) == APE_EDGE_SIZE and edge.startswith(b"APETAGEX") and bool(flags & _APE_IS_HEADER)


def _lyrics_size(file: BinaryIO, tail: bytes, end: int) -> int | None:
    if tail.endswith(b"LYRICS200"):
        if not tail[-15:-9].isdigit():
            return None
        size = int(tail[-15:-9]) + 15
        begins = size <= end and _between(file, end - size, end).startswith(_LYRICS_BEGIN)
        return size if begins else None
    if tail.endswith(b"LYRICSEND"):
        reach = _between(file, max(0, end - _LYRICS1_REACH), end)
        at = reach.rfind(_LYRICS_BEGIN)
        return len(reach) - at if at >= 0 else None
    return None


def _id3v2_size(edge: bytes, magic: bytes) -> int | None:
    """The size of the ID3v2 tag that has `edge` as its header or footer, both counted; None for no tag."""
    if len(edge) < _ID3V2_EDGE or not edge.startswith(magic) or any(byte & 0x80 for byte in edge[6:10]):
        return None
    size = edge[6] << 21 | edge[7] << 14 | edge[8] << 7 | edge[9]
    has_footer = edge[3] == 4 and edge[5] & 0x10
    return _ID3V2_EDGE + size + (_ID3V2_EDGE if has_footer or magic == b"3DI" else 0)


def _between(file: BinaryIO, start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(end - start)
