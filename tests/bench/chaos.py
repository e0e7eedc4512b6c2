"""Kills the program while it writes, and lets its system calls fail; counts what was harmed. All zero is the promise.

    python tests/bench/chaos.py                     # everything: 1,000 kills, every fault, 500 files taken back
    python tests/bench/chaos.py --kills 200         # fewer
    python tests/bench/chaos.py --only faults

Kills: a process tags, moves and undoes at random in a library of every container, and is killed (SIGKILL) at a random
moment; then a new start settles what it left, and every file and the record are looked at.
Faults: strace lets the n-th call of one kind fail with one error, for each n until no such call is left, while one
genre is written, one file moved, one change taken back. As root the library has a second device in it, so that files
are also copied from one to the other.
Undo: files are tagged and moved, everything is taken back, bytes and places are compared.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from chaos import CONTAINERS, Harm, Library, desk, make_one, move, tag, work

from daemon.core.errors import MusicReclassError
from daemon.effects import scan

# One kind of call fails at a time, with the errors that it can meet in life.
FAULTS = {
    "openat": ("EMFILE", "EACCES", "EIO", "EROFS", "ENOSPC"),
    "read": ("EIO",),
    "write": ("ENOSPC", "EIO"),
    "pwrite64": ("ENOSPC", "EIO"),
    "ftruncate": ("EIO", "ENOSPC"),
    "fsync": ("EIO",),
    "fdatasync": ("EIO", "ENOSPC"),
    "rename": ("EIO", "EROFS", "EACCES", "ENOSPC"),
    "renameat2": ("EIO", "EROFS", "EACCES", "EINVAL"),
    "unlink": ("EIO", "EROFS", "EACCES"),
    "utimensat": ("EIO", "EROFS"),
    "mkdir": ("ENOSPC", "EROFS", "EACCES"),
    "rmdir": ("EIO", "EROFS"),
    "lseek": ("EIO",),
    "newfstatat": ("EIO", "EACCES"),
    "fchmodat": ("EIO",),
    "chmod": ("EIO",),
}


@contextlib.contextmanager
def scratch() -> Iterator[tuple[Path, tuple[str, ...]]]:
    """A folder for a library, and the names of folders below its root; one is another device where we may mount."""
    with tempfile.TemporaryDirectory(prefix="reclass-chaos-", dir=os.environ.get("CHAOS_DIR")) as name:
        folder = Path(name)
        away = folder / "music" / "away"
        away.mkdir(parents=True)
        mounted = (
            os.geteuid() == 0
            and not subprocess.run(
                ["mount", "-t", "tmpfs", "none", str(away)], check=False, capture_output=True
            ).returncode
        )
        try:
            yield folder, ("in", "rock", "jazz/old", *(("away/x", "away/y") if mounted else ("near",)))
        finally:
            if mounted:
                subprocess.run(["umount", str(away)], check=True)


def table(title: str, rows: list[dict[str, object]]) -> None:
    """Print rows as a table."""
    print(f"\n{title}")
    if not rows:
        print("  nothing was run")
        return
    names = list(rows[0])
    widths = [max(len(name), *(len(str(row[name])) for row in rows)) for name in names]
    print("  " + "  ".join(name.rjust(width) for name, width in zip(names, widths, strict=True)))
    for row in rows:
        print("  " + "  ".join(str(row[name]).rjust(width) for name, width in zip(names, widths, strict=True)))
    sys.stdout.flush()


# Kills


def kills(count: int, seed: int) -> dict[str, object]:
    """Kill `count` workers, one after the other, in one library."""
    choose = random.Random(seed)
    total: Counter[str] = Counter()
    started = time.monotonic()
    with scratch() as (folder, folders):
        library = Library(folder)
        library.make()
        for number in range(count):
            kill_one(library, seed * 1_000_003 + number, folders, choose.uniform(0.0, 0.3))
            harm = library.settle()
            total.update(harm.counts)
            for line in harm.lines:
                print(f"  kill {number}: {line}", flush=True)
            if harm.lines:
                keep(folder, f"kill-{seed}-{number}")
                break
        changes = changes_of(library)
    row: dict[str, object] = {"lane": seed, "kills": number + 1, "containers": len(CONTAINERS), **changes}
    return row | dict(total) | {"seconds": round(time.monotonic() - started)}


def kill_one(library: Library, seed: int, folders: tuple[str, ...], after_s: float) -> None:
    """One worker, killed some time after it has begun to write."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told)
        os.setpgid(0, 0)
        try:
            work(library, seed, folders, tell)
        except BaseException as error:
            os.write(2, f"  the worker ended by itself: {error!r}"[:300].encode())
        os._exit(1)
    os.close(tell)
    os.read(told, 1)
    os.close(told)
    select.select([], [], [], after_s)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)


def changes_of(library: Library) -> dict[str, object]:
    """How many changes are on record."""
    with desk(library) as (ledger, _, _):
        return {"changes": ledger.totals()["changes"]}


def keep(folder: Path, name: str) -> None:
    """Put a harmed library aside, to be looked at."""
    target = Path(tempfile.gettempdir()) / f"reclass-harmed-{name}"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    print(f"  kept in {target}")


# Faults

JOBS = ("tag", "move", "move away", "undo tag", "undo move")
FORMATS = (".flac", ".mp3")


def prepare(folder: Path, job: str) -> None:
    """A library in which `job` can be done."""
    library = Library(folder)
    library.make(FORMATS)
    with desk(library) as (ledger, _, parts):
        for path in list(library.paths()):
            tag(library, parts, path, "rock")
            if job == "undo move":
                move(library, ledger, parts, path, "there")


def do_job(folder: Path, job: str, suffix: str) -> None:
    """In a process of its own: stop until strace is there, then do one piece of work and say how it ended."""
    library = Library(folder)
    path = next(path for path in library.paths() if path.suffix == suffix)
    with desk(library) as (ledger, undoer, parts):
        for each in library.paths():  # the folder was copied: other inodes
            known, state = ledger.known(each), scan.state_of(each)
            assert known is not None and state is not None
            ledger.remember(dataclasses.replace(known, state=state))
        known = ledger.known(path)
        assert known is not None and known.audio_id is not None
        change = [change for change in ledger.changes_of(known.audio_id) if change.undoable][-1].number
        parts[2].audio_id(path)  # so that the reader runs
        print(json.dumps({"reader": parts[2].pid}), flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
        try:
            if job == "tag":
                tag(library, parts, path, "klassisk")
            elif job.startswith("move"):
                move(library, ledger, parts, path, "away/deep" if job == "move away" else "new/folder")
            else:
                undoer.undo(change)
            ended = "done"
        except MusicReclassError as error:
            ended = f"{type(error).__name__}: {error}".replace(str(folder), "")
        except BaseException as error:
            ended = f"unclear: {error!r}"
        sys.stdout.flush()
        told = b"\n" + json.dumps({"ended": ended}).encode()
        while told:  # this call may be the one that fails
            with contextlib.suppress(OSError):
                told = told[os.write(1, told) :]
        os._exit(0)


def faults(jobs: Sequence[str], calls: Sequence[str], most: int) -> list[dict[str, object]]:
    """Every fault of every call of every job; a row for each job and call."""
    rows = []
    for job in jobs:
        with scratch() as (folder, folders):
            if job == "move away" and "away/x" not in folders:
                continue
            with tempfile.TemporaryDirectory() as master:
                prepare(folder, job)
                copy_library(folder, Path(master))
                for call in calls:
                    rows.append(one_fault(folder, Path(master), job, call, most))
                    print(f"  {rows[-1]}", file=sys.stderr, flush=True)
    return rows


def copy_library(source: Path, target: Path) -> None:
    """`target` holds what `source` holds and nothing else; a mounted folder in it stays mounted."""
    for name in ("music", "state", "originals.json"):
        place = target / name
        if place.is_dir():
            empty(place)
        if (source / name).is_dir():
            shutil.copytree(source / name, place, dirs_exist_ok=True)
        else:
            shutil.copy2(source / name, place)


def empty(folder: Path) -> None:
    """Remove everything below `folder`, but not a folder on which another device is mounted."""
    for entry in list(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            empty(entry)
            if not entry.is_mount():
                entry.rmdir()
        else:
            entry.unlink()


def one_fault(folder: Path, master: Path, job: str, call: str, most: int) -> dict[str, object]:
    """Let the first, second, third … `call` of `job` fail, with each error in turn."""
    count: Counter[str] = Counter()
    for error in FAULTS[call]:
        for number in range(1, most + 1):
            suffix = FORMATS[number % len(FORMATS)]
            copy_library(master, folder)
            hit, ended = injected(folder, job, suffix, f"{call}:error={error}:when={number}")
            if not hit:
                break
            count["faults"] += 1
            count[ended.split(":")[0] if ended else "died"] += 1
            harm = Library(folder).settle()
            count.update(harm.counts)
            for line in [*harm.lines, *([ended] if ended.startswith("unclear") else [])]:
                print(f"  {job}, {call} {number} {error} ({ended}): {line}", flush=True)
    names = ("faults", "done", "BadFile", "TryLater", "UndoRefused", "LedgerError", "died", "unclear", *Harm().counts)
    return {"job": job, "call": call} | {name: count[name] for name in names}


def injected(folder: Path, job: str, suffix: str, fault: str) -> tuple[bool, str]:
    """Run `job` with `fault`; whether it was hit, and how the job ended."""
    command = [sys.executable, __file__, "--do", job, "--suffix", suffix, "--folder", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    reader = json.loads(process.stdout.readline())["reader"]
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    trace = ["strace", "-f", "-o", "/dev/stdout", "-e", f"trace={fault.split(':')[0]}", "-e", f"inject={fault}"]
    tracer = subprocess.Popen(
        [*trace, "-p", str(process.pid), "-p", str(reader)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert tracer.stderr is not None
    for _ in range(2):
        tracer.stderr.readline()  # "Process N attached"
    process.send_signal(signal.SIGCONT)
    # Behind what was logged.
    output = process.stdout.read().rpartition("\n")[2]
    process.wait()
    told, _ = tracer.communicate()
    return "INJECTED" in told, json.loads(output)["ended"] if output else ""


# Undo


def undo_all(count: int) -> list[dict[str, object]]:
    """Tag and move `count` files, take everything back, and compare bytes and places."""
    with scratch() as (folder, _):
        library = Library(folder)
        inbox = library.root / "in"
        for number in range(count):
            suffix = CONTAINERS[number % len(CONTAINERS)]
            album = inbox / f"album {number % 25}"
            album.mkdir(parents=True, exist_ok=True)
            path = make_one(album / f"{number:04}{suffix}", number)
            path.with_suffix(f"{suffix}.lrc").write_text("words")
        before = {path: hashlib.sha256(path.read_bytes()).digest() for path in library.paths()}
        started = time.monotonic()
        with desk(library) as (ledger, undoer, parts):
            since = datetime.now(UTC)
            for path in before:
                tag(library, parts, path, "rock")
                move(library, ledger, parts, path, f"rock/{path.parent.name}")
            moved = sum(path not in before for path in library.paths())
            changed = [undoer.undo(change.number) for change in ledger.changes_since(since)]
        after = {path: hashlib.sha256(path.read_bytes()).digest() for path in library.paths()}
        return [
            {
                "files": count,
                "moved": moved,
                "changes taken back": len(changed),
                "places identical": len(after.keys() & before.keys()),
                "bytes identical": sum(after.get(path) == digest for path, digest in before.items()),
                "seconds": round(time.monotonic() - started),
            }
        ]


def main() -> None:
    """Print the tables; exit with 1 where anything was harmed."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=1000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--files", type=int, default=500, help="how many files are tagged, moved and taken back")
    options.add_argument("--most", type=int, default=60, help="the last call of a kind that is made to fail")
    options.add_argument("--only", choices=("kills", "faults", "undo"))
    options.add_argument("--jobs", nargs="*", default=JOBS)
    options.add_argument("--calls", nargs="*", default=tuple(FAULTS))
    options.add_argument("--do", choices=JOBS, help=argparse.SUPPRESS)
    options.add_argument("--suffix", help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.do:
        do_job(given.folder, given.do, given.suffix)
    harmed = False
    if given.only in (None, "kills"):
        rows = [kills(given.kills, given.seed)]
        table("Killed at random moments, started anew", rows)
        harmed |= any(row[name] for row in rows for name in Harm().counts)
    if given.only in (None, "faults"):
        rows = faults(given.jobs, given.calls, given.most)
        table("System calls that fail", rows)
        harmed |= any(row[name] for row in rows for name in (*Harm().counts, "unclear"))
    if given.only in (None, "undo"):
        rows = undo_all(given.files)
        table("Tagged, moved, and everything taken back", rows)
        harmed |= any(row["bytes identical"] != row["files"] for row in rows)
    sys.exit(1 if harmed else 0)


if __name__ == "__main__":
    main()
