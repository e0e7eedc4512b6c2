"""The verbs of `music-reclass`, a few lines each: what they take, whom they call, what they print, how they exit.

Exit codes: 0 done; 1 something was refused or failed, and it was said which; 2 wrong usage or config.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

import click
import structlog

from daemon import doctor, show
from daemon.core import bundle as bundles
from daemon.core import config as configuration
from daemon.core.config import Mode, Root
from daemon.core.errors import BadFile, FileTrouble, MusicReclassError, TryLater, UndoRefused
from daemon.core.ledger import KnownFile, Ledger
from daemon.core.records import Ending, Parked
from daemon.effects import models, scan, tags
from daemon.rules import ignore
from daemon.workshop import Workshop

log = structlog.get_logger()


_TIMES = ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S")

music_paths = click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH…")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


# The daemon publishes its state every 5 s.
_STALE_S = 60.0


class Verbs(click.Group):
    """Shows the verbs in the order in which they were written: the daily ones first."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs' names."""
        return list(self.commands)


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
    judge = workshop.judge()
    printer = show.Verdicts(as_json)
    failed = False
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
@click.option("--change", "numbers", type=int, multiple=True, help="Undo this change, by its number.")
@click.option("--since", type=click.DateTime(_TIMES), help="Undo every change since this local time.")
@click.pass_obj
def undo(workshop: Workshop, files: tuple[Path, ...], numbers: tuple[int, ...], since: datetime | None) -> int:
    """Give FILES back the very bytes that they had before the last change. An undo can be undone.

    Refused where a file was changed since by somebody else.

    \b
    Examples: music-reclass undo ~/Music/new/song.flac
              music-reclass undo --since "2026-11-22 20:00"
    """
    if not (files or numbers or since):
        raise click.UsageError("name a file, --change or --since")
    refused = False
    with workshop.writing() as (ledger, changer):
        for number in _to_undo(ledger, files, numbers, since):
            try:
                done = changer.undo(number())
                click.echo(f"{done.path}: genre is {show.genres(done.genres_after)} again (change {done.change})")
            except MusicReclassError as error:
                refused = True
                click.echo(f"refused: {error}", err=True)
    return 1 if refused else 0


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
@as_json
@click.pass_obj
def doctor_(workshop: Workshop, as_json: bool) -> int:
    """Say in plain words what is wrong with this machine and config, and what to do about it.

    \b
    Example: music-reclass doctor
    """
    findings = doctor.examine(workshop)
    show.findings(findings, as_json)
    return 1 if any(finding.level is doctor.Level.PROBLEM for finding in findings) else 0


@program.group(name="config")
def config_() -> None:
    """Check the config file, or print its schema."""


@config_.command(name="check")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.pass_obj
def config_check(workshop: Workshop, file: Path | None) -> int:
    """List everything that is wrong with FILE (else the config in use), each with its line.

    \b
    Example: music-reclass config check config.yaml
    """
    path = file or workshop.config_path
    if path is None:
        click.echo("no config file: the built-in defaults serve")
        return 0
    configuration.load(path)
    click.echo(f"{path}: good")
    return 0


@config_.command(name="schema")
def config_schema() -> int:
    """Print the JSON schema of config.yaml, for an editor's completion.

    \b
    Example: music-reclass config schema > config.schema.json
    """
    click.echo(json.dumps(configuration.json_schema(), indent=2, ensure_ascii=False))
    return 0


@program.group(name="models")
def models_() -> None:
    """List, show, check and choose model bundles."""


@models_.command(name="list")
@as_json
@click.pass_obj
def models_list(workshop: Workshop, as_json: bool) -> int:
    """List the bundles of this machine; a star marks the one that serves.

    \b
    Example: music-reclass models list
    """
    serving = workshop.bundle_folder().resolve()
    rows = []
    for folder in [models.STARTER, *models.available(workshop.models_directory)]:
        try:
            loaded = bundles.load(folder)
        except MusicReclassError as error:
            rows.append({"folder": str(folder), "serves": False, "error": str(error)})
            continue
        rows.append(show.bundle_row(loaded) | {"serves": folder.resolve() == serving})
    show.bundles(rows, as_json)
    return 1 if any("error" in row for row in rows) else 0


@models_.command(name="show")
@click.argument("name", required=False)
@as_json
@click.pass_obj
def models_show(workshop: Workshop, name: str | None, as_json: bool) -> int:
    """Show the manifest and model card of bundle NAME (default: the one that serves).

    \b
    Example: music-reclass models show starter
    """
    show.bundle(bundles.load(workshop.bundle_folder(name)), as_json)
    return 0


@models_.command(name="check")
@click.argument("name", required=False)
@click.pass_obj
def models_check(workshop: Workshop, name: str | None) -> int:
    """Check every file of bundle NAME against its hash and replay its golden outputs.

    \b
    Example: music-reclass models check starter
    """
    ensemble = workshop.ensemble(name=name)
    click.echo(f"{ensemble.bundle.path}: good, serves on {ensemble.device.value}")
    return 0


@models_.command(name="use")
@click.argument("name")
@click.pass_obj
def models_use(workshop: Workshop, name: str) -> int:
    """Let bundle NAME serve, once it has passed its check. A running daemon takes it over by itself.

    \b
    Example: music-reclass models use starter
    """
    ensemble = workshop.ensemble(name=name)
    models.use(workshop.models_directory, ensemble.bundle.path)
    click.echo(f"{ensemble.bundle.id} serves")
    chosen = workshop.config.models.bundle
    if chosen != "auto":
        click.echo(f"but config.yaml names models.bundle: {chosen}, which outranks it", err=True)
        return 1
    return 0


def _music_in(paths: Sequence[Path], roots: Sequence[Root] = ()) -> Iterator[Path]:
    """Files named outright, and music files below named folders, without what one of `roots` ignores.

    Given roots, paths are made absolute as the daemon sees them: below a root as that root is written, elsewhere real.
    """
    for path in paths:
        place = _as_watched(path, roots) if roots else path
        root = next((root for root in roots if place.is_relative_to(root.path)), None)
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


def _last_change(ledger: Ledger, file: Path) -> int:
    """The last change to this very file; only where it has none, as after a move, the last one to its sound."""
    known = _on_record(ledger, file)
    changes = ledger.changes_of(known.audio_id) if known and known.audio_id else []
    done = [change for change in changes if change.undoable]
    here = [change for change in done if known is not None and change.path == known.path]
    if not done:
        raise UndoRefused(f"{file}: there is no change of ours to undo")
    return (here or done)[-1].number


def _to_undo(
    ledger: Ledger, files: Sequence[Path], numbers: Sequence[int], since: datetime | None
) -> Iterator[Callable[[], int]]:
    """What gives the number of each change to undo, one by one: a refusal of one must not keep back the others."""
    yield from ((lambda number=number: number) for number in numbers)
    yield from ((lambda file=file: _last_change(ledger, file)) for file in files)
    if since is not None:
        changes = ledger.changes_since(since.astimezone())
        yield from ((lambda number=change.number: number) for change in changes)
