"""What training tells of itself while it runs, as plain values, and who may listen. Must never write or print."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


class Stopped(enum.StrEnum):
    """Why training ended: all epochs done, no improvement for `patience` epochs, or told to (it can be resumed)."""

    COMPLETE = "complete"
    EARLY = "early"
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True)
class Start:
    """A run begins or goes on: `step` of `steps` optimiser steps are done, `tracks` are trained on by `processes`."""

    step: int
    steps: int
    epochs: int
    tracks: int
    device: str
    processes: int
    trainable: int
    parameters: int


@dataclass(frozen=True, slots=True)
class Step:
    """One optimiser step. `wait_share` is the share of its time spent waiting for data; memory is 0 without a GPU."""

    step: int
    steps: int
    epoch: int
    loss: float
    rate: float
    gradient_norm: float
    examples_per_s: float
    wait_share: float
    gpu_memory_bytes: int


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch, judged on the validation tracks with the averaged weights: `logits` [tracks, labels], `embeddings`
    [tracks, dim], `targets` [tracks]. Without validation tracks these are empty and the measures NaN."""

    epoch: int
    step: int
    train_loss: float
    valid_loss: float
    accuracy: float
    macro_f1: float
    best: bool
    seconds: float
    wait_share: float
    logits: Array
    embeddings: Array
    targets: Sequence[int] = field(default=())


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended; `best_epoch` (from 1) is the one whose weights were kept."""

    stopped: Stopped
    epochs: int
    best_epoch: int
    steps: int
    train_losses: tuple[float, ...]
    valid_losses: tuple[float, ...]
    accuracies: tuple[float, ...]


class Observer(Protocol):
    """Listens to a run; called on the main process only, between steps."""

    def started(self, start: Start) -> None:
        """Training is about to begin."""

    def stepped(self, step: Step) -> None:
        """An optimiser step is done."""

    def epoch_ended(self, epoch: Epoch) -> None:
        """An epoch is done and judged."""

    def ended(self, outcome: Outcome) -> None:
        """Nothing more follows."""


@runtime_checkable
class Gallery(Protocol):
    """An observer that shows pictures."""

    def show_pictures(self, pictures: Array, names: Sequence[str], step: int) -> None:
        """Show `pictures` [n, bands, frames], each under its name."""


@dataclass(frozen=True, slots=True)
class Telling:
    """Who is told what: `say` gets lines, `advance` the progress of long steps, `observers` makes those of a round."""

    say: Callable[[str], None]
    advance: Callable[[str], Callable[[int, int], None]]
    observers: Callable[[str, Path, Sequence[str]], Sequence[Observer]]
