"""WAVE: an ID3v2 tag in a chunk of its own, and the genre in a LIST INFO chunk. Owns nothing but these.

Both are always written and say the same. The chunk walk is ours because mutagen's saves of 16 of 1,268 public WAV and
AIFF files reported success and reread without tags, and two streaming files (RIFF size 0xFFFFFFFF) were altered by a
save that raised. Where the sizes in the file contradict the file, nothing is written.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from daemon.effects.tags import id3
from daemon.effects.tags.splice import splice
from daemon.effects.tags.value import Format, Tags, Unusable, WriteOptions, as_others, fingerprint, joined

_HEADER = struct.Struct("<4sI")
_MAX_RIFF = 0xFFFF_FFFE
# A LIST or other small chunk larger than this is no metadata that we would want in memory.
_MAX_METADATA = 1 << 28


@dataclass(frozen=True, slots=True)
class _Chunk:
    """One chunk: where its header stands, what it is called, and how long its content is."""

    offset: int
    name: bytes
    size: int

    @property
    def end(self) -> int:
        """Where its content ends; a padding byte may follow."""
        return self.offset + _HEADER.size + self.size


def _recognises(file: BinaryIO) -> bool:
    file.seek(0)
    start = file.read(12)
    return start[:4] == b"RIFF" and start[8:12] == b"WAVE"


def _read(file: BinaryIO, separator: str) -> Tags:
    chunks = list(_chunks(file))
    if not any(chunk.name == b"data" for chunk in chunks):
        raise Unusable("it is a WAVE file without sound")
    tag = _tag(file, chunks)
    info = _info(file, chunks)
    return Tags(
        container="wav",
        genres=id3.genres(tag, separator) or _info_genres(info),
        artist=joined(id3.text(tag, "artist")) or _info_text(info, b"IART"),
        title=joined(id3.text(tag, "title")) or _info_text(info, b"INAM"),
        album=joined(id3.text(tag, "album")) or _info_text(info, b"IPRD"),
        others=as_others(_others(file, chunks, tag)),
    )


def _others(file: BinaryIO, chunks: list[_Chunk], tag: id3.Tag) -> Iterator[tuple[str, str]]:
    told = list(id3.others(tag))
    if told:
        yield "ID3v2 version", str(tag.version)
    yield from told
    for chunk in chunks:
        name = chunk.name.decode("latin-1")
        if chunk.name == b"data":
            yield "RIFF data size", str(chunk.size)
        elif _is_info(file, chunk):
            items = _items(_content(file, chunk))
            yield from ((f"INFO {key.decode('latin-1')}", fingerprint(value)) for key, value in items if key != b"IGNR")
        elif not _is_id3(chunk):
            yield f"RIFF {name}", fingerprint(_content(file, chunk))


def _write_genres(file: BinaryIO, genres: tuple[str, ...], options: WriteOptions) -> None:
    chunks = list(_chunks(file))
    end = _checked_end(file, chunks)
    edits: list[tuple[int, int, bytes]] = []
    appended = b""
    tag = _tag(file, chunks)
    if tag.size == 0:
        tag = id3.Tag(options.new_id3)
    new = id3.render(id3.with_genres(tag, genres, options.id3_v23_separator))
    held = next((chunk for chunk in chunks if _is_id3(chunk)), None)
    if held is not None:
        edits.append((held.offset, _stored(held, end), _chunk_bytes(held.name, new)))
    elif genres:
        appended += _chunk_bytes(b"id3 ", new)
    infos = [chunk for chunk in chunks if _is_info(file, chunk)]
    for chunk in infos[:1]:
        content = _content(file, chunk)
        if _is_whole(content):
            edits.append((chunk.offset, _stored(chunk, end), _with_ignr(content, genres)))
        elif b"IGNR" in content:
            raise Unusable("its INFO list names a genre, but is damaged")
    if not infos and genres:
        appended += _with_ignr(b"INFO", genres)
    if appended:
        odd = max(chunk.end for chunk in chunks) == end and end % 2
        edits.append((end, 0, b"\0" * odd + appended))
    for offset, length, content in sorted(edits, reverse=True):
        splice(file, offset, length, content)
        end += len(content) - length
    if end - 8 > _MAX_RIFF:
        raise Unusable("it would grow beyond the 4 GiB that a WAVE file can have")
    file.seek(4)
    file.write((end - 8).to_bytes(4, "little"))


def _chunks(file: BinaryIO) -> Iterator[_Chunk]:
    size = file.seek(0, os.SEEK_END)
    file.seek(4)
    end = min(size, 8 + int.from_bytes(file.read(4), "little"))
    offset = 12
    while offset + _HEADER.size <= end:
        file.seek(offset)
        name, length = _HEADER.unpack(file.read(_HEADER.size))
        yield _Chunk(offset, name, length)
        offset += _HEADER.size + length + length % 2


def _checked_end(file: BinaryIO, chunks: list[_Chunk]) -> int:
    """Where the RIFF ends, if its own sizes and the file agree."""
    size = file.seek(0, os.SEEK_END)
    file.seek(4)
    stated = 8 + int.from_bytes(file.read(4), "little")
    last = max((chunk.end for chunk in chunks), default=0)
    if last > size or not last <= stated <= size + 1:
        raise Unusable("its RIFF sizes contradict the file, as in a stream or a cut recording; it is left as it is")
    if stated - last > 1:
        raise Unusable("its RIFF chunks do not fill it; it is left as it is")
    return min(stated, size)


def _stored(chunk: _Chunk, end: int) -> int:
    return min(chunk.end + chunk.size % 2, end) - chunk.offset


def _content(file: BinaryIO, chunk: _Chunk) -> bytes:
    if chunk.size > _MAX_METADATA:
        raise Unusable(f"its RIFF chunk {chunk.name!r} is too large to be metadata")
    file.seek(chunk.offset + _HEADER.size)
    return file.read(chunk.size)


def _is_id3(chunk: _Chunk) -> bool:
    return chunk.name in (b"id3 ", b"ID3 ")


def _is_info(file: BinaryIO, chunk: _Chunk) -> bool:
    if chunk.name != b"LIST":
        return False
    file.seek(chunk.offset + _HEADER.size)
    return file.read(4) == b"INFO"


def _tag(file: BinaryIO, chunks: list[_Chunk]) -> id3.Tag:
    for chunk in chunks:
        if _is_id3(chunk):
            content = _content(file, chunk)
            if not content.strip(b"\0"):
                break
            size = id3.size_of(content[: id3.HEADER_SIZE])
            if size is None:
                raise Unusable("its id3 chunk holds no ID3v2 tag")
            return id3.parse(content[:size])
    return id3.Tag(4)


def _info(file: BinaryIO, chunks: Iterable[_Chunk]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for chunk in chunks:
        if _is_info(file, chunk):
            found |= dict(_items(_content(file, chunk)))
    return found


def _items(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    offset = 4
    while offset + _HEADER.size <= len(content):
        name, size = _HEADER.unpack_from(content, offset)
        yield name, content[offset + _HEADER.size : offset + _HEADER.size + size]
        offset += _HEADER.size + size + size % 2


def _info_text(info: dict[bytes, bytes], name: bytes) -> str | None:
    """INFO names no encoding: what is not UTF-8 is taken for Latin-1."""
    raw = info.get(name, b"").split(b"\0")[0].strip()
    try:
        return raw.decode("utf-8") or None
    except UnicodeDecodeError:
        return raw.decode("latin-1") or None


def _info_genres(info: dict[bytes, bytes]) -> tuple[str, ...]:
    said = _info_text(info, b"IGNR") or ""
    return tuple(dict.fromkeys(value.strip() for value in said.split(";") if value.strip()))


def _is_whole(content: bytes) -> bool:
    """Whether the items fill the list: some programs leave out the padding of odd items, or stop in one."""
    rebuilt = b"INFO" + b"".join(_chunk_bytes(name, value) for name, value in _items(content))
    return rebuilt.rstrip(b"\0") == content.rstrip(b"\0")


def _with_ignr(content: bytes, genres: tuple[str, ...]) -> bytes:
    """The LIST chunk with the genres of the ID3 tag, for programs that read nothing else in a WAVE file.

    Windows Explorer is one of them, and ffprobe up to at least 5.1.
    """
    rebuilt = bytearray(b"INFO")
    said = "; ".join(genres).encode("utf-8") + b"\0"
    for name, value in _items(content):
        if name != b"IGNR":
            rebuilt += _chunk_bytes(name, value)
        elif genres:
            rebuilt += _chunk_bytes(name, said)
            genres = ()
    if genres:
        rebuilt += _chunk_bytes(b"IGNR", said)
    return _chunk_bytes(b"LIST", bytes(rebuilt))


def _chunk_bytes(name: bytes, content: bytes) -> bytes:
    return _HEADER.pack(name, len(content)) + content + b"\0" * (len(content) % 2)


FORMAT = Format(
    name="wav",
    suffixes=frozenset({".wav", ".wave"}),
    recognises=_recognises,
    read=_read,
    write_genres=_write_genres,
)
