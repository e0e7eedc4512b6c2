"""AIFF and AIFF-C: an ID3v2 tag in a chunk of its own. Owns nothing but that chunk.

The format's own text chunks (NAME, AUTH, ANNO) know no genre; they are read where the tag says nothing, never written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from daemon.effects.tags import chunks, id3
from daemon.effects.tags.chunks import Form, Tagged
from daemon.effects.tags.value import Format, Tags, Unusable, WriteOptions, as_others, fingerprint, joined

_SOUND = b"SSND"


def _recognises(file: BinaryIO) -> bool:
    file.seek(0)
    start = file.read(12)
    return start[:4] == b"FORM" and start[8:12] in (b"AIFF", b"AIFC")


def _form(file: BinaryIO) -> Form:
    form = chunks.read_form(file, chunks.AIFF)
    if form.first(_SOUND) is None:
        raise Unusable("it is an AIFF file without sound")
    return form


def _read(file: BinaryIO, separator: str) -> Tags:
    form = _form(file)
    held = chunks.tagged(file, form)
    return Tags(
        container="aiff",
        genres=id3.genres(held.tag, separator),
        artist=joined(id3.text(held.tag, "artist")) or _text(file, form, b"AUTH"),
        title=joined(id3.text(held.tag, "title")) or _text(file, form, b"NAME"),
        album=joined(id3.text(held.tag, "album")),
        others=as_others(_others(file, form, held)),
    )


def _text(file: BinaryIO, form: Form, name: bytes) -> str | None:
    """The standard of 1989 knows ASCII alone; what is not UTF-8 is taken for Latin-1."""
    chunk = form.first(name)
    raw = chunks.content(file, chunk).split(b"\0")[0].strip() if chunk else b""
    try:
        return raw.decode("utf-8") or None
    except UnicodeDecodeError:
        return raw.decode("latin-1") or None


def _others(file: BinaryIO, form: Form, held: Tagged) -> Iterator[tuple[str, str]]:
    yield from chunks.id3_others(file, form, held)
    for chunk in form.chunks:
        name = f"AIFF {chunk.name.decode('latin-1')}"
        if chunk.name == _SOUND:
            yield f"{name} size", str(chunk.size)
        elif chunk != held.chunk:
            yield name, fingerprint(chunks.content(file, chunk))


def _write_genres(file: BinaryIO, genres: tuple[str, ...], options: WriteOptions) -> None:
    chunks.write_id3(file, _form(file), genres, options)


FORMAT = Format(
    name="aiff",
    suffixes=frozenset({".aif", ".aifc", ".aiff", ".afc"}),
    recognises=_recognises,
    read=_read,
    write_genres=_write_genres,
)
