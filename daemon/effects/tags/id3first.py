"""Reading and writing for containers whose genre belongs into an ID3v2 tag in front of the sound (mp3, tta).

The genre is read from the ID3v2 tag, else from an APEv2 tag, else from the ID3v1 tag. It is written into the ID3v2
tag, which is made where there is none. An APEv2 tag that names a genre and the ID3v1 tag are kept in step. One that
names none keeps every byte in an mp3, since it holds what ReplayGain tools wrote there; in True Audio it gets the
genre, since FFmpeg reads nothing else where there is one. Neither is added. A file whose APEv2 tag is damaged can be
read, but is not written: nobody could say which genre that tag names. A new ID3v2 tag repeats what the others say,
since many players stop reading at the first kind that they find.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from daemon.effects.tags import id3, id3v1
from daemon.effects.tags.ends import Ends, ends_of, keep_in_step, others, refuse_damaged_ape
from daemon.effects.tags.splice import splice
from daemon.effects.tags.value import Format, Id3Version, Tags, WriteOptions, as_others, joined


def format_of(name: str, suffixes: Iterable[str], recognises: Callable[[BinaryIO], bool]) -> Format:
    """The container `name`, whose sound `recognises` knows behind any ID3v2 tag."""
    write = functools.partial(_write_genres, name)
    return Format(name, frozenset(suffixes), recognises, functools.partial(_read, name), write)


def _read(name: str, file: BinaryIO, separator: str) -> Tags:
    ends = ends_of(file)
    head = ends.head or id3.Tag(Id3Version.V24)
    return Tags(
        container=name,
        genres=id3.genres(head, separator) or ends.ape_genres or id3v1.genres(ends.v1),
        artist=_text(head, ends, "artist"),
        title=_text(head, ends, "title"),
        album=_text(head, ends, "album"),
        others=as_others(_others(head, ends)),
    )


def _text(head: id3.Tag, ends: Ends, field: str) -> str | None:
    told = joined(id3.text(head, field)) or joined(ends.ape_text(field))
    return told or id3v1.text(ends.v1, field).decode("latin-1") or None


def _others(head: id3.Tag, ends: Ends) -> Iterator[tuple[str, str]]:
    """A frame that only repeats the tags behind is no information of its own; nor is the version of no frames."""
    repeated = set(id3.others(id3.Tag(head.version, frames=_repeating(ends, head.version))))
    told = [entry for entry in id3.others(head) if entry not in repeated]
    if told:
        yield "ID3v2 version", str(head.version)
    yield from told
    yield from others(ends)


def _write_genres(name: str, file: BinaryIO, genres: tuple[str, ...], options: WriteOptions) -> None:
    ends = ends_of(file)
    refuse_damaged_ape(file, ends)
    leading = ends.apes[-1] if name == "tta" and ends.apes else None
    keep_in_step(file, ends, genres, leading)
    head = ends.head
    if not genres and head is None:
        return
    if head is None:
        head = id3.Tag(options.new_id3)
    if not head.frames:
        head = dataclasses.replace(head, frames=_repeating(ends, head.version))
    new = id3.with_genres(head, genres, options.id3_v23_separator)
    splice(file, 0, head.size, id3.render(new))


def _repeating(ends: Ends, version: int) -> tuple[id3.Frame, ...]:
    """What the tags behind the sound say, as frames; ID3v1 text with the bytes that it has, whatever they mean."""
    if version == 2 or not (ends.v1 or ends.apes):
        return ()
    year = b"TDRC" if version == Id3Version.V24 else b"TYER"
    fields = {b"TIT2": "title", b"TPE1": "artist", b"TALB": "album", year: "year", b"TRCK": "track"}
    frames: list[id3.Frame] = []
    for name, field in fields.items():
        values = ends.ape_text(field)
        if name == b"TYER":  # v2.3 knows only the year of a date
            values = [value[:4] for value in values[:1] if value[:4].isdigit()]
        latin1 = id3v1.text(ends.v1, field)
        if values:
            frames.append(_text_frame(name, values, version))
        elif latin1:
            frames.append(id3.text_frame(name, latin1))
    comment = id3v1.text(ends.v1, "comment")
    if comment:
        frames.append(id3.Frame(b"COMM", 0, b"\0eng\0" + comment))
    return tuple(frames)


def _text_frame(name: bytes, values: list[str], version: int) -> id3.Frame:
    """v2.3 knows no lists."""
    whole = "\0".join(values) if version == Id3Version.V24 else "; ".join(values)
    if whole.isascii():
        return id3.text_frame(name, whole.encode("ascii"))
    encoded = b"\x03" + whole.encode("utf-8")
    if version != Id3Version.V24:
        encoded = b"\x01\xff\xfe" + whole.encode("utf-16-le")
    return id3.Frame(name, 0, encoded)
