"""Copies of the ledger: made in time, kept long enough, put back with nothing lost, and never replaced in silence."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import ledger_v1
import pytest

from daemon.core import ledger_backup, ledger_schema
from daemon.core.database import Database
from daemon.core.errors import LedgerDamaged, LedgerError
from daemon.core.ledger_backup import back_up, back_up_if_due, backups, open_ledger, restore, sound_backups

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.db"


@pytest.fixture
def folder(path: Path) -> Path:
    return ledger_backup.folder_of(path)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Database]:
    database = open_ledger(path)
    try:
        yield database
    finally:
        database.close()


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    with opened(path) as database:
        yield database


def state_fact(database: Database, name: str) -> None:
    database.write("INSERT INTO facts VALUES (?, 'true')", (name,))


def facts(path: Path) -> list[str]:
    with opened(path) as database:
        return [row["name"] for row in database.read("SELECT name FROM facts ORDER BY name")]


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def damage(path: Path) -> bytes:
    """Zero the second half of a file; returns what it holds now."""
    content = path.read_bytes()
    content = content[: len(content) // 2] + bytes(len(content) - len(content) // 2)
    path.write_bytes(content)
    return content


# Making copies


def test_a_copy_is_private_and_named_for_its_time(database: Database, folder: Path) -> None:
    made = back_up(database, folder, now=NOON)
    assert made == folder / "ledger-20261122T120000Z.db"
    assert names(folder) == [made.name]
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [(b.path, b.made_at) for b in sound_backups(folder, now=NOON)] == [(made, NOON)]


def test_a_copy_is_made_once_a_day(database: Database, folder: Path) -> None:
    """It is asked for every hour, so that a machine which is off at one o'clock gets it at another."""
    made = [back_up_if_due(database, folder, now=NOON + timedelta(hours=hour)) for hour in range(72)]
    assert [number for number, path in enumerate(made) if path] == [0, 23, 46, 69]
    asked_for = back_up(database, folder, now=NOON + timedelta(hours=70))
    assert asked_for.name in names(folder)


def test_the_newest_seven_are_kept(database: Database, folder: Path) -> None:
    for day in range(10):
        back_up(database, folder, now=NOON + day * DAY)
    assert [b.made_at.day for b in backups(folder, now=NOON + 10 * DAY)] == [1, 30, 29, 28, 27, 26, 25]


def test_copies_made_before_a_migration_and_files_of_others_are_left_alone(database: Database, folder: Path) -> None:
    others = [
        "ledger-before-version-2-20200101T000000Z.db",
        "ledger-of-mine.db",
        "notes.txt",
        "ledger-20261399T000000Z.db",
    ]
    for name in others:
        (folder / name).touch()
    for day in range(3):
        back_up(database, folder, keep=1, now=NOON + day * DAY)
    assert names(folder) == sorted([*others, "ledger-20261124T120000Z.db"])


def test_what_a_crash_left_of_a_copy_is_cleared_away_once_it_is_old(database: Database, folder: Path) -> None:
    old, young = folder / ".ledger-1.db.partial", folder / ".ledger-2.db.partial"
    now = datetime.now(UTC)
    for partial, age_s in ((old, 100_000), (young, 60)):
        partial.write_bytes(b"half")
        os.utime(partial, (now.timestamp() - age_s,) * 2)
    back_up(database, folder, now=now)
    assert (old.exists(), young.exists()) == (False, True)


def test_copies_from_the_future_neither_count_nor_go(database: Database, folder: Path) -> None:
    """The clock was wrong when they were made, or it is wrong now: no copy may be lost by either."""
    future = back_up(database, folder, now=NOON + 365 * DAY)
    made = [back_up_if_due(database, folder, keep=2, now=NOON + day * DAY) for day in range(4)]
    assert None not in made
    assert [b.path for b in backups(folder, now=NOON + 4 * DAY)] == [made[3], made[2], future]


def test_a_damaged_ledger_is_not_copied_and_no_sound_copy_goes(path: Path, folder: Path) -> None:
    with opened(path) as database:
        database.write_many("INSERT INTO facts VALUES (?, ?)", [(str(n), "x" * 500) for n in range(2000)])
        back_up(database, folder, keep=1, now=NOON)
    damage(path)
    with opened(path) as database, pytest.raises(LedgerDamaged, match=r"20261122T120000Z\.db, of 2026-11-22 12:00 UTC"):
        back_up(database, folder, keep=1, now=NOON + DAY)
    assert names(folder) == ["ledger-20261122T120000Z.db"]


def test_the_copies_that_are_sound_are_told_from_the_others(database: Database, folder: Path, tmp_path: Path) -> None:
    database.write_many("INSERT INTO facts VALUES (?, ?)", [(str(n), "x" * 500) for n in range(200)])
    sound, newer, damaged, empty, foreign = (back_up(database, folder, now=NOON + n * DAY) for n in range(5))
    damage(damaged)
    empty.write_bytes(b"")
    for copy, statement in ((newer, "PRAGMA user_version = 999"), (foreign, "PRAGMA application_id = 7")):
        with contextlib.closing(sqlite3.connect(copy)) as connection:
            connection.execute(statement)
    assert len(backups(folder)) == 5
    assert [b.path for b in sound_backups(folder, now=NOON + 5 * DAY)] == [sound]
    for unfit in (newer, damaged, empty, foreign, tmp_path / "missing.db"):
        before = database.path.read_bytes()
        with pytest.raises(LedgerError):
            restore(database.path, unfit)
        assert database.path.read_bytes() == before
        assert names(database.path.parent) == ["backups", "ledger.db", "ledger.db-shm", "ledger.db-wal"]


def test_where_there_is_no_folder_there_are_no_copies(tmp_path: Path) -> None:
    assert backups(tmp_path / "missing") == []
    assert list(sound_backups(tmp_path / "missing")) == []


# Migrations


def test_before_a_migration_the_older_version_is_copied_and_kept(path: Path, folder: Path) -> None:
    ledger_v1.make_ledger(path)
    before = ledger_v1.dump(path)
    with opened(path) as database:
        (copy,) = backups(folder)
        assert copy.before_version == len(ledger_schema.MIGRATIONS)
        assert ledger_v1.dump(copy.path) == before
        for day in range(9):
            back_up(database, folder, now=copy.made_at + (day + 1) * DAY)
    assert copy in backups(folder)
    assert len(backups(folder)) == 8
    with opened(path):
        pass
    assert len(backups(folder)) == 8, "nothing was migrated that time"


def test_a_ledger_that_cannot_be_copied_is_not_migrated(path: Path, folder: Path) -> None:
    ledger_v1.make_ledger(path)
    before = ledger_v1.dump(path)
    folder.write_bytes(b"a file in the folder's place")
    with pytest.raises(LedgerError, match="backups"):
        open_ledger(path)
    assert ledger_v1.dump(path) == before


def test_a_file_where_the_copies_should_be_is_told(path: Path, folder: Path) -> None:
    with opened(path):
        pass
    folder.rmdir()
    folder.touch()
    with pytest.raises(LedgerError, match="backups: File exists"):
        open_ledger(path)


def test_a_migration_that_fails_leaves_no_copy_behind_at_each_try(path: Path, folder: Path) -> None:
    ledger_v1.make_ledger(path)
    before = ledger_v1.dump(path)
    scripts = (ledger_schema.MIGRATIONS[0], "DELETE FROM models; UPDATE nowhere SET x = 1;")
    with pytest.raises(LedgerError, match="no such table"):
        open_ledger(path, migrations=scripts)
    assert ledger_v1.dump(path) == before
    assert names(folder) == []
    with opened(path):
        pass
    assert len(names(folder)) == 1


def test_a_copy_of_the_first_version_can_be_restored(path: Path, folder: Path) -> None:
    ledger_v1.make_ledger(path)
    with opened(path):
        pass
    (copy,) = sound_backups(folder)
    restore(path, copy.path)
    with opened(path) as database:
        row = database.read_one("SELECT patch FROM changes WHERE id = 3")
        assert row is not None
        assert row["patch"] == ledger_v1.PATCH


# Restoring


def test_a_copy_takes_the_place_of_the_damaged_ledger_which_is_kept(path: Path, folder: Path) -> None:
    with opened(path) as database:
        state_fact(database, "copied")
        back_up(database, folder, now=NOON)
        state_fact(database, "later")
    damaged = damage(path)
    path.with_name("ledger.db-wal").write_bytes(b"log")
    path.with_name("ledger.db-shm").write_bytes(b"index")
    (copy,) = sound_backups(folder)
    done = restore(path, copy.path, now=NOON + DAY)
    aside = path.with_name("ledger.db.damaged-20261123T120000Z")
    assert done.set_aside == (aside, Path(f"{aside}-wal"), Path(f"{aside}-shm"))
    assert (done.ledger, done.backup) == (path, copy.path)
    assert [part.read_bytes() for part in done.set_aside] == [damaged, b"log", b"index"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert facts(path) == ["copied"]
    assert copy.path.exists(), "it may be needed once more"
    assert names(path.parent) == ["backups", "ledger.db", aside.name, f"{aside.name}-shm", f"{aside.name}-wal"]


@pytest.mark.parametrize("first_version", [False, True])
def test_a_restored_ledger_is_never_without_the_facts_stated_of_it(
    path: Path, folder: Path, first_version: bool
) -> None:
    """Those who read the ledger have to know that it is older than the files."""
    if first_version:
        ledger_v1.make_ledger(path)
    with opened(path) as database:
        copy = next(sound_backups(folder)).path if first_version else back_up(database, folder, now=NOON)
    before = copy.read_bytes()
    restore(path, copy, stating={"restored_at": "now"})
    assert ledger_v1.dump(path)[0] == str(len(ledger_schema.MIGRATIONS))
    assert facts(path) == ["restored_at"]
    assert copy.read_bytes() == before
    assert not [name for name in names(path.parent) if "restoring" in name]


def test_what_was_set_aside_can_still_be_read_with_its_log(path: Path, folder: Path) -> None:
    """The owner may have restored in error."""
    with opened(path) as database:
        back_up(database, folder, now=NOON)
        state_fact(database, "in the log")
        parts = {part: Path(f"{path}{part}").read_bytes() for part in ("", "-wal")}
    for part, content in parts.items():
        Path(f"{path}{part}").write_bytes(content)
    done = restore(path, folder / "ledger-20261122T120000Z.db")
    assert facts(path) == []
    with contextlib.closing(sqlite3.connect(done.set_aside[0])) as connection:
        assert connection.execute("SELECT name FROM facts").fetchall() == [("in the log",)]


def test_two_restores_in_one_second_keep_both_ledgers(path: Path, folder: Path) -> None:
    with opened(path) as database:
        copy = back_up(database, folder, now=NOON)
    first, second = (restore(path, copy, now=NOON).set_aside for _ in range(2))
    assert first != second
    assert all(part.exists() for part in (*first, *second))


def test_a_ledger_that_is_gone_is_restored_too(path: Path, folder: Path) -> None:
    with opened(path) as database:
        state_fact(database, "copied")
        copy = back_up(database, folder, now=NOON)
    path.unlink()
    assert restore(path, copy).set_aside == ()
    assert facts(path) == ["copied"]


def test_a_ledger_behind_a_link_is_restored_where_it_is(path: Path, folder: Path, tmp_path: Path) -> None:
    real = tmp_path / "elsewhere" / "real.db"
    with opened(real) as database:
        state_fact(database, "copied")
        copy = back_up(database, folder, now=NOON)
    path.symlink_to(real)
    damage(real)
    done = restore(path, copy)
    assert path.is_symlink()
    assert done.set_aside[0].parent == real.parent
    assert facts(path) == ["copied"]


RESTORER = """
import os, sys
from pathlib import Path
from daemon.core import ledger_backup

steps = int(sys.argv[3])

def dying(step):
    def wrapped(*given, **named):
        global steps
        steps -= 1
        if steps < 0:
            os._exit(9)
        return step(*given, **named)
    return wrapped

Path.rename, Path.replace, ledger_backup.sync = map(dying, (Path.rename, Path.replace, ledger_backup.sync))
ledger_backup.restore(Path(sys.argv[1]), Path(sys.argv[2]), stating={"restored_at": "now"})
"""


def test_a_restore_that_is_cut_off_anywhere_leaves_the_old_ledger_or_none(path: Path, folder: Path) -> None:
    """And none is refused at the next start, never made anew."""
    with opened(path) as database:
        state_fact(database, "copied")
        copy = back_up(database, folder, now=NOON)
        state_fact(database, "later")
        parts = {part: Path(f"{path}{part}").read_bytes() for part in ("", "-wal")}
    seen = set()
    for steps in range(10):
        for entry in path.parent.iterdir():
            if entry != folder:
                entry.unlink()
        for part, content in parts.items():
            Path(f"{path}{part}").write_bytes(content)
        command = [sys.executable, "-c", RESTORER, str(path), str(copy), str(steps)]
        ended = subprocess.run(command, cwd=CHECKOUT, check=False, capture_output=True)
        try:
            seen.add(tuple(facts(path)))
        except LedgerError as error:
            assert "music-reclass ledger restore" in str(error)
            assert str(copy) in str(error)
            restore(path, copy)
            assert facts(path) == ["copied"]
            seen.add(("refused",))
        if ended.returncode == 0:
            break
        assert ended.returncode == 9, ended.stderr.decode()
    assert ended.returncode == 0
    assert seen == {("copied", "later"), ("refused",), ("copied", "restored_at")}


# Refusing


def test_a_damaged_ledger_is_refused_with_the_way_out(path: Path, folder: Path) -> None:
    with opened(path) as database:
        back_up(database, folder, now=NOON)
    with contextlib.closing(sqlite3.connect(folder / "ledger-20261123T120000Z.db")) as connection:
        connection.execute("CREATE TABLE newer (but, foreign_)")
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(LedgerDamaged) as caught:
        open_ledger(path)
    told = str(caught.value)
    assert told.startswith(f"{path}: is damaged: ")
    assert f"The newest sound backup is {folder}/ledger-20261122T120000Z.db, of 2026-11-22 12:00 UTC" in told
    assert "`music-reclass ledger restore`" in told
    assert path.read_bytes() == b"not a database" * 1000


def test_damage_that_opening_does_not_meet_is_found_by_the_check(path: Path) -> None:
    with opened(path) as database:
        database.write_many("INSERT INTO facts VALUES (?, ?)", [(str(n), "x" * 500) for n in range(2000)])
    damage(path)
    with opened(path) as database, pytest.raises(LedgerDamaged, match=r"There is no sound backup in .*/backups"):
        ledger_backup.check(database)


def test_a_ledger_that_is_gone_is_not_made_anew(path: Path, folder: Path) -> None:
    with opened(path) as database:
        back_up(database, folder, now=NOON)
    for leave_empty in (False, True):
        path.unlink()
        if leave_empty:
            path.touch()
        with pytest.raises(LedgerError, match=r"(?s)is gone or empty, but there was one.*music-reclass ledger restore"):
            open_ledger(path)
        assert path.exists() == leave_empty
        restore(path, folder / "ledger-20261122T120000Z.db")


@pytest.mark.parametrize("trace", ["status.json", "backups/", "ledger.db-wal", "ledger.db.damaged-20261122T120000Z"])
def test_whatever_tells_of_a_ledger_keeps_it_from_being_made_anew(path: Path, trace: str) -> None:
    left = path.parent / trace
    path.parent.mkdir(parents=True)
    if trace.endswith("/"):
        left.mkdir()
    else:
        left.write_bytes(b"something")
    with pytest.raises(LedgerError, match="To begin a new ledger on purpose"):
        open_ledger(path)
    assert not path.exists()
    if trace.endswith("/"):
        left.rmdir()
    else:
        left.unlink()
    with opened(path):
        pass


def test_a_ledger_whose_log_was_lost_before_it_was_ever_folded_in_is_not_made_anew(path: Path) -> None:
    with opened(path) as database:
        state_fact(database, "in the log")
        content = path.read_bytes()
    assert b"facts" not in content
    path.with_name("ledger.db-wal").unlink(missing_ok=True)
    path.write_bytes(content)
    with pytest.raises(LedgerError, match="is gone or empty"):
        open_ledger(path)


def test_a_first_start_makes_a_ledger_and_leaves_its_trace(path: Path) -> None:
    with opened(path):
        pass
    assert names(path.parent) == ["backups", "ledger.db"]
    path.unlink()
    with pytest.raises(LedgerError, match="is gone"):
        open_ledger(path)


OPENER = """
import sys
from pathlib import Path
from daemon.core.ledger_backup import open_ledger

open_ledger(Path(sys.argv[1])).close()
"""


def test_commands_that_start_at_once_do_not_refuse_each_others_new_ledger(path: Path) -> None:
    openers = [
        subprocess.Popen([sys.executable, "-c", OPENER, str(path)], cwd=CHECKOUT, stderr=subprocess.PIPE)
        for _ in range(5)
    ]
    assert [opener.communicate(timeout=60)[1] for opener in openers] == [b""] * 5
