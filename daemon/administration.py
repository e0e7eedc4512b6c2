"""The verbs of `music-reclass` for the one who looks after it: config, models and the ledger itself.

As in `commands`: what they take, whom they call, what they print, how they exit.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import click

from daemon import pulling, show, show_pull
from daemon.core import bundle as bundles
from daemon.core import catalogue
from daemon.core import config as configuration
from daemon.core import ledger_backup as backups
from daemon.core.errors import LedgerError, MusicReclassError
from daemon.effects import models
from daemon.recognition import RESTORED_AT
from daemon.workshop import Workshop

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


class Verbs(click.Group):
    """Shows the verbs in the order in which they were written: the daily ones first."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs' names."""
        return list(self.commands)


@click.group(name="config", cls=Verbs)
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


@click.group(name="models", cls=Verbs)
def models_() -> None:
    """List, show, check, choose and pull model bundles."""


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


@models_.command(name="pull")
@click.argument("name", required=False)
@click.option(
    "--from",
    "given",
    metavar="URL|FOLDER|FILE",
    help="Take it from there: an address (ending in / for a folder), or a folder or file of this machine.",
)
@click.option("--mirror", metavar="BASE_URL", help="Take it from this host, which has the publisher's paths.")
@click.option("--sha256", metavar="HEX", callback=lambda _, __, value: _hash(value), help="What the weights must have.")
@click.option("--trust-first-use", is_flag=True, help="Where no hash is known: record that of what comes.")
@click.option("--list", "only_list", is_flag=True, help="Show what can be pulled; nothing is fetched.")
@as_json
@click.pass_obj
def models_pull(
    workshop: Workshop,
    name: str | None,
    given: str | None,
    mirror: str | None,
    sha256: str | None,
    trust_first_use: bool,
    only_list: bool,
    as_json: bool,
) -> int:
    """Fetch the pretrained network NAME, check its hash, and turn it into a bundle.

    This is the only command that opens a connection, and it sends nothing but the request for the files. Interrupted,
    it goes on from where it stopped. Proxies are taken from the environment ($https_proxy, $no_proxy).

    \b
    Examples: music-reclass models pull --list
              music-reclass models pull mn04
              music-reclass models pull ast --from ~/Downloads/ast
    """
    if only_list:
        folders = [(entry, catalogue.folder_of(entry, workshop.models_directory)) for entry in catalogue.CATALOGUE]
        show_pull.catalogue([(e, all((f / file.name).is_file() for file in e.files)) for e, f in folders], as_json)
        return 0
    if name is None:
        raise click.UsageError("name what to pull; `music-reclass models pull --list` shows what there is")
    if given is not None and mirror is not None:
        raise click.UsageError("--from and --mirror exclude each other")
    trust = pulling.Trust.FIRST_USE if trust_first_use else pulling.Trust.KNOWN_HASH
    terms = pulling.terms_for(given)
    order = pulling.Order(catalogue.find(name), workshop.models_directory, given, mirror, sha256, trust, terms)
    arrived = pulling.pull(order, show_pull.transfer)
    if not as_json:
        show_pull.arrivals(arrived)
    bundle, note = _bundle_of(workshop, order, arrived[0].sha256)
    if as_json:
        show_pull.outcome(order.entry, arrived, bundle, note)
    else:
        click.echo(note)
    return 0


def _bundle_of(workshop: Workshop, order: pulling.Order, weights_sha256: str) -> tuple[str | None, str]:
    """The id of the bundle made of a pulled checkpoint, None where none could be made, and what to say of it."""
    taxonomy = workshop.config.build_taxonomy()
    made = pulling.is_made(order, weights_sha256, taxonomy.hash())
    lacking = pulling.lacking()
    if not made and lacking:
        return None, (
            f"{order.folder}: the checkpoint is there. To make a bundle of it, install the trainer "
            f"(pip install 'music-reclass[trainer]'; missing: {', '.join(lacking)}) and run this command again"
        )
    if not made:
        pulling.convert(order, workshop.config_path, lambda line: click.echo(line, err=True))
    loaded = bundles.load(order.bundle_folder)
    unmapped = taxonomy.unmapped(loaded.labels)
    strange = f"\nIt also hears what your taxonomy has no genre for: {', '.join(unmapped)}" if unmapped else ""
    return (
        loaded.id,
        f"{loaded.path}: {'was there' if made else 'made'}; `music-reclass models use {loaded.id}`{strange}",
    )


def _hash(value: str | None) -> str | None:
    if value is None:
        return None
    text = value.strip().lower().removeprefix("sha256:")
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise click.BadParameter("a SHA-256 has 64 hexadecimal digits")
    return text


@click.group(name="ledger", cls=Verbs)
def ledger_() -> None:
    """Back up the record of everything that was done, and put a backup in its place."""


@ledger_.command(name="backup")
@click.pass_obj
def ledger_back_up(workshop: Workshop) -> int:
    """Copy the ledger now, besides the copy that the daemon makes every day.

    \b
    Example: music-reclass ledger backup
    """
    with workshop.ledger() as ledger:
        click.echo(f"{ledger.back_up(only_if_due=False)}: made")
    return 0


@ledger_.command(name="list")
@as_json
@click.pass_obj
def ledger_list(workshop: Workshop, as_json: bool) -> int:
    """List the copies of the ledger, the newest first, and say which are sound.

    \b
    Example: music-reclass ledger list
    """
    folder = backups.folder_of(workshop.state_directory / "ledger.db")
    sound = {backup.path for backup in backups.sound_backups(folder)}
    show.backups([(backup, backup.path in sound) for backup in backups.backups(folder)], as_json)
    return 0


@ledger_.command(name="restore")
@click.argument("source", required=False, type=click.Path(path_type=Path), metavar="[COPY]")
@click.pass_obj
def ledger_restore(workshop: Workshop, source: Path | None) -> int:
    """Put COPY of the ledger (else the newest sound one) in its place. The daemon must be stopped.

    What was there is set aside. Genres that were written after the copy was made are taken as seen, not as corrections
    of yours; they can no longer be undone.

    \b
    Examples: music-reclass ledger restore
              music-reclass ledger restore ~/ledger-20261122T120000Z.db
    """
    with workshop.alone() as place:
        newest = next(backups.sound_backups(backups.folder_of(place)), None)
        if source is None and newest is None:
            raise LedgerError(f"{place}: there is no sound backup in {backups.folder_of(place)}")
        chosen = source or (newest.path if newest else place)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        done = backups.restore(place, chosen, stating={RESTORED_AT: now})
    for aside in done.set_aside:
        click.echo(f"{aside}: set aside")
    click.echo(f"{done.ledger}: restored from {done.backup}; what was changed after that cannot be undone any more")
    return 0
