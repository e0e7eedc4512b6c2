"""The verbs of `music-reclass-train`, a few lines each. Must never hold what a verb does, only how it is asked for.

torch takes seconds to load, so each verb imports what it needs itself: `--help` need not wait for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from trainer.fit import Job
    from trainer.place import Place

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
EXISTING = click.Path(exists=True, file_okay=False, path_type=Path)
DATA = click.option("--data", required=True, type=EXISTING, help="A data set, as `dataset` makes it.")

# From so many tracks on, a model per fold costs more than it tells: validation tracks judge then.
CROSSWISE_TRACKS = 2000


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", "config_file", type=FILE, help="The config; by default where `music-reclass` finds its own.")
@click.pass_context
def program(context: click.Context, config_file: Path | None) -> None:
    """Train, judge and export the models of Music Reclass."""
    from trainer.place import Place

    context.obj = Place(config_file)


@program.command(
    epilog="\b\nExamples:\n  music-reclass-train dataset --folders ~/Music/by-genre --out data\n"
    "  music-reclass-train dataset --tags ~/Music --ledger --out data"
)
@click.option("--folders", multiple=True, type=EXISTING, help="A folder with one folder per genre.")
@click.option("--tags", multiple=True, type=EXISTING, help="A folder whose files' genre tags are true.")
@click.option("--table", multiple=True, type=FILE, help="CSV with path and genre; artist, album, fold where known.")
@click.option("--ledger", is_flag=True, help="Your confirmed labels: what you corrected and accepted.")
@click.option(
    "--out", required=True, type=FOLDER, help="Folder of the data set; one that is there is brought up to date."
)
@click.option("--names", is_flag=True, help="Take genres by the names they have there, not by the config's taxonomy.")
@click.option(
    "--holdout", type=click.FloatRange(0, 0.5), help="Share that no model ever trains on; default: the config's."
)
@click.option(
    "--valid", type=click.FloatRange(0, 0.5), default=0.15, show_default=True, help="Share that stops training."
)
@click.option("--folds", type=click.IntRange(2, 20), default=5, show_default=True, help="Folds for cross-validation.")
@click.option(
    "--shortest", type=click.FloatRange(0.1), default=3.0, show_default=True, help="Seconds; shorter is left out."
)
@click.option("--least", type=click.IntRange(1), default=2, show_default=True, help="Tracks that a genre must have.")
@click.option("--renew-holdout", is_flag=True, help="Draw the frozen holdout afresh: old figures compare no more.")
@click.option("--workers", type=click.IntRange(0), default=os.cpu_count() or 1, show_default="all cores")
@click.option("--seed", type=int, default=0, show_default=True)
@click.pass_obj
def dataset(place: Place, /, **options: Any) -> None:
    """Gather labelled tracks from folders, tags, tables and the ledger into one data set."""
    from trainer.gather import gather

    gather(place, **options)


def _plan_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        [
            click.option(
                "--recipe",
                type=click.Choice(["auto", "gpu", "cpu"]),
                help="Recommended numbers; default: the config's.",
            ),
            click.option("--backbone", help="ast, ast-fast, mobilenet or compact; default: the recipe's."),
            click.option("--start", help="Pretrained weights: a name, file or folder; random: none."),
            click.option(
                "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Any number of the plan, as epochs=4."
            ),
        ]
    ):
        command = option(command)
    return command


@program.command(epilog="\b\nExample:\n  music-reclass-train fit --data data --run runs/first --start efficientat-mn04")
@DATA
@click.option("--run", required=True, type=FOLDER, help="Folder of the run; a run that stopped there goes on.")
@_plan_options
@click.option(
    "--cross-validate/--no-cross-validate",
    "crosswise",
    default=None,
    help=f"A model per fold, to judge on every track; by default below {CROSSWISE_TRACKS} tracks.",
)
@click.option("--id", "name", help="The bundle's name; default: backbone, day and minute.")
@click.option("--minutes", type=click.FloatRange(0.01), help="Stop after so many; `resume` goes on.")
@click.pass_obj
def fit(
    place: Place, /, data: Path, run: Path, crosswise: bool | None, name: str | None, minutes: float | None, **plan: Any
) -> None:
    """Train, judge and calibrate; RUN/bundle then holds a bundle that serves, RUN/report says how good it is."""
    from trainer import fit as fitting
    from trainer.tracks import manifest

    if crosswise is None:
        crosswise = len(manifest.read(data).tracks) < CROSSWISE_TRACKS
    chosen, start = place.plan(**plan)
    job = fitting.Job(
        data,
        run,
        place.clips,
        chosen,
        start,
        name or fitting.default_id(chosen.backbone),
        crosswise,
        place.config.training.target_precision,
        place.taxonomy.hash(),
    )
    _run(place, job, minutes)


@program.command(epilog="\b\nExample:\n  music-reclass-train resume runs/first")
@click.argument("run", type=EXISTING)
@click.option("--minutes", type=click.FloatRange(0.01), help="Stop after so many.")
@click.pass_obj
def resume(place: Place, run: Path, minutes: float | None) -> None:
    """Go on with a run that was stopped or killed, as if it had not been."""
    from trainer.fit import read_job

    _run(place, read_job(run), minutes)


def _run(place: Place, job: Job, minutes: float | None) -> None:
    from trainer.fit import fit as run_fit
    from trainer.learning.devices import end_together
    from trainer.paper import tell_result, write_fit_report

    until = None if minutes is None else time.monotonic() + 60.0 * minutes
    result = run_fit(job, place.telling(), lambda: until is not None and time.monotonic() >= until)
    end_together()
    if not place.is_main_process():
        return
    if result is None:
        click.echo(f"time is up; `music-reclass-train resume {job.run}` goes on", err=True)
        return
    page = write_fit_report(job, result)
    for line in tell_result(job, result, page):
        click.echo(line)


@program.command("lr-find", epilog="\b\nExample:\n  music-reclass-train lr-find --data data --out runs/rates")
@DATA
@click.option("--out", required=True, type=FOLDER, help="Where plot and table go.")
@_plan_options
@click.pass_obj
def lr_find(place: Place, /, data: Path, out: Path, **plan: Any) -> None:
    """Try learning rates from tiny to too large, draw the loss, and suggest one."""
    from trainer.seek import seek_rate

    chosen, start = place.plan(**plan)
    for line in seek_rate(data, out, place.clips, chosen, start, place.telling()):
        click.echo(line)


@program.command(
    epilog="\b\nExamples:\n  music-reclass-train evaluate runs/first/bundle --data data --split holdout --out judged\n"
    "  music-reclass-train evaluate daemon/starter --data data --split all --out judged"
)
@click.argument("bundle", type=EXISTING)
@DATA
@click.option("--split", type=click.Choice(["holdout", "valid", "train", "all"]), default="holdout", show_default=True)
@click.option("--segments", type=click.IntRange(1, 64), help="Windows per track; default: the bundle's.")
@click.option("--out", required=True, type=FOLDER, help="Where figures and report go.")
@click.pass_obj
def evaluate(place: Place, bundle: Path, data: Path, split: str, segments: int | None, out: Path) -> None:
    """Judge a bundle on tracks exactly as the daemon would hear them."""
    from trainer.paper import judge_bundle

    for line in judge_bundle(bundle, data, split, segments, out, place.telling()):
        click.echo(line)


@program.command(epilog="\b\nExample:\n  music-reclass-train export runs/first --install")
@click.argument("run", type=EXISTING)
@click.option("--out", type=FOLDER, help="Folder of the bundle; default: RUN/export.")
@click.option("--install", is_flag=True, help="Into the models directory, for `music-reclass models use`.")
@click.option("--fp16/--no-fp16", default=True, show_default=True, help="Add a variant of half precision, for GPUs.")
@click.option("--int8/--no-int8", default=True, show_default=True, help="Add a quantised variant, for CPUs.")
@click.pass_obj
def export(place: Place, run: Path, out: Path | None, install: bool, fp16: bool, int8: bool) -> None:
    """Write the finished bundle: variants with what each loses, music_classifier.pth, card and report."""
    from trainer.ship import ship

    folder = out or (place.models if install else run / "export")
    for line in ship(run, folder, install, fp16, int8, place.telling()):
        click.echo(line)


@program.command(
    epilog="\b\nExamples:\n  music-reclass-train convert mn04 --out models/mn04\n"
    "  music-reclass-train convert ~/Downloads/mn10_as_mAP_471.pt --out models/mn10"
)
@click.argument("checkpoint")
@click.option(
    "--name", help="Which network of `music-reclass models pull --list` it is, where its names do not say so."
)
@click.option("--out", required=True, type=FOLDER, help="Folder of the bundle; one that `convert` made is replaced.")
@click.pass_obj
def convert(place: Place, checkpoint: str, name: str | None, out: Path) -> None:
    """Turn a published AudioSet network into a bundle that hears AudioSet's own music genres, without training."""
    from trainer.shipping.convert import convert_named

    convert_named(checkpoint, name, out, place.models, place.taxonomy)
    click.echo(f"{out}: written")


@program.command(epilog="\b\nExample:\n  music-reclass-train report runs/first")
@click.argument("run", type=EXISTING)
def report(run: Path) -> None:
    """Write the report of a finished run once more."""
    from trainer.paper import rewrite_report

    click.echo(str(rewrite_report(run)))


@program.command(
    epilog="\b\nExample:\n  music-reclass-train starter --tracks tracks.csv --teacher mn04_as.pt --out daemon/starter"
)
@click.option("--tracks", required=True, type=FILE, help="Manifest: CSV with path, genre, fold and, if known, artist.")
@click.option("--teacher", type=FILE, help="EfficientAT mn04_as checkpoint to learn from; its weights stay out.")
@click.option("--out", required=True, type=FOLDER, help="Folder of the bundle; a bundle that is there is replaced.")
@click.option(
    "--genres",
    default="classical,electronic,jazz,pop,rock",
    show_default=True,
    help="What to tell apart, by commas. Tracks of other genres teach doubt.",
)
@click.option(
    "--cache",
    default="runs/starter",
    show_default=True,
    type=FOLDER,
    help="Where computed rows and trained students are kept; a second run goes on from there.",
)
@click.option("--id", "name", default="starter-1", show_default=True, help="Name of the bundle.")
@click.option("--steps", type=click.IntRange(min=1), help="Training steps per student; the shipped number by default.")
@click.option("--batch", type=click.IntRange(min=2), help="Crops per step; the shipped number by default.")
@click.option(
    "--width", type=click.IntRange(min=8), help="Channels of a student's first stage; the shipped number by default."
)
@click.option("--committee", type=click.IntRange(1, 4), help="Students in the graph; the shipped number by default.")
@click.option("--speeds", type=click.IntRange(min=0), help="Further rows per track, at another speed.")
@click.option("--mixes", type=click.IntRange(min=0), help="Further rows per track, mixed with another of its fold.")
@click.option("--precision", type=click.FloatRange(0.5, 1.0), help="Share of tags to be right; the shipped by default.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=os.cpu_count() or 1,
    show_default="all cores",
    help="Students trained side by side, one thread each.",
)
@click.option("--seed", default=0, show_default=True, type=int, help="Same seed, same bundle, on the same machine.")
def starter(
    tracks: Path,
    teacher: Path | None,
    out: Path,
    genres: str,
    cache: Path,
    name: str,
    workers: int,
    seed: int,
    steps: int | None,
    batch: int | None,
    width: int | None,
    **chosen: float | None,
) -> None:
    """Cross-validate, train and export the bundle that ships with the program."""
    from trainer.starter.card import summary
    from trainer.starter.make import Setting, make_starter

    names = tuple(genre.strip() for genre in genres.split(",") if genre.strip())
    if len(names) < 2 or len(set(names)) != len(names):
        raise click.BadParameter("name at least two genres, each once", param_hint="--genres")
    setting = Setting(tracks, teacher, out, cache, names, id=name, workers=workers, seed=seed)
    plan = _given(steps=steps, batch=batch, width=width)
    setting = replace(setting, plan=replace(setting.plan, **plan), **_given(**chosen))
    findings = make_starter(setting, lambda line: click.echo(line, err=True))
    for line in summary(findings):
        click.echo(line)


def _given(**options: float | None) -> dict[str, Any]:
    """The options that were given; the others keep the shipped value."""
    return {name: value for name, value in options.items() if value is not None}
