"""FLAC: genres in the Vorbis comment among its metadata blocks. Owns that block and the padding, nothing else.

Pictures, cue sheet, seek table, application blocks and blocks of unknown kinds keep their bytes and their order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from daemon.effects.tags import id3, vorbis
from daemon.effects.tags.splice import splice
from daemon.effects.tags.value import Format, Tags, Unusable, WriteOptions, as_others, fingerprint, joined

_PADDING, _COMMENT = 1, 4
_LAST = 0x80
_MAX_BLOCK = (1 << 24) - 1
# Left for the next program that edits the file in place, where the metadata has to grow anyway.
_NEW_PADDING = 4096


@dataclass(frozen=True, slots=True)
class _Block:
    kind: int
    content: bytes


@dataclass(frozen=True, slots=True)
class _Metadata:
    """The blocks, where the first one starts in the file, and where the sound starts."""

    blocks: tuple[_Block, ...]
    start: int
    end: int


def _start(file: BinaryIO) -> int | None:
    """Where "fLaC" stands; an ID3v2 tag may come before it."""
    file.seek(0)
    offset = id3.size_of(file.read(id3.HEADER_SIZE)) or 0
    file.seek(offset)
    return offset if file.read(4) == b"fLaC" else None


def _recognises(file: BinaryIO) -> bool:
    return _start(file) is not None


def _metadata(file: BinaryIO) -> _Metadata:
    offset = _start(file)
    if offset is None:
        raise Unusable("it is not FLAC")
    start = offset + 4
    file.seek(start)
    blocks: list[_Block] = []
    last = False
    while not last:
        header = file.read(4)
        size = int.from_bytes(header[1:], "big")
        content = file.read(size)
        if len(header) < 4 or len(content) < size:
            raise Unusable("its FLAC metadata is cut short")
        last = bool(header[0] & _LAST)
        blocks.append(_Block(header[0] & ~_LAST, content))
    end = file.tell()
    sync = file.read(2)
    if len(sync) == 2 and (sync[0] != 0xFF or sync[1] & 0xFC != 0xF8):
        # Some programs wrote wrong block sizes; players guess where the sound begins, a tag writer must not.
        raise Unusable("its FLAC metadata blocks have wrong sizes")
    return _Metadata(tuple(blocks), start, end)


def _comments(metadata: _Metadata) -> vorbis.Comments:
    for block in metadata.blocks:
        if block.kind == _COMMENT:
            return vorbis.parse(block.content)
    return vorbis.Comments()


def _read(file: BinaryIO, separator: str) -> Tags:
    metadata = _metadata(file)
    comments = _comments(metadata)
    return Tags(
        container="flac",
        genres=vorbis.genres(comments),
        artist=joined(vorbis.text(comments, "artist")),
        title=joined(vorbis.text(comments, "title")),
        album=joined(vorbis.text(comments, "album")),
        others=as_others(_others(file, metadata, comments)),
    )


def _others(file: BinaryIO, metadata: _Metadata, comments: vorbis.Comments) -> Iterator[tuple[str, str]]:
    yield from vorbis.others(comments)
    seen_comment = False
    for block in metadata.blocks:
        if block.kind == _COMMENT and not seen_comment:
            seen_comment = True
        elif block.kind != _PADDING:
            yield f"FLAC block {block.kind}", fingerprint(block.content)
    file.seek(0)
    before = file.read(metadata.start - 4)
    file.seek(max(metadata.end, file.seek(0, os.SEEK_END) - 128))
    after = file.read(128)
    if before:
        yield "ID3v2 before FLAC", fingerprint(before)
    if after.startswith(b"TAG"):
        yield "ID3v1 after FLAC", fingerprint(after)


def _write_genres(file: BinaryIO, genres: tuple[str, ...], options: WriteOptions) -> None:
    metadata = _metadata(file)
    content = vorbis.render(vorbis.with_genres(_comments(metadata), genres))
    if len(content) > _MAX_BLOCK:
        raise Unusable("its FLAC comment block would grow beyond 16 MiB")
    blocks = list(metadata.blocks)
    index = next((number for number, block in enumerate(blocks) if block.kind == _COMMENT), None)
    if index is None:
        blocks.insert(1, _Block(_COMMENT, content))
    else:
        blocks[index] = _Block(_COMMENT, content)
    room = metadata.end - metadata.start
    new = _rendered(_padded(blocks, room))
    splice(file, metadata.start, room, new)


def _padded(blocks: list[_Block], room: int) -> list[_Block]:
    """`blocks` with the last padding block resized so that all fill `room`; where they cannot, with new padding."""
    index = next((n for n, block in reversed(list(enumerate(blocks))) if block.kind == _PADDING), None)
    if index is None:
        blocks = [*blocks, _Block(_PADDING, b"")]
        index = len(blocks) - 1
    needed = sum(4 + len(block.content) for n, block in enumerate(blocks) if n != index) + 4
    free = room - needed
    size = min(free, _MAX_BLOCK) if free >= 0 else _NEW_PADDING
    return [*blocks[:index], _Block(_PADDING, bytes(size)), *blocks[index + 1 :]]


def _rendered(blocks: list[_Block]) -> bytes:
    parts: list[bytes] = []
    for number, block in enumerate(blocks):
        last = _LAST if number == len(blocks) - 1 else 0
        parts.append(bytes([block.kind | last]) + len(block.content).to_bytes(3, "big") + block.content)
    return b"".join(parts)


FORMAT = Format(
    name="flac",
    suffixes=frozenset({".flac", ".fla"}),
    recognises=_recognises,
    read=_read,
    write_genres=_write_genres,
)
