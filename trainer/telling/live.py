"""Tells a person on a terminal, or whoever reads a service's log, how training goes. Must never write files."""

from __future__ import annotations

import atexit
import math
import time
from collections.abc import Callable

import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from trainer.progress import Epoch, Outcome, Start, Step, Stopped

log = structlog.get_logger()

_ENDINGS = {
    Stopped.COMPLETE: "all epochs done",
    Stopped.EARLY: "stopped early, since it no longer improved",
    Stopped.DEADLINE: "out of time; it can be resumed",
}


class Bar:
    """An `Observer` that shows a progress bar on a terminal, and a line for every epoch."""

    def __init__(self, name: str, console: Console | None = None) -> None:
        # Refreshed from here: a thread of its own would outlive an error in training.
        shown = console or Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}", markup=False),
            TimeRemainingColumn(),
            console=shown,
            auto_refresh=False,
        )
        self._name, self._task = name, TaskID(0)
        self._epochs, self._shown_s = 0, -math.inf

    def started(self, start: Start) -> None:
        """Show the bar, from where a resumed run goes on."""
        self._say(
            f"{self._name}: {start.tracks} tracks, {start.trainable / 1e6:.1f} of {start.parameters / 1e6:.1f} million "
            f"parameters, on {start.device}" + (f" with {start.processes} processes" if start.processes > 1 else "")
        )
        self._epochs = start.epochs
        self._task = self._progress.add_task(self._name, total=start.steps, completed=start.step, told="")
        self._progress.start()
        # An error elsewhere must not leave a terminal without its cursor.
        atexit.register(self.close)

    def stepped(self, step: Step) -> None:
        """Move the bar, at most ten times a second."""
        told = f"epoch {step.epoch}/{self._epochs}  loss {step.loss:.3f}  {step.examples_per_s:.1f}/s"
        self._progress.update(self._task, completed=step.step, told=told)
        now_s = time.monotonic()
        if now_s - self._shown_s >= 0.1:
            self._shown_s = now_s
            self._progress.refresh()

    def epoch_ended(self, epoch: Epoch) -> None:
        """Write the epoch's measures above the bar."""
        told = f"epoch {epoch.epoch}/{self._epochs}: loss {epoch.train_loss:.3f}"
        if not math.isnan(epoch.valid_loss):
            told += f", validation loss {epoch.valid_loss:.3f}, accuracy {epoch.accuracy:.1%}"
            told += f", macro-F1 {epoch.macro_f1:.3f}" + (" (best so far)" if epoch.best else "")
        self._say(f"{told}, {epoch.seconds:.0f} s")

    def ended(self, outcome: Outcome) -> None:
        """Take the bar away and say how it ended."""
        self.close()
        kept = f"; kept: epoch {outcome.best_epoch}" if outcome.best_epoch else ""
        self._say(f"{self._name}: {_ENDINGS[outcome.stopped]}{kept}")

    def close(self) -> None:
        """Give the terminal back; safe to call at any time."""
        self._progress.stop()
        atexit.unregister(self.close)

    def _say(self, line: str) -> None:
        # As a text of its own: a genre or folder in square brackets is no markup.
        self._progress.console.print(Text(line))


class Events:
    """An `Observer` that logs events: the start, the state every `every_s` seconds, every epoch, and the end."""

    def __init__(self, name: str, every_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._name, self._every_s, self._clock = name, every_s, clock
        self._told_s = 0.0

    def started(self, start: Start) -> None:
        """Log what is about to be trained."""
        self._told_s = self._clock()
        sizes = {"tracks": start.tracks, "trainable": start.trainable, "parameters": start.parameters}
        place = {"device": start.device, "processes": start.processes}
        log.info("training_started", name=self._name, step=start.step, steps=start.steps, **sizes, **place)

    def stepped(self, step: Step) -> None:
        """Log a step, if none was logged for a while."""
        now_s = self._clock()
        if now_s - self._told_s < self._every_s:
            return
        self._told_s = now_s
        self._tell(
            "training_step",
            step=step.step,
            steps=step.steps,
            epoch=step.epoch,
            loss=step.loss,
            rate=step.rate,
            examples_per_s=step.examples_per_s,
            wait_share=step.wait_share,
            gpu_memory_bytes=step.gpu_memory_bytes,
        )

    def epoch_ended(self, epoch: Epoch) -> None:
        """Log an epoch's measures."""
        self._tell(
            "training_epoch",
            epoch=epoch.epoch,
            step=epoch.step,
            train_loss=epoch.train_loss,
            valid_loss=epoch.valid_loss,
            accuracy=epoch.accuracy,
            macro_f1=epoch.macro_f1,
            best=epoch.best,
            seconds=epoch.seconds,
            wait_share=epoch.wait_share,
        )

    def ended(self, outcome: Outcome) -> None:
        """Log how it ended."""
        how = {"epochs": outcome.epochs, "best_epoch": outcome.best_epoch, "steps": outcome.steps}
        log.info("training_ended", name=self._name, stopped=str(outcome.stopped), **how)

    def close(self) -> None:
        """Nothing is open."""

    def _tell(self, event: str, **fields: float) -> None:
        # Five digits are plenty, and what is no number (a measure without validation tracks) is not JSON either.
        said = {name: _brief(value) for name, value in fields.items() if math.isfinite(value)}
        log.info(event, name=self._name, **said)


def _brief(value: object) -> object:
    return float(f"{value:.5g}") if isinstance(value, float) else value
