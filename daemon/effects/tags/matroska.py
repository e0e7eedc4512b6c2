"""Matroska and WebM: says whether a file holds a film. Reads the track list and nothing else; writes nothing.

The elements are those of RFC 9559, their sizes those of EBML (RFC 8794).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from daemon.effects.tags.value import Unusable

_EBML, _SEGMENT, _TRACKS, _ENTRY, _TYPE = 0x1A45DFA3, 0x18538067, 0x1654AE6B, 0xAE, 0x83
_VIDEO = 1
# More elements than this before the track list are damage.
_MAX_ELEMENTS = 100_000


@dataclass(frozen=True, slots=True)
class _Element:
    """One element: its name, and where its content stands."""

    name: int
    start: int
    end: int


def is_matroska(file: BinaryIO) -> bool:
    """Whether the file is EBML; nothing but Matroska and WebM is, as far as music folders go."""
    file.seek(0)
    return file.read(4) == _EBML.to_bytes(4, "big")


def holds_film(file: BinaryIO) -> bool:
    """Whether one of the tracks is video; a cover is an attachment and no track.

    Raises:
        Unusable: there is no track list to be found, so that nobody can say.
    """
    size = file.seek(0, os.SEEK_END)
    segment = _child(file, 0, size, _SEGMENT)
    tracks = segment and _child(file, segment.start, segment.end, _TRACKS)
    if tracks is None:
        raise Unusable("it is a Matroska file whose tracks cannot be found")
    for entry in _elements(file, tracks.start, tracks.end):
        kind = _child(file, entry.start, entry.end, _TYPE) if entry.name == _ENTRY else None
        if kind is not None:
            file.seek(kind.start)
            if int.from_bytes(file.read(min(8, kind.end - kind.start)), "big") == _VIDEO:
                return True
    return False


def _child(file: BinaryIO, start: int, end: int, name: int) -> _Element | None:
    return next((element for element in _elements(file, start, end) if element.name == name), None)


def _elements(file: BinaryIO, start: int, end: int) -> Iterator[_Element]:
    """The elements side by side from `start` on; one of unknown size, as in a live stream, goes up to `end`."""
    at = start
    for _ in range(_MAX_ELEMENTS):
        if at >= end:
            return
        file.seek(at)
        name, _ = _number(file)
        size, width = _number(file)
        begin = file.tell()
        size &= (1 << 7 * width) - 1
        unknown = size == (1 << 7 * width) - 1
        element = _Element(name, begin, end if unknown else min(end, begin + size))
        yield element
        at = element.end


def _number(file: BinaryIO) -> tuple[int, int]:
    """A number of 1 to 8 bytes with the bit that marks their count still in it, and that count."""
    first = file.read(1)
    if not first or not first[0]:
        raise Unusable("its Matroska elements are damaged")
    width = 9 - first[0].bit_length()
    return int.from_bytes(first + file.read(width - 1), "big"), width
