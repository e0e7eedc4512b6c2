"""The daemon at work and at rest: latency from settled to tagged, resident memory, idle CPU.

    MUSIC_RECLASS_DATA=… .ci/uv run --extra trainer --group dev python tests/bench/serve.py

Real tracks, remade as mp3, flac, ogg, opus, m4a and wav, are dropped into a scratch library one by one, the next when
the one before is done; then all at once; then nothing happens.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import live
from classify import real_tracks
from make_audio import SUFFIXES, encode


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=int, default=60, help="how many real tracks (default 60)")
    parser.add_argument("--idle-s", type=float, default=30.0, help="how long to watch it idle (default 30)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        measure(Path(scratch), arguments.tracks, arguments.idle_s)


def measure(scratch: Path, count: int, idle_s: float) -> None:
    """Run the daemon over a scratch library and print what was seen."""
    sources = remake(scratch / "sources", real_tracks(count))
    inbox = scratch / "inbox"
    inbox.mkdir()
    (scratch / "config.yaml").write_text(
        f"roots: [{{path: {inbox}}}]\nstate_directory: {scratch}/state\nsettle: {{quiet_s: 0.5}}\n"
    )
    with live.daemon(["--config", scratch / "config.yaml", "run"], scratch) as daemon:
        daemon.wait_for("ready")
        process = psutil.Process(daemon.process.pid)
        fresh_mib = process.memory_info().rss / 2**20
        half = len(sources) // 2
        alone = []
        for source in sources[:half]:
            alone.append(drop(daemon, inbox, [source])[0])
        started = time.perf_counter()
        together = drop(daemon, inbox, sources[half:])
        burst_s = time.perf_counter() - started
        used_mib = process.memory_info().rss / 2**20
        # The same clock that `top` reads: user and system time of all threads.
        before = process.cpu_times()
        time.sleep(idle_s)
        after = process.cpu_times()
        idle = (after.user + after.system - before.user - before.system) / idle_s
        daemon.stop()
    report(alone, together, burst_s, (fresh_mib, used_mib), idle)


def remake(folder: Path, tracks: list[Path]) -> list[Path]:
    """The tracks in all containers in turn, without tags."""
    folder.mkdir()
    made = []
    for number, track in enumerate(tracks):
        path = folder / f"{number:03}{SUFFIXES[number % len(SUFFIXES)]}"
        with av.open(str(track)) as container:
            resampler = av.AudioResampler(format="fltp", layout="stereo", rate=44_100)
            frames = [f.to_ndarray() for frame in container.decode(audio=0) for f in resampler.resample(frame)]
        encode(path, np.concatenate(frames, axis=1))
        made.append(path)
    return made


def drop(daemon: live.LiveDaemon, inbox: Path, sources: list[Path]) -> list[dict]:
    """Copy files in; the event that ended each."""
    for source in sources:
        shutil.copy(source, inbox / source.name)
    endings = ("tagged", "abstained", "left", "parked")
    paths = [str(inbox / source.name) for source in sources]
    return [
        daemon.wait_until(lambda e, p=path: e.get("event") in endings and e.get("path") == p, path) for path in paths
    ]


def report(alone: list[dict], together: list[dict], burst_s: float, mib: tuple[float, float], idle: float) -> None:
    """Print what was measured."""
    tagged = [event["since_settled_s"] for event in alone if event["event"] == "tagged"]
    left = [event["since_settled_s"] for event in alone if event["event"] == "abstained"]
    p95 = statistics.quantiles(tagged, n=20)[-1]
    table = Table(title=f"the daemon, {len(alone)} tracks one by one, then {len(together)} at once")
    table.add_column("what")
    table.add_column("measured", justify="right")
    table.add_row("settled to tagged, median", f"{1000 * statistics.median(tagged):.0f} ms ({len(tagged)} tracks)")
    table.add_row("settled to tagged, p95", f"{1000 * p95:.0f} ms")
    if left:
        table.add_row("settled to abstained, median", f"{1000 * statistics.median(left):.0f} ms ({len(left)} tracks)")
    table.add_row("a burst, dropped to done", f"{len(together) / burst_s:.1f} tracks/s")
    table.add_row("resident memory, ready / after the work", f"{mib[0]:.0f} / {mib[1]:.0f} MiB")
    table.add_row("idle CPU, of one core", f"{100 * idle:.2f} %")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
