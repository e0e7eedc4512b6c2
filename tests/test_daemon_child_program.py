"""Another program of ours, run to its end: its lines are passed on, its end is told, and it never outlives us."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daemon.effects import child_program

TALKER = """
import os, sys
print("pid", os.getpid(), flush=True)
print(" ".join(sys.argv[1:]), file=sys.stderr, flush=True)
sys.stdout.buffer.write(b"caf\\xe9\\n")
sys.exit(3)
"""

SLEEPER = """
import os, time
print(os.getpid(), flush=True)
while True:
    time.sleep(1)
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "talker.py").write_text(TALKER)
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("modules")
def test_lines_and_the_exit_code_are_passed_on() -> None:
    lines: list[str] = []
    assert child_program.run("talker", ["one", "two words"], lines.append) == 3
    assert lines[0].startswith("pid ") and lines[0] != f"pid {os.getpid()}"
    assert set(lines[1:]) == {"one two words", "caf\N{REPLACEMENT CHARACTER}"}


@pytest.mark.usefixtures("modules")
def test_it_ends_with_whoever_listens_to_it() -> None:
    """Ctrl-C while a line is shown, for instance."""
    seen: list[int] = []

    def interrupted(line: str) -> None:
        seen.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        child_program.run("sleeper", [], interrupted)
    with pytest.raises(ProcessLookupError):
        os.kill(seen[0], 0)


def test_what_is_not_installed_is_named_without_being_imported() -> None:
    assert child_program.missing(("json", "a_library_that_nobody_has")) == ("a_library_that_nobody_has",)
