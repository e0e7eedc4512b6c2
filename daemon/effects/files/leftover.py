"""The names of temporary copies, and getting rid of those that a crash left behind. Removes nothing else."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

_MARK = ".reclass-tmp"
_NAME = re.compile(r"\..*\.[0-9a-z]+\.reclass-tmp(\.[^./]{1,16})?", re.DOTALL)
# What ext4, XFS, Btrfs and NTFS allow, in bytes.
_MAX_NAME = 255


def temporary_name(name: str, token: str) -> str:
    """The name for a copy of the file called `name`: hidden, with the same suffix, never longer than 255 bytes."""
    stem, suffix = os.path.splitext(name)
    if not re.fullmatch(r"\.[A-Za-z0-9+]{1,15}", suffix):
        stem, suffix = name, ""
    tail = f".{token}{_MARK}{suffix}"
    room = _MAX_NAME - 1 - len(os.fsencode(tail))
    return "." + os.fsencode(stem)[:room].decode("utf-8", "ignore") + tail


def is_temporary(path: str | os.PathLike[str]) -> bool:
    """Whether `path` has the name of a copy that `stage` makes: never music, whatever its suffix."""
    return _NAME.fullmatch(os.path.basename(os.fspath(path))) is not None


def sweep(folder: Path) -> tuple[Path, ...]:
    """Remove every temporary copy in `folder`, not below it; those removed are told.

    Only for whoever knows that nobody is at work there. Copies that cannot be removed are passed over.
    """
    removed: list[Path] = []
    with contextlib.suppress(OSError):
        for name in filter(is_temporary, os.listdir(folder)):
            with contextlib.suppress(OSError):
                (folder / name).unlink()
                removed.append(folder / name)
    return tuple(removed)
