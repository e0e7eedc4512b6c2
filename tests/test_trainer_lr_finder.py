"""The search for a learning rate."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_training import LABELS, PLAN, Setup, Tiny, make_setup, new_classifier, same, weights
from torch import Tensor

from daemon.core.errors import ConfigError, FileTrouble
from trainer.learning.classifier import Classifier
from trainer.learning.lr_finder import Sweep, _read, find_rate, plot
from trainer.learning.train import train
from trainer.plan import Depth, Plan

PLAINLY: dict[str, Any] = {"mixup": 0.0, "smoothing": 0.0, "clip_norm": 1e9}
HEAD_ONLY = PLAN.with_changes({**PLAINLY, "depth": Depth.HEAD, "head_rate": 1e-3})


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """Five tracks of each of three kinds."""
    return make_setup(tmp_path_factory.mktemp("sounds"))


@pytest.fixture(scope="module")
def sweep(setup: Setup) -> Sweep:
    """Of the head's rate, to where it diverges."""
    return find_rate(new_classifier(), setup.crops(), HEAD_ONLY, lowest=1e-4, highest=1e3)


def test_suggested_rate_trains_and_ten_times_as_much_diverges(setup: Setup, sweep: Sweep, tmp_path: Path) -> None:
    losses = {}
    for factor in (1, 10):
        plan = HEAD_ONLY.with_changes({"head_rate": factor * sweep.suggested, "epochs": 8})
        losses[factor] = train(new_classifier(), setup.crops(), None, plan, tmp_path / str(factor)).train_losses
    assert sweep.name == "head_rate"
    assert max(losses[1]) < 1.25 * math.log(3)
    assert losses[1][-1] < 0.75 * losses[1][0]
    assert max(losses[10]) > 1.5 * math.log(3)
    assert sum(losses[10]) > 1.5 * sum(losses[1])


def test_cautious_rate_trains_too(setup: Setup, sweep: Sweep, tmp_path: Path) -> None:
    plan = HEAD_ONLY.with_changes({"head_rate": sweep.cautious, "epochs": 8})
    losses = train(new_classifier(), setup.crops(), None, plan, tmp_path).train_losses
    assert losses[-1] < losses[0] < 1.1 * math.log(3)


def test_rates_rise_by_one_factor_and_the_sweep_ends_where_the_loss_explodes(sweep: Sweep) -> None:
    assert sweep.diverged
    assert len(sweep.rates) == len(sweep.losses) == len(sweep.smoothed) < 100
    assert sweep.rates[0] == pytest.approx(1e-4)
    assert np.diff(np.log(sweep.rates)) == pytest.approx(math.log(1e7) / 99)
    assert sweep.losses[-1] > 2 * min(sweep.losses)
    assert sweep.suggested in sweep.rates
    assert sweep.suggested <= sweep.rates[int(np.argmin(sweep.smoothed))]
    assert sweep.cautious == sweep.rates[int(np.argmin(sweep.smoothed))] / 10


def test_same_plan_gives_the_same_sweep(setup: Setup) -> None:
    plan = PLAN.with_changes({"accumulate": 2, "batch": 2})
    first, second = (find_rate(new_classifier(), setup.crops(), plan, steps=12) for _ in range(2))
    assert first == second
    assert first.name == "rate"


@pytest.mark.parametrize("depth", list(Depth))
def test_classifier_is_left_as_it_was(setup: Setup, depth: Depth) -> None:
    classifier = new_classifier()
    before = weights(classifier)
    told: list[tuple[int, int]] = []
    plan = PLAN.with_changes({"depth": depth, "unfrozen": 1, "precision": "bf16"})
    find_rate(classifier, setup.crops(), plan, highest=0.1, steps=12, advance=lambda *done: told.append(done))
    assert same(before, weights(classifier))
    assert all(weight.requires_grad and weight.grad is None for weight in classifier.parameters())
    assert not any(module.training for module in classifier.modules())
    assert classifier.head.weight.is_contiguous()
    assert told == [(step, 12) for step in range(1, 13)]


class Failing(Tiny):
    """Breaks in the third batch."""

    count = 0

    def embed(self, picture: Tensor) -> Tensor:
        self.count += 1
        if self.count == 3:
            raise MemoryError("too large")
        return super().embed(picture)


def test_classifier_is_left_as_it_was_even_by_a_sweep_that_fails(setup: Setup) -> None:
    classifier = Classifier(Failing(), LABELS)
    before = weights(classifier)
    with pytest.raises(MemoryError):
        find_rate(classifier, setup.crops(), PLAN.with_changes({"precision": "bf16"}))
    assert same(before, weights(classifier))
    assert "_original_forward" not in vars(classifier)


def test_a_valley_is_read_where_it_falls_most_steeply() -> None:
    rates = [10 ** (-6 + 6 * step / 99) for step in range(100)]
    # Flat, a fall whose middle is at 1e-3, a floor, and a rise from 1e-1 on.
    losses = [
        2.0 - 1.0 / (1 + math.exp(-6 * (math.log10(rate) + 3))) + 5 * max(0.0, math.log10(rate) + 1) for rate in rates
    ]
    found = _read(PLAN, rates, losses, 100)
    assert found.suggested == pytest.approx(1e-3, rel=0.3)
    assert 1e-3 < found.cautious < 1e-2
    assert not found.diverged


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"steps": 9}, "at least 10 steps"),
        ({"lowest": 1.0, "highest": 0.1}, "a range of rates above 0"),
        ({"lowest": 0.0}, "a range of rates above 0"),
        ({"lowest": 1e4, "highest": 1e30}, "begin below 10000"),
    ],
)
def test_range_that_cannot_be_swept_is_refused(setup: Setup, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        find_rate(new_classifier(), setup.crops(), HEAD_ONLY, **options)


def test_plot_is_a_picture_with_its_points_beside_it(sweep: Sweep, tmp_path: Path) -> None:
    path = tmp_path / "rates.png"
    plot(sweep, path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    with open(tmp_path / "rates.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["head_rate", "loss", "smoothed"]
    assert [float(rate) for rate, _, _ in rows] == list(sweep.rates)
    assert [float(loss) for _, loss, _ in rows] == list(sweep.losses)


def test_plot_that_cannot_be_written_says_where(sweep: Sweep, tmp_path: Path) -> None:
    with pytest.raises(FileTrouble, match=r"nowhere/rates\.png"):
        plot(sweep, tmp_path / "nowhere" / "rates.png")


def test_head_rate_keeps_its_proportion_to_the_swept_rate(setup: Setup) -> None:
    def first_losses(plan: Plan) -> tuple[float, ...]:
        return find_rate(new_classifier(), setup.crops(), plan, lowest=1e-3, highest=1e-1, steps=10).losses

    twice = PLAN.with_changes({"rate": 2 * PLAN.rate, "head_rate": 2 * PLAN.head_rate})
    other = PLAN.with_changes({"rate": 2 * PLAN.rate})
    assert first_losses(twice) == pytest.approx(first_losses(PLAN), rel=1e-4)
    assert first_losses(other)[-1] != pytest.approx(first_losses(PLAN)[-1], rel=1e-4)
