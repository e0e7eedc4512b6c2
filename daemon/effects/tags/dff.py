"""DSDIFF (Philips, 1-bit sound): an ID3v2 tag in a chunk at the end. Owns nothing but that chunk.

The format's edited master information (DIIN) names artist and title, and no genre; it is read where the tag says
nothing, never written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from daemon.effects.tags import chunks, id3
from daemon.effects.tags.chunks import Form, Tagged
from daemon.effects.tags.value import Format, Tags, Unusable, WriteOptions, as_others, fingerprint, joined

_SOUND = (b"DSD ", b"DST ", b"DSTI")


def _recognises(file: BinaryIO) -> bool:
    file.seek(0)
    start = file.read(16)
    return start[:4] == b"FRM8" and start[12:16] == b"DSD "


def _form(file: BinaryIO) -> Form:
    form = chunks.read_form(file, chunks.DSDIFF)
    if form.first(b"DSD ", b"DST ") is None:
        raise Unusable("it is a DSDIFF file without sound")
    return form


def _read(file: BinaryIO, separator: str) -> Tags:
    form = _form(file)
    held = chunks.tagged(file, form)
    return Tags(
        container="dff",
        genres=id3.genres(held.tag, separator),
        artist=joined(id3.text(held.tag, "artist")) or _master_text(file, form, b"DIAR"),
        title=joined(id3.text(held.tag, "title")) or _master_text(file, form, b"DITI"),
        album=joined(id3.text(held.tag, "album")),
        others=as_others(_others(file, form, held)),
    )


def _master_text(file: BinaryIO, form: Form, name: bytes) -> str | None:
    master = form.first(b"DIIN")
    if master is None:
        return None
    for chunk in chunks.walk(file, chunks.DSDIFF, master.start, min(master.end, form.size)):
        if chunk.name == name:
            # Four bytes of length come first; the standard knows ASCII alone.
            return chunks.content(file, chunk)[4:].split(b"\0")[0].decode("latin-1").strip() or None
    return None


def _others(file: BinaryIO, form: Form, held: Tagged) -> Iterator[tuple[str, str]]:
    yield from chunks.id3_others(file, form, held)
    for chunk in form.chunks:
        name = f"DSDIFF {chunk.name.decode('latin-1')}"
        if chunk.name in _SOUND:
            yield f"{name} size", str(chunk.size)
        elif chunk != held.chunk:
            yield name, fingerprint(chunks.content(file, chunk))


def _write_genres(file: BinaryIO, genres: tuple[str, ...], options: WriteOptions) -> None:
    chunks.write_id3(file, _form(file), genres, options)


FORMAT = Format(
    name="dff",
    suffixes=frozenset({".dff"}),
    recognises=_recognises,
    read=_read,
    write_genres=_write_genres,
)
