"""Reads sound: the only module that imports PyAV (whose wheels carry FFmpeg). It never writes and never logs.

A track is its sound, not its path: `audio_id` hashes the demuxed audio packets, which retagging and moving leave
alone. Decoding is by seek, for the chosen seconds only; decoding a whole file takes two to four times as long as five
windows of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import av
import av.error
import numpy as np
from av.audio.fifo import AudioFifo
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer

from daemon.core.errors import BadFile, FileTrouble, from_os_error
from daemon.core.records import Waveform

# FFmpeg's libraries write to stderr by default; what matters reaches us as exceptions.
av.logging.set_level(av.logging.PANIC)

# Codecs such as Opus (80 ms, RFC 7845 section 4.6) and MP3 (bit reservoir) need a run-up after a seek.
_PREROLL_S = 0.2
_TAIL_S = 0.05

# FFmpeg goes by content, not by suffix: a text file called song.mp3 that is a playlist or a concat script would make
# it open other files, so only containers that hold their own sound are looked for.
_DEMUXERS = (
    "aac,ac3,aiff,ape,asf,au,caf,dsf,dts,eac3,flac,iff,matroska,webm,mov,mp4,m4a,3gp,3g2,mp3,mpc,mpc8,ogg,rm,tak,tta,"
    "w64,wav,wv"
)
_OPEN_OPTIONS = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "file"}


@dataclass(frozen=True, slots=True)
class SoundInfo:
    """What the container says about its first audio stream. `duration_s` is 0.0 where the container does not know."""

    duration_s: float
    sample_rate_hz: int
    channels: int
    codec: str
    container: str


class Sound:
    """One open audio file. Use as a context manager; not safe for use from several threads at once."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open `path` and find its first audio stream.

        Raises:
            BadFile: not audio that FFmpeg knows, without an audio stream, missing or unreadable.
            TryLater: the disk failed while reading.
        """
        self._path = os.fspath(path)
        with _translated(self._path):
            if os.stat(self._path).st_size == 0:
                raise BadFile(self._path, "is empty")
            # Absolute, since FFmpeg takes a relative "http:song.mp3" for an address.
            self._container: InputContainer = av.open(
                os.path.abspath(self._path), options=_OPEN_OPTIONS, metadata_errors="replace"
            )
        audio = self._container.streams.audio
        if reason := _why_mute(audio):
            self._container.close()
            raise BadFile(self._path, reason)
        self._stream: AudioStream = audio[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    @property
    def info(self) -> SoundInfo:
        """The stream's properties as the container states them."""
        context = self._stream.codec_context
        return SoundInfo(
            duration_s=self._duration_s(),
            sample_rate_hz=context.sample_rate or 0,
            channels=context.channels or 0,
            codec=context.codec.canonical_name,
            container=self._container.format.name,
        )

    def _duration_s(self) -> float:
        if self._stream.duration is not None and self._stream.time_base is not None:
            return float(self._stream.duration * self._stream.time_base)
        if self._container.duration is not None:
            return self._container.duration / av.time_base
        return 0.0

    def read(self, start_s: float, length_s: float, sample_rate_hz: int) -> Waveform:
        """Decode `length_s` seconds from `start_s`, as mono float32 of shape [samples] at `sample_rate_hz`.

        Channels are averaged, so that a mono and a stereo copy of one recording have the same level; what a file of
        floating-point samples holds beyond full scale is clipped, and what is no number there is silence. Shorter
        than asked where the file ends; empty past its end. Damaged packets in the middle are passed over, as players
        do.

        Raises:
            BadFile: nothing in the window could be decoded because the stream is damaged.
            TryLater: the disk failed while reading.
        """
        wanted = round(length_s * sample_rate_hz)
        with _translated(self._path):
            stretches = self._stretches(start_s, length_s)
            chunks = [_mono(stretch, sample_rate_hz) for stretch in stretches]
        if not chunks:
            return np.zeros(0, np.float32)
        samples = np.concatenate(chunks)[:wanted]
        return np.clip(np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0), -1.0, 1.0)

    def _stretches(self, start_s: float, length_s: float) -> list[_Stretch]:
        """The decoded sound from `start_s` on, joined as far as rate and layout stay: spliced MP3s change them.

        Frames are joined before they are resampled: 20 ms frames one by one took twice as long.
        """
        stretches: list[_Stretch] = []
        got_s = 0.0
        for frame in self._frames_from(start_s):
            early_s = 0.0 if frame.time is None else start_s + self._origin_s() - frame.time
            lasts_s = frame.samples / frame.sample_rate
            # A seek lands before the asked time, never after it.
            if early_s >= lasts_s:
                continue
            kind = (frame.format.name, frame.layout.name, frame.sample_rate)
            if not stretches or stretches[-1].kind != kind:
                stretches.append(_Stretch(kind, AudioFifo(), max(0.0, early_s)))
            frame.pts = None
            stretches[-1].fifo.write(frame)
            got_s += lasts_s - max(0.0, early_s)
            # A little more than asked, since the resampler's filter reaches beyond the end.
            if got_s >= length_s + _TAIL_S:
                break
        return stretches

    def _origin_s(self) -> float:
        start, base = self._stream.start_time, self._stream.time_base
        return float(start * base) if start and base else 0.0

    def _frames_from(self, start_s: float) -> Iterator[AudioFrame]:
        base = self._stream.time_base
        if base is not None:
            target = (max(0.0, start_s - _PREROLL_S) + self._origin_s()) / float(base)
            # Some containers (raw streams, a file without an index) cannot seek; reading from where we are still
            # gives sound, and `_stretches` cuts what comes too early where the frames carry their time.
            with contextlib.suppress(av.error.FFmpegError):
                self._container.seek(int(target), stream=self._stream, backward=True)
        damaged: av.error.FFmpegError | None = None
        decoded = 0
        for packet in self._container.demux(self._stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError as error:
                damaged = error
                continue
            for frame in frames:
                decoded += 1
                yield frame
        if damaged is not None and not decoded:
            raise damaged

    def packet_digest(self) -> str:
        """SHA-256 (hex) over codec name and every audio packet from the first to the last.

        Call it on a freshly opened file: it reads on from where the file stands.

        Raises:
            BadFile: the stream is damaged so that it cannot be demuxed, or holds no packet.
            TryLater: the disk failed while reading.
        """
        digest = hashlib.sha256(self._stream.codec_context.codec.canonical_name.encode())
        empty = True
        with _translated(self._path):
            for packet in self._container.demux(self._stream):
                if packet.size:
                    empty = False
                    digest.update(packet)
        if empty:
            raise BadFile(self._path, "holds no audio packets")
        return digest.hexdigest()


def audio_id(path: str | os.PathLike[str]) -> str:
    """The identity of the track in `path`: 64 hex digits that retagging and moving do not change.

    Raises:
        BadFile: not usable as audio.
        TryLater: the disk failed while reading.
    """
    with Sound(path) as sound:
        return sound.packet_digest()


def _why_mute(streams: Sequence[AudioStream]) -> str:
    """Why nothing can be heard from these audio streams; empty where something can."""
    if not streams:
        return "holds no audio stream"
    context = streams[0].codec_context
    if context is None:
        return "holds sound in a codec that cannot be decoded"
    # FFmpeg takes a text called song.flac for a FLAC stream by its name, and then finds no frame in it.
    return "" if context.sample_rate else "is not audio that can be decoded (no sound found in it)"


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Joined frames of one kind (format, layout, rate); the first `early_s` seconds come before the asked time."""

    kind: tuple[str, str, int]
    fifo: AudioFifo
    early_s: float


def _mono(stretch: _Stretch, sample_rate_hz: int) -> Waveform:
    """The stretch at `sample_rate_hz` (shape [samples]), its channels averaged, without what comes too early."""
    frame = stretch.fifo.read()
    if frame is None:
        return np.zeros(0, np.float32)
    resampler = AudioResampler(format="fltp", rate=sample_rate_hz)
    pieces = [piece.to_ndarray() for piece in (*resampler.resample(frame), *resampler.resample(None))]
    samples: Waveform = np.concatenate(pieces, axis=1).mean(axis=0, dtype=np.float32)
    return samples[round(stretch.early_s * sample_rate_hz) :]


@contextlib.contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except av.error.FFmpegError as error:
        raise _sorted(path, error) from error
    except OSError as error:
        raise from_os_error(path, error) from error
    except (ValueError, MemoryError, OverflowError, ArithmeticError) as error:
        # PyAV passes on what a lying header makes of its arithmetic.
        raise BadFile(path, f"cannot be decoded: {error}") from error


def _sorted(path: str, error: av.error.FFmpegError) -> FileTrouble:
    if isinstance(error, OSError):
        return from_os_error(path, error)
    return BadFile(path, f"is not audio that can be decoded ({error.strerror or error})")
