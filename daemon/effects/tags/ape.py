"""The APEv2 tag as bytes: takes it apart into items, reads text, exchanges the genre item. Touches no file.

Every other item keeps its bytes, flags and place, and so do the flags and reserved bytes of the header and footer.
mutagen, asked to save a tag, would sort the items, add a header, drop an ID3v1 tag that follows, and accept a tag whose
item count lies.

An edge (header or footer, 32 bytes) states the version, the size of items and footer, the number of items and flags;
bit 31 says that there is a header, bit 29 that this edge is it. Text is UTF-8, several values have nulls between them.
APEv1 (version 1000) has a footer alone, no flags, and text in a code page that it does not name. It is read; it becomes
APEv2 where the new genres need that and all that it holds means the same there.
Source: APEv2 specification, Hydrogenaudio Knowledgebase.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from daemon.effects.tags.value import Unusable, fingerprint

MAGIC: Final = b"APETAGEX"
EDGE_SIZE: Final = 32

_EDGE = struct.Struct("<8sIIII8s")
_ITEM = struct.Struct("<II")
_V1, _V2 = 1000, 2000
_HAS_HEADER, _IS_HEADER = 1 << 31, 1 << 29
_KIND = 0b110
_GENRE = b"genre"
_MAX_KEY = 255
_MAX_SIZE = 1 << 28


@dataclass(frozen=True, slots=True)
class Edge:
    """What a header or footer says beside version, size and number of items, which follow from the tag."""

    flags: int
    reserved: bytes = bytes(8)


@dataclass(frozen=True, slots=True)
class Item:
    """One item as stored. The two kind bits of `flags` are 0 for text, 1 for bytes, 2 for an address."""

    key: bytes
    flags: int
    value: bytes

    @property
    def is_genre(self) -> bool:
        """Whether this is the genre, whatever the case of its key."""
        return self.key.lower() == _GENRE


@dataclass(frozen=True, slots=True)
class Tag:
    """A whole tag; a tag has a header, a footer, or both."""

    items: tuple[Item, ...] = ()
    version: int = _V2
    header: Edge | None = Edge(_HAS_HEADER | _IS_HEADER)
    footer: Edge | None = Edge(_HAS_HEADER)

    @property
    def names_genre(self) -> bool:
        """Whether it has a genre item, even an empty one."""
        return any(item.is_genre for item in self.items)


def size_at_front(header: bytes) -> int | None:
    """The size of the tag that begins with `header` (32 bytes); None where no tag begins."""
    edge = _edge(header)
    return EDGE_SIZE + edge[1] if edge is not None and edge[3] & _IS_HEADER else None


def parse(data: bytes) -> Tag:
    """Take apart the tag in `data`, which is all of it.

    Raises:
        Unusable: sizes, counts or flags contradict each other or the bytes, or the genre is no text.
    """
    if len(data) > _MAX_SIZE:
        raise Unusable("its APEv2 tag is too large to be one")
    header, footer = _edge(data[:EDGE_SIZE]), _edge(data[-EDGE_SIZE:])
    header = header if header is not None and header[3] & _IS_HEADER else None
    footer = footer if footer is not None and not footer[3] & _IS_HEADER else None
    edges = [edge for edge in (header, footer) if edge is not None]
    if not edges:
        raise Unusable("its APEv2 tag has neither header nor footer")
    version = edges[0][0]
    body = data[EDGE_SIZE if header else 0 : len(data) - (EDGE_SIZE if footer else 0)]
    items = tuple(_split(body))
    told = (version, len(body) + (EDGE_SIZE if footer else 0), len(items))
    if version not in (_V1, _V2) or any(edge[:3] != told for edge in edges):
        raise Unusable("its APEv2 tag is damaged: its size or its number of items is not what it says")
    if any(bool(edge[3] & _HAS_HEADER) != (header is not None) for edge in edges):
        raise Unusable("its APEv2 tag is damaged: it says of its header what is not so")
    if version == _V2 and any(item.is_genre and item.flags & _KIND for item in items):
        raise Unusable("the genre in its APEv2 tag is marked as no text")
    return Tag(items, version, *(Edge(edge[3], edge[4]) if edge is not None else None for edge in (header, footer)))


def render(tag: Tag) -> bytes:
    """The bytes of `tag`; `parse` gives back the same value."""
    body = b"".join(_ITEM.pack(len(item.value), item.flags) + item.key + b"\0" + item.value for item in tag.items)
    size = len(body) + (EDGE_SIZE if tag.footer is not None else 0)
    if size > _MAX_SIZE - EDGE_SIZE:
        raise Unusable("its APEv2 tag would grow beyond 256 MiB")
    header, footer = (
        _EDGE.pack(MAGIC, tag.version, size, len(tag.items), edge.flags, edge.reserved) if edge is not None else b""
        for edge in (tag.header, tag.footer)
    )
    return header + body + footer


def text(tag: Tag, field: str) -> list[str]:
    """The values of `field`, whatever the case of its key; empty where the tag has none, or no text."""
    wanted = field.lower().encode("ascii")
    return [
        value
        for item in tag.items
        if item.key.lower() == wanted and not (tag.version == _V2 and item.flags & _KIND)
        for part in _decoded(item.value).split("\0")
        if (value := part.lstrip("\ufeff").strip())
    ]


def genres(tag: Tag) -> tuple[str, ...]:
    """The genres, each once, in order."""
    return tuple(dict.fromkeys(text(tag, "genre")))


def with_genres(tag: Tag, values: Sequence[str]) -> Tag:
    """`tag` with `values` as its genres: in the place, with the key and flags of the first one, else as the last item.

    Raises:
        Unusable: an APEv1 tag that cannot hold them and cannot become APEv2 without a change of what it says.
    """
    first = next((item for item in tag.items if item.is_genre), Item(b"Genre", 0, b""))
    new = [dataclasses.replace(first, value="\0".join(values).encode("utf-8"))] if values else []
    items: list[Item] = []
    for item in tag.items:
        if not item.is_genre:
            items.append(item)
        elif new:
            items.append(new.pop())
    edited = dataclasses.replace(tag, items=(*items, *new))
    fits = tag.version == _V2 or (len(values) < 2 and all(value.isascii() for value in values))
    return edited if fits else _as_v2(edited)


def others(tag: Tag) -> Iterator[tuple[str, str]]:
    """Name and hash of every item that is not a genre, and of the flags of a tag that has such items."""
    told = [item for item in tag.items if not item.is_genre]
    for item in told:
        name = item.key.decode("ascii", "backslashreplace")
        yield f"APEv2 {name}", fingerprint(item.key, item.flags.to_bytes(4, "little"), item.value)
    if told:
        edges = [edge for edge in (tag.header, tag.footer) if edge is not None]
        yield "APEv2 flags", fingerprint(*(edge.flags.to_bytes(4, "little") + edge.reserved for edge in edges))


def _edge(data: bytes) -> tuple[int, int, int, int, bytes] | None:
    """Version, size, number of items, flags and reserved bytes; None where `data` is no edge."""
    if len(data) < EDGE_SIZE or not data.startswith(MAGIC):
        return None
    _, version, size, count, flags, reserved = _EDGE.unpack(data[:EDGE_SIZE])
    return version, size, count, flags, reserved


def _split(body: bytes) -> Iterator[Item]:
    at = 0
    while at < len(body):
        if at + _ITEM.size > len(body):
            raise Unusable("its APEv2 tag is damaged: its last item is cut short")
        size, flags = _ITEM.unpack_from(body, at)
        start = at + _ITEM.size
        null = body.find(b"\0", start, start + _MAX_KEY + 1)
        if null <= start or null + 1 + size > len(body):
            raise Unusable("its APEv2 tag is damaged: an item does not fit into it")
        at = null + 1 + size
        yield Item(body[start:null], flags, body[null + 1 : at])


def _decoded(value: bytes) -> str:
    """Old programs wrote Latin-1 into APEv2 tags too."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _as_v2(tag: Tag) -> Tag:
    """An APEv1 tag as APEv2, its bytes unchanged."""
    if any(item.flags or not item.value.isascii() or b"\0" in item.value for item in tag.items if not item.is_genre):
        raise Unusable("its APEv1 tag knows neither lists nor other scripts, and would say other things as APEv2")
    return dataclasses.replace(tag, version=_V2)
