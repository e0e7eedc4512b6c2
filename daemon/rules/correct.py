"""Recognises the owner's corrections. Pure: it compares what a file carried with what it carries.

The daemon knows its own writes by content, not by time: the ledger holds the genres that each file was last seen
with, its own writes included, so whatever differs from them was done by somebody else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from daemon.core.taxonomy import Taxonomy


@dataclass(frozen=True, slots=True)
class Correction:
    """The owner gave a track these genres. `genre` is the taxonomy's name for the first that it knows, else None."""

    genres: tuple[str, ...]
    genre: str | None


def recognise(last_seen: Sequence[str], present: Sequence[str], taxonomy: Taxonomy) -> Correction | None:
    """The owner's correction in a file last seen with some genres and now carrying others; None if nothing changed.

    Order counts, since most players show only the first genre. An emptied genre is no label and no correction.
    """
    if tuple(last_seen) == tuple(present) or not any(genre.strip() for genre in present):
        return None
    known = (taxonomy.resolve(genre) for genre in present)
    return Correction(tuple(present), next((genre for genre in known if genre is not None), None))
