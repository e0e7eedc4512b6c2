"""Keeps copies of the ledger, opens it only where nothing is lost, and puts a copy back. Never deletes a ledger.

    <state>/ledger.db                                    the ledger
    <state>/backups/ledger-20261122T120000Z.db           one a day, the newest seven
    <state>/backups/ledger-before-version-2-….db         one before every migration, kept
    <state>/ledger.db.damaged-20261122T120000Z           what a restore set aside, with its -wal, kept

A backup is one sound file that any SQLite program can read. Times in names are UTC.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from daemon.core.database import LEDGER, Database, inspect, sync
from daemon.core.errors import LedgerDamaged, LedgerError
from daemon.core.ledger_schema import MIGRATIONS

KEEP = 7
# A little less than a day: an hourly look would otherwise slip by up to an hour every day.
_EVERY = timedelta(hours=23)
_STAMP = "%Y%m%dT%H%M%SZ"
_NAME = re.compile(r"ledger-(?:before-version-(?P<version>\d+)-)?(?P<stamp>\d{8}T\d{6}Z)\.db")
_CHUNK = 1 << 20
# The files of one SQLite database. The database goes first and comes back last: without its log it is an older one.
_PARTS = ("", "-wal", "-shm")
_VERSION_1_TABLES = frozenset({"files", "decisions", "embeddings", "changes", "corrections", "models"})
# What the daemon leaves beside its ledger (`Workshop.published`).
_STATUS = "status.json"


@dataclass(frozen=True, slots=True)
class Backup:
    """A copy of the ledger, as its name tells; `before_version` where it was made for a migration to that version."""

    path: Path
    made_at: datetime
    before_version: int | None = None


@dataclass(frozen=True, slots=True)
class Restored:
    """A restore that was done: the ledger that is in place now, the copy it came from, and what was set aside."""

    ledger: Path
    backup: Path
    set_aside: tuple[Path, ...]


def folder_of(ledger: Path) -> Path:
    """Where the copies of the ledger at `ledger` lie."""
    return ledger.parent / "backups"


# Opening


def open_ledger(path: Path, *, migrations: Sequence[str] = MIGRATIONS) -> Database:
    """The database of the ledger at `path`, made where there never was one; copied before it is migrated.

    Raises:
        LedgerDamaged: it is broken; the text says which copy is sound and how to put it back.
        LedgerError: it is gone, not a ledger, from a newer version, or cannot be used at the moment.
    """
    made: list[Path] = []

    def keep_a_copy(database: Database, version: int) -> None:
        name = f"ledger-before-version-{len(migrations)}-{datetime.now(UTC):{_STAMP}}.db"
        database.backup_to(folder_of(path) / name)
        made.append(folder_of(path) / name)

    try:
        with advising(path):
            database = Database(
                path,
                migrations,
                LEDGER,
                before_making=lambda: _refuse_if_lost(path),
                before_migrating=keep_a_copy,
            )
    except LedgerDamaged:
        raise
    except BaseException:
        # The migration was taken back, so the copy is of what is there: one for each try would fill the disk.
        for copy in made:
            with contextlib.suppress(OSError):
                copy.unlink()
        raise
    try:
        # From now on this folder tells that there was a ledger.
        folder_of(path).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        database.close()
        raise LedgerError(f"{folder_of(path)}: {error.strerror}: it is to hold the copies of the ledger") from error
    return database


def check(database: Database) -> None:
    """Look through the whole ledger for damage: at every start, since opening it does not.

    Raises:
        LedgerDamaged: there is some; the text says which copy is sound and how to put it back.
    """
    with advising(database.path):
        database.check()


@contextlib.contextmanager
def advising(ledger: Path) -> Iterator[None]:
    """Damage found inside is told with what to do about it."""
    try:
        yield
    except LedgerDamaged as error:
        if "`music-reclass ledger restore`" in str(error):
            raise
        raise LedgerDamaged(f"{error}\n{advice(ledger)}") from error


def advice(ledger: Path) -> str:
    """What to do where the ledger is damaged or gone: which copy is the newest sound one, and the command."""
    folder = folder_of(ledger)
    newest = next(sound_backups(folder), None)
    if newest is None:
        return (
            f"There is no sound backup in {folder}; nothing was changed. To begin a new ledger on purpose, without"
            f" the means to undo what was done so far, move everything named ledger*, backups and {_STATUS} out of"
            f" {ledger.parent}."
        )
    return (
        f"The newest sound backup is {newest.path}, of {newest.made_at:%Y-%m-%d %H:%M} UTC; nothing was changed."
        " `music-reclass ledger restore` puts it in place and keeps what is there beside it."
    )


def traces(ledger: Path) -> tuple[Path, ...]:
    """What tells that there was a ledger at this place, apart from the ledger itself."""
    real = ledger.resolve()
    found = [folder_of(ledger), ledger.parent / _STATUS]
    log = real.with_name(f"{real.name}-wal")
    if _size(log) and not _size(real):
        # SQLite would drop a log that has lost its database.
        found.append(log)
    with contextlib.suppress(OSError):
        found += sorted(real.parent.glob(f"{real.name}.damaged-*"))
    return tuple(path for path in found if path.exists())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _refuse_if_lost(ledger: Path) -> None:
    """An empty ledger in place of the one that was there would take the owner's undo away without a word."""
    if found := traces(ledger):
        raise LedgerError(
            f"{ledger}: the ledger is gone or empty, but there was one: {found[0]} is there.\n{advice(ledger)}"
        )


# Copies


def back_up(database: Database, folder: Path, *, keep: int = KEEP, now: datetime | None = None) -> Path:
    """Copy the ledger into `folder` and let go of all but the newest `keep` daily copies; returns the new one.

    Raises:
        LedgerDamaged: the ledger is broken; no copy was made and none was removed.
        LedgerError: the copy cannot be written.
    """
    at = now or datetime.now(UTC)
    target = folder / f"ledger-{at.astimezone(UTC):{_STAMP}}.db"
    with advising(database.path):
        database.backup_to(target)
    _prune(folder, keep, at, target)
    return target


def back_up_if_due(database: Database, folder: Path, *, keep: int = KEEP, now: datetime | None = None) -> Path | None:
    """As `back_up`, but only where the newest daily copy is a day old; otherwise None. Meant to be called hourly."""
    at = now or datetime.now(UTC)
    if any(at - backup.made_at < _EVERY for backup in _daily(folder, at)):
        return None
    return back_up(database, folder, keep=keep, now=at)


def backups(folder: Path, *, now: datetime | None = None) -> list[Backup]:
    """Every copy, sound or not, the newest first; those from the future come last: a clock was wrong then or is now."""
    at = now or datetime.now(UTC)
    found = [backup for path in _listed(folder) if (backup := _backup_of(path))]
    return sorted(found, key=lambda backup: (backup.made_at <= at + _EVERY, backup.made_at), reverse=True)


def sound_backups(folder: Path, *, now: datetime | None = None) -> Iterator[Backup]:
    """The copies that can be restored, the newest first; each is looked through when it is asked for."""
    for backup in backups(folder, now=now):
        with contextlib.suppress(LedgerError):
            if not _unfit(backup.path):
                yield backup


def _daily(folder: Path, now: datetime) -> list[Backup]:
    """The copies that count: one from the future is left alone until its time has come."""
    return [b for b in backups(folder, now=now) if b.before_version is None and b.made_at <= now]


def _prune(folder: Path, keep: int, now: datetime, just_made: Path) -> None:
    # The one just made was looked through, so the newest sound one is never among those that go.
    for backup in _daily(folder, now)[keep:]:
        if backup.path != just_made:
            backup.path.unlink(missing_ok=True)
    for path in _listed(folder):
        if path.name.startswith(".ledger-") and path.name.endswith(".partial"):
            # What a crash left of a copy; one that is being made now belongs to a migration, and is young.
            with contextlib.suppress(OSError):
                if now.timestamp() - path.stat().st_mtime > _EVERY.total_seconds():
                    path.unlink()


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def _backup_of(path: Path) -> Backup | None:
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    try:
        made_at = datetime.strptime(match["stamp"], _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None
    return Backup(path, made_at, int(match["version"]) if match["version"] else None)


def _unfit(path: Path) -> str:
    """Why the file at `path` cannot become the ledger; empty if it can."""
    found = inspect(path)
    if found.damage:
        return f"is damaged: {'; '.join(found.damage[:3])}"
    # Version 1 bore no identity.
    ours = found.application_id == LEDGER.application_id
    if not ours and not (found.application_id == 0 and found.version == 1 and found.tables >= _VERSION_1_TABLES):
        return "is not a ledger"
    if found.version > len(MIGRATIONS):
        return f"has schema version {found.version}, this program knows up to {len(MIGRATIONS)}"
    return ""


# Restoring


def restore(
    ledger: Path, backup: Path, *, stating: Mapping[str, str] | None = None, now: datetime | None = None
) -> Restored:
    """Put a copy of `backup` in the place of the ledger; what was there is set aside beside it, never deleted.

    The copy is brought to the present schema, and has the facts in `stating` in it, before it is in place. Nothing else
    may have the ledger open: hold the daemon's lock and the writers'. A crash on the way leaves either the old ledger
    or none, and none is refused at the next start with the advice to restore.

    Raises:
        LedgerError: the backup is not a sound ledger, or the disk refuses; then the old ledger is still there, or
            beside its place.
    """
    real = ledger.resolve()
    new = real.with_name(f".{real.name}.restoring")
    try:
        if reason := _unfit(backup):
            raise LedgerError(f"{backup}: {reason}; nothing was changed")
        _copy(backup, new)
        _prepare(new, stating or {})
        set_aside = _set_aside(real, now or datetime.now(UTC))
        new.replace(real)
        sync(real.parent)
    except OSError as error:
        raise LedgerError(f"{error.filename or real}: {error.strerror or error}") from error
    finally:
        _remove(new)
    return Restored(ledger, backup, set_aside)


def _prepare(copy: Path, facts: Mapping[str, str]) -> None:
    database = Database(copy, MIGRATIONS, LEDGER)
    try:
        database.check()
        database.write_many("INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)", list(facts.items()))
    finally:
        # Folds the log into the file, which is then whole by itself.
        database.close()
    sync(copy)


def _remove(copy: Path) -> None:
    for part in _PARTS:
        with contextlib.suppress(OSError):
            Path(f"{copy}{part}").unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    _remove(target)
    with open(source, "rb") as reading, open(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as to:
        while chunk := reading.read(_CHUNK):
            to.write(chunk)
        to.flush()
        os.fsync(to.fileno())


def _set_aside(ledger: Path, now: datetime) -> tuple[Path, ...]:
    """Rename the parts of a database so that they still belong together, and so that none can be taken for new."""
    aside = ledger.with_name(f"{ledger.name}.damaged-{now.astimezone(UTC):{_STAMP}}")
    number = 1
    while any(Path(f"{aside}{part}").exists() for part in _PARTS):
        number += 1
        aside = ledger.with_name(f"{ledger.name}.damaged-{now.astimezone(UTC):{_STAMP}}-{number}")
    moved = []
    for part in _PARTS:
        old = Path(f"{ledger}{part}")
        if old.exists():
            old.rename(f"{aside}{part}")
            moved.append(Path(f"{aside}{part}"))
    sync(ledger.parent)
    return tuple(moved)
