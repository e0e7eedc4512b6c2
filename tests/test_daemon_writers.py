"""Whether somebody has a file open for writing, asked of a real kernel about real processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.effects.writers import Writers, writers_of

HOLDER = """
import sys
file = open(sys.argv[1], sys.argv[2])
print("open", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def song(tmp_path: Path) -> Path:
    path = tmp_path / "song.mp3"
    path.write_bytes(b"sound")
    return path


@contextlib.contextmanager
def held_open(path: Path, mode: str) -> Iterator[None]:
    """Another process has `path` open."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        try:
            yield
        finally:
            holder.communicate("close\n", timeout=20)


@pytest.mark.parametrize("mode", ["ab", "r+b", "wb"])
def test_a_file_that_a_program_writes_to_is_being_written(song: Path, mode: str) -> None:
    with held_open(song, mode):
        assert writers_of(song) is Writers.SOME
        assert writers_of(song) is Writers.SOME, "asking must change nothing"


def test_a_file_that_a_player_reads_is_not(song: Path) -> None:
    with held_open(song, "rb"):
        assert writers_of(song) is Writers.NONE


def test_a_file_that_was_closed_is_not(song: Path) -> None:
    with held_open(song, "ab"):
        pass
    assert writers_of(song) is Writers.NONE


def test_a_file_of_our_own_still_open_for_writing_is(song: Path) -> None:
    with open(song, "ab"):
        assert writers_of(song) is Writers.SOME
    assert writers_of(song) is Writers.NONE


def test_a_missing_file_is_not(tmp_path: Path) -> None:
    assert writers_of(tmp_path / "gone.mp3") is Writers.UNKNOWN


def test_a_folder_and_a_pipe_are_not(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp3")
    assert writers_of(tmp_path) is not Writers.SOME
    assert writers_of(tmp_path / "pipe.mp3") is not Writers.SOME


def test_asking_leaves_no_descriptor_open(song: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        writers_of(song)
    assert len(os.listdir("/proc/self/fd")) == before


def test_writing_right_after_asking_is_not_held_up(song: Path) -> None:
    assert writers_of(song) is Writers.NONE
    with held_open(song, "ab"):
        pass
