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

from daemon.core.database import LEDGER, QUEUE, Database, Kind, Reader, inspect, path_key, path_of
from daemon.core.errors import LedgerDamaged, LedgerError

NOTES = "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL);"
LISTENERS = """
ALTER TABLE notes ADD COLUMN listener TEXT NOT NULL DEFAULT 'the; owner';
CREATE TABLE listeners (name TEXT);
INSERT INTO listeners VALUES ('the; owner');
"""
CHECKOUT = Path(__file__).resolve().parents[1]
KIND = Kind("notebook", 0x4E4F5445)


@contextlib.contextmanager
def opened(path: Path, migrations: Sequence[str] = (NOTES,), busy_s: float = 30.0) -> Iterator[Database]:
    database = Database(path, migrations, KIND, busy_s=busy_s)
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


def test_a_writer_that_waits_in_vain_says_so_and_is_not_told_that_the_file_is_damaged(path: Path) -> None:
    with opened(path, busy_s=0.2) as database, held_by_another_process(path):
        with pytest.raises(LedgerError, match="another process is writing to it") as caught:
            note(database, "from here")
        assert not isinstance(caught.value, LedgerDamaged)
        assert texts(database) == [], "reading is not held up"
    with opened(path) as database:
        assert texts(database) == []


def test_opening_while_another_process_writes_waits_in_vain_and_says_so(path: Path) -> None:
    with opened(path):
        pass
    with (
        held_by_another_process(path),
        pytest.raises(LedgerError, match="another process is writing to it"),
        opened(path, busy_s=0.2),
    ):
        pass


@contextlib.contextmanager
def held_by_another_process(path: Path) -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        yield
        other.kill()


MAKER = """
import sys
from pathlib import Path
from daemon.core.database import Database, Kind

database = Database(Path(sys.argv[1]), (sys.argv[2],), Kind("notebook", 0x4E4F5445))
database.write("INSERT INTO notes (text) VALUES ('one of them')")
database.close()
"""


def test_processes_that_start_at_once_make_one_database(path: Path) -> None:
    makers = [
        subprocess.Popen([sys.executable, "-c", MAKER, str(path), NOTES], cwd=CHECKOUT, stderr=subprocess.PIPE)
        for _ in range(5)
    ]
    troubles = [maker.communicate(timeout=60)[1] for maker in makers]
    assert troubles == [b""] * 5
    with opened(path) as database:
        assert texts(database) == ["one of them"] * 5


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
        Database(path, (NOTES,), KIND)
    assert not isinstance(caught.value, LedgerDamaged), "what is damaged may be set aside"
    assert path.read_bytes() == before
    with opened(path, (NOTES, LISTENERS)) as database:
        assert texts(database) == ["new"]


def test_before_a_migration_somebody_may_look_and_refuse(path: Path) -> None:
    with opened(path, (NOTES,)) as database:
        note(database, "old")
    seen: list[int] = []

    def refuse(database: Database, version: int) -> None:
        seen.append(version)
        raise LedgerError("not today")

    with pytest.raises(LedgerError, match="not today"):
        Database(path, (NOTES, LISTENERS), KIND, before_migrating=refuse)
    with opened(path, (NOTES,)) as database:
        assert texts(database) == ["old"]
    Database(path, (NOTES,), KIND, before_migrating=refuse).close()
    assert seen == [1], "nothing was to be migrated the second time"


def test_before_a_database_is_made_somebody_may_refuse_and_then_there_is_none(path: Path) -> None:
    def refuse() -> None:
        raise LedgerError("there was one")

    for content in (None, b""):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(LedgerError, match="there was one"):
            Database(path, (NOTES,), KIND, before_making=refuse)
        assert not path.exists() or path.read_bytes() == b""
    path.unlink()
    with opened(path):
        pass
    Database(path, (NOTES,), KIND, before_making=refuse).close()


def test_a_database_that_was_never_filled_counts_as_none(path: Path) -> None:
    """What a lost log leaves behind: a header and nothing else."""
    with foreign(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    assert path.stat().st_size > 0

    def refuse() -> None:
        raise LedgerError("there was one")

    with pytest.raises(LedgerError, match="there was one"):
        Database(path, (NOTES,), KIND, before_making=refuse)
    with opened(path) as database:
        note(database, "new")


# Whose it is


@contextlib.contextmanager
def foreign(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("statements", "reason"),
    [
        (
            ["CREATE TABLE songs (id)", "PRAGMA application_id = 305419896"],
            "it belongs to another program .id 0x12345678",
        ),
        (
            ["PRAGMA application_id = -2", "CREATE TABLE notes (id, text)"],
            "it belongs to another program .id 0xfffffffe",
        ),
        (["CREATE TABLE songs (id)"], "it holds other tables .songs"),
        (["CREATE TABLE songs (id)", "PRAGMA user_version = 1"], "it holds other tables .songs"),
        (["CREATE TABLE songs (id)", "PRAGMA user_version = 57"], "it holds other tables .songs"),
        (["CREATE TABLE notes (id, text)"], "it holds other tables .notes"),
        (["PRAGMA user_version = 1"], "it holds other tables .none"),
        ([f"PRAGMA application_id = {QUEUE.application_id}", "CREATE TABLE jobs (path)"], "it is a queue"),
    ],
)
def test_another_programs_database_is_refused_and_left_as_it_is(path: Path, statements: list[str], reason: str) -> None:
    with foreign(path) as connection:
        for statement in statements:
            connection.execute(statement)
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=f"is not a Music Reclass notebook: {reason}") as caught, opened(path):
        pass
    assert not isinstance(caught.value, LedgerDamaged), "what is damaged may be set aside"
    assert path.read_bytes() == before, "even its journal mode is its own"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_one_of_ours_without_an_identity_is_given_it(path: Path) -> None:
    """Version 1 bore none."""
    with foreign(path) as connection:
        connection.executescript(NOTES)
        connection.execute("PRAGMA user_version = 1")
        connection.execute("INSERT INTO notes (text) VALUES ('old')")
    with opened(path, (NOTES, LISTENERS)) as database:
        assert texts(database) == ["old"]
    with foreign(path) as connection:
        assert connection.execute("PRAGMA application_id").fetchone()[0] == KIND.application_id


def test_ledger_and_queue_are_not_taken_for_each_other(path: Path) -> None:
    Database(path, (NOTES,), LEDGER).close()
    with pytest.raises(LedgerError, match="is not a Music Reclass queue: it is a ledger"):
        Database(path, (NOTES,), QUEUE)
    assert LEDGER.application_id != QUEUE.application_id


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


def filled(path: Path, rows: int = 3000) -> bytearray:
    with opened(path) as database:
        database.write_many("INSERT INTO notes (text) VALUES (?)", [("text " * 50,)] * rows)
    return bytearray(path.read_bytes())


def test_a_page_of_zeros_in_the_middle_is_found_by_a_check(path: Path) -> None:
    content = filled(path)
    content[40 * 4096 : 41 * 4096] = bytes(4096)
    path.write_bytes(content)
    with opened(path) as database, pytest.raises(LedgerDamaged, match="is damaged"):
        database.check()


@pytest.mark.parametrize("keep", [0.99, 0.5, 0.01])
def test_a_file_that_was_cut_off_is_damaged(path: Path, keep: float) -> None:
    content = filled(path)
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(LedgerDamaged, match=str(path)), opened(path) as database:
        database.check()


def test_a_page_of_zeros_at_the_start_is_damaged(path: Path) -> None:
    content = filled(path, 100)
    content[:4096] = bytes(4096)
    path.write_bytes(content)
    with pytest.raises(LedgerDamaged, match=str(path)), opened(path):
        pass
    assert path.read_bytes() == content


def test_text_that_is_no_text_any_more_is_damage(path: Path) -> None:
    content = filled(path, 100)
    place = content.find(b"text text")
    content[place : place + 4] = b"\xff\xfe\xff\xfe"
    path.write_bytes(content)
    with opened(path) as database, pytest.raises(LedgerDamaged, match="UTF-8"):
        texts(database)


def test_a_lost_log_takes_with_it_only_what_it_held(path: Path) -> None:
    """SQLite cannot tell that there was one: the database is as it was when the log was last folded in."""
    with opened(path) as database:
        note(database, "folded in")
    with opened(path) as database:
        note(database, "in the log")
        content = path.read_bytes()
    for entry in list(path.parent.iterdir()):
        entry.unlink()
    path.write_bytes(content)
    with opened(path) as database:
        database.check()
        assert texts(database) == ["folded in"]


def test_a_link_is_followed(path: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "real.db"
    elsewhere.parent.mkdir()
    with opened(elsewhere):
        pass
    path.symlink_to(elsewhere)
    with opened(path) as database:
        note(database, "one")
        assert elsewhere.with_name("real.db-wal").exists(), "the log belongs beside the file"
    assert path.is_symlink()
    with opened(elsewhere) as database:
        assert texts(database) == ["one"]


def test_a_link_that_leads_nowhere_is_refused(path: Path, tmp_path: Path) -> None:
    """The disk that it leads to may not be mounted: a new file would stand in the way of the real one."""
    path.symlink_to(tmp_path / "elsewhere" / "real.db")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(LedgerError, match=r"is a link to .*real.db, which is not there"), opened(path):
        pass
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_full_disk_is_told_as_such_and_passes(path: Path) -> None:
    with opened(path) as database:
        database.write("PRAGMA max_page_count = 8")
        with pytest.raises(LedgerError, match="full: make room") as caught:
            database.write_many("INSERT INTO notes (text) VALUES (?)", [("text " * 50,)] * 3000)
        assert not isinstance(caught.value, LedgerDamaged)
        assert texts(database) == []
        database.write("PRAGMA max_page_count = 8000")
        note(database, "there is room again")
        database.check()


def test_a_file_that_may_not_be_written_is_told_as_such(path: Path) -> None:
    with opened(path) as database:
        database.read("PRAGMA query_only = ON")
        with pytest.raises(LedgerError, match="see that the file and its folder belong to this user") as caught:
            note(database, "one")
        assert not isinstance(caught.value, LedgerDamaged)


LIMITED = """
import resource, signal, sys
from pathlib import Path
from daemon.core.database import Database, Kind
from daemon.core.errors import LedgerDamaged, LedgerError

database = Database(Path(sys.argv[1]), (sys.argv[2],), Kind("notebook", 0x4E4F5445))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), resource.RLIM_INFINITY))
try:
    exec(sys.argv[3])
except LedgerError as error:
    print(type(error).__name__, error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
database.write("INSERT INTO notes (text) VALUES ('afterwards')")
database.close()
"""


def where_the_kernel_takes_little(path: Path, statement: str, limit: int) -> str:
    """What is printed when a process that may write files of `limit` bytes runs `statement`."""
    command = [sys.executable, "-c", LIMITED, str(path), NOTES, statement, str(limit)]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout


def test_a_disk_that_takes_nothing_fails_the_statement_and_not_the_file(path: Path) -> None:
    told = where_the_kernel_takes_little(path, "database.write('INSERT INTO notes (text) VALUES (1)')", 0)
    assert told.startswith(f"LedgerError {path}: ")
    assert ": make room" in told or "see whether it is full" in told
    with opened(path) as database:
        assert texts(database) == ["afterwards"]


# Copies


def test_a_copy_holds_what_was_committed_and_needs_no_other_file(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "copies" / "copy.db"
    with opened(path) as database:
        note(database, "one")
        note(database, "two")
        with database.transaction():
            note(database, "not yet")
            database.backup_to(target)
        assert texts(database) == ["one", "two", "not yet"]
    assert [entry.name for entry in target.parent.iterdir()] == ["copy.db"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    found = inspect(target)
    assert (found.application_id, found.version, found.damage) == (KIND.application_id, 1, ())
    assert [entry.name for entry in target.parent.iterdir()] == ["copy.db"], "looking at it left something behind"
    # The versions of the file format for writing and reading: 2 would be a log beside it, 1 is none.
    assert target.read_bytes()[18:20] == b"\x01\x01"
    with opened(target) as copy:
        assert texts(copy) == ["one", "two"]


def test_a_copy_is_of_one_moment_while_others_write(path: Path, tmp_path: Path) -> None:
    filled(path)
    stop, written = threading.Event(), [0]
    with opened(path) as database, opened(path) as other:

        def write(connection: Database) -> None:
            while not stop.is_set():
                with connection.transaction():
                    note(connection, "pair")
                    note(connection, "pair")
                written[0] += 1

        writers = [threading.Thread(target=write, args=(connection,)) for connection in (database, other)]
        for writer in writers:
            writer.start()
        try:
            counts = []
            for number in range(5):
                before = written[0]
                database.backup_to(tmp_path / f"{number}.db")
                counts.append(written[0] - before)
        finally:
            stop.set()
            for writer in writers:
                writer.join()
    assert sum(counts) > 0, "nobody wrote meanwhile"
    for number in range(5):
        with opened(tmp_path / f"{number}.db") as copy:
            copy.check()
            assert texts(copy).count("pair") % 2 == 0


def test_a_damaged_database_is_not_copied_over_a_sound_copy(path: Path, tmp_path: Path) -> None:
    content = filled(path)
    target = tmp_path / "copies" / "copy.db"
    with opened(path) as database:
        database.backup_to(target)
    sound = target.read_bytes()
    content[40 * 4096 : 41 * 4096] = bytes(4096)
    path.write_bytes(content)
    with opened(path) as database, pytest.raises(LedgerDamaged, match=f"{path}: is damaged"):
        database.backup_to(target)
    assert target.read_bytes() == sound
    assert [entry.name for entry in target.parent.iterdir()] == ["copy.db"]


def test_a_copy_for_which_there_is_no_room_leaves_nothing_behind(path: Path, tmp_path: Path) -> None:
    filled(path)
    target = tmp_path / "copies" / "copy.db"
    target.parent.mkdir()
    told = where_the_kernel_takes_little(path, f"database.backup_to(Path({str(target)!r}))", 100_000)
    assert told.startswith(f"LedgerError {target}: ")
    assert list(target.parent.iterdir()) == []
    with opened(path) as database:
        assert texts(database)[-1] == "afterwards"


def test_a_copy_to_a_place_that_is_none_is_refused(database: Database, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match="file"):
        database.backup_to(tmp_path / "file" / "copy.db")


def test_what_a_crash_left_of_a_copy_is_not_in_the_way(database: Database, tmp_path: Path) -> None:
    target = tmp_path / "copies" / "copy.db"
    target.parent.mkdir()
    (target.parent / ".copy.db.partial").write_bytes(b"half")
    database.backup_to(target)
    assert [entry.name for entry in target.parent.iterdir()] == ["copy.db"]


def test_what_is_no_database_is_found_damaged(tmp_path: Path) -> None:
    (tmp_path / "diary").write_bytes(b"Dear diary,\n" * 500)
    assert inspect(tmp_path / "diary").damage == ("file is not a database",)
    with pytest.raises(LedgerError):
        inspect(tmp_path / "missing")


# Only reading


def test_a_reader_reads_and_cannot_write(path: Path) -> None:
    with opened(path) as database:
        note(database, "one")
    with contextlib.closing(Reader(path)) as reader:
        assert [row["text"] for row in reader.read("SELECT text FROM notes")] == ["one"]
        assert reader.read_one("SELECT text FROM notes WHERE id = 5") is None
        reader.check()
        with pytest.raises(LedgerError, match="readonly"):
            reader.read("INSERT INTO notes (text) VALUES ('two')")


def test_a_reader_sees_what_a_writer_commits_meanwhile(database: Database, path: Path) -> None:
    with contextlib.closing(Reader(path)) as reader:
        assert reader.read("SELECT * FROM notes") == []
        note(database, "one")
        assert len(reader.read("SELECT * FROM notes")) == 1


def test_a_reader_makes_nothing(path: Path) -> None:
    with pytest.raises(LedgerError, match="see that its folder is there"):
        Reader(path)
    assert not path.exists()


# Places


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
