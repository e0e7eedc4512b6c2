"""Writes a file whole or not at all, and lets the system's own errors through. Must never read anything."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from io import RawIOBase
from pathlib import Path
from typing import BinaryIO, cast

from daemon.core.errors import from_os_error


def write_whole(path: Path, content: bytes) -> None:
    """Put `content` into the file at `path`, which takes its name only when it is on disk; makes its folder.

    Raises:
        BadFile, TryLater: it cannot be written (a full disk, for one); what was there before is as it was.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, "wb") as out:
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise from_os_error(path, error) from error


@contextlib.contextmanager
def told_plainly(out: RawIOBase) -> Iterator[BinaryIO]:
    """The unbuffered file `out` to write to, for writers such as torch's: a full disk is raised as the OSError that it
    is, where they would make a RuntimeError of their own book-keeping of it."""
    watched = _Watched(out)
    try:
        yield cast(BinaryIO, watched)
    except RuntimeError as error:
        raise (watched.trouble or error) from error


class _Watched:
    """A file to write to that keeps the system's error; short writes are finished."""

    def __init__(self, out: RawIOBase) -> None:
        self._out = out
        self.trouble: OSError | None = None

    def write(self, content: bytes | memoryview) -> int:
        left = memoryview(content).cast("B")
        total = len(left)
        try:
            while left:
                left = left[self._out.write(left) :]
        except OSError as error:
            self.trouble = error
            raise
        return total

    def flush(self) -> None:
        """Nothing is kept back."""
