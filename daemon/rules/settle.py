"""Decides when a file has arrived whole. Pure: the caller brings the time and what `stat` said.

A file has settled when its size and mtime were quiet for `quiet_s` and nobody holds it open for writing; after
`patience_s` it is taken anyway, so that a program which never closes its files cannot hide them for ever. Both
limits are needed: a second close event was seen 6 s after the first, and slow copies pause.
"""

from __future__ import annotations

import enum
import heapq
import itertools
from dataclasses import dataclass
from pathlib import Path

from daemon.core.records import FileState

# How much longer a file must be quiet where the kernel does not tell who writes to it.
_DOUBT = 10.0
_NEVER = float("inf")


class Verdict(enum.Enum):
    """What to do with a pending file now."""

    WAIT = enum.auto()
    SETTLED = enum.auto()
    GONE = enum.auto()


@dataclass(slots=True)
class _Pending:
    path: Path
    number: int
    first_s: float
    changed_s: float
    state: FileState
    doubtful: bool = False


class SettleTracker:
    """Files that were touched and have not settled yet. Times are seconds of one monotonic clock.

    Each pending file stands once in a heap, at a time not later than the one at which it is due: a touch only moves
    that later, so it costs nothing, and whoever meets an entry too early puts it back at the right time. With 40,000
    files pending, looking through all of them took 35 ms each time, 50 times a second.
    """

    def __init__(self, quiet_s: float, patience_s: float) -> None:
        """Track with these limits; `set_limits` changes them while files are pending."""
        self._quiet_s, self._patience_s = quiet_s, patience_s
        self._pending: dict[Path, _Pending] = {}
        self._by_time: list[tuple[float, int, _Pending]] = []
        self._numbers = itertools.count()

    def set_limits(self, quiet_s: float, patience_s: float) -> None:
        """Apply other limits from now on."""
        if (quiet_s, patience_s) != (self._quiet_s, self._patience_s):
            self._quiet_s, self._patience_s = quiet_s, patience_s
            self._sort()

    def _sort(self) -> None:
        """Set up the heap anew: something made files due earlier than their entries say."""
        self._by_time = [self._entry(pending) for pending in self._pending.values()]
        heapq.heapify(self._by_time)

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, path: Path) -> bool:
        return path in self._pending

    def touch(self, path: Path, state: FileState, now_s: float) -> None:
        """Something happened to `path`, which is now in `state`: its quiet time starts anew, its patience does not."""
        pending = self._pending.get(path)
        if pending is None:
            pending = _Pending(path, next(self._numbers), now_s, now_s, state)
            self._pending[path] = pending
            heapq.heappush(self._by_time, self._entry(pending))
        else:
            pending.changed_s = now_s
            pending.state = state

    def due(self, now_s: float, at_most: int | None = None) -> list[Path]:
        """The files whose `stat` is worth a look now, in the order in which they were first touched.

        With more than `at_most` due it is those that have been due longest. They stay pending until `observe` has
        judged them.
        """
        found: list[_Pending] = []
        while self._earliest_s() <= now_s and (at_most is None or len(found) < at_most):
            found.append(heapq.heappop(self._by_time)[2])
        for pending in found:
            heapq.heappush(self._by_time, self._entry(pending))
        return [pending.path for pending in sorted(found, key=lambda pending: pending.number)]

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
        doubted, pending.doubtful = pending.doubtful, writers is None
        if doubted and not pending.doubtful:
            self._sort()
        if now_s - pending.changed_s < self._quiet_of(pending) and not impatient:
            return Verdict.WAIT
        del self._pending[path]
        return Verdict.SETTLED

    def next_due_s(self) -> float | None:
        """When the next file may be due; None while nothing is pending."""
        earliest_s = self._earliest_s()
        return None if earliest_s == _NEVER else earliest_s

    def _earliest_s(self) -> float:
        """When the first file is due; entries of files that are no longer pending, or due later, are set right."""
        while self._by_time:
            at_s, _, pending = self._by_time[0]
            if self._pending.get(pending.path) is not pending:
                heapq.heappop(self._by_time)
            elif (entry := self._entry(pending))[0] > at_s:
                heapq.heapreplace(self._by_time, entry)
            else:
                return at_s
        return _NEVER

    def _entry(self, pending: _Pending) -> tuple[float, int, _Pending]:
        quiet_at_s = pending.changed_s + self._quiet_of(pending)
        return min(quiet_at_s, pending.first_s + self._patience_s), pending.number, pending

    def _quiet_of(self, pending: _Pending) -> float:
        return self._quiet_s * (_DOUBT if pending.doubtful else 1.0)
