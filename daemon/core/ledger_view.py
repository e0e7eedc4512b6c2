"""Reads a ledger that another process may be writing, a few rows at a time. It makes, migrates and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from daemon.core import ledger_records as rows
from daemon.core.database import Reader, path_key
from daemon.core.errors import LedgerError
from daemon.core.ledger_records import Change, ChangeState, KnownFile
from daemon.core.ledger_schema import MIGRATIONS

_ROWS_AT_A_TIME = 500


@dataclass(frozen=True, slots=True)
class Written:
    """What this program last wrote into a file: the number of the change, the hash of all bytes, and when."""

    change: int
    sha256: str
    at: datetime


class LedgerView:
    """A ledger to look at. What is recorded meanwhile may or may not be seen."""

    def __init__(self, path: Path) -> None:
        """Look at the ledger at `path`.

        Raises:
            LedgerError: there is none, it cannot be read, or it is of another version than this program's.
        """
        self._reader = Reader(path)
        try:
            row = self._reader.read_one("PRAGMA user_version")
            version = row[0] if row else 0
            if version != len(MIGRATIONS):
                raise LedgerError(
                    f"{path}: has schema version {version}, this program's is {len(MIGRATIONS)}:"
                    " its next start brings an older one up to date"
                )
        except LedgerError:
            self._reader.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def check(self) -> None:
        """Look through the whole file for damage; raises LedgerDamaged where there is some."""
        self._reader.check()

    def __len__(self) -> int:
        row = self._reader.read_one("SELECT COUNT(*) AS n FROM files")
        return int(row["n"]) if row else 0

    def files(self) -> Iterator[KnownFile]:
        """Every recorded file, those of one folder together."""
        found = self._reader.read("SELECT * FROM files ORDER BY path LIMIT ?", (_ROWS_AT_A_TIME,))
        while found:
            last = found[-1]["path"]
            yield from (rows.known_of(row) for row in found)
            found = self._reader.read(
                "SELECT * FROM files WHERE path > ? ORDER BY path LIMIT ?", (last, _ROWS_AT_A_TIME)
            )

    def knows(self, path: Path) -> bool:
        """Whether the file at `path` was ever recorded."""
        return self._reader.read_one("SELECT 1 FROM files WHERE path = ?", (path_key(path),)) is not None

    def open_changes(self) -> list[Change]:
        """Changes that were begun and not ended."""
        states = (ChangeState.INTENT.value, ChangeState.STAGED.value)
        found = self._reader.read("SELECT * FROM changes WHERE state IN (?, ?) ORDER BY id", states)
        return [rows.change_of(row) for row in found]

    def written(self, file: KnownFile) -> Written | None:
        """The last change in place at the file's path; None without one, and for a move that read no bytes."""
        found = self._reader.read(
            "SELECT * FROM changes WHERE audio_id = ? AND state = ? ORDER BY id DESC",
            (file.audio_id, ChangeState.DONE.value),
        )
        last = next((row for row in found if rows.change_of(row).place_after == file.path), None)
        if last is None or last["sha256_after"] is None or last["finished_at"] is None:
            return None
        return Written(last["id"], last["sha256_after"], datetime.fromisoformat(last["finished_at"]))
