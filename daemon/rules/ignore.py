"""Tells a music file that somebody put there from the junk of copying programs and storage boxes. Pure."""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Collection, Sequence
from pathlib import Path

# Names of files and folders that never are the owner's music. Only a name with an audio suffix gets so far, so what
# ends otherwise needs no pattern: .part (Transmission, aMule, Firefox), .!qB, .!ut, .bc!, .crdownload, .aria2, .ytdl,
# .filepart (WinSCP), .partial (rclone), .lftp, .bts (Resilio), .XXXXXX (rsync), @SynoEAStream, Thumbs.db. Patterns for
# such names stand here only where folders bear them.
# Music on purpose: conflict copies (Syncthing's song.sync-conflict-…, Dropbox's "(conflicted copy)"), since the owner
# has yet to choose; a trailing "~", since Japanese titles end in it ("Best ~first things~"); RECYCLER, a record of
# ZZ Top and only the bin of Windows XP.
JUNK = (
    # Hidden: macOS (._name, .Trashes, .Spotlight-V100), bins (.Trash-1000), rsync (.~tmp~, .rsync-partial), Syncthing
    # (.stversions), Resilio (.sync), QNAP (.@__thumb), Dropbox (.dropbox.cache), Unison, NFS (.nfs…), FUSE
    # (.fuse_hidden…), Samba (.smbdelete…), snapshots (.snapshots, .zfs), lftp (.in.name).
    # Titles begin with two dots ("...And Justice for All") or a dot and a digit (".38 Special").
    ".[!.0-9]*",
    # Our own copies, whatever they are copies of.
    "*.reclass-tmp",
    "*.reclass-tmp.*",
    # Nicotine+ puts this before the name, suffix and all (pynicotine, get_incomplete_download_file_path).
    "INCOMPLETE" + 32 * "[0-9a-f]" + "*",
    # yt-dlp keeps each stream under its format until they are merged: name.f140.m4a, name.f251-drc.ogg.
    "*.f[0-9][0-9][0-9].*",
    "*.f[0-9][0-9][0-9]-*.*",
    # Folders: of SABnzbd while it unpacks and after it failed, of Safari and of iTunes around one download, of
    # torrent clients and extractors that mark what is not complete.
    "_UNPACK_*",
    "_FAILED_*",
    "*.download",
    "*.part",
    "*.partial",
    "*.tmp",
    "*.temp",
    "*.crdownload",
    "*.!qB",
    "*.!ut",
    "*.aria2",
    # Folders of storage boxes: Synology, QNAP, Samba's shadow copies, netatalk; of file systems and of Windows.
    "@eaDir",
    "@tmp",
    "@Recycle",
    "@Recently-Snapshot",
    "@GMT-[0-9]*",
    "#recycle",
    "#snapshot",
    "Network Trash Folder",
    "$RECYCLE.BIN",
    "$Recycle.Bin",
    "System Volume Information",
    "lost+found",
    "~syncthing~*",
)


def is_junk(name: str, patterns: Sequence[str] = ()) -> bool:
    """Whether a file or folder of this name is passed over, by the built-in list or the owner's `patterns`."""
    return _any_of((*JUNK, *patterns)).match(name) is not None


def wanted(path: Path, root: Path, suffixes: Collection[str], patterns: Sequence[str] = ()) -> bool:
    """Whether `path`, somewhere below `root`, is a music file to look at.

    `suffixes` are lower case with their dot. `patterns` are shell globs of the owner's, matched against every name
    on the way from the root and against the path below it.
    """
    if path.suffix.lower() not in suffixes:
        return False
    # As text: Path.relative_to costs more than all the rest.
    text, above = str(path), str(root).rstrip("/") + "/"
    if not text.startswith(above):
        return False
    below = text[len(above) :]
    junk = _any_of((*JUNK, *patterns))
    if any(junk.match(name) for name in below.split("/")):
        return False
    return not patterns or _any_of(tuple(patterns)).match(below) is None


@functools.lru_cache(maxsize=256)
def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """All patterns in one expression: a pattern at a time took most of the time that a touched file costs."""
    return re.compile("|".join(f"(?:{fnmatch.translate(pattern)})" for pattern in patterns))
