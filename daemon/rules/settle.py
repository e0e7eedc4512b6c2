"""Decides when a file has arrived whole. Pure: the caller brings the time and what `stat` said.

A file has settled when its size and mtime were quiet for `quiet_s` and nobody holds it open for writing; after
`patience_s` it is taken anyway, so that a program which never closes its files cannot hide them for ever. Both
limits are needed: a second close event was seen 6 s after the first, and slow copies pause.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

from daemon.core.records import FileState

# How much longer a file must be quiet where the kernel does not tell who writes to it.
_DOUBT = 10.0


class Verdict(enum.Enum):
    """What to do with a pending file now."""

    WAIT = enum.auto()
    SETTLED = enum.auto()
    GONE = enum.auto()


@dataclass(slots=True)
class _Pending:
    first_s: float
    changed_s: float
    state: FileState
    doubtful: bool = False


class SettleTracker:
    """Files that were touched and have not settled yet. Times are seconds of one monotonic clock."""

    def __init__(self, quiet_s: float, patience_s: float) -> None:
        """Track with these limits; `set_limits` changes them while files are pending."""
        self._pending: dict[Path, _Pending] = {}
        self.set_limits(quiet_s, patience_s)

    def set_limits(self, quiet_s: float, patience_s: float) -> None:
        """Apply other limits from now on."""
        self._quiet_s = quiet_s
        self._patience_s = patience_s

    def __len__(self) -> int:
        return len(self._pending)

    def touch(self, path: Path, state: FileState, now_s: float) -> None:
        """Something happened to `path`, which is now in `state`: its quiet time starts anew, its patience does not."""
        pending = self._pending.get(path)
        if pending is None:
            self._pending[path] = _Pending(now_s, now_s, state)
        else:
            pending.changed_s = now_s
            pending.state = state

    def due(self, now_s: float) -> list[Path]:
        """The files whose `stat` is worth a look now, in the order in which they were first touched."""
        return [
            path
            for path, pending in self._pending.items()
            if now_s - pending.changed_s >= self._quiet_of(pending) or now_s - pending.first_s >= self._patience_s
        ]

    def observe(self, path: Path, state: FileState | None, now_s: float, *, writers: bool | None = False) -> Verdict:
        """Judge a due file from its present `state` (None: it is gone) and whether someone has it open for writing.

        Where nobody can say who writes (`writers` None) the file has to be quiet for `_DOUBT` times as long: a slow
        copy that pauses looks finished by size and time alone. A file that settled or is gone is no longer pending.
        """
        pending = self._pending.get(path)
        if pending is None:
            return Verdict.GONE
        if state is None:
            del self._pending[path]
            return Verdict.GONE
        changed = state != pending.state
        pending.state = state
        impatient = now_s - pending.first_s >= self._patience_s
        if (changed or writers) and not impatient:
            pending.changed_s = now_s
            return Verdict.WAIT
        pending.doubtful = writers is None
        if now_s - pending.changed_s < self._quiet_of(pending) and not impatient:
            return Verdict.WAIT
        del self._pending[path]
        return Verdict.SETTLED

    def _quiet_of(self, pending: _Pending) -> float:
        return self._quiet_s * (_DOUBT if pending.doubtful else 1.0)

    def next_due_s(self) -> float | None:
        """When the next file may be due; None while nothing is pending."""
        if not self._pending:
            return None
        return min(
            min(pending.changed_s + self._quiet_of(pending), pending.first_s + self._patience_s)
            for pending in self._pending.values()
        )
