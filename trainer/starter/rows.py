"""Turns recordings into what the student learns from: log-mel images and, from a teacher, targets for them.

Each row is 30 s of sound: a recording as it is, played faster or slower, or mixed with another one **of its own fold**
(a mix across folds would carry a validation track into training). The teacher hears the very same sound, so its
outputs are exact targets for every row. Rows are computed once and kept as memory-mapped arrays in a cache folder,
which may be deleted at any time. Must never write elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchaudio.functional import resample

from daemon.core import segments
from daemon.core.audio import Sound
from daemon.core.errors import BadFile
from trainer.backbones.mobilenet import MobileNet
from trainer.frontends import COMPACT_MEL, LogMel
from trainer.tracks.manifest import Track

ROW_S = 30
TEACHER_HZ = 32000
TEACHER_WINDOW_S = 10
# Speed (and with it pitch) as ratios of small numbers, for which resampling is cheap; up to two semitones.
SPEEDS = ((8, 9), (9, 10), (15, 16), (16, 15), (10, 9), (9, 8))

Advance = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one row is made: `second` mixed `quieter_db` below `first`, each at its speed; -1 for no second."""

    first: int
    second: int
    quieter_db: float
    speed: tuple[int, int]
    second_speed: tuple[int, int]

    @property
    def share(self) -> float:
        """How much of the row's label is the first track's: its share of the amplitude."""
        return 1.0 if self.second < 0 else float(1.0 / (1.0 + 10.0 ** (-self.quieter_db / 20.0)))


@dataclass(frozen=True, slots=True)
class Clips:
    """The rows: `log_mel` float16 [rows, frames, bands]; `steps` float16 [rows, time, dim], the teacher's embedding
    before pooling in time (dim 0 without a teacher); `recipes`, one per row, the clean rows of all tracks first."""

    log_mel: NDArray[np.float16]
    steps: NDArray[np.float16]
    recipes: tuple[Recipe, ...]


def write_recipes(folds: Sequence[int], speeds: int, mixes: int, seed: int) -> tuple[Recipe, ...]:
    """One clean row per track, then `speeds` at another speed and `mixes` mixed within the fold, for every track."""
    chance = np.random.default_rng(seed)
    fold = np.asarray(folds)
    rows = [Recipe(track, -1, 0.0, (1, 1), (1, 1)) for track in range(len(fold))]
    any_speed = (*SPEEDS, (1, 1))
    for turn in range(speeds + mixes):
        for track in range(len(fold)):
            own, other = (any_speed[chance.integers(len(any_speed))] for _ in range(2))
            partner = int(chance.choice(np.flatnonzero(fold == fold[track])))
            quieter_db = float(chance.uniform(0.0, 12.0))
            if turn < speeds:
                rows.append(Recipe(track, -1, 0.0, SPEEDS[chance.integers(len(SPEEDS))], (1, 1)))
            else:
                rows.append(Recipe(track, partner, quieter_db, own, other))
    return tuple(rows)


def serve(path: Path, window_s: float, count: int) -> NDArray[np.float32]:
    """The log-mel of the windows that the daemon will hear in `path`, float32 [windows, bands, frames].

    Same choice of seconds, same decoding and same tiling as the daemon's, so that what is measured is what is served.

    Raises:
        BadFile: not audio, or silent.
        TryLater: the disk failed.
    """
    rate = COMPACT_MEL.sample_rate_hz
    with Sound(path) as sound:
        duration_s = sound.info.duration_s
        windows = segments.spread(duration_s, window_s, count)
        heard = segments.audible(windows, duration_s, lambda window: sound.read(window.start_s, window.length_s, rate))
    if not heard:
        raise BadFile(path, "is silent")
    waveforms = np.stack([segments.tiled(samples, round(window_s * rate)) for _, samples in heard])
    with torch.inference_mode():
        log_mel: NDArray[np.float32] = LogMel(COMPACT_MEL)(torch.from_numpy(waveforms)).numpy()
    return log_mel


def read_sound(path: Path, sample_rate_hz: int) -> NDArray[np.float32]:
    """The first 30 s of `path`, mono float32 [30 * sample_rate_hz], tiled where the recording is shorter.

    Raises:
        BadFile: not audio, or without a single sample.
        TryLater: the disk failed.
    """
    with Sound(path) as sound:
        waveform = sound.read(0.0, ROW_S, sample_rate_hz)
    if not waveform.size:
        raise BadFile(path, "holds no sound")
    return segments.tiled(waveform, ROW_S * sample_rate_hz)


def prepare_clips(
    tracks: Sequence[Track], recipes: tuple[Recipe, ...], teacher: MobileNet | None, cache: Path, advance: Advance
) -> Path:
    """The folder in `cache` that holds the rows of `recipes`, computed now if need be; `advance(done, of)` is told.

    Raises:
        BadFile, TryLater: a recording cannot be read.
    """
    folder = cache / _key(tracks, recipes, teacher)
    done = folder / "done"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _compute(tracks, recipes, teacher, folder, advance)
        done.touch()
    return folder


def open_clips(folder: Path, recipes: tuple[Recipe, ...]) -> Clips:
    """The rows that `prepare_clips` left in `folder`, mapped into memory rather than read."""
    return Clips(np.load(folder / "log_mel.npy", mmap_mode="r"), np.load(folder / "steps.npy", mmap_mode="r"), recipes)


def _key(tracks: Sequence[Track], recipes: tuple[Recipe, ...], teacher: MobileNet | None) -> str:
    digest = hashlib.sha256(json.dumps(asdict(COMPACT_MEL)).encode())
    for track in tracks:
        state = track.path.stat()
        digest.update(f"{track.path.resolve()}|{state.st_size}|{state.st_mtime_ns}\n".encode())
    digest.update(repr(recipes).encode())
    if teacher is not None:
        digest.update(teacher.tag(torch.ones(1, teacher.pooled_dim)).detach().numpy().tobytes())
    return digest.hexdigest()[:16]


def _compute(
    tracks: Sequence[Track], recipes: tuple[Recipe, ...], teacher: MobileNet | None, folder: Path, advance: Advance
) -> None:
    front = LogMel(COMPACT_MEL)
    frames = front.frames(ROW_S * COMPACT_MEL.sample_rate_hz)
    log_mel = _array(folder / "log_mel.npy", (len(recipes), frames, COMPACT_MEL.bands))
    steps: NDArray[np.float16] | None = None
    originals = [(read_sound(track.path, TEACHER_HZ) * 32767).astype(np.int16) for track in tracks]
    with torch.inference_mode():
        for row, recipe in enumerate(recipes):
            sound = _cook(recipe, originals)
            log_mel[row] = front(_for_student(recipe, tracks, sound))[0].T.numpy()
            heard = _listen(teacher, sound)
            if steps is None:
                steps = _array(folder / "steps.npy", (len(recipes), *heard.shape))
            steps[row] = heard.numpy()
            advance(row + 1, len(recipes))
    for array in (log_mel, steps):
        if isinstance(array, np.memmap):
            array.flush()


def _array(path: Path, shape: tuple[int, ...]) -> NDArray[np.float16]:
    if os.path.exists(path):
        path.unlink()
    array: NDArray[np.float16] = np.lib.format.open_memmap(path, "w+", np.float16, shape)
    return array


def _cook(recipe: Recipe, originals: Sequence[NDArray[np.int16]]) -> Tensor:
    """The row's sound, float32 [1, samples] at the teacher's rate, as loud as its first track."""
    first = _at_speed(originals[recipe.first], recipe.speed)
    if recipe.second < 0:
        return first
    second = _at_speed(originals[recipe.second], recipe.second_speed)
    level = first.square().mean().sqrt()
    scale = level / second.square().mean().sqrt().clamp(min=1e-6) * 10.0 ** (-recipe.quieter_db / 20.0)
    mix = first + scale * second
    return torch.as_tensor(mix * (level / mix.square().mean().sqrt().clamp(min=1e-6)))


def _at_speed(original: NDArray[np.int16], speed: tuple[int, int]) -> Tensor:
    sound = torch.from_numpy(original.astype(np.float32) / 32767.0)
    if speed == (1, 1):
        return sound[None]
    played = resample(sound, speed[0], speed[1])
    return torch.from_numpy(segments.tiled(played.numpy(), original.size))[None]


def _for_student(recipe: Recipe, tracks: Sequence[Track], sound: Tensor) -> Tensor:
    """Clean rows are decoded at the student's own rate, exactly as the daemon will; the others are resampled."""
    rate = COMPACT_MEL.sample_rate_hz
    if recipe.second < 0 and recipe.speed == (1, 1):
        return torch.from_numpy(read_sound(tracks[recipe.first].path, rate))[None]
    return torch.as_tensor(resample(sound, TEACHER_HZ, rate))


def _listen(teacher: MobileNet | None, sound: Tensor) -> Tensor:
    """The teacher's steps [time, dim] over windows of the length it was trained on."""
    if teacher is None:
        return torch.zeros(ROW_S, 0)
    windows = sound.reshape(-1, TEACHER_WINDOW_S * TEACHER_HZ)
    return teacher.hear(windows).steps.flatten(0, 1)
