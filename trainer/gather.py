"""The `dataset` verb: claims from every source that was named, one data set, its summary. Owns no rule of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from daemon.core.errors import ConfigError
from daemon.core.ledger_view import LedgerView, Unconfirmed
from trainer.place import Place
from trainer.tracks.dataset import Settings, build
from trainer.tracks.importers import folders, ledger, table, tags
from trainer.tracks.importers.claim import Claim
from trainer.tracks.summary import show


def gather(
    place: Place,
    *,
    folders: Sequence[Path],
    tags: Sequence[Path],
    table: Sequence[Path],
    ledger: bool,
    out: Path,
    names: bool,
    holdout: float | None,
    valid: float,
    folds: int,
    shortest: float,
    least: int,
    renew_holdout: bool,
    workers: int,
    seed: int,
) -> None:
    """Build the data set in `out` from the sources named, and print what is in it.

    Raises:
        ConfigError: no source was named, one cannot be read, or too little is left.
        LedgerError: the ledger cannot be read.
        BadFile, TryLater: `out` cannot be written.
    """
    if not (folders or tags or table or ledger):
        raise ConfigError("dataset", ["name a source: --folders, --tags, --table or --ledger"])
    view = LedgerView(place.state / "ledger.db") if ledger else None
    try:
        words = _unconfirmed(place, view)
        taxonomy = None if names else place.taxonomy
        claims = [*_confirmed(view), *_claimed(place, folders, tags, table, names)]
    finally:
        if view is not None:
            view.close()
    if holdout is None and not table:
        holdout = place.config.training.holdout
    settings = Settings(
        least_s=shortest,
        least=least,
        valid=valid,
        holdout=holdout,
        folds=folds,
        seed=seed,
        renew_holdout=renew_holdout,
        workers=workers,
    )
    data = build(claims, taxonomy, out, settings, place.telling().advance("files looked at"), models_words=words)
    show(data, Console(file=sys.stdout))


def _claimed(
    place: Place, by_folder: Sequence[Path], by_tag: Sequence[Path], tables: Sequence[Path], names: bool
) -> Iterator[Claim]:
    for path in tables:
        yield from table.claims(path)
    for path in by_folder:
        yield from folders.claims(path, None if names else place.taxonomy)
    for path in by_tag:
        yield from tags.claims(path)


def _confirmed(view: LedgerView | None) -> Iterator[Claim]:
    if view is not None:
        yield from ledger.claims(view)


def _unconfirmed(place: Place, view: LedgerView | None) -> dict[str, Unconfirmed]:
    """What models wrote: a genre that the daemon put into a tag is no word of the owner's, also where only the tags are
    asked."""
    if view is not None:
        return ledger.models_words(view)
    known = place.state / "ledger.db"
    if not known.exists():
        return {}
    other = LedgerView(known)
    try:
        return ledger.models_words(other)
    finally:
        other.close()
