"""A folder that takes its name only when it is whole and on disk. Must never know what is in it."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextlib.contextmanager
def drafted(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder`, which takes its place when the block ends well, and is gone when it does not.

    Whoever looks sees the old folder or the new one. A draft that a killed program left is removed.

    Raises:
        OSError: the disk is full or cannot be written; `folder` is as it was.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _clear_abandoned(folder)
    draft = Path(tempfile.mkdtemp(prefix=_prefix(folder), dir=folder.parent))
    held = os.open(draft, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            # Some network file systems have no locks; then only a later program's tidying is lost.
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        draft.chmod(0o755)
        yield draft
        _sync(draft)
        _take_place(draft, folder)
    finally:
        os.close(held)
        shutil.rmtree(draft, ignore_errors=True)


def _prefix(folder: Path) -> str:
    return f".{folder.name}.draft-"


def _clear_abandoned(folder: Path) -> None:
    """Remove drafts that nobody holds; one that is being written is locked by its writer."""
    with os.scandir(folder.parent) as entries:
        drafts = [entry.path for entry in entries if entry.name.startswith(_prefix(folder)) and entry.is_dir()]
    for draft in drafts:
        with contextlib.suppress(OSError):
            descriptor = os.open(draft, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(draft, ignore_errors=True)
            finally:
                os.close(descriptor)


def _take_place(draft: Path, folder: Path) -> None:
    """`draft` becomes `folder`; what was there is then at `draft`, or gone."""
    if not folder.exists():
        os.rename(draft, folder)
    elif not _exchange(draft, folder):
        # A file system that cannot exchange two names: for a moment there is no such folder.
        old = draft.with_name(f"{draft.name}.old")
        os.rename(folder, old)
        try:
            os.rename(draft, folder)
        except OSError:
            os.rename(old, folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    _sync_folder(folder.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Whether the two paths have changed places, in one step (renameat2, Linux 3.15 and glibc 2.28)."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    paths = os.fsencode(one), os.fsencode(other)
    done: int = rename(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE)
    return done == 0


def _sync(draft: Path) -> None:
    """Everything below `draft` is on disk afterwards."""
    for place, _, names in os.walk(draft):
        for name in names:
            with open(os.path.join(place, name), "rb") as file:
                os.fsync(file.fileno())
        _sync_folder(Path(place))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
