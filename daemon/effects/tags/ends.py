"""The tags in front of and behind a stream of sound: finds them, and keeps those in step that name a genre.

Shared by the containers that are such a stream with tags around it (mp3, tta, and those tagged with APEv2). Where the
tags behind the sound begin is said by `daemon.core.trailer`, so that whoever hashes the sound means the same bytes. An
ID3v2 tag *behind* the sound (old Audacious) and Lyrics3 stay as they are: nothing that we know reads a genre there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from daemon.core.trailer import Trailer, TrailerKind, leading_tags_end, trailing_tags
from daemon.effects.tags import ape, id3, id3v1
from daemon.effects.tags.splice import splice
from daemon.effects.tags.value import Unusable, fingerprint

# How far before the end an APEv2 header without its footer is looked for: farther than a cover picture reaches.
_REACH = 4 << 20


@dataclass(frozen=True, slots=True)
class Ape:
    """One APEv2 tag of a file: where it stands, its bytes, and the tag; `damage` says why there is none."""

    start: int
    data: bytes
    tag: ape.Tag | None
    damage: str = ""


@dataclass(frozen=True, slots=True)
class Ends:
    """The tags of one file, whose sound is what lies from `start` to `stop`.

    `head` is the ID3v2 tag in front; `apes` are all APEv2 tags in file order; `v1` is the ID3v1 tag (128 bytes) at the
    very end, or empty; `rest` names and holds the other tags behind the sound.
    """

    head: id3.Tag | None
    start: int
    stop: int
    apes: tuple[Ape, ...]
    v1: bytes
    rest: tuple[tuple[str, bytes], ...]

    @property
    def readable_apes(self) -> list[ape.Tag]:
        """The undamaged APEv2 tags, in the order in which readers ask them: the last one first."""
        return [held.tag for held in reversed(self.apes) if held.tag is not None]

    def ape_text(self, field: str) -> list[str]:
        """The values of `field` in the first APEv2 tag that has any."""
        return next((values for tag in self.readable_apes if (values := ape.text(tag, field))), [])

    @property
    def ape_genres(self) -> tuple[str, ...]:
        """The genres of the first APEv2 tag that names any."""
        return next((genres for tag in self.readable_apes if (genres := ape.genres(tag))), ())


def ends_of(file: BinaryIO) -> Ends:
    """Find and read all tags of `file`.

    Raises:
        Unusable: the ID3v2 tag in front is damaged.
    """
    head = _head(file)
    after_head, start = head.size if head is not None else 0, leading_tags_end(file)
    found = trailing_tags(file)
    end = file.seek(0, os.SEEK_END)
    stop = found[0].start if found else end
    apes = [_ape(after_head, _between(file, after_head, start))] if start > after_head else []
    rest: list[tuple[str, bytes]] = []
    v1 = b""
    for trailer in found:
        data = _between(file, trailer.start, trailer.end)
        if trailer.kind is TrailerKind.APE:
            apes.append(_ape(trailer.start, data))
        elif _is_v1(trailer, end):
            v1 = data
        else:
            rest.append((trailer.kind.value, data))
    return Ends(head, start, stop, tuple(apes), v1, tuple(rest))


def refuse_damaged_ape(file: BinaryIO, ends: Ends) -> None:
    """Nothing happens where every APEv2 tag of the file is whole, and none ends the sound with an impossible size.

    Raises:
        Unusable: otherwise, with what is wrong.
    """
    for held in ends.apes:
        if held.tag is None:
            raise Unusable(held.damage)
    if _between(file, max(ends.start, ends.stop - ape.EDGE_SIZE), ends.stop).startswith(ape.MAGIC):
        raise Unusable("the APEv2 tag at its end is damaged: it has an impossible size")


def remains_of_ape(file: BinaryIO, ends: Ends) -> bool:
    """Whether the sound ends in an APEv2 tag that was cut short or lost its footer."""
    block = _between(file, max(ends.start, ends.stop - _REACH), ends.stop)
    at = block.rfind(ape.MAGIC)
    while at >= 0:
        size = ape.size_at_front(block[at : at + ape.EDGE_SIZE])
        if at + ape.EDGE_SIZE >= len(block) or (size is not None and at + size >= len(block)):
            return True
        at = block.rfind(ape.MAGIC, 0, at)
    return False


def others(ends: Ends) -> Iterator[tuple[str, str]]:
    """Name and hash of everything around the sound that is not genre, except what the ID3v2 tag in front holds."""
    for held in ends.apes:
        if held.tag is None:
            yield "damaged APEv2", fingerprint(held.data)
        else:
            yield from ape.others(held.tag)
    if ends.v1:
        yield "ID3v1", fingerprint(ends.v1[:-1])
    yield from ((name, fingerprint(data)) for name, data in ends.rest)


def keep_in_step(file: BinaryIO, ends: Ends, genres: tuple[str, ...], leading: Ape | None = None) -> None:
    """The ID3v1 tag, every APEv2 tag that names a genre, and `leading` in any case, say `genres` afterwards.

    An APEv2 tag that is left without items is taken out. `ends` is worthless then, except for what stands before the
    first APEv2 tag.
    """
    if ends.v1:
        file.seek(-1, os.SEEK_END)
        file.write(bytes([id3v1.number_of(genres)]))
    for held in reversed(ends.apes):
        if held.tag is None or not (held is leading or held.tag.names_genre):
            continue
        new = ape.with_genres(held.tag, genres)
        if new != held.tag:
            splice(file, held.start, len(held.data), ape.render(new) if new.items else b"")


def _head(file: BinaryIO) -> id3.Tag | None:
    file.seek(0)
    size = id3.size_of(file.read(id3.HEADER_SIZE))
    return None if size is None else id3.parse(_between(file, 0, size))


def _ape(start: int, data: bytes) -> Ape:
    try:
        return Ape(start, data, ape.parse(data))
    except Unusable as error:
        return Ape(start, data, None, str(error))


def _is_v1(trailer: Trailer, end: int) -> bool:
    """Nobody looks for ID3v1 anywhere else than at the very end."""
    return trailer.kind is TrailerKind.ID3V1 and trailer.end == end


def _between(file: BinaryIO, start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(end - start)
