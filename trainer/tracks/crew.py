"""Does many jobs in worker processes that may die of one. Must never know what the jobs are.

`concurrent.futures` gives up every job under way when one worker dies (`BrokenProcessPool`). Files that crash a decoder
exist in every large library, so what was under way is then done one by one, which leaves the guilty alone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

# Enough that no worker waits for the next job, few enough that a crash costs seconds.
_UNDER_WAY = 2


def in_processes(
    jobs: Sequence[tuple[str, Job]], work: Callable[[Job], Result], *, workers: int
) -> Generator[tuple[str, Result | None]]:
    """The name and `work`'s result for each named job, in the order in which they end; None where it killed its worker.

    `work` must be importable, jobs and results picklable. With 0 workers all is done in this process, in order. Close
    the iterator to stop early: what is under way is ended first. Workers end with this process, however it ends.
    """
    if workers == 0:
        for name, job in jobs:
            yield name, work(job)
        return
    waiting = deque(jobs)
    while waiting:
        under_way: dict[Future[Result], tuple[str, Job]] = {}
        pool = _pool(workers)
        try:
            while waiting or under_way:
                while waiting and len(under_way) < _UNDER_WAY * workers:
                    under_way[pool.submit(work, waiting[0][1])] = waiting[0]
                    waiting.popleft()
                for ended in wait(under_way, return_when=FIRST_COMPLETED).done:
                    result = ended.result()
                    yield under_way.pop(ended)[0], result
        except BrokenProcessPool:
            pass
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        for name, job in under_way.values():
            yield name, _alone(job, work)


def _alone(job: Job, work: Callable[[Job], Result]) -> Result | None:
    with _pool(1) as pool:
        # Breaks here where no worker can be started at all, which is no fault of the job.
        pool.submit(os.getpid).result()
        try:
            return pool.submit(work, job).result()
        except BrokenProcessPool:
            return None


def _pool(workers: int) -> ProcessPoolExecutor:
    # Not forked: this process may hold threads and a GPU.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_settle_in)


def _settle_in() -> None:
    """Runs first in each worker."""
    # Ctrl-C reaches the whole group; the parent ends its workers in good order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A worker whose parent was killed would wait for its next job for ever.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
