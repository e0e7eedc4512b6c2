"""How files arrive in real life, by real processes: whatever the program does, only a whole file is queued.

No time is guessed: for each state that reaches the queue it holds that the file had been quiet for `quiet_s`, and a
program goes on when it is told to.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest
import wired

from daemon.core.config import Settle
from daemon.core.records import FileState
from daemon.effects import scan, writers

QUIET_S = 0.3
DEADLINE_S = 30.0
WHOLE = 400_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "music"
    root.mkdir()
    return root


@pytest.fixture
def subject(root: Path, tmp_path: Path) -> Iterator[wired.Wired]:
    with wired.wired(root, tmp_path / "state", Settle(quiet_s=QUIET_S)) as subject:
        yield subject


class Program:
    """A program that writes; it prints a line after each step, and takes the next one when told."""

    def __init__(self, code: str, *arguments: Path | str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"import os, sys\ndef step(): print(flush=True); sys.stdin.readline()\n{code}"]
            + [str(argument) for argument in arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._at_step()

    def go_on(self) -> None:
        """Let it take the next step, and wait until it has."""
        _pipe(self._process.stdin).write(b"\n")
        _pipe(self._process.stdin).flush()
        self._at_step()

    def _at_step(self) -> None:
        _pipe(self._process.stdout).readline()

    def end(self) -> None:
        """Let it take its last step and end."""
        self._process.communicate(b"\n", timeout=DEADLINE_S)
        assert self._process.returncode == 0


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.01)


def queued(subject: wired.Wired, path: Path) -> FileState | None:
    return subject.queue.states().get(path)


def stays_unqueued(subject: wired.Wired, path: Path, for_s: float) -> None:
    """The file goes by as unfinished for so long, though everything looks at it meanwhile."""
    deadline = time.monotonic() + for_s
    while time.monotonic() < deadline:
        assert queued(subject, path) is None, "queued while it was still being written"
        time.sleep(0.02)


def ends_queued_whole(subject: wired.Wired, path: Path) -> FileState:
    """The file is queued in its final state."""
    wait_until(lambda: (state := queued(subject, path)) is not None and state == scan.state_of(path))
    state = scan.state_of(path)
    assert state is not None
    assert state.size == WHOLE
    return state


def ends_queued_after_quiet(subject: wired.Wired, path: Path) -> None:
    """As above, and never before: a job keeps the time at which its file first settled."""
    state = ends_queued_whole(subject, path)
    job = subject.queue.lease(60.0)
    assert job is not None
    assert (job.path, job.state) == (path, state)
    assert job.settled_at - state.mtime_ns / 1e9 >= QUIET_S - 0.02


COPY_THAT_STOPS = f"""
with open(sys.argv[1], 'wb', buffering=0) as file:
    file.write(bytes({WHOLE} // 2))
    step()
    file.write(bytes({WHOLE} // 2))
"""


def test_a_copy_that_stops_halfway_with_the_file_open_is_waited_for(subject: wired.Wired, root: Path) -> None:
    """Size and time stand still for many quiet times: only the kernel knows that somebody still writes."""
    path = root / "song.wav"
    (root / "probe").touch()
    if writers.writers_of(root / "probe") is writers.Writers.UNKNOWN:
        pytest.skip("the kernel does not tell here who writes to a file")
    program = Program(COPY_THAT_STOPS, path)
    stays_unqueued(subject, path, 6 * QUIET_S)
    program.end()
    ends_queued_after_quiet(subject, path)


TORRENT = f"""
with open(sys.argv[1], 'wb') as file:
    os.posix_fallocate(file.fileno(), 0, {WHOLE})
order = [7, 2, 0, 5, 9, 1, 8, 3, 6, 4]
for piece in order:
    step()
    with open(sys.argv[1], 'r+b') as file:
        file.seek(piece * {WHOLE} // 10)
        file.write(b'x' * ({WHOLE} // 10))
"""


def test_a_torrent_that_has_its_full_size_from_the_start_is_waited_for(subject: wired.Wired, root: Path) -> None:
    """Pieces come in any order, each by opening and closing the file: nothing but the modification time moves."""
    path = root / "song.wav"
    program = Program(TORRENT, path)
    for _ in range(9):
        before = scan.state_of(path)
        program.go_on()
        stays_unqueued_since(subject, path, before)
    program.end()
    ends_queued_whole(subject, path)
    assert path.read_bytes() == b"x" * WHOLE


def stays_unqueued_since(subject: wired.Wired, path: Path, before: FileState | None) -> None:
    """For two thirds of the quiet time; a machine that slept through more of it may have queued `before`."""
    until = time.monotonic() + QUIET_S * 2 / 3
    while time.monotonic() < until:
        assert queued(subject, path) in (None, before)
        time.sleep(0.02)


DOWNLOADER = f"""
with open(sys.argv[1], 'wb') as file:
    file.write(bytes({WHOLE} // 2))
step()
with open(sys.argv[1], 'ab') as file:
    file.write(bytes({WHOLE} // 2))
"""


def test_a_file_that_is_opened_again_long_after_it_was_closed_is_queued_anew(subject: wired.Wired, root: Path) -> None:
    """The second close event of a download was seen 6 s after the first: what is queued takes on the newer state."""
    path = root / "song.wav"
    program = Program(DOWNLOADER, path)
    wait_until(lambda: queued(subject, path) is not None)
    program.end()
    ends_queued_whole(subject, path)
    assert len(subject.queue) == 1


def test_a_file_that_is_opened_again_while_it_is_worked_on_comes_back(subject: wired.Wired, root: Path) -> None:
    """The worker has leased the first state; being done with that one must not do away with the second."""
    path = root / "song.wav"
    program = Program(DOWNLOADER, path)
    wait_until(lambda: queued(subject, path) is not None)
    first = subject.queue.lease(60.0)
    assert first is not None
    program.end()
    wait_until(lambda: queued(subject, path) == scan.state_of(path))
    subject.queue.done(first)
    ends_queued_whole(subject, path)


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
@pytest.mark.parametrize("option", ["--whole-file", "--inplace", "--partial-dir=.rsync-partial", "--delay-updates"])
def test_what_rsync_brings_is_queued_once_under_its_own_name(
    subject: wired.Wired, root: Path, tmp_path: Path, option: str
) -> None:
    """Its temporary names, and .~tmp~ of --delay-updates, never count as music."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("song.wav", "...And Justice.wav"):
        (source / name).write_bytes(os.urandom(WHOLE))
    subprocess.run(["rsync", "--archive", "--bwlimit=2M", option, f"{source}/", str(root)], check=True)
    songs = {root / "song.wav", root / "...And Justice.wav"}
    assert subject.misses(songs, DEADLINE_S) == set()
    wait_until(lambda: subject.intake.settling == 0)
    assert {path: state.size for path, state in subject.queue.states().items()} == dict.fromkeys(songs, WHOLE)


def test_a_file_under_another_name_until_it_is_whole_is_queued_under_its_last(subject: wired.Wired, root: Path) -> None:
    code = f"""
with open(sys.argv[1] + '.part', 'wb') as file:
    file.write(bytes({WHOLE}))
step()
os.rename(sys.argv[1] + '.part', sys.argv[1])
"""
    program = Program(code, root / "song.wav")
    program.end()
    ends_queued_after_quiet(subject, root / "song.wav")
    assert len(subject.queue) == 1


def test_a_file_that_is_never_closed_is_taken_in_the_end(root: Path, tmp_path: Path) -> None:
    """A recorder, or a torrent client that seeds: it must not be hidden for ever, nor taken early."""
    settle = Settle(quiet_s=QUIET_S, patience_s=4 * QUIET_S)
    with wired.wired(root, tmp_path / "state", settle) as subject:
        program = Program(COPY_THAT_STOPS, root / "song.wav")
        wait_until(lambda: queued(subject, root / "song.wav") is not None)
        job = subject.queue.lease(60.0)
        assert job is not None
        assert job.settled_at - job.state.mtime_ns / 1e9 >= QUIET_S - 0.02
        program.end()
        wait_until(lambda: queued(subject, root / "song.wav") == scan.state_of(root / "song.wav"))
