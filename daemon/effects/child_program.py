"""Runs another program of ours to its end, in a process of its own: with `child` the only module with subprocess.

Owns the process and its output. Knows nothing of what the program does; unlike a `child` it is asked nothing, may take
as long and as much memory as it needs, and is stopped with us by the same Ctrl-C.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Sequence


def missing(modules: Sequence[str]) -> tuple[str, ...]:
    """Those of `modules` (top-level names) that are not installed; imports none of them."""
    return tuple(name for name in modules if importlib.util.find_spec(name) is None)


def run(module: str, arguments: Sequence[str], say: Callable[[str], None]) -> int:
    """Run `module` as a program with `arguments`, and pass on each line that it writes; its exit code.

    A negative code is the signal that ended it. Whatever ends us ends it too: an exception here, or Ctrl-C, which the
    terminal sends to both.

    Raises:
        OSError: it cannot be started.
    """
    # -P: the working directory may be anybody's music folder, with anybody's modules in it.
    command = [sys.executable, "-P", "-m", module, *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=environment,
    )
    with process:
        assert process.stdout is not None, "a pipe was asked for"
        try:
            for line in process.stdout:
                say(line.rstrip("\n"))
            return process.wait()
        except BaseException:
            process.kill()
            raise
