"""Makes the folders that a move needs, like their parents, and removes folders that are empty. Removes nothing else."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
from collections.abc import Sequence
from pathlib import Path

from daemon.core.errors import BadFile, TryLater
from daemon.effects.files.copying import sync_folder, translated
from daemon.effects.files.renaming import status_of

_ACL = "system.posix_acl_access"
_ACL_VERSION, _NOBODY = 2, 0xFFFF_FFFF
# Tags of the entries of an access list, with the bits of the mode that they stand for: acl(5), <linux/posix_acl.h>.
_ACL_ENTRIES = ((1, 6), (4, 3), (32, 0))


def way_to(source: Path, target: Path, within: Path) -> tuple[Path, tuple[Path, ...]]:
    """The innermost folder on the way to `target` that is there, and those that are missing, outermost first.

    Raises:
        BadFile: the way leads out of `within`, also by a link, or through something that is no folder.
        TryLater: `within` is not there.
        OSError: as the operating system says.
    """
    if ".." in target.parts or not target.is_relative_to(within):
        raise BadFile(source, f"was to be moved to {target}, which is not below {within}")
    if not os.path.isdir(within):
        raise TryLater(source, f"{within} is not there (not mounted?)")
    missing: list[Path] = []
    folder = target.parent
    while status_of(folder) is None:
        missing.append(folder)
        folder = folder.parent
    if not os.path.isdir(folder):
        raise BadFile(source, f"was to be moved to {target}, but {folder} is no folder")
    root = Path(os.path.realpath(within))
    if not Path(os.path.realpath(folder)).is_relative_to(root):
        raise BadFile(source, f"was to be moved to {target}, but a link on the way leads out of {within}")
    return folder, tuple(reversed(missing))


def make_folders(source: Path, folders: Sequence[Path]) -> None:
    """The `folders`, outermost first, are there, with the mode and, where permitted, the owner of their parents.

    Raises:
        BadFile, TryLater: naming `source`, the file that they are made for.
    """
    for folder in folders:
        with translated(source, f"the folder {folder} cannot be made: "):
            _make(source, folder)


def remove_made(folders: Sequence[Path]) -> tuple[Path, ...]:
    """Remove those of `folders` that are empty, the innermost first; they are told. Nothing happens to the others."""
    innermost_first = sorted(folders, key=lambda folder: len(folder.parts), reverse=True)
    return tuple(folder for folder in innermost_first if _removed(folder))


def remove_emptied(folder: Path, root: Path) -> tuple[Path, ...]:
    """Remove `folder` if it is empty, and then its parents as far as they are; those removed are told, in this order.

    Never `root`, nor anything above it, outside it or behind a link. A folder is empty if nothing whatever is in it:
    what an operating system leaves there (.DS_Store, Thumbs.db, desktop.ini) is not ours to delete.
    """
    removed: list[Path] = []
    if ".." in folder.parts:
        return ()
    real = Path(os.path.realpath(root))
    while folder != root and folder.is_relative_to(root):
        if Path(os.path.realpath(folder)) != real / folder.relative_to(root) or not _removed(folder):
            break
        removed.append(folder)
        folder = folder.parent
    return tuple(removed)


def _removed(folder: Path) -> bool:
    try:
        os.rmdir(folder)
    except OSError:
        return False
    with contextlib.suppress(OSError):
        sync_folder(folder.parent)
    return True


def _make(source: Path, folder: Path) -> None:
    parent = os.stat(folder.parent)
    mode = stat.S_IMODE(parent.st_mode)
    try:
        os.mkdir(folder, mode & 0o777)
    except FileExistsError:
        if os.path.isdir(folder) and not os.path.islink(folder):
            return
        raise BadFile(source, f"{folder} is no folder") from None
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise BadFile(source, f"its file system does not take the name {folder.name!r}") from error
        raise
    for uid, gid in ((parent.st_uid, -1), (-1, parent.st_gid)):
        with contextlib.suppress(OSError):
            os.chown(folder, uid, gid, follow_symlinks=False)
    if stat.S_IMODE(os.lstat(folder).st_mode) != mode:
        _set_mode(folder, mode)
    sync_folder(folder.parent)


def _set_mode(folder: Path, mode: int) -> None:
    """Give a new folder its mode against the process's umask.

    systemd's RestrictSUIDSGID refuses chmod with the set-group-id bit, which a folder that is shared by a group has.
    The new folder inherited the bit; an access list that says no more than a mode does sets the rest of it.
    """
    try:
        os.chmod(folder, mode)
    except PermissionError as refused:
        entries = (struct.pack("<HHI", tag, mode >> shift & 7, _NOBODY) for tag, shift in _ACL_ENTRIES)
        try:
            os.setxattr(folder, _ACL, struct.pack("<I", _ACL_VERSION) + b"".join(entries))
        except OSError:
            raise refused from None
