"""The verbs of `music-reclass`, a few lines each: what they take, whom they call, what they print, how they exit.

Exit codes: 0 done; 1 something was refused or failed, and it was said which; 2 wrong usage or config.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

import click
import structlog

from daemon import administration, doctor, show
from daemon import verify as verification
from daemon.administration import Verbs, as_json
from daemon.core.config import Mode, Root
from daemon.core.errors import BadFile, FileTrouble, MusicReclassError, TryLater, UndoRefused
from daemon.core.ledger import FileStatus, KnownFile, Ledger
from daemon.core.records import Applied, Ending, Moved, Parked
from daemon.effects import scan, tags
from daemon.pipeline import Pipeline
from daemon.rules import ignore
from daemon.workshop import Desk, Workshop

log = structlog.get_logger()


_TIMES = ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S")

music_paths = click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH…")


# The daemon publishes its state every 5 s.
_STALE_S = 60.0


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="The config file to use.")
@click.version_option(package_name="music-reclass")
@click.pass_context
def program(context: click.Context, config_file: Path | None) -> None:
    """Hears new music files and tags them in your own genres.

    \b
    Start here:
        music-reclass run                 watch an inbox and tag what is dropped there
        music-reclass classify ~/Music    show what it would say, writing nothing
    """
    context.obj = context.obj(config_file)


@program.command()
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path, resolve_path=True))
@click.pass_obj
def run(workshop: Workshop, folders: tuple[Path, ...]) -> int:
    """Watch FOLDERS (else the config's roots, else ~/Music/reclass-inbox) and tag new files. Stop with Ctrl-C.

    \b
    Example: music-reclass run ~/Music/new
    """
    for folder in folders:
        if not folder.is_dir():
            raise click.BadParameter(f"{folder} is not a folder", param_hint="FOLDERS")
    workshop.start_logging()
    return 0 if workshop.serve(folders, click.echo) else 1


@program.command()
@music_paths
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_obj
def classify(workshop: Workshop, paths: tuple[Path, ...], as_json: bool) -> int:
    """Show the genre of every music file in PATHS. Never writes anything.

    \b
    Example: music-reclass classify ~/Music --json | jq 'select(.genre == null)'
    """
    printer = show.Verdicts(as_json)
    failed = False
    with workshop.judge() as judge:
        for path in show.progress(list(_music_in(paths)), "classifying"):
            try:
                printer.verdict(path, judge.hear(path).decision)
            except FileTrouble as trouble:
                failed = True
                printer.trouble(trouble)
    printer.end()
    return 1 if failed else 0


@program.command()
@music_paths
@click.option("--dry-run", is_flag=True, help="Decide and record, but write no file.")
@click.pass_obj
def apply(workshop: Workshop, paths: tuple[Path, ...], dry_run: bool) -> int:
    """Classify every music file in PATHS now and write genres as the config's policy says.

    Also takes files that were seen before; a genre you chose yourself is kept.

    \b
    Example: music-reclass apply ~/Music/Unsorted
    """
    workshop.start_logging()
    mode = Mode.DRY_RUN if dry_run else Mode.APPLY
    endings: list[Ending] = []
    with workshop.pipeline() as pipeline:
        for path in show.progress(list(_music_in(paths, workshop.config.roots)), "applying"):
            try:
                endings.append(pipeline.apply(path, mode))
            except TryLater as trouble:
                log.error("failed", path=trouble.path, reason=trouble.reason)
                endings.append(Parked(trouble.path, trouble.reason))
        if mode is Mode.APPLY and not workshop.daemon_runs():
            # A move that has to wait waits for the daemon.
            for filing in pipeline.filer.due_among({ending.path for ending in endings}):
                endings += filter(None, [pipeline.filer.carry_out(filing)])
    click.echo(show.summary(endings))
    return 1 if any(isinstance(ending, Parked) for ending in endings) else 0


@program.command()
@click.argument("file", type=click.Path(path_type=Path))
@as_json
@click.pass_obj
def history(workshop: Workshop, file: Path, as_json: bool) -> int:
    """Show what was decided and changed for FILE, when, by which model and on what evidence.

    \b
    Example: music-reclass history ~/Music/new/song.flac
    """
    with workshop.ledger() as ledger:
        known = _on_record(ledger, file)
        if known is None:
            raise BadFile(file, "is not in the record")
        show.history(ledger, known, as_json)
    return 0


@program.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--change", "numbers", type=int, multiple=True, help="Undo this one change, by its number.")
@click.option("--since", type=click.DateTime(_TIMES), help="Undo every change since this local time.")
@click.option("--model", "bundle", help="Undo everything that the bundle of this id decided.")
@click.pass_obj
def undo(
    workshop: Workshop, files: tuple[Path, ...], numbers: tuple[int, ...], since: datetime | None, bundle: str | None
) -> int:
    """Give FILES back the very bytes and the place that they had before the last change.

    A genre and the move that followed it are undone together, and an undo can be undone. Refused where a file was
    changed since by somebody else.

    \b
    Examples: music-reclass undo ~/Music/new/song.flac
              music-reclass undo --since "2026-11-22 20:00"
              music-reclass undo --model starter-1
    """
    if not (files or numbers or since or bundle):
        raise click.UsageError("name a file, --change, --since or --model")
    refused = False
    with workshop.writing() as desk:
        changes = desk.ledger.changes_since(since.astimezone()) if since else []
        changes += desk.ledger.changes_by(bundle) if bundle else []
        steps = [partial(_undo_file, desk, file) for file in files]
        steps += [partial(_undo_change, desk, number) for number in numbers]
        steps += [partial(desk.undoer.undo_together, group) for group in desk.undoer.by_act(changes)]
        if not steps:
            click.echo("there is nothing to undo", err=True)
        # A refusal of one must not keep back the others.
        for step in steps:
            try:
                for done in step():
                    click.echo(show.undone(done))
            except MusicReclassError as error:
                refused = True
                click.echo(f"refused: {error}", err=True)
    return 1 if refused else 0


@program.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--accept", "wish", flag_value="accept", help="Write what is suggested for PATHS: it is your label then.")
@click.option("--decline", "wish", flag_value="decline", help="Make no more of what is suggested for PATHS.")
@click.option("--parked", "what", flag_value="parked", help="List files that could not be used, each with its reason.")
@click.option("--retry", "wish", flag_value="retry", help="Try parked files below PATHS again.")
@click.option("--unsure", "what", flag_value="unsure", help="List files for which the model was not sure enough.")
@as_json
@click.pass_obj
def review(workshop: Workshop, paths: tuple[Path, ...], wish: str | None, what: str | None, as_json: bool) -> int:
    """List what waits for your word below PATHS (default: everywhere): suggestions, files parked or left open.

    \b
    Examples: music-reclass review
              music-reclass review --accept ~/Music/new/album
              music-reclass review --parked
              music-reclass review --parked --retry ~/Music/new
    """
    if wish in ("accept", "decline", "retry") and not paths:
        raise click.UsageError(f"--{wish} needs the files or folders that are meant")
    statuses = {"parked": (FileStatus.PARKED, FileStatus.WAITING), "unsure": (FileStatus.ABSTAINED,)}
    kind = "parked" if wish == "retry" else what
    chosen = statuses.get(kind or "", (FileStatus.SUGGESTED,))
    with workshop.ledger() as ledger:
        found = [known for status in chosen for known in ledger.of_status(status) if _is_below(known.path, paths)]
        if wish is None:
            show.review(found, ledger, as_json)
            return 0
    workshop.start_logging()
    failed = False
    with workshop.pipeline() as pipeline:
        for known in found:
            failed |= not _review_one(pipeline, known.path, wish)
    click.echo(f"{wish}: {show.counted(len(found), 'file')}" if found else f"nothing to {wish} there")
    return 1 if failed or not found else 0


def _review_one(pipeline: Pipeline, path: Path, wish: str) -> bool:
    try:
        if wish == "accept":
            pipeline.accept(path)
        elif wish == "decline":
            pipeline.decline(path)
        else:
            return not isinstance(pipeline.process(path, pipeline.mode_of(path)), Parked)
    except (FileTrouble, MusicReclassError) as trouble:
        click.echo(f"refused: {trouble}", err=True)
        return False
    return True


@program.command()
@as_json
@click.pass_obj
def status(workshop: Workshop, as_json: bool) -> int:
    """Show whether the daemon runs, what serves, and what it has done. Exits with 1 where it is not healthy.

    \b
    Example: music-reclass status --json | jq .queued
    """
    state = workshop.published() or {}
    running = workshop.daemon_runs()
    with workshop.ledger() as ledger:
        state |= {"running": running, "library": ledger.totals(), "state_directory": str(workshop.state_directory)}
    if not running:
        state["healthy"] = False
    elif time.time() - float(state.get("at", 0)) > _STALE_S:
        state |= {"healthy": False, "troubles": ["the daemon has not said how it is for too long: is it stuck?"]}
    show.status(state, as_json)
    return 0 if state.get("healthy") else 1


@program.command(name="doctor")
@click.option("--verify", is_flag=True, help="Also compare ledger, disk and queue, and list every difference.")
@click.option("--deep", is_flag=True, help="With --verify: read every tagged file and compare its bytes.")
@as_json
@click.pass_obj
def doctor_(workshop: Workshop, verify: bool, deep: bool, as_json: bool) -> int:
    """Say in plain words what is wrong with this machine and config, and what to do about it.

    \b
    Examples: music-reclass doctor
              music-reclass doctor --verify
    """
    findings = doctor.examine(workshop)
    show.findings(findings, as_json)
    problems = sum(finding.level is doctor.Level.PROBLEM for finding in findings)
    if verify or deep:
        depth = verification.Depth.BYTES if deep else verification.Depth.STATES
        problems += show.differences(verification.verify(workshop, depth=depth), as_json)
    return 1 if problems else 0


for group in (administration.config_, administration.models_, administration.ledger_):
    program.add_command(group)


def _music_in(paths: Sequence[Path], roots: Sequence[Root] | None = None) -> Iterator[Path]:
    """Files named outright, and music files below named folders, without what one of `roots` ignores.

    Given roots, paths are made absolute as the daemon sees them: below a root as that root is written, elsewhere real.
    """
    for path in paths:
        place = path if roots is None else _as_watched(path, roots)
        root = next((root for root in roots or () if place.is_relative_to(root.path)), None)
        if not place.is_dir():
            yield place
            continue
        top, patterns = (place, ()) if root is None else (root.path, root.ignore)

        def wanted(file: Path, top: Path = top, patterns: Sequence[str] = patterns) -> bool:
            return ignore.wanted(file, top, tags.AUDIO_SUFFIXES, patterns)

        for file, _ in scan.walk(place, wanted, lambda name: not ignore.is_junk(name)):
            yield file


def _as_watched(path: Path, roots: Sequence[Root]) -> Path:
    given, real = Path(os.path.abspath(path)), path.resolve()
    for root in roots:
        if given.is_relative_to(root.path):
            return given
        if real.is_relative_to(root.path.resolve()):
            return root.path / real.relative_to(root.path.resolve())
    return real


def _on_record(ledger: Ledger, file: Path) -> KnownFile | None:
    """The file as the ledger knows it, by the path as given or by where its links lead."""
    return ledger.known(Path(os.path.abspath(file))) or ledger.known(file.resolve())


def _undo_file(desk: Desk, file: Path) -> list[Applied | Moved]:
    act, place = _last_act(desk.ledger, file)
    return desk.undoer.undo_act(act, place)


def _undo_change(desk: Desk, number: int) -> list[Applied | Moved]:
    return [desk.undoer.undo(number)]


def _last_act(ledger: Ledger, file: Path) -> tuple[int, Path]:
    """The act of the last change to this very file, and where the file is on record.

    Another place's changes count only where nothing is at that place any more: the file was moved from there. Where the
    last change took back a part of an act, as after a crash, the rest of it comes next.
    """
    known = _on_record(ledger, file)
    changes = ledger.changes_of(known.audio_id) if known and known.audio_id else []
    done = [change for change in changes if change.undoable]
    here = [change for change in done if known is not None and known.path in (change.path, change.place_after)]
    left = [change for change in done if scan.state_of(change.place_after) is None]
    if known is None or not (here or left):
        raise UndoRefused(f"{file}: there is no change of ours to undo")
    last = (here or left)[-1]
    origin = ledger.change(last.undoes) if last.undoes is not None else None
    if origin is not None and any(change.undoable for change in ledger.changes_of_act(origin.act)):
        return origin.act, known.path
    return last.act, known.path


def _is_below(path: Path, places: Sequence[Path]) -> bool:
    given = [variant for place in places for variant in (Path(os.path.abspath(place)), place.resolve())]
    return not given or any(path.is_relative_to(place) for place in given)
