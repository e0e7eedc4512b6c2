"""What the texts that FFmpeg reads out of a file's tags say of a track. Pure: it opens no file.

FFmpeg joins the values of a Vorbis comment with ";" and gives only the first of several in ID3v2, MP4, APEv2 and ASF.
Each container keeps its own spelling of the names ("ARTIST", "artist", "Album Artist").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

_JOINT = ";"
# ID3v2.3 has no lists, so taggers join with a slash; a null is what ID3v2.4 puts between values.
_OTHER_JOINTS = ("\0", "/")


@dataclass(frozen=True, slots=True)
class Tags:
    """What a file says of its track; empty where it says nothing. `genre` is the whole text, see `genre_names`."""

    genre: str = ""
    artist: str = ""
    album: str = ""
    title: str = ""
    album_artist: str = ""


def parse(*metadata: Mapping[str, str]) -> Tags:
    """The tags in these dictionaries of FFmpeg's, those of the container first; the first text that is there counts."""
    found: dict[str, str] = {}
    for part in metadata:
        for name, text in part.items():
            plain = name.casefold().replace(" ", "").replace("_", "")
            if stripped := text.strip().strip("\0").strip():
                found.setdefault(plain, stripped)
    names = ("genre", "artist", "album", "title", "albumartist")
    return Tags(*(found.get(name, "") for name in names))


def genre_names(text: str, known: Callable[[str], bool] = lambda name: False) -> tuple[str, ...]:
    """The genres in one genre text, in order: the whole, if `known`; else its parts at each ";".

    Parts of which none is known are parted further, at slashes and nulls, if that finds one that is.
    """
    if known(text):
        return (text,)
    parts = _parts((text,), _JOINT)
    if any(map(known, parts)):
        return parts
    finer = parts
    for joint in _OTHER_JOINTS:
        finer = _parts(finer, joint)
    return finer if any(map(known, finer)) else parts


def _parts(texts: tuple[str, ...], joint: str) -> tuple[str, ...]:
    stripped = (part.strip() for text in texts for part in text.split(joint))
    return tuple(dict.fromkeys(part for part in stripped if part))
