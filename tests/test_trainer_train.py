"""The training loop: what it learns from, how fast, what it keeps, and when it stops."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_training import LABELS, PLAN, Setup, Tiny, Witness, make_setup, new_classifier, same, weights
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_pre_hook

from daemon.core.errors import ConfigError
from trainer.learning import checkpoint
from trainer.learning.augment import mask, mix
from trainer.learning.averaging import Statistics, renew
from trainer.learning.batches import BalancedSampler
from trainer.learning.classifier import Classifier
from trainer.learning.feed import Stream, plain, sampler_for
from trainer.learning.pace import Pace
from trainer.learning.rates import freeze, parameter_groups, share_of_peak
from trainer.learning.train import MOST_UNSOUND, STATISTICS_CROPS, loss_of, train
from trainer.learning.validate import judge
from trainer.plan import Averaging, Depth, Precision
from trainer.progress import Epoch, Step, Stopped

CPU = torch.device("cpu")
PLAINLY = {"mixup": 0.0, "smoothing": 0.0, "masks": 0, "gain_db": 0.0, "noise_share": 0.0}


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """Five tracks of each of three kinds."""
    return make_setup(tmp_path_factory.mktemp("sounds"))


@dataclass
class Diary(Witness):
    """A witness that also writes down the weights of the classifier under training, after each step and epoch."""

    classifier: Classifier | None = None
    after_steps: list[dict[str, Tensor]] = field(default_factory=list)
    after_epochs: list[dict[str, Tensor]] = field(default_factory=list)

    def stepped(self, step: Step) -> None:
        super().stepped(step)
        assert self.classifier is not None
        self.after_steps.append(weights(self.classifier))

    def epoch_ended(self, epoch: Epoch) -> None:
        super().epoch_ended(epoch)
        assert self.classifier is not None
        self.after_epochs.append(weights(self.classifier))


def learn(setup: Setup, run: Path, *, valid: Any = "same", **changes: Any) -> tuple[Classifier, Diary]:
    """A run of the tiny plan with `changes`."""
    classifier = new_classifier(dropout=changes.pop("dropout", 0.2))
    diary = Diary(classifier=classifier)
    judged = setup.validation() if valid == "same" else valid
    train(classifier, setup.crops(), judged, PLAN.with_changes(changes), run, observers=[diary])
    return classifier, diary


# Learning


def test_first_loss_of_a_head_of_zeros_is_the_logarithm_of_the_number_of_labels(setup: Setup, tmp_path: Path) -> None:
    classifier, witness = new_classifier(), Witness()
    nn.init.zeros_(classifier.head.weight)
    nn.init.zeros_(classifier.head.bias)
    train(classifier, setup.crops(), None, PLAN.with_changes({"epochs": 1}), tmp_path, observers=[witness])
    assert witness.losses[1] == pytest.approx(math.log(len(LABELS)), abs=1e-6)


def test_run_learns_and_leaves_its_best_weights_in_the_classifier_and_on_disk(setup: Setup, tmp_path: Path) -> None:
    classifier, diary = learn(setup, tmp_path, epochs=12, mixup=0.0)
    (outcome,) = diary.outcomes
    assert outcome.stopped is Stopped.COMPLETE
    assert outcome.epochs == 12
    assert max(outcome.accuracies) >= 0.8
    assert outcome.train_losses[-1] < 0.8 * outcome.train_losses[0]
    assert outcome.best_epoch == 1 + int(np.argmin(outcome.valid_losses))
    assert same(weights(classifier), checkpoint.load_best(tmp_path))
    assert not any(module.training for module in classifier.modules())
    assert all(weight.requires_grad for weight in classifier.parameters())
    judged = judge(classifier, setup.validation(), CPU)
    assert judged.loss == pytest.approx(outcome.valid_losses[outcome.best_epoch - 1], rel=1e-6)


def test_observers_hear_of_every_step_and_epoch(setup: Setup, tmp_path: Path) -> None:
    _, diary = learn(setup, tmp_path, epochs=2, batch=3, accumulate=2)
    # 15 tracks in steps of 6: two and a half steps, rounded to two.
    (start,) = diary.begun
    assert (start.step, start.steps, start.epochs, start.tracks, start.processes) == (0, 4, 2, 15, 1)
    assert start.device == "cpu"
    assert start.trainable == start.parameters == sum(weight.numel() for weight in new_classifier().parameters())
    assert [(step.step, step.steps, step.epoch) for step in diary.steps] == [(1, 4, 1), (2, 4, 1), (3, 4, 2), (4, 4, 2)]
    assert all(step.gradient_norm > 0 and step.examples_per_s > 0 for step in diary.steps)
    assert all(0 <= step.wait_share < 1 and step.gpu_memory_bytes == 0 for step in diary.steps)
    first, second = diary.epochs
    assert (first.epoch, first.step, second.epoch, second.step) == (1, 2, 2, 4)
    assert first.train_loss == pytest.approx((diary.losses[1] + diary.losses[2]) / 2)
    assert first.logits.shape == (15, 3)
    assert first.embeddings.shape == (15, 12)
    assert list(first.targets) == [0, 1, 2] * 5
    assert 0 <= first.macro_f1 <= 1
    assert diary.outcomes[0].valid_losses == (first.valid_loss, second.valid_loss)


def test_accumulated_batches_make_the_step_of_one_large_batch(setup: Setup, tmp_path: Path) -> None:
    # With the BatchNorm frozen: in training it would see batches of another size.
    changes: dict[str, Any] = {**PLAINLY, "dropout": 0.0, "depth": Depth.HEAD, "epochs": 3}
    whole, one = learn(setup, tmp_path / "whole", batch=8, **changes)
    parts, four = learn(setup, tmp_path / "parts", batch=2, accumulate=4, **changes)
    assert list(four.losses.values()) == pytest.approx(list(one.losses.values()), rel=1e-5)
    torch.testing.assert_close(parts.head.weight, whole.head.weight, rtol=1e-4, atol=1e-6)


def test_same_seed_gives_the_same_run_and_another_seed_another(setup: Setup, tmp_path: Path) -> None:
    one, first = learn(setup, tmp_path / "1", epochs=1)
    two, second = learn(setup, tmp_path / "2", epochs=1)
    _, third = learn(setup, tmp_path / "3", epochs=1, seed=8)
    assert first.losses == second.losses
    assert same(weights(one), weights(two))
    assert first.losses != third.losses


def test_every_batch_meets_chance_of_its_own(setup: Setup, tmp_path: Path) -> None:
    seeds: list[int] = []

    class Watched(Tiny):
        def front(self, waveform: Tensor) -> Tensor:
            if self.training:
                seeds.append(torch.initial_seed())
            return super().front(waveform)

    plan = PLAN.with_changes({"epochs": 3, "batch": 2, "accumulate": 2})
    train(Classifier(Watched(), LABELS), setup.crops(), None, plan, tmp_path)
    assert len(seeds) == len(set(seeds)) == 3 * 4 * 2


@pytest.mark.slow
def test_loading_in_worker_processes_changes_nothing(setup: Setup, tmp_path: Path) -> None:
    _, alone = learn(setup, tmp_path / "1", epochs=2)
    _, helped = learn(setup, tmp_path / "2", epochs=2, workers=2)
    assert alone.losses == helped.losses


def test_bfloat16_is_for_the_network_and_not_for_the_front_end(setup: Setup, tmp_path: Path) -> None:
    seen: dict[str, set[torch.dtype]] = {"picture": set(), "inside": set()}

    class Watched(Tiny):
        def embed(self, picture: Tensor) -> Tensor:
            if self.training:
                seen["picture"].add(picture.dtype)
                seen["inside"].add(self.first(picture[:, None]).dtype)
            return super().embed(picture)

    torch.manual_seed(0)
    classifier = Classifier(Watched(), LABELS)
    plan = PLAN.with_changes({"epochs": 1, "precision": Precision.BF16})
    outcome = train(classifier, setup.crops(), setup.validation(), plan, tmp_path)
    assert seen == {"picture": {torch.float32}, "inside": {torch.bfloat16}}
    assert all(math.isfinite(loss) for loss in outcome.train_losses)
    assert classifier(torch.zeros(1, 24, 50)).dtype is torch.float32
    # The next run in this process may want another precision.
    train(classifier, setup.crops(), None, PLAN.with_changes({"epochs": 1}), tmp_path)
    assert seen["inside"] == {torch.bfloat16, torch.float32}


def test_fp16_without_a_gpu_is_refused(setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        learn(setup, tmp_path, precision=Precision.FP16)


# Augmentation and loss


class Listener(nn.Module):
    """Stands where the network stands, and keeps the picture that it is shown."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits
        self.picture = torch.zeros(0)

    def forward(self, picture: Tensor) -> Tensor:
        self.picture = picture
        return self.logits


def test_mixup_smoothing_and_masks_reach_the_loss() -> None:
    classifier = new_classifier()
    waveform, targets = torch.randn(6, 8000) * 0.1, torch.tensor([0, 1, 2, 2, 1, 0])
    logits = torch.randn(6, 3)
    listener = Listener(logits)
    plan = PLAN.with_changes({**PLAINLY, "mixup": 0.5, "smoothing": 0.2, "masks": 2})
    torch.manual_seed(5)
    loss = loss_of(listener, classifier, waveform, targets, plan)
    torch.manual_seed(5)
    torch.rand(12)  # gain and noise are drawn first, and are zero here
    mixed, wanted = mix(waveform, functional.one_hot(targets, 3).float(), 0.5)
    assert not torch.equal(mixed, waveform)
    smoothed = wanted * 0.8 + 0.2 / 3
    assert loss.item() == pytest.approx(float(-(smoothed * logits.log_softmax(1)).sum(1).mean()), abs=1e-6)
    torch.testing.assert_close(listener.picture, mask(classifier.backbone.front(mixed), plan))
    assert not torch.equal(listener.picture, classifier.backbone.front(mixed))


def test_nothing_is_augmented_where_the_plan_says_so() -> None:
    classifier, waveform = new_classifier(), torch.randn(2, 8000) * 0.1
    logits, targets = torch.randn(2, 3), torch.tensor([0, 2])
    listener = Listener(logits)
    loss = loss_of(listener, classifier, waveform, targets, PLAN.with_changes(PLAINLY))
    torch.testing.assert_close(listener.picture, classifier.backbone.front(waveform))
    assert loss.item() == pytest.approx(float(functional.cross_entropy(logits, targets)), abs=1e-6)


@pytest.mark.parametrize("name", ["mixup", "smoothing", "masks", "gain_db", "noise_share"])
def test_every_augmentation_of_the_plan_changes_a_run(setup: Setup, tmp_path: Path, name: str) -> None:
    value = {"masks": 2, "gain_db": 6.0}.get(name, 0.5)
    _, without = learn(setup, tmp_path / "1", epochs=1, **PLAINLY)
    _, with_it = learn(setup, tmp_path / "2", epochs=1, **{**PLAINLY, name: value})
    assert without.losses[1] != with_it.losses[1]


# Rates and depth


def test_rates_fall_by_stage_and_vectors_are_not_decayed() -> None:
    classifier = new_classifier()
    plan = PLAN.with_changes({"rate": 0.01, "head_rate": 0.1, "layer_decay": 0.5, "weight_decay": 0.3})
    backbone = classifier.backbone
    assert isinstance(backbone, Tiny)
    rates = {
        id(weight): (group["lr"], group["peak"], group["weight_decay"])
        for group in parameter_groups(classifier, plan)
        for weight in group["params"]
    }
    assert len(rates) == len(list(classifier.parameters()))
    assert rates[id(backbone.second[0].weight)] == (0.01, 0.01, 0.3)
    assert rates[id(backbone.second[1].weight)] == (0.01, 0.01, 0.0)
    assert rates[id(backbone.second[1].bias)] == (0.01, 0.01, 0.0)
    assert rates[id(backbone.first[0].weight)] == (0.005, 0.005, 0.3)
    assert rates[id(backbone.first[1].weight)] == (0.005, 0.005, 0.0)
    assert rates[id(classifier.head.weight)] == (0.1, 0.1, 0.3)
    assert rates[id(classifier.head.bias)] == (0.1, 0.1, 0.0)


def test_every_step_is_taken_at_the_rates_of_the_plan(setup: Setup, tmp_path: Path) -> None:
    used: list[list[float]] = []
    hook = register_optimizer_step_pre_hook(
        lambda optimiser, *_: used.append(sorted({group["lr"] for group in optimiser.param_groups}))
    )
    with_hook = {"epochs": 2, "rate": 0.01, "head_rate": 0.1, "layer_decay": 0.5, "warmup": 0.25}
    try:
        _, diary = learn(setup, tmp_path, **with_hook)
    finally:
        hook.remove()
    shares = [0.5, 1.0, *(0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(6))]
    assert [step.rate for step in diary.steps] == pytest.approx([0.01 * share for share in shares])
    expected = [[0.005 * share, 0.01 * share, 0.1 * share] for share in shares]
    assert np.array(used) == pytest.approx(np.array(expected))


def test_schedule_rises_then_falls_to_nothing() -> None:
    shares = [share_of_peak(step, 100, 0.1) for step in range(101)]
    assert shares[0] == 0.1
    assert shares[9] == shares[10] == 1.0
    assert shares[100] == pytest.approx(0.0)
    assert shares[10:] == sorted(shares[10:], reverse=True)
    assert share_of_peak(0, 10, 0.0) == 1.0
    assert share_of_peak(9, 10, 1.0) == 1.0


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """The parts of which anything changed."""
    return {".".join(name.split(".")[:2]) for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (Depth.HEAD, {"head.weight", "head.bias"}),
        (Depth.PARTIAL, {"head.weight", "head.bias", "backbone.second"}),
        (Depth.FULL, {"head.weight", "head.bias", "backbone.second", "backbone.first"}),
    ],
)
@pytest.mark.parametrize("averaging", list(Averaging))
def test_frozen_stages_keep_weights_and_statistics_to_the_last_bit(
    setup: Setup, tmp_path: Path, depth: Depth, expected: set[str], averaging: Averaging
) -> None:
    before = weights(new_classifier())
    changes = {"depth": depth, "unfrozen": 1, "averaging": averaging, "epochs": 2}
    classifier, diary = learn(setup, tmp_path, **changes)
    assert moved(before, weights(classifier)) == expected
    assert diary.begun[0].trainable == sum(
        weight.numel() for name, weight in classifier.named_parameters() if ".".join(name.split(".")[:2]) in expected
    )
    assert diary.steps[0].rate == pytest.approx(PLAN.head_rate if depth is Depth.HEAD else PLAN.rate)


def test_weights_in_no_stage_never_learn() -> None:
    classifier = new_classifier()
    classifier.backbone.add_module("left_over", nn.Linear(3, 3))
    freeze(classifier, PLAN)
    assert not any(weight.requires_grad for weight in classifier.backbone.get_submodule("left_over").parameters())
    assert all(weight.requires_grad for stage in classifier.backbone.stages() for weight in stage.parameters())


# Steps that lead nowhere


def test_gradients_are_clipped_and_their_length_before_it_is_told(setup: Setup, tmp_path: Path) -> None:
    lengths: list[float] = []

    def measure(optimiser: torch.optim.Optimizer, *_: Any) -> None:
        gradients = [w.grad for group in optimiser.param_groups for w in group["params"] if w.grad is not None]
        lengths.append(float(torch.stack([gradient.norm() for gradient in gradients]).norm()))

    hook = register_optimizer_step_pre_hook(measure)
    try:
        _, free = learn(setup, tmp_path / "1", epochs=1, clip_norm=1000.0)
        unclipped = lengths.copy()
        lengths.clear()
        _, held = learn(setup, tmp_path / "2", epochs=1, clip_norm=0.01)
    finally:
        hook.remove()
    assert [step.gradient_norm for step in free.steps] == pytest.approx(unclipped, rel=1e-5)
    assert held.steps[0].gradient_norm == free.steps[0].gradient_norm
    assert min(unclipped) > 0.01
    assert lengths == pytest.approx([0.01] * len(lengths), rel=1e-3)


class Broken(Tiny):
    """Its pictures are infinite in the training batches that `when` picks, counted from 0."""

    def __init__(self, when: Callable[[int], bool]) -> None:
        super().__init__()
        self.when, self.count = when, 0

    def front(self, waveform: Tensor) -> Tensor:
        picture = super().front(waveform)
        if self.training:
            picture = picture * math.inf if self.when(self.count) else picture
            self.count += 1
        return picture


@pytest.mark.parametrize("averaging", list(Averaging))
def test_step_without_a_finite_loss_is_skipped_and_leaves_no_trace(
    setup: Setup, tmp_path: Path, averaging: Averaging
) -> None:
    torch.manual_seed(3)
    classifier = Classifier(Broken(lambda batch: batch == 2), LABELS)
    diary = Diary(classifier=classifier)
    plan = PLAN.with_changes({"epochs": 2, "averaging": averaging, "mixup": 0.0})
    outcome = train(classifier, setup.crops(), setup.validation(), plan, tmp_path, observers=[diary])
    assert [math.isfinite(step.loss) for step in diary.steps] == [number != 2 for number in range(8)]
    assert same(diary.after_steps[1], diary.after_steps[2])
    assert all(value.isfinite().all() for value in weights(classifier).values())
    assert all(math.isfinite(loss) for loss in (*outcome.train_losses, *outcome.valid_losses))


def test_run_that_cannot_go_on_says_so(setup: Setup, tmp_path: Path) -> None:
    torch.manual_seed(3)
    classifier = Classifier(Broken(lambda batch: batch >= 3), LABELS)
    witness = Witness()
    with pytest.raises(ConfigError, match=rf"step {3 + MOST_UNSOUND}: .* not finite .* lower `rate`"):
        train(classifier, setup.crops(), None, PLAN.with_changes({"epochs": 9}), tmp_path, observers=[witness])
    assert len(witness.steps) == 2 + MOST_UNSOUND
    assert all(weight.requires_grad for weight in classifier.parameters())


# What is kept


def test_run_whose_validation_loss_rises_stops_and_keeps_its_best_epoch(setup: Setup, tmp_path: Path) -> None:
    # Validation contradicts training, so that learning makes it worse.
    wrong = setup.validation([(target + 1) % 3 for target in [0, 1, 2] * 5])
    classifier, diary = learn(setup, tmp_path, valid=wrong, epochs=30, patience=3, rate=0.01, mixup=0.0, warmup=0.0)
    (outcome,) = diary.outcomes
    assert outcome.stopped is Stopped.EARLY
    assert outcome.epochs == outcome.best_epoch + 3 < 30
    assert len(diary.steps) == outcome.epochs * 4
    assert min(outcome.valid_losses) == outcome.valid_losses[outcome.best_epoch - 1] < outcome.valid_losses[-1]
    assert same(weights(classifier), diary.after_epochs[outcome.best_epoch - 1])
    assert [epoch.best for epoch in diary.epochs].count(True) >= 1
    assert not any(epoch.best for epoch in diary.epochs[-3:])


def test_patience_of_nothing_never_stops(setup: Setup, tmp_path: Path) -> None:
    wrong = setup.validation([(target + 1) % 3 for target in [0, 1, 2] * 5])
    _, diary = learn(setup, tmp_path, valid=wrong, epochs=8, patience=0, rate=0.01, warmup=0.0)
    assert diary.outcomes[0].stopped is Stopped.COMPLETE
    assert diary.outcomes[0].best_epoch < 5


def test_without_validation_the_last_weights_are_kept(setup: Setup, tmp_path: Path) -> None:
    classifier, diary = learn(setup, tmp_path, valid=None, epochs=3, patience=1)
    (outcome,) = diary.outcomes
    assert (outcome.stopped, outcome.epochs, outcome.best_epoch) == (Stopped.COMPLETE, 3, 3)
    assert same(weights(classifier), diary.after_epochs[-1])
    assert same(weights(classifier), checkpoint.load_best(tmp_path))
    assert all(math.isnan(value) for value in (*outcome.valid_losses, *outcome.accuracies))
    assert math.isnan(diary.epochs[0].valid_loss)
    assert diary.epochs[0].logits.size == 0


def parameters_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the statistics."""
    return {name: value for name, value in state.items() if "running" not in name and "batches" not in name}


@pytest.mark.parametrize("validated", [True, False])
def test_swa_keeps_the_mean_of_the_last_epochs_ends(setup: Setup, tmp_path: Path, validated: bool) -> None:
    classifier, diary = learn(
        setup,
        tmp_path,
        valid=setup.validation() if validated else None,
        epochs=5,
        averaging=Averaging.SWA,
        swa_share=0.6,
        rate=0.01,
    )
    (outcome,) = diary.outcomes
    assert outcome.best_epoch == 5
    last = [parameters_of(state) for state in diary.after_epochs[2:]]
    mean = {name: torch.stack([state[name] for state in last]).mean(0) for name in last[0]}
    kept = parameters_of(weights(classifier))
    torch.testing.assert_close(kept, mean, rtol=1e-5, atol=1e-6)
    assert not torch.equal(kept["head.weight"], last[-1]["head.weight"])
    if validated:
        # Judged were these weights, and before the average began those under training.
        assert judge(classifier, setup.validation(), CPU).loss == pytest.approx(outcome.valid_losses[-1], rel=1e-6)
        before = new_classifier()
        before.load_state_dict(diary.after_epochs[1])
        assert judge(before, setup.validation(), CPU).loss == pytest.approx(outcome.valid_losses[1], rel=1e-6)


def test_ema_follows_every_step(setup: Setup, tmp_path: Path) -> None:
    classifier, diary = learn(setup, tmp_path, valid=None, averaging=Averaging.EMA, ema_decay=0.6, rate=0.01)
    average = {name: value.clone() for name, value in parameters_of(diary.after_steps[0]).items()}
    for count, state in enumerate(diary.after_steps[1:], start=1):
        decay = min(0.6, (1 + count) / (10 + count))
        average = {name: decay * average[name] + (1 - decay) * state[name] for name in average}
    kept = parameters_of(weights(classifier))
    torch.testing.assert_close(kept, average, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(kept["head.weight"], diary.after_steps[-1]["head.weight"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("averaging", [Averaging.EMA, Averaging.SWA])
def test_averaged_weights_get_statistics_of_their_own(setup: Setup, tmp_path: Path, averaging: Averaging) -> None:
    classifier, diary = learn(setup, tmp_path, valid=None, averaging=averaging, rate=0.01)
    kept = weights(classifier)
    name = "backbone.second.1.running_mean"
    assert not torch.allclose(kept[name], diary.after_epochs[-1][name], rtol=1e-2)
    # Counted by hand: what the second BatchNorm meets when the kept weights hear the crops.
    sampler = sampler_for(setup.crops(), 3, PLAN)
    draws = Stream(sampler, (PLAN.epochs + 1) * 15, STATISTICS_CROPS)
    met: list[Tensor] = []
    backbone = classifier.backbone
    assert isinstance(backbone, Tiny)
    backbone.first[1].train()
    backbone.second[0].register_forward_hook(lambda _, __, output: met.append(output.detach().mean((0, 2, 3))))
    with torch.no_grad():
        for waveform in plain(setup.crops(), draws, PLAN.batch, CPU):
            backbone(waveform)
    assert len(met) == STATISTICS_CROPS // PLAN.batch
    torch.testing.assert_close(kept[name], torch.stack(met).mean(0), rtol=1e-4, atol=1e-5)


def test_renewed_statistics_are_those_of_the_crops_and_frozen_ones_stay() -> None:
    classifier = new_classifier().train()
    backbone = classifier.backbone
    assert isinstance(backbone, Tiny)
    backbone.first.eval()
    statistics = Statistics(classifier)
    assert statistics.names == ["backbone.second.1"]
    before = weights(classifier)
    waveforms = [torch.randn(4, 8000) * 0.1 for _ in range(3)]
    renew(classifier, statistics.names, waveforms)
    after = weights(classifier)
    assert moved(before, after) == {"backbone.second"}
    assert int(after["backbone.second.1.num_batches_tracked"]) == 3
    assert backbone.second[1].momentum == 0.1
    assert not any(module.training for module in classifier.modules())
    # A second count over the same crops starts from nothing, not from the first.
    renew(classifier, statistics.names, waveforms)
    assert same(after, weights(classifier))


# Feeding


def test_stream_lays_epochs_end_to_end_and_starts_anywhere() -> None:
    sampler = BalancedSampler([0, 1, 2, 0, 1], 3, 0.5, seed=1)
    whole = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        sampler.skip(0)
        whole += list(sampler)
    assert list(Stream(sampler, 0, 20)) == whole
    for start in range(20):
        assert list(Stream(sampler, start, 20 - start)) == whole[start:]
    assert list(islice(Stream(sampler, 3, 100), 4)) == whole[3:7]


def test_every_draw_is_trained_on_once(setup: Setup, tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []

    class Noted(type(setup.crops())):  # type: ignore[misc]
        def __getitem__(self, key: tuple[int, int]) -> Any:
            heard.append(key)
            return super().__getitem__(key)

    crops = setup.crops()
    noted = Noted(crops.store, crops.tracks, crops.targets, crops.samples)
    plan = PLAN.with_changes({"epochs": 4, "batch": 4})
    train(new_classifier(), noted, None, plan, tmp_path)
    # 15 tracks, 4 epochs of 4 steps of 4: the last four draws are of a fifth epoch.
    sampler = sampler_for(crops, 3, plan)
    assert heard == list(Stream(sampler, 0, 64))


def test_pace_counts_waiting_over_the_last_steps() -> None:
    now = [100.0]
    pace = Pace(8, clock=lambda: now[0])
    now[0] += 50.0
    pace.begin_epoch()
    for _ in range(3):
        for _ in range(2):
            with pace.waiting():
                now[0] += 0.25
        now[0] += 1.5
        pace.stepped()
    assert pace.examples_per_s == pytest.approx(8 / 2.0)
    assert pace.wait_share == pytest.approx(0.25)
    assert (pace.epoch_s, pace.epoch_wait_share) == (pytest.approx(6.0), pytest.approx(0.25))
    now[0] += 1000.0
    pace.begin_epoch()
    for _ in range(40):
        now[0] += 4.0
        pace.stepped()
    assert pace.examples_per_s == pytest.approx(2.0)
    assert (pace.wait_share, pace.epoch_wait_share) == (0.0, 0.0)
    assert pace.epoch_s == pytest.approx(160.0)
