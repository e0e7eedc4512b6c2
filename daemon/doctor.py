"""Looks for what is wrong with this machine, config and state, and says it in plain words. It mends nothing."""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from daemon.core import bundle as bundles
from daemon.core.config import Config, Watch
from daemon.core.errors import ConfigError, LedgerDamaged, MusicReclassError
from daemon.core.inference import cuda_available
from daemon.effects import scan, watch
from daemon.workshop import Workshop


class Level(enum.StrEnum):
    """How much a finding matters."""

    GOOD = "good"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `advice` says what to do, where there is something to do."""

    level: Level
    what: str
    advice: str = ""


def examine(workshop: Workshop) -> list[Finding]:
    """Everything worth saying, the config first: without it nothing else can be looked at."""
    try:
        settings = workshop.config
    except ConfigError as error:
        return [Finding(Level.PROBLEM, f"config: {line}") for line in error.problems]
    source = workshop.config_path
    found = [Finding(Level.GOOD, f"config: {source or 'the built-in defaults'}")]
    found += _roots(settings)
    found += _state(workshop)
    found += _bundle(workshop, settings)
    found += _gpu()
    return found


def _roots(settings: Config) -> Iterator[Finding]:
    if not settings.roots:
        yield Finding(
            Level.NOTE, "no roots in the config: `run` watches ~/Music/reclass-inbox", "list your folders under roots:"
        )
    for root in settings.roots:
        path = root.path
        if not path.is_dir():
            yield Finding(Level.PROBLEM, f"{path}: is not there", "mount it, or correct roots: in the config")
        elif not os.access(path, os.R_OK | os.X_OK):
            yield Finding(Level.PROBLEM, f"{path}: cannot be read by this user", "run the daemon as the files' owner")
        elif not os.access(path, os.W_OK):
            yield Finding(
                Level.PROBLEM,
                f"{path}: cannot be written by this user, so no genre can be written there",
                "run the daemon as the files' owner, or set mode: dry-run; under systemd see ReadWritePaths",
            )
        elif not scan.is_inhabited(path):
            yield Finding(Level.NOTE, f"{path}: is empty", "if it should not be: is its volume mounted?")
        elif root.watch is Watch.INOTIFY and watch.is_on_network(path):
            yield Finding(
                Level.PROBLEM,
                f"{path}: is on a network file system, where inotify misses what other hosts write",
                "set watch: auto or poll",
            )
        elif root.watch is Watch.AUTO and watch.is_on_network(path):
            yield Finding(Level.GOOD, f"{path}: network file system, looked at every {root.poll_interval_s:g} s")
        else:
            yield from _inotify(path)


def _inotify(path: Path) -> Iterator[Finding]:
    # The second one is that of a container, where it is lower.
    limits = (Path("/proc/sys/fs/inotify/max_user_watches"), Path("/proc/sys/user/max_inotify_watches"))
    limit = min(int(place.read_text()) for place in limits if place.exists())
    folders = sum(1 for _ in os.walk(path))
    if folders > limit * 0.9:
        yield Finding(
            Level.PROBLEM,
            f"{path}: has {folders} folders, and the kernel allows {limit} inotify watches per user: it may be polled",
            f"sysctl fs.inotify.max_user_watches={folders * 2}",
        )
    else:
        yield Finding(Level.GOOD, f"{path}: can be watched ({folders} folders)")


def _state(workshop: Workshop) -> Iterator[Finding]:
    state = workshop.state_directory
    try:
        with workshop.ledger() as ledger:
            totals, unfinished = ledger.totals(), len(ledger.open_changes())
    except LedgerDamaged as error:
        what, _, advice = str(error).partition("\n")
        yield Finding(Level.PROBLEM, f"state: {what}", advice)
        return
    except (MusicReclassError, OSError) as error:
        yield Finding(Level.PROBLEM, f"state: {error}", f"see that {state} is yours, writable and has space")
        return
    running = workshop.daemon_runs()
    yield Finding(Level.GOOD, f"state: {state}, {totals['decisions']} decisions, {totals['changes']} changes on record")
    if unfinished and not running:
        yield Finding(Level.NOTE, f"{unfinished} changes were cut off by a crash", "the next start settles them")
    if totals["parked"]:
        yield Finding(Level.NOTE, f"{totals['parked']} files are parked", "`music-reclass review --parked` says why")
    space = os.statvfs(state)
    if space.f_bavail * space.f_frsize < 200 * 2**20:
        yield Finding(Level.PROBLEM, f"{state}: less than 200 MiB free", "make room: every change must be recorded")
    yield Finding(Level.GOOD if running else Level.NOTE, "the daemon runs" if running else "the daemon does not run")


def _bundle(workshop: Workshop, settings: Config) -> Iterator[Finding]:
    started = time.perf_counter()
    try:
        ensemble = workshop.ensemble()
    except MusicReclassError as error:
        advice = "`music-reclass models use starter` goes back to the shipped one"
        yield Finding(Level.PROBLEM, f"model: {error}", advice)
        return
    took_s = time.perf_counter() - started
    serving: bundles.Bundle = ensemble.bundle
    yield Finding(Level.GOOD, f"model: {serving.id} serves on {ensemble.device.value}, ready in {took_s:.1f} s")
    taxonomy = settings.build_taxonomy()
    unheard = sorted(set(taxonomy.names) - set(filter(None, taxonomy.mapping(serving.labels).values())))
    if unheard:
        yield Finding(Level.NOTE, f"the model cannot hear these genres of yours: {', '.join(unheard)}")
    unnamed = taxonomy.unmapped(serving.labels)
    if unnamed:
        yield Finding(
            Level.NOTE,
            f"the model also knows {', '.join(unnamed)}, which your taxonomy has no genre for: it abstains there",
            "add them as genres or aliases under taxonomy: if you want them",
        )


def _gpu() -> Iterator[Finding]:
    if not os.path.exists("/dev/nvidiactl"):
        yield Finding(Level.GOOD, "no NVIDIA device: everything runs on the CPU")
    elif cuda_available():
        yield Finding(Level.GOOD, "an NVIDIA device and ONNX Runtime's CUDA provider are here")
    else:
        yield Finding(
            Level.PROBLEM,
            "an NVIDIA device is here, but ONNX Runtime cannot use it",
            "install the CUDA libraries with the extra: music-reclass[gpu]",
        )
