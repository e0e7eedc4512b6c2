"""Containers that are tagged with APEv2: Monkey's Audio, WavPack, Musepack, TAK and OptimFROG. Owns that tag alone.

The genre is read from the APEv2 tag, else from an ID3v2 tag in front, else from the ID3v1 tag. It is written into the
last APEv2 tag; where there is none, one is made right behind the sound, which is before any ID3v1 or Lyrics3 tag. An
ID3v1 tag is kept in step, an ID3v2 tag in front keeps every byte. A damaged APEv2 tag is never written to, nor is
another one put behind it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from daemon.core.trailer import leading_tags_end
from daemon.effects.tags import ape, id3, id3v1
from daemon.effects.tags.ends import (
    Ends,
    ends_of,
    keep_in_step,
    others,
    refuse_damaged_ape,
    remains_of_ape,
)
from daemon.effects.tags.splice import splice
from daemon.effects.tags.value import Format, Tags, Unusable, WriteOptions, as_others, joined

# The header of an old WavPack file, which begins with that of the WAVE file it was made from, ends within this.
_MAX_WAVE_HEADER = 4096


def _read(name: str, file: BinaryIO, separator: str) -> Tags:
    ends = _undamaged(file)
    head = ends.head or id3.Tag(4)
    return Tags(
        container=name,
        genres=ends.ape_genres or id3.genres(head, separator) or id3v1.genres(ends.v1),
        artist=_text(head, ends, "artist"),
        title=_text(head, ends, "title"),
        album=_text(head, ends, "album"),
        others=as_others(_others(ends)),
    )


def _text(head: id3.Tag, ends: Ends, field: str) -> str | None:
    told = joined(ends.ape_text(field)) or joined(id3.text(head, field))
    return told or id3v1.text(ends.v1, field).decode("latin-1") or None


def _others(ends: Ends) -> Iterator[tuple[str, str]]:
    if ends.head is not None:
        yield "ID3v2 version", str(ends.head.version)
        yield from id3.others(ends.head)
    yield from others(ends)


def _write_genres(file: BinaryIO, genres: tuple[str, ...], options: WriteOptions) -> None:
    ends = _undamaged(file)
    if not genres and ends.head is not None and id3.genres(ends.head, options.id3_v23_separator):
        raise Unusable("the ID3v2 tag in front of it, which is left as it is, names a genre")
    leading = ends.apes[-1] if ends.apes else None
    keep_in_step(file, ends, genres, leading)
    if leading is None and genres:
        splice(file, ends.stop, 0, ape.render(ape.with_genres(ape.Tag(), genres)))


def _undamaged(file: BinaryIO) -> Ends:
    ends = ends_of(file)
    refuse_damaged_ape(file, ends)
    if not ends.apes and remains_of_ape(file, ends):
        raise Unusable("the APEv2 tag at its end is damaged: it is cut short")
    return ends


def _begins_with(file: BinaryIO, *magics: bytes) -> bool:
    file.seek(leading_tags_end(file))
    return file.read(max(map(len, magics))).startswith(magics)


def _is_wavpack(file: BinaryIO) -> bool:
    """Up to version 3 the header of the original WAVE file stood first, and WavPack's own in place of the samples."""
    start = leading_tags_end(file)
    file.seek(start)
    header = file.read(_MAX_WAVE_HEADER)
    if header[:4] != b"RIFF" or header[8:12] != b"WAVE":
        return header.startswith(b"wvpk")
    at = 12
    while at + 8 <= len(header) and header[at : at + 4] != b"data":
        size = int.from_bytes(header[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    return header[at + 8 : at + 12] == b"wvpk"


def _format(name: str, suffixes: Iterable[str], recognises: Callable[[BinaryIO], bool]) -> Format:
    return Format(name, frozenset(suffixes), recognises, functools.partial(_read, name), _write_genres)


def _by_magic(name: str, suffixes: Iterable[str], *magics: bytes) -> Format:
    return _format(name, suffixes, lambda file: _begins_with(file, *magics))


MONKEYS_AUDIO = _by_magic("ape", (".ape",), b"MAC ", b"MACF")
WAVPACK = _format("wv", (".wv",), _is_wavpack)
MUSEPACK = _by_magic("mpc", (".mpc", ".mp+", ".mpp"), b"MP+", b"MPCK")
TAK = _by_magic("tak", (".tak",), b"tBaK")
OPTIMFROG = _by_magic("ofr", (".ofr", ".ofs"), b"OFR ")

FORMATS = (MONKEYS_AUDIO, WAVPACK, MUSEPACK, TAK, OPTIMFROG)
