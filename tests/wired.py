"""Watcher, intake, queue and ledger wired as the service wires them, without what comes after the queue.

And the processes that pour files into a watched folder: they are others' programs, so they run as processes.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from daemon.core.config import Root, Settle
from daemon.core.ledger import Ledger
from daemon.effects.queue import Queue
from daemon.effects.watch import Watch, Watcher
from daemon.intake import Intake


class Wired:
    """A watched folder whose settled files wait in `queue`. Knows which paths events told of, and each loss."""

    def __init__(self, root: Path, state: Path, settle: Settle, poll_s: float | None = None) -> None:
        self.root = root
        self.ledger, self.queue = Ledger(state / "ledger.db"), Queue(state / "queue.db")
        self.intake = Intake(self.ledger, self.queue, [Root(path=root)], settle)
        self.watcher = Watcher(self._on_touch, self._on_loss)
        self.told: set[Path] = set()
        self.losses: list[str] = []
        self.rescans = 0
        self._poll_s = poll_s
        self._stop = threading.Event()
        self._rescan_wanted = threading.Event()
        self._threads = [threading.Thread(target=loop) for loop in (self._settle, self._rescan, self._heal)]

    def start(self) -> None:
        self.watcher.start([Watch(self.root, self._poll_s, fallback_s=0.5)])
        self._rescan_wanted.set()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        self.intake.wake()
        self._rescan_wanted.set()
        for thread in self._threads:
            thread.join()
        # Last: one who heals meanwhile would take up again what was stopped.
        self.watcher.stop()
        self.queue.close()
        self.ledger.close()

    def rescan(self) -> None:
        """Ask for a rescan, as the schedule does."""
        self._rescan_wanted.set()

    def look_through(self, longest_s: float) -> None:
        """Wait for a rescan that began after this call: the first to end may have begun before."""
        for _ in range(2):
            ended, deadline = self.rescans, time.monotonic() + longest_s
            self.rescan()
            while self.rescans == ended:
                assert time.monotonic() < deadline, "no rescan came to its end"
                time.sleep(0.01)

    def misses(self, paths: set[Path], longest_s: float, before: int = 0) -> set[Path]:
        """Wait until all of `paths` are queued, beside `before` others; those that are not after `longest_s`."""
        deadline = time.monotonic() + longest_s
        while len(self.queue) < before + len(paths) and time.monotonic() < deadline:
            time.sleep(0.05)
        while (missing := paths - set(self.queue.states())) and time.monotonic() < deadline:
            time.sleep(0.5)
        return missing

    def _on_touch(self, path: Path) -> None:
        self.told.add(path)
        self.intake.touch(path)

    def _on_loss(self, root: Path, reason: str) -> None:
        self.losses.append(reason)
        self._rescan_wanted.set()

    def _settle(self) -> None:
        while not self._stop.is_set():
            self.intake.step(5.0)

    def _rescan(self) -> None:
        while not self._stop.is_set():
            if self._rescan_wanted.wait(5.0):
                self._rescan_wanted.clear()
                self.intake.rescan(lambda: not self._stop.is_set())
                self.rescans += 1

    def _heal(self) -> None:
        while not self._stop.wait(1.0):
            self.watcher.heal()


@contextlib.contextmanager
def wired(root: Path, state: Path, settle: Settle, poll_s: float | None = None) -> Iterator[Wired]:
    """A `Wired` at work."""
    subject = Wired(root, state, settle, poll_s)
    subject.start()
    try:
        yield subject
    finally:
        subject.stop()


# Programs that write. Each takes a folder and a number of files, some where to take them; a name is always N.wav.
_PROGRAMS = {
    "create": "for n in range(count): write(f'{folder}/{n}.wav')",
    "tree": """
for n in range(count):
    album = f'{folder}/{n // 100}/{n // 10}'
    if n % 10 == 0:
        os.makedirs(album)
    write(f'{album}/{n}.wav')
""",
    "rename": "for n in range(count): os.rename(f'{folder}/{n}.wav', f'{folder}/0{n}.wav')",
    "copy": "shutil.copytree(source, folder)",
    "move": "os.rename(source, folder)",
}
_COMMON = """
import os, shutil, struct, sys
folder, count, source = sys.argv[1], int(sys.argv[2]), sys.argv[3]
fmt = struct.pack('<IHHIIHH', 16, 1, 1, 8000, 8000, 1, 8)
sound = b'RIFF' + struct.pack('<I', 44) + b'WAVEfmt ' + fmt + b'data' + struct.pack('<I', 8) + bytes(8)
def write(path):
    with open(path, 'wb') as file:
        file.write(sound)
"""


def command(program: str, folder: Path, count: int = 0, source: Path = Path()) -> list[str]:
    """How one of the programs is run."""
    return [sys.executable, "-c", _COMMON + _PROGRAMS[program], str(folder), str(count), str(source)]


def start_writing(program: str, folder: Path, count: int = 0, source: Path = Path()) -> subprocess.Popen[bytes]:
    """Start one of the programs."""
    return subprocess.Popen(command(program, folder, count, source))


def write(program: str, folder: Path, count: int = 0, source: Path = Path()) -> None:
    """Run one of the programs to its end."""
    assert start_writing(program, folder, count, source).wait() == 0


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes compute and nothing else."""
    hogs: Sequence[subprocess.Popen[bytes]] = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)
    ]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
