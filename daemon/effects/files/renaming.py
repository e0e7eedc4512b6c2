"""Renames a file without ever taking another's place, whatever the file system can do. Owns the call to renameat2.

Also tells two files from two spellings of one: on a file system that ignores case both names lead to the same file,
and taking them for two would lose it.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import errno
import functools
import os
import stat
import unicodedata
from collections.abc import Callable
from pathlib import Path

from daemon.core.errors import BadFile, TryLater
from daemon.effects.files.copying import sync_folder

_AT_FDCWD, _RENAME_NOREPLACE = -100, 1  # <fcntl.h>, <linux/fs.h>
# What NFS, FUSE and old kernels say to the flag, and what we say where the C library does not know the call.
_FLAG_REFUSED = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP})

RenameNoReplace = Callable[[Path, Path], int]
"""Renames the first to the second unless that exists; 0, or the error number."""


class Spot(enum.Enum):
    """What stands at a target, seen from the file that is to get there."""

    FREE = enum.auto()
    TAKEN = enum.auto()
    HERE = enum.auto()
    OTHER_CASE = enum.auto()


def renameat2_noreplace(source: Path, target: Path) -> int:
    """renameat2(2) with RENAME_NOREPLACE."""
    call = _renameat2()
    if call is None:
        return errno.ENOSYS
    done = call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE)
    return 0 if done == 0 else ctypes.get_errno()


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    """The C library's function (glibc 2.28, musl 1.2.5); loaded when first needed."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    call.restype = ctypes.c_int
    found: Callable[..., int] = call
    return found


def rename_new(source: Path, target: Path, rename: RenameNoReplace = renameat2_noreplace) -> None:
    """`source` is called `target` afterwards; whatever stands there already stays, and TryLater is raised.

    Where the file system does not know RENAME_NOREPLACE an empty file is put at the target first, which only works
    where there is none, and is then replaced. A crash in between leaves it there (see `is_placeholder`).

    Raises:
        TryLater: something stands at the target.
        BadFile: the file system does not take the name.
        OSError: as the operating system says.
    """
    code = rename(source, target)
    if code in _FLAG_REFUSED:
        _rename_over_placeholder(source, target)
    elif code == errno.EEXIST:
        raise _taken(source, target)
    elif code:
        raise OSError(code, os.strerror(code), os.fspath(source), None, os.fspath(target))


def is_placeholder(path: Path) -> bool:
    """Whether an empty file stands at `path`, as a crash amid `rename_new` can leave."""
    status = status_of(path)
    return status is not None and stat.S_ISREG(status.st_mode) and status.st_size == 0


def change_case(source: Path, target: Path, between: Path, rename: RenameNoReplace = renameat2_noreplace) -> None:
    """`source` is called `target` afterwards, which differs in case alone, and is the same to this file system.

    Linux does nothing when both names lead to one inode (FAT and NTFS drivers): then it goes by the name `between`.

    Raises:
        TryLater, BadFile, OSError: as for `rename_new`; the file is called `source`, if at all possible.
    """
    os.rename(source, target)
    if is_listed(target):
        return
    rename_new(source, between, rename)
    try:
        rename_new(between, target, rename)
    except BaseException:
        with contextlib.suppress(OSError, TryLater, BadFile):
            rename_new(between, source, rename)
        raise


def spot_of(target: Path, source: Path) -> Spot:
    """What stands at `target`, to which the file at `source` is to get.

    By the spelling of the folders, since no number tells: some FUSE file systems have another inode per spelling.

    Raises:
        OSError: as the operating system says.
    """
    if status_of(target) is None:
        return Spot.FREE
    here, there = _resolved(source), _resolved(target)
    top = Path(os.path.commonpath([here.parent, there.parent]))
    spelled = _spelled(there, top)
    if spelled != _spelled(here, top):
        return Spot.TAKEN
    return Spot.HERE if spelled.name == target.name else Spot.OTHER_CASE


def is_listed(path: Path) -> bool:
    """Whether the folder has an entry of exactly this name."""
    try:
        return path.name in os.listdir(path.parent)
    except (FileNotFoundError, NotADirectoryError):
        return False


def status_of(path: Path) -> os.stat_result | None:
    """What `lstat` says; None where nothing is."""
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _rename_over_placeholder(source: Path, target: Path) -> None:
    placeholder = _place(source, target)
    try:
        if not _is_the_same(target, placeholder):
            raise _taken(source, target)
        os.rename(source, target)
    except BaseException:
        if _is_the_same(target, placeholder):
            os.unlink(target)
            sync_folder(target.parent)
        raise


def _place(source: Path, target: Path) -> os.stat_result:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        os.close(os.open(target, flags, 0o600))
    except FileExistsError as error:
        raise _taken(source, target) from error
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise BadFile(source, f"its file system does not take the name {target.name!r}") from error
        raise
    return os.lstat(target)


def _is_the_same(path: Path, placeholder: os.stat_result) -> bool:
    status = status_of(path)
    return status is not None and os.path.samestat(status, placeholder) and status.st_size == 0


def _taken(source: Path, target: Path) -> TryLater:
    return TryLater(source, f"something else stands at {target} meanwhile")


def _resolved(path: Path) -> Path:
    return Path(os.path.realpath(path.parent), path.name)


def _spelled(path: Path, top: Path) -> Path:
    """`path` with each name below `top` as its folder has it."""
    spelled = top
    for name in path.relative_to(top).parts:
        names = os.listdir(spelled)
        if name not in names:
            name = next((other for other in names if _fold(other) == _fold(name)), name)
        spelled /= name
    return spelled


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
