"""Opens SQLite databases: the only module that imports sqlite3. Owns journal mode, schema versions, identity, locking.

It never decides what is stored: the ledger and the queue bring their own migrations. What is not ours is not touched.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.core.errors import LedgerDamaged, LedgerError

Row = sqlite3.Row
Values = Sequence[Any] | Mapping[str, Any]

# How long a statement waits for another process (a command beside the daemon) to finish its transaction.
_BUSY_S = 30.0
# Pages copied in one step: 1 MiB.
_PAGES_PER_STEP = 256
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_ADVICE = {
    sqlite3.SQLITE_BUSY: "another process is writing to it and does not finish: try again, or end that process",
    sqlite3.SQLITE_LOCKED: "another process is writing to it and does not finish: try again, or end that process",
    sqlite3.SQLITE_READONLY: "see that the file and its folder belong to this user, and that the disk can be written",
    sqlite3.SQLITE_FULL: "make room on its disk",
    sqlite3.SQLITE_IOERR: "the disk did not do as told: see whether it is full, and what the kernel's log says of it",
    sqlite3.SQLITE_CANTOPEN: "see that its folder is there and belongs to this user",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """What a database is for. `application_id` stands in the file's header, so that no other file is taken for it."""

    name: str
    application_id: int


# "MRLD" and "MRQU".
LEDGER = Kind("ledger", 0x4D524C44)
QUEUE = Kind("queue", 0x4D525155)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a look at a file found: whose it is, its schema version, its tables, and what is damaged in it."""

    application_id: int
    version: int
    tables: frozenset[str]
    damage: tuple[str, ...]


class Reader:
    """One connection that only reads, shared between threads under a lock. It makes no database and migrates none."""

    def __init__(self, path: Path) -> None:
        """Read the database at `path`.

        Raises:
            LedgerError: there is none, or it cannot be read.
        """
        self.path = path
        self._lock = threading.RLock()
        try:
            self._connection = _connect(f"{path.absolute().as_uri()}?mode=ro", _BUSY_S)
        except sqlite3.Error as error:
            raise _sorted(path, error) from error

    def read(self, sql: str, values: Values = ()) -> list[Row]:
        """All rows of a query."""
        with self._lock:
            try:
                return self._connection.execute(sql, values).fetchall()
            except sqlite3.Error as error:
                raise _sorted(self.path, error) from error

    def read_one(self, sql: str, values: Values = ()) -> Row | None:
        """The first row of a query, or None."""
        rows = self.read(sql, values)
        return rows[0] if rows else None

    def check(self) -> None:
        """Look through the whole file for damage, which opening it does not.

        Raises:
            LedgerDamaged: SQLite finds some; the text says which.
        """
        _read_through(self.path)
        found = [str(row[0]) for row in self.read("PRAGMA quick_check")]
        if found != ["ok"]:
            raise LedgerDamaged(f"{self.path}: is damaged: {'; '.join(found[:3])}")

    def close(self) -> None:
        """Close the connection; the last one to close folds the write-ahead log into the file."""
        with self._lock:
            self._connection.close()


class Database(Reader):
    """One connection, shared between threads under a lock. Every change goes through `transaction`."""

    def __init__(
        self,
        path: Path,
        migrations: Sequence[str],
        kind: Kind = LEDGER,
        *,
        before_making: Callable[[], None] = lambda: None,
        before_migrating: Callable[[Database, int], None] = lambda database, version: None,
        busy_s: float = _BUSY_S,
    ) -> None:
        """Open or make the database at `path` and bring it to version `len(migrations)`.

        `migrations[i]` is the SQL script that turns version i into i + 1; published ones never change. Either callback
        refuses by raising: `before_making` where there is no database yet, `before_migrating` (given the present
        version) while nobody else can write; then everything stays as it is.

        Raises:
            LedgerError: the file is not a database of this kind, was written by a newer version, or stays locked.
            LedgerDamaged: it is no database at all, or a broken one.
        """
        self.path = path
        self._kind = kind
        self._lock = threading.RLock()
        self._depth = 0
        try:
            _make_room(path, before_making)
            self._connection = _connect(path.absolute().as_uri(), busy_s)
        except (sqlite3.Error, OSError) as error:
            raise _sorted(path, error) from error
        try:
            # Before anything is written: even the journal mode would stay behind in a file that is not ours.
            self._refuse_foreign(migrations)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA foreign_keys = ON")
            with self.transaction():
                self._migrate(migrations, before_making, before_migrating)
        except BaseException as error:
            self._connection.close()
            if isinstance(error, sqlite3.Error):
                raise _sorted(path, error) from error
            raise

    def _refuse_foreign(self, migrations: Sequence[str]) -> None:
        # One transaction: another process may be making this database right now.
        self._connection.execute("BEGIN")
        (identity, version), tables = _header(self._connection), _tables(self._connection)
        self._connection.execute("COMMIT")
        reason = _why_foreign(self._kind, identity)
        # Version 1 bore no identity: there the tables have to tell.
        if identity == 0 and (tables if version == 0 else not _tables_of(migrations, version) <= tables):
            reason = f"it holds other tables ({', '.join(sorted(tables)[:5]) or 'none'})"
        if reason:
            raise LedgerError(f"{self.path}: is not a Music Reclass {self._kind.name}: {reason}; nothing was changed")
        if version > len(migrations):
            raise LedgerError(
                f"{self.path}: has schema version {version}, this program knows up to {len(migrations)}:"
                " it was written by a newer version; nothing was changed"
            )

    def _migrate(
        self,
        migrations: Sequence[str],
        before_making: Callable[[], None],
        before_migrating: Callable[[Database, int], None],
    ) -> None:
        identity, version = _header(self._connection)
        if version == 0:
            before_making()
        elif version < len(migrations):
            before_migrating(self, version)
        for number, script in enumerate(migrations[version:], start=version + 1):
            # executescript would commit the surrounding transaction, so a failing script could be half applied.
            for statement in _statements(script):
                self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version = {number}")
        if identity != self._kind.application_id:
            self._connection.execute(f"PRAGMA application_id = {self._kind.application_id}")

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
                    # What made the statement fail may make this fail too; the first reason is the one to tell.
                    with contextlib.suppress(sqlite3.Error):
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

    def backup_to(self, target: Path) -> None:
        """Put a checked copy of what is committed at this moment at `target`, whole or not at all.

        Other threads and processes go on reading and writing meanwhile.

        Raises:
            LedgerDamaged: the copy is damaged, and so is the database.
            LedgerError: the copy cannot be written.
        """
        partial = target.with_name(f".{target.name}.partial")
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial.unlink(missing_ok=True)
            os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            _copy(self.path, partial)
            if damage := inspect(partial).damage:
                raise LedgerDamaged(f"{self.path}: is damaged: {'; '.join(damage[:3])}")
            sync(partial)
            partial.replace(target)
            sync(target.parent)
        except (sqlite3.Error, OSError) as error:
            broken = isinstance(_sorted(target, error), LedgerDamaged)
            raise _sorted(self.path if broken else target, error) from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


def inspect(path: Path) -> Inspection:
    """What the file at `path`, to which nobody writes, is and whether it is sound; leaves nothing beside it.

    Raises:
        LedgerError: it cannot be read.
    """
    try:
        with contextlib.closing(_connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", _BUSY_S)) as connection:
            _read_through(path)
            found = tuple(str(row[0]) for row in connection.execute("PRAGMA quick_check"))
            return Inspection(*_header(connection), _tables(connection), () if found == ("ok",) else found)
    except sqlite3.Error as error:
        trouble = _sorted(path, error)
        if isinstance(trouble, LedgerDamaged):
            return Inspection(0, 0, frozenset(), (str(error),))
        raise trouble from error


def sync(path: Path) -> None:
    """What was written to the file or folder at `path` outlives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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


def _why_foreign(kind: Kind, identity: int) -> str:
    if identity in (0, kind.application_id):
        return ""
    whose = next((other.name for other in (LEDGER, QUEUE) if other.application_id == identity), None)
    return f"it is a {whose}" if whose else f"it belongs to another program (id 0x{identity & 0xFFFFFFFF:08x})"


def _make_room(path: Path, before_making: Callable[[], None]) -> None:
    """See that there is a file at `path`, private from the start: the journal files take over its mode."""
    if path.is_symlink() and not path.exists():
        # Made anew at the link's end, it would be an empty one as soon as a disk is not mounted.
        raise FileNotFoundError(errno.ENOENT, f"is a link to {os.readlink(path)}, which is not there (not mounted?)")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _has_content(path):
        try:
            before_making()
        except LedgerError:
            # Unless another process has just made it.
            if not _has_content(path):
                raise
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def _read_through(path: Path) -> None:
    """Have the kernel hold the file in memory: a check that jumps about in 700 MB took 11 s, after this 1.5 s."""
    with contextlib.suppress(OSError), open(path, "rb", buffering=0) as file:
        chunk = bytearray(1 << 20)
        while file.readinto(chunk):
            pass


def _connect(uri: str, busy_s: float) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, timeout=busy_s, isolation_level=None, check_same_thread=False, uri=True)
    connection.row_factory = sqlite3.Row
    return connection


def _copy(path: Path, target: Path) -> None:
    """Copy what is committed now: one read transaction holds the moment, so that writers make it begin anew never."""
    with (
        contextlib.closing(_connect(path.absolute().as_uri(), _BUSY_S)) as source,
        contextlib.closing(_connect(target.absolute().as_uri(), _BUSY_S)) as copy,
    ):
        # The copy is synced as a whole when it is complete; until then it is nobody's.
        copy.execute("PRAGMA journal_mode = OFF")
        copy.execute("PRAGMA synchronous = OFF")
        source.execute("BEGIN")
        source.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        source.backup(copy, pages=_PAGES_PER_STEP)
        source.execute("COMMIT")
        # One file, that can be read from anywhere, without a log beside it.
        copy.execute("PRAGMA journal_mode = DELETE")


def _header(connection: sqlite3.Connection) -> tuple[int, int]:
    identity = int(connection.execute("PRAGMA application_id").fetchone()[0])
    return identity, int(connection.execute("PRAGMA user_version").fetchone()[0])


def _tables(connection: sqlite3.Connection) -> frozenset[str]:
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    return frozenset(row[0] for row in rows)


def _tables_of(migrations: Sequence[str], version: int) -> frozenset[str]:
    """The tables that these scripts make in a database of `version`."""
    with contextlib.closing(_connect(":memory:", 0.0)) as connection:
        for script in migrations[:version]:
            connection.executescript(script)
        return _tables(connection)


def _sorted(path: Path, error: sqlite3.Error | OSError) -> LedgerError:
    """What SQLite calls corrupt, or no database, is damaged; what may pass (full, locked, I/O) comes with advice.

    The class of the exception does not tell: SQLITE_CORRUPT comes as DatabaseError and as OperationalError.
    """
    if isinstance(error, OSError):
        return LedgerError(f"{path}: {error.strerror or error}")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _DAMAGE or str(error).startswith("Could not decode to UTF-8"):
        return LedgerDamaged(f"{path}: is damaged: {error}")
    advice = _ADVICE.get(code)
    return LedgerError(f"{path}: {error}: {advice}" if advice else f"{path}: {error}")


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for part in script.split(";"):
        statement += part + ";"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip(" \n\t;"):
        yield statement.removesuffix(";")
