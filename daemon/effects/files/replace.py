"""Replaces a file by an edited copy of itself: whole or not at all, and so that it can be taken back.

Two steps, so that the caller can write down what is about to happen in between: `stage` prepares and proves the new
version beside the file, `commit` puts it in its place. Until `commit` the file is only read. Nothing here knows what
an edit does.
"""

from __future__ import annotations

import contextlib
import enum
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from daemon.core.errors import BadFile, FileTrouble, TryLater, UndoRefused, from_os_error
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
from daemon.effects.files.leftover import temporary_name
from daemon.effects.files.patch import apply_patch, make_patch

Edit = Callable[[Path], None]
"""Changes the file at the given path in place; it is a copy, and nobody else has it open."""

Verify = Callable[[Path, Path], None]
"""Compares the original (first) with the edited copy (second) and raises if the copy must not be used."""


class Mtime(enum.Enum):
    """Which modification time the new version gets. `KEEP` hides the edit from scanners that skip on (mtime, size)."""

    KEEP = "keep"
    NOW = "now"


class HardLinks(enum.Enum):
    """What to do with a file that has other names: a replaced file leaves them behind with the old content."""

    REFUSE = "refuse"
    SPLIT = "split"


@dataclass(frozen=True, slots=True)
class Staged:
    """A new version that waits beside its file.

    `after_state` is what the file's state will be after `commit`. `patch` turns the bytes after back into the bytes
    before: see `stage_restore`. The hashes are SHA-256 in hex. `owner_kept` is False where the file belongs to somebody
    else and only root could give the copy to them.
    """

    path: Path
    temporary: Path
    before_sha256: str
    after_sha256: str
    before_state: FileState
    after_state: FileState
    patch: bytes
    before_ctime_ns: int
    owner_kept: bool


def stage(
    path: Path,
    edit: Edit,
    verify: Verify,
    *,
    mtime: Mtime = Mtime.KEEP,
    hard_links: HardLinks = HardLinks.REFUSE,
    token: Callable[[], str] = lambda: secrets.token_hex(6),
    now_ns: Callable[[], int] = time.time_ns,
) -> Staged:
    """Copy `path` to a temporary file beside it, run `edit` on the copy, prove it with `verify`, and get it to disk.

    Afterwards the copy has the mode, the extended attributes (access lists are among them) and, where permitted, the
    owner of the original. Whatever fails, the original is untouched and the copy is gone: an exception out of `edit`
    or `verify` passes through, except that troubles with the copy are reported as troubles with `path`.

    Raises:
        BadFile: a symbolic link, not a regular file, hard-linked and not allowed, missing, unreadable, or in a folder
            that may not be written to.
        TryLater: the disk is full or failed, or the file changed meanwhile.
    """
    return _stage(path, edit, verify, lambda before: before if mtime is Mtime.KEEP else now_ns(), hard_links, token)


def stage_restore(
    path: Path,
    patch: bytes,
    *,
    after_sha256: str,
    before_sha256: str,
    mtime_ns: int | None,
    hard_links: HardLinks = HardLinks.REFUSE,
    token: Callable[[], str] = lambda: secrets.token_hex(6),
) -> Staged:
    """Stage the version that `path` had before the change which `patch` and the two hashes describe.

    `mtime_ns` is the modification time to bring back; None keeps the present one. `commit` as for any other change;
    the result's own patch takes the undoing back.

    Raises:
        UndoRefused: the file no longer has the content `after_sha256`, or the record is damaged.
        BadFile, TryLater: as for `stage`.
    """

    def rebuild(copy: Path) -> None:
        if sha256_of(copy) != after_sha256:
            raise UndoRefused(f"{path}: it was changed since; taking the change back would lose that")
        with open(copy, "wb") as out:
            restored = apply_patch(path, patch, out)
        if restored != before_sha256:
            raise UndoRefused(f"{path}: the record for undo does not give back what it promised")

    def prove(_: Path, copy: Path) -> None:
        if sha256_of(copy) != before_sha256:
            raise TryLater(path, "the restored bytes did not reach the disk")

    return _stage(path, rebuild, prove, lambda present: present if mtime_ns is None else mtime_ns, hard_links, token)


def commit(staged: Staged) -> FileState:
    """Put the staged version in the place of its file; the state that the file then has is returned.

    The change is atomic, also for a crash: afterwards there is the old file or the new one, whole.

    Raises:
        TryLater: the file is no longer the one that was staged, or the disk failed; the staged version is gone, and
            the file as it was, unless the reason says that it was replaced.
        BadFile: the folder may no longer be written to.
    """
    path = staged.path
    try:
        with translated(path):
            status = os.lstat(path)
            if (FileState.of(status), status.st_ctime_ns) != (staged.before_state, staged.before_ctime_ns):
                raise TryLater(path, "changed while it was being worked on")
            os.replace(staged.temporary, path)
    except BaseException:
        discard(staged)
        raise
    with translated(path, "was replaced, but its folder could not be synchronised: "):
        sync_folder(path.parent)
        return FileState.of(os.lstat(path))


def discard(staged: Staged) -> None:
    """Remove the staged version; nothing happens where it is gone already."""
    with contextlib.suppress(OSError):
        os.unlink(staged.temporary)


def _stage(
    path: Path,
    edit: Edit,
    verify: Verify,
    mtime_ns: Callable[[int], int],
    hard_links: HardLinks,
    token: Callable[[], str],
) -> Staged:
    with translated(path):
        before = os.lstat(path)
    _check_kind(path, before, hard_links)
    temporary = path.with_name(temporary_name(path.name, token()))
    target = create(path, temporary)
    try:
        before_sha256 = copy_to(path, target, before)
        with _as_trouble_of(path, temporary):
            edit(temporary)
            verify(path, temporary)
        with translated(path):
            dress(path, temporary, before, mtime_ns(before.st_mtime_ns))
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            after_sha256 = sha256_of(temporary)
            patch = make_patch(temporary, path)
            _check_patch(path, temporary, patch, before_sha256)
            check_unchanged(path, before, os.lstat(path))
            dressed = os.lstat(temporary)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return Staged(
        path=path,
        temporary=temporary,
        before_sha256=before_sha256,
        after_sha256=after_sha256,
        before_state=FileState.of(before),
        after_state=FileState.of(dressed),
        patch=patch,
        before_ctime_ns=before.st_ctime_ns,
        owner_kept=(dressed.st_uid, dressed.st_gid) == (before.st_uid, before.st_gid),
    )


def _check_kind(path: Path, status: os.stat_result, hard_links: HardLinks) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise BadFile(path, "is a symbolic link: the file that it points to has to be watched itself")
    if not stat.S_ISREG(status.st_mode):
        raise BadFile(path, "is no regular file")
    if status.st_nlink > 1 and hard_links is HardLinks.REFUSE:
        raise BadFile(path, f"has {status.st_nlink} names (hard links), and rewriting it would part them")


class _Nowhere:
    """Takes bytes and forgets them."""

    def write(self, data: bytes, /) -> int:
        return len(data)


def _check_patch(path: Path, temporary: Path, patch: bytes, before_sha256: str) -> None:
    """A record that does not give back the old bytes is worse than none: try it before anything is replaced."""
    try:
        restored = apply_patch(temporary, patch, _Nowhere())
    except UndoRefused as error:
        raise TryLater(path, f"the record for undo could not be made ({error})") from error
    if restored != before_sha256:
        raise TryLater(path, "changed while it was being worked on")


@contextlib.contextmanager
def _as_trouble_of(path: Path, temporary: Path) -> Iterator[None]:
    """What an edit says about the copy is meant for the owner, who knows the original's name only."""
    try:
        yield
    except FileTrouble as error:
        if error.path != temporary:
            raise
        raise type(error)(path, error.reason) from error
    except OSError as error:
        raise from_os_error(path, error) from error
