"""The sound of the training tracks, decoded once and kept on disk for as many epochs as follow.

Owns a cache folder that may be deleted at any time: one `.npy` per recording (by `audio_id`, so that retagging and
moving cost nothing), int16 mono at the backbone's rate. A track of up to `most * stretch_s` seconds is kept whole, of a
longer one `most` stretches from the seconds that the daemon would choose. A second of sound takes
`2 * sample_rate_hz` bytes: with the default of four stretches of 15 s at most 1.92 MB a track at 16 kHz and 3.84 MB at
32 kHz. Must never write elsewhere, and never augment.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import io
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from daemon.core import segments
from daemon.core.audio import Sound
from daemon.core.errors import BadFile, FileTrouble, TryLater, from_os_error
from daemon.core.records import Waveform, Window
from trainer.tracks.crew import in_processes
from trainer.tracks.manifest import LeftOut, Track

Pieces = NDArray[np.int16]
Advance = Callable[[int, int], None]

FULL_SCALE = 32767.0

# What `numpy.save` writes before an array of this kind. Matched whole rather than parsed: a damaged header can make
# numpy's parser raise nearly anything.
_HEADER_BYTES = 128
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00v\x00\{'descr': '<i2', 'fortran_order': False, 'shape': \((\d+), (\d+)\), \} *\n"
)
_AUDIO_ID = re.compile(r"[0-9a-f]{8,128}")
_PART = re.compile(r"\..+\.(\d+)\.part")
_DIED = "the process that decoded it died: it is damaged, or needs more memory than there is"


class _Kind(enum.Enum):
    STORED = enum.auto()
    REFUSED = enum.auto()
    FULL = enum.auto()
    UNWRITABLE = enum.auto()


@dataclass(frozen=True, slots=True)
class _Ending:
    """What became of one file. A value, since exceptions with fields do not survive the way between processes."""

    kind: _Kind
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Job:
    path: Path
    target: Path
    sample_rate_hz: int
    stretch_s: float
    most: int


class ClipStore:
    """The prepared clips of one rate and shape, in a folder of their own below `folder`.

    `stretch_s` should not be shorter than the backbone's window: a longer window is filled by repeating the stretch.
    """

    def __init__(self, folder: Path, sample_rate_hz: int, *, stretch_s: float = 15.0, most: int = 4) -> None:
        self.sample_rate_hz, self.stretch_s, self.most = sample_rate_hz, stretch_s, most
        self.folder = folder / f"{sample_rate_hz}-{stretch_s:g}-{most}"

    def prepare(self, tracks: Sequence[Track], *, workers: int, advance: Advance) -> list[LeftOut]:
        """Decode what is not here yet, in `workers` processes (0: in this one); may be killed at any time and goes on
        from there the next time. `advance(done, of)` is told of every file that had to be looked at.

        A file that brings down its decoder costs only itself.

        Returns:
            The tracks that have no clips, each with the reason: not audio, silent, its decoder crashed.

        Raises:
            BadFile: a track has no usable `audio_id`.
            TryLater: the disk is or would become full, or cannot be written; names the folder, what is needed and
                what is free. No partial file is left behind.
        """
        jobs: dict[str, _Job] = {}
        for track in tracks:
            jobs.setdefault(track.audio_id, self._job(track))
        self._sweep()
        missing = {name: job for name, job in jobs.items() if _opened(job.target) is None}
        lengths = {track.audio_id: track.duration_s for track in tracks if track.audio_id in missing}
        self._check_room(lengths)
        refused: dict[str, str] = {}
        with contextlib.closing(in_processes(list(missing.items()), _store, workers=workers)) as endings:
            for done, (name, ending) in enumerate(endings, start=1):
                if ending is None:
                    refused[name] = _DIED
                elif ending.kind is _Kind.REFUSED:
                    refused[name] = ending.reason
                elif ending.kind is not _Kind.STORED:
                    raise self._trouble(ending, lengths)
                lengths.pop(name)
                advance(done, len(missing))
        return [LeftOut(track.path, refused[track.audio_id]) for track in tracks if track.audio_id in refused]

    def pieces(self, track: Track) -> Pieces:
        """What is kept of `track`, int16 [pieces, samples], mapped into memory and read-only; full scale is 32767.

        Clips that are missing or damaged are made again on the spot.

        Raises:
            BadFile: they cannot be made again.
            TryLater: the disk failed or is full.
        """
        job = self._job(track)
        stored = _opened(job.target)
        if stored is not None:
            return stored
        ending = _store(job)
        if ending.kind is _Kind.REFUSED:
            raise BadFile(track.path, ending.reason)
        stored = _opened(job.target)
        if stored is None:
            raise self._trouble(ending, {track.audio_id: track.duration_s})
        return stored

    def windows(self, track: Track, window_s: float, count: int) -> Waveform:
        """Up to `count` windows of `window_s` as the daemon would hear them, float32 [windows, samples] in [-1, 1].

        Same choice, same passing over of silence and same repeating of short tracks. Of a long track only the kept
        stretches can be heard: no window spans two of them. At least one window, even of a track that is silent there.

        Raises:
            BadFile, TryLater: as `pieces`.
        """
        pieces, rate = self.pieces(track), self.sample_rate_hz
        duration_s, length = pieces.size / rate, round(window_s * rate)

        def read(window: Window) -> Waveform:
            middle = round((window.start_s + window.length_s / 2) * rate)
            piece, start = divmod(round(window.start_s * rate), pieces.shape[1])
            if middle // pieces.shape[1] != piece:
                piece, start = min(middle // pieces.shape[1], len(pieces) - 1), 0
            start = max(0, min(start, pieces.shape[1] - length))
            return as_float(pieces[piece, start : start + length])

        chosen = segments.spread(duration_s, window_s, count)
        heard = [sound for _, sound in segments.audible(chosen, duration_s, read)] or [read(chosen[0])]
        return np.stack([segments.tiled(sound, length) for sound in heard])

    def bytes_on_disk(self) -> int:
        """How much the clips of this rate and shape take, in bytes."""
        return sum(path.stat().st_size for path in self.folder.glob("*/*.npy"))

    def _job(self, track: Track) -> _Job:
        if not _AUDIO_ID.fullmatch(track.audio_id):
            raise BadFile(track.path, "has no audio_id in the data set: make it with `music-reclass-train dataset`")
        target = self.folder / track.audio_id[:2] / f"{track.audio_id}.npy"
        return _Job(track.path, target, self.sample_rate_hz, self.stretch_s, self.most)

    def _sweep(self) -> None:
        """Remove what killed runs were writing."""
        for path in self.folder.glob("*/.*.part"):
            writer = _PART.fullmatch(path.name)
            if writer and not _is_alive(int(writer[1])):
                path.unlink(missing_ok=True)

    def _bytes(self, durations_s: Sequence[float], unknown_s: float) -> int:
        longest_s = self.most * self.stretch_s
        return round(sum(min(each or unknown_s, longest_s) for each in durations_s) * self.sample_rate_hz * 2)

    def _check_room(self, lengths: dict[str, float]) -> None:
        """Refuse at once rather than after an hour; tracks of unknown length are not counted."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            free = _free(self.folder)
        except OSError as error:
            raise TryLater(self.folder, f"cannot be written: {from_os_error(self.folder, error).reason}") from error
        if self._bytes(list(lengths.values()), 0.0) > free:
            raise self._full(lengths)

    def _trouble(self, ending: _Ending, lengths: dict[str, float]) -> TryLater:
        if ending.kind is _Kind.FULL:
            return self._full(lengths)
        return TryLater(self.folder, f"cannot be written: {ending.reason}")

    def _full(self, lengths: dict[str, float]) -> TryLater:
        needed, free = self._bytes(list(lengths.values()), self.most * self.stretch_s), _free(self.folder)
        return TryLater(
            self.folder,
            f"the disk is too full for prepared clips: {len(lengths)} more tracks need about {_amount(needed)} and "
            f"{_amount(free)} are free; make room or choose another folder and start again, what is done is kept",
        )


def as_float(samples: Pieces) -> Waveform:
    """int16 samples of any shape as float32 in [-1, 1]."""
    return np.asarray(samples, np.float32) / np.float32(FULL_SCALE)


def _store(job: _Job) -> _Ending:
    """Decode one file and put its clips in place, whole or not at all."""
    try:
        pieces = _decoded(job)
    except FileTrouble as trouble:
        return _Ending(_Kind.REFUSED, trouble.reason)
    try:
        _write(pieces, job.target)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return _Ending(_Kind.FULL if full else _Kind.UNWRITABLE, from_os_error(job.target, error).reason)
    return _Ending(_Kind.STORED)


def _decoded(job: _Job) -> Pieces:
    """int16 [pieces, samples] of the file.

    Raises:
        BadFile: not audio, or nothing to be heard in it.
        TryLater: the disk failed.
    """
    longest_s = job.most * job.stretch_s
    with Sound(job.path) as sound:
        duration_s = sound.duration_s
        if duration_s > longest_s:
            chosen = segments.spread(duration_s, job.stretch_s, job.most)
            length = round(job.stretch_s * job.sample_rate_hz)
            heard = segments.audible(
                chosen, duration_s, lambda window: sound.read(window.start_s, window.length_s, job.sample_rate_hz)
            )
            # By time. What is cut short lies behind the true end of a file that claims to be longer.
            full = [samples for _, samples in sorted(heard, key=lambda pair: pair[0].start_s) if samples.size == length]
            if full:
                return _quantised(np.stack(full))
        whole = sound.read(0.0, longest_s, job.sample_rate_hz)
    if not whole.size:
        raise BadFile(job.path, "holds no sound")
    if segments.level_dbfs(whole) <= segments.SILENCE_DBFS:
        raise BadFile(job.path, "is silent")
    return _quantised(whole[None])


def _quantised(samples: Waveform) -> Pieces:
    rounded: Pieces = np.rint(samples * FULL_SCALE).astype(np.int16)
    return rounded


def _write(pieces: Pieces, target: Path) -> None:
    buffer = io.BytesIO()
    # `numpy.save` straight into a file raises without an error number where the disk is full.
    np.save(buffer, pieces, allow_pickle=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as out:
            out.write(buffer.getbuffer())
            out.flush()
            # After a power cut a file may have its length and hold zeros: that would be trained on in silence.
            os.fsync(out.fileno())
        os.replace(part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _opened(path: Path) -> Pieces | None:
    """The stored pieces, or None where there are none or they are damaged."""
    try:
        with open(path, "rb") as file:
            header = _HEADER.fullmatch(file.read(_HEADER_BYTES))
            size = os.fstat(file.fileno()).st_size
            if header is None:
                return None
            shape = (int(header[1]), int(header[2]))
            if not all(shape) or size != _HEADER_BYTES + 2 * shape[0] * shape[1]:
                return None
            stored: Pieces = np.memmap(file, np.int16, "r", _HEADER_BYTES, shape)
            return stored
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TryLater(path, from_os_error(path, error).reason) from error


def _amount(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _free(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
