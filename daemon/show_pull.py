"""Prints what can be pulled, and how a pull comes along: a bar on a terminal, lines elsewhere. Decides nothing."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from daemon.core.catalogue import Pretrained, RemoteFile
from daemon.pulling import Arrival, Known
from daemon.show import printable

_STEP_BYTES = 10_000_000
_KNOWN = {
    Known.CATALOGUE: "with the hash of the catalogue",
    Known.OWNER: "with the hash that you gave",
    Known.RECORD: "with the hash of the first pull",
    Known.NOBODY: "trusted; its hash is recorded now, and any other will be refused",
}


def catalogue(entries: Sequence[tuple[Pretrained, bool]], as_json: bool) -> None:
    """Print what can be pulled, each with whether it is here."""
    if as_json:
        for entry, here in entries:
            _print_json(_entry_fields(entry) | {"here": here})
        return
    table = Table(box=None)
    for name in ("", "name", "size", "licence", "hash"):
        table.add_column(name, no_wrap=True)
    table.add_column("for")
    for entry, here in entries:
        known = "known" if entry.weights.sha256 else "not known"
        short = next((f" ({alias})" for alias in entry.aliases if "/" not in alias), "")
        row = (entry.name + short, _size(entry.size_bytes), entry.licence, known, entry.what_for)
        table.add_row("*" if here else "", *map(Text, row))
    Console(soft_wrap=True).print(table)


def _entry_fields(entry: Pretrained) -> dict[str, Any]:
    files = [{"name": f.name, "url": f.url, "sha256": f.sha256, "size_bytes": f.size_bytes} for f in entry.files]
    return {
        "name": entry.name,
        "aliases": list(entry.aliases),
        "licence": entry.licence,
        "for": entry.what_for,
        "origin": entry.origin,
        "files": files,
        "bundle": entry.bundle_id,
    }


@contextlib.contextmanager
def transfer(file: RemoteFile) -> Iterator[Callable[[int, int | None], None]]:
    """Shows the bytes of one file as they come; on standard error, so that results can go into a file or pipe."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(file.name).advance
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(file.name, total=file.size_bytes)
        yield lambda done, total: bar.update(task, completed=done, total=total or file.size_bytes)


class _Lines:
    """A line at every tenth, or at every 10 MB where nobody says how much there is."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._told: int | None = None

    def advance(self, done: int, total: int | None) -> None:
        step = done * 10 // total if total else done // _STEP_BYTES
        if step == self._told:
            return
        self._told = step
        line = f"{self._name}: {_size(done)}" + (f" of {_size(total)} ({done * 100 // total} %)" if total else "")
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def arrivals(found: Sequence[Arrival]) -> None:
    """Print, for people, what came and who told its hash."""
    for each in found:
        sys.stdout.write(f"{printable(each.path)}: {each.how.value}, {_KNOWN[each.known]}\n")
        if each.known is Known.NOBODY:
            sys.stdout.write(f"  SHA-256 {each.sha256}\n")


def outcome(entry: Pretrained, found: Sequence[Arrival], bundle: str | None, note: str) -> None:
    """Print the whole pull as one JSON object."""
    files = [
        {"path": str(a.path), "sha256": a.sha256, "how": a.how.value, "hash_known_by": a.known.value} for a in found
    ]
    _print_json({"name": entry.name, "files": files, "bundle": bundle, "note": note})


def _size(count: int | None) -> str:
    if count is None:
        return "?"
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()
