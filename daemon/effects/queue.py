"""The queue of files to hear: leased, never deleted before they are done. Disposable: a rescan fills it again.

History of the schema:
    1  jobs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from daemon.core.database import Database, path_key, path_of
from daemon.core.errors import LedgerDamaged
from daemon.core.records import FileState

# One job per path: a file that changes again while it waits is still one job, for its newest state.
_VERSION_1 = """
CREATE TABLE jobs (
    path PRIMARY KEY NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    settled_at REAL NOT NULL,
    not_before REAL NOT NULL,
    leased_until REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE INDEX jobs_by_time ON jobs (not_before);
"""


def open_queue(path: Path) -> Queue:
    """The queue at `path`; one that is damaged is set aside and begun anew, since a rescan fills it again.

    Raises:
        LedgerError: the folder cannot be used.
    """
    try:
        return _sound_queue(path)
    except LedgerDamaged:
        for leftover in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            if leftover.exists():
                leftover.replace(leftover.with_name(f"{leftover.name}.damaged"))
        return Queue(path)


def _sound_queue(path: Path) -> Queue:
    queue = Queue(path)
    try:
        queue.check()
    except LedgerDamaged:
        queue.close()
        raise
    return queue


@dataclass(frozen=True, slots=True)
class Job:
    """A leased job: a file in the state in which it settled. Times are Unix seconds."""

    path: Path
    state: FileState
    settled_at: float
    attempts: int


class Queue:
    """Jobs in a SQLite file; safe to share between threads. Times are Unix seconds, so that they outlive a restart."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Open or make the queue at `path`.

        Raises:
            LedgerError: the file cannot be used as a queue.
        """
        self._database = Database(path, (_VERSION_1,))
        self._clock = clock

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def check(self) -> None:
        """Look through the whole file for damage, which opening it does not.

        Raises:
            LedgerDamaged: there is some.
        """
        self._database.check()

    def put(self, path: Path, state: FileState) -> None:
        """Queue a settled file; one that waits already keeps its place and takes the new state.

        In the state in which it waits already nothing changes: its attempts and the time of the next one stand.
        """
        self.put_all([(path, state)])

    def put_all(self, settled: Sequence[tuple[Path, FileState]]) -> None:
        """Queue many settled files in one transaction, as `put` does."""
        now = self._clock()
        self._database.write_many(
            "INSERT INTO jobs (path, size, mtime_ns, inode, settled_at, not_before) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (path) DO UPDATE SET size = excluded.size, mtime_ns = excluded.mtime_ns,"
            " inode = excluded.inode, attempts = 0, not_before = MIN(not_before, excluded.not_before)"
            " WHERE (size, mtime_ns, inode) != (excluded.size, excluded.mtime_ns, excluded.inode)",
            [(path_key(path), state.size, state.mtime_ns, state.inode, now, now) for path, state in settled],
        )

    def states(self) -> dict[Path, FileState]:
        """Every waiting file with the state in which it waits."""
        rows = self._database.read("SELECT path, size, mtime_ns, inode FROM jobs")
        return {path_of(row["path"]): FileState(row["size"], row["mtime_ns"], row["inode"]) for row in rows}

    def lease(self, lease_s: float) -> Job | None:
        """Take the oldest job that is due, for `lease_s`; a worker that dies gives it back by running out of time."""
        now = self._clock()
        with self._database.transaction():
            row = self._database.read_one(
                "SELECT * FROM jobs WHERE not_before <= ? AND (leased_until IS NULL OR leased_until < ?)"
                " ORDER BY not_before, path LIMIT 1",
                (now, now),
            )
            if row is None:
                return None
            self._database.write(
                "UPDATE jobs SET leased_until = ?, attempts = attempts + 1 WHERE path = ?",
                (now + lease_s, row["path"]),
            )
        state = FileState(row["size"], row["mtime_ns"], row["inode"])
        return Job(path_of(row["path"]), state, row["settled_at"], row["attempts"] + 1)

    def done(self, job: Job) -> None:
        """Remove a finished job, unless the file settled again in another state meanwhile: that one is then due."""
        self._database.write(
            "DELETE FROM jobs WHERE path = ? AND size = ? AND mtime_ns = ? AND inode = ?",
            (path_key(job.path), job.state.size, job.state.mtime_ns, job.state.inode),
        )
        self._database.write("UPDATE jobs SET leased_until = NULL WHERE path = ?", (path_key(job.path),))

    def retry(self, job: Job, delay_s: float, reason: str) -> None:
        """Give a job back, to be tried again after `delay_s`."""
        self._database.write(
            "UPDATE jobs SET leased_until = NULL, not_before = ?, reason = ? WHERE path = ?",
            (self._clock() + delay_s, reason, path_key(job.path)),
        )

    def release_all(self) -> None:
        """Take back every lease: at start no worker of an earlier run can be alive."""
        self._database.write("UPDATE jobs SET leased_until = NULL")

    def __len__(self) -> int:
        row = self._database.read_one("SELECT COUNT(*) AS n FROM jobs")
        return int(row["n"]) if row else 0

    def seconds_to_next(self) -> float | None:
        """How long until a waiting job is due (0 if one is); None for an empty queue."""
        row = self._database.read_one("SELECT MIN(MAX(not_before, COALESCE(leased_until, 0))) AS t FROM jobs")
        if row is None or row["t"] is None:
            return None
        return max(0.0, float(row["t"]) - self._clock())
