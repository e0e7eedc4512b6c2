"""Tries rising learning rates for some steps and suggests one. Must never leave a trace in the classifier.

The range test of Smith, "Cyclical Learning Rates for Training Neural Networks" (WACV 2017), with the exponential sweep
and the reading of its curve that fastai made common: the rate where the smoothed loss falls most steeply, and a tenth
of the rate where it is lowest. Unlike there the curve is smoothed to both sides, once it is whole: a running mean lags
behind its losses, over a hundred steps by most of a power of ten, and what is read from it is too high by as much.
One process; batches, augmentation, precision and depth are those of the plan.
"""

from __future__ import annotations

import copy
import csv
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from daemon.core.errors import ConfigError, from_os_error
from trainer.learning.batches import Crops
from trainer.learning.classifier import Classifier
from trainer.learning.devices import accelerator_for
from trainer.learning.feed import Stream, feed, sampler_for
from trainer.learning.rates import freeze, parameter_groups, to_training_mode
from trainer.learning.train import loss_of, seed
from trainer.plan import Depth, Plan

# Weight of the past in the running mean that the end of the sweep is decided by: it looks back on about five steps.
PAST = 0.8
# The sweep ends where that mean is so many times its lowest: from there on it only gets worse.
DIVERGED = 4.0
# The share of the sweep that a point of the smoothed curve is a weighted mean of.
WINDOW = 0.15
# Fewer points than this make no curve to read.
FEWEST = 10


@dataclass(frozen=True, slots=True)
class Sweep:
    """A finished sweep. `name` says which setting of the plan the rates are of; the other one kept its proportion.

    `suggested` is the rate of the steepest fall and `cautious` a tenth of the rate of the lowest loss; where the two
    are far apart, the curve has no clear valley and the smaller is the safer.
    """

    name: str
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggested: float
    cautious: float
    diverged: bool


def find_rate(
    classifier: Classifier,
    crops: Crops,
    plan: Plan,
    *,
    lowest: float = 1e-6,
    highest: float = 1.0,
    steps: int = 100,
    advance: Callable[[int, int], None] = lambda done, of: None,
) -> Sweep:
    """Sweep the plan's `rate` (with `Depth.HEAD` its `head_rate`) from `lowest` to `highest`; the rates of all stages
    and of the head rise with it in their proportions. Afterwards the classifier is as it was, in evaluation mode.

    Raises:
        ConfigError: fewer than `FEWEST` steps, an empty range, a loss that diverged at once, or several processes.
    """
    if steps < FEWEST or not 0 < lowest < highest:
        raise ConfigError("lr-find", [f"needs at least {FEWEST} steps and a range of rates above 0"])
    home, weights = classifier.head.weight.device, copy.deepcopy(classifier.state_dict())
    rates = [lowest * (highest / lowest) ** (step / (steps - 1)) for step in range(steps)]
    try:
        losses = _losses(classifier, crops, plan, rates, advance)
    finally:
        classifier.to(home, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        classifier.load_state_dict(weights)
        classifier.eval().requires_grad_(True)
    if len(losses) < FEWEST:
        raise ConfigError("lr-find", [f"the loss diverged within {len(losses)} steps: begin below {lowest:g}"])
    return _read(plan, rates[: len(losses)], losses, steps)


def plot(sweep: Sweep, path: Path) -> None:
    """Draw the curve into `path` (a PNG) and write its points beside it (a CSV of the same name).

    Raises:
        BadFile, TryLater: they cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(sweep.rates, sweep.losses, color="0.75", linewidth=1, label="loss")
    axes.plot(sweep.rates, sweep.smoothed, label="smoothed")
    axes.axvline(sweep.suggested, color="tab:green", label=f"steepest: {sweep.suggested:.1e}")
    axes.axvline(sweep.cautious, color="tab:orange", linestyle="--", label=f"lowest / 10: {sweep.cautious:.1e}")
    axes.set_xscale("log")
    # What comes after the end of the valley would press the rest flat.
    low, start = min(sweep.smoothed), sweep.smoothed[0]
    axes.set_ylim(low - 0.1 * abs(low), max(start, low) * 1.5)
    axes.set_xlabel(sweep.name)
    axes.set_ylabel("training loss")
    axes.legend()
    try:
        figure.savefig(path, dpi=120)
        with open(path.with_suffix(".csv"), "w", newline="", encoding="utf-8") as out:
            table = csv.writer(out)
            table.writerow((sweep.name, "loss", "smoothed"))
            table.writerows(zip(sweep.rates, sweep.losses, sweep.smoothed, strict=True))
    except OSError as error:
        raise from_os_error(path, error) from error


def _losses(
    classifier: Classifier, crops: Crops, plan: Plan, rates: Sequence[float], advance: Callable[[int, int], None]
) -> list[float]:
    """The loss at each rate, until it diverges."""
    accelerator = accelerator_for(plan)
    if accelerator.num_processes > 1:
        raise ConfigError("lr-find", ["runs in one process: start it without a launcher"])
    classifier.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    freeze(classifier, plan)
    if plan.gradient_checkpointing:
        classifier.backbone.save_memory()
    to_training_mode(classifier, plan)
    optimiser = torch.optim.AdamW(parameter_groups(classifier, plan), fused=True)
    model, optimiser = accelerator.prepare(classifier, optimiser)
    draws = Stream(sampler_for(crops, len(classifier.labels), plan), 0, len(rates) * plan.batch * plan.accumulate)
    losses: list[float] = []
    mean, lowest = 0.0, math.inf
    try:
        with closing(feed(accelerator, crops, draws, plan)) as batches:
            for step, rate in enumerate(rates):
                for group in optimiser.param_groups:
                    group["lr"] = rate * group["peak"] / _swept(plan)
                total = 0.0
                for part in range(plan.accumulate):
                    waveform, targets, _ = next(batches)
                    seed(plan.seed, step, part)
                    with accelerator.accumulate(model):
                        loss = loss_of(model, classifier, waveform, targets, plan)
                        accelerator.backward(loss)
                    total += float(loss.detach()) / plan.accumulate
                accelerator.clip_grad_norm_(classifier.parameters(), plan.clip_norm)
                optimiser.step()
                optimiser.zero_grad()
                if not math.isfinite(total):
                    break
                losses.append(total)
                advance(step + 1, len(rates))
                mean = total if len(losses) == 1 else PAST * mean + (1.0 - PAST) * total
                lowest = min(lowest, mean)
                if mean > DIVERGED * lowest:
                    break
    finally:
        accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    return losses


def _swept(plan: Plan) -> float:
    return plan.head_rate if plan.depth is Depth.HEAD else plan.rate


def _smoothed(losses: Sequence[float], points: int) -> NDArray[np.float64]:
    """Each loss as a weighted mean (a Hann window) of the `points` around it, of fewer at the ends."""
    window = np.hanning(points + 2)[1:-1]
    weight = np.convolve(np.ones(len(losses)), window, mode="same")
    return np.asarray(np.convolve(losses, window, mode="same") / weight)


def _read(plan: Plan, rates: Sequence[float], losses: Sequence[float], steps: int) -> Sweep:
    points = min(len(losses), max(3, round(WINDOW * steps))) | 1
    smoothed = _smoothed(losses, min(points, len(losses)))
    lowest = int(smoothed.argmin())
    # Before the valley only: behind it a fall is luck.
    slope = np.gradient(smoothed, np.log(np.array(rates)))[: lowest + 1]
    name = "head_rate" if plan.depth is Depth.HEAD else "rate"
    curve = (tuple(rates), tuple(losses), tuple(smoothed.tolist()))
    return Sweep(name, *curve, rates[int(slope.argmin())], rates[lowest] / 10.0, len(losses) < steps)
