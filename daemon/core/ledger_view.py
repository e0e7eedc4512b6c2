"""Reads a ledger that another process may be writing, a few rows at a time. It makes, migrates and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path

from daemon.core import ledger_records as rows
from daemon.core.database import Reader, path_key, path_of
from daemon.core.errors import LedgerError
from daemon.core.ledger_records import Change, ChangeKind, ChangeState, KnownFile
from daemon.core.ledger_schema import MIGRATIONS

_ROWS_AT_A_TIME = 500


@dataclass(frozen=True, slots=True)
class Written:
    """What this program last wrote into a file: the number of the change, the hash of all bytes, and when."""

    change: int
    sha256: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Confirmed:
    """What the owner last said of a track: `genres` as they gave them, `genre` the taxonomy's name then, if it had one.

    `places` are the paths at which the sound was seen, the latest first, and at last that of the correction.
    """

    audio_id: str
    places: tuple[Path, ...]
    genres: tuple[str, ...]
    genre: str | None
    how: str
    at: str


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """What models did to a track since the owner last spoke of it: genres that they added, places they moved it to."""

    audio_id: str
    genres: frozenset[str]
    places: frozenset[Path]


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

    def confirmed(self) -> Iterator[Confirmed]:
        """Every track that the owner gave a genre, with the last word on it: an older one no longer counts.

        A model's decision is never among them, unless the owner accepted it.
        """
        sql = (
            "SELECT * FROM corrections AS c WHERE audio_id > ? AND NOT EXISTS"
            " (SELECT 1 FROM corrections AS later WHERE later.audio_id = c.audio_id AND later.id > c.id)"
            " ORDER BY audio_id LIMIT ?"
        )
        found = self._reader.read(sql, ("", _ROWS_AT_A_TIME))
        while found:
            for row in found:
                word = rows.correction_of(row)
                places = (*self._places(row["audio_id"]), path_of(row["path"]))
                yield Confirmed(
                    row["audio_id"], tuple(dict.fromkeys(places)), word.genres, word.genre, word.how, word.at
                )
            found = self._reader.read(sql, (found[-1]["audio_id"], _ROWS_AT_A_TIME))

    def unconfirmed(self) -> Iterator[Unconfirmed]:
        """Every track that carries or stands where it does by a model's word, to which the owner has said nothing.

        A move of a file that has no genre can only have followed a model; any other that belongs to no decision
        followed the genre that the file brought along.
        """
        sql = (
            "SELECT * FROM changes AS c WHERE audio_id > ? AND audio_id <= ? AND state = ?"
            " AND (EXISTS (SELECT 1 FROM changes AS d WHERE d.act = c.act AND d.bundle IS NOT NULL)"
            " OR (kind = ? AND genres_after = '[]'))"
            " AND at > COALESCE((SELECT MAX(at) FROM corrections WHERE corrections.audio_id = c.audio_id), '')"
            " ORDER BY audio_id, id"
        )
        last = ""
        while upto := self._last_of_next_sounds(last):
            done = self._reader.read(sql, (last, upto, ChangeState.DONE.value, ChangeKind.MOVE.value))
            for audio_id, theirs in groupby(map(rows.change_of, done), key=lambda change: change.audio_id):
                changes = list(theirs)
                added = {name for c in changes if not c.moves for name in c.genres_after if name not in c.genres_before}
                places = {c.place_after for c in changes if c.kind is ChangeKind.MOVE}
                if added or places:
                    yield Unconfirmed(audio_id, frozenset(added), frozenset(places))
            last = upto

    def _last_of_next_sounds(self, after: str) -> str:
        """The last of the next few sounds with changes after the sound `after`; empty where there are no more."""
        row = self._reader.read_one(
            "SELECT MAX(audio_id) AS last FROM (SELECT DISTINCT audio_id FROM changes WHERE audio_id > ?"
            " ORDER BY audio_id LIMIT ?)",
            (after, _ROWS_AT_A_TIME),
        )
        return (row["last"] if row else None) or ""

    def _places(self, audio_id: str) -> list[Path]:
        found = self._reader.read("SELECT path FROM files WHERE audio_id = ? ORDER BY seen_at DESC, path", (audio_id,))
        return [path_of(row["path"]) for row in found]
