"""Reads and writes genre tags; the only package that imports mutagen. It never opens sound and never moves a file.

One file per container, listed in `_FORMATS`; a new container is a new file and a line there. Writing happens in place
and is not atomic: callers pass a temporary copy and compare `Tags.others` and the sound before they use it.

mutagen finds MPEG frames, cuts and numbers Ogg pages and moves MP4 offsets. The genre itself is exchanged on the
stored bytes, so that everything else keeps its bytes: mutagen's own load and save changes ID3 versions, drops frames
that it cannot parse, replaces text that is not UTF-8 and rewrites numbers and pictures in MP4.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import BinaryIO, Final

from daemon.core.errors import BadFile
from daemon.effects.tags import aiff, apefiles, asf, dff, dsf, flac, mp3, mp4, ogg, riff, tta, untaggable
from daemon.effects.tags.foreign import translated
from daemon.effects.tags.known import name_of
from daemon.effects.tags.value import Format, Id3Version, Others, Tags, WriteOptions

__all__ = ["AUDIO_SUFFIXES", "Id3Version", "Others", "Tags", "container_of", "read", "write_genres"]

# In the order in which they are tried: old WavPack begins like a WAVE file, MPEG audio has no magic bytes.
_FORMATS: Final[tuple[Format, ...]] = (
    *apefiles.FORMATS,
    tta.FORMAT,
    flac.FORMAT,
    ogg.OPUS,
    ogg.VORBIS,
    ogg.SPEEX,
    ogg.FLAC,
    mp4.FORMAT,
    riff.FORMAT,
    aiff.FORMAT,
    asf.FORMAT,
    dsf.FORMAT,
    dff.FORMAT,
    *untaggable.FORMATS,
    mp3.FORMAT,
)

# Not written yet; the watcher still looks at them, so that the owner is told why such a file has no genre.
_LATER = frozenset({".shn"})

AUDIO_SUFFIXES: Final[frozenset[str]] = _LATER.union(*(known.suffixes for known in _FORMATS))
"""Lower-case suffixes of files that may be music."""


def container_of(path: str | os.PathLike[str]) -> str:
    """The container of the file at `path`, by its content alone, such as "mp3", "flac", "opus", "m4a" or "wv".

    Raises:
        BadFile: nothing that this program can tag, missing or unreadable; the reason says what it seems to be.
        TryLater: the disk failed while reading.
    """
    with translated(path), open(path, "rb") as file:
        return _format_of(path, file).name


def read(path: str | os.PathLike[str], *, id3_v23_separator: str = "/") -> Tags:
    """The tags of the file at `path`. A genre text of ID3v2.2 and v2.3 is split at `id3_v23_separator`.

    Raises:
        BadFile: nothing that this program can tag, or its tags are damaged.
        TryLater: the disk failed while reading.
    """
    with translated(path), open(path, "rb") as file:
        return _format_of(path, file).read(file, id3_v23_separator)


def write_genres(
    path: str | os.PathLike[str],
    genres: Sequence[str],
    *,
    id3_v23_separator: str = "/",
    new_id3: Id3Version = Id3Version.V24,
) -> None:
    """Make `genres` the genres of the file at `path`, in place: `read` with the same separator then gives them back.

    Values are stripped, empty and repeated ones dropped; none at all removes the genre. `new_id3` is the version of an
    ID3v2 tag that has to be made. After an error the file may be damaged: only ever pass a temporary copy.

    Raises:
        BadFile: the container cannot be written safely; the reason says why.
        TryLater: the disk is full or failed.
        ValueError: a genre contains a null.
    """
    values = tuple(dict.fromkeys(stripped for genre in genres if (stripped := genre.strip())))
    if any("\0" in value for value in values):
        raise ValueError(f"a genre cannot contain a null: {values!r}")
    with translated(path), open(path, "r+b") as file:
        _format_of(path, file).write_genres(file, values, WriteOptions(id3_v23_separator, new_id3))


def _format_of(path: str | os.PathLike[str], file: BinaryIO) -> Format:
    for known in _FORMATS:
        if known.recognises(file):
            return known
    file.seek(0)
    raise BadFile(path, name_of(file.read(64)))
