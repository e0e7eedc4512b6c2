"""From "something happened to this path" to a settled file in the queue; and the rescan for what nobody told us of.

Owns the settle tracker. It opens no file and decides nothing about a track. `touch` may be called from any thread,
`step` from one thread, `rescan` from another.
"""

from __future__ import annotations

import contextlib
import queue as thread_queue
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from daemon.core.config import Mode, Root, Settle
from daemon.core.errors import TryLater
from daemon.core.ledger import FileStatus, Ledger
from daemon.core.records import FileState
from daemon.effects import scan, tags, writers
from daemon.effects.queue import Queue
from daemon.rules import ignore, policy
from daemon.rules.settle import SettleTracker, Verdict

log = structlog.get_logger()

# Touched paths taken in one step: files that are due must not starve in a burst.
_BURST = 5000
# Paths that an event names; the rest is a number.
_EXAMPLES = 5
# Settled files queued in one step, in one transaction: a large library must neither hold the thread for minutes nor
# cost one flush to disk a file.
_BATCH = 500
# A file that was given up for the moment (full disk, read-only mount) is tried again at every start and after this.
_SECOND_CHANCE = timedelta(days=1)


class Intake:
    """Settles touched files of the watched roots into the queue."""

    def __init__(self, ledger: Ledger, queue: Queue, roots: Sequence[Root], settle: Settle) -> None:
        """Compare files with `ledger`, so that one seen in the same state is not queued again."""
        self._ledger = ledger
        self._queue = queue
        self._roots = tuple(roots)
        self._settle_limits = settle
        self._tracker = SettleTracker(settle.quiet_s, settle.patience_s)
        self._touched: thread_queue.SimpleQueue[Path | None] = thread_queue.SimpleQueue()
        self._told: dict[tuple[str, Path], list[Path]] = {}
        self._tried: set[Path] = set()
        self._absent: dict[Path, str] = {}

    def set(self, roots: Sequence[Root], settle: Settle) -> None:
        """Use these roots and limits from the next step on."""
        self._roots = tuple(roots)
        self._settle_limits = settle

    def troubles(self) -> list[str]:
        """Roots that the last rescan could not look through, one line each."""
        return [f"{root}: {reason}" for root, reason in list(self._absent.items())]

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
        self._tracker.set_limits(self._settle_limits.quiet_s, self._settle_limits.patience_s)
        due = self._tracker.next_due_s()
        wait_s = longest_s if due is None else min(longest_s, max(0.0, due - time.monotonic()))
        for path in self._take_touched(wait_s):
            self._track(path)
        settled = [pair for path in self._tracker.due(time.monotonic(), _BATCH) if (pair := self._settle(path))]
        if settled:
            self._queue.put_all(settled)
        return len(settled)

    def _take_touched(self, wait_s: float) -> list[Path]:
        """Each touched path once: creating, writing and closing a file touch it three times in a moment."""
        touched: dict[Path | None, None] = {}
        with contextlib.suppress(thread_queue.Empty):
            touched[self._touched.get(timeout=wait_s)] = None
            for _ in range(_BURST):
                touched[self._touched.get_nowait()] = None
        return [path for path in touched if path is not None]

    def _track(self, path: Path) -> None:
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
        known, root = self._ledger.known(path), self.root_of(path)
        if root is None:
            return None
        if known is not None and known.state == state and policy.finished(known.status, root.mode):
            return None
        log.debug("settled", path=path)
        return path, state

    def rescan(self, keep_going: Callable[[], bool]) -> None:
        """Touch every file below the roots that the ledger does not know in its present state.

        One that has yet to settle is left alone: rescan upon rescan, as in a burst, must not keep it from settling.
        `keep_going` is asked at every file; it may also note that the walk is alive.
        """
        for root in self._roots:
            try:
                self._rescan_root(root, keep_going)
            except TryLater as trouble:
                self._absent[root.path] = trouble.reason
                log.warning("root_unavailable", root=root.path, reason=trouble.reason)
            else:
                self._absent.pop(root.path, None)

    def _rescan_root(self, root: Root, keep_going: Callable[[], bool]) -> None:
        def wanted(path: Path) -> bool:
            return ignore.wanted(path, root.path, tags.AUDIO_SUFFIXES, root.ignore)

        def enter(name: str) -> bool:
            return not ignore.is_junk(name, root.ignore)

        def pass_over(path: Path, why: str) -> None:
            passed_over[why].append(path)

        started, found, new = time.monotonic(), 0, 0
        passed_over: dict[str, list[Path]] = {scan.LINK: [], scan.UNREADABLE: []}
        known = self._ledger.states_under(root.path) | self._queue.states()
        for path, state in scan.walk(root.path, wanted, enter, pass_over):
            found += 1
            if known.get(path) != state and path not in self._tracker:
                new += 1
                self.touch(path)
            if not keep_going():
                return
        seen_at = "" if found else self._ledger.last_seen_below(root.path)
        if seen_at and not scan.looks_mounted(root.path, seen_at):
            raise TryLater(root.path, "is empty, but files of it are on record (not mounted?)")
        new += self._give_second_chances(root)
        level = log.info if new else log.debug
        level("rescanned", root=root.path, files=found, new=new, took_s=round(time.monotonic() - started, 3))
        self._tell_passed_over("links_passed_over", root.path, passed_over[scan.LINK])
        self._tell_passed_over("folders_unreadable", root.path, passed_over[scan.UNREADABLE])

    def _give_second_chances(self, root: Root) -> int:
        """Touch files of the root that wait for a better moment, or for the root to be written to; how many."""
        before = datetime.now(UTC) - (_SECOND_CHANCE if root.path in self._tried else timedelta(0))
        self._tried.add(root.path)
        waiting = [
            known
            for known in self._ledger.of_status(FileStatus.WAITING)
            if datetime.fromisoformat(known.seen_at) <= before
        ]
        if root.mode is Mode.APPLY:
            waiting += self._ledger.of_status(FileStatus.SUGGESTED)
        below = [known.path for known in waiting if known.path.is_relative_to(root.path)]
        found = [path for path in below if scan.state_of(path) is not None]
        for path in found:
            self.touch(path)
        return len(found)

    def _tell_passed_over(self, event: str, root: Path, paths: list[Path]) -> None:
        """One event for all, and at `info` only when it is news: rescans come every few minutes."""
        news = self._told.get((event, root), []) != paths
        self._told[event, root] = paths
        if paths:
            level = log.info if news else log.debug
            level(event, root=root, count=len(paths), paths=paths[:_EXAMPLES])


def _written_by_others(path: Path) -> bool | None:
    """Whether another program has the file open for writing; None where the kernel does not tell."""
    found = writers.writers_of(path)
    return None if found is writers.Writers.UNKNOWN else found is writers.Writers.SOME
