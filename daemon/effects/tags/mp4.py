"""MP4 audio (m4a, m4b, 3gp): genres in the iTunes item list. Owns the genre items, nothing else.

A file with a moving picture is refused, to be read as well as to be written: people's films are none of our business.
A track of still pictures that go with chapters, as audio books and podcasts have, is no film.

The list is written back item by item as stored, by mutagen, which also moves the chunk offsets along when the list
grows. mutagen's own reading of the items would change some: it drops cover names and locales, and makes numbers as
wide as it thinks fit. A `gnre` item (a number of the ID3v1 list, plus one) becomes text, since the owner's genres are
not in that list.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from mutagen import mp4

from daemon.effects.tags import id3
from daemon.effects.tags.value import Format, Tags, Unusable, WriteOptions, as_others, fingerprint, joined

_GENRE, _GENRE_NUMBER = b"\xa9gen", b"gnre"
_FIELDS = {"artist": b"\xa9ART", "title": b"\xa9nam", "album": b"\xa9alb"}
_CONTAINERS = {b"moov", b"udta", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"mfra"}
_LIST = (b"moov", b"udta", b"meta", b"ilst")
_TRACK = (b"moov", b"trak")
_UTF8 = 1
# A moov box larger than this is no file that we would want in memory.
_MAX_LEAF = 1 << 28


@dataclass(frozen=True, slots=True)
class _Box:
    """One box (atom): the names from the top down to it, and where its content stands."""

    path: tuple[bytes, ...]
    start: int
    end: int

    @property
    def name(self) -> bytes:
        return self.path[-1]


def _recognises(file: BinaryIO) -> bool:
    file.seek(4)
    return file.read(4) == b"ftyp"


def _boxes(file: BinaryIO, start: int, end: int, path: tuple[bytes, ...] = ()) -> Iterator[_Box]:
    """Every box between `start` and `end`, parents before children."""
    at = start
    while at + 8 <= end:
        file.seek(at)
        size, name = struct.unpack(">I4s", file.read(8))
        content = at + 8
        if size == 1:
            size, content = int.from_bytes(file.read(8), "big"), at + 16
        elif size == 0 and not path:
            size = end - at
        if size < content - at or at + size > end:
            raise Unusable("its MP4 boxes do not fit into each other, as in a file that is cut short")
        box = _Box((*path, name), content, at + size)
        yield box
        if name in _CONTAINERS:
            yield from _boxes(file, content, box.end, box.path)
        elif box.path == _LIST[:3]:
            yield from _boxes(file, content + 4, box.end, box.path)
        elif box.path == _LIST:
            yield from _boxes(file, content, box.end, box.path)
        at += size


def _all_boxes(file: BinaryIO) -> list[_Box]:
    boxes = list(_boxes(file, 0, file.seek(0, os.SEEK_END)))
    if not any(box.path == (b"moov",) for box in boxes):
        raise Unusable("it is an MP4 file without an index (no moov box)")
    if _is_film(file, boxes):
        raise Unusable("it holds a film, which this program leaves alone")
    return boxes


def _is_film(file: BinaryIO, boxes: list[_Box]) -> bool:
    """Whether there is a video track that no other track names as its chapters (QuickTime's track reference "chap")."""
    films: set[int] = set()
    chapters: set[int] = set()
    number = 0
    for box in boxes:
        if box.path == (*_TRACK, b"tkhd"):
            number = _track_number(_content(file, box))
        elif box.path == (*_TRACK, b"mdia", b"hdlr") and _content(file, box)[8:12] == b"vide":
            films.add(number)
        elif box.path == (*_TRACK, b"tref"):
            chapters |= _chapter_tracks(_content(file, box))
    return bool(films - chapters)


def _track_number(header: bytes) -> int:
    """The number of a track, behind two times of 4 bytes each, or of 8 in version 1 of the box."""
    at = 20 if header[:1] == b"\x01" else 12
    return int.from_bytes(header[at : at + 4], "big")


def _chapter_tracks(references: bytes) -> set[int]:
    at = references.find(b"chap") - 4
    if at < 0:
        return set()
    size = int.from_bytes(references[at : at + 4], "big")
    return {int.from_bytes(references[n : n + 4], "big") for n in range(at + 8, min(at + size, len(references)), 4)}


def _content(file: BinaryIO, box: _Box) -> bytes:
    if box.end - box.start > _MAX_LEAF:
        raise Unusable(f"its MP4 box {box.name!r} is too large to be metadata")
    file.seek(box.start)
    return file.read(box.end - box.start)


def _items(file: BinaryIO, boxes: list[_Box]) -> list[tuple[bytes, bytes]]:
    """Name and content of every item in the list, in order."""
    depth = len(_LIST) + 1
    return [(box.name, _content(file, box)) for box in boxes if box.path[:-1] == _LIST and len(box.path) == depth]


def _values(item: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and bytes of each value in an item."""
    at = 0
    while at + 16 <= len(item):
        size, name, kind = struct.unpack_from(">I4sI", item, at)
        if size < 16 or at + size > len(item):
            return
        if name == b"data":
            yield kind & 0xFF_FFFF, item[at + 16 : at + size]
        at += size


def _texts(items: list[tuple[bytes, bytes]], name: bytes) -> list[str]:
    found: list[str] = []
    for key, content in items:
        if key == name:
            found += [
                value.decode("utf-16-be" if kind == 2 else "utf-8", "replace") for kind, value in _values(content)
            ]
    return found


def _genres(items: list[tuple[bytes, bytes]]) -> tuple[str, ...]:
    values = [value.strip() for value in _texts(items, _GENRE)]
    if not any(values):
        numbers = [
            int.from_bytes(value, "big") for key, item in items if key == _GENRE_NUMBER for _, value in _values(item)
        ]
        values = [id3.ID3V1_GENRES[number - 1] for number in numbers if 0 < number <= len(id3.ID3V1_GENRES)]
    return tuple(dict.fromkeys(value for value in values if value))


def _read(file: BinaryIO, separator: str) -> Tags:
    boxes = _all_boxes(file)
    items = _items(file, boxes)
    return Tags(
        container="m4a",
        genres=_genres(items),
        artist=joined(_texts(items, _FIELDS["artist"])),
        title=joined(_texts(items, _FIELDS["title"])),
        album=joined(_texts(items, _FIELDS["album"])),
        others=as_others(_others(file, boxes)),
    )


def _others(file: BinaryIO, boxes: list[_Box]) -> Iterator[tuple[str, str]]:
    """Every box but the sound; offsets into the file count from the box of sound that they point into.

    So chapter tracks and the like are known to point at the same bytes as before although those have moved.
    """
    parents = {box.path for box in boxes if box.name in _CONTAINERS} | {_LIST[:3], _LIST}
    sounds = [box for box in boxes if box.path == (b"mdat",)]
    for box in boxes:
        if box.path in parents or box.name in (b"free", b"skip") or box.path == (*_LIST[:3], b"hdlr"):
            continue
        name = ".".join(part.decode("latin-1") for part in box.path)
        if box.name == b"mdat":
            yield name, str(box.end - box.start)
        elif box.path[:-1] == _LIST:
            if box.name not in (_GENRE, _GENRE_NUMBER):
                yield name, fingerprint(_content(file, box))
        elif box.name in (b"stco", b"co64"):
            yield name, _anchored_table(_content(file, box), 4 if box.name == b"stco" else 8, sounds)
        else:
            yield name, fingerprint(_content(file, box))


def _anchored_table(table: bytes, width: int, sounds: list[_Box]) -> str:
    offsets = [int.from_bytes(table[at : at + width], "big") for at in range(8, len(table), width)]
    return fingerprint(table[:8], *(_anchored(offset, sounds) for offset in offsets))


def _anchored(offset: int, sounds: list[_Box]) -> bytes:
    for number, sound in enumerate(sounds):
        if sound.start <= offset < sound.end:
            return b"%d+%d" % (number, offset - sound.start)
    return b"%d" % offset


class _ItemList(mp4.MP4Tags):
    """The item list with every item but the genre as raw bytes: mutagen writes back as they are those that it keeps
    in `_failed_atoms` (its own way to carry what it cannot parse).
    """

    def load(self, atoms: Any, fileobj: Any) -> None:
        """Take the items as they stand; mutagen calls this with its own view of the file."""
        path = atoms.path(*_LIST)
        self._padding = 0
        for atom in path[-1].children:
            complete, content = atom.read(fileobj)
            if not complete:
                raise Unusable("its MP4 item list is cut short")
            self._failed_atoms.setdefault(atom.name.decode("latin-1"), []).append(content)

    def exchange_genres(self, genres: Sequence[str]) -> None:
        """Make `genres` the genre items, in the place of the ones that there were."""
        names = (_GENRE.decode("latin-1"), _GENRE_NUMBER.decode("latin-1"))
        new: dict[str, list[bytes]] = {names[0]: [_rendered(genres)]} if genres else {}
        items: dict[str, list[bytes]] = {}
        for name, contents in cast(dict[str, list[bytes]], self._failed_atoms).items():
            if name not in names:
                items[name] = contents
            else:
                items |= new
                new = {}
        self._failed_atoms = items | new


class _Mp4(mp4.MP4):
    """An MP4 file that reads its item list raw."""

    MP4Tags = _ItemList


def _check_movable(file: BinaryIO, boxes: list[_Box]) -> None:
    """mutagen moves the offsets of `stco` and `co64` along; of fragments it knows the first one only."""
    for box in boxes:
        absolute = box.name in (b"tfra", b"saio") or (box.name == b"tfhd" and _content(file, box)[3] & 1)
        if absolute:
            raise Unusable("it is a fragmented MP4 that counts from the start of the file: its parts cannot be moved")


def _rendered(genres: Sequence[str]) -> bytes:
    values = (genre.encode("utf-8") for genre in genres)
    return b"".join(struct.pack(">I4sII", 16 + len(value), b"data", _UTF8, 0) + value for value in values)


def _write_genres(file: BinaryIO, genres: tuple[str, ...], options: WriteOptions) -> None:
    _check_movable(file, _all_boxes(file))
    file.seek(0)
    opened: Any = _Mp4  # mutagen's files carry no types
    audio = opened(file)
    if audio.tags is None:
        if not genres:
            return
        audio.add_tags()
    cast(_ItemList, audio.tags).exchange_genres(genres)
    file.seek(0)
    audio.save(file)
    file.flush()


FORMAT = Format(
    name="m4a",
    suffixes=frozenset({".m4a", ".m4b", ".m4p", ".m4r", ".mp4", ".3gp", ".3g2"}),
    recognises=_recognises,
    read=_read,
    write_genres=_write_genres,
)
