"""Looks into audio files, in processes of their own: what a data set wants to know of a file before it takes it.

A file may crash the decoder, hang it or make it want all memory: then that file is bad, and the next one is looked at
by a new process. What comes back from a process is JSON, never unpickled. Must never judge what a file is good for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from daemon.core import segments
from daemon.core.audio import Sound
from daemon.core.errors import BadFile, FileTrouble, from_os_error
from daemon.core.tagtext import Tags

# As the daemon's: a disk may have to spin up, and beyond that a file may take as long as reading it from a slow share.
PATIENCE_S = 60.0
_SLOWEST_BYTES_S = 2e6
# The worst honest file, an hour of multichannel sound at a high rate, takes some 100 MiB.
_MEMORY_BYTES = 1 << 30
# Whoever asks is gone without a word: then the kernel ends a process that hangs in a decoder.
_GRACE_S = 10
_REPLY_MAX = 1 << 20
_REAP_S = 5.0

# Where it is heard whether there is any sound: a few seconds in the middle, elsewhere only if these are silent.
_WINDOW_S, _WINDOWS, _RATE_HZ = 3.0, 5, 16_000

SILENT = "silent"
NO_TAGS = Tags()


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found in the file at `path` while it was `size` bytes long and last changed at `mtime_ns`.

    `trouble` says why it is no use: kind, colon, detail; then the rest may be unknown. `lasting` is whether that is
    the file's own fault, so that it need not be tried again.
    """

    path: Path
    size: int
    mtime_ns: int
    audio_id: str = ""
    duration_s: float = 0.0
    tags: Tags = NO_TAGS
    trouble: str = ""
    lasting: bool = True


Look = Callable[[str], dict[str, Any]]


def look(path: str) -> dict[str, Any]:
    """The fields of `Examined` for the file at `path`, as plain values; opens, hashes and listens to a few seconds."""
    try:
        with Sound(path) as sound:
            tags, duration_s = sound.tags, sound.duration_s
            audio_id = sound.packet_digest()
            trouble = "" if _sounds(sound, duration_s) else f"{SILENT}: nothing can be heard in it"
    except FileTrouble as error:
        return _refused(error)
    except OSError as error:
        return _refused(from_os_error(path, error))
    except MemoryError:
        return {"trouble": f"broken: needs more than {_MEMORY_BYTES >> 20} MiB of memory to read"}
    return {"audio_id": audio_id, "duration_s": duration_s, "tags": dataclasses.asdict(tags), "trouble": trouble}


def _sounds(sound: Sound, duration_s: float) -> bool:
    for window in segments.spread(duration_s, _WINDOW_S, _WINDOWS):
        samples = sound.read(window.start_s, window.length_s, _RATE_HZ)
        if segments.level_dbfs(samples) > segments.SILENCE_DBFS:
            return True
    return False


def _refused(error: FileTrouble) -> dict[str, Any]:
    lasting = isinstance(error, BadFile)
    return {"trouble": f"{'broken' if lasting else 'not readable now'}: {error.reason}", "lasting": lasting}


def examine(
    paths: Sequence[Path], *, workers: int = 1, patience_s: float = PATIENCE_S, look: Look = look
) -> Generator[Examined, None, None]:
    """What is in each of these files, as it becomes known, in no certain order.

    A file has `patience_s`, and longer the larger it is. Closing the iterator ends the processes. Without `workers`
    this process looks itself, and a file that crashes the decoder ends it.

    Raises:
        OSError: no process can be started.
    """
    if not workers:
        yield from (Examined(path, *_state(path), **_checked(look(os.path.abspath(path)))) for path in paths)
        return
    waiting = list(reversed(paths))
    hands = [_Hand(look, patience_s) for _ in range(min(workers, len(paths)))]
    try:
        for hand in hands:
            hand.take(waiting.pop())
        while busy := [hand for hand in hands if hand.path is not None]:
            limit_s = min(hand.deadline for hand in busy) - time.monotonic()
            wait([hand.connection for hand in busy], max(0.0, limit_s))
            for hand in busy:
                if (examined := hand.answer()) is not None:
                    if waiting:
                        hand.take(waiting.pop())
                    yield examined
    finally:
        for hand in hands:
            hand.close()


class _Hand:
    """One process that looks into files, one at a time; it is replaced after a file that ended it."""

    def __init__(self, look: Look, patience_s: float) -> None:
        self._look, self._patience_s = look, patience_s
        self._process: multiprocessing.process.BaseProcess | None = None
        self.path: Path | None = None
        self.deadline = 0.0

    def take(self, path: Path) -> None:
        """Have `path` looked into."""
        self.path = path
        self._size, self._mtime_ns = _state(path)
        self._limit_s = self._patience_s + self._size / _SLOWEST_BYTES_S
        if self._process is None:
            self._start()
        self.deadline = time.monotonic() + self._limit_s
        request = json.dumps({"path": os.path.abspath(path), "limit_s": self._limit_s})
        # Where it is gone, `answer` will find out.
        with contextlib.suppress(OSError):
            self.connection.send_bytes(request.encode())

    def answer(self) -> Examined | None:
        """What was found, or what became of the process; None while it is still looking."""
        assert self.path is not None
        if self.connection.poll():
            try:
                found = _checked(json.loads(self.connection.recv_bytes(_REPLY_MAX)))
            except (EOFError, OSError, ValueError, TypeError, AttributeError):
                found = self._died()
        elif time.monotonic() >= self.deadline:
            self.close()
            found = {"trouble": f"stuck: the decoder was still busy after {self._limit_s:.0f} s"}
        else:
            return None
        path, self.path = self.path, None
        return Examined(path, self._size, self._mtime_ns, **found)

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            self.connection.close()
            process.kill()
            process.join(_REAP_S)

    def _start(self) -> None:
        # A fork would inherit the threads' locks of whoever asks, and with them a chance to hang.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._look), daemon=True)
        try:
            self._process.start()
        finally:
            theirs.close()

    def _died(self) -> dict[str, Any]:
        assert self._process is not None
        self._process.join(_REAP_S)
        code = self._process.exitcode
        self.close()
        if code == -signal.SIGKILL:
            # By the kernel, short of memory, or by somebody with a reason: not for certain the file's fault.
            return {"trouble": "not readable now: the process that read it was killed", "lasting": False}
        how = "it stopped answering" if code is None else f"exit code {code}" if code >= 0 else _name(-code)
        return {"trouble": f"broken: the decoder crashed on it ({how})"}


def _state(path: Path) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        # Whoever opens it will say what is wrong.
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _checked(found: dict[str, Any]) -> dict[str, Any]:
    """What was found as the fields of `Examined`; raises ValueError or TypeError where it makes no sense."""
    found["tags"] = Tags(**{name: str(text) for name, text in found.get("tags", {}).items()})
    if not 0.0 <= float(found.get("duration_s", 0.0)) < float("inf"):
        raise ValueError(found["duration_s"])
    return {name: value for name, value in found.items() if name in Examined.__slots__}


def _name(number: int) -> str:
    return (signal.strsignal(number) or f"signal {number}").lower()


def _serve(connection: Connection, look: Look) -> None:
    """The process's own loop: it ends when nobody asks any more."""
    # Ctrl-C reaches every process of the terminal; the one that asks decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _limit_memory()
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except (EOFError, OSError):
            return
        signal.alarm(int(request["limit_s"]) + _GRACE_S)
        reply = json.dumps(look(request["path"]))
        signal.alarm(0)
        connection.send_bytes(reply.encode())


def _limit_memory() -> None:
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = used + _MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
