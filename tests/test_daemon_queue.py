"""The queue: a job is lent, not taken, and comes back whatever happens to who borrowed it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.core.errors import LedgerError
from daemon.core.ledger import Ledger
from daemon.core.records import FileState
from daemon.effects.queue import Job, Queue, QueueReader, open_queue

SONG = Path("/music/song.flac")
OTHER = Path("/music/other.flac")
LEASE_S = 300.0


YEAR_S = 365 * 86_400.0


def state(size: int = 100, ctime_ns: int = 1_700_000_000_987_654_321) -> FileState:
    return FileState(size, 1_700_000_000_123_456_789, 42, ctime_ns)


class Clock:
    """A made clock."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
def queue(path: Path, clock: Clock) -> Iterator[Queue]:
    queue = Queue(path, clock=clock)
    yield queue
    queue.close()


def leased(queue: Queue) -> Job:
    job = queue.lease(LEASE_S)
    assert job is not None
    return job


def test_an_empty_queue_lends_nothing(queue: Queue) -> None:
    assert queue.lease(LEASE_S) is None
    assert len(queue) == 0
    assert queue.seconds_to_next() is None


@pytest.mark.parametrize("name", [b"song.flac", "日本語.mp3".encode(), b"caf\xe9.mp3", b"new\nline.mp3"])
def test_a_job_says_which_file_in_which_state(queue: Queue, clock: Clock, name: bytes) -> None:
    path = Path(os.fsdecode(b"/music/" + name))
    queue.put(path, state())
    assert queue.lease(LEASE_S) == Job(path, state(), clock.now_s, attempts=1)


def test_a_lent_job_is_lent_once(queue: Queue) -> None:
    queue.put(SONG, state())
    leased(queue)
    assert queue.lease(LEASE_S) is None
    assert len(queue) == 1


def test_the_oldest_job_comes_first(queue: Queue, clock: Clock) -> None:
    queue.put(SONG, state())
    clock.now_s += 1
    queue.put(OTHER, state())
    assert [leased(queue).path, leased(queue).path] == [SONG, OTHER]


def test_a_finished_job_is_gone(queue: Queue) -> None:
    queue.put(SONG, state())
    queue.done(leased(queue))
    assert len(queue) == 0
    assert queue.lease(LEASE_S) is None


# Losing the borrower


def test_a_job_whose_worker_vanished_is_lent_again_after_its_lease(queue: Queue, clock: Clock) -> None:
    queue.put(SONG, state())
    leased(queue)
    clock.now_s += LEASE_S - 1
    assert queue.lease(LEASE_S) is None
    clock.now_s += 1
    assert leased(queue).attempts == 2


def test_a_start_takes_back_what_an_earlier_run_had_lent(path: Path, clock: Clock) -> None:
    queue = Queue(path, clock=clock)
    queue.put(SONG, state())
    leased(queue)
    queue.close()
    queue = Queue(path, clock=clock)
    assert queue.lease(LEASE_S) is None
    queue.release_all()
    assert leased(queue).path == SONG
    queue.close()


WORKER = """
import os, signal, sys
from pathlib import Path
from daemon.core.records import FileState
from daemon.effects.queue import Queue

queue = Queue(Path(sys.argv[1]))
queue.put(Path("/music/song.flac"), FileState(1, 2, 3))
assert queue.lease(300.0) is not None
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_job_outlives_the_death_of_its_worker(path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", WORKER, str(path)], cwd=Path(__file__).parents[1], check=False)
    assert killed.returncode == -9
    queue = Queue(path)
    queue.release_all()
    job = leased(queue)
    assert (job.path, job.state, job.attempts) == (SONG, FileState(1, 2, 3), 2)
    queue.close()


def test_a_worker_that_lost_its_lease_does_not_end_the_job_of_the_one_that_has_it_now(
    queue: Queue, clock: Clock
) -> None:
    queue.put(SONG, state())
    slow = leased(queue)
    clock.now_s += LEASE_S
    quick = leased(queue)
    queue.done(slow)
    assert len(queue) == 1
    queue.retry(slow, 0.0, "in use")
    assert queue.lease(LEASE_S) is None, "it is still lent to the other one"
    queue.done(quick)
    assert len(queue) == 0


def test_a_lease_that_was_taken_back_ends_nothing(queue: Queue) -> None:
    queue.put(SONG, state())
    job = leased(queue)
    queue.release_all()
    queue.done(job)
    queue.retry(job, 60.0, "in use")
    assert leased(queue).path == SONG


def test_a_job_that_is_put_again_after_its_end_is_not_ended_by_an_earlier_worker(queue: Queue, clock: Clock) -> None:
    queue.put(SONG, state())
    slow = leased(queue)
    clock.now_s += LEASE_S
    queue.done(leased(queue))
    queue.put(SONG, state())
    queue.done(slow)
    assert leased(queue).path == SONG
    queue.done(slow)
    queue.retry(slow, 0.0, "in use")
    assert len(queue) == 1
    assert queue.lease(LEASE_S) is None


# Files that change again


def test_a_file_that_changes_while_it_waits_is_one_job_for_its_newest_state(queue: Queue) -> None:
    queue.put(SONG, state(1))
    queue.put(SONG, state(2))
    assert len(queue) == 1
    assert leased(queue).state == state(2)


def test_a_file_that_changes_while_it_waits_keeps_its_place(queue: Queue, clock: Clock) -> None:
    queue.put(SONG, state(1))
    clock.now_s += 1
    queue.put(OTHER, state())
    clock.now_s += 1
    queue.put(SONG, state(2))
    assert [leased(queue).path, leased(queue).path] == [SONG, OTHER]


def test_a_file_that_changed_while_it_was_heard_is_heard_again(queue: Queue) -> None:
    queue.put(SONG, state(1))
    job = leased(queue)
    queue.put(SONG, state(2))
    assert queue.lease(LEASE_S) is None, "it is still being heard"
    queue.done(job)
    again = leased(queue)
    assert (again.state, again.attempts) == (state(2), 1)
    queue.done(again)
    assert len(queue) == 0


def test_a_file_put_again_unchanged_while_it_was_heard_is_done_with(queue: Queue) -> None:
    queue.put(SONG, state())
    job = leased(queue)
    queue.put(SONG, state())
    queue.done(job)
    assert len(queue) == 0


def test_a_changed_file_that_waits_for_a_retry_is_due_at_once(queue: Queue, clock: Clock) -> None:
    queue.put(SONG, state(1))
    queue.retry(leased(queue), 60.0, "disk full")
    queue.put(SONG, state(2))
    assert queue.seconds_to_next() == 0.0
    job = leased(queue)
    assert (job.state, job.attempts) == (state(2), 1)


def test_a_change_of_nothing_but_the_change_time_is_a_change(queue: Queue) -> None:
    """A tagger that puts size and mtime back leaves no other trace."""
    queue.put(SONG, state(ctime_ns=1))
    job = leased(queue)
    queue.put(SONG, state(ctime_ns=2))
    queue.done(job)
    assert queue.states() == {SONG: state(ctime_ns=2)}
    assert leased(queue).state.ctime_ns == 2


def test_a_file_that_changed_while_it_was_tried_in_vain_is_due_at_once(queue: Queue) -> None:
    """What was wrong with it may be right now."""
    queue.put(SONG, state(1))
    job = leased(queue)
    queue.put(SONG, state(2))
    queue.retry(job, 60.0, "in use")
    again = leased(queue)
    assert (again.state, again.attempts) == (state(2), 1)


# Trying again


def test_a_retry_waits_for_its_time_and_counts(queue: Queue, clock: Clock) -> None:
    queue.put(SONG, state())
    for attempt in (1, 2, 3):
        job = leased(queue)
        assert job.attempts == attempt
        queue.retry(job, 60.0, "disk full")
        assert queue.lease(LEASE_S) is None
        clock.now_s += 59
        assert queue.lease(LEASE_S) is None
        clock.now_s += 1
    assert leased(queue).attempts == 4


def test_a_retry_does_not_hold_up_other_files(queue: Queue, clock: Clock) -> None:
    queue.put(SONG, state())
    clock.now_s += 1
    queue.put(OTHER, state())
    queue.retry(leased(queue), 10.0, "in use")
    assert leased(queue).path == OTHER
    clock.now_s += 10
    assert leased(queue).path == SONG


def test_retries_come_in_the_order_in_which_they_are_due(queue: Queue, clock: Clock) -> None:
    queue.put(SONG, state())
    queue.put(OTHER, state())
    first, second = leased(queue), leased(queue)
    queue.retry(first, 20.0, "in use")
    queue.retry(second, 10.0, "in use")
    clock.now_s += 30
    assert [leased(queue).path, leased(queue).path] == [second.path, first.path]


# How long to wait


def test_the_wait_is_until_the_next_job_is_due(queue: Queue, clock: Clock) -> None:
    queue.put(SONG, state())
    assert queue.seconds_to_next() == 0.0
    queue.retry(leased(queue), 25.0, "in use")
    assert queue.seconds_to_next() == pytest.approx(25.0)
    clock.now_s += 100
    assert queue.seconds_to_next() == 0.0


def test_the_wait_counts_a_lease_that_runs_out(queue: Queue) -> None:
    queue.put(SONG, state())
    leased(queue)
    assert queue.seconds_to_next() == pytest.approx(LEASE_S)


@pytest.mark.parametrize("delay_s", [1e9, 1e300])
def test_no_job_is_put_off_for_longer_than_a_day(queue: Queue, clock: Clock, delay_s: float) -> None:
    queue.put(SONG, state())
    queue.retry(leased(queue), delay_s, "in use")
    assert queue.seconds_to_next() == 86_400.0
    clock.now_s += 86_400.0
    assert leased(queue).path == SONG


def test_a_reason_that_names_a_file_which_is_no_text_can_be_kept(queue: Queue) -> None:
    queue.put(SONG, state())
    queue.retry(leased(queue), 1.0, os.fsdecode(b"caf\xe9.mp3: in use"))
    assert len(queue) == 1


# A clock that is set


def waits(queue: Queue, clock: Clock) -> float:
    """How long until a job is lent, as told; it is then lent indeed, and not a second sooner."""
    told = queue.seconds_to_next()
    assert told is not None
    if told > 1.0:
        clock.now_s += told - 1.0
        assert queue.lease(LEASE_S) is None
        clock.now_s += 1.0
    elif told > 0.0:
        clock.now_s += told
    assert queue.lease(LEASE_S) is not None
    return told


@pytest.mark.parametrize("back_s", [3600.0, YEAR_S, 900_000.0])
def test_a_clock_that_is_set_back_hides_no_job(queue: Queue, clock: Clock, back_s: float) -> None:
    queue.put(SONG, state())
    clock.now_s -= back_s
    assert waits(queue, clock) == 0.0


@pytest.mark.parametrize("back_s", [3600.0, YEAR_S])
def test_a_clock_that_is_set_back_does_not_put_a_retry_off(queue: Queue, clock: Clock, back_s: float) -> None:
    queue.put(SONG, state())
    queue.retry(leased(queue), 30.0, "in use")
    clock.now_s -= back_s
    assert waits(queue, clock) <= 30.0


@pytest.mark.parametrize("back_s", [3600.0, YEAR_S])
def test_a_lease_from_before_the_clock_was_set_back_is_lost(queue: Queue, clock: Clock, back_s: float) -> None:
    queue.put(SONG, state())
    lost = leased(queue)
    clock.now_s -= back_s
    assert waits(queue, clock) <= LEASE_S
    queue.done(lost)
    assert len(queue) == 1


def test_a_clock_that_is_corrected_by_seconds_takes_no_lease_away(queue: Queue, clock: Clock) -> None:
    queue.put(SONG, state())
    job = leased(queue)
    clock.now_s -= 5
    assert queue.lease(LEASE_S) is None
    assert queue.seconds_to_next() == LEASE_S + 5
    queue.done(job)
    assert len(queue) == 0


def test_jobs_put_before_and_after_the_clock_was_set_back_are_all_lent(queue: Queue, clock: Clock) -> None:
    queue.put(SONG, state())
    clock.now_s -= YEAR_S
    queue.put(OTHER, state())
    assert {leased(queue).path, leased(queue).path} == {SONG, OTHER}
    assert queue.seconds_to_next() == LEASE_S


def test_a_file_that_changes_after_the_clock_was_set_back_is_due(queue: Queue, clock: Clock) -> None:
    queue.put(SONG, state(1))
    queue.retry(leased(queue), 60.0, "in use")
    clock.now_s -= YEAR_S
    queue.put(SONG, state(2))
    assert waits(queue, clock) == 0.0


@pytest.mark.parametrize("forward_s", [3600.0, YEAR_S])
def test_a_clock_that_is_set_forward_only_makes_jobs_due(queue: Queue, clock: Clock, forward_s: float) -> None:
    queue.put(SONG, state())
    queue.retry(leased(queue), 30.0, "in use")
    clock.now_s += forward_s
    queue.put(OTHER, state())
    assert [leased(queue).path, leased(queue).path] == [SONG, OTHER]
    # And back again, as a clock does that has found its server.
    clock.now_s -= forward_s
    assert waits(queue, clock) <= LEASE_S


# Another process's queue


def test_a_reader_sees_every_job_and_lends_none(queue: Queue, path: Path) -> None:
    paths = {Path(os.fsdecode(b"/music/%d-\xe9.mp3" % number)) for number in range(700)}
    paths |= {Path(f"/music/{number}.mp3") for number in range(700)}
    queue.put_all([(path, state()) for path in paths])
    reader = QueueReader(path)
    found = list(reader.paths())
    assert len(found) == len(paths) == 1400
    assert set(found) == paths
    assert reader.holds(found[0])
    assert not reader.holds(SONG)
    reader.check()
    reader.close()
    assert leased(queue).attempts == 1


def test_a_reader_makes_no_queue(path: Path) -> None:
    with pytest.raises(LedgerError):
        QueueReader(path)
    assert not path.exists()


# A damaged file


def test_a_damaged_queue_is_set_aside_and_begun_anew(path: Path) -> None:
    """A rescan fills it again; what was in it is kept for whoever wants to know."""
    path.write_bytes(b"no database" * 100)
    queue = open_queue(path)
    queue.put(SONG, state())
    assert leased(queue).path == SONG
    queue.close()
    assert path.with_name("queue.db.damaged").read_bytes() == b"no database" * 100


def test_a_queue_of_a_newer_version_is_not_set_aside(path: Path) -> None:
    queue = open_queue(path)
    queue.put(SONG, state())
    queue.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    with pytest.raises(LedgerError, match="newer version"):
        open_queue(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["queue.db"]


def test_a_ledger_in_the_queues_place_is_neither_used_nor_set_aside(path: Path) -> None:
    Ledger(path).close()
    with pytest.raises(LedgerError, match="is not a Music Reclass queue: it is a ledger"):
        open_queue(path)
    assert path.exists()


def test_threads_share_the_work_without_overlap(queue: Queue) -> None:
    paths = {Path(f"/music/{number}.mp3") for number in range(40)}
    for path in paths:
        queue.put(path, state())
    taken: list[Path] = []

    def work() -> None:
        while (job := queue.lease(LEASE_S)) is not None:
            taken.append(job.path)
            queue.done(job)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(paths)
    assert len(queue) == 0
