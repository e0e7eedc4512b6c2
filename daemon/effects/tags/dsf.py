"""DSF (Sony, 1-bit sound): an ID3v2 tag at the end, where a pointer in the header says. Owns the tag and two numbers.

The numbers are the pointer, which is 0 where there is no tag, and the size of the whole file (DSF File Format
Specification 1.01). Everything else stands before the tag and keeps its bytes.
"""

from __future__ import annotations

import dataclasses
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from daemon.effects.tags import id3
from daemon.effects.tags.splice import splice
from daemon.effects.tags.stretch import fingerprint_of
from daemon.effects.tags.value import Format, Tags, Unusable, WriteOptions, as_others, fingerprint, joined

# Name and size of the first chunk, then the size of the file and where the tag stands.
_HEAD = struct.Struct("<4sQQQ")
_CHUNK = struct.Struct("<4sQ")
_NUMBERS_OFFSET = 12
_MAX_TAG = 1 << 28


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the sound ends, where the tag stands (or would), the tag, what is behind it, and the size of the file."""

    sound_end: int
    start: int
    tag: id3.Tag
    rest: bytes
    size: int
    stated_size: int


def _recognises(file: BinaryIO) -> bool:
    file.seek(0)
    head = file.read(_HEAD.size)
    return len(head) == _HEAD.size and head[:4] == b"DSD " and _HEAD.unpack(head)[1] == _HEAD.size


def _layout(file: BinaryIO) -> _Layout:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    _, _, stated, pointer = _HEAD.unpack(file.read(_HEAD.size))
    sound_end = _sound_end(file, size)
    if pointer == 0:
        return _Layout(sound_end, size, id3.Tag(4), b"", size, stated)
    if not sound_end <= pointer <= size:
        raise Unusable("its DSF header points to a tag where none can be")
    if size - pointer > _MAX_TAG:
        raise Unusable("its DSF tag is too large to be metadata")
    file.seek(pointer)
    inside = file.read()
    if not inside.strip(b"\0"):
        return _Layout(sound_end, pointer, id3.Tag(4, size=0), inside, size, stated)
    length = id3.size_of(inside[: id3.HEADER_SIZE])
    if length is None:
        raise Unusable("its DSF header points to something that is no ID3v2 tag")
    return _Layout(sound_end, pointer, id3.parse(inside[:length]), inside[length:], size, stated)


def _sound_end(file: BinaryIO, size: int) -> int:
    offset = _HEAD.size
    for expected in (b"fmt ", b"data"):
        file.seek(offset)
        head = file.read(_CHUNK.size)
        name, length = _CHUNK.unpack(head) if len(head) == _CHUNK.size else (b"", 0)
        if name != expected or length < _CHUNK.size:
            raise Unusable("its DSF chunks are not where they belong")
        offset += length
    if offset > size:
        raise Unusable("its DSF sound is cut short")
    return offset


def _read(file: BinaryIO, separator: str) -> Tags:
    layout = _layout(file)
    return Tags(
        container="dsf",
        genres=id3.genres(layout.tag, separator),
        artist=joined(id3.text(layout.tag, "artist")),
        title=joined(id3.text(layout.tag, "title")),
        album=joined(id3.text(layout.tag, "album")),
        others=as_others(_others(file, layout)),
    )


def _others(file: BinaryIO, layout: _Layout) -> Iterator[tuple[str, str]]:
    told = list(id3.others(layout.tag))
    if told:
        yield "ID3v2 version", str(layout.tag.version)
    yield from told
    file.seek(0)
    head = file.read(_NUMBERS_OFFSET)
    yield "DSF header", fingerprint(head, fingerprint_of(file, _HEAD.size, _HEAD.size + 52).encode())
    yield "DSF sound size", str(layout.sound_end)
    if layout.start > layout.sound_end:
        yield "DSF bytes behind the sound", fingerprint_of(file, layout.sound_end, layout.start)
    if layout.rest.strip(b"\0"):
        yield "DSF bytes behind the tag", fingerprint(layout.rest.rstrip(b"\0"))


def _write_genres(file: BinaryIO, genres: tuple[str, ...], options: WriteOptions) -> None:
    layout = _layout(file)
    if layout.stated_size != layout.size:
        raise Unusable("the size in its DSF header contradicts the file; it is left as it is")
    tag = layout.tag
    if tag.size == 0 and not genres:
        return
    room = layout.size - layout.start
    if tag.size == 0:
        tag = id3.Tag(options.new_id3)
    rest = layout.rest.rstrip(b"\0")
    if not rest:
        # Nulls behind the tag are room for it as good as its own padding.
        tag = dataclasses.replace(tag, size=room)
    new = id3.render(id3.with_genres(tag, genres, options.id3_v23_separator)) + (layout.rest if rest else b"")
    splice(file, layout.start, room, new)
    file.seek(_NUMBERS_OFFSET)
    file.write(struct.pack("<QQ", layout.start + len(new), layout.start))
    file.flush()


FORMAT = Format(
    name="dsf",
    suffixes=frozenset({".dsf"}),
    recognises=_recognises,
    read=_read,
    write_genres=_write_genres,
)
