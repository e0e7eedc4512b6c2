"""A ledger of the first release opens in this one with everything in it, or stays what it was."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import ledger_v1
import numpy as np
import pytest

from daemon.core import ledger_schema
from daemon.core.database import LEDGER, QUEUE, Database, path_of
from daemon.core.errors import LedgerDamaged, LedgerError
from daemon.core.ledger import ChangeKind, ChangeState, FileStatus, KnownFile, Ledger
from daemon.core.records import FileState
from daemon.effects import queue as queues
from daemon.effects.queue import Queue

SONG = Path(ledger_v1.SONG)
NOT_UTF8 = path_of(ledger_v1.NOT_UTF8)
TABLES = list(ledger_v1.ROWS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state" / "ledger.db"
    ledger_v1.make_ledger(path)
    return path


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Ledger]:
    ledger = Ledger(path)
    try:
        yield ledger
    finally:
        ledger.close()


def rows(path: Path, table: str, columns: str = "*") -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"SELECT {columns} FROM {table} ORDER BY 1").fetchall()


def columns_of(path: Path, table: str) -> str:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return ", ".join(row[1] for row in connection.execute(f"PRAGMA table_info({table})"))


# What survives


def test_the_first_scripts_are_as_they_were_published() -> None:
    """Whoever changes one of them makes two kinds of version 1."""
    assert ledger_schema.MIGRATIONS[0] == ledger_v1.LEDGER_SCRIPT
    assert queues.MIGRATIONS[0] == ledger_v1.QUEUE_SCRIPT


@pytest.mark.parametrize("table", TABLES)
def test_every_row_survives_with_equal_values(path: Path, table: str) -> None:
    columns, before = columns_of(path, table), rows(path, table)
    assert len(before) == len(ledger_v1.ROWS[table])
    with opened(path):
        pass
    assert rows(path, table, columns) == before


def test_migrating_happens_once(path: Path) -> None:
    with opened(path):
        pass
    after = ledger_v1.dump(path)
    with opened(path):
        pass
    assert ledger_v1.dump(path) == after
    assert after[0] == str(len(ledger_schema.MIGRATIONS))


def test_files_are_known_as_they_were(path: Path) -> None:
    with opened(path) as ledger:
        known = ledger.known(SONG)
        assert known is not None
        # The change time was not recorded then.
        state = FileState(5_000_000_000, 1_700_000_000_123_456_789, 2**63 - 1, 0)
        genres = ("R&B/Soul", "ポップ")
        assert known == KnownFile(SONG, ledger_v1.SOUND, state, genres, FileStatus.TAGGED, "", (), ledger_v1.AT)
        (parked,) = ledger.of_status(FileStatus.PARKED)
        assert (parked.path, parked.audio_id) == (Path(ledger_v1.BROKEN), None)
        assert parked.reason == "ends in the middle: 'x'; \"y\""
        assert set(ledger.states_under(Path("/music"))) == {SONG, NOT_UTF8, Path(ledger_v1.BROKEN)}


def test_what_undo_needs_is_the_same_to_the_byte(path: Path) -> None:
    with opened(path) as ledger:
        tagged, undoing, again, intent = ledger.changes_of(ledger_v1.SOUND)
        assert [tagged.patch, undoing.patch, again.patch] == [
            ledger_v1.PATCH,
            ledger_v1.PATCH[::-1],
            ledger_v1.PATCH,
        ]
        assert (again.sha256_before, again.sha256_after, again.mtime_ns_before) == ("0" * 64, "2" * 64, 9)
        assert [change.undoable for change in (tagged, undoing, again, intent)] == [False, True, True, False]
        assert (tagged.state, undoing.kind, undoing.undoes) == (ChangeState.UNDONE, ChangeKind.UNDO, 1)
        # Each change of version 1 stands alone: nothing else may be taken back with it.
        assert [change.act for change in (tagged, undoing, again, intent)] == [1, 2, 3, 9]
        assert ledger.changes_of_act(3) == [again]
        assert {change.target for change in (tagged, undoing, again, intent)} == {None}


def test_changes_that_a_crash_left_open_are_still_to_be_settled(path: Path) -> None:
    with opened(path) as ledger:
        staged, intent = ledger.open_changes()
        assert (staged.path, staged.state, staged.patch) == (NOT_UTF8, ChangeState.STAGED, b"\x00")
        assert staged.temporary == path_of(b"/music/.caf\xe9.x.reclass-tmp.mp3")
        assert (intent.path, intent.state, intent.temporary) == (SONG, ChangeState.INTENT, None)
        ledger.close_change(intent.number, ChangeState.ROLLED_BACK)
        assert ledger.open_changes() == [staged]


def test_what_is_to_be_undone_since_a_time_is_found(path: Path) -> None:
    with opened(path) as ledger:
        assert [change.number for change in ledger.changes_since(datetime(2026, 11, 22, 12, tzinfo=UTC))] == [3]
        assert ledger.changes_since(datetime(2026, 11, 23, tzinfo=UTC)) == []


def test_decisions_embeddings_and_corrections_are_read_as_they_were_written(path: Path) -> None:
    with opened(path) as ledger:
        latest = ledger.latest_decision(ledger_v1.SOUND)
        assert latest is not None
        assert (latest[0], latest[1].genre, latest[1].confidence) == (ledger_v1.AT, "ポップ", 0.8125)
        ones = ledger.embedding(ledger_v1.OTHER_SOUND, ledger_v1.ENCODER)
        assert ones is not None
        np.testing.assert_array_equal(ones, np.ones(384, np.float32))
        (correction,) = ledger.corrections(ledger_v1.SOUND)
        assert (correction.genres, correction.genre) == (("R&B/Soul", "live"), "R&B/Soul")


def test_a_migrated_ledger_takes_new_entries(path: Path) -> None:
    with opened(path) as ledger:
        number = ledger.intend(ledger_v1.SOUND, SONG, ChangeKind.TAG, before=[], after=["jazz"])
        assert number == 10, "numbers are never given twice"
        ledger.remember(KnownFile(SONG, ledger_v1.SOUND, FileState(1, 2, 3, 4), (), FileStatus.UNCHANGED, ""))
        known = ledger.known(SONG)
        assert known is not None
        assert known.state.ctime_ns == 4


def test_a_migrated_ledger_bears_its_identity(path: Path) -> None:
    with opened(path):
        pass
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA application_id").fetchone()[0] == LEDGER.application_id


# What fails leaves everything as it was


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("ALTER TABLE files ADD COLUMN mood TEXT; UPDATE nowhere SET x = 1;", "no such table"),
        ("DROP TABLE embeddings; UPDATE changes SET patch = NULL; CREATE TABLE files (path);", "already exists"),
        ("DELETE FROM decisions; THIS IS NOT SQL;", "syntax error"),
        ("DELETE FROM changes WHERE id = 1;", "FOREIGN KEY"),
        (
            "PRAGMA max_page_count = 1; ALTER TABLE changes ADD COLUMN target; CREATE TABLE copy (x);"
            " INSERT INTO copy SELECT patch FROM changes; INSERT INTO copy SELECT patch FROM changes;",
            "full: make room",
        ),
    ],
)
def test_a_migration_that_fails_half_way_changes_nothing(path: Path, script: str, reason: str) -> None:
    before = ledger_v1.dump(path)
    with pytest.raises(LedgerError, match=reason) as caught:
        Database(path, (ledger_schema.MIGRATIONS[0], script), LEDGER)
    assert not isinstance(caught.value, LedgerDamaged)
    assert ledger_v1.dump(path) == before
    assert before[0] == "1"
    with opened(path) as ledger:
        assert len(ledger.changes_of(ledger_v1.SOUND)) == 4


def test_a_later_script_that_fails_takes_the_earlier_ones_back_too(path: Path) -> None:
    before = ledger_v1.dump(path)
    with pytest.raises(LedgerError):
        Database(path, (*ledger_schema.MIGRATIONS, "UPDATE nowhere SET x = 1;"), LEDGER)
    assert ledger_v1.dump(path) == before


def test_a_newer_ledger_is_refused_and_left_as_it_is(path: Path) -> None:
    with opened(path):
        pass
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {len(ledger_schema.MIGRATIONS) + 1}")
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="written by a newer version; nothing was changed"):
        Ledger(path)
    assert path.read_bytes() == before


# The queue


def test_a_queue_of_the_first_version_loses_no_job(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    ledger_v1.make_queue(path)
    queue = Queue(path, clock=lambda: 2000.0)
    jobs = [queue.lease(300.0) for _ in range(3)]
    assert queue.lease(300.0) is None
    queue.close()
    assert [(job.path, job.settled_at, job.attempts) for job in jobs if job] == [
        # The one that was lent is due: no worker of that version lives any more.
        (Path(ledger_v1.BROKEN), 999.0, 2),
        (SONG, 1000.0, 1),
        (NOT_UTF8, 1001.5, 4),
    ]
    assert jobs[1] is not None
    assert jobs[1].state == FileState(5, 1_700_000_000_123_456_789, 2**63 - 1, 0)


def test_a_queue_whose_migration_fails_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    ledger_v1.make_queue(path)
    before = ledger_v1.dump(path)
    with pytest.raises(LedgerError, match="no such column"):
        Database(path, (queues.MIGRATIONS[0], "DELETE FROM jobs; UPDATE jobs SET mood = 1;"), QUEUE)
    assert ledger_v1.dump(path) == before
