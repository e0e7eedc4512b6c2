"""What the trainer learns from a ledger that the daemon may be writing: the owner's words, and the models' deeds."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from daemon.core.ledger import ChangeKind, ChangeState, FileStatus, KnownFile, Ledger
from daemon.core.ledger_view import Confirmed, LedgerView, Unconfirmed
from daemon.core.records import FileState

SONG, COPY, FILED = Path("/music/song.flac"), Path("/music/copy/song.flac"), Path("/music/rock/song.flac")
SOUND, OTHER = "a1" * 32, "b2" * 32


class Clock:
    """A made clock that goes on by a second with every look at it."""

    def __init__(self) -> None:
        self._now = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        self._now += timedelta(seconds=1)
        return self._now


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger.db", clock=Clock())
    yield ledger
    ledger.close()


@pytest.fixture
def view(ledger: Ledger, tmp_path: Path) -> Iterator[LedgerView]:
    """A look at the ledger while it is open for writing."""
    view = LedgerView(tmp_path / "ledger.db")
    yield view
    view.close()


def remember(ledger: Ledger, path: Path, audio_id: str = SOUND) -> None:
    ledger.remember(KnownFile(path, audio_id, FileState(5, 1, 2), ("Rock",), FileStatus.TAGGED, ""))


def change(
    ledger: Ledger,
    kind: ChangeKind = ChangeKind.TAG,
    *,
    before: tuple[str, ...] = (),
    after: tuple[str, ...] = ("rock",),
    bundle: str | None = None,
    audio_id: str = SOUND,
    target: Path | None = None,
    act: int | None = None,
    undoes: int | None = None,
) -> int:
    number = ledger.intend(
        *(audio_id, SONG, kind), before=before, after=after, bundle=bundle, target=target, act=act, undoes=undoes
    )
    ledger.close_change(number, ChangeState.DONE)
    return number


def test_the_owners_last_word_counts_with_the_places_where_the_sound_was_seen(ledger: Ledger, view: LedgerView) -> None:
    ledger.record_correction(SOUND, SONG, ["Rock"], "rock", "retagged")
    ledger.record_correction(SOUND, SONG, ["ジャズ", "Live"], "jazz", "accepted")
    remember(ledger, FILED)
    remember(ledger, COPY)
    (found,) = view.confirmed()
    assert found == Confirmed(SOUND, (COPY, FILED, SONG), ("ジャズ", "Live"), "jazz", "accepted", found.at)


def test_a_word_outside_the_taxonomy_takes_back_the_one_before(ledger: Ledger, view: LedgerView) -> None:
    ledger.record_correction(SOUND, SONG, ["Rock"], "rock", "retagged")
    ledger.record_correction(SOUND, SONG, ["Polka"], None, "retagged")
    assert [(found.genres, found.genre) for found in view.confirmed()] == [(("Polka",), None)]


def test_every_word_is_found_however_many_there_are(ledger: Ledger, view: LedgerView) -> None:
    with ledger.transaction():
        for number in range(1203):
            ledger.record_correction(f"{number:064x}", SONG, ["Rock"], "rock", "retagged")
    assert [found.audio_id for found in view.confirmed()] == [f"{number:064x}" for number in range(1203)]


def test_what_a_model_wrote_is_not_confirmed(ledger: Ledger, view: LedgerView) -> None:
    tagged = change(ledger, before=("Live",), after=("rock", "Live"), bundle="night-1")
    change(ledger, ChangeKind.MOVE, before=("rock", "Live"), after=("rock", "Live"), target=FILED, act=tagged)
    assert list(view.confirmed()) == []
    assert list(view.unconfirmed()) == [Unconfirmed(SOUND, frozenset({"rock"}), frozenset({FILED}))]


def test_the_owners_word_confirms_what_a_model_wrote(ledger: Ledger, view: LedgerView) -> None:
    change(ledger, bundle="night-1")
    ledger.record_correction(SOUND, SONG, ["rock"], "rock", "retagged")
    assert list(view.unconfirmed()) == []


def test_what_was_undone_or_accepted_is_no_models_word(ledger: Ledger, view: LedgerView) -> None:
    change(ledger, after=("rock",))  # accepted: it names no bundle
    written = change(ledger, bundle="night-1", audio_id=OTHER)
    change(ledger, ChangeKind.UNDO, before=("rock",), after=(), audio_id=OTHER, undoes=written)
    assert list(view.unconfirmed()) == []


def test_a_move_that_followed_the_owners_genre_is_the_owners(ledger: Ledger, view: LedgerView) -> None:
    change(ledger, ChangeKind.MOVE, before=("Rock",), after=("Rock",), target=FILED)
    assert list(view.unconfirmed()) == []


def test_a_move_of_a_file_without_genre_followed_a_model(ledger: Ledger, view: LedgerView) -> None:
    change(ledger, ChangeKind.MOVE, before=(), after=(), target=FILED)
    assert list(view.unconfirmed()) == [Unconfirmed(SOUND, frozenset(), frozenset({FILED}))]


def test_every_deed_is_found_however_many_there_are(ledger: Ledger, view: LedgerView) -> None:
    with ledger.transaction():
        for number in range(1203):
            change(ledger, bundle="night-1", audio_id=f"{number:064x}")
    assert [found.audio_id for found in view.unconfirmed()] == [f"{number:064x}" for number in range(1203)]
