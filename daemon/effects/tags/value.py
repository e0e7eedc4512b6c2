"""The values that pass between the public tag functions and the containers. Touches no file and no tag library."""

from __future__ import annotations

import enum
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import BinaryIO

Others = tuple[tuple[str, str], ...]


class Id3Version(enum.IntEnum):
    """The ID3v2 version for files that have no ID3v2 tag yet; a tag that exists keeps the version it has."""

    V23 = 3
    V24 = 4


@dataclass(frozen=True, slots=True)
class Tags:
    """What a file's tags say. `others` names and hashes every piece of metadata that is not genre.

    `genres` are the values as stored, each one a genre, in order. Where a field holds several values, `artist`,
    `title` and `album` join them with "; ". Two `Tags` with equal `others` differ in genre alone: frames, comments and
    atoms are compared by their stored bytes, pictures, chapters and unknown or unreadable ones included. `cannot` is
    why no genre can be written into this file; empty where one can.
    """

    container: str
    genres: tuple[str, ...]
    artist: str | None
    title: str | None
    album: str | None
    others: Others
    cannot: str = ""

    def changed_beside(self, after: Tags) -> tuple[str, ...]:
        """The names in `others` that differ between this value and `after`, sorted; empty where only genre differs."""
        before, now = Counter(self.others), Counter(after.others)
        return tuple(sorted({name for name, _ in [*(before - now), *(now - before)]}))


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How genres are written where a container leaves a choice."""

    id3_v23_separator: str
    new_id3: Id3Version


@dataclass(frozen=True, slots=True)
class Format:
    """One container: how it is recognised by content, read, and given genres. Functions get the open file.

    They raise `Unusable` for what the file has wrong; any other exception is translated at the public function.
    """

    name: str
    suffixes: frozenset[str]
    recognises: Callable[[BinaryIO], bool]
    read: Callable[[BinaryIO, str], Tags]
    write_genres: Callable[[BinaryIO, tuple[str, ...], WriteOptions], None]


class Unusable(Exception):
    """Raised inside this package when a file cannot be read or written as its container asks; the text says why."""


def fingerprint(*pieces: bytes) -> str:
    """SHA-256 (hex) over `pieces`, each with its length, so that moving a boundary changes the hash."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "big"))
        digest.update(piece)
    return digest.hexdigest()


def as_others(entries: Iterable[tuple[str, str]]) -> Others:
    """`entries` in the one order in which two snapshots can be compared."""
    return tuple(sorted(entries))


def joined(values: Iterable[str]) -> str | None:
    """The values as one line for people, or None where there is nothing to say."""
    return "; ".join(value for value in values if value) or None
