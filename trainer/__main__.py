"""`music-reclass-train`: the trainer's door, and the only place that wires its parts together.

Exit codes: 0 done, 1 failed (said why), 2 wrong usage or a manifest that cannot be used.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from daemon.core.errors import ConfigError, MusicReclassError

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Train, judge and export the models of Music Reclass."""


@cli.command(
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
    # Imported here: torch takes seconds to load, and --help need not wait for it.
    from trainer.report import summary
    from trainer.starter import Setting, make_starter

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


def main() -> None:
    """Run the command line; errors raised on purpose end with their text instead of a traceback."""
    try:
        cli()
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    except MusicReclassError as error:
        click.echo(str(error), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
