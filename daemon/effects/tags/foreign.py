"""Turns every exception that a damaged file can cause into `BadFile` or `TryLater`, once, with the path.

Of 1,268 public files, 105 made mutagen raise its own error and 9 made it raise something else (ZeroDivisionError,
IndexError, ValueError, MemoryError), so the list here is of what parsing may run into, not of what is documented.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator

from mutagen import MutagenError

from daemon.core.errors import BadFile, FileTrouble, from_os_error
from daemon.effects.tags.value import Unusable

_PARSING = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,  # RecursionError and NotImplementedError are kinds of it
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


@contextlib.contextmanager
def translated(path: str | os.PathLike[str]) -> Iterator[None]:
    """Everything inside that fails because of the file at `path` raises `BadFile` or `TryLater`, naming it."""
    try:
        yield
    except FileTrouble:
        raise
    except Unusable as error:
        raise BadFile(path, str(error)) from error
    except OSError as error:
        raise from_os_error(path, error) from error
    except MutagenError as error:
        raise _sorted(path, error) from error
    except _PARSING as error:
        raise BadFile(path, f"its tags cannot be read: {_said(error)}") from error


def _sorted(path: str | os.PathLike[str], error: MutagenError) -> FileTrouble:
    """mutagen wraps a failing disk in its own error: look beneath before blaming the file."""
    beneath: BaseException | None = error
    while beneath is not None:
        if isinstance(beneath, OSError) and beneath.errno is not None:
            return from_os_error(path, beneath)
        beneath = beneath.__cause__ or beneath.__context__
    return BadFile(path, f"its tags cannot be read: {_said(error)}")


def _said(error: BaseException) -> str:
    return f"{error} ({type(error).__name__})" if str(error) else type(error).__name__
