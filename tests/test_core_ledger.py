"""The record: whatever goes in comes out, changes have a life, and a crash leaves a question that can be answered."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from daemon.core.errors import LedgerError
from daemon.core.ledger import ChangeKind, ChangeState, FileStatus, Filing, Journey, KnownFile, Ledger
from daemon.core.records import Abstention, Candidate, Decision, FileState, SegmentVote

SONG = Path("/music/song.flac")
NOT_UTF8 = Path(os.fsdecode(b"/music/caf\xe9.mp3"))
TEMPORARY = Path("/music/.song.x.reclass-tmp.flac")
UNICODE = Path("/music/Sigur Rós/日本語 👩‍🎤.ogg")
SOUND = "a1" * 32
NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)

DECISION = Decision(
    genre="ポップ",
    confidence=0.8125,
    threshold=0.7,
    candidates=(Candidate("ポップ", 0.8125), Candidate("R&B/Soul", 0.1)),
    votes=(SegmentVote(12.5, "ポップ", 0.9), SegmentVote(64.75, "R&B/Soul", 0.5)),
    bundle="starter-1",
)


class Clock:
    """A made clock."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now

    def later(self, **parts: float) -> None:
        self.now += timedelta(**parts)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.db"


@pytest.fixture
def ledger(path: Path, clock: Clock) -> Iterator[Ledger]:
    ledger = Ledger(path, clock=clock)
    yield ledger
    ledger.close()


def known(
    path: Path = SONG,
    audio_id: str | None = SOUND,
    status: FileStatus = FileStatus.TAGGED,
    genres: tuple[str, ...] = ("Rock",),
    reason: str = "",
    size: int = 5,
) -> KnownFile:
    return KnownFile(path, audio_id, FileState(size, 1_700_000_000_123_456_789, 2**63 - 1), genres, status, reason)


def intend(ledger: Ledger, path: Path = SONG, undoes: int | None = None) -> int:
    kind = ChangeKind.TAG if undoes is None else ChangeKind.UNDO
    return ledger.intend(SOUND, path, kind, before=[], after=["Rock"], bundle="b", undoes=undoes)


def stage(ledger: Ledger, number: int, temporary: Path = TEMPORARY) -> None:
    ledger.staged(
        number, temporary=temporary, sha256_before="0" * 64, sha256_after="1" * 64, mtime_ns_before=7, patch=b"\0\xff"
    )


# Files


@pytest.mark.parametrize("path_", [SONG, NOT_UTF8, UNICODE], ids=["plain", "not UTF-8", "unicode"])
@pytest.mark.parametrize("genres", [(), ("Rock",), ("日本語ポップ", "Folk, World, & Country", 'say "hi"', "")])
def test_a_file_is_known_as_it_was_remembered(ledger: Ledger, path_: Path, genres: tuple[str, ...]) -> None:
    file = known(path_, genres=genres, reason="grund: ü")
    ledger.remember(file)
    assert ledger.known(path_) == file


def test_a_file_never_seen_is_not_known(ledger: Ledger) -> None:
    assert ledger.known(SONG) is None


def test_remembering_again_replaces(ledger: Ledger) -> None:
    ledger.remember(known())
    newer = known(audio_id=None, status=FileStatus.PARKED, genres=(), reason="is empty", size=0)
    ledger.remember(newer)
    assert ledger.known(SONG) == newer
    assert ledger.totals()["tagged"] == 0


def test_a_forgotten_file_keeps_its_past(ledger: Ledger) -> None:
    ledger.remember(known())
    ledger.record_decision(SOUND, SONG, DECISION, {})
    number = intend(ledger)
    ledger.forget(SONG)
    assert ledger.known(SONG) is None
    assert ledger.latest_decision(SOUND) is not None
    assert ledger.change(number) is not None


def test_copies_of_one_sound_are_found_the_latest_first(ledger: Ledger, clock: Clock) -> None:
    for path in (SONG, NOT_UTF8, UNICODE):
        ledger.remember(known(path))
        clock.later(seconds=1)
    ledger.remember(known(Path("/music/other.flac"), audio_id="b2" * 32))
    assert [file.path for file in ledger.known_by_sound(SOUND)] == [UNICODE, NOT_UTF8, SONG]


def test_states_are_those_below_the_root(ledger: Ledger) -> None:
    inside = [SONG, NOT_UTF8, UNICODE]
    for path in [*inside, Path("/music2/song.flac"), Path("/music"), Path("/other/music/song.flac")]:
        ledger.remember(known(path))
    assert ledger.states_under(Path("/music")) == {path: known().state for path in inside}
    assert len(ledger.states_under(Path("/"))) == 6


def test_signs_of_sql_patterns_in_a_root_mean_themselves(ledger: Ledger) -> None:
    for path in ("/100%/a.mp3", "/1000/a.mp3", "/a_b/a.mp3", "/axb/a.mp3"):
        ledger.remember(known(Path(path)))
    assert list(ledger.states_under(Path("/100%"))) == [Path("/100%/a.mp3")]
    assert list(ledger.states_under(Path("/a_b"))) == [Path("/a_b/a.mp3")]


def test_parked_files_are_listed_with_their_reasons(ledger: Ledger, clock: Clock) -> None:
    ledger.remember(known(SONG))
    for path in (NOT_UTF8, UNICODE):
        clock.later(seconds=1)
        ledger.remember(known(path, audio_id=None, status=FileStatus.PARKED, reason="is empty"))
    found = ledger.of_status(FileStatus.PARKED)
    assert [(file.path, file.reason) for file in found] == [(UNICODE, "is empty"), (NOT_UTF8, "is empty")]


# Decisions


def test_a_decision_comes_back_with_its_evidence(ledger: Ledger) -> None:
    ledger.record_decision(SOUND, SONG, DECISION, {})
    assert ledger.latest_decision(SOUND) == ("2026-11-22T12:00:00.000+00:00", DECISION)


@pytest.mark.parametrize("abstention", list(Abstention))
def test_an_abstention_comes_back_with_its_reason(ledger: Ledger, abstention: Abstention) -> None:
    decision = Decision(None, 0.0, 1.0, (), (), "starter-1", abstention)
    ledger.record_decision(SOUND, SONG, decision, {})
    recorded = ledger.latest_decision(SOUND)
    assert recorded is not None
    assert recorded[1] == decision
    assert recorded[1].abstention is abstention


def test_every_decision_is_kept_in_order(ledger: Ledger, clock: Clock) -> None:
    ledger.record_decision(SOUND, SONG, DECISION, {})
    clock.later(days=1)
    newer = Decision(None, 0.2, 0.7, (Candidate("Rock", 0.2),), (), "mine-2", Abstention.UNSURE)
    ledger.record_decision(SOUND, SONG, newer, {})
    assert [decision for _, decision in ledger.decisions(SOUND)] == [DECISION, newer]
    assert ledger.latest_decision(SOUND) == ("2026-11-23T12:00:00.000+00:00", newer)
    assert ledger.decisions("never heard") == []


def test_embeddings_are_kept_per_encoder_at_half_precision(ledger: Ledger) -> None:
    vector = np.random.default_rng(0).normal(size=384).astype(np.float32)
    ledger.record_decision(SOUND, SONG, DECISION, {"e1": vector, "e2": -vector})
    stored = ledger.embedding(SOUND, "e1")
    assert stored is not None
    assert stored.dtype == np.float32
    np.testing.assert_allclose(stored, vector, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(ledger.embedding(SOUND, "e2"), -stored)
    assert ledger.embedding(SOUND, "e3") is None
    assert ledger.embedding("other", "e1") is None


def test_a_newer_embedding_replaces_the_older(ledger: Ledger) -> None:
    for value in (1.0, 2.0):
        ledger.record_decision(SOUND, SONG, DECISION, {"e1": np.full(3, value, np.float32)})
    np.testing.assert_array_equal(ledger.embedding(SOUND, "e1"), np.full(3, 2.0))


# Changes


def test_a_change_is_an_intent_then_staged_then_done(ledger: Ledger) -> None:
    number = intend(ledger, UNICODE)
    change = ledger.change(number)
    assert change is not None
    assert (change.state, change.path, change.genres_before, change.genres_after) == (
        *(ChangeState.INTENT, UNICODE),
        *((), ("Rock",)),
    )
    assert (change.patch, change.temporary, change.sha256_after) == (None, None, None)
    assert not change.undoable
    temporary = Path(os.fsdecode(b"/music/.caf\xe9.x.reclass-tmp.mp3"))
    stage(ledger, number, temporary)
    change = ledger.change(number)
    assert change is not None
    assert (change.state, change.temporary, change.patch) == (ChangeState.STAGED, temporary, b"\0\xff")
    assert (change.sha256_before, change.sha256_after, change.mtime_ns_before) == ("0" * 64, "1" * 64, 7)
    assert not change.undoable
    ledger.close_change(number, ChangeState.DONE)
    change = ledger.change(number)
    assert change is not None
    assert (change.state, change.temporary) == (ChangeState.DONE, None)
    assert change.undoable


def test_a_change_rolled_back_cannot_be_undone(ledger: Ledger) -> None:
    number = intend(ledger)
    stage(ledger, number)
    ledger.close_change(number, ChangeState.ROLLED_BACK)
    change = ledger.change(number)
    assert change is not None
    assert change.state is ChangeState.ROLLED_BACK
    assert not change.undoable


def test_an_undo_that_is_done_marks_what_it_undid(ledger: Ledger) -> None:
    first = intend(ledger)
    stage(ledger, first)
    ledger.close_change(first, ChangeState.DONE)
    undo = intend(ledger, undoes=first)
    stage(ledger, undo)
    assert states_of(ledger, first, undo) == [ChangeState.DONE, ChangeState.STAGED]
    ledger.close_change(undo, ChangeState.DONE)
    assert states_of(ledger, first, undo) == [ChangeState.UNDONE, ChangeState.DONE]


def test_an_undo_that_failed_marks_nothing(ledger: Ledger) -> None:
    first = intend(ledger)
    stage(ledger, first)
    ledger.close_change(first, ChangeState.DONE)
    undo = intend(ledger, undoes=first)
    ledger.close_change(undo, ChangeState.ROLLED_BACK)
    assert states_of(ledger, first, undo) == [ChangeState.DONE, ChangeState.ROLLED_BACK]


def states_of(ledger: Ledger, *numbers: int) -> list[ChangeState]:
    changes = [ledger.change(number) for number in numbers]
    return [change.state for change in changes if change is not None]


def test_what_a_crash_left_open_is_found_after_reopening(path: Path, clock: Clock) -> None:
    ledger = Ledger(path, clock=clock)
    done, intent, staged, back = (intend(ledger) for _ in range(4))
    stage(ledger, staged)
    ledger.close_change(done, ChangeState.DONE)
    ledger.close_change(back, ChangeState.ROLLED_BACK)
    ledger.close()
    ledger = Ledger(path, clock=clock)
    assert [change.number for change in ledger.open_changes()] == [intent, staged]
    ledger.close()


def test_changes_since_a_time_come_in_the_order_in_which_to_undo_them(ledger: Ledger, clock: Clock) -> None:
    numbers = []
    for _ in range(4):
        number = intend(ledger)
        stage(ledger, number)
        ledger.close_change(number, ChangeState.DONE)
        numbers.append(number)
        clock.later(hours=1)
    intend(ledger)
    assert [c.number for c in ledger.changes_since(NOON + timedelta(hours=1))] == [numbers[3], numbers[2], numbers[1]]
    assert ledger.changes_since(NOON + timedelta(hours=9)) == []


def test_times_of_another_zone_are_compared_rightly(ledger: Ledger) -> None:
    number = intend(ledger)
    ledger.close_change(number, ChangeState.DONE)
    tokyo = timezone(timedelta(hours=9))
    assert len(ledger.changes_since(datetime(2026, 11, 22, 20, 59, tzinfo=tokyo))) == 1
    assert len(ledger.changes_since(datetime(2026, 11, 22, 21, 1, tzinfo=tokyo))) == 0


def test_a_tracks_changes_follow_its_sound(ledger: Ledger) -> None:
    first, second = intend(ledger, SONG), intend(ledger, UNICODE)
    assert [(change.number, change.path) for change in ledger.changes_of(SOUND)] == [(first, SONG), (second, UNICODE)]


def test_an_undo_of_nothing_is_refused(ledger: Ledger) -> None:
    with pytest.raises(LedgerError):
        intend(ledger, undoes=12345)


# Corrections and totals


def test_corrections_are_kept_in_order(ledger: Ledger) -> None:
    ledger.record_correction(SOUND, SONG, ["Polka"], None, "retagged")
    ledger.record_correction(SOUND, SONG, ["ジャズ", "Jazz"], "jazz", "command")
    first, second = ledger.corrections(SOUND)
    assert (first.genres, first.genre, first.how) == (("Polka",), None, "retagged")
    assert (second.genres, second.genre, second.how) == (("ジャズ", "Jazz"), "jazz", "command")
    assert ledger.corrections("other") == []


def test_totals_count_everything(ledger: Ledger) -> None:
    names = (*FileStatus, "decisions", "changes", "corrections", "filings")
    empty = dict.fromkeys(map(str, names), 0)
    assert ledger.totals() == empty
    ledger.remember(known())
    ledger.remember(known(UNICODE, status=FileStatus.PARKED))
    ledger.record_decision(SOUND, SONG, DECISION, {})
    ledger.close_change(intend(ledger), ChangeState.ROLLED_BACK)
    ledger.close_change(intend(ledger), ChangeState.DONE)
    ledger.record_correction(SOUND, SONG, ["Polka"], None, "retagged")
    ledger.record_serving("starter-1", Path("/models/starter-1"), "0" * 64)
    assert ledger.totals() == empty | {"tagged": 1, "parked": 1, "decisions": 1, "changes": 1, "corrections": 1}


# As a whole


def test_a_transaction_over_several_records_is_one(ledger: Ledger) -> None:
    with pytest.raises(RuntimeError), ledger.transaction():
        ledger.remember(known())
        ledger.record_decision(SOUND, SONG, DECISION, {"e1": np.ones(3, np.float32)})
        ledger.close_change(intend(ledger), ChangeState.DONE)
        raise RuntimeError
    assert set(ledger.totals().values()) == {0}
    assert ledger.embedding(SOUND, "e1") is None


def test_threads_record_side_by_side(ledger: Ledger) -> None:
    def record(name: int) -> None:
        for number in range(10):
            path = Path(f"/music/{name}/{number}.mp3")
            with ledger.transaction():
                change = ledger.intend(SOUND, path, ChangeKind.TAG, before=[], after=["Rock"])
                ledger.remember(known(path))
                ledger.close_change(change, ChangeState.DONE)

    threads = [threading.Thread(target=record, args=(name,)) for name in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.totals()["tagged"] == ledger.totals()["changes"] == 50
    assert ledger.open_changes() == []


RECORDER = """
import os, signal, sys
from pathlib import Path
from daemon.core.ledger import ChangeKind, ChangeState, FileStatus, Filing, Journey, KnownFile, Ledger

ledger = Ledger(Path(sys.argv[1]))
ledger.intend("a1" * 32, Path("/music/song.flac"), ChangeKind.TAG, before=[], after=["Rock"])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_intent_outlives_the_death_of_its_process(path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", RECORDER, str(path)], cwd=Path(__file__).parents[1], check=False)
    assert killed.returncode == -9
    ledger = Ledger(path)
    (change,) = ledger.open_changes()
    assert (change.path, change.state) == (SONG, ChangeState.INTENT)
    ledger.close()


def test_a_newer_ledger_is_refused_and_left_as_it_is(path: Path) -> None:
    ledger = Ledger(path)
    ledger.remember(known())
    ledger.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="written by a newer version; nothing was changed"):
        Ledger(path)
    assert path.read_bytes() == before


# Moves, acts and filings


def test_a_move_is_recorded_with_what_it_brings_along(ledger: Ledger) -> None:
    target = Path("/music/rock/song.flac")
    number = ledger.intend(SOUND, SONG, ChangeKind.MOVE, before=["Rock"], after=["Rock"], target=target)
    words = (SONG.with_suffix(".lrc"), target.with_suffix(".lrc"))
    cover = (NOT_UTF8, UNICODE)
    journey = Journey((words, cover), (target.parent,))
    ledger.staged_move(number, temporary=None, sha256=None, journey=journey)
    assert ledger.journey(number) == journey
    ledger.stayed_behind(number, NOT_UTF8)
    assert ledger.journey(number).companions == (words,)
    change = ledger.change(number)
    assert change is not None
    assert (change.moves, change.place_after, change.undoable) == (True, target, False)
    ledger.close_change(number, ChangeState.DONE)
    closed = ledger.change(number)
    assert closed is not None
    assert closed.undoable


def test_a_change_is_an_act_of_its_own_unless_it_follows_another(ledger: Ledger) -> None:
    tagged = intend(ledger)
    moved = ledger.intend(SOUND, SONG, ChangeKind.MOVE, before=[], after=[], target=UNICODE, act=tagged)
    intend(ledger)
    assert [change.number for change in ledger.changes_of_act(tagged)] == [tagged, moved]


def test_the_changes_of_a_bundle_are_those_in_place_with_what_followed(ledger: Ledger) -> None:
    first = ledger.intend(SOUND, SONG, ChangeKind.TAG, before=[], after=["Rock"], bundle="night-1")
    moved = ledger.intend(SOUND, SONG, ChangeKind.MOVE, before=[], after=[], target=UNICODE, act=first)
    other = ledger.intend(SOUND, SONG, ChangeKind.TAG, before=[], after=["Rock"], bundle="night-2")
    undone = ledger.intend(SOUND, SONG, ChangeKind.TAG, before=[], after=["Rock"], bundle="night-1")
    for number in (first, moved, other):
        ledger.close_change(number, ChangeState.DONE)
    ledger.close_change(undone, ChangeState.UNDONE)
    assert [change.number for change in ledger.changes_by("night-1")] == [moved, first]


def test_a_filing_waits_for_its_time(ledger: Ledger) -> None:
    ledger.ask_filing(Filing(SONG, SOUND, "rock", None, asked_at=1000.0, due_at=1900.0, attempts=0))
    ledger.ask_filing(Filing(UNICODE, SOUND, "jazz", 7, asked_at=1000.0, due_at=1500.0, attempts=2))
    assert ledger.next_filing(1499.0) is None
    assert ledger.next_filing(1500.0) == Filing(UNICODE, SOUND, "jazz", 7, 1000.0, 1500.0, 2)
    ledger.drop_filing(UNICODE)
    assert [filing.path for filing in ledger.filings()] == [SONG]


def test_a_filing_asked_for_by_a_clock_that_was_ahead_is_due(ledger: Ledger) -> None:
    ledger.ask_filing(Filing(SONG, SOUND, "rock", None, asked_at=1e9, due_at=1e9 + 900, attempts=0))
    assert ledger.next_filing(5e8) is not None


def test_a_file_asked_for_anew_is_filed_by_the_newer_wish(ledger: Ledger) -> None:
    ledger.ask_filing(Filing(SONG, SOUND, "rock", None, asked_at=1.0, due_at=5.0, attempts=0))
    ledger.ask_filing(Filing(SONG, SOUND, "jazz", None, asked_at=2.0, due_at=6.0, attempts=0))
    assert [filing.genre for filing in ledger.filings()] == ["jazz"]


def test_a_suggestion_comes_back(ledger: Ledger) -> None:
    ledger.remember(replace(known(), status=FileStatus.SUGGESTED, suggestion=("Rock", "日本語ポップ")))
    (found,) = ledger.of_status(FileStatus.SUGGESTED)
    assert found.suggestion == ("Rock", "日本語ポップ")


def test_a_fact_is_what_was_stated_last(ledger: Ledger) -> None:
    assert ledger.fact("restored_at") is None
    ledger.state_fact("restored_at", "one")
    ledger.state_fact("restored_at", "two")
    assert ledger.fact("restored_at") == "two"


def test_an_embedding_beyond_the_range_of_float16_stays_finite(ledger: Ledger) -> None:
    ledger.record_decision(SOUND, SONG, DECISION, {"e1": np.array([1e6, -1e6, 1.0], np.float32)})
    found = ledger.embedding(SOUND, "e1")
    assert found is not None
    assert np.isfinite(found).all()
    assert found[2] == 1.0
