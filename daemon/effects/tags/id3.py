"""The ID3v2 tag as bytes: takes it apart into frames, reads text, exchanges the genre frame. Touches no file.

Every other frame is carried over byte for byte, whatever it is: mutagen, asked to load and save a tag, would drop
frames that it cannot parse, merge double ones, re-encode text and turn v2.2 and v2.3 into v2.4. Here
a tag keeps its version.

Genre text. In v2.4 the values are a list with null between them. v2.2 and v2.3 know one text only, so values are
joined with a separator, as most programs do; where a genre itself contains the separator, nulls are used instead,
and a null in such a tag always means "do not split at the separator". A reference to the ID3v1 list in brackets,
"(17)" or "(4)Eurodisco", is read as what it means; a text that would be taken for one is written with a double
bracket, which is the standard's own escape (ID3v2.3.0, section 4.2.1, TCON). A bare number stays the text that it is,
because the owner's genre may be called "80"; programs that follow the standard will show number 80 of the ID3v1 list.
"""

from __future__ import annotations

import dataclasses
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from mutagen.id3 import TCON

from daemon.effects.tags.value import Unusable, fingerprint

HEADER_SIZE = 10
ID3V1_GENRES: Final[tuple[str, ...]] = tuple(TCON.GENRES)

# The largest text that anybody would want to see; a compressed frame may not unpack to more.
_MAX_TEXT = 1 << 20
# Room left for the next program that edits the tag in place, where the tag has to grow anyway.
_PADDING = 1024

_UNSYNCHRONISED, _EXTENDED, _FOOTER, _V22_COMPRESSED = 0x80, 0x40, 0x10, 0x40
_GENRE_NAMES = (b"TCON", b"TCO")
_NAMES = {"artist": (b"TPE1", b"TP1"), "title": (b"TIT2", b"TT2"), "album": (b"TALB", b"TAL")}
# Some programs write three-letter names into v2.3 tags and fill them up.
_FRAME_NAME = re.compile(rb"[A-Z0-9]{3}[A-Z0-9 \0]?")
_REFERENCE = re.compile(r"((?:\((?:\d{1,3}|RX|CR)\))+)(.*)", re.DOTALL)
_WORDS = {"RX": "Remix", "CR": "Cover"}


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as stored: its name, its flags, and its body with whatever the flags say was done to it."""

    name: bytes
    flags: int
    body: bytes

    @property
    def is_genre(self) -> bool:
        """Whether this is the content type frame."""
        return self.name.rstrip(b"\0 ") in _GENRE_NAMES


@dataclass(frozen=True, slots=True)
class Tag:
    """A whole tag. `junk` is what follows the last frame and is neither frame nor padding; `size` is its size as read.

    `plain_sizes` says that a v2.4 tag was written with ordinary numbers for its frame sizes (old iTunes).
    """

    version: int
    flags: int = 0
    frames: tuple[Frame, ...] = ()
    junk: bytes = b""
    size: int = 0
    plain_sizes: bool = False


def size_of(header: bytes) -> int | None:
    """The size of the tag that begins with `header` (10 bytes), its header and footer included; None for no tag."""
    if len(header) < HEADER_SIZE or header[:3] != b"ID3":
        return None
    version, flags = header[3], header[5]
    size = _synchsafe(header[6:10])
    if size is None:
        raise Unusable("its ID3v2 header has an impossible size")
    return HEADER_SIZE + size + (HEADER_SIZE if version == 4 and flags & _FOOTER else 0)


def parse(data: bytes) -> Tag:
    """Take apart the tag in `data`, which is all of it.

    Raises:
        Unusable: no version of ID3v2 that exists, or cut short.
    """
    size = size_of(data[:HEADER_SIZE])
    if size is None or len(data) < size:
        raise Unusable("its ID3v2 tag is cut short")
    version, flags = data[3], data[5]
    if version not in (2, 3, 4) or (version == 2 and flags & _V22_COMPRESSED):
        raise Unusable(f"it has an ID3v2.{version} tag of a kind that nobody can read")
    body = data[HEADER_SIZE : size - (HEADER_SIZE if version == 4 and flags & _FOOTER else 0)]
    if version < 4 and flags & _UNSYNCHRONISED:
        body, flags = _resynchronised(body), flags & ~_UNSYNCHRONISED
    if version > 2 and flags & _EXTENDED:
        body, flags = _without_extended_header(body, version), flags & ~_EXTENDED
    if version == 4:
        flags &= ~_FOOTER
    frames, junk, plain_sizes = _split(body, version)
    return Tag(version, flags, frames, junk, size, plain_sizes)


def render(tag: Tag) -> bytes:
    """The bytes of `tag`: of the size it had where its frames fit into that, else with some padding."""
    frames = b"".join(_frame_bytes(frame, tag) for frame in tag.frames) + tag.junk
    needed = HEADER_SIZE + len(frames)
    size = tag.size if tag.size >= needed else needed + _PADDING
    if size - HEADER_SIZE >= 1 << 28:
        raise Unusable("its ID3v2 tag would grow beyond 256 MiB")
    header = struct.pack(">3sBBB", b"ID3", tag.version, 0, tag.flags) + _to_synchsafe(size - HEADER_SIZE)
    return (header + frames).ljust(size, b"\0")


def text(tag: Tag, field: str) -> list[str]:
    """The values of "artist", "title" or "album"; empty where the tag has none."""
    return [value for frame in tag.frames if frame.name in _NAMES[field] for value in _values(frame, tag) if value]


def genres(tag: Tag, separator: str) -> tuple[str, ...]:
    """The genres of `tag`, references resolved; a joined text of v2.2 and v2.3 is split at `separator`."""
    found: list[str] = []
    for frame in tag.frames:
        if not frame.is_genre:
            continue
        values = _values(frame, tag)
        if tag.version < 4 and len(values) == 1 and separator:
            values = [value.strip() for value in values[0].split(separator)]
        for value in values:
            found.extend(_resolved(value))
    return tuple(dict.fromkeys(value for value in found if value))


def with_genres(tag: Tag, values: Sequence[str], separator: str) -> Tag:
    """`tag` with `values` as its genres, in the place of the frame that held them, else after the last frame."""
    new: list[Frame] = []
    if values:
        new = [Frame(b"TCO" if tag.version == 2 else b"TCON", 0, _genre_body(values, tag.version, separator))]
    frames: list[Frame] = []
    for frame in tag.frames:
        if not frame.is_genre:
            frames.append(frame)
        elif new:
            frames.append(new.pop())
    return dataclasses.replace(tag, frames=(*frames, *new))


def others(tag: Tag) -> Iterator[tuple[str, str]]:
    """Name and hash of everything in `tag` that is not genre; the padding is nothing."""
    for frame in tag.frames:
        if not frame.is_genre:
            yield f"ID3v2 {frame.name.decode('latin-1')}", fingerprint(frame.flags.to_bytes(2, "big"), frame.body)
    if tag.junk:
        yield "ID3v2 unreadable rest", fingerprint(tag.junk)


def text_frame(name: bytes, latin1: bytes) -> Frame:
    """A text frame that holds `latin1` as it is."""
    return Frame(name, 0, b"\0" + latin1)


def _genre_body(values: Sequence[str], version: int, separator: str) -> bytes:
    escaped = [f"({value}" if _would_be_misread(value) else value for value in values]
    if version == 4:
        whole = "\0".join(escaped)
    elif not separator or any(separator in value for value in values):
        whole = "\0".join(escaped) + "\0"
    else:
        whole = separator.join(escaped)
    if whole.isascii():
        return b"\0" + whole.encode("ascii")
    if version == 4:
        return b"\x03" + whole.encode("utf-8")
    return b"\x01\xff\xfe" + whole.encode("utf-16-le")


def _would_be_misread(value: str) -> bool:
    return value.startswith("((") or _REFERENCE.match(value) is not None


def _resolved(value: str) -> list[str]:
    if value.startswith("(("):
        return [value[1:]]
    match = _REFERENCE.match(value)
    if match is None:
        return [value]
    references, refinement = match.groups()
    if refinement:
        return [refinement]
    return [_referred(name) for name in references[1:-1].split(")(")]


def _referred(name: str) -> str:
    if name in _WORDS:
        return _WORDS[name]
    number = int(name)
    return ID3V1_GENRES[number] if number < len(ID3V1_GENRES) else f"({name})"


def _values(frame: Frame, tag: Tag) -> list[str]:
    """The strings of a text frame. A null after a single value gives an empty second one: `genres` needs to see it."""
    body = _content(frame, tag)
    if not body:
        return []
    whole = _decoded(body)
    values = [value.lstrip("\ufeff").strip() for value in whole.split("\0")]
    if tag.version == 4 or not frame.is_genre:
        return [value for value in values if value]
    return values


def _decoded(body: bytes) -> str:
    encoding, raw = body[0], body[1 : 1 + _MAX_TEXT]
    if encoding == 1:
        codec = "utf-16-be" if raw[:2] == b"\xfe\xff" else "utf-16-le"
        return raw[: len(raw) & ~1].decode(codec, "replace")
    if encoding == 2:
        return raw[: len(raw) & ~1].decode("utf-16-be", "replace")
    return raw.decode("utf-8" if encoding == 3 else "latin-1", "replace")


def _content(frame: Frame, tag: Tag) -> bytes:
    """The body with the work of the frame's flags undone; empty where it is encrypted."""
    if tag.version == 2 or (not frame.flags and not (tag.version == 4 and tag.flags & _UNSYNCHRONISED)):
        return frame.body
    if tag.version == 3:
        compressed, encrypted, grouped = frame.flags & 0x80, frame.flags & 0x40, frame.flags & 0x20
        body = frame.body[(4 if compressed else 0) + (1 if grouped else 0) :]
    else:
        compressed, encrypted, grouped = frame.flags & 0x08, frame.flags & 0x04, frame.flags & 0x40
        body = frame.body[(1 if grouped else 0) + (4 if frame.flags & 0x01 else 0) :]
        if frame.flags & 0x02 or tag.flags & _UNSYNCHRONISED:
            body = _resynchronised(body)
    if encrypted:
        return b""
    return _inflated(body) if compressed else body


def _inflated(body: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(body, _MAX_TEXT)
    except zlib.error:
        # One damaged frame is no reason to refuse the file: it is carried over as it stands.
        return b""


def _split(body: bytes, version: int) -> tuple[tuple[Frame, ...], bytes, bool]:
    frames, junk = _walk(body, version, plain_sizes=version != 4)
    if version != 4 or not junk:
        return frames, junk, False
    plain_frames, plain_junk = _walk(body, version, plain_sizes=True)
    if len(plain_junk) < len(junk):
        return plain_frames, plain_junk, True
    return frames, junk, False


def _walk(body: bytes, version: int, *, plain_sizes: bool) -> tuple[tuple[Frame, ...], bytes]:
    """The frames from the start of `body`, and the rest unless that is padding."""
    name_size, head_size = (3, 6) if version == 2 else (4, 10)
    frames: list[Frame] = []
    at = 0
    while at + head_size <= len(body):
        name = body[at : at + name_size]
        size = _frame_size(body[at + name_size : at + name_size + (3 if version == 2 else 4)], plain_sizes)
        if not _FRAME_NAME.fullmatch(name) or size is None or at + head_size + size > len(body):
            break
        flags = 0 if version == 2 else int.from_bytes(body[at + 8 : at + 10], "big")
        frames.append(Frame(name, flags, body[at + head_size : at + head_size + size]))
        at += head_size + size
    return tuple(frames), body[at:].rstrip(b"\0")


def _frame_size(field: bytes, plain_sizes: bool) -> int | None:
    return int.from_bytes(field, "big") if plain_sizes else _synchsafe(field)


def _frame_bytes(frame: Frame, tag: Tag) -> bytes:
    size = len(frame.body)
    if size >= 1 << (24 if tag.version == 2 else 28):
        raise Unusable("one of its ID3v2 frames is too large to be written")
    if tag.version == 2:
        return frame.name + size.to_bytes(3, "big") + frame.body
    plain = tag.version == 3 or tag.plain_sizes
    field = size.to_bytes(4, "big") if plain else _to_synchsafe(size)
    return frame.name + field + frame.flags.to_bytes(2, "big") + frame.body


def _without_extended_header(body: bytes, version: int) -> bytes:
    """Its checksum and padding size would be wrong after an edit; a tag may do without it.

    Some programs set the flag and write no such header: then a frame stands in its place.
    """
    if re.fullmatch(rb"[A-Z][A-Z0-9]{3}", body[:4]):
        return body
    size = _synchsafe(body[:4]) if version == 4 else 4 + int.from_bytes(body[:4], "big")
    if size is None or not 4 <= size <= len(body):
        raise Unusable("its ID3v2 tag has an impossible extended header")
    return body[size:]


def _resynchronised(data: bytes) -> bytes:
    return data.replace(b"\xff\x00", b"\xff")


def _synchsafe(field: bytes) -> int | None:
    if len(field) != 4 or any(byte & 0x80 for byte in field):
        return None
    return field[0] << 21 | field[1] << 14 | field[2] << 7 | field[3]


def _to_synchsafe(size: int) -> bytes:
    return bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0))
