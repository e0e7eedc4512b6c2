"""The queue of files to hear: leased, never deleted before they are done. Disposable: a rescan fills it again.

Times are Unix seconds, so that they outlive a restart; and so a clock that is set back must not hide jobs behind a time
that is far away now. What a job waits for therefore stands beside the moment at which that was written: where the
moment lies in the future, the clock was set back, and the job waits no longer.

History of the schema:
    1  jobs.
    2  the change time of files, leases that can be told apart, and the moments at which times were written.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from daemon.core.database import QUEUE, Database, Reader, Row, path_key, path_of
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

# No worker of version 1 lives any more, and nobody knows when its times were written: everything is due.
_VERSION_2 = """
ALTER TABLE jobs ADD COLUMN ctime_ns INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN lease INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN leased_at REAL NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN waits_since REAL NOT NULL DEFAULT 0;
UPDATE jobs SET leased_until = NULL, not_before = MIN(not_before, settled_at), waits_since = settled_at;
"""

MIGRATIONS = (_VERSION_1, _VERSION_2)

# A clock that is kept right steps back by less than this.
_STEP_S = 60.0
# No job is put off for longer, however often it has failed.
_LONGEST_DELAY_S = 86_400.0
_ROWS_AT_A_TIME = 500
# When a job is due. Both parameters are the present time; MAX of two values is SQLite's scalar function.
_DUE_AT = (
    f"MAX(CASE WHEN waits_since > :now + {_STEP_S} THEN :now ELSE not_before END,"
    f" CASE WHEN leased_until IS NULL OR leased_at > :now + {_STEP_S} THEN :now ELSE leased_until END)"
)


def open_queue(path: Path) -> Queue:
    """The queue at `path`; one that is damaged is set aside and begun anew, since a rescan fills it again.

    Raises:
        LedgerError: the folder cannot be used, or the file is not a queue.
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
    """A leased job: a file in the state in which it settled. Times are Unix seconds.

    `lease` tells the leases of a path apart: only the latest one may end the job.
    """

    path: Path
    state: FileState
    settled_at: float
    attempts: int
    lease: int = field(default=-1, compare=False)


class Queue:
    """Jobs in a SQLite file; safe to share between threads."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Open or make the queue at `path`.

        Raises:
            LedgerError: the file cannot be used as a queue.
        """
        self._database = Database(path, MIGRATIONS, QUEUE)
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
            "INSERT INTO jobs (path, size, mtime_ns, inode, ctime_ns, settled_at, not_before, waits_since)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (path) DO UPDATE SET size = excluded.size, mtime_ns = excluded.mtime_ns,"
            " inode = excluded.inode, ctime_ns = excluded.ctime_ns, attempts = 0,"
            " not_before = MIN(not_before, excluded.not_before), waits_since = excluded.waits_since"
            " WHERE (size, mtime_ns, inode, ctime_ns)"
            " != (excluded.size, excluded.mtime_ns, excluded.inode, excluded.ctime_ns)",
            [(path_key(path), *_columns(state), now, now, now) for path, state in settled],
        )

    def states(self) -> dict[Path, FileState]:
        """Every waiting file with the state in which it waits."""
        rows = self._database.read("SELECT path, size, mtime_ns, inode, ctime_ns FROM jobs")
        return {path_of(row["path"]): _state(row) for row in rows}

    def lease(self, lease_s: float) -> Job | None:
        """Take the oldest job that is due, for `lease_s`; a worker that dies gives it back by running out of time."""
        now = self._clock()
        with self._database.transaction():
            row = self._database.read_one(
                f"SELECT * FROM jobs WHERE {_DUE_AT} <= :now ORDER BY not_before, path LIMIT 1",  # noqa: S608 - ours
                {"now": now},
            )
            if row is None:
                return None
            # Not counted: a path that is queued anew after its job ended would begin with the same numbers.
            lease = secrets.randbits(62)
            self._database.write(
                "UPDATE jobs SET leased_at = ?, leased_until = ?, lease = ?, attempts = attempts + 1 WHERE path = ?",
                (now, now + lease_s, lease, row["path"]),
            )
        return Job(path_of(row["path"]), _state(row), row["settled_at"], row["attempts"] + 1, lease)

    def done(self, job: Job) -> None:
        """Remove a finished job, unless the file settled again in another state meanwhile: that one is then due.

        A worker whose lease ran out has lost the job: whoever has it now ends it.
        """
        held = (path_key(job.path), job.lease)
        with self._database.transaction():
            self._database.write(
                "DELETE FROM jobs WHERE path = ? AND lease = ? AND (size, mtime_ns, inode, ctime_ns) = (?, ?, ?, ?)",
                (*held, *_columns(job.state)),
            )
            self._database.write("UPDATE jobs SET leased_until = NULL WHERE path = ? AND lease = ?", held)

    def retry(self, job: Job, delay_s: float, reason: str) -> None:
        """Give a job back, to be tried again after `delay_s`; at once, if the file is in another state by now."""
        now = self._clock()
        held = (path_key(job.path), job.lease)
        with self._database.transaction():
            self._database.write(
                "UPDATE jobs SET not_before = ?, waits_since = ?, reason = ? WHERE path = ? AND lease = ?"
                " AND (size, mtime_ns, inode, ctime_ns) = (?, ?, ?, ?)",
                (now + min(delay_s, _LONGEST_DELAY_S), now, _storable(reason), *held, *_columns(job.state)),
            )
            self._database.write("UPDATE jobs SET leased_until = NULL WHERE path = ? AND lease = ?", held)

    def give_back(self, job: Job, delay_s: float, reason: str) -> None:
        """As `retry`, but the attempt does not count: it was not the file's fault."""
        with self._database.transaction():
            self.retry(job, delay_s, reason)
            self._database.write(
                "UPDATE jobs SET attempts = MAX(0, attempts - 1) WHERE path = ?", (path_key(job.path),)
            )

    def release_all(self) -> None:
        """Take back every lease: at start no worker of an earlier run can be alive."""
        self._database.write("UPDATE jobs SET leased_until = NULL, lease = 0")

    def __len__(self) -> int:
        row = self._database.read_one("SELECT COUNT(*) AS n FROM jobs")
        return int(row["n"]) if row else 0

    def seconds_to_next(self) -> float | None:
        """How long until `lease` has a job to give (0 if it has one now); None for an empty queue."""
        now = self._clock()
        row = self._database.read_one(f"SELECT MIN({_DUE_AT}) AS t FROM jobs", {"now": now})  # noqa: S608 - ours
        if row is None or row["t"] is None:
            return None
        return max(0.0, float(row["t"]) - now)


class QueueReader:
    """Looks at a queue that may be another process's, without leasing, making or migrating anything."""

    def __init__(self, path: Path) -> None:
        """Read the queue at `path`.

        Raises:
            LedgerError: there is none, or it cannot be read.
        """
        self._reader = Reader(path)
        self.check = self._reader.check

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def holds(self, path: Path) -> bool:
        """Whether a job waits for the file at `path`."""
        return self._reader.read_one("SELECT 1 FROM jobs WHERE path = ?", (path_key(path),)) is not None

    def paths(self) -> Iterator[Path]:
        """The path of every job, a few at a time: what is queued meanwhile may be missed."""
        rows = self._reader.read("SELECT path FROM jobs ORDER BY path LIMIT ?", (_ROWS_AT_A_TIME,))
        while rows:
            yield from (path_of(row["path"]) for row in rows)
            last = rows[-1]["path"]
            rows = self._reader.read(
                "SELECT path FROM jobs WHERE path > ? ORDER BY path LIMIT ?", (last, _ROWS_AT_A_TIME)
            )


def _columns(state: FileState) -> tuple[int, int, int, int]:
    return state.size, state.mtime_ns, state.inode, state.ctime_ns


def _state(row: Row) -> FileState:
    return FileState(row["size"], row["mtime_ns"], row["inode"], row["ctime_ns"])


def _storable(text: str) -> str:
    """SQLite holds UTF-8 only, and a reason may name a file whose name is not."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
