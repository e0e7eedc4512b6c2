"""WAVE: an ID3v2 tag in a chunk of its own, and the genre in a LIST INFO chunk. Owns nothing but these.

Both are always written and say the same. A recording over 4 GiB is RF64 or BW64 (EBU Tech 3306, ITU-R BS.2088): the
same chunks, but sizes that do not fit stand in a chunk called ds64, where the one of the whole file is kept right.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from daemon.effects.tags import chunks, id3
from daemon.effects.tags.chunks import Chunk, Form, Tagged
from daemon.effects.tags.value import Format, Tags, Unusable, WriteOptions, as_others, fingerprint, joined

_LARGE = (b"RF64", b"BW64")
_ITEM = chunks.RIFF.header
# ds64 comes first and begins with the sizes of the whole file and of the sound, and the number of samples.
_DS64_OFFSET = 12
_DS64 = struct.Struct("<4sIQQQI")
_TABLE_ENTRY = struct.Struct("<4sQ")


def _recognises(file: BinaryIO) -> bool:
    file.seek(0)
    start = file.read(12)
    return start[:4] in (b"RIFF", *_LARGE) and start[8:12] == b"WAVE"


def _form(file: BinaryIO) -> Form:
    file.seek(0)
    large = file.read(4) in _LARGE
    form = chunks.read_form(file, chunks.RF64, _large_sizes(file)) if large else chunks.read_form(file, chunks.RIFF)
    if form.first(b"data") is None:
        raise Unusable("it is a WAVE file without sound")
    return form


def _large_sizes(file: BinaryIO) -> dict[bytes, int]:
    """The sizes in ds64, by chunk; that of the whole file by the name of the file's outermost one."""
    file.seek(0)
    name = file.read(4)
    file.seek(_DS64_OFFSET)
    head = file.read(_DS64.size)
    if len(head) < _DS64.size or not head.startswith(b"ds64"):
        raise Unusable("it is an RF64 file without its table of sizes")
    _, room, whole, sound, _, count = _DS64.unpack(head)
    table = file.read(room + 8 - _DS64.size if room < 1 << 20 else 0)
    if count * _TABLE_ENTRY.size > len(table):
        raise Unusable("its RF64 table of sizes is damaged")
    return {name: whole, b"data": sound} | dict(_TABLE_ENTRY.iter_unpack(table[: count * _TABLE_ENTRY.size]))


def _read(file: BinaryIO, separator: str) -> Tags:
    form = _form(file)
    held = chunks.tagged(file, form)
    info = _info(file, form)
    return Tags(
        container="wav",
        genres=id3.genres(held.tag, separator) or _info_genres(info),
        artist=joined(id3.text(held.tag, "artist")) or _info_text(info, b"IART"),
        title=joined(id3.text(held.tag, "title")) or _info_text(info, b"INAM"),
        album=joined(id3.text(held.tag, "album")) or _info_text(info, b"IPRD"),
        others=as_others(_others(file, form, held)),
    )


def _others(file: BinaryIO, form: Form, held: Tagged) -> Iterator[tuple[str, str]]:
    yield from chunks.id3_others(file, form, held)
    for chunk in form.chunks:
        name = f"RIFF {chunk.name.decode('latin-1')}"
        if chunk.name == b"data":
            yield f"{name} size", str(chunk.size)
        elif _is_info(file, chunk):
            items = _items(chunks.content(file, chunk))
            yield from ((f"INFO {key.decode('latin-1')}", fingerprint(value)) for key, value in items if key != b"IGNR")
        elif chunk.name == b"ds64":
            # Its first number is the size of the whole file.
            yield name, fingerprint(chunks.content(file, chunk)[8:])
        elif chunk != held.chunk:
            yield name, fingerprint(chunks.content(file, chunk))


def _write_genres(file: BinaryIO, genres: tuple[str, ...], options: WriteOptions) -> None:
    form = _form(file)
    chunks.checked_end(form)
    edits: list[tuple[Chunk, bytes]] = []
    appended = b""
    held = chunks.tagged(file, form)
    new = chunks.id3_chunk(form, held, genres, options, b"id3 ")
    if held.chunk is not None:
        edits.append((held.chunk, new))
    elif genres:
        appended += new
    infos = [chunk for chunk in form.chunks if _is_info(file, chunk)]
    for chunk in infos[:1]:
        content = chunks.content(file, chunk)
        if _is_whole(content):
            edits.append((chunk, _with_ignr(content, genres)))
        elif b"IGNR" in content:
            raise Unusable("its INFO list names a genre, but is damaged")
    if not infos and genres:
        appended += _with_ignr(b"INFO", genres)
    _set_size(file, form, chunks.exchange(file, form, edits, appended))


def _set_size(file: BinaryIO, form: Form, end: int) -> None:
    if form.layout is chunks.RF64:
        file.seek(_DS64_OFFSET + 8)
        file.write((end - 8).to_bytes(8, "little"))
        file.seek(4)
        if int.from_bytes(file.read(4), "little") == chunks.RF64.elsewhere:
            file.flush()
            return
    chunks.set_size(file, form, end)


def _is_info(file: BinaryIO, chunk: Chunk) -> bool:
    if chunk.name != b"LIST":
        return False
    file.seek(chunk.start)
    return file.read(4) == b"INFO"


def _info(file: BinaryIO, form: Form) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for chunk in form.chunks:
        if _is_info(file, chunk):
            found |= dict(_items(chunks.content(file, chunk)))
    return found


def _items(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    offset = 4
    while offset + _ITEM.size <= len(content):
        name, size = _ITEM.unpack_from(content, offset)
        yield name, content[offset + _ITEM.size : offset + _ITEM.size + size]
        offset += _ITEM.size + size + size % 2


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
    rebuilt = b"INFO" + b"".join(_item_bytes(name, value) for name, value in _items(content))
    return rebuilt.rstrip(b"\0") == content.rstrip(b"\0")


def _with_ignr(content: bytes, genres: tuple[str, ...]) -> bytes:
    """The LIST chunk with the genres of the ID3 tag, for programs that read nothing else in a WAVE file.

    Windows Explorer is one of them, and ffprobe up to at least 5.1.
    """
    rebuilt = bytearray(b"INFO")
    said = "; ".join(genres).encode("utf-8") + b"\0"
    for name, value in _items(content):
        if name != b"IGNR":
            rebuilt += _item_bytes(name, value)
        elif genres:
            rebuilt += _item_bytes(name, said)
            genres = ()
    if genres:
        rebuilt += _item_bytes(b"IGNR", said)
    return _item_bytes(b"LIST", bytes(rebuilt))


def _item_bytes(name: bytes, content: bytes) -> bytes:
    return chunks.rendered(chunks.RIFF, name, content)


FORMAT = Format(
    name="wav",
    suffixes=frozenset({".wav", ".wave", ".bwf", ".rf64"}),
    recognises=_recognises,
    read=_read,
    write_genres=_write_genres,
)
