"""Decides which genres a file shall carry. Pure: it reads no file and writes none.

An owner's own label outranks the model; genres outside the taxonomy are theirs too and are not thrown away unless
the policy says so; and where the model abstains, nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from daemon.core.config import Inside, Missing, Mode, Outside, Tagging
from daemon.core.ledger_records import FileStatus
from daemon.core.records import Decision
from daemon.core.taxonomy import Taxonomy


@dataclass(frozen=True, slots=True)
class Write:
    """The file shall carry exactly `genres`."""

    genres: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Leave:
    """The file stays as it is, for this reason."""

    reason: str


Plan = Write | Leave


def plan(
    present: Sequence[str], decision: Decision, owner: Sequence[str], tagging: Tagging, taxonomy: Taxonomy
) -> Plan:
    """What to do with a file that carries the genres `present`, given the decision on its sound.

    `owner` holds the genres that the owner once gave to the same sound (another copy of it), if any.
    """
    empty = not any(genre.strip() for genre in present)
    if empty and tagging.missing is Missing.LEAVE:
        return Leave("files without a genre are left so")
    if owner:
        return Write(tuple(owner)) if empty else Leave("the owner's label")
    if decision.genre is None:
        return Leave("abstained")
    if empty:
        return Write((decision.genre,))
    known = [taxonomy.resolve(genre) for genre in present]
    if decision.genre in known:
        return Leave("already right")
    if any(known):
        return _among(present, known, decision.genre) if tagging.inside is Inside.REPLACE else Leave("has a genre")
    match tagging.outside:
        case Outside.KEEP:
            return Leave("has a genre outside the taxonomy")
        case Outside.APPEND:
            return Write(tidy((*present, decision.genre)))
        case Outside.REPLACE:
            return Write((decision.genre,))


def _among(present: Sequence[str], known: Sequence[str | None], genre: str) -> Write:
    """`genre` in place of the taxonomy's genres in `present`; the ones outside it keep their places."""
    return Write(tidy([text if name is None else genre for text, name in zip(present, known, strict=True)]))


def tidy(genres: Sequence[str]) -> tuple[str, ...]:
    """`genres` as a tag can hold them: without blanks at the ends, empty ones and repetitions."""
    return tuple(dict.fromkeys(stripped for genre in genres if (stripped := genre.strip())))


def finished(status: FileStatus, mode: Mode) -> bool:
    """Whether a file of which this became needs no further look while it stays in the same state.

    A parked file that somebody touches is worth another try even so: what was wrong with it may have been another
    program that held it open, and that has closed it now. A suggestion waits for its root to be one that is written to.
    """
    if status is FileStatus.SUGGESTED:
        return mode is not Mode.APPLY
    return status not in (FileStatus.PARKED, FileStatus.WAITING)


def filed_genre(genres: Sequence[str], taxonomy: Taxonomy) -> str | None:
    """The genre in whose folder a file with these genres belongs: the first that the taxonomy knows."""
    return next((name for genre in genres if (name := taxonomy.resolve(genre)) is not None), None)
