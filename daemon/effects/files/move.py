"""Moves a file to another place: whole or not at all, and never over another file.

Two steps, so that the caller can write down what is about to happen in between: `stage_move` looks and, where the
target lies on another device, makes and proves a copy there; `commit_move` moves. Until `commit_move` the file is only
read. `settling` finishes or takes back what a crash interrupts.

On one device a move is a rename: the very file, whatever is in it, so that it is not read. A device is not told by
its number alone: between two bind mounts of one file system nothing can be renamed either.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from daemon.core.errors import BadFile, TryLater
from daemon.core.records import FileState
from daemon.effects.files.copying import (
    check_unchanged,
    copy_to,
    create,
    dress,
    sha256_of,
    sync_folder,
    translated,
)
from daemon.effects.files.folders import make_folders, remove_made, way_to
from daemon.effects.files.leftover import temporary_name
from daemon.effects.files.renaming import (
    RenameNoReplace,
    Spot,
    change_case,
    rename_new,
    renameat2_noreplace,
    spot_of,
    status_of,
)

_MAX_NAME = 255


@dataclass(frozen=True, slots=True)
class StagedMove:
    """A move that is about to happen; these values, given to `settle_move`, settle it after a crash.

    `made_folders` are those that `commit_move` makes, outermost first. `sha256` (hex) is that of a copy on another
    device, which waits at `temporary`; None for a rename. A rename that changes nothing but upper and lower case has a
    `temporary` too: the name that the file may have for a moment. `owner_kept` is False where the file belongs to
    somebody else and only root could give the copy to them.
    """

    source: Path
    target: Path
    temporary: Path | None
    sha256: str | None
    state: FileState
    made_folders: tuple[Path, ...]
    owner_kept: bool


def stage_move(
    source: Path, target: Path, *, within: Path, token: Callable[[], str] = lambda: secrets.token_hex(6)
) -> StagedMove:
    """Prepare to move `source` to `target`, which has to lie below the folder `within`, also once links are resolved.

    Nothing is at the target and no folder made yet. A copy has the mode, times, extended attributes and, where
    permitted, the owner of the original, is on disk, and was read back.

    Raises:
        BadFile: a symbolic link, not a regular file, gone, unreadable, hard-linked and to go to another device; the
            target is taken, or the file's own place, or outside `within`, or cannot be written to.
        TryLater: the disk is full or failed, the file changed meanwhile, or `within` is not there.
    """
    with translated(source):
        before = os.lstat(source)
        _check_kind(source, before)
        anchor, missing = way_to(source, target, within)
        spot = spot_of(target, source)
        if spot is Spot.HERE:
            raise BadFile(source, f"stands at {target} already (its file system takes both places for one)")
        if spot is Spot.TAKEN:
            raise BadFile(source, f"something else stands at {target} already")
        near = _device_of(source.parent) == _device_of(anchor)
    if near:
        between = _name_between(target, token()) if spot is Spot.OTHER_CASE else None
        return _staged(source, target, before, missing, temporary=between)
    return _stage_copy(source, target, before, missing, anchor / temporary_name(target.name, token()))


def commit_move(staged: StagedMove, *, rename: RenameNoReplace = renameat2_noreplace) -> FileState:
    """Move the file; the state that it then has at its target is returned.

    Each step leaves the file whole at one of its two places, or at both, also if the machine stops there.

    Raises:
        TryLater: the file is no longer the one that was staged, something stands at the target now, or the disk failed.
        BadFile: a folder may not be written to, or does not take the name.
            In all these cases the file is where it was, and what was made for it is gone, unless the reason says that
            it was moved.
    """
    source, target = staged.source, staged.target
    try:
        with translated(source):
            _check_state(staged)
            make_folders(source, staged.made_folders)
            _put(staged, rename)
    except BaseException:
        discard_move(staged)
        raise
    if staged.sha256 is not None:
        _give_up_source(staged)
    with translated(source, "was moved, but its folder could not be synchronised: "):
        sync_folder(target.parent)
        sync_folder(source.parent)
        return FileState.of(os.lstat(target))


def discard_move(staged: StagedMove) -> None:
    """Remove the copy and the folders that were made, if they are empty; nothing happens where they are gone or used.

    A move that has happened is not touched.
    """
    if staged.sha256 is not None and staged.temporary is not None:
        with contextlib.suppress(OSError):
            os.unlink(staged.temporary)
    remove_made(staged.made_folders)


def is_free(target: Path, source: Path) -> bool:
    """Whether `source` could be moved to `target`: nothing is there, or the file itself under another spelling of case.

    Raises:
        BadFile, TryLater: it cannot be told.
    """
    with translated(source):
        return spot_of(target, source) in (Spot.FREE, Spot.OTHER_CASE)


def is_same_place(target: Path, source: Path) -> bool:
    """Whether `target` is where `source` stands already, by another way or in other case: there is nothing to move.

    Raises:
        BadFile, TryLater: it cannot be told.
    """
    with translated(source):
        return spot_of(target, source) is Spot.HERE


def _check_state(staged: StagedMove) -> None:
    """Its change time counts too, as for `check_unchanged`."""
    if FileState.of(os.lstat(staged.source)) != staged.state:
        raise TryLater(staged.source, "changed while it was being worked on")


def _check_kind(path: Path, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise BadFile(path, "is a symbolic link: the file that it points to has to be watched itself")
    if not stat.S_ISREG(status.st_mode):
        raise BadFile(path, "is no regular file")


def _device_of(folder: Path) -> tuple[int, str]:
    """What two folders between which a file can be renamed have in common: the device and, if told, the mount.

    The folder is asked, not the file: overlay file systems show files under the numbers of the layers below.
    """
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        device = os.fstat(descriptor).st_dev
        with contextlib.suppress(OSError), open(f"/proc/self/fdinfo/{descriptor}", encoding="utf-8") as lines:
            return device, next((line for line in lines if line.startswith("mnt_id:")), "")
        return device, ""
    finally:
        os.close(descriptor)


def _name_between(target: Path, token: str) -> Path:
    """No hidden name and no temporary copy's: a crash leaves the only copy there, which nobody must sweep away."""
    tail = f".{token}.moving{target.suffix}"
    room = _MAX_NAME - len(os.fsencode(tail))
    return target.with_name(os.fsencode(target.stem)[:room].decode("utf-8", "ignore") + tail)


def _staged(
    source: Path,
    target: Path,
    before: os.stat_result,
    missing: tuple[Path, ...],
    *,
    temporary: Path | None = None,
    sha256: str | None = None,
    owner_kept: bool = True,
) -> StagedMove:
    return StagedMove(source, target, temporary, sha256, FileState.of(before), missing, owner_kept)


def _stage_copy(
    source: Path, target: Path, before: os.stat_result, missing: tuple[Path, ...], temporary: Path
) -> StagedMove:
    """The copy waits in the innermost folder that is there: none is made before the intent is on record."""
    if before.st_nlink > 1:
        raise BadFile(source, f"has {before.st_nlink} names (hard links), and a move to another device would part them")
    writer = create(source, temporary, f"cannot put a copy into {temporary.parent}: ")
    try:
        sha256 = copy_to(source, writer, before)
        with translated(source):
            dress(source, temporary, before, before.st_mtime_ns)
            _flush(temporary)
            if sha256_of(temporary) != sha256:
                raise TryLater(source, f"its copy in {temporary.parent} reads back differently")
            check_unchanged(source, before, os.lstat(source))
            copied = os.lstat(temporary)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    owner_kept = (copied.st_uid, copied.st_gid) == (before.st_uid, before.st_gid)
    return _staged(source, target, before, missing, temporary=temporary, sha256=sha256, owner_kept=owner_kept)


def _flush(path: Path) -> None:
    """Get a file to disk, and out of memory, so that reading it back reads the disk. It may be write-protected."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _put(staged: StagedMove, rename: RenameNoReplace) -> None:
    if staged.sha256 is not None and staged.temporary is not None:
        rename_new(staged.temporary, staged.target, rename)
    elif staged.temporary is not None:
        change_case(staged.source, staged.target, staged.temporary, rename)
    else:
        rename_new(staged.source, staged.target, rename)


def _give_up_source(staged: StagedMove) -> None:
    """Both whole files are there: get the new name to disk, and remove the old file, or else the new one."""
    try:
        with translated(staged.source):
            sync_folder(staged.target.parent)
            # Deleted in this very moment: what stands at the target is all there is, and stays.
            if status_of(staged.source) is None:
                return
            _check_state(staged)
            os.unlink(staged.source)
    except BaseException:
        _take_back(staged)
        raise


def _take_back(staged: StagedMove) -> None:
    with contextlib.suppress(OSError, BadFile, TryLater):
        if status_of(staged.source) is not None and sha256_of(staged.target) == staged.sha256:
            os.unlink(staged.target)
    discard_move(staged)
