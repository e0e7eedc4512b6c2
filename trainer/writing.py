"""Writes a file whole or not at all. Must never leave half of one behind, and never read anything."""

from __future__ import annotations

import os
from pathlib import Path

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
