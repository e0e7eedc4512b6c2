"""Windows Media (ASF, wma): genres as WM/Genre attributes in the header. Owns these, the padding and the sizes.

A file has up to three places for attributes (ASF specification 1.20.03): the extended content description (3.11), and
in the header extension the metadata object (4.7) and the metadata library (4.8). All programs that we know read the
first; a genre in the others would go on telling the old one, so all are gathered in the first. Only a value too long
for it goes into the library, as every value behind that.

Packets and indexes count from the start of the sound, so the header may grow; the size of the file that it states is
kept right where it was right. Many programs leave it wrong, and no player cares.
"""

from __future__ import annotations

import dataclasses
import os
import struct
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from daemon.effects.tags.splice import splice
from daemon.effects.tags.stretch import fingerprint_of
from daemon.effects.tags.value import Format, Tags, Unusable, WriteOptions, as_others, fingerprint, joined


def _guid(text: str) -> bytes:
    return uuid.UUID(text).bytes_le


_HEADER = _guid("75B22630-668E-11CF-A6D9-00AA0062CE6C")
_DATA = _guid("75B22636-668E-11CF-A6D9-00AA0062CE6C")
_FILE = _guid("8CABDCA1-A947-11CF-8EE4-00C00C205365")
_STREAM = _guid("B7DC0791-A9B7-11CF-8EE6-00C00C205365")
_VIDEO = _guid("BC19EFC0-5B4D-11CF-A8FD-00805F5C442B")
_DESCRIPTION = _guid("75B22633-668E-11CF-A6D9-00AA0062CE6C")
_EXTENDED = _guid("D2D0A440-E307-11D2-97F0-00A0C95EA850")
_EXTENSION = _guid("5FBF03B5-A92E-11CF-8EE3-00C00C205365")
_METADATA = _guid("C5F8CBEA-5BAF-4877-8467-AA8C44FA4CCA")
_LIBRARY = _guid("44231C94-9498-49D1-A141-1D134E457054")
_PADDING = _guid("1806D474-CADF-4509-A4BA-9AABCB96AAE8")

_OBJECT = struct.Struct("<16sQ")
# Number of objects in the header, and two reserved bytes.
_HEADER_REST = struct.Struct("<I2s")
_HEADER_SIZE = _OBJECT.size + _HEADER_REST.size
# In the header extension: a reserved GUID and number, then the length of the objects inside.
_EXTENSION_HEAD = 22
# In the file properties: 16 bytes of file id, then the size of the file.
_FILE_SIZE = slice(16, 24)
_TEXT = 0
_MAX_SHORT = 0xFFFF
_MAX_HEADER = 1 << 28
# Left for the next program that edits the header in place, where it has to grow anyway.
_NEW_PADDING = 2048


@dataclass(frozen=True, slots=True)
class _Object:
    """One object of the header: its kind and its content."""

    guid: bytes
    content: bytes


@dataclass(frozen=True, slots=True)
class _Header:
    """The objects of the header in order, those inside its extension apart, its reserved bytes, and where it ends."""

    objects: tuple[_Object, ...]
    inside: tuple[_Object, ...]
    reserved: bytes
    end: int

    def contents(self, guid: bytes) -> list[bytes]:
        """The contents of every object of the kind `guid`."""
        return [held.content for held in (*self.objects, *self.inside) if held.guid == guid]


@dataclass(frozen=True, slots=True)
class _Attribute:
    """One attribute: all of its bytes, and what they say."""

    stored: bytes
    name: str
    kind: int
    value: bytes

    @property
    def is_genre(self) -> bool:
        """Whether it is a genre as text."""
        return self.name.casefold() == "wm/genre" and self.kind == _TEXT


@dataclass(frozen=True, slots=True)
class _Form:
    """How an object holds attributes: the numbers before the name, and whether type and length come behind it."""

    before: struct.Struct
    behind: struct.Struct | None


# Behind the count of two bytes, each attribute is, in the extended content description: length of name, name, type,
# length of value, value. In the other two: language (or nothing), stream, length of name, type, length of value, both.
_SHORT = _Form(struct.Struct("<H"), struct.Struct("<HH"))
_LONG = _Form(struct.Struct("<HHHHI"), None)
_FORMS = {_EXTENDED: _SHORT, _METADATA: _LONG, _LIBRARY: _LONG}


def _recognises(file: BinaryIO) -> bool:
    file.seek(0)
    return file.read(len(_HEADER)) == _HEADER


def _header(file: BinaryIO) -> _Header:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(_HEADER_SIZE)
    if len(head) < _HEADER_SIZE:
        raise Unusable("its ASF header is cut short")
    _, length = _OBJECT.unpack_from(head)
    count, reserved = _HEADER_REST.unpack_from(head, _OBJECT.size)
    if not _HEADER_SIZE <= length <= min(size, _MAX_HEADER):
        raise Unusable("its ASF header has an impossible size")
    objects = tuple(_objects(file.read(length - _HEADER_SIZE)))
    if len(objects) != count:
        raise Unusable("its ASF header holds other objects than it says")
    extensions = [held.content for held in objects if held.guid == _EXTENSION]
    if len(extensions) > 1:
        raise Unusable("its ASF header has more than one extension")
    inside = [held for content in extensions for held in _extension(content)]
    header = _Header(objects, tuple(inside), reserved, length)
    if _is_film(header):
        raise Unusable("it holds a film, which this program leaves alone")
    return header


def _objects(data: bytes) -> Iterator[_Object]:
    at = 0
    while at < len(data):
        guid, size = _OBJECT.unpack_from(data, at) if at + _OBJECT.size <= len(data) else (b"", 0)
        if size < _OBJECT.size or at + size > len(data):
            raise Unusable("its ASF header objects do not fit into each other")
        yield _Object(guid, data[at + _OBJECT.size : at + size])
        at += size


def _extension(content: bytes) -> Iterator[_Object]:
    if int.from_bytes(content[_EXTENSION_HEAD - 4 : _EXTENSION_HEAD], "little") != len(content) - _EXTENSION_HEAD:
        raise Unusable("its ASF header extension has an impossible size")
    yield from _objects(content[_EXTENSION_HEAD:])


def _is_film(header: _Header) -> bool:
    """Whether a stream is video; in the extension one may be described inside an extended description of it."""
    if any(content.startswith(_VIDEO) for content in header.contents(_STREAM)):
        return True
    return any(_STREAM in held.content and _VIDEO in held.content for held in header.inside)


def _sound_end(file: BinaryIO, header: _Header) -> int | None:
    """Where the object with the packets ends, by its own size; None where it does not follow the header."""
    file.seek(header.end)
    head = file.read(_OBJECT.size)
    if len(head) < _OBJECT.size or not head.startswith(_DATA):
        return None
    return header.end + int(_OBJECT.unpack(head)[1])


def _attributes(held: _Object) -> tuple[list[_Attribute], bytes]:
    """The attributes in an object that holds such, and what is left behind them."""
    data, form = held.content, _FORMS[held.guid]
    found: list[_Attribute] = []
    at = 2
    for _ in range(int.from_bytes(data[:2], "little")):
        attribute = _attribute_at(data, at, form)
        found.append(attribute)
        at += len(attribute.stored)
    return found, data[at:]


def _attribute_at(data: bytes, begin: int, form: _Form) -> _Attribute:
    at = begin + form.before.size
    if form.behind is None:
        _, _, name_size, kind, size = form.before.unpack_from(data, begin)
        start = at + name_size
    else:
        (name_size,) = form.before.unpack_from(data, begin)
        kind, size = form.behind.unpack_from(data, at + name_size)
        start = at + name_size + form.behind.size
    if start + size > len(data):
        raise Unusable("its ASF attributes are damaged")
    return _Attribute(data[begin : start + size], _text(data[at : at + name_size]), kind, data[start : start + size])


def _text(raw: bytes) -> str:
    return raw[: len(raw) & ~1].decode("utf-16-le", "replace").split("\0")[0].strip()


def _all_attributes(header: _Header) -> Iterator[_Attribute]:
    """Every attribute, in the order in which the three kinds of object count."""
    for guid in _FORMS:
        for content in header.contents(guid):
            yield from _attributes(_Object(guid, content))[0]


def _description(header: _Header, number: int) -> str | None:
    """A text of the content description: 0 is the title, 1 the author."""
    for content in header.contents(_DESCRIPTION):
        sizes = struct.unpack_from("<5H", content)
        start = 10 + sum(sizes[:number])
        return _text(content[start : start + sizes[number]]) or None
    return None


def _read(file: BinaryIO, separator: str) -> Tags:
    header = _header(file)
    attributes = list(_all_attributes(header))
    genres = (_text(attribute.value) for attribute in attributes if attribute.is_genre)
    albums = (_text(held.value) for held in attributes if held.name == "WM/AlbumTitle" and held.kind == _TEXT)
    return Tags(
        container="wma",
        genres=tuple(dict.fromkeys(genre for genre in genres if genre)),
        artist=_description(header, 1),
        title=_description(header, 0),
        album=joined(albums),
        others=as_others(_others(file, header)),
    )


def _others(file: BinaryIO, header: _Header) -> Iterator[tuple[str, str]]:
    size = file.seek(0, os.SEEK_END)
    yield "ASF reserved bytes", header.reserved.hex()
    for held in (*header.objects, *header.inside):
        if held.guid in _FORMS:
            attributes, rest = _attributes(held)
            yield from ((f"ASF {each.name}", fingerprint(each.stored)) for each in attributes if not each.is_genre)
            if rest:
                yield "ASF bytes behind attributes", fingerprint(rest)
        elif held.guid == _EXTENSION:
            yield "ASF header extension", fingerprint(held.content[: _EXTENSION_HEAD - 4])
        elif held.guid == _FILE:
            stated = int.from_bytes(held.content[_FILE_SIZE], "little")
            yield "ASF stated size", "right" if stated == size else str(stated)
            kept = held.content[: _FILE_SIZE.start], held.content[_FILE_SIZE.stop :]
            yield "ASF file properties", fingerprint(*kept)
        elif held.guid != _PADDING:
            yield f"ASF object {uuid.UUID(bytes_le=held.guid)}", fingerprint(held.content)
    sound_end = _sound_end(file, header) or header.end
    yield "ASF sound size", str(sound_end - header.end)
    if sound_end < size:
        yield "ASF bytes behind the sound", fingerprint_of(file, sound_end, size)


def _write_genres(file: BinaryIO, genres: tuple[str, ...], options: WriteOptions) -> None:
    header = _header(file)
    size = file.seek(0, os.SEEK_END)
    sound_end = _sound_end(file, header)
    if sound_end is None or not header.end + _OBJECT.size < sound_end <= size:
        raise Unusable("its ASF sizes contradict the file, as in a stream or a cut recording; it is left as it is")
    new = _padded(_with_genres(header, genres), header.end)
    rendered = _rendered(new)
    objects = [_with_file_size(held, size, size + len(rendered) - header.end) for held in new.objects]
    splice(file, 0, header.end, _rendered(dataclasses.replace(new, objects=tuple(objects))))


def _with_genres(header: _Header, genres: Sequence[str]) -> _Header:
    """`header` with `genres` in the extended content description, as far as they fit there, then in the library."""
    raw = [(genre + "\0").encode("utf-16-le") for genre in genres]
    fit = next((number for number, value in enumerate(raw) if len(value) > _MAX_SHORT), len(raw))
    short, long = raw[:fit], raw[fit:]
    if short and not header.contents(_EXTENDED):
        header = dataclasses.replace(header, objects=(*header.objects, _Object(_EXTENDED, b"\0\0")))
    if long and not any(held.guid == _EXTENSION for held in header.objects):
        raise Unusable("its ASF header has no place for a genre that long")
    if long and not header.contents(_LIBRARY):
        header = dataclasses.replace(header, inside=(*header.inside, _Object(_LIBRARY, b"\0\0")))
    left = {_EXTENDED: short, _LIBRARY: long}
    objects = [_exchanged(held, left.pop(held.guid, [])) for held in header.objects]
    inside = [_exchanged(held, left.pop(held.guid, [])) for held in header.inside]
    return dataclasses.replace(header, objects=tuple(objects), inside=tuple(inside))


def _exchanged(held: _Object, values: Sequence[bytes]) -> _Object:
    """`held` with `values` as its genres, in the place of the first one that it had; unchanged without attributes."""
    if held.guid not in _FORMS:
        return held
    attributes, rest = _attributes(held)
    at = next((number for number, each in enumerate(attributes) if each.is_genre), len(attributes))
    stored = [each.stored for each in attributes[:at]]
    stored += [_attribute(value, _FORMS[held.guid]) for value in values]
    stored += [each.stored for each in attributes[at:] if not each.is_genre]
    if len(stored) > _MAX_SHORT:
        raise Unusable("it has more attributes than an ASF object can hold")
    return _Object(held.guid, len(stored).to_bytes(2, "little") + b"".join(stored) + rest)


def _attribute(value: bytes, form: _Form) -> bytes:
    name = "WM/Genre\0".encode("utf-16-le")
    if form.behind is None:
        return form.before.pack(0, 0, len(name), _TEXT, len(value)) + name + value
    return form.before.pack(len(name)) + name + form.behind.pack(_TEXT, len(value)) + value


def _with_file_size(held: _Object, before: int, after: int) -> _Object:
    stated = held.content[_FILE_SIZE]
    if held.guid != _FILE or int.from_bytes(stated, "little") != before:
        return held
    return _Object(
        _FILE, held.content[: _FILE_SIZE.start] + after.to_bytes(8, "little") + held.content[_FILE_SIZE.stop :]
    )


def _padded(header: _Header, room: int) -> _Header:
    """`header` with its last padding resized so that it fills `room`; where it cannot, with new padding."""
    if len(_rendered(header)) == room:
        return header
    if not header.contents(_PADDING):
        header = dataclasses.replace(header, objects=(*header.objects, _Object(_PADDING, b"")))
    free = room - len(_rendered(_repadded(header, 0)))
    return _repadded(header, free if free >= 0 else _NEW_PADDING)


def _repadded(header: _Header, size: int) -> _Header:
    """`header` with the last padding of its objects resized to `size`, or of those inside where the others are none."""
    padding = _Object(_PADDING, bytes(size))
    if any(held.guid == _PADDING for held in header.objects):
        return dataclasses.replace(header, objects=_with_last(header.objects, padding))
    return dataclasses.replace(header, inside=_with_last(header.inside, padding))


def _with_last(objects: Sequence[_Object], new: _Object) -> tuple[_Object, ...]:
    last = max(number for number, held in enumerate(objects) if held.guid == new.guid)
    return (*objects[:last], new, *objects[last + 1 :])


def _rendered(header: _Header) -> bytes:
    inside = b"".join(_object_bytes(held) for held in header.inside)
    body = b""
    for held in header.objects:
        if held.guid == _EXTENSION:
            head = held.content[: _EXTENSION_HEAD - 4] + len(inside).to_bytes(4, "little")
            held = _Object(_EXTENSION, head + inside)
            inside = b""
        body += _object_bytes(held)
    start = _OBJECT.pack(_HEADER, _HEADER_SIZE + len(body))
    return start + _HEADER_REST.pack(len(header.objects), header.reserved) + body


def _object_bytes(held: _Object) -> bytes:
    return _OBJECT.pack(held.guid, _OBJECT.size + len(held.content)) + held.content


FORMAT = Format(
    name="wma",
    suffixes=frozenset({".wma", ".asf"}),
    recognises=_recognises,
    read=_read,
    write_genres=_write_genres,
)
