"""Copies a file faithfully: its bytes, owner, mode, extended attributes and times, or not at all.

What replacing and moving have in common. Must never write to the original, nor to anything that it did not make.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from daemon.core.errors import BadFile, TryLater, from_os_error
from daemon.core.records import FileState

_BLOCK = 1 << 20


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 (hex) of the file's bytes.

    Raises:
        BadFile: missing or unreadable.
        TryLater: the disk failed.
    """
    with translated(Path(path)), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def create(path: Path, temporary: Path, where: str = "cannot put a copy beside it: ") -> BinaryIO:
    """A new file for a copy of `path` that only we can read; what already has that name is somebody else's."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with translated(path, where):
        return open(os.open(temporary, flags, 0o600), "wb")


def copy_to(path: Path, target: BinaryIO, before: os.stat_result) -> str:
    """Copy the bytes to `target` and close it; their SHA-256 (hex).

    Raises:
        BadFile: unreadable, or a symbolic link.
        TryLater: no longer as in `before`, or the disk is full or failed.
    """
    with translated(path), target:
        source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(source, "rb") as reader:
            check_unchanged(path, before, os.fstat(source))
            digest = _copy_bytes(reader, target)
            target.flush()
            check_unchanged(path, before, os.fstat(source))
    return digest


def _copy_bytes(reader: BinaryIO, writer: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := reader.read(_BLOCK):
        digest.update(block)
        writer.write(block)
    return digest.hexdigest()


def check_unchanged(path: Path, before: os.stat_result, now: os.stat_result) -> None:
    """Raise TryLater if the file is not as it was.

    The change time counts too: a program that puts the old mtime back cannot hide a write from it.
    """
    if (FileState.of(now), now.st_ctime_ns) != (FileState.of(before), before.st_ctime_ns):
        raise TryLater(path, "changed while it was being worked on")


def dress(path: Path, temporary: Path, before: os.stat_result, mtime_ns: int) -> None:
    """Give the copy the owner (where permitted), mode, extended attributes and times of the original.

    Owner first: a change of owner takes set-id bits off the mode.

    Raises:
        BadFile: an extended attribute of the owner's would get lost.
    """
    present = os.lstat(temporary)
    for uid, gid in ((before.st_uid, -1), (-1, before.st_gid)):
        if uid not in (-1, present.st_uid) or gid not in (-1, present.st_gid):
            try:
                os.chown(temporary, uid, gid, follow_symlinks=False)
            except OSError as error:
                # EINVAL: an owner that does not exist in this container.
                if error.errno not in (errno.EPERM, errno.EACCES, errno.EINVAL):
                    raise
    shutil.copystat(path, temporary, follow_symlinks=False)
    _check_attributes(path, temporary)
    os.utime(temporary, ns=(before.st_atime_ns, mtime_ns), follow_symlinks=False)


def _check_attributes(path: Path, temporary: Path) -> None:
    """`copystat` passes over attributes that it may not set; the owner's own ones must not get lost that way."""
    for name in _attributes(path):
        if name.startswith(("user.", "system.posix_acl_")) and _attribute(path, name) != _attribute(temporary, name):
            raise BadFile(path, f"its extended attribute {name} cannot be kept")


def _attributes(path: Path) -> list[str]:
    try:
        return os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
            return []
        raise


def _attribute(path: Path, name: str) -> bytes | None:
    try:
        return os.getxattr(path, name, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return None
        raise


def sync_folder(folder: Path) -> None:
    """Get the names in `folder` to disk, where its file system can do that."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot synchronise a folder; there the rename is as safe as it gets.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EROFS):
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def translated(path: Path, where: str = "") -> Iterator[None]:
    """Turn an operating system's error inside into trouble with `path`; its reason begins with `where`."""
    try:
        yield
    except OSError as error:
        trouble = from_os_error(path, error)
        raise type(trouble)(path, where + trouble.reason) from error
