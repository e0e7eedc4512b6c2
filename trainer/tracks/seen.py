"""Remembers what was found in files, so that a file which has not changed is not opened again. Never opens one.

One JSON object a line, added as the files are looked into: a build that is killed has lost at most its last line.

Format versions of the first line:
    1  av (the version of PyAV, whose FFmpeg decides what a file's sound is).
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from daemon.core.tagtext import Tags
from trainer.tracks.examine import Examined

NAME = "seen.jsonl"
FORMAT_VERSION = 1

_LINES_PER_FLUSH = 64


class Seen:
    """What is known of files, kept at `folder`/seen.jsonl. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        """Read what is there; a file of another version, or of another FFmpeg, counts for nothing.

        Raises:
            OSError: it cannot be read or written.
        """
        self._path = folder / NAME
        self._head = json.dumps({"format_version": FORMAT_VERSION, "av": importlib.metadata.version("av")})
        self._known: dict[Path, Examined] = {}
        lines, whole = _lines(self._path)
        ours = lines if lines[:1] == [self._head] else []
        learnt = sum(self._learn(line) for line in ours[1:])
        # Rewritten where much of it is out of date, and where a killed build has left half a line.
        if not whole or learnt + 1 < len(lines) or not ours or learnt > 2 * len(self._known):
            self._rewrite()
        self._pending = 0

    def __enter__(self) -> Seen:
        self._out: TextIO = open(self._path, "a", encoding="utf-8")
        return self

    def __exit__(self, *error: object) -> None:
        self._out.close()

    def get(self, path: Path, status: os.stat_result) -> Examined | None:
        """What was found at `path`, if the file is as it was then."""
        known = self._known.get(path)
        if known is None or (known.size, known.mtime_ns) != (status.st_size, status.st_mtime_ns):
            return None
        return known

    def add(self, examined: Examined) -> None:
        """Remember what was found, unless it may be otherwise the next time.

        Raises:
            OSError: the disk is full.
        """
        if not examined.lasting:
            return
        self._known[examined.path] = examined
        self._out.write(_line(examined))
        self._pending += 1
        if self._pending >= _LINES_PER_FLUSH:
            self._out.flush()
            self._pending = 0

    def _learn(self, line: str) -> bool:
        try:
            fields: dict[str, Any] = json.loads(line)
            tags = Tags(**fields.pop("tags"))
            path = Path(fields.pop("path"))
            self._known[path] = Examined(path, tags=tags, **fields)
        except (ValueError, TypeError, KeyError, AttributeError):
            return False
        return True

    def _rewrite(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_name(f".{NAME}.part")
        try:
            draft.write_text("".join([f"{self._head}\n", *map(_line, self._known.values())]), encoding="utf-8")
            os.replace(draft, self._path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise


def _lines(path: Path) -> tuple[list[str], bool]:
    """The lines of the file at `path`, and whether the last one is whole."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return [], False
    return text.splitlines(), text.endswith("\n")


def _line(examined: Examined) -> str:
    # ASCII: names that are no UTF-8 come back as they were.
    return json.dumps(dataclasses.asdict(examined) | {"path": str(examined.path)}) + "\n"


def known_states(paths: Iterable[Path]) -> dict[Path, os.stat_result]:
    """The state of each of these that is a regular file; what is missing or something else is left out."""
    states = {}
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            continue
        if (status.st_mode & 0o170000) == 0o100000:
            states[path] = status
    return states
