"""Decides where a track belongs below its root, and what belongs to it. Pure: it looks at names, not at the disk."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath

from daemon.core import template as templates
from daemon.core.taxonomy import Taxonomy

# What players and rippers put beside a track under its name.
_PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"})
_COMPANIONS = frozenset({".lrc", ".cue", ".txt", ".nfo"}) | _PICTURES
# What belongs to a folder as a whole: the pictures that players show for it, and what a ripper says of the disc.
_FOLDER_PICTURE = re.compile(r"cover|folder|front(?:[ ._-].*)?|albumart.*", re.DOTALL)
_FOLDER_PAPERS = frozenset({".cue", ".log", ".m3u", ".m3u8"})
_NUMBERED = re.compile(r"(?P<stem>.*) \((?P<number>[0-9]{1,6})\)", re.DOTALL)


def destination(
    present: PurePosixPath,
    genre: str,
    taxonomy: Taxonomy,
    *,
    template: str,
    unknown: str = "Unknown",
    artist: str | None = None,
    album: str | None = None,
    title: str | None = None,
) -> PurePosixPath | None:
    """The place of a track of `genre` (a name of the taxonomy), relative to its root; None where it is there already.

    `present` is its place now, relative to the root. A name that differs only in what `render` makes safe, or by a
    number that it got beside another track, counts as being there: the owner's files are not renamed for that alone.
    A track without a title keeps its name, since a folder full of unknown titles helps nobody. Once moved, the track
    is there.
    """
    fields = _genre_fields(genre, taxonomy) | _tag_fields(artist, album, title)
    fields["name"] = present.stem
    fields["folder"] = _own_folder(present.parent.parts, template, fields, taxonomy, unknown)
    wanted = templates.render(template, fields, present.suffix, unknown=unknown)
    if templates.is_blank(fields["title"]) and templates.names_by_title(template):
        wanted = wanted.with_name(templates.safe_name(present.stem, present.suffix, unknown=unknown))
    return None if _is_there(present, wanted, unknown) else wanted


def numbered(path: PurePosixPath, number: int) -> PurePosixPath:
    """`path` with a number, for where another track has its name: "song (2).mp3"; within the limit for names."""
    tail = f" ({number}){path.suffix}"
    return path.with_name(templates.cut(path.stem, templates.NAME_LIMIT_BYTES - len(tail.encode())).rstrip() + tail)


def companions(name: str, siblings: Sequence[str], audio_suffixes: Collection[str]) -> tuple[str, ...]:
    """Those of `siblings`, the other names in its folder, that belong to the track called `name` alone.

    That is lyrics, cue sheets, texts and pictures under its name, with its suffix (song.mp3.lrc) or without. Upper and
    lower case are alike, as they are to the Windows programs and players that such pairs come from. What a second
    track of the same name (song.flac) needs as well stays with it; the last of them takes it along.
    """
    own = _fold(name)
    stem = _fold(PurePosixPath(name).stem)
    tracks = [_fold(PurePosixPath(other).stem) for other in _tracks(siblings, audio_suffixes) if other != name]
    shared = stem in tracks
    found = []
    for sibling in siblings:
        path = PurePosixPath(sibling)
        if sibling == name or path.suffix.lower() not in _COMPANIONS:
            continue
        if _fold(path.stem) == own or (_fold(path.stem) == stem and not shared):
            found.append(sibling)
    return tuple(found)


def folder_companions(siblings: Sequence[str], audio_suffixes: Collection[str]) -> tuple[str, ...]:
    """Those of `siblings`, the names that stay in a folder when a track leaves, that belong to the folder as a whole.

    None while another track stays: they are its cover and its disc's papers too.
    """
    if _tracks(siblings, audio_suffixes):
        return ()
    return tuple(name for name in siblings if _is_of_folder(PurePosixPath(name)))


def companions_of(
    name: str, new_name: str, siblings: Sequence[str], audio_suffixes: Collection[str]
) -> tuple[tuple[str, str], ...]:
    """What goes along when the track called `name` leaves its folder to be called `new_name`: old and new names.

    `siblings` are the names in the folder, its own may be among them.
    """
    others = [sibling for sibling in siblings if sibling != name]
    own = companions(name, others, audio_suffixes)
    shared = [sibling for sibling in folder_companions(others, audio_suffixes) if sibling not in own]
    return (*((old, _renamed(old, name, new_name)) for old in own), *((old, old) for old in shared))


def _renamed(companion: str, name: str, new_name: str) -> str:
    """The companion's name beside the track's new one, its own suffix as it was."""
    path = PurePosixPath(companion)
    with_suffix = _fold(path.stem) == _fold(name)
    return (new_name if with_suffix else PurePosixPath(new_name).stem) + path.suffix


def _genre_fields(genre: str, taxonomy: Taxonomy) -> dict[str, str]:
    own = taxonomy.folder_of(genre)
    parent = taxonomy.genre(genre).parent
    return {"genre": own, "parent": own if parent is None else taxonomy.folder_of(parent)}


def _tag_fields(artist: str | None, album: str | None, title: str | None) -> dict[str, str]:
    return {"artist": artist or "", "album": album or "", "title": title or ""}


def _own_folder(parts: tuple[str, ...], template: str, fields: dict[str, str], taxonomy: Taxonomy, unknown: str) -> str:
    """What of a file's folder is its own, and not what this template gave it for whichever genre it had.

    So refiling leads from Rock/Artist/Album to Jazz/Artist/Album, and never to Jazz/Rock/Artist/Album.
    """
    *folders, _ = templates.components(template)
    at = next((index for index, component in enumerate(folders) if templates.is_folder(component)), len(folders))
    before, after = folders[:at], folders[at + 1 :]
    given = [_genre_fields(name, taxonomy) for name in taxonomy.names]
    leads = [_rendered(before, fields | genre, unknown) for genre in given]
    start = max((_common(parts, lead) for lead in leads), default=0)
    rest = parts[start:]
    if start == 0 and rest and any(_fold(rest[0]) == _fold(genre["genre"]) for genre in given) and _names_genre(before):
        rest = rest[1:]
    trails = [_rendered(after, fields | genre, unknown) for genre in given]
    for trail in trails:
        if trail and _common(rest[-len(trail) :], trail) == len(trail):
            return "/".join(rest[: -len(trail)])
    return "/".join(rest)


def _rendered(folders: Sequence[templates.Component], fields: dict[str, str], unknown: str) -> tuple[str, ...]:
    """The folders that the components of a template give; `folder` itself is not among them."""
    return tuple(part for each in folders for part in templates.render_folder(each, fields, unknown=unknown))


def _names_genre(folders: Sequence[templates.Component]) -> bool:
    return any(piece.is_field and piece.text in ("genre", "parent") for each in folders for piece in each)


def _common(parts: Sequence[str], others: Sequence[str]) -> int:
    """How many names two paths have in common from their start."""
    same = [_fold(one) == _fold(other) for one, other in zip(parts, others, strict=False)]
    return same.index(False) if False in same else len(same)


def _is_there(present: PurePosixPath, wanted: PurePosixPath, unknown: str) -> bool:
    safe = PurePosixPath(
        *(templates.safe_folder_name(part) for part in present.parent.parts),
        templates.safe_name(present.stem, present.suffix, unknown=unknown),
    )
    if safe == wanted:
        return True
    number = _NUMBERED.fullmatch(safe.stem)
    return number is not None and int(number["number"]) > 1 and safe == numbered(wanted, int(number["number"]))


def _tracks(names: Sequence[str], audio_suffixes: Collection[str]) -> list[str]:
    """Hidden names are none: a Mac leaves `._song.mp3` beside its files, a crash of ours a temporary copy."""
    return [name for name in names if PurePosixPath(name).suffix.lower() in audio_suffixes and not _is_hidden(name)]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") and not name.startswith("..")


def _is_of_folder(path: PurePosixPath) -> bool:
    suffix = path.suffix.lower()
    if suffix in _PICTURES:
        return _FOLDER_PICTURE.fullmatch(_fold(path.stem)) is not None
    return suffix in _FOLDER_PAPERS and not _is_hidden(path.name)


def _fold(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
