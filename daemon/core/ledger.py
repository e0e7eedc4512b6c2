"""The precious record: tracks, decisions, changes, corrections, embeddings, bundles. Never touches a music file.

A change is written as an intent before the file is touched and closed after, so that a start after a crash can tell
what happened. Nothing is deleted from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from daemon.core import ledger_backup
from daemon.core import ledger_records as rows
from daemon.core.database import path_key, path_of
from daemon.core.ledger_records import Change, ChangeKind, ChangeState, FileStatus, Filing, Journey, KnownFile
from daemon.core.records import Decision, FileState

__all__ = ["Change", "ChangeKind", "ChangeState", "FileStatus", "Filing", "Journey", "KnownFile", "Ledger"]

Clock = Callable[[], datetime]


class Ledger:
    """The ledger in one file; safe to share between threads."""

    def __init__(self, path: Path, *, clock: Clock = lambda: datetime.now(UTC)) -> None:
        """Open the ledger at `path`, or make it where there never was one.

        Raises:
            LedgerError: it is corrupt, gone, not a ledger, or from a newer version; it is left as it is, and the text
                says what to do.
        """
        self._database = ledger_backup.open_ledger(path)
        self._clock = clock
        self.transaction = self._database.transaction

    def check(self) -> None:
        """Look through the whole file for damage, which opening it does not; raises LedgerDamaged where there is."""
        ledger_backup.check(self._database)

    def back_up(self, *, only_if_due: bool = True) -> Path | None:
        """Copy the ledger beside itself, at most once a day unless asked outright; the copy, if one was made.

        Raises:
            LedgerError: the ledger is damaged, or the copy cannot be written.
        """
        folder = ledger_backup.folder_of(self._database.path)
        make = ledger_backup.back_up_if_due if only_if_due else ledger_backup.back_up
        return make(self._database, folder, now=self._clock())

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _now(self) -> str:
        return self._clock().isoformat(timespec="milliseconds")

    # Files

    def known(self, path: Path) -> KnownFile | None:
        """What was last recorded of the file at `path`."""
        row = self._database.read_one("SELECT * FROM files WHERE path = ?", (path_key(path),))
        return rows.known_of(row) if row else None

    def known_by_sound(self, audio_id: str) -> list[KnownFile]:
        """Every file with this sound, the latest seen first."""
        found = self._database.read("SELECT * FROM files WHERE audio_id = ? ORDER BY seen_at DESC", (audio_id,))
        return [rows.known_of(row) for row in found]

    def states_under(self, root: Path) -> dict[Path, FileState]:
        """The recorded state of every file below `root`, for comparison with the disk."""
        prefix = str(root).rstrip("/") + "/"
        found = self._database.read("SELECT path, size, mtime_ns, inode, ctime_ns FROM files")
        states = {}
        for row in found:
            path = path_of(row["path"])
            if str(path).startswith(prefix):
                states[path] = rows.state_of(row)
        return states

    def last_seen_below(self, root: Path) -> str:
        """When a file below `root` was last recorded; empty where none is."""
        row = self._database.read_one(
            "SELECT MAX(seen_at) AS at FROM files WHERE path > ? AND path < ?", (f"{root}/", f"{root}0")
        )
        return (row["at"] if row else None) or ""

    def of_status(self, status: FileStatus) -> list[KnownFile]:
        """Every file of which this became, the latest seen first."""
        found = self._database.read("SELECT * FROM files WHERE status = ? ORDER BY seen_at DESC", (status.value,))
        return [rows.known_of(row) for row in found]

    def remember(self, file: KnownFile) -> None:
        """Record what was seen at a path, replacing what was recorded for it; the time of seeing is now."""
        state = file.state
        self._database.write(
            "INSERT OR REPLACE INTO files (path, audio_id, size, mtime_ns, inode, ctime_ns, genres, status, reason,"
            " suggestion, seen_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(path_key(file.path), file.audio_id, state.size, state.mtime_ns, state.inode, state.ctime_ns),
                *(rows.as_list(file.genres), file.status.value, rows.as_text(file.reason)),
                rows.as_list(file.suggestion),
                self._now(),
            ),
        )

    def forget(self, path: Path) -> None:
        """Drop what was seen at a path that no longer exists; the track's decisions and changes stay."""
        self._database.write("DELETE FROM files WHERE path = ?", (path_key(path),))

    # Decisions

    def record_decision(
        self, audio_id: str, path: Path, decision: Decision, embeddings: Mapping[str, NDArray[np.float32]]
    ) -> int:
        """Record what a bundle said of a track, with its evidence and the track's mean embedding per encoder."""
        now = self._now()
        with self._database.transaction():
            for encoder, vector in embeddings.items():
                self._database.write(
                    "INSERT OR REPLACE INTO embeddings (audio_id, encoder, segments, vector, at)"
                    " VALUES (?, ?, ?, ?, ?)",
                    (audio_id, encoder, len(decision.votes), _half(vector), now),
                )
            return self._database.write(
                "INSERT INTO decisions (audio_id, path, bundle, genre, confidence, threshold, abstention, candidates,"
                " votes, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(audio_id, path_key(path), decision.bundle, decision.genre, decision.confidence),
                    *(decision.threshold, decision.abstention),
                    *(rows.candidates_of(decision), rows.votes_of(decision), now),
                ),
            )

    def latest_decision(self, audio_id: str) -> tuple[str, Decision] | None:
        """The last decision on a track, with the time it was made."""
        sql = "SELECT * FROM decisions WHERE audio_id = ? ORDER BY id DESC LIMIT 1"
        row = self._database.read_one(sql, (audio_id,))
        return (row["at"], rows.decision_of(row)) if row else None

    def decisions(self, audio_id: str) -> list[tuple[str, Decision]]:
        """Every decision on a track with its time, the oldest first."""
        found = self._database.read("SELECT * FROM decisions WHERE audio_id = ? ORDER BY id", (audio_id,))
        return [(row["at"], rows.decision_of(row)) for row in found]

    def embedding(self, audio_id: str, encoder: str) -> NDArray[np.float32] | None:
        """The track's mean embedding (shape [dim]) under the encoder with this SHA-256."""
        row = self._database.read_one(
            "SELECT vector FROM embeddings WHERE audio_id = ? AND encoder = ?", (audio_id, encoder)
        )
        return np.frombuffer(row["vector"], "<f2").astype(np.float32) if row else None

    # Changes

    def intend(
        self,
        audio_id: str,
        path: Path,
        kind: ChangeKind,
        *,
        before: Sequence[str],
        after: Sequence[str],
        bundle: str | None = None,
        undoes: int | None = None,
        target: Path | None = None,
        act: int | None = None,
    ) -> int:
        """Record that a file is about to be changed; returns the change's number, which is its act unless told."""
        with self._database.transaction():
            number = self._database.write(
                "INSERT INTO changes (audio_id, path, kind, state, genres_before, genres_after, bundle, undoes, target,"
                " at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(audio_id, path_key(path), kind.value, ChangeState.INTENT.value),
                    *(rows.as_list(before), rows.as_list(after), bundle, undoes),
                    *(path_key(target) if target else None, self._now()),
                ),
            )
            self._database.write("UPDATE changes SET act = ? WHERE id = ?", (number if act is None else act, number))
        return number

    def staged(
        self,
        number: int,
        *,
        temporary: Path,
        sha256_before: str,
        sha256_after: str,
        mtime_ns_before: int,
        patch: bytes,
    ) -> None:
        """Record that the new content lies verified beside the file, and how to get the old one back."""
        self._database.write(
            "UPDATE changes SET state = ?, temporary = ?, sha256_before = ?, sha256_after = ?, mtime_ns_before = ?,"
            " patch = ? WHERE id = ?",
            (
                *(ChangeState.STAGED.value, path_key(temporary), sha256_before, sha256_after, mtime_ns_before),
                *(patch, number),
            ),
        )

    def staged_move(self, number: int, *, temporary: Path | None, sha256: str | None, journey: Journey) -> None:
        """Record how a move is about to be made: its copy on another device, what comes along, the folders made."""
        with self._database.transaction():
            self._database.write(
                "UPDATE changes SET state = ?, temporary = ?, sha256_before = ?, sha256_after = ? WHERE id = ?",
                (ChangeState.STAGED.value, path_key(temporary) if temporary else None, sha256, sha256, number),
            )
            for source, target in journey.companions:
                self._database.write(
                    "INSERT INTO companions (change, source, target) VALUES (?, ?, ?)",
                    (number, path_key(source), path_key(target)),
                )
            for folder in journey.made:
                self._database.write("INSERT INTO folders (change, path) VALUES (?, ?)", (number, path_key(folder)))

    def stayed_behind(self, number: int, source: Path) -> None:
        """Record that the companion at `source` did not come along after all."""
        self._database.write("DELETE FROM companions WHERE change = ? AND source = ?", (number, path_key(source)))

    def journey(self, number: int) -> Journey:
        """What moved with the file, in the order in which it did, and which folders were made for it."""
        moved = self._database.read("SELECT * FROM companions WHERE change = ? ORDER BY id", (number,))
        folders = self._database.read("SELECT * FROM folders WHERE change = ? ORDER BY id", (number,))
        return Journey(
            tuple((path_of(row["source"]), path_of(row["target"])) for row in moved),
            tuple(path_of(row["path"]) for row in folders),
        )

    def made_folder(self, path: Path) -> bool:
        """Whether a move made the folder at `path`."""
        return self._database.read_one("SELECT 1 FROM folders WHERE path = ? LIMIT 1", (path_key(path),)) is not None

    def close_change(self, number: int, state: ChangeState) -> None:
        """Record how a change ended; the undoing of a change closes that one too."""
        with self._database.transaction():
            self._database.write(
                "UPDATE changes SET state = ?, temporary = NULL, finished_at = ? WHERE id = ?",
                (state.value, self._now(), number),
            )
            undone = self.change(number)
            if state is ChangeState.DONE and undone is not None and undone.undoes is not None:
                self._database.write(
                    "UPDATE changes SET state = ? WHERE id = ?", (ChangeState.UNDONE.value, undone.undoes)
                )

    def change(self, number: int) -> Change | None:
        """The change with this number."""
        row = self._database.read_one("SELECT * FROM changes WHERE id = ?", (number,))
        return rows.change_of(row) if row else None

    def changes_of_act(self, act: int) -> list[Change]:
        """The changes that belong together, the oldest first."""
        found = self._database.read("SELECT * FROM changes WHERE act = ? ORDER BY id", (act,))
        return [rows.change_of(row) for row in found]

    def changes_by(self, bundle: str) -> list[Change]:
        """What is in place of the changes that `bundle` decided, with what followed them, the latest first."""
        found = self._database.read(
            "SELECT * FROM changes WHERE state = ? AND act IN (SELECT act FROM changes WHERE bundle = ?)"
            " ORDER BY id DESC",
            (ChangeState.DONE.value, bundle),
        )
        return [rows.change_of(row) for row in found]

    def changes_of(self, audio_id: str) -> list[Change]:
        """Every change to a track, the oldest first."""
        found = self._database.read("SELECT * FROM changes WHERE audio_id = ? ORDER BY id", (audio_id,))
        return [rows.change_of(row) for row in found]

    def changes_since(self, at: datetime) -> list[Change]:
        """The changes to undo, in this order, so that every file is as it was at `at`: the latest first.

        A change and its undoing, both made since then, come to nothing; with the undoing undone the change counts.
        """
        since = at.astimezone(UTC).isoformat(timespec="milliseconds")
        found = self._database.read("SELECT * FROM changes WHERE at >= ? ORDER BY id DESC", (since,))
        changes = {row["id"]: rows.change_of(row) for row in found}

        def counts(change: Change) -> bool:
            undone = changes.get(change.undoes or 0)
            return undone is None or not counts(undone)

        return [change for change in changes.values() if change.state is ChangeState.DONE and counts(change)]

    def open_changes(self) -> list[Change]:
        """Changes that a crash left open."""
        found = self._database.read(
            "SELECT * FROM changes WHERE state IN (?, ?) ORDER BY id",
            (ChangeState.INTENT.value, ChangeState.STAGED.value),
        )
        return [rows.change_of(row) for row in found]

    # Filing

    def ask_filing(self, filing: Filing) -> None:
        """Have a file moved when its time comes; asked anew for the same path, the newer wish counts."""
        self._database.write(
            "INSERT OR REPLACE INTO filings (path, audio_id, genre, act, asked_at, due_at, attempts)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                *(path_key(filing.path), filing.audio_id, filing.genre, filing.act),
                *(filing.asked_at, filing.due_at, filing.attempts),
            ),
        )

    def next_filing(self, now: float) -> Filing | None:
        """The filing that is due the longest; one asked for in the future is due: the clock was set back."""
        first = self.first_filing()
        return first if first is not None and (first.due_at <= now or first.asked_at > now + 60.0) else None

    def first_filing(self) -> Filing | None:
        """The filing that is or will be due before all others."""
        row = self._database.read_one("SELECT * FROM filings ORDER BY due_at, path LIMIT 1")
        return rows.filing_of(row) if row else None

    def filings(self) -> list[Filing]:
        """Every file that waits to be moved, the next one first."""
        return [rows.filing_of(row) for row in self._database.read("SELECT * FROM filings ORDER BY due_at, path")]

    def filing(self, path: Path) -> Filing | None:
        """What was asked for the file at `path`."""
        row = self._database.read_one("SELECT * FROM filings WHERE path = ?", (path_key(path),))
        return rows.filing_of(row) if row else None

    def renew_filing(self, filing: Filing) -> bool:
        """Put other times and attempts on record for a filing, unless it is gone or another one by now."""
        with self._database.transaction():
            held = self.filing(filing.path)
            if held is None or (held.audio_id, held.act) != (filing.audio_id, filing.act):
                return False
            self.ask_filing(filing)
        return True

    def drop_filing(self, path: Path, act: int | None = None) -> None:
        """The file at `path` is no longer to be moved; given an act, only if it was asked for by that."""
        if act is None:
            self._database.write("DELETE FROM filings WHERE path = ?", (path_key(path),))
        else:
            self._database.write("DELETE FROM filings WHERE path = ? AND act = ?", (path_key(path), act))

    # Corrections

    def record_correction(self, audio_id: str, path: Path, genres: Sequence[str], genre: str | None, how: str) -> int:
        """Record that the owner gave the track `genres`; `genre` is the taxonomy's name, None if it has none."""
        return self._database.write(
            "INSERT INTO corrections (audio_id, path, genres, genre, how, at) VALUES (?, ?, ?, ?, ?, ?)",
            (audio_id, path_key(path), rows.as_list(genres), genre, how, self._now()),
        )

    def corrections(self, audio_id: str) -> list[rows.Correction]:
        """Every correction of a track, the oldest first."""
        found = self._database.read("SELECT * FROM corrections WHERE audio_id = ? ORDER BY id", (audio_id,))
        return [rows.correction_of(row) for row in found]

    # Facts

    def fact(self, name: str) -> str | None:
        """What was last stated under `name`."""
        row = self._database.read_one("SELECT value FROM facts WHERE name = ?", (name,))
        return str(row["value"]) if row else None

    def state_fact(self, name: str, value: str) -> None:
        """State a fact about the ledger itself."""
        self._database.write("INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)", (name, value))

    # Bundles and totals

    def record_serving(self, bundle: str, path: Path, taxonomy_hash: str) -> None:
        """Record that a bundle began to serve."""
        self._database.write(
            "INSERT INTO models (bundle, path, taxonomy_hash, at) VALUES (?, ?, ?, ?)",
            (bundle, path_key(path), taxonomy_hash, self._now()),
        )

    def totals(self) -> dict[str, int]:
        """Counts for `status`: files by status, decisions, changes made, corrections and pending moves."""
        found = self._database.read("SELECT status, COUNT(*) AS n FROM files GROUP BY status")
        totals = {status.value: 0 for status in FileStatus} | {row["status"]: row["n"] for row in found}
        where = {"changes": f"state IN ('{ChangeState.DONE.value}', '{ChangeState.UNDONE.value}')"}
        for table in ("decisions", "changes", "corrections", "filings"):
            condition = where.get(table, "TRUE")
            row = self._database.read_one(f"SELECT COUNT(*) AS n FROM {table} WHERE {condition}")  # noqa: S608 - our own
            totals[table] = row["n"] if row else 0
        return totals


def _half(vector: NDArray[np.float32]) -> bytes:
    """The vector as float16; what is beyond its range takes its largest number rather than infinity."""
    largest = float(np.finfo(np.float16).max)
    return np.clip(vector, -largest, largest).astype("<f2").tobytes()
