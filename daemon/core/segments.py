"""Chooses which seconds of a track are heard. Pure: it neither decodes nor infers.

Intros and endings say little of a genre, so windows are spread over the middle of the track, and quiet ones are
passed over for a neighbour.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from daemon.core.records import Waveform, Window

# Below this a window is silence or a fade for the ear, and its spectrogram mostly noise of the codec.
SILENCE_DBFS = -55.0

# Share of the track left out at each end, where intros, fades and applause are.
_MARGIN = 0.06


def spread(duration_s: float, window_s: float, count: int) -> list[Window]:
    """`count` windows of `window_s` evenly over the track, best first; fewer where the track is shorter.

    Never more than fit without more than half overlapping, at least one. Sorted by information: the middle
    first, then outwards, so that whoever stops early has heard the most telling part.
    """
    room = duration_s - window_s
    if room <= 0:
        return [Window(0.0, window_s)]
    margin = min(_MARGIN * duration_s, room / 2)
    span = room - 2 * margin
    fitting = max(1, min(count, 1 + int(2 * span / window_s)))
    if fitting == 1:
        return [Window(room / 2, window_s)]
    step = span / (fitting - 1)
    windows = [Window(margin + step * i, window_s) for i in range(fitting)]
    return sorted(windows, key=lambda window: abs(window.start_s - room / 2))


def audible(
    windows: list[Window], duration_s: float, read: Callable[[Window], Waveform]
) -> list[tuple[Window, Waveform]]:
    """The windows with their sound, as `read` gives it; a silent one is tried once more half a step on.

    Returns:
        Pairs of window and waveform (shape [samples], as long as `read` gave), without silent ones: empty for a
        silent track.
    """
    heard = []
    for window in windows:
        for candidate in (window, _neighbour(window, duration_s)):
            samples = read(candidate)
            if level_dbfs(samples) > SILENCE_DBFS:
                heard.append((candidate, samples))
                break
    return heard


def _neighbour(window: Window, duration_s: float) -> Window:
    later = window.start_s + 1.5 * window.length_s
    if later + window.length_s <= duration_s:
        return Window(later, window.length_s)
    return Window(max(0.0, window.start_s - 1.5 * window.length_s), window.length_s)


def tiled(samples: Waveform, length: int) -> Waveform:
    """`samples` (shape [n], n > 0) cut or repeated to exactly `length`; training does the same with short clips."""
    if samples.size >= length:
        return samples[:length]
    return np.resize(samples, length)


def level_dbfs(samples: Waveform) -> float:
    """Root mean square level of `samples` (shape [n], full scale 1.0) in dBFS; -inf for silence or no samples.

    A constant offset is no sound and does not count.
    """
    if samples.size == 0:
        return float("-inf")
    power = float(np.var(samples, dtype=np.float64))
    return 10.0 * float(np.log10(power)) if power > 0 else float("-inf")
