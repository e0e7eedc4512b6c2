"""Reads and retags music files in a process of its own, so that no file can bring the service down.

Everything that parses a music file is asked for here. The functions stand for those of `core.audio` and `effects.tags`
with the same results and the same errors; what happens to the process that does the work (see `reader`) becomes one of
those errors too. Nothing here opens a music file, not even to look how large it is: that also waits for a dead disk.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, Self

import numpy as np
import structlog

from daemon.core.audio import SoundInfo
from daemon.core.errors import BadFile, TryLater
from daemon.core.records import Waveform
from daemon.effects import tags
from daemon.effects.child import Beat, Child, ChildDied, ChildTimeout, ChildUnavailable, Message, Reply

log = structlog.get_logger()

# The worst honest file, an hour of multichannel sound at a high rate, takes some 100 MiB; four times this is the
# service's own limit.
_MEMORY_BYTES = 1 << 30
# A spun-down disk takes 15 s to answer, and an hour of sound is decoded in as long. Beyond that a file may take as
# long as reading all of it takes from a NAS over a bad wireless line: a file of 1 GB has ten minutes.
_PATIENCE_S = 60.0
_SLOWEST_BYTES_S = 2e6
# Waiting for a slow disk costs next to no processor time, hashing and decoding at its pace some hundredths; a loop
# takes all that a busy machine leaves it.
_BUSY_SHARE = 0.1

# One thread: OpenBLAS keeps buffers for each of its own, and nothing here multiplies matrices.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

AnyPath = str | os.PathLike[str]


class Reader:
    """Reads files in a child process, which starts at the first question. One per thread: use it from one thread only.

    Close it, or use it as a context manager. If this process is killed, the child is killed with it.
    """

    def __init__(
        self,
        *,
        beat: Beat | None = None,
        patience_s: float = _PATIENCE_S,
        memory_bytes: int = _MEMORY_BYTES,
        module: str = "daemon.reader",
    ) -> None:
        """`beat` is called every second while an answer takes; what it raises ends the child and reaches the caller."""
        self._beat = beat
        self._patience_s = patience_s
        self._memory_bytes = memory_bytes
        self._child = Child(module, memory_bytes=memory_bytes, environment=_ENVIRONMENT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child process; a further question would start a new one."""
        self._child.close()

    @property
    def pid(self) -> int | None:
        """The child's process; None while none runs."""
        return self._child.pid

    @contextlib.contextmanager
    def sound(self, path: AnyPath) -> Iterator[DistantSound]:
        """The file at `path`, held open by the child inside the `with`.

        Raises:
            BadFile, TryLater: as `audio.Sound`, or it cannot be read without harm.
        """
        sound = DistantSound(self, path)
        self._ask(path, "open")
        try:
            yield sound
        finally:
            # A file that is held open keeps its disk from being unmounted. A new child has none open.
            if self.pid is not None:
                with contextlib.suppress(BadFile, TryLater):
                    self._ask(path, "close")

    def audio_id(self, path: AnyPath) -> str:
        """As `audio.audio_id`."""
        with self.sound(path) as sound:
            return sound.packet_digest()

    def tags(self, path: AnyPath, separator: str = "/") -> tags.Tags:
        """As `tags.read`, with `separator` as its `id3_v23_separator`."""
        answer, _ = self._ask(path, "tags", separator=separator)
        with self._sensible(path):
            return _tags(answer["result"])

    def write_genres(self, copy: AnyPath, genres: Sequence[str], separator: str = "/") -> None:
        """As `tags.write_genres`: only ever pass a temporary copy."""
        self._ask(copy, "write_genres", genres=list(genres), separator=separator)

    # The exchange

    def _ask(self, path: AnyPath, verb: str, **fields: Any) -> Reply:
        """What the child answers, with the result or what goes with it in the bytes.

        Raises:
            BadFile: the file is bad, or the child crashed on it, ran out of memory or was busy with it for too long.
            TryLater: the moment is bad, the disk did not answer, or memory is short.
        """
        limit_s = self._patience_s
        if verb not in ("size", "close"):
            limit_s += self._size(path) / _SLOWEST_BYTES_S
        # Absolute: the child stays in the folder in which it was started.
        request = {"verb": verb, "path": os.path.abspath(os.fspath(path))} | fields
        try:
            reply = self._child.call(request, limit_s, self._beat)
        except ChildUnavailable as error:
            raise TryLater(path, f"no process can be started to read it: {error}") from error
        except ChildTimeout as error:
            self._too_slow(path, error)
        except ChildDied as error:
            self._crashed(path, error)
        if "trouble" in reply[0]:
            self._refused(path, reply[0])
        return reply

    def _size(self, path: AnyPath) -> int:
        answer, _ = self._ask(path, "size")
        with self._sensible(path):
            return int(answer["result"])

    def _too_slow(self, path: AnyPath, error: ChildTimeout) -> NoReturn:
        log.warning("reader_stuck", path=path, limit_s=round(error.limit_s), busy_s=round(error.busy_s))
        if error.busy_s < _BUSY_SHARE * error.limit_s:
            raise TryLater(path, f"the disk did not answer for {error.limit_s:.0f} s") from error
        raise BadFile(path, f"takes longer than {error.limit_s:.0f} s to read") from error

    def _crashed(self, path: AnyPath, error: ChildDied) -> NoReturn:
        # Where it was, without the list of all libraries that Python adds.
        told = error.told.partition("\n\nExtension modules:")[0]
        log.warning("reader_died", path=path, how=error.how, told=told)
        if error.killed_by == signal.SIGKILL:
            # Not by us: by the kernel, short of memory, or by somebody with a reason.
            raise TryLater(path, f"the process that read it was killed ({error.how}): memory ran short?") from error
        if error.killed_by is None and error.told:
            raise BadFile(path, f"the decoder failed on it ({error.told.splitlines()[-1]})") from error
        raise BadFile(path, f"the decoder crashed on it ({error.how})") from error

    def _refused(self, path: AnyPath, answer: Message) -> NoReturn:
        reason = str(answer.get("reason"))
        if answer["trouble"] == "memory":
            # What it had got by then may be lost to it.
            self.close()
            raise BadFile(path, f"needs more than {self._memory_bytes / 2**30:.3g} GiB of memory to read")
        raise (TryLater if answer["trouble"] == "later" else BadFile)(path, reason)

    @contextlib.contextmanager
    def _sensible(self, path: AnyPath) -> Iterator[None]:
        """An answer that makes no sense comes from a child that the file has got hold of."""
        try:
            yield
        except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
            self.close()
            raise BadFile(path, "the decoder was led astray by it (its answer makes no sense)") from error


class DistantSound:
    """A file that the child has open: what `audio.Sound` offers."""

    def __init__(self, reader: Reader, path: AnyPath) -> None:
        self._reader = reader
        self._path = path
        self._info: SoundInfo | None = None

    @property
    def info(self) -> SoundInfo:
        """As `audio.Sound.info`."""
        if self._info is None:
            answer, _ = self._reader._ask(self._path, "info")
            with self._reader._sensible(self._path):
                self._info = _info(answer["result"])
        return self._info

    @property
    def duration_s(self) -> float:
        """As `audio.Sound.duration_s`."""
        return self.info.duration_s

    def packet_digest(self) -> str:
        """As `audio.Sound.packet_digest`, and at any time."""
        answer, _ = self._reader._ask(self._path, "digest")
        with self._reader._sensible(self._path):
            digest = answer["result"]
            if len(bytes.fromhex(digest)) != 32:
                raise ValueError(digest)
            return str(digest)

    def read(self, start_s: float, length_s: float, sample_rate_hz: int) -> Waveform:
        """As `audio.Sound.read`."""
        window = {"start_s": start_s, "length_s": length_s, "sample_rate_hz": sample_rate_hz}
        _, body = self._reader._ask(self._path, "read", **window)
        with self._reader._sensible(self._path):
            samples: Waveform = np.frombuffer(body, "<f4")
            if samples.size > round(length_s * sample_rate_hz) or not (np.abs(samples) <= 1.0).all():
                raise ValueError("more than asked, or beyond full scale")
            return samples


def _info(answer: Any) -> SoundInfo:
    info = SoundInfo(
        duration_s=float(answer["duration_s"]),
        sample_rate_hz=int(answer["sample_rate_hz"]),
        channels=int(answer["channels"]),
        codec=str(answer["codec"]),
        container=str(answer["container"]),
    )
    if not (math.isfinite(info.duration_s) and info.duration_s >= 0):
        raise ValueError(f"a length of {info.duration_s} s")
    return info


def _tags(answer: Any) -> tags.Tags:
    found = tags.Tags(**{name: _frozen(value) for name, value in answer.items()})
    if not _texts(found.genres) or not all(_texts(entry) and len(entry) == 2 for entry in found.others):
        raise TypeError("not what tags are made of")
    return found


def _frozen(value: Any) -> Any:
    return tuple(_frozen(each) for each in value) if isinstance(value, list) else value


def _texts(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(each, str) for each in value)
