"""Tells a music file that somebody put there from the junk of copying programs and storage boxes. Pure."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Sequence
from pathlib import Path

# Names of files and folders that never are the owner's music: partial downloads, sync and NAS housekeeping, bins.
# Hidden names cover rsync (.name.XXXXXX), AppleDouble (._name), Syncthing (.syncthing.name.tmp) and our own copies;
# two dots at the start are a title ("...And Justice for All", "...Baby One More Time").
JUNK = (
    ".[!.]*",
    "*.reclass-tmp",
    "*.reclass-tmp.*",
    "*~",
    "~syncthing~*",
    "*.part",
    "*.partial",
    "*.crdownload",
    "*.download",
    "*.!qB",
    "*.!ut",
    "*.aria2",
    "*.tmp",
    "*.temp",
    "@eaDir",
    "@Recycle",
    "@Recently-Snapshot",
    "#recycle",
    "#snapshot",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
)


def is_junk(name: str, patterns: Sequence[str] = ()) -> bool:
    """Whether a file or folder of this name is passed over, by the built-in list or the owner's `patterns`."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in (*JUNK, *patterns))


def wanted(path: Path, root: Path, suffixes: Collection[str], patterns: Sequence[str] = ()) -> bool:
    """Whether `path`, somewhere below `root`, is a music file to look at.

    `suffixes` are lower case with their dot. `patterns` are shell globs of the owner's, matched against every name
    on the way from the root and against the path below it.
    """
    if path.suffix.lower() not in suffixes:
        return False
    try:
        below = path.relative_to(root)
    except ValueError:
        return False
    if any(is_junk(name, patterns) for name in below.parts):
        return False
    return not any(fnmatch.fnmatchcase(str(below), pattern) for pattern in patterns)
