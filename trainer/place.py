"""Where a verb works: the owner's config, taxonomy and folders, and who is told of progress. Opens no music file."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from daemon.core import config as configs
from daemon.core import log
from daemon.core.config import Config
from daemon.core.config_training import Recipe
from daemon.core.errors import ConfigError
from daemon.core.taxonomy import Taxonomy
from trainer.plan import RECIPES, Plan
from trainer.progress import Observer, Telling
from trainer.shipping.checkpoints import find

CHECKOUT = Path(__file__).resolve().parents[1]
RANDOM = "random"

# An id on Hugging Face: transformers looks it up in its cache, and fetches it where the owner lets it.
_PUBLISHED = re.compile(r"[\w.-]+/[\w.-]+")


class Place:
    """The owner's things as the config says, read when they are first asked for."""

    def __init__(self, config_file: Path | None) -> None:
        self._explicit = config_file

    @functools.cached_property
    def config(self) -> Config:
        """The config that `music-reclass` would use."""
        path = configs.find(self._explicit, os.environ, Path.home(), CHECKOUT)
        return configs.load(path) if path is not None else configs.default()

    @functools.cached_property
    def taxonomy(self) -> Taxonomy:
        """The owner's genres."""
        return self.config.build_taxonomy()

    @property
    def state(self) -> Path:
        """Where the ledger lies."""
        return configs.state_directory(self.config, os.environ, Path.home())

    @property
    def models(self) -> Path:
        """Where bundles live."""
        return configs.models_directory(self.config, self.state)

    @property
    def clips(self) -> Path:
        """Where decoded clips are kept."""
        return self.config.training.clips_folder(self.state)

    def plan(
        self, recipe: str | None, backbone: str | None, start: str | None, settings: Iterable[str]
    ) -> tuple[Plan, str | None]:
        """The plan by recipe, config and command line, each outranking the one before, and the checkpoint it names.

        Raises:
            ConfigError: a setting that does not exist or does not fit, or a checkpoint that is not there.
        """
        training = self.config.training
        wanted = Recipe(recipe) if recipe else training.recipe
        if wanted is Recipe.AUTO:
            wanted = Recipe.GPU if _cuda() else Recipe.CPU
        base = RECIPES[wanted.value]
        network = backbone or training.backbone or base.backbone
        # Another network's checkpoint is of no use to this one.
        weights = start or training.start or (base.checkpoint if network == base.backbone else None)
        changes = {"backbone": network, "checkpoint": weights or RANDOM, **training.changes(), **_read(settings)}
        plan = base.with_changes(changes)
        if plan.checkpoint in {None, RANDOM}:
            return plan, None
        try:
            return plan, str(find(str(plan.checkpoint), self.models).resolve())
        except ConfigError:
            if plan.backbone.startswith("ast") and _PUBLISHED.fullmatch(str(plan.checkpoint)):
                return plan, str(plan.checkpoint)
            raise

    def is_main_process(self) -> bool:
        """Whether this is the one process that speaks and writes, under `accelerate launch`."""
        from trainer.learning.devices import processes

        return bool(processes().is_main_process)

    def telling(self) -> Telling:
        """Progress for a person on a terminal, events elsewhere; nothing from the other processes."""
        from trainer.telling.live import Bar, Events

        if not self.is_main_process():
            return Telling(lambda line: None, lambda name: lambda done, total: None, lambda *names: ())
        shown = sys.stderr.isatty()
        wanted = self.config.logging
        log.configure(wanted.level.value, wanted.format, environment=os.environ)

        def observers(name: str, folder: Path, labels: Sequence[str]) -> Sequence[Observer]:
            from trainer.telling.board import Board

            return (Board(folder, labels), Bar(name) if shown else Events(name))

        return Telling(lambda line: click.echo(line, err=True), _milestones, observers)


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _read(settings: Iterable[str]) -> dict[str, Any]:
    problems = [f"{text}: give it as NAME=VALUE" for text in settings if "=" not in text]
    if problems:
        raise ConfigError("--set", problems)
    return dict(text.split("=", 1) for text in settings)


def _milestones(what: str) -> Callable[[int, int], None]:
    """A line at every tenth of a long step."""
    told = 0

    def advance(done: int, total: int) -> None:
        nonlocal told
        tenth = done * 10 // max(total, 1)
        if tenth > told or done == total:
            told = tenth
            click.echo(f"{what}: {done} of {total}", err=True)

    return advance
