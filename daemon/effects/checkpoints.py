"""The folder of pulled checkpoints: takes a file in once its hash is right. Owns its files and `SHA256SUMS`.

Nothing replaces anything before its hash was found right, and then by one rename. `SHA256SUMS` holds the hash of every
file that was taken in, in the form of sha256sum(1), so that `sha256sum -c` checks them too. Must never fetch or open a
model.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from daemon.core.errors import BadFile, TryLater, from_os_error

SUMS: Final = "SHA256SUMS"
_LINE: Final = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_BLOCK: Final = 1 << 20

Advance = Callable[[int, int | None], None]


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make `folder` and hold it: two pulls of one checkpoint would write into the same partial file.

    Raises:
        TryLater: another process holds it, or it cannot be made.
    """
    try:
        for missing in reversed([place for place in (folder, *folder.parents) if not place.exists()]):
            missing.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise from_os_error(folder, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise TryLater(folder, "another pull is at work there") from error
    except OSError as error:
        raise from_os_error(folder, error) from error
    else:
        yield
    finally:
        os.close(descriptor)


def recorded(folder: Path) -> dict[str, str]:
    """The hash (SHA-256, hex) of each file that was taken into `folder`, by its name; empty where none was."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {match[2]: match[1] for match in map(_LINE.fullmatch, lines) if match}


def hash_of(path: Path) -> str | None:
    """The SHA-256 (hex) of the file at `path`; None where there is none.

    Raises:
        BadFile, TryLater: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise from_os_error(path, error) from error


def copy(source: Path, part: Path, advance: Advance) -> None:
    """Copy the local file `source` into `part`, from the beginning.

    Raises:
        BadFile: it cannot be read.
        TryLater: the disk is full or failed.
    """
    try:
        with open(source, "rb") as reader, open(part, "wb") as writer:
            total, done = os.fstat(reader.fileno()).st_size, 0
            while block := reader.read(_BLOCK):
                writer.write(block)
                done += len(block)
                advance(done, total)
            writer.flush()
            os.fsync(writer.fileno())
    except OSError as error:
        blamed = source if error.filename == str(source) else part
        raise from_os_error(blamed, error) from error


def take_in(part: Path, target: Path, sha256: str | None) -> str:
    """Let `part` become `target`, if its hash is `sha256` (any, where that is None), and record it; the hash.

    Raises:
        BadFile: it has another hash: it is thrown away, and what was at `target` stays.
        TryLater: the disk is full or failed.
    """
    found = hash_of(part)
    if found is None:
        raise BadFile(part, "is gone")
    if sha256 is not None and found != sha256:
        part.unlink()
        raise BadFile(
            target, f"refused: what came has the SHA-256 {found}, expected was {sha256}; nothing was replaced"
        )
    try:
        os.replace(part, target)
        _record(target.parent, target.name, found)
        _sync(target.parent)
    except OSError as error:
        raise from_os_error(target, error) from error
    return found


def _record(folder: Path, name: str, sha256: str) -> None:
    known = {old: its for old, its in recorded(folder).items() if (folder / old).is_file()} | {name: sha256}
    draft = folder / f".{SUMS}.part"
    with open(draft, "w", encoding="utf-8") as out:
        out.writelines(f"{known[each]}  {each}\n" for each in sorted(known))
        out.flush()
        os.fsync(out.fileno())
    os.replace(draft, folder / SUMS)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
