"""Which seconds are heard: spread over the middle, best first, without silence."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core import segments
from daemon.core.records import Waveform, Window

durations = st.floats(0.0, 36_000.0)
window_lengths = st.floats(0.25, 30.0)
counts = st.integers(1, 64)


def loud(window: Window) -> Waveform:
    return np.float32([0.5, -0.5] * 50)


def silent(window: Window) -> Waveform:
    return np.zeros(100, np.float32)


# Spreading


def test_a_long_track_is_heard_in_the_middle_first_and_then_outwards() -> None:
    windows = segments.spread(240.0, 10.0, 5)
    starts = [window.start_s for window in windows]
    assert starts[0] == pytest.approx(115.0)
    assert sorted(starts[1:3]) == pytest.approx([64.7, 165.3])
    assert sorted(starts[3:]) == pytest.approx([14.4, 215.6])


def test_intro_and_ending_are_left_out() -> None:
    windows = segments.spread(200.0, 10.0, 4)
    assert min(window.start_s for window in windows) == pytest.approx(12.0)
    assert max(window.start_s + window.length_s for window in windows) == pytest.approx(188.0)


def test_one_window_is_the_middle() -> None:
    assert segments.spread(100.0, 10.0, 1) == [Window(45.0, 10.0)]


@pytest.mark.parametrize("duration_s", [0.0, 0.5, 10.0, -3.0])
def test_a_track_no_longer_than_a_window_is_heard_from_its_start(duration_s: float) -> None:
    assert segments.spread(duration_s, 10.0, 5) == [Window(0.0, 10.0)]


def test_a_track_a_little_longer_than_a_window_is_heard_once() -> None:
    assert segments.spread(11.0, 10.0, 5) == [Window(0.5, 10.0)]


@given(duration_s=durations, window_s=window_lengths, count=counts)
def test_windows_lie_in_the_track_and_are_no_more_than_asked(duration_s: float, window_s: float, count: int) -> None:
    windows = segments.spread(duration_s, window_s, count)
    assert 1 <= len(windows) <= count
    for window in windows:
        assert window.length_s == window_s
        assert window.start_s >= 0.0
        assert window.start_s + window_s <= max(duration_s, window_s) + 1e-6


@given(duration_s=durations, window_s=window_lengths, count=counts)
def test_no_two_windows_share_more_than_half(duration_s: float, window_s: float, count: int) -> None:
    starts = sorted(window.start_s for window in segments.spread(duration_s, window_s, count))
    assert all(later - earlier >= window_s / 2 - 1e-6 for earlier, later in itertools.pairwise(starts))


@given(duration_s=durations, window_s=window_lengths, count=counts)
def test_the_first_window_is_the_most_central(duration_s: float, window_s: float, count: int) -> None:
    windows = segments.spread(duration_s, window_s, count)
    middle = max(0.0, duration_s - window_s) / 2
    distances = [abs(window.start_s - middle) for window in windows]
    assert distances == sorted(distances)


# Silence


def test_audible_windows_are_taken_as_they_are() -> None:
    windows = segments.spread(100.0, 10.0, 3)
    heard = segments.audible(windows, 100.0, loud)
    assert [window for window, _ in heard] == windows


def test_a_silent_track_is_not_heard_at_all() -> None:
    assert segments.audible(segments.spread(100.0, 10.0, 3), 100.0, silent) == []


def test_a_silent_window_gives_way_to_its_neighbour() -> None:
    def quiet_before_60_s(window: Window) -> Waveform:
        return loud(window) if window.start_s >= 60.0 else silent(window)

    heard = segments.audible([Window(50.0, 10.0)], 100.0, quiet_before_60_s)
    assert [window for window, _ in heard] == [Window(65.0, 10.0)]


def test_the_neighbour_of_the_last_window_lies_before_it() -> None:
    def quiet_after_80_s(window: Window) -> Waveform:
        return loud(window) if window.start_s < 80.0 else silent(window)

    heard = segments.audible([Window(85.0, 10.0)], 100.0, quiet_after_80_s)
    assert [window for window, _ in heard] == [Window(70.0, 10.0)]


def test_a_window_and_its_neighbour_both_silent_are_passed_over() -> None:
    windows = [Window(20.0, 10.0), Window(60.0, 10.0)]

    def only_from_60_s(window: Window) -> Waveform:
        return loud(window) if window.start_s >= 60.0 else silent(window)

    assert [window for window, _ in segments.audible(windows, 100.0, only_from_60_s)] == [Window(60.0, 10.0)]


def test_a_window_past_the_end_of_the_sound_is_silent() -> None:
    """The container may promise more than the file holds."""
    nothing = np.zeros(0, np.float32)
    assert segments.audible([Window(50.0, 10.0)], 100.0, lambda window: nothing) == []


@given(duration_s=durations, window_s=window_lengths, count=counts)
def test_whatever_is_heard_lies_in_the_track(duration_s: float, window_s: float, count: int) -> None:
    asked: list[Window] = []

    def read(window: Window) -> Waveform:
        asked.append(window)
        return silent(window)

    segments.audible(segments.spread(duration_s, window_s, count), duration_s, read)
    assert all(0.0 <= window.start_s <= max(0.0, duration_s - window_s) + 1e-6 for window in asked)


# Length and level


def test_a_short_stretch_is_repeated_to_the_window() -> None:
    assert segments.tiled(np.float32([1, 2, 3]), 7).tolist() == [1, 2, 3, 1, 2, 3, 1]


def test_a_long_stretch_is_cut_to_the_window() -> None:
    assert segments.tiled(np.float32([1, 2, 3]), 2).tolist() == [1, 2]


def test_levels_are_in_decibels_of_full_scale() -> None:
    square = np.float32([1, -1] * 5)
    assert segments.level_dbfs(square) == pytest.approx(0.0)
    assert segments.level_dbfs(square * np.float32(0.1)) == pytest.approx(-20.0, abs=1e-5)
    assert segments.level_dbfs(np.zeros(10, np.float32)) == float("-inf")
    assert segments.level_dbfs(np.zeros(0, np.float32)) == float("-inf")


def test_a_constant_offset_is_no_sound() -> None:
    assert segments.level_dbfs(np.full(10, 0.5, np.float32)) < segments.SILENCE_DBFS
