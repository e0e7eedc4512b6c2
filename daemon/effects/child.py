"""Runs a module of ours in a process of its own that may crash, hang or eat memory.

Owns the process, its limits and the exchange with it; knows nothing of what is asked. Both sides are here: `Child`
asks, `serve` answers. What comes back is a JSON object and bytes, checked for size and never unpickled: a file that
took the child over can say something wrong, no more.

The child dies with its parent, even while it hangs in a library that holds Python's lock: the kernel kills it when the
last writing end of a pipe that nobody writes to is closed (fcntl(2), O_ASYNC with F_SETSIG). A parent-death signal
(prctl(2)) would come when the thread ends that started the child, and a thread in the child that waits for the end
would never get its turn.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, Final

Message = dict[str, Any]
Reply = tuple[Message, bytearray]
Answer = Callable[[Message], tuple[Message, bytes]]
Beat = Callable[[], None]

_FRAME: Final = struct.Struct("!II")  # the sizes of what follows: JSON, bytes
_JSON_MAX, _BYTES_MAX, _TOLD_MAX = 16 << 20, 256 << 20, 4000

# A child is renewed after so many calls: libraries leak. One start per 5,000 calls costs a call 0.1 ms.
_CALLS = 5000
# The start is imports from a slow disk, on a machine with other things to do.
_START_S, _SLICE_S = 60.0, 1.0
# A killed process is gone in milliseconds, unless it waits for a disk that does not answer: then it cannot be killed.
_REAP_S, _LOST_MAX = 3.0, 4

# A stop, by systemd to every process of the service or by Ctrl-C, is the parent's business: it finishes what it has
# in hand, and for that it needs its child.
_PARENTS_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# The child is not the service.
_SERVICES_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")


class ChildError(Exception):
    """Raised only as one of its children; the child process is gone, and the next call starts a new one."""


class ChildUnavailable(ChildError):
    """Raised when no child can be started: nothing was asked yet."""


class ChildTimeout(ChildError):
    """Raised when an answer took longer than `limit_s`; `busy_s` is the processor time that went into it."""

    def __init__(self, limit_s: float, busy_s: float) -> None:
        self.limit_s = limit_s
        self.busy_s = busy_s
        super().__init__(f"gave no answer within {limit_s:.0f} s (busy for {busy_s:.0f} s)")


class ChildDied(ChildError):
    """Raised when the child ended before it answered, or answered what is no reply.

    `how` says it in words, `killed_by` is the signal that ended it, and `told` the end of what it wrote to stderr.
    """

    def __init__(self, how: str, killed_by: int | None, told: str) -> None:
        self.how = how
        self.killed_by = killed_by
        self.told = told
        super().__init__(how)


class _Silent(Exception):
    """Raised when the time is over."""


class _Closed(Exception):
    """Raised when the child has closed its end of a pipe."""


class _Garbled(Exception):
    """Raised when what came is no reply."""


class Child:
    """One child process, started when it is first needed and again after its end. Use it from one thread."""

    def __init__(
        self, module: str, *, memory_bytes: int, environment: Mapping[str, str] | None = None, calls: int = _CALLS
    ) -> None:
        """Run `module`, whose `__main__` calls `serve`, with `environment` besides our own.

        It may use `memory_bytes` beyond what it has after its imports; it is renewed after `calls` calls.
        """
        self._module = module
        self._memory_bytes = memory_bytes
        self._environment = dict(environment or {})
        self._calls = calls
        self._running: _Running | None = None
        self._lost: list[subprocess.Popen[bytes]] = []

    @property
    def pid(self) -> int | None:
        """The process's number; None while none runs."""
        return self._running.process.pid if self._running is not None else None

    def call(self, request: Message, timeout_s: float, beat: Beat | None = None) -> Reply:
        """What the child answers to `request`: a JSON object and bytes.

        `beat` is called every second while it takes; what it raises ends the child and goes on to the caller.

        Raises:
            ChildUnavailable, ChildTimeout, ChildDied: there is no answer.
        """
        running = self._running
        if running is not None and (running.calls >= self._calls or running.process.poll() is not None):
            self.close()
        if self._running is None:
            self._running = self._start(beat)
        running = self._running
        running.calls += 1
        running.told()
        try:
            return self._exchange(running, request, timeout_s, beat)
        except BaseException:
            # Whatever went wrong: the answer to this question must not be taken for that to the next one.
            self.close()
            raise

    def _exchange(self, running: _Running, request: Message, timeout_s: float, beat: Beat | None) -> Reply:
        busy_s = _busy_s(running.process.pid)
        deadline = time.monotonic() + timeout_s
        try:
            _send(running.requests, request, deadline, beat)
            return _receive(running.replies, deadline, beat)
        except _Silent:
            raise ChildTimeout(timeout_s, _busy_s(running.process.pid) - busy_s) from None
        except _Garbled as nonsense:
            raise ChildDied(f"it sent {nonsense}", None, running.told()) from None
        except _Closed:
            raise running.died() from None

    def close(self) -> None:
        """End the child, if one runs; the next call starts a new one."""
        if self._running is None:
            return
        running, self._running = self._running, None
        if not running.end():
            self._lost.append(running.process)

    def _start(self, beat: Beat | None) -> _Running:
        self._lost = [process for process in self._lost if process.poll() is None]
        if len(self._lost) >= _LOST_MAX:
            raise ChildUnavailable(f"{len(self._lost)} earlier ones still wait for a disk that does not answer")
        try:
            running = _launch(self._module, self._memory_bytes, self._environment)
        except OSError as error:
            raise ChildUnavailable(error.strerror or str(error)) from error
        ready = False
        try:
            _receive(running.replies, time.monotonic() + _START_S, beat)
            ready = True
        except _Silent:
            raise ChildUnavailable(f"it was not ready after {_START_S:.0f} s") from None
        except (_Closed, _Garbled):
            died = running.died()
            raise ChildUnavailable(f"{died.how}: {died.told}") from None
        finally:
            if not ready and not running.end():
                self._lost.append(running.process)
        return running


@dataclass(slots=True)
class _Running:
    """A child process with our ends of its pipes."""

    process: subprocess.Popen[bytes]
    requests: int
    replies: int
    output: int
    lifeline: int
    calls: int = 0

    def told(self) -> str:
        """The end of what it wrote to stdout and stderr since it was last asked."""
        text = b""
        with contextlib.suppress(OSError):
            # A pipe holds 64 KiB; one that goes on talking is not listened to for ever.
            for _ in range(16):
                text = (text + os.read(self.output, 1 << 16))[-_TOLD_MAX:]
        return text.decode("utf-8", "replace").strip()

    def died(self) -> ChildDied:
        """How it ended, after it closed its end of a pipe."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_REAP_S)
        code = self.process.poll()
        if code is None:
            return ChildDied("it stopped listening", None, self.told())
        if code >= 0:
            return ChildDied(f"exit code {code}", None, self.told())
        return ChildDied(f"signal {-code}, {(signal.strsignal(-code) or 'unknown').lower()}", -code, self.told())

    def end(self) -> bool:
        """Kill it and close the pipes; False where it cannot be killed now."""
        self.process.kill()
        for descriptor in (self.requests, self.replies, self.output, self.lifeline):
            os.close(descriptor)
        try:
            self.process.wait(_REAP_S)
        except subprocess.TimeoutExpired:
            return False
        return True


def _launch(module: str, memory_bytes: int, environment: Mapping[str, str]) -> _Running:
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:

        def pipe(*, reads: bool) -> tuple[int, int]:
            """Their end, which reads or does not, and ours."""
            ends = os.pipe()
            their_end, our_end = ends if reads else reversed(ends)
            theirs.callback(os.close, their_end)
            ours.callback(os.close, our_end)
            os.set_blocking(our_end, False)
            return their_end, our_end

        requests, our_requests = pipe(reads=True)
        replies, our_replies = pipe(reads=False)
        lifeline, our_lifeline = pipe(reads=True)
        # Nobody reads it before it is needed: a library that says too much must not wait for that.
        output, our_output = pipe(reads=False)
        os.set_blocking(output, False)
        # -P: the working directory may be anybody's music folder, with anybody's modules in it.
        command = [sys.executable, "-P", "-X", "faulthandler", "-m", module]
        with _held(_PARENTS_SIGNALS):
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [*command, str(requests), str(replies), str(lifeline), str(memory_bytes)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(requests, replies, lifeline),
                env=_environment(environment),
            )
        ours.pop_all()
        return _Running(process, our_requests, our_replies, our_output, our_lifeline)


@contextlib.contextmanager
def _held(signals: tuple[signal.Signals, ...]) -> Iterator[None]:
    """What is started inside never gets `signals`: a process keeps the mask that it was started with."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if name not in _SERVICES_VARIABLES}
    # The same modules as ours, also where the program runs from a checkout.
    return ours | {"PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)} | dict(extra)


def _busy_s(pid: int) -> float:
    """The processor time that a process has used, in seconds (proc(5), stat: utime and stime)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# The exchange, our side: no call waits beyond the deadline.


def _send(descriptor: int, request: Message, deadline: float, beat: Beat | None) -> None:
    text = json.dumps(request).encode()
    rest = memoryview(_FRAME.pack(len(text), 0) + text)
    while rest:
        _wait(descriptor, select.POLLOUT, deadline, beat)
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BrokenPipeError:
            raise _Closed from None
        except OSError as error:
            raise ChildUnavailable(f"nothing can be sent to it: {error.strerror}") from error


def _receive(descriptor: int, deadline: float, beat: Beat | None) -> Reply:
    text_size, size = _FRAME.unpack(_read(descriptor, _FRAME.size, deadline, beat))
    if text_size > _JSON_MAX or size > _BYTES_MAX:
        raise _Garbled(f"a reply of {text_size} and {size} bytes")
    text = _read(descriptor, text_size, deadline, beat)
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise _Garbled("what is not JSON") from None
    if not isinstance(message, dict):
        raise _Garbled("what is no JSON object")
    return message, _read(descriptor, size, deadline, beat)


def _read(descriptor: int, size: int, deadline: float, beat: Beat | None) -> bytearray:
    buffer = bytearray(size)
    with memoryview(buffer) as view:
        done = 0
        while done < size:
            _wait(descriptor, select.POLLIN, deadline, beat)
            try:
                got = os.readv(descriptor, [view[done:]])
            except OSError as error:
                raise ChildUnavailable(f"its answer cannot be read: {error.strerror}") from error
            if not got:
                raise _Closed
            done += got
    return buffer


def _wait(descriptor: int, event: int, deadline: float, beat: Beat | None) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    while True:
        left_s = deadline - time.monotonic()
        if poll.poll(1000 * max(0.0, min(left_s, _SLICE_S))):
            return
        if left_s <= 0:
            raise _Silent
        if beat is not None:
            beat()


# The child's side


def serve(answer: Answer) -> None:
    """Answer the parent's requests until it has no more; call it from the `__main__` of the module that is the child.

    What `answer` raises ends the process, and its traceback is what the parent is told.
    """
    requests, replies, lifeline, memory_bytes = map(int, sys.argv[1:])
    _die_with_parent(lifeline)
    _bound(memory_bytes)
    with open(requests, "rb") as source, open(replies, "wb") as sink:
        _write(sink, {"ready": True}, b"")
        while frame := source.read(_FRAME.size):
            text_size, size = _FRAME.unpack(frame)
            message = json.loads(source.read(text_size))
            source.read(size)
            _write(sink, *answer(message))


def _write(sink: IO[bytes], message: Message, body: bytes) -> None:
    text = json.dumps(message).encode()
    sink.write(_FRAME.pack(len(text), len(body)) + text)
    sink.write(body)
    sink.flush()


def _die_with_parent(lifeline: int) -> None:
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)
    # The parent may have ended before we listened. Nothing is ever written, so that whatever can be read is the end.
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    if poll.poll(0):
        sys.exit("the parent is gone")


def _bound(memory_bytes: int) -> None:
    """No more than `memory_bytes` from here on, no core dump, and the first to go when the machine's memory is short.

    RLIMIT_DATA counts what can be written and is not shared: not the code of libraries, nor address space that is
    only reserved, as RLIMIT_AS does. Where a sandbox forbids limits the one of its service has to do.
    """
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):
        limit = _writable_bytes() + memory_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")


def _writable_bytes() -> int:
    """The memory that RLIMIT_DATA counts (proc(5), status: VmData)."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData:"))
