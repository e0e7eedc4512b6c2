"""A small dose of `tests/bench/chaos.py`: killed, starved of system calls, and asked to take everything back."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHAOS = Path(__file__).parent / "bench" / "chaos.py"

pytestmark = pytest.mark.slow


def harmless(*options: str) -> str:
    """What the script prints, which ends with 1 where anything was harmed."""
    done = subprocess.run([sys.executable, str(CHAOS), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_killed_at_random_moments_nothing_is_harmed_in_any_container() -> None:
    told = harmless("--only", "kills", "--kills", "25", "--seed", "3")
    assert told.splitlines()[-1].split()[1] == "25"


def test_files_of_every_container_go_back_to_their_bytes_and_places() -> None:
    told = harmless("--only", "undo", "--files", "28")
    assert told.splitlines()[-1].split()[:5] == ["28", "28", "56", "28", "28"]


def may_trace() -> bool:
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not may_trace(), reason="strace is not installed, or may not trace here")
@pytest.mark.parametrize(
    ("job", "calls", "most"),
    [("tag", ("rename", "pwrite64"), 3), ("move", ("renameat2", "fsync"), 3), ("undo move", ("fdatasync",), 2)],
)
def test_a_system_call_that_fails_harms_nothing(job: str, calls: tuple[str, ...], most: int) -> None:
    told = harmless("--only", "faults", "--jobs", job, "--most", str(most), "--calls", *calls)
    assert "System calls that fail" in told
