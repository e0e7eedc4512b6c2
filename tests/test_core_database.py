"""SQLite done right: whole transactions, versions, several threads and processes, and nothing foreign touched."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from daemon.core.database import Database, path_key, path_of
from daemon.core.errors import LedgerDamaged, LedgerError

NOTES = "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL);"
LISTENERS = """
ALTER TABLE notes ADD COLUMN listener TEXT NOT NULL DEFAULT 'the; owner';
CREATE TABLE listeners (name TEXT);
INSERT INTO listeners VALUES ('the; owner');
"""


@contextlib.contextmanager
def opened(path: Path, migrations: Sequence[str] = (NOTES,)) -> Iterator[Database]:
    database = Database(path, migrations)
    try:
        yield database
    finally:
        database.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    with opened(path) as database:
        yield database


def texts(database: Database) -> list[str]:
    return [row["text"] for row in database.read("SELECT text FROM notes ORDER BY id")]


def note(database: Database, text: str | None) -> int:
    return database.write("INSERT INTO notes (text) VALUES (?)", (text,))


# Reading and writing


def test_what_was_written_is_there_after_reopening(path: Path) -> None:
    with opened(path) as database:
        assert note(database, "one") == 1
        assert note(database, "two") == 2
    with opened(path) as database:
        assert texts(database) == ["one", "two"]


def test_many_rows_are_written_together_or_not_at_all(database: Database) -> None:
    database.write_many("INSERT INTO notes (text) VALUES (?)", [("one",), ("two",)])
    with pytest.raises(LedgerError):
        database.write_many("INSERT INTO notes (text) VALUES (?)", [("three",), (None,)])
    assert texts(database) == ["one", "two"]


def test_reading_nothing_is_none(database: Database) -> None:
    assert database.read_one("SELECT * FROM notes") is None


def test_a_wrong_statement_is_a_ledger_error_that_names_the_file(database: Database, path: Path) -> None:
    with pytest.raises(LedgerError, match=str(path)):
        database.read("SELECT * FROM nowhere")
    with pytest.raises(LedgerError, match=str(path)):
        database.write("INSERT INTO nowhere VALUES (1)")


# Transactions


def test_a_failing_transaction_leaves_nothing(database: Database) -> None:
    with pytest.raises(RuntimeError), database.transaction():
        note(database, "one")
        raise RuntimeError
    assert texts(database) == []
    note(database, "two")
    assert texts(database) == ["two"]


def test_a_refused_statement_takes_the_whole_transaction_back(database: Database) -> None:
    with pytest.raises(LedgerError, match="NOT NULL"), database.transaction():
        note(database, "one")
        note(database, None)
    assert texts(database) == []


def test_nested_transactions_are_one(database: Database) -> None:
    with pytest.raises(RuntimeError), database.transaction():
        with database.transaction():
            note(database, "inner")
        note(database, "outer")
        raise RuntimeError
    assert texts(database) == []
    with database.transaction(), database.transaction():
        note(database, "kept")
    assert texts(database) == ["kept"]


def test_another_process_sees_nothing_before_the_end_of_a_transaction(database: Database, path: Path) -> None:
    with database.transaction():
        note(database, "one")
        with opened_readonly(path) as other:
            assert other.execute("SELECT COUNT(*) FROM notes").fetchone()[0] == 0
    with opened_readonly(path) as other:
        assert other.execute("SELECT COUNT(*) FROM notes").fetchone()[0] == 1


@contextlib.contextmanager
def opened_readonly(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        yield connection
    finally:
        connection.close()


# Threads and processes


def test_threads_write_without_losing_anything(database: Database) -> None:
    def write(name: int) -> None:
        for number in range(25):
            with database.transaction():
                note(database, f"{name}.{number}a")
                note(database, f"{name}.{number}b")

    threads = [threading.Thread(target=write, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written = texts(database)
    assert len(set(written)) == len(written) == 300
    # A transaction is one thread's alone: no other thread's row comes between its two.
    assert all(first[:-1] == second[:-1] for first, second in zip(written[::2], written[1::2], strict=True))


def test_a_transaction_of_another_thread_is_not_joined(database: Database) -> None:
    inside, leave = threading.Event(), threading.Event()

    def fail_late() -> None:
        with contextlib.suppress(RuntimeError), database.transaction():
            note(database, "lost")
            inside.set()
            leave.wait(10)
            raise RuntimeError

    thread = threading.Thread(target=fail_late)
    thread.start()
    assert inside.wait(10)
    writer = threading.Thread(target=note, args=(database, "kept"))
    writer.start()
    leave.set()
    thread.join()
    writer.join()
    assert texts(database) == ["kept"]


HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
connection.execute("INSERT INTO notes (text) VALUES ('from outside')")
print("held", flush=True)
sys.stdin.readline()
connection.execute("COMMIT")
connection.close()
"""


def test_a_writer_waits_for_another_process_to_finish(database: Database, path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        started = threading.Event()

        def write() -> None:
            started.set()
            note(database, "from here")

        writer = threading.Thread(target=write)
        writer.start()
        assert started.wait(10)
        writer.join(0.3)
        assert writer.is_alive(), "it did not wait"
        other.communicate("go\n", timeout=20)
        writer.join(20)
    assert texts(database) == ["from outside", "from here"]


def test_an_uncommitted_transaction_dies_with_its_process(path: Path) -> None:
    with opened(path) as database:
        note(database, "before")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        other.kill()
    with opened(path) as database:
        assert texts(database) == ["before"]


# Versions


def test_an_older_database_is_brought_up_and_keeps_its_rows(path: Path) -> None:
    with opened(path, (NOTES,)) as database:
        note(database, "old")
    with opened(path, (NOTES, LISTENERS)) as database:
        rows = database.read("SELECT text, listener FROM notes")
        assert [tuple(row) for row in rows] == [("old", "the; owner")]
    with opened(path, (NOTES, LISTENERS)) as database:
        assert len(database.read("SELECT * FROM listeners")) == 1, "a script ran twice"


def test_a_new_database_runs_every_script(path: Path) -> None:
    with opened(path, (NOTES, LISTENERS)) as database:
        assert len(database.read("SELECT * FROM listeners")) == 1


def test_a_failing_script_leaves_the_older_version_whole(path: Path) -> None:
    with opened(path, (NOTES,)) as database:
        note(database, "old")
    broken = "CREATE TABLE half (id INTEGER); INSERT INTO nowhere VALUES (1);"
    with pytest.raises(LedgerError), opened(path, (NOTES, broken)):
        pass
    with opened(path, (NOTES, LISTENERS)) as database:
        assert texts(database) == ["old"]
        with pytest.raises(LedgerError):
            database.read("SELECT * FROM half")


def test_a_newer_database_is_refused_and_left_as_it_is(path: Path) -> None:
    with opened(path, (NOTES, LISTENERS)) as database:
        note(database, "new")
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="schema version 2, this program knows up to 1") as caught:
        Database(path, (NOTES,))
    assert not isinstance(caught.value, LedgerDamaged), "what is damaged may be set aside"
    assert path.read_bytes() == before
    with opened(path, (NOTES, LISTENERS)) as database:
        assert texts(database) == ["new"]


# Files


@pytest.mark.parametrize("content", [b"Dear diary,\n" * 500, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(LedgerDamaged, match=str(path)), opened(path):
        pass
    assert path.read_bytes() == content
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_damage_in_the_middle_is_told_apart_from_what_may_pass(path: Path) -> None:
    """A lock or a full disk passes; this does not. And a mistake of our own is neither."""
    with opened(path) as database:
        database.write_many("INSERT INTO notes (text) VALUES (?)", [("text " * 50,)] * 3000)
    content = bytearray(path.read_bytes())
    content[8192:-8192] = b"\xa5" * (len(content) - 16384)
    path.write_bytes(content)
    with opened(path) as database, pytest.raises(LedgerDamaged, match=str(path)):
        texts(database)
    with opened(path) as database:
        with pytest.raises(LedgerError) as caught:
            database.write("INSERT INTO notes (text) VALUES (NULL)")
        assert not isinstance(caught.value, LedgerDamaged)
        with pytest.raises(LedgerError) as caught:
            database.read("SELECT * FROM nowhere")
        assert not isinstance(caught.value, LedgerDamaged)


def test_a_folder_in_its_place_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(LedgerError, match="directory"), opened(path):
        pass


def test_a_file_where_its_folder_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(LedgerError), opened(tmp_path / "state" / "some.db"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_forbids_writing_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(LedgerError, match="ermission denied"), opened(tmp_path / "some.db"):
        pass


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "some.db"
    with opened(path) as database:
        note(database, "private")
        files = list(path.parent.iterdir())
        assert {file.name for file in files} >= {"some.db", "some.db-wal"}
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_closing_folds_the_log_into_the_file(path: Path) -> None:
    with opened(path) as database:
        note(database, "one")
    assert [entry.name for entry in path.parent.iterdir()] == ["some.db"]


# Paths


@pytest.mark.parametrize(
    "name", [b"plain.mp3", "日本語/ñ.flac".encode(), b"caf\xe9.mp3", b"\xff\xfe", b"new\nline", "👩‍🎤.ogg".encode()]
)
def test_every_path_comes_back_as_it_was(database: Database, name: bytes) -> None:
    path = Path(os.fsdecode(b"/music/" + name))
    database.write("CREATE TABLE paths (path PRIMARY KEY NOT NULL) WITHOUT ROWID")
    database.write("INSERT INTO paths VALUES (?)", (path_key(path),))
    row = database.read_one("SELECT path FROM paths WHERE path = ?", (path_key(path),))
    assert row is not None
    assert path_of(row["path"]) == path


def test_a_path_that_is_text_is_stored_as_text() -> None:
    """So that a person with the sqlite3 program can read it."""
    assert path_key(Path("/music/ñ.flac")) == "/music/ñ.flac"
    assert path_key(Path(os.fsdecode(b"/music/\xf1.flac"))) == b"/music/\xf1.flac"
