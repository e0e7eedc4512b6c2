"""Finds pretrained checkpoints by name, as `music-reclass models pull` keeps them. Must never fetch or open one."""

from __future__ import annotations

from pathlib import Path

from daemon.core import catalogue
from daemon.core.catalogue import Pretrained
from daemon.core.errors import BundleError, ConfigError


def find(name_or_path: str, models_directory: Path) -> Path:
    """Where a checkpoint lies: a file, or the folder of one that has several. Names outrank paths; `./ast` is a path.

    Raises:
        ConfigError: it is not there; the message says how to get it.
    """
    entry = _named(name_or_path)
    if entry is None:
        path = Path(name_or_path).expanduser()
        if path.exists():
            return path
        names = ", ".join(each.name for each in catalogue.CATALOGUE)
        raise ConfigError(
            name_or_path, [f"there is no such file or folder, and no pretrained network is called so ({names})"]
        )
    folder = catalogue.folder_of(entry, models_directory)
    if lacking := [file.name for file in entry.files if not (folder / file.name).is_file()]:
        reason = (
            f"not here yet: {', '.join(lacking)}; `music-reclass models pull {entry.name}` fetches it into {folder}"
        )
        raise ConfigError(name_or_path, [reason])
    return folder if len(entry.files) > 1 else folder / entry.weights.name


def name_of(name_or_path: str) -> Pretrained | None:
    """Which network of the catalogue a checkpoint is, by its name, its folder's or its file's; None where none fits."""
    path = Path(name_or_path)
    for text in (name_or_path, path.name, path.parent.name):
        if entry := _named(text):
            return entry
    weights = {entry.weights.name: entry for entry in catalogue.CATALOGUE if len(entry.files) == 1}
    return weights.get(path.name)


def _named(text: str) -> Pretrained | None:
    try:
        return catalogue.find(text)
    except BundleError:
        return None
