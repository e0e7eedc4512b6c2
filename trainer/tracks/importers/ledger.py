"""Genres from the daemon's ledger: what the owner said of a track, never what a model thought of it. Writes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator

from daemon.core.ledger_view import LedgerView, Unconfirmed
from trainer.tracks.importers.claim import Claim, Source


def claims(view: LedgerView) -> Iterator[Claim]:
    """The owner's last word on every track that they corrected or whose suggestion they accepted.

    The genre is the one that the daemon understood; where it understood none, the first that the taxonomy knows by
    now. The path is the latest at which the sound was seen and still is.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    for word in view.confirmed():
        path = next((place for place in word.places if os.path.isfile(place)), word.places[0])
        names = dict.fromkeys((word.genre or "", *word.genres))
        yield Claim(path, tuple(name for name in names if name), Source.LEDGER, audio_id=word.audio_id)


def models_words(view: LedgerView) -> dict[str, Unconfirmed]:
    """By audio_id, what models wrote and where they filed it: their own output, which must not teach them.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    return {word.audio_id: word for word in view.unconfirmed()}
