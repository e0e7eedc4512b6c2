"""The folder of bundles: which there are and which one is current. Owns the `current` link; never opens a model."""

from __future__ import annotations

import os
from pathlib import Path

from daemon.core import bundle
from daemon.core.errors import BundleError

CURRENT = "current"

STARTER = Path(__file__).resolve().parents[1] / "starter"
"""The bundle that ships with the program."""


def available(directory: Path) -> list[Path]:
    """The folders in `directory` that hold a manifest, by name; the starter is not among them."""
    if not directory.is_dir():
        return []
    return sorted(
        entry
        for entry in directory.iterdir()
        if not entry.is_symlink() and not entry.name.startswith(".") and (entry / bundle.MANIFEST).is_file()
    )


def locate(directory: Path, name: str) -> Path:
    """The folder of the bundle called `name`: auto (the current one, else the starter), starter, an id, or a path.

    Raises:
        BundleError: there is none of that name.
    """
    if name == "auto":
        link = directory / CURRENT
        # Unlike Path.resolve, realpath takes a link to itself; loading then says what is wrong with the place.
        return Path(os.path.realpath(link)) if link.is_symlink() else STARTER
    if name == "starter":
        return STARTER
    folder = Path(name) if name.startswith("/") else directory / name
    if not (folder / bundle.MANIFEST).is_file():
        raise BundleError(f"{name}: no such bundle in {directory}; `music-reclass models list` shows those there are")
    return folder


def use(directory: Path, folder: Path) -> None:
    """Make `folder` the current bundle, by one rename: a reader sees the old one or the new one, never none.

    The starter is current where no link is: a link to it would lead nowhere once the program is installed elsewhere.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    link = directory / f".{CURRENT}.{os.getpid()}"
    link.unlink(missing_ok=True)
    # `folder` may be the `current` link by another name, which must not come to lead to itself.
    target = Path(os.path.realpath(folder))
    if target == STARTER:
        (directory / CURRENT).unlink(missing_ok=True)
        return
    inside = target.parent == Path(os.path.realpath(directory))
    link.symlink_to(target.name if inside else target)
    os.replace(link, directory / CURRENT)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def mark(directory: Path, name: str) -> str:
    """A text that changes when another bundle would be served under `name`; never raises."""
    try:
        folder = locate(directory, name)
        status = os.stat(folder / bundle.MANIFEST)
    except (BundleError, OSError):
        return ""
    return f"{folder}:{status.st_mtime_ns}:{status.st_ino}"
