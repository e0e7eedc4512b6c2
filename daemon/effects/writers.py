"""Asks the kernel whether some process has a file open for writing. Owns fcntl leases; changes nothing.

Replacing a file by rename while a slow copy still writes to it would cut the copy off: its remaining bytes would go
to the unlinked old file. Size and mtime cannot tell a paused copy from a finished one; the kernel can.
"""

from __future__ import annotations

import enum
import fcntl
import os
import signal
from pathlib import Path

from daemon.core.errors import TryLater


class Writers(enum.Enum):
    """Whether some process has a file open for writing."""

    SOME = enum.auto()
    NONE = enum.auto()
    UNKNOWN = enum.auto()


def refuse_if_written(path: Path) -> None:
    """Nothing happens unless another program is known to have `path` open for writing.

    Raises:
        TryLater: one has.
    """
    if writers_of(path) is Writers.SOME:
        raise TryLater(path, "another program has it open for writing")


def writers_of(path: Path) -> Writers:
    """Whether another process has `path` open for writing.

    A read lease is granted only where no one has (fcntl(2), F_SETLEASE); it is given back at once. Leases need the
    file's owner (or CAP_LEASE) and a local file system: elsewhere the kernel does not tell.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return Writers.UNKNOWN
    try:
        # Whoever opens the file for writing in this instant makes the kernel signal us; SIGIO, the default, would
        # end the process, SIGURG is ignored unless asked for.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return Writers.SOME
    except OSError:
        return Writers.UNKNOWN
    finally:
        os.close(descriptor)
    return Writers.NONE
