"""Opens SQLite databases: the only module that imports sqlite3. Owns journal mode, schema versions and locking.

It never decides what is stored: the ledger and the queue bring their own migrations.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from daemon.core.errors import LedgerDamaged, LedgerError

Row = sqlite3.Row

# How long a statement waits for another process (a command beside the daemon) to finish its transaction.
_BUSY_S = 30.0


class Database:
    """One connection, shared between threads under a lock. Every change goes through `transaction`."""

    def __init__(self, path: Path, migrations: Sequence[str]) -> None:
        """Open or make the database at `path` and bring it to version `len(migrations)`.

        `migrations[i]` is the SQL script that turns version i into i + 1; published ones never change.

        Raises:
            LedgerError: the file is not a database, is corrupt, was written by a newer version, or stays locked.
        """
        self.path = path
        self._lock = threading.RLock()
        self._depth = 0
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._connection = _connect(path)
        except (sqlite3.Error, OSError) as error:
            raise _sorted(path, error) from error
        try:
            with self.transaction():
                self._migrate(migrations)
        except BaseException:
            self._connection.close()
            raise

    def _migrate(self, migrations: Sequence[str]) -> None:
        version = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
        if version > len(migrations):
            raise LedgerError(
                f"{self.path}: has schema version {version}, this program knows up to {len(migrations)}:"
                " it was written by a newer version; nothing was changed"
            )
        for number, script in enumerate(migrations[version:], start=version + 1):
            # executescript would commit the surrounding transaction, so a failing script could be half applied.
            for statement in _statements(script):
                self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version = {number}")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is written together or not at all; nested uses join the outer one.

        Raises:
            LedgerError: the database refused (disk full, locked too long, corrupt).
        """
        with self._lock:
            outermost = self._depth == 0
            self._depth += 1
            try:
                if outermost:
                    self._connection.execute("BEGIN IMMEDIATE")
                yield
                if outermost:
                    self._connection.execute("COMMIT")
            except BaseException as error:
                if outermost and self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise _sorted(self.path, error) from error
                raise
            finally:
                self._depth -= 1

    def write(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Run one changing statement in a transaction; returns the number of the last inserted row."""
        with self.transaction():
            return int(self._connection.execute(sql, values).lastrowid or 0)

    def write_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run one changing statement for each of `rows`, in one transaction."""
        with self.transaction():
            self._connection.executemany(sql, rows)

    def read(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """All rows of a query."""
        with self._lock:
            try:
                return self._connection.execute(sql, values).fetchall()
            except sqlite3.Error as error:
                raise _sorted(self.path, error) from error

    def read_one(self, sql: str, values: Sequence[Any] = ()) -> Row | None:
        """The first row of a query, or None."""
        rows = self.read(sql, values)
        return rows[0] if rows else None

    def check(self) -> None:
        """Look through the whole file for damage, which opening it does not.

        Raises:
            LedgerDamaged: SQLite finds some; the text says which.
        """
        found = [str(row[0]) for row in self.read("PRAGMA quick_check")]
        if found != ["ok"]:
            raise LedgerDamaged(f"{self.path}: is damaged: {'; '.join(found[:3])}")

    def close(self) -> None:
        """Close the connection; the last one to close folds the write-ahead log into the file."""
        with self._lock:
            self._connection.close()


def path_key(path: str | os.PathLike[str]) -> str | bytes:
    """`path` as SQLite can hold it: text, or the raw bytes of a name that is not UTF-8."""
    text = os.fspath(path)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return os.fsencode(text)
    return text


def path_of(key: str | bytes) -> Path:
    """The path that `path_key` turned into `key`."""
    return Path(os.fsdecode(key))


def _connect(path: Path) -> sqlite3.Connection:
    # Made private before SQLite writes into it; the journal files take over the mode.
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _sorted(path: Path, error: sqlite3.Error | OSError) -> LedgerError:
    """SQLite calls what may pass (full, locked, I/O) operational, and our own mistakes by other names still.

    A corrupt file, and one that is no database, raise DatabaseError itself and none of its children.
    """
    broken = type(error) is sqlite3.DatabaseError
    return (LedgerDamaged if broken else LedgerError)(f"{path}: {error}")


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement
