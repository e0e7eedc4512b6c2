"""Genres from folders: one folder per genre, artists and albums nested below it as the owner likes. Opens no file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from daemon.core.taxonomy import Taxonomy, normal_form
from trainer.tracks.importers.claim import Claim, Source
from trainer.tracks.importers.walk import Found, folders_in, music_below


def claims(root: Path, taxonomy: Taxonomy | None = None) -> Iterator[Claim]:
    """What the folders below `root` say of every music file in them, and of every first folder that holds none.

    The genre is the first folder on the way from `root` that names one of the taxonomy, by name, alias or folder name;
    where none does, or without a taxonomy, the first folder. Of the folders below it the first is taken for the artist
    and the last, if there are two or more, for the album.

    Raises:
        ConfigError: `root` cannot be read.
    """
    genre_of = _Reading(taxonomy)
    empty = {folder: folder.name for folder in folders_in(root)}
    for found in music_below(root):
        way = found.path.relative_to(root).parts
        empty.pop(root / way[0], None)
        yield _claim(found, way[:-1], genre_of)
    for folder, name in empty.items():
        yield Claim(folder, (name,), Source.FOLDERS, trouble="no music in the folder")


class _Reading:
    """Reads folder names as genres; the folder of a genre need not have its name."""

    def __init__(self, taxonomy: Taxonomy | None) -> None:
        self._taxonomy = taxonomy
        names = taxonomy.names if taxonomy is not None else ()
        self._by_folder = {normal_form(taxonomy.folder_of(name)): name for name in names} if taxonomy else {}

    def __call__(self, folder: str) -> str | None:
        if self._taxonomy is None:
            return None
        return self._taxonomy.resolve(folder) or self._by_folder.get(normal_form(folder))


def _claim(found: Found, folders: tuple[str, ...], genre_of: _Reading) -> Claim:
    if found.trouble:
        return Claim(found.path, (), Source.FOLDERS, trouble=f"folder cannot be read: {found.trouble}")
    if not folders:
        return Claim(found.path, (), Source.FOLDERS, trouble="no genre: lies in none of the genre folders")
    place = next((index for index, folder in enumerate(folders) if genre_of(folder)), 0)
    below = folders[place + 1 :]
    names = dict.fromkeys((folders[place], genre_of(folders[place]) or ""))
    return Claim(
        found.path,
        tuple(name for name in names if name),
        Source.FOLDERS,
        artist=below[0] if below else "",
        album=below[-1] if len(below) > 1 else "",
    )
