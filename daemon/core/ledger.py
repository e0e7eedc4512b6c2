"""The precious record: tracks, decisions, changes, corrections, embeddings, bundles. Never touches a music file.

A change is written as an intent before the file is touched and closed after, so that a start after a crash can tell
what happened. Nothing is deleted from it.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from daemon.core.database import Database, Row, path_key, path_of
from daemon.core.ledger_schema import MIGRATIONS
from daemon.core.records import Abstention, Candidate, Decision, FileState, SegmentVote

Clock = Callable[[], datetime]


class FileStatus(enum.StrEnum):
    """What became of a file when it was last looked at."""

    TAGGED = "tagged"
    UNCHANGED = "unchanged"
    ABSTAINED = "abstained"
    PARKED = "parked"


class ChangeKind(enum.StrEnum):
    """What a change did."""

    TAG = "tag"
    UNDO = "undo"


class ChangeState(enum.StrEnum):
    """How far a change came. INTENT and STAGED are open: a start after a crash settles them."""

    INTENT = "intent"
    STAGED = "staged"
    DONE = "done"
    ROLLED_BACK = "rolled_back"
    UNDONE = "undone"


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file as it was when last looked at; `audio_id` is None for one that could not be read."""

    path: Path
    audio_id: str | None
    state: FileState
    genres: tuple[str, ...]
    status: FileStatus
    reason: str


@dataclass(frozen=True, slots=True)
class Change:
    """One change to one file. `patch` turns the bytes after it into the bytes before it (None while an intent)."""

    number: int
    audio_id: str
    path: Path
    kind: ChangeKind
    state: ChangeState
    genres_before: tuple[str, ...]
    genres_after: tuple[str, ...]
    sha256_before: str | None
    sha256_after: str | None
    mtime_ns_before: int | None
    temporary: Path | None
    patch: bytes | None
    undoes: int | None
    bundle: str | None
    at: str

    @property
    def undoable(self) -> bool:
        """Whether it is in place, with the means to take it back."""
        return self.state is ChangeState.DONE and self.patch is not None


@dataclass(frozen=True, slots=True)
class Correction:
    """The owner gave a track `genres`; `genre` is the taxonomy's name, None if it has none; `how` it was learnt."""

    genres: tuple[str, ...]
    genre: str | None
    how: str
    at: str


class Ledger:
    """The ledger in one file; safe to share between threads."""

    def __init__(self, path: Path, *, clock: Clock = lambda: datetime.now(UTC)) -> None:
        """Open or make the ledger at `path`.

        Raises:
            LedgerError: it is corrupt, not a ledger, or from a newer version; it is left as it is.
        """
        self._database = Database(path, MIGRATIONS)
        self._clock = clock
        self.transaction = self._database.transaction

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _now(self) -> str:
        return self._clock().isoformat(timespec="milliseconds")

    # Files

    def known(self, path: Path) -> KnownFile | None:
        """What was last recorded of the file at `path`."""
        row = self._database.read_one("SELECT * FROM files WHERE path = ?", (path_key(path),))
        return _known(row) if row else None

    def known_by_sound(self, audio_id: str) -> list[KnownFile]:
        """Every file with this sound, the latest seen first."""
        rows = self._database.read("SELECT * FROM files WHERE audio_id = ? ORDER BY seen_at DESC", (audio_id,))
        return [_known(row) for row in rows]

    def states_under(self, root: Path) -> dict[Path, FileState]:
        """The recorded state of every file below `root`, for comparison with the disk."""
        prefix = str(root).rstrip("/") + "/"
        rows = self._database.read("SELECT path, size, mtime_ns, inode FROM files")
        states = {}
        for row in rows:
            path = path_of(row["path"])
            if str(path).startswith(prefix):
                states[path] = FileState(row["size"], row["mtime_ns"], row["inode"])
        return states

    def parked(self) -> list[KnownFile]:
        """Files that could not be used, with their reasons, the latest first."""
        rows = self._database.read(
            "SELECT * FROM files WHERE status = ? ORDER BY seen_at DESC", (FileStatus.PARKED.value,)
        )
        return [_known(row) for row in rows]

    def remember(self, file: KnownFile) -> None:
        """Record what was seen at a path, replacing what was recorded for it."""
        state = file.state
        self._database.write(
            "INSERT OR REPLACE INTO files (path, audio_id, size, mtime_ns, inode, genres, status, reason, seen_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(path_key(file.path), file.audio_id, state.size, state.mtime_ns, state.inode),
                *(_list(file.genres), file.status.value, file.reason, self._now()),
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
                    (audio_id, encoder, len(decision.votes), vector.astype("<f2").tobytes(), now),
                )
            return self._database.write(
                "INSERT INTO decisions (audio_id, path, bundle, genre, confidence, threshold, abstention, candidates,"
                " votes, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(audio_id, path_key(path), decision.bundle, decision.genre, decision.confidence),
                    *(decision.threshold, decision.abstention, _candidates(decision), _votes(decision), now),
                ),
            )

    def latest_decision(self, audio_id: str) -> tuple[str, Decision] | None:
        """The last decision on a track, with the time it was made."""
        row = self._database.read_one(
            "SELECT * FROM decisions WHERE audio_id = ? ORDER BY id DESC LIMIT 1", (audio_id,)
        )
        return (row["at"], _decision(row)) if row else None

    def decisions(self, audio_id: str) -> list[tuple[str, Decision]]:
        """Every decision on a track with its time, the oldest first."""
        rows = self._database.read("SELECT * FROM decisions WHERE audio_id = ? ORDER BY id", (audio_id,))
        return [(row["at"], _decision(row)) for row in rows]

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
    ) -> int:
        """Record that a file is about to be changed; returns the change's number."""
        return self._database.write(
            "INSERT INTO changes (audio_id, path, kind, state, genres_before, genres_after, bundle, undoes, at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(audio_id, path_key(path), kind.value, ChangeState.INTENT.value, _list(before), _list(after)),
                *(bundle, undoes, self._now()),
            ),
        )

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
        return _change(row) if row else None

    def changes_of(self, audio_id: str) -> list[Change]:
        """Every change to a track, the oldest first."""
        rows = self._database.read("SELECT * FROM changes WHERE audio_id = ? ORDER BY id", (audio_id,))
        return [_change(row) for row in rows]

    def changes_since(self, at: datetime) -> list[Change]:
        """The changes to undo, in this order, so that every file is as it was at `at`: the latest first.

        A change and its undoing, both made since then, come to nothing; with the undoing undone the change counts.
        """
        since = at.astimezone(UTC).isoformat(timespec="milliseconds")
        rows = self._database.read("SELECT * FROM changes WHERE at >= ? ORDER BY id DESC", (since,))
        changes = {row["id"]: _change(row) for row in rows}

        def counts(change: Change) -> bool:
            undone = changes.get(change.undoes or 0)
            return undone is None or not counts(undone)

        return [change for change in changes.values() if change.state is ChangeState.DONE and counts(change)]

    def open_changes(self) -> list[Change]:
        """Changes that a crash left open."""
        rows = self._database.read(
            "SELECT * FROM changes WHERE state IN (?, ?) ORDER BY id",
            (ChangeState.INTENT.value, ChangeState.STAGED.value),
        )
        return [_change(row) for row in rows]

    # Corrections

    def record_correction(self, audio_id: str, path: Path, genres: Sequence[str], genre: str | None, how: str) -> int:
        """Record that the owner gave the track `genres`; `genre` is the taxonomy's name, None if it has none."""
        return self._database.write(
            "INSERT INTO corrections (audio_id, path, genres, genre, how, at) VALUES (?, ?, ?, ?, ?, ?)",
            (audio_id, path_key(path), _list(genres), genre, how, self._now()),
        )

    def corrections(self, audio_id: str) -> list[Correction]:
        """Every correction of a track, the oldest first."""
        rows = self._database.read("SELECT * FROM corrections WHERE audio_id = ? ORDER BY id", (audio_id,))
        return [Correction(tuple(json.loads(r["genres"])), r["genre"], r["how"], r["at"]) for r in rows]

    # Bundles and totals

    def record_serving(self, bundle: str, path: Path, taxonomy_hash: str) -> None:
        """Record that a bundle began to serve."""
        self._database.write(
            "INSERT INTO models (bundle, path, taxonomy_hash, at) VALUES (?, ?, ?, ?)",
            (bundle, path_key(path), taxonomy_hash, self._now()),
        )

    def totals(self) -> dict[str, int]:
        """Counts for `status`: files by status, decisions, changes and corrections."""
        rows = self._database.read("SELECT status, COUNT(*) AS n FROM files GROUP BY status")
        totals = {status.value: 0 for status in FileStatus} | {row["status"]: row["n"] for row in rows}
        for table in ("decisions", "changes", "corrections"):
            row = self._database.read_one(f"SELECT COUNT(*) AS n FROM {table}")  # noqa: S608 - our own names
            totals[table] = row["n"] if row else 0
        return totals


def _known(row: Row) -> KnownFile:
    return KnownFile(
        path=path_of(row["path"]),
        audio_id=row["audio_id"],
        state=FileState(row["size"], row["mtime_ns"], row["inode"]),
        genres=tuple(json.loads(row["genres"])),
        status=FileStatus(row["status"]),
        reason=row["reason"],
    )


def _change(row: Row) -> Change:
    return Change(
        number=row["id"],
        audio_id=row["audio_id"],
        path=path_of(row["path"]),
        kind=ChangeKind(row["kind"]),
        state=ChangeState(row["state"]),
        genres_before=tuple(json.loads(row["genres_before"])),
        genres_after=tuple(json.loads(row["genres_after"])),
        sha256_before=row["sha256_before"],
        sha256_after=row["sha256_after"],
        mtime_ns_before=row["mtime_ns_before"],
        temporary=path_of(row["temporary"]) if row["temporary"] is not None else None,
        patch=row["patch"],
        undoes=row["undoes"],
        bundle=row["bundle"],
        at=row["at"],
    )


def _decision(row: Row) -> Decision:
    return Decision(
        genre=row["genre"],
        confidence=row["confidence"],
        threshold=row["threshold"],
        candidates=tuple(Candidate(genre, p) for genre, p in json.loads(row["candidates"])),
        votes=tuple(SegmentVote(start_s, genre, p) for start_s, genre, p in json.loads(row["votes"])),
        bundle=row["bundle"],
        abstention=Abstention(row["abstention"]) if row["abstention"] is not None else None,
    )


def _list(texts: Sequence[str]) -> str:
    return json.dumps(list(texts), ensure_ascii=False)


def _candidates(decision: Decision) -> str:
    return json.dumps([[c.genre, round(c.probability, 4)] for c in decision.candidates], ensure_ascii=False)


def _votes(decision: Decision) -> str:
    votes = [[round(v.start_s, 2), v.genre, round(v.probability, 4)] for v in decision.votes]
    return json.dumps(votes, ensure_ascii=False)
