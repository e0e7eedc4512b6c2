"""The errors that this program raises on purpose. Owns no behaviour; imports nothing of the program.

Two families concern files: `BadFile` (this file is bad: park it) and `TryLater` (this moment is bad: try again).
Both always name the path and the reason. An exception of any other type is a bug and reaches the worker's one
broad `except` with its traceback.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path


class MusicReclassError(Exception):
    """Base of every error raised on purpose; its text is fit to be shown to the owner."""


class FileTrouble(MusicReclassError):
    """Raised only as one of its two children; `path` and `reason` say what happened to which file."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        self.path = Path(path)
        self.reason = reason
        super().__init__(f"{self.path}: {reason}")


class BadFile(FileTrouble):
    """Raised when the file itself cannot be used (not audio, truncated, unwritable tags): park it with the reason."""


class TryLater(FileTrouble):
    """Raised when the moment is bad (disk full, I/O error, file changed under us): the same file may work later."""


class ConfigError(MusicReclassError):
    """Raised when a config file cannot be used as a whole; `problems` lists every reason, each with its line."""

    def __init__(self, source: str, problems: list[str]) -> None:
        self.source = source
        self.problems = problems
        super().__init__("\n".join([f"{source}: {len(problems)} problem(s)", *(f"  {line}" for line in problems)]))


class BundleError(MusicReclassError):
    """Raised when a model bundle is refused (missing file, wrong hash, outputs not reproduced); names the bundle."""


class LedgerError(MusicReclassError):
    """Raised when the ledger cannot be trusted (unknown schema, corrupt, held by another daemon)."""


class LedgerDamaged(LedgerError):
    """Raised when the database file itself is broken: waiting does not help, unlike for a full disk or a lock."""


class UndoRefused(MusicReclassError):
    """Raised when a change cannot be taken back without losing what the owner did since."""


def from_os_error(path: str | os.PathLike[str], error: OSError) -> FileTrouble:
    """Sort an operating system's error into one of the two families; the caller raises it `from error`."""
    reason = error.strerror or str(error) or type(error).__name__
    bad = isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError))
    if bad or error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return BadFile(path, reason.lower())
    return TryLater(path, reason.lower())
