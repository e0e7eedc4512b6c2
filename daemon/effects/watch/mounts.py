"""Reads the table of mounts: which folders are on the network, and what is mounted below one. Changes nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# File systems on which other hosts write without this kernel knowing.
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs"}
    | {"fuse.rclone", "fuse.glusterfs", "fuse.mergerfs", "fuse.davfs", "davfs", "fuse.s3fs"}
)
_TABLE = Path("/proc/self/mountinfo")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the table; `number` is another one when the same place is mounted anew."""

    number: str
    place: str
    kind: str


def is_on_network(path: Path, mountinfo: str | None = None) -> bool:
    """Whether `path` lies on a file system that other hosts can write to; see proc_pid_mountinfo(5)."""
    best, kind = "", ""
    target = os.path.realpath(path)
    for mount in _mounts(_table() if mountinfo is None else mountinfo):
        inside = target == mount.place or target.startswith(mount.place.rstrip("/") + "/")
        # The last of several mounts over one place is the one that is seen.
        if inside and len(mount.place) >= len(best):
            best, kind = mount.place, mount.kind
    return kind in NETWORK_FILE_SYSTEMS


def mounted_below(folder: str, mountinfo: str | None = None) -> tuple[Mount, ...]:
    """What is mounted inside `folder` (a real path): inotify tells neither of mounting nor of what happens there."""
    text = _table() if mountinfo is None else mountinfo
    # The table escapes blanks, so the plain text may miss; most folders have no mount inside and are done here.
    if "\\" not in text and f" {folder.rstrip('/')}/" not in text:
        return ()
    return tuple(mount for mount in _mounts(text) if mount.place.startswith(folder.rstrip("/") + "/"))


def _table() -> str:
    try:
        return _TABLE.read_text(errors="surrogateescape")
    except OSError:
        return ""


def _mounts(text: str) -> Iterator[Mount]:
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or not after:
            continue
        place = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        yield Mount(fields[0], place, after.split()[0])
