"""The worker: takes queued files through the pipeline, one by one, and files those whose time has come.

Owns the order of work and what becomes of a file that fails. It runs in one thread and decides nothing about a track.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import structlog

from daemon.core.config import Queue as Limits
from daemon.core.errors import BadFile, LedgerError, TryLater
from daemon.core.ledger import Filing
from daemon.core.records import Ending, Moved
from daemon.effects import scan
from daemon.effects.queue import Job, Queue
from daemon.intake import Intake
from daemon.pipeline import Pipeline, retry_or_park

log = structlog.get_logger()


class Worker:
    """Works off the queue. `pipeline` and `limits` may be exchanged at any time; they count from the next file on."""

    def __init__(self, queue: Queue, intake: Intake, pipeline: Pipeline, limits: Limits) -> None:
        """Take jobs from `queue`, and ask `intake` in which root a file lies."""
        self._queue = queue
        self._intake = intake
        self.pipeline = pipeline
        self.limits = limits
        self.endings: Counter[str] = Counter()
        self.last_track_at: float | None = None
        self._work = threading.Event()
        self._job_is_next = False

    def wake(self) -> None:
        """There is work, or a reason to look up."""
        self._work.set()

    def step(self, longest_s: float) -> None:
        """Handle one file that is due; where there is none, wait for one, at most `longest_s`."""
        # In turn: neither may keep back the other.
        filing = None if self._job_is_next else self.pipeline.filer.due()
        self._job_is_next = filing is not None
        if filing is not None:
            self._file(filing)
            return
        job = self._queue.lease(self.limits.lease_s)
        if job is not None:
            self._handle(job)
            return
        due = [s for s in (self._queue.seconds_to_next(), self.pipeline.filer.seconds_to_next()) if s is not None]
        self._work.wait(min([longest_s, *(max(0.05, s) for s in due)]))
        self._work.clear()

    def _file(self, filing: Filing) -> None:
        filer = self.pipeline.filer
        try:
            ending = filer.carry_out(filing)
        except LedgerError:
            raise
        except Exception:
            log.exception("bug", path=filing.path)
            filer.drop(filing)
            return
        if isinstance(ending, Moved):
            self._count(ending)

    def _handle(self, job: Job) -> None:
        root = self._intake.root_of(job.path)
        if root is None or scan.state_of(job.path) not in (job.state, None):
            # Changed while it waited: it must settle again. (One that is gone goes on, to be told.)
            self._queue.done(job)
            self._intake.touch(job.path)
            return
        pipeline, limits = self.pipeline, self.limits
        waited_s = max(0.0, time.time() - job.settled_at)

        def process() -> Ending | None:
            if job.attempts > limits.max_attempts:
                # Every other failure ends below: this file took the whole process down each time.
                raise BadFile(job.path, f"the program died {job.attempts - 1} times while at it")
            try:
                return pipeline.process(job.path, root.mode, settled_s=waited_s)
            except TryLater as trouble:
                given_up = retry_or_park(pipeline, trouble, job.attempts, limits.max_attempts)
                if given_up is None:
                    self._queue.retry(job, limits.retry_s * 2 ** (job.attempts - 1), trouble.reason)
                return given_up

        try:
            ending = self._guarded(job.path, process)
        except LedgerError:
            self._queue.give_back(job, limits.retry_s, "the record could not be written")
            raise
        if ending is not None:
            self._queue.done(job)
            self._count(ending)

    def _guarded(self, path: Path, work: Callable[[], Ending | None]) -> Ending | None:
        """The ending of `work` on the file at `path`; a file that makes it raise is parked."""
        try:
            return work()
        except BadFile as trouble:
            return self.pipeline.park(trouble.path, trouble.reason)
        except LedgerError:
            raise
        except Exception as error:
            # The one broad except: a bug must not stop the music, and must not be retried for ever.
            log.exception("bug", path=path)
            return self.pipeline.park(path, f"internal error: {type(error).__name__}: {error}")

    def _count(self, ending: Ending) -> None:
        self.endings[type(ending).__name__.lower()] += 1
        self.last_track_at = time.time()
