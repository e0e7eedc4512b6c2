"""Walks watched folders for files and their states. Reads directories only: it opens and changes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from daemon.core.errors import TryLater
from daemon.core.records import FileState


def walk(
    root: Path,
    wanted: Callable[[Path], bool],
    enter: Callable[[str], bool],
    passed_over: Callable[[Path, str], None] = lambda path, reason: None,
) -> Iterator[tuple[Path, FileState]]:
    """Every regular file below `root` that is `wanted`, with its state; folders only where `enter(name)` says so.

    Symbolic links are not followed: a link to a folder may lead in a circle, and a link to a file would be replaced
    by a copy. A folder that vanishes or forbids reading meanwhile is passed over; it is not a deletion. `passed_over`
    is told of every link that would have been taken, with LINK, and of every unreadable folder, with UNREADABLE.

    Raises:
        TryLater: the root itself cannot be read: an unmounted volume must not look like an emptied library.
    """
    # A stale mount makes Path.is_dir raise; os.path.isdir says no.
    if not os.path.isdir(root):
        raise TryLater(root, "the watched folder is not there (not mounted?)")
    pending = [str(root)]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                listing = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if folder == str(root):
                raise TryLater(root, f"the watched folder cannot be read: {error.strerror}") from error
            if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
                passed_over(Path(folder), UNREADABLE)
            continue
        for entry in listing:
            if _is_folder(entry):
                if enter(entry.name):
                    pending.append(entry.path)
                continue
            found = _regular(entry)
            if found is not None and wanted(found[0]):
                yield found
            elif found is None and _is_missed_link(entry, wanted, enter):
                passed_over(Path(entry.path), LINK)


LINK = "a symbolic link"
UNREADABLE = "a folder that cannot be read"


def state_of(path: Path) -> FileState | None:
    """The present state of the regular file at `path`; None where there is none (gone, a folder, a link)."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return FileState.of(status) if _is_regular(status) else None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _is_missed_link(entry: os.DirEntry[str], wanted: Callable[[Path], bool], enter: Callable[[str], bool]) -> bool:
    """Whether the entry is a link to a file or a folder that would have been taken, had it stood there itself."""
    try:
        if not entry.is_symlink():
            return False
        return enter(entry.name) if entry.is_dir() else entry.is_file() and wanted(Path(entry.path))
    except OSError:
        return False


def _regular(entry: os.DirEntry[str]) -> tuple[Path, FileState] | None:
    try:
        if not entry.is_file(follow_symlinks=False):
            return None
        return Path(entry.path), FileState.of(entry.stat(follow_symlinks=False))
    except OSError:
        return None


def _is_regular(status: os.stat_result) -> bool:
    return (status.st_mode & 0o170000) == 0o100000


def on_one_device(one: Path, other: Path) -> bool:
    """Whether both places, there or not, are on the same device: a file keeps its inode when it moves between them."""
    return _device(one) == _device(other)


def _device(path: Path) -> int:
    return os.stat(nearest_folder(path)).st_dev


def nearest_folder(path: Path) -> Path:
    """The innermost folder on the way to `path` that is there."""
    # A stale mount makes Path.is_dir raise; os.path.isdir says no.
    return next(folder for folder in path.parents if os.path.isdir(folder))


def looks_mounted(folder: Path, since: str) -> bool:
    """Whether the folder holds anything, or was emptied after `since` (ISO 8601), when it is known to have held files.

    A mount point without its volume is empty, and older than what was in the volume.
    """
    if is_inhabited(folder):
        return True
    try:
        changed_s = os.stat(folder).st_mtime
        return bool(since) and changed_s > datetime.fromisoformat(since).timestamp()
    except (OSError, ValueError):
        return False


def is_inhabited(root: Path) -> bool:
    """Whether the folder is there and holds anything: the mount point of an unmounted volume is missing or empty."""
    try:
        with os.scandir(root) as entries:
            return next(entries, None) is not None
    except OSError:
        return False
