"""When a file has arrived whole: quiet for a while and held by nobody, but never waited for for ever."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.records import FileState
from daemon.rules.settle import SettleTracker, Verdict

QUIET_S = 5.0
PATIENCE_S = 60.0
SONG = Path("/music/song.flac")


def state(size: int = 100, mtime_ns: int = 1, inode: int = 1) -> FileState:
    return FileState(size, mtime_ns, inode)


@pytest.fixture
def tracker() -> SettleTracker:
    return SettleTracker(QUIET_S, PATIENCE_S)


def test_a_quiet_file_settles(tracker: SettleTracker) -> None:
    tracker.touch(SONG, state(), 0.0)
    assert tracker.observe(SONG, state(), 4.9) is Verdict.WAIT
    assert tracker.observe(SONG, state(), 5.0) is Verdict.SETTLED
    assert len(tracker) == 0


@pytest.mark.parametrize("grown", [state(size=200), state(mtime_ns=2), state(inode=2)], ids=["size", "mtime", "inode"])
def test_half_copied_file_does_not_settle(tracker: SettleTracker, grown: FileState) -> None:
    """No event told of the change: the look itself sees it, and the quiet time starts anew."""
    tracker.touch(SONG, state(), 0.0)
    assert tracker.observe(SONG, grown, 5.0) is Verdict.WAIT
    assert tracker.observe(SONG, grown, 9.9) is Verdict.WAIT
    assert tracker.observe(SONG, grown, 10.0) is Verdict.SETTLED


def test_a_touch_starts_the_quiet_time_anew(tracker: SettleTracker) -> None:
    tracker.touch(SONG, state(), 0.0)
    tracker.touch(SONG, state(size=200), 3.0)
    assert tracker.due(5.0) == []
    assert tracker.observe(SONG, state(size=200), 7.9) is Verdict.WAIT
    assert tracker.observe(SONG, state(size=200), 8.0) is Verdict.SETTLED


def test_a_file_that_never_falls_quiet_is_taken_in_the_end(tracker: SettleTracker) -> None:
    for second in range(60):
        tracker.touch(SONG, state(size=second), float(second))
        assert tracker.observe(SONG, state(size=second), float(second)) is Verdict.WAIT
    assert tracker.due(60.0) == [SONG]
    assert tracker.observe(SONG, state(size=999), 60.0) is Verdict.SETTLED


def test_a_file_open_for_writing_waits(tracker: SettleTracker) -> None:
    tracker.touch(SONG, state(), 0.0)
    assert tracker.observe(SONG, state(), 5.0, writers=True) is Verdict.WAIT
    assert tracker.observe(SONG, state(), 9.0) is Verdict.WAIT
    assert tracker.observe(SONG, state(), 10.0) is Verdict.SETTLED


def test_a_program_that_never_closes_its_files_cannot_hide_them(tracker: SettleTracker) -> None:
    tracker.touch(SONG, state(), 0.0)
    for second in range(5, 60, 5):
        assert tracker.observe(SONG, state(), float(second), writers=True) is Verdict.WAIT
    assert tracker.observe(SONG, state(), 60.0, writers=True) is Verdict.SETTLED


def test_a_file_that_is_gone_is_no_longer_pending(tracker: SettleTracker) -> None:
    tracker.touch(SONG, state(), 0.0)
    assert tracker.observe(SONG, None, 1.0) is Verdict.GONE
    assert len(tracker) == 0
    assert tracker.next_due_s() is None


def test_a_file_never_touched_is_not_pending(tracker: SettleTracker) -> None:
    assert tracker.observe(SONG, state(), 1.0) is Verdict.GONE


def test_a_settled_file_touched_again_waits_again(tracker: SettleTracker) -> None:
    tracker.touch(SONG, state(), 0.0)
    tracker.observe(SONG, state(), 5.0)
    tracker.touch(SONG, state(size=200), 6.0)
    assert tracker.observe(SONG, state(size=200), 10.9) is Verdict.WAIT
    assert tracker.observe(SONG, state(size=200), 11.0) is Verdict.SETTLED


def test_due_files_come_in_the_order_of_their_first_touch(tracker: SettleTracker) -> None:
    first, second, third = (Path(f"/music/{name}.mp3") for name in "zay")
    tracker.touch(first, state(), 0.0)
    tracker.touch(second, state(), 1.0)
    tracker.touch(third, state(), 4.0)
    tracker.touch(first, state(), 2.0)
    assert tracker.due(6.5) == [second]
    assert tracker.due(7.0) == [first, second]
    assert tracker.due(100.0) == [first, second, third]


def test_of_many_due_files_some_can_be_asked_for_and_none_is_lost(tracker: SettleTracker) -> None:
    paths = [Path(f"/music/{number}.mp3") for number in range(10)]
    for number, path in enumerate(paths):
        tracker.touch(path, state(), float(number))
    assert tracker.due(100.0, 4) == paths[:4]
    assert tracker.due(100.0, 4) == paths[:4], "they stay pending until they were judged"
    for path in paths[:4]:
        assert tracker.observe(path, state(), 100.0) is Verdict.SETTLED
    assert tracker.due(100.0, 4) == paths[4:8]
    assert tracker.due(100.0) == paths[4:]


def test_a_file_that_settled_and_came_again_is_due_once(tracker: SettleTracker) -> None:
    tracker.touch(SONG, state(), 0.0)
    assert tracker.observe(SONG, state(), 5.0) is Verdict.SETTLED
    tracker.touch(SONG, state(), 6.0)
    assert tracker.next_due_s() == 11.0
    assert tracker.due(10.9) == []
    assert tracker.due(11.0) == [SONG]


def test_a_file_whose_writers_are_known_again_is_due_sooner(tracker: SettleTracker) -> None:
    tracker.touch(SONG, state(), 0.0)
    assert tracker.observe(SONG, state(), 5.0, writers=None) is Verdict.WAIT
    assert tracker.next_due_s() == 50.0
    assert tracker.observe(SONG, state(), 4.0) is Verdict.WAIT
    assert tracker.next_due_s() == 5.0


def test_asking_is_cheap_however_many_files_wait(tracker: SettleTracker) -> None:
    """Each of these looked through all 40,000, 35 ms of work, 50 times a second."""
    for number in range(40_000):
        tracker.touch(Path(f"/music/{number}.mp3"), state(), 0.0)
    started = time.process_time()
    for _ in range(1000):
        assert tracker.next_due_s() == QUIET_S
        assert tracker.due(1.0) == []
    assert time.process_time() - started < 2.0


def test_the_next_look_is_when_the_next_file_may_be_due(tracker: SettleTracker) -> None:
    assert tracker.next_due_s() is None
    tracker.touch(SONG, state(), 10.0)
    assert tracker.next_due_s() == 15.0
    tracker.touch(Path("/music/other.mp3"), state(), 8.0)
    assert tracker.next_due_s() == 13.0


def test_the_next_look_is_never_after_patience_has_run_out(tracker: SettleTracker) -> None:
    tracker.touch(SONG, state(), 0.0)
    tracker.touch(SONG, state(size=2), 58.0)
    assert tracker.next_due_s() == 60.0


def test_other_limits_hold_for_files_that_wait_already(tracker: SettleTracker) -> None:
    tracker.touch(SONG, state(), 0.0)
    tracker.set_limits(1.0, 60.0)
    assert tracker.observe(SONG, state(), 1.0) is Verdict.SETTLED


# A life of a file: after some seconds it is touched, grows silently, is held open, or is just looked at.
steps = st.lists(
    st.tuples(st.integers(1, 20), st.sampled_from(["touch", "grow", "held", "look"])), min_size=1, max_size=40
)


@given(life=steps)
def test_nothing_settles_early_and_nothing_waits_beyond_patience(life: list[tuple[int, str]]) -> None:
    tracker = SettleTracker(QUIET_S, PATIENCE_S)
    now_s = changed_s = 0.0
    size = 0
    tracker.touch(SONG, state(size), now_s)
    for wait_s, what in life:
        now_s += wait_s
        if what == "touch":
            size += 1
            changed_s = now_s
            tracker.touch(SONG, state(size), now_s)
        elif what == "grow":
            size += 1
            changed_s = now_s
        verdict = tracker.observe(SONG, state(size), now_s, writers=what == "held")
        if verdict is Verdict.SETTLED:
            assert now_s - changed_s >= QUIET_S or now_s >= PATIENCE_S
            assert what != "held" or now_s >= PATIENCE_S
            return
        assert now_s < PATIENCE_S, "it waited beyond patience"
        next_s = tracker.next_due_s()
        assert next_s is not None
        assert next_s <= PATIENCE_S
    now_s += QUIET_S
    assert tracker.due(now_s) == [SONG]
    assert tracker.observe(SONG, state(size), now_s) is Verdict.SETTLED


# Several files at once, each touched, held by somebody, looked at by somebody who cannot tell, or gone.
doings = st.lists(
    st.tuples(
        st.floats(0.0, 20.0, allow_nan=False),
        st.integers(0, 3),
        st.sampled_from(["touch", "held", "doubt", "free", "gone", "quick limits", "slow limits"]),
    ),
    max_size=60,
)


@given(doings=doings)
def test_nobody_is_forgotten_and_nobody_is_due_early(doings: list[tuple[float, int, str]]) -> None:
    """Against the plain definition: due after the quiet time since the last change, or when patience has run out."""
    tracker, now_s = SettleTracker(QUIET_S, PATIENCE_S), 0.0
    limits = (QUIET_S, PATIENCE_S)
    waiting: dict[Path, tuple[float, float, float]] = {}  # first, changed, how many quiet times

    def due_s(path: Path) -> float:
        first_s, changed_s, times = waiting[path]
        return min(changed_s + limits[0] * times, first_s + limits[1])

    for wait_s, number, what in doings:
        now_s += wait_s
        path = Path(f"/music/{number}.mp3")
        if what.endswith("limits"):
            limits = (1.0, 10.0) if what == "quick limits" else (QUIET_S, PATIENCE_S)
            tracker.set_limits(*limits)
        elif what == "touch":
            first_s, _, times = waiting.get(path, (now_s, now_s, 1.0))
            waiting[path] = (first_s, now_s, times)
            tracker.touch(path, state(), now_s)
        elif path in waiting:
            writers = {"held": True, "doubt": None}.get(what, False)
            verdict = tracker.observe(path, None if what == "gone" else state(), now_s, writers=writers)
            first_s, changed_s, times = waiting[path]
            if what == "held":
                waiting[path] = (first_s, now_s, times)
            else:
                waiting[path] = (first_s, changed_s, 10.0 if what == "doubt" else 1.0)
            if verdict is not Verdict.WAIT:
                del waiting[path]
        assert len(tracker) == len(waiting)
        assert set(tracker.due(now_s)) == {path for path in waiting if due_s(path) <= now_s}
        assert tracker.next_due_s() == (min(map(due_s, waiting)) if waiting else None)
