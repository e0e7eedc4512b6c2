"""The names of temporary copies, and getting rid of those that a crash left behind. Removes nothing else."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
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


def sweep(folder: Path, *, older_than_s: float = 3600.0, now_s: Callable[[], float] = time.time) -> tuple[Path, ...]:
    """Remove every temporary copy under `folder` that nothing has touched for `older_than_s`; those removed are told.

    Age is by change time, since a copy carries the modification time of its original. Links are not followed, and
    folders and copies that cannot be read or removed are passed over.
    """
    removed: list[Path] = []
    for parent, _, names in os.walk(folder):
        for name in filter(is_temporary, names):
            path = Path(parent, name)
            try:
                if now_s() - path.lstat().st_ctime < older_than_s:
                    continue
                path.unlink()
            except OSError:
                continue
            removed.append(path)
    return tuple(removed)
