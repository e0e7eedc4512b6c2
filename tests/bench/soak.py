"""Lets the real daemon work for long, and looks whether it grows: memory, threads, open files, reader included.

    python tests/bench/soak.py                               # 20,000 files
    python tests/bench/soak.py --files 2000 --plot soak.png

Files of many containers come and go in batches, each with another sound, one in twenty of them damaged badly. Prints a
table of the first quarter against the last, and draws the whole course where --plot names a picture.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import psutil
from live import LiveDaemon, daemon
from make_audio import SUFFIXES
from make_bundle import make_track

BATCH = 200
ENDINGS = {"tagged", "abstained", "left", "parked", "copy", "moved"}


@dataclass(frozen=True, slots=True)
class Sample:
    """The daemon and its reader at one time; memory in MiB."""

    at_s: float
    done: int
    daemon_mib: float
    reader_mib: float
    threads: int
    descriptors: int


def sample(live: LiveDaemon, started: float, done: int) -> Sample:
    """Look at the processes."""
    process = psutil.Process(live.process.pid)
    readers = process.children(recursive=True)
    return Sample(
        time.monotonic() - started,
        done,
        process.memory_info().rss / 2**20,
        sum(reader.memory_info().rss for reader in readers) / 2**20,
        process.num_threads(),
        process.num_fds() + sum(reader.num_fds() for reader in readers),
    )


def masters(folder: Path) -> list[bytes]:
    """Music of every container and some that is damaged, with its suffix in front."""
    folder.mkdir()
    genres = ("jazz", "rock", "classical")
    made = [make_track(folder / f"{genre}{suffix}", genre, seconds=4.0) for genre in genres for suffix in SUFFIXES]
    return [path.suffix.encode().ljust(12) + path.read_bytes() for path in made]


def drop(inbox: Path, number: int, found: Sequence[bytes], choose: random.Random) -> Path:
    """Put one file there, in one of twenty cases with a hole in it."""
    content = choose.choice(found)
    suffix, sound = content[:12].strip().decode(), bytearray(content[12:])
    # Another sound for each, so that none is taken for a copy of one that was there before: decoders get over it.
    middle = len(sound) // 2
    sound[middle : middle + 8] = choose.randbytes(8)
    if number % 20 == 0:
        start = choose.randrange(len(sound) // 2)
        sound[start : start + 4000] = choose.randbytes(4000)
    path = inbox / f"{number}{suffix}"
    path.write_bytes(sound)
    return path


def soak(live: LiveDaemon, inbox: Path, files: int, found: Sequence[bytes]) -> list[Sample]:
    """Drop `files` in batches, each when the one before is done."""
    choose, started, samples, done = random.Random(1), time.monotonic(), [], 0
    for first in range(0, files, BATCH):
        paths = [drop(inbox, number, found, choose) for number in range(first, min(first + BATCH, files))]
        waiting = {str(path) for path in paths}
        while waiting:
            event = live.wait_until(lambda event: event.get("event") in ENDINGS, "an ending")
            waiting.discard(event["path"])
        live.events.clear()
        live.lines.clear()
        done += len(paths)
        for path in paths:
            path.unlink()
        samples.append(sample(live, started, done))
        print(f"\r{done} files", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return samples


def mean(samples: Sequence[Sample]) -> list[float]:
    """The mean of every column."""
    return [sum(column) / len(samples) for column in zip(*map(astuple, samples), strict=True)]


def report(samples: Sequence[Sample]) -> None:
    """Print the first quarter, after the very first batches, against the last."""
    rest = samples[max(1, len(samples) // 20) :]
    quarter = max(1, len(rest) // 4)
    early, late = mean(rest[:quarter]), mean(rest[-quarter:])
    print(f"{samples[-1].done} files in {samples[-1].at_s:.0f} s ({samples[-1].done / samples[-1].at_s:.1f} a second)")
    print(f"{'':<14}{'first quarter':>14}{'last quarter':>14}{'change':>10}")
    for index, name in enumerate(("daemon MiB", "reader MiB", "threads", "descriptors"), start=2):
        print(f"{name:<14}{early[index]:>14.1f}{late[index]:>14.1f}{late[index] - early[index]:>+10.1f}")


def draw(samples: Sequence[Sample], target: Path) -> None:
    """Draw the course as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(9, 6))
    done = [one.done for one in samples]
    above.plot(done, [one.daemon_mib for one in samples], label="daemon")
    above.plot(done, [one.reader_mib for one in samples], label="reader process")
    above.set_ylabel("resident MiB")
    below.plot(done, [one.threads for one in samples], label="threads")
    below.plot(done, [one.descriptors for one in samples], label="open descriptors")
    below.set_xlabel("files done")
    for axes in (above, below):
        axes.set_ylim(bottom=0)
        axes.legend()
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(target, dpi=110)


def main() -> None:
    """Soak and report."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--files", type=int, default=20_000)
    options.add_argument("--plot", type=Path)
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="reclass-soak-") as name:
        folder = Path(name)
        inbox = folder / "inbox"
        inbox.mkdir()
        settings = folder / "config.yaml"
        settings.write_text(
            f"roots: [{{path: {inbox}}}]\nsettle: {{quiet_s: 0.3}}\nstate_directory: {folder / 'state'}\n"
        )
        found = masters(folder / "masters")
        with daemon(["--config", settings, "run"], folder) as live:
            live.wait_for("ready")
            samples = soak(live, inbox, given.files, found)
            live.stop()
    report(samples)
    if given.plot:
        draw(samples, given.plot)


if __name__ == "__main__":
    main()
