"""Runs the real daemon as a process for tests, and waits for its events instead of sleeping."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

Event = dict[str, Any]

# A loaded machine may be slow; a test that waits this long has failed.
PATIENCE_S = 60.0


class LiveDaemon:
    """A running `music-reclass run`; its log is read as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.events: list[Event] = []
        self.lines: list[str] = []
        self.printed: list[str] = []
        self._arrived: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        assert process.stderr is not None
        assert process.stdout is not None
        self._readers = [
            threading.Thread(target=self._read_events, args=(process.stderr,)),
            threading.Thread(target=self._read_output, args=(process.stdout,)),
        ]
        for reader in self._readers:
            reader.start()

    def _read_events(self, stream: Any) -> None:
        for line in stream:
            self.lines.append(line)
            with contextlib.suppress(ValueError):
                self._arrived.put(json.loads(line))
        self._arrived.put(None)

    def _read_output(self, stream: Any) -> None:
        self.printed.extend(stream)

    def wait_for(self, name: str, **fields: Any) -> Event:
        """The first event of this name and fields that was not waited for yet."""
        return self.wait_until(lambda event: event.get("event") == name and _has(event, fields), f"{name} {fields}")

    def wait_until(self, wanted: Callable[[Event], bool], what: str) -> Event:
        """The first event not waited for yet that is `wanted`; earlier ones stay available."""
        for event in self.events:
            if wanted(event):
                self.events.remove(event)
                return event
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                event = self._arrived.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no event: {what}; log:\n{''.join(self.lines)}") from None
            assert event is not None, f"the daemon ended before: {what}; log:\n{''.join(self.lines)}"
            if wanted(event):
                return event
            self.events.append(event)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        self.process.kill()
        self.ended()

    def ended(self) -> int:
        """Wait for the end, and the exit code."""
        code = self.process.wait(PATIENCE_S)
        for reader in self._readers:
            reader.join()
        assert self.process.stderr is not None
        assert self.process.stdout is not None
        self.process.stderr.close()
        self.process.stdout.close()
        return code


def _has(event: Event, fields: dict[str, Any]) -> bool:
    return all(event.get(key) == (str(value) if isinstance(value, Path) else value) for key, value in fields.items())


@contextlib.contextmanager
def daemon(arguments: Sequence[str | Path], home: Path, **environment: str) -> Iterator[LiveDaemon]:
    """`music-reclass ARGUMENTS…` running with `home` as its home; killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "daemon", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(home) | environment,
    )
    live = LiveDaemon(process)
    try:
        yield live
    finally:
        if process.poll() is None:
            live.kill()
        elif not process.stderr.closed:  # type: ignore[union-attr]
            live.ended()


def run(arguments: Sequence[str | Path], home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """One `music-reclass` command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "daemon", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=clean_environment(home) | environment,
        timeout=2 * PATIENCE_S,
        check=False,
    )


def clean_environment(home: Path) -> dict[str, str]:
    """The environment without anything that would lead the program to the developer's own files."""
    dropped = ("XDG_", "MUSIC_RECLASS", "STATE_DIRECTORY", "NOTIFY_", "WATCHDOG_", "JOURNAL_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    return kept | {"HOME": str(home), "PYTHONWARNINGS": "error", "COLUMNS": "200"}
