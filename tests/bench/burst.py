"""Bursts of files into a watched folder: what the events alone tell of, and what is missed in the end.

    .ci/uv run --group dev python tests/bench/burst.py [--files 40000] [--folder DIR]

Watcher, intake, queue and ledger as the service wires them, beside watchdog's own observer with a handler that
collects paths. Every processor is kept busy meanwhile.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
from rich.console import Console
from rich.table import Table
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from wired import busy, wired, write

from daemon.core.config import Settle

# After so long without an event the burst is over for the plain observer.
_SILENCE_S = 5.0
_DEADLINE_S = 300.0


@dataclass
class Burst:
    """`prepare` runs before anyone watches, `pour` while they do; `paths` are where the files end."""

    name: str
    prepare: Callable[[Path], None]
    pour: Callable[[Path], None]
    paths: Callable[[Path], set[Path]]


@dataclass
class Outcome:
    """What one subject made of one burst."""

    told: int
    missed: int
    took_s: float
    cpu_s: float
    overflows: str = ""
    rescans: str = ""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=40_000, help="files in one folder; trees have half (40000)")
    parser.add_argument("--folder", type=Path, help="where to make the scratch library (the system's own)")
    parser.add_argument("--idle", action="store_true", help="leave the other processors idle")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    hogs = 0 if arguments.idle else os.cpu_count() or 1
    table = Table(title=f"bursts, with {hogs} processes computing beside")
    for name in ("burst", "files", "", "told by events", "overflows", "rescans", "missed", "until queued", "CPU"):
        table.add_column(name, justify="left" if name in ("burst", "") else "right")
    for burst, files in bursts(arguments.files):
        for name, subject in (("watchdog", plainly), ("this daemon", as_served)):
            with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch, busy(hogs):
                outcome = subject(burst, Path(scratch))
            table.add_row(
                *(burst.name if name == "watchdog" else "", f"{files:,}" if name == "watchdog" else "", name),
                *(f"{outcome.told:,}", outcome.overflows, outcome.rescans, f"{outcome.missed:,}"),
                *(f"{outcome.took_s:.1f} s", f"{outcome.cpu_s:.1f} s"),
            )
    Console(width=120).print(table)


def bursts(count: int) -> list[tuple[Burst, int]]:
    """Every burst, with its number of files."""
    half = count // 2

    def source_of(root: Path) -> Path:
        return root.parent / "source"

    def made_beside(root: Path) -> None:
        write("tree", source_of(root), half)

    def tree(root: Path) -> set[Path]:
        return {root / f"tree/{n // 100}/{n // 10}/{n}.wav" for n in range(half)}

    def flat(prefix: str, files: int) -> Callable[[Path], set[Path]]:
        return lambda root: {root / f"{prefix}{n}.wav" for n in range(files)}

    def nothing(root: Path) -> None:
        return None

    return [
        (Burst("files in one folder", nothing, lambda root: write("create", root, count), flat("", count)), count),
        (Burst("a tree written", nothing, lambda root: write("tree", root / "tree", half), tree), half),
        (
            Burst("a tree copied in", made_beside, lambda r: write("copy", r / "tree", source=source_of(r)), tree),
            half,
        ),
        (
            Burst("a tree moved in", made_beside, lambda r: write("move", r / "tree", source=source_of(r)), tree),
            half,
        ),
        (
            Burst(
                "a tree renamed",
                lambda root: write("tree", root / "old", half),
                lambda root: write("move", root / "tree", source=root / "old"),
                tree,
            ),
            half,
        ),
        (
            Burst(
                "files renamed",
                lambda root: write("create", root, half),
                lambda root: write("rename", root, half),
                flat("0", half),
            ),
            half,
        ),
    ]


def plainly(burst: Burst, scratch: Path) -> Outcome:
    """watchdog's observer, as its documentation shows it."""
    root = scratch / "music"
    root.mkdir()
    burst.prepare(root)
    told: set[str] = set()
    last_s = [time.monotonic()]

    class Collector(FileSystemEventHandler):
        def on_any_event(self, event: FileSystemEvent) -> None:
            told.add(os.fsdecode(event.dest_path or event.src_path))
            last_s[0] = time.monotonic()

    observer = Observer()
    observer.schedule(Collector(), str(root), recursive=True)
    observer.start()
    started, cpu = time.monotonic(), time.process_time()
    burst.pour(root)
    while time.monotonic() - last_s[0] < _SILENCE_S and time.monotonic() - started < _DEADLINE_S:
        time.sleep(0.1)
    cpu_s = time.process_time() - cpu
    observer.stop()
    observer.join()
    paths = {str(path) for path in burst.paths(root)}
    return Outcome(len(paths & told), len(paths - told), last_s[0] - started, cpu_s)


def as_served(burst: Burst, scratch: Path) -> Outcome:
    """This daemon, up to its queue."""
    root = scratch / "music"
    root.mkdir()
    burst.prepare(root)
    with wired(root, scratch, Settle()) as subject:
        standing = set(root.rglob("*.wav"))
        assert not subject.misses(standing, _DEADLINE_S), "the library that stood there must be queued first"
        subject.told.clear()
        subject.losses.clear()
        subject.rescans = 0
        started, cpu = time.monotonic(), time.process_time()
        burst.pour(root)
        paths = burst.paths(root)
        missing = subject.misses(paths, _DEADLINE_S, before=len(standing))
        took_s, cpu_s = time.monotonic() - started, time.process_time() - cpu
        told = len(paths & subject.told)
        overflows = sum("overflowed" in loss for loss in subject.losses)
        return Outcome(told, len(missing), took_s, cpu_s, str(overflows), str(subject.rescans))


if __name__ == "__main__":
    main()
