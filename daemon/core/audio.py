"""Reads sound: the only module that imports PyAV (whose wheels carry FFmpeg). It never writes and never logs.

A track is its sound, not its path: `audio_id` hashes the demuxed audio packets, which retagging and moving leave
alone. Decoding is by seek, for the chosen seconds only; decoding a whole file takes two to four times as long as five
windows of it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
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
from daemon.core.tagtext import Tags, parse
from daemon.core.trailer import leading_tags_end, trailing_tags_start

# FFmpeg's libraries write to stderr by default; what matters reaches us as exceptions.
av.logging.set_level(av.logging.PANIC)

# Codecs such as Opus (80 ms, RFC 7845 section 4.6) and MP3 (bit reservoir) need a run-up after a seek.
_PREROLL_S = 0.2
_TAIL_S = 0.05

# How much longer than from the very start a window may be looked for, and how much beyond it is resampled. Honest
# files need neither: timestamps that lie would have the whole file decoded, or hours of it at 1 Hz.
_LOST_S = 10.0
_BEYOND_S = 1.0

# FFmpeg goes by content, not by suffix: a text file called song.mp3 that is a playlist or a concat script would make
# it open other files, so only containers that hold their own sound are looked for.
_DEMUXERS = (
    "aac,ac3,aiff,ape,asf,au,caf,dsf,dts,eac3,flac,iff,matroska,webm,mov,mp4,m4a,3gp,3g2,mp3,mpc,mpc8,ogg,rm,tak,tta,"
    "w64,wav,wv"
)
_OPEN_OPTIONS = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "file"}

_BLOCK = 1 << 20
_TOO_LARGE = "needs more memory to read than there is"

# Demuxers that cut one stream of frames out of the bare file: of what stands behind the last frame they know little,
# and a last frame that was cut short reaches into it. `Packet.pos` is a place in the file here.
_RAW_DEMUXERS = frozenset({"aac", "ac3", "eac3", "flac", "mp3"})

# Demuxers that take tags behind the sound for sound, or stumble over them: here the bytes between the tags are what is
# hashed. (FFmpeg 8: ape gives the tag as part of a packet of no known place, wv raises at an ID3v1 tag, mpc8 reads the
# first letters of an APEv2 tag as a packet.)
_BLIND_DEMUXERS = frozenset({"ape", "mpc", "mpc8", "tak", "tta", "wv"})


@dataclass(frozen=True, slots=True)
class SoundInfo:
    """What the container says about its first audio stream; `duration_s` as `Sound.duration_s`."""

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
            self._container = _opened(self._path)
        audio = self._container.streams.audio
        if reason := _why_mute(audio):
            self._container.close()
            raise BadFile(self._path, reason)
        self._stream: AudioStream = audio[0]
        self._measured_s: float | None = None

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
            duration_s=self.duration_s,
            sample_rate_hz=context.sample_rate or 0,
            channels=context.channels or 0,
            codec=context.codec.canonical_name,
            container=self._container.format.name,
        )

    @property
    def tags(self) -> Tags:
        """What container and stream say of the track, as FFmpeg reads it: for a data set, not for rewriting a file."""
        return parse(self._container.metadata, self._stream.metadata)

    @property
    def duration_s(self) -> float:
        """The length that the container states; where it states none, that of its packets, which takes reading them.

        FLAC and WAV that were written to a pipe state none, nor does a recording that broke off in Matroska.

        Raises:
            BadFile, TryLater: as `read`.
        """
        stream, container = self._stream, self._container
        if stream.duration and stream.duration > 0 and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        if container.duration and container.duration > 0:
            return container.duration / av.time_base
        if self._measured_s is None:
            # In a file of its own: `packet_digest` reads on from where this one stands.
            with _translated(self._path), _opened(self._path) as again:
                self._measured_s = _packets_last_s(again, again.streams.audio[0])
        return self._measured_s

    def read(self, start_s: float, length_s: float, sample_rate_hz: int) -> Waveform:
        """Decode `length_s` seconds from `start_s`, as mono float32 of shape [samples] at `sample_rate_hz`.

        Channels are averaged, so that a mono and a stereo copy of one recording have the same level; what a file of
        floating-point samples holds beyond full scale is clipped, and what is no number there is silence. Shorter
        than asked where the file ends; empty past its end. Damaged packets in the middle are passed over, as players
        do.

        Raises:
            BadFile: nothing in the window could be decoded because the stream is damaged, or it needs more memory
                than there is.
            TryLater: the disk failed while reading.
        """
        wanted = round(length_s * sample_rate_hz)
        with _translated(self._path):
            stretches = self._stretches(start_s, length_s)
            chunks = [_mono(stretch, length_s, sample_rate_hz) for stretch in stretches]
            if not chunks:
                return np.zeros(0, np.float32)
            samples = np.concatenate(chunks)[:wanted]
            return np.clip(np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0), -1.0, 1.0)

    def _stretches(self, start_s: float, length_s: float) -> list[_Stretch]:
        """The decoded sound from `start_s` on, joined as far as rate and layout stay: spliced MP3s change them.

        Frames are joined before they are resampled: 20 ms frames one by one took twice as long.
        """
        stretches: list[_Stretch] = []
        got_s = decoded_s = 0.0
        for frame in self._frames_from(start_s):
            early_s = 0.0 if frame.time is None else start_s + self._origin_s() - frame.time
            lasts_s = frame.samples / frame.sample_rate
            decoded_s += lasts_s
            if decoded_s > start_s + length_s + _LOST_S:
                break
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
        packets = self._container.demux(self._stream)
        while True:
            try:
                if (packet := next(packets, None)) is None:
                    break
            except av.error.InvalidDataError as error:
                # The end for this demuxer, perhaps no more than a tag behind the sound.
                damaged = error
                break
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
        """SHA-256 (hex) over codec name and every audio packet from the first to the last, without tags behind them.

        Call it on a freshly opened file: it reads on from where the file stands.

        Raises:
            BadFile: the stream is damaged so that it cannot be demuxed, or holds no packet.
            TryLater: the disk failed while reading.
        """
        digest = hashlib.sha256(self._stream.codec_context.codec.canonical_name.encode())
        empty = True
        with _translated(self._path):
            blind = self._container.format.name in _BLIND_DEMUXERS
            for sound in self._bytes_between_tags() if blind else self._packets():
                if sound:
                    empty = False
                    digest.update(sound)
        if empty:
            raise BadFile(self._path, "holds no audio packets")
        return digest.hexdigest()

    def _packets(self) -> Iterator[memoryview | bytes]:
        end = self._sound_end()
        for packet in self._container.demux(self._stream):
            sound = memoryview(packet) if packet.size else b""
            if end is not None and packet.pos is not None and packet.pos + packet.size > end:
                sound = sound[: max(0, end - packet.pos)]
            yield sound

    def _bytes_between_tags(self) -> Iterator[bytes]:
        with open(self._path, "rb") as file:
            at, end = leading_tags_end(file), trailing_tags_start(file)
            file.seek(at)
            while at < end and (block := file.read(min(_BLOCK, end - at))):
                at += len(block)
                yield block

    def _sound_end(self) -> int | None:
        """Where tags behind the sound begin, in bytes; None for a container that marks the end of its sound itself."""
        if self._container.format.name not in _RAW_DEMUXERS:
            return None
        with open(self._path, "rb") as file:
            return trailing_tags_start(file)


def audio_id(path: str | os.PathLike[str]) -> str:
    """The identity of the track in `path`: 64 hex digits that retagging and moving do not change.

    Raises:
        BadFile: not usable as audio.
        TryLater: the disk failed while reading.
    """
    with Sound(path) as sound:
        return sound.packet_digest()


def _opened(path: str) -> InputContainer:
    # Absolute, since FFmpeg takes a relative "http:song.mp3" for an address.
    return av.open(os.path.abspath(path), options=_OPEN_OPTIONS, metadata_errors="replace")


def _packets_last_s(container: InputContainer, stream: AudioStream) -> float:
    """From the start to where the last packet ends, in seconds; where they carry no times, all their lengths."""
    base = stream.time_base
    if base is None:
        return 0.0
    start, end, total = stream.start_time or 0, 0, 0
    # What can be read of a damaged file is its length.
    with contextlib.suppress(av.error.InvalidDataError):
        for packet in container.demux(stream):
            length = packet.duration or 0
            total += length
            if packet.pts is not None:
                end = max(end, packet.pts - start + length)
    return float((end or total) * base)


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


def _mono(stretch: _Stretch, length_s: float, sample_rate_hz: int) -> Waveform:
    """The stretch at `sample_rate_hz` (shape [samples]), its channels averaged, without what comes too early.

    It has `length_s` where the stretch is that long, or somewhat more.
    """
    needed = math.ceil((stretch.early_s + length_s + _BEYOND_S) * stretch.kind[2])
    frame = stretch.fifo.read(min(needed, stretch.fifo.samples))
    if frame is None:
        return np.zeros(0, np.float32)
    resampler = AudioResampler(format="fltp", rate=sample_rate_hz)
    pieces = [piece.to_ndarray() for piece in (*resampler.resample(frame), *resampler.resample(None))]
    if not pieces:
        # Fewer samples than the filter is long.
        return np.zeros(0, np.float32)
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
    except MemoryError as error:
        raise BadFile(path, _TOO_LARGE) from error
    except (ValueError, ArithmeticError) as error:
        # PyAV passes on what a lying header makes of its arithmetic.
        raise BadFile(path, f"cannot be decoded: {error}") from error


def _sorted(path: str, error: av.error.FFmpegError) -> FileTrouble:
    # Not the moment's fault: what FFmpeg asks for follows from the file.
    if error.errno == errno.ENOMEM:
        return BadFile(path, _TOO_LARGE)
    if isinstance(error, OSError):
        return from_os_error(path, error)
    return BadFile(path, f"is not audio that can be decoded ({error.strerror or error})")
