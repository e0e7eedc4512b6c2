"""From "something happened to this path" to a settled file in the queue; and the rescan for what nobody told us of.

Owns the settle tracker. It opens no file and decides nothing about a track. `touch` may be called from any thread,
`step` from one thread, `rescan` from another.
"""

from __future__ import annotations

import contextlib
import queue as thread_queue
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from daemon.core.config import Root, Settle
from daemon.core.errors import TryLater
from daemon.core.ledger import FileStatus, Ledger
from daemon.core.records import FileState
from daemon.effects import scan, tags, writers
from daemon.effects.queue import Queue
from daemon.rules import ignore
from daemon.rules.settle import SettleTracker, Verdict

log = structlog.get_logger()

# Touched paths taken in one step: files that are due must not starve in a burst.
_BURST = 5000
# Settled files queued in one step, in one transaction: a large library must neither hold the thread for minutes nor
# cost one flush to disk a file.
_BATCH = 500


class Intake:
    """Settles touched files of the watched roots into the queue."""

    def __init__(self, ledger: Ledger, queue: Queue, roots: Sequence[Root], settle: Settle) -> None:
        """Compare files with `ledger`, so that one seen in the same state is not queued again."""
        self._ledger = ledger
        self._queue = queue
        self._roots = tuple(roots)
        self._tracker = SettleTracker(settle.quiet_s, settle.patience_s)
        self._touched: thread_queue.SimpleQueue[Path | None] = thread_queue.SimpleQueue()

    def set(self, roots: Sequence[Root], settle: Settle) -> None:
        """Use these roots and limits from now on."""
        self._roots = tuple(roots)
        self._tracker.set_limits(settle.quiet_s, settle.patience_s)

    @property
    def settling(self) -> int:
        """How many files have not settled yet."""
        return len(self._tracker) + self._touched.qsize()

    def root_of(self, path: Path) -> Root | None:
        """The watched root that `path` lies in."""
        return next((root for root in self._roots if path.is_relative_to(root.path)), None)

    def touch(self, path: Path) -> None:
        """Something happened to `path`."""
        self._touched.put(path)

    def wake(self) -> None:
        """Let a waiting `step` return."""
        self._touched.put(None)

    def step(self, longest_s: float) -> int:
        """Wait for a touch or a due file, at most `longest_s`; returns how many files went into the queue."""
        due = self._tracker.next_due_s()
        wait_s = longest_s if due is None else min(longest_s, max(0.02, due - time.monotonic()))
        with contextlib.suppress(thread_queue.Empty):
            self._track(self._touched.get(timeout=wait_s))
            for _ in range(_BURST):
                self._track(self._touched.get_nowait())
        settled = [pair for path in self._tracker.due(time.monotonic())[:_BATCH] if (pair := self._settle(path))]
        if settled:
            self._queue.put_all(settled)
        return len(settled)

    def _track(self, path: Path | None) -> None:
        if path is None:
            return
        root = self.root_of(path)
        if root is None or not ignore.wanted(path, root.path, tags.AUDIO_SUFFIXES, root.ignore):
            return
        state = scan.state_of(path)
        if state is not None:
            self._tracker.touch(path, state, time.monotonic())

    def _settle(self, path: Path) -> tuple[Path, FileState] | None:
        state = scan.state_of(path)
        verdict = self._tracker.observe(path, state, time.monotonic(), writers=_written_by_others(path))
        if verdict is Verdict.GONE:
            log.info("vanished", path=path)
        if verdict is not Verdict.SETTLED or state is None:
            return None
        known = self._ledger.known(path)
        # A parked file that somebody touches is worth another try even in the same state: what was wrong with it may
        # have been another program that held it open, and that has closed it now.
        if known is not None and known.state == state and known.status is not FileStatus.PARKED:
            return None
        log.debug("settled", path=path)
        return path, state

    def rescan(self, keep_going: Callable[[], bool]) -> None:
        """Touch every file below the roots that the ledger does not know in its present state.

        `keep_going` is asked at every file; it may also note that the walk is alive.
        """
        for root in self._roots:
            try:
                self._rescan_root(root, keep_going)
            except TryLater as trouble:
                log.warning("root_unavailable", root=root.path, reason=trouble.reason)

    def _rescan_root(self, root: Root, keep_going: Callable[[], bool]) -> None:
        def wanted(path: Path) -> bool:
            return ignore.wanted(path, root.path, tags.AUDIO_SUFFIXES, root.ignore)

        def enter(name: str) -> bool:
            return not ignore.is_junk(name, root.ignore)

        started, found, new = time.monotonic(), 0, 0
        known = self._ledger.states_under(root.path) | self._queue.states()
        for path, state in scan.walk(root.path, wanted, enter):
            found += 1
            if known.get(path) != state:
                new += 1
                self.touch(path)
            if not keep_going():
                return
        level = log.info if new else log.debug
        level("rescanned", root=root.path, files=found, new=new, took_s=round(time.monotonic() - started, 3))


def _written_by_others(path: Path) -> bool | None:
    """Whether another program has the file open for writing; None where the kernel does not tell."""
    found = writers.writers_of(path)
    return None if found is writers.Writers.UNKNOWN else found is writers.Writers.SOME
