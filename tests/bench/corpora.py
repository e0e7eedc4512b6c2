"""Writes a genre into a copy of every file of a corpus, as the daemon does, and counts what came of it.

    MUSIC_RECLASS_DATA=… .ci/uv run --group dev python tests/bench/corpora.py [FOLDER…]

Each file has a process of its own with a time limit, so that a crash, a hang and the memory needed are seen. A file
counts as tagged if, after the write, its genre reads back, every other tag and the sound are as before, and the copy
went through the same proof as in the daemon; as damaged if it changed in any other way. What ffprobe then says of the
genre is counted beside it. Ends with status 1 where anything crashed, hung or was damaged.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from daemon.core.audio import audio_id
from daemon.core.errors import BadFile, FileTrouble
from daemon.effects import files, tags

GENRE = "Dub Techno 日本"
ENDINGS = ("tagged", "cannot", "refused", "crash", "hang", "damaged")


@dataclass
class Result:
    """What came of one file; `ffprobe` is whether that program sees the new genre, `why` any reason."""

    path: str
    container: str
    ending: str
    why: str = ""
    ffprobe: bool = False
    peak_mib: float = 0.0


def main() -> None:
    """Print the tables; with `--one`, treat one file and print its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="beside the corpora of MUSIC_RECLASS_DATA")
    parser.add_argument("--limit-s", type=float, default=60.0, help="seconds for one file (default 60)")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("-v", "--verbose", action="store_true", help="a line for each file")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(asdict(measured(arguments.one))))
        return
    paths = [path for folder in folders_of(arguments.folders) for path in sorted(folder.rglob("*")) if path.is_file()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running = pool.map(lambda path: in_a_process(path, arguments.limit_s), paths)
        results = list(track(running, "files", total=len(paths), transient=True))
    report(results, arguments.verbose)
    sys.exit(any(result.ending in ("crash", "hang", "damaged") for result in results))


def folders_of(given: list[Path]) -> list[Path]:
    """The folders to look through."""
    data = os.environ.get("MUSIC_RECLASS_DATA")
    folders = [*([Path(data, "corpora")] if data else []), *given]
    if not folders:
        sys.exit("set MUSIC_RECLASS_DATA to the folder with corpora/, or name folders")
    return folders


def in_a_process(path: Path, limit_s: float) -> Result:
    """The result for `path`, whatever it does to the process that opens it."""
    try:
        done = subprocess.run(
            [sys.executable, __file__, "--one", str(path)], capture_output=True, text=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        return Result(str(path), path.suffix.lower(), "hang", f"took longer than {limit_s:g} s")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        return Result(str(path), path.suffix.lower(), "crash", last)
    return Result(**json.loads(done.stdout))


def measured(path: Path) -> Result:
    """The result for `path`, with the peak memory of this process; the file itself is only read."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, path.name)
        shutil.copyfile(path, copy)
        result = written(copy)
    result.path = str(path)
    result.peak_mib = peak_mib()
    return result


def peak_mib() -> float:
    """The most memory that this process ever held; `getrusage` would count in what its parent held at the start."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024


def written(path: Path) -> Result:
    """Give `path` the genre as the daemon does, and look at what is there afterwards."""
    content = files.sha256_of(path)
    container = path.suffix.lower() or "no suffix"
    try:
        container = tags.container_of(path)
        before = tags.read(path)
        sound = audio_id(path)
        if before.cannot:
            return Result(str(path), container, "cannot", before.cannot)
        staged = files.stage(
            path,
            lambda copy: tags.write_genres(copy, (GENRE,)),
            lambda original, copy: prove(copy, before, sound),
        )
        files.commit(staged)
    except FileTrouble as trouble:
        same = files.sha256_of(path) == content
        return Result(str(path), container, "refused" if same else "damaged", trouble.reason)
    try:
        prove(path, before, sound)
    except FileTrouble as trouble:
        return Result(str(path), container, "damaged", trouble.reason)
    told = genres_by_ffprobe(path)
    return Result(str(path), container, "tagged", "" if told == [GENRE] else f"ffprobe says {told}", told == [GENRE])


def prove(copy: Path, before: tags.Tags, sound: str) -> None:
    """The proof of the daemon (`daemon.change`): the genre is there, and nothing else is other than it was."""
    after = tags.read(copy)
    if after.genres != (GENRE,):
        raise BadFile(copy, f"its tags cannot hold the genre: it reads back as {list(after.genres)}")
    if changed := before.changed_beside(after):
        raise BadFile(copy, f"writing the genre would change other tags: {', '.join(changed)}")
    if audio_id(copy) != sound:
        raise BadFile(copy, "writing the genre would change the sound")


def genres_by_ffprobe(path: Path) -> list[str]:
    """The different genres that ffprobe shows for the file and its streams."""
    command = ["ffprobe", "-v", "error", "-of", "json", "-show_format", "-show_streams", str(path)]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout or "{}")
    places = [told.get("format", {}), *told.get("streams", [])]
    found = [value for place in places for key, value in place.get("tags", {}).items() if key.lower() == "genre"]
    return list(dict.fromkeys(found))


def report(results: list[Result], verbose: bool) -> None:
    """Print what was counted, and every reason with its count."""
    console = Console(width=140)
    table = Table(title=f"{len(results)} files")
    columns = ("container", "files", "tagged", "by ffprobe", *ENDINGS[1:], "peak MiB")
    for column in columns:
        table.add_column(column, justify="left" if column == "container" else "right")
    for container in sorted({result.container for result in results}):
        table.add_row(*row(container, [result for result in results if result.container == container]))
    table.add_section()
    table.add_row(*row("all", results))
    console.print(table)
    reasons = Counter((result.ending, result.container, result.why) for result in results if result.why)
    for (ending, container, why), count in sorted(reasons.items()):
        console.print(f"{count:4} {ending:8} {container:10} {why}", markup=False, highlight=False)
    if verbose:
        for result in results:
            console.print(f"{result.ending:8} {result.path} {result.why}", markup=False, highlight=False)


def row(name: str, results: Iterable[Result]) -> list[str]:
    """One line of the table."""
    held = list(results)
    counts = Counter(result.ending for result in held)
    seen = sum(result.ffprobe for result in held)
    peak = max((result.peak_mib for result in held), default=0.0)
    shown = [str(counts[ending]) for ending in ENDINGS[1:]]
    return [name, str(len(held)), str(counts["tagged"]), str(seen), *shown, f"{peak:.0f}"]


if __name__ == "__main__":
    main()
