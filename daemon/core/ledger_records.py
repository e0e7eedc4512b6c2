"""The values that the ledger gives and takes, and how they stand in its rows. Opens no database."""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from daemon.core.database import Row, path_of
from daemon.core.records import Abstention, Candidate, Decision, FileState, SegmentVote


class FileStatus(enum.StrEnum):
    """What became of a file when it was last looked at.

    PARKED is for a file that cannot be used as it is; WAITING for one that the moment kept from being used, too often
    to go on trying at once: a read-only mount, a full disk.
    """

    TAGGED = "tagged"
    UNCHANGED = "unchanged"
    SUGGESTED = "suggested"
    ABSTAINED = "abstained"
    PARKED = "parked"
    WAITING = "waiting"


class ChangeKind(enum.StrEnum):
    """What a change did to a file: its bytes (TAG, and UNDO of one) or its place (MOVE, and MOVE_BACK)."""

    TAG = "tag"
    UNDO = "undo"
    MOVE = "move"
    MOVE_BACK = "move_back"


class ChangeState(enum.StrEnum):
    """How far a change came. INTENT and STAGED are open: a start after a crash settles them."""

    INTENT = "intent"
    STAGED = "staged"
    DONE = "done"
    ROLLED_BACK = "rolled_back"
    UNDONE = "undone"


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file as it was when last looked at; `audio_id` is None for one that could not be read.

    `suggestion` holds the genres that wait for the owner's word.
    """

    path: Path
    audio_id: str | None
    state: FileState
    genres: tuple[str, ...]
    status: FileStatus
    reason: str
    suggestion: tuple[str, ...] = ()
    seen_at: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Change:
    """One change to one file. `patch` turns the bytes after it into the bytes before it (None while an intent).

    `target` is where a move puts the file, None for a change of its bytes. `act` is the number of the first of the
    changes that belong together.
    """

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
    target: Path | None
    act: int

    @property
    def moves(self) -> bool:
        """Whether it changes the file's place, not its bytes."""
        return self.kind in (ChangeKind.MOVE, ChangeKind.MOVE_BACK)

    @property
    def takes_back(self) -> bool:
        """Whether it is the undoing of another change."""
        return self.undoes is not None

    @property
    def undoable(self) -> bool:
        """Whether it is in place, with the means to take it back."""
        return self.state is ChangeState.DONE and (self.moves or self.patch is not None)

    @property
    def place_after(self) -> Path:
        """Where the file stood when the change was done."""
        return self.target or self.path


@dataclass(frozen=True, slots=True)
class Journey:
    """What a move brings along: the file's `companions` (from, to), and the folders that were made for it."""

    companions: tuple[tuple[Path, Path], ...] = ()
    made: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Filing:
    """A file that is to be moved to the place of `genre`, while it holds this sound. Times are Unix seconds."""

    path: Path
    audio_id: str
    genre: str
    act: int | None
    asked_at: float
    due_at: float
    attempts: int


@dataclass(frozen=True, slots=True)
class Correction:
    """The owner gave a track `genres`; `genre` is the taxonomy's name, None if it has none; `how` it was learnt."""

    genres: tuple[str, ...]
    genre: str | None
    how: str
    at: str


def known_of(row: Row) -> KnownFile:
    """The value of a row of `files`."""
    return KnownFile(
        path=path_of(row["path"]),
        audio_id=row["audio_id"],
        state=state_of(row),
        genres=tuple(json.loads(row["genres"])),
        status=FileStatus(row["status"]),
        reason=row["reason"],
        suggestion=tuple(json.loads(row["suggestion"])),
        seen_at=row["seen_at"],
    )


def state_of(row: Row) -> FileState:
    """The file state in a row that has one."""
    return FileState(row["size"], row["mtime_ns"], row["inode"], row["ctime_ns"])


def change_of(row: Row) -> Change:
    """The value of a row of `changes`."""
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
        target=path_of(row["target"]) if row["target"] is not None else None,
        act=row["act"],
    )


def filing_of(row: Row) -> Filing:
    """The value of a row of `filings`."""
    return Filing(
        path=path_of(row["path"]),
        audio_id=row["audio_id"],
        genre=row["genre"],
        act=row["act"],
        asked_at=row["asked_at"],
        due_at=row["due_at"],
        attempts=row["attempts"],
    )


def correction_of(row: Row) -> Correction:
    """The value of a row of `corrections`."""
    return Correction(tuple(json.loads(row["genres"])), row["genre"], row["how"], row["at"])


def decision_of(row: Row) -> Decision:
    """The value of a row of `decisions`."""
    return Decision(
        genre=row["genre"],
        confidence=row["confidence"],
        threshold=row["threshold"],
        candidates=tuple(Candidate(genre, p) for genre, p in json.loads(row["candidates"])),
        votes=tuple(SegmentVote(start_s, genre, p) for start_s, genre, p in json.loads(row["votes"])),
        bundle=row["bundle"],
        abstention=Abstention(row["abstention"]) if row["abstention"] is not None else None,
    )


def as_list(texts: Sequence[str]) -> str:
    """Texts as they stand in a column."""
    return as_text(json.dumps(list(texts), ensure_ascii=False))


def as_text(text: str) -> str:
    """A text as SQLite takes it: bytes of a file name that are not UTF-8, quoted in a reason, stand escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def candidates_of(decision: Decision) -> str:
    """A decision's candidates as they stand in a column."""
    return json.dumps([[c.genre, round(c.probability, 4)] for c in decision.candidates], ensure_ascii=False)


def votes_of(decision: Decision) -> str:
    """A decision's votes as they stand in a column."""
    votes = [[round(v.start_s, 2), v.genre, round(v.probability, 4)] for v in decision.votes]
    return json.dumps(votes, ensure_ascii=False)
