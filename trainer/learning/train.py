"""The training loop, readable from top to bottom: `train` begins, `_Run.go` is the loop, `_Run._step` one step of it.

Devices, mixed precision and several processes come from `accelerate`. Every draw of chance hangs on the plan's seed and
on how far the run is, and on nothing else: a run that was interrupted goes on as if it had not been, on a CPU to the
last bit. Must never read sound, choose a plan, or write (`checkpoint` does).
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.nn import functional

from daemon.core.errors import ConfigError
from trainer.learning import checkpoint
from trainer.learning.augment import disturb, mask, mix
from trainer.learning.averaging import Average, Statistics, renew
from trainer.learning.batches import Crops
from trainer.learning.classifier import Classifier
from trainer.learning.devices import accelerator_for
from trainer.learning.feed import Batch, Stream, feed, plain, sampler_for
from trainer.learning.pace import Pace
from trainer.learning.rates import freeze, parameter_groups, share_of_peak, to_training_mode
from trainer.learning.validate import NOT_JUDGED, Judgement, judge
from trainer.learning.validate import Validation as Validation
from trainer.plan import Depth, Plan
from trainer.progress import Epoch, Observer, Outcome, Start, Step, Stopped

# After so many steps in a row without a finite loss and gradient the weights will not come back by themselves.
MOST_UNSOUND = 10
# Crops over which BatchNorm statistics are counted anew. Embeddings of the MobileNet then stood off those by 720 crops
# by this share of their spread over tracks: 32 crops 0.35, 64 0.27, 128 0.18, 256 0.13.
STATISTICS_CROPS = 512


def never() -> bool:
    """The deadline of a run that has none."""
    return False


def train(
    classifier: Classifier,
    crops: Crops,
    valid: Validation | None,
    plan: Plan,
    run: Path,
    *,
    observers: Sequence[Observer] = (),
    resume: bool = False,
    deadline: Callable[[], bool] = never,
    checkpoint_s: float = 600.0,
) -> Outcome:
    """Train `classifier` on `crops` as `plan` says; afterwards it holds the chosen weights, in evaluation mode, and so
    does `run/best.safetensors`.

    Chosen are the weights (averaged, if the plan averages) of the epoch with the lowest validation loss; without
    validation those at the end. `run/last.pt` is written after every epoch, every `checkpoint_s` seconds, and when
    `deadline`, asked after every step, says that time is up. With `resume` the run in that folder goes on, if there is
    one; without, whatever run was there is forgotten.

    Several processes, each calling this alike, train one model: w processes that accumulate a batches make the steps of
    one process that accumulates a * w, up to the rounding of a sum, and end with the same weights. Observers are called
    on the main process only, and after a crash may hear of some steps a second time.

    Raises:
        ConfigError: the plan does not suit this machine, the checkpoint is of another run, or training diverged.
        BadFile, TryLater: a checkpoint is damaged, or cannot be written.
    """
    learner = _Run(classifier, crops, valid, plan, run, checkpoint_s)
    try:
        return learner.go(observers, resume, deadline)
    finally:
        learner.release()


@dataclass(slots=True)
class _Counters:
    """How far a run is. `loss_sum` over `loss_steps` is the present epoch's training loss so far."""

    step: int = 0
    unsound: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    stopped: str = ""
    train_losses: list[float] = field(default_factory=list)
    valid_losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)


class _Run:
    """One run, as one process sees it."""

    def __init__(
        self, classifier: Classifier, crops: Crops, valid: Validation | None, plan: Plan, run: Path, checkpoint_s: float
    ) -> None:
        self.classifier, self.crops, self.plan = classifier, crops, plan
        self.valid = valid if valid is not None and len(valid.targets) else None
        self.folder, self.checkpoint_s, self.at = run, checkpoint_s, _Counters()
        self.accelerator = accelerator_for(plan)
        self.device, self.home = self.accelerator.device, classifier.head.weight.device
        self.main, self.processes = self.accelerator.is_main_process, self.accelerator.num_processes
        # What is learnt from, and in how many steps.
        self.sampler = sampler_for(crops, len(classifier.labels), plan)
        self.examples = plan.batch * plan.accumulate * self.processes
        self.steps_per_epoch = max(1, round(len(crops) / self.examples))
        self.steps = plan.epochs * self.steps_per_epoch
        self.pace = Pace(self.examples)
        # What learns. Convolutions are about twice as fast on a CPU with their channels last.
        classifier.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        freeze(classifier, plan)
        if plan.gradient_checkpointing:
            classifier.backbone.save_memory()
        to_training_mode(classifier, plan)
        self.statistics = Statistics(classifier)
        self.average = Average(classifier, plan)
        optimiser = torch.optim.AdamW(parameter_groups(classifier, plan), fused=True)
        self.learning = [weight for group in optimiser.param_groups for weight in group["params"]]
        self.model, self.optimiser = self.accelerator.prepare(classifier, optimiser)

    def go(self, observers: Sequence[Observer], resume: bool, deadline: Callable[[], bool]) -> Outcome:
        """The loop: steps, and at the end of each epoch a judgement."""
        at, heard = self.at, observers if self.main else ()
        self._begin(resume)
        for observer in heard:
            observer.started(self._start())
        saved = time.monotonic()
        with closing(self._batches()) as batches:
            while not at.stopped:
                self.pace.begin_epoch()
                to_training_mode(self.classifier, self.plan)
                ends = (len(at.train_losses) + 1) * self.steps_per_epoch
                while at.step < ends and not at.stopped:
                    step, time_is_up = self._step(batches, deadline)
                    for observer in heard:
                        observer.stepped(step)
                    if time_is_up:
                        at.stopped = Stopped.DEADLINE
                    elif at.step < ends and time.monotonic() - saved >= self.checkpoint_s:
                        self._save()
                        saved = time.monotonic()
                if at.step == ends:
                    epoch = self._end_epoch()
                    for observer in heard:
                        observer.epoch_ended(epoch)
                self._save()
                saved = time.monotonic()
        outcome = self._finish()
        for observer in heard:
            observer.ended(outcome)
        return outcome

    def _step(self, batches: Iterator[Batch], deadline: Callable[[], bool]) -> tuple[Step, bool]:
        """One optimiser step over `accumulate` batches, and whether time is up."""
        at, plan, accelerator = self.at, self.plan, self.accelerator
        share = share_of_peak(at.step, self.steps, plan.warmup)
        for group in self.optimiser.param_groups:
            group["lr"] = share * group["peak"]
        self.statistics.keep()
        total = torch.zeros((), device=self.device)
        for part in range(plan.accumulate):
            with self.pace.waiting():
                waveform, targets, _ = next(batches)
            # The batch's place in the step: with several processes the same batches meet the same chance as with one.
            seed(plan.seed, at.step, part * self.processes + accelerator.process_index)
            with accelerator.accumulate(self.model):
                loss = loss_of(self.model, self.classifier, waveform, targets, plan)
                accelerator.backward(loss)
            total += loss.detach() / plan.accumulate
        norm = accelerator.clip_grad_norm_(self.learning, plan.clip_norm)
        # One answer for all processes: the mean loss, and whether any of them is out of time.
        told = torch.stack([total, torch.as_tensor(float(deadline()), device=self.device)])
        mean, late, length = torch.cat([accelerator.reduce(told, "mean"), norm.detach().reshape(1)]).tolist()
        self._move(mean, sound=math.isfinite(mean) and math.isfinite(length))
        self.pace.stepped()
        rate = share * (plan.head_rate if plan.depth is Depth.HEAD else plan.rate)
        speed, wait = self.pace.examples_per_s, self.pace.wait_share
        memory = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else 0
        epoch = len(at.train_losses) + 1
        return Step(at.step, self.steps, epoch, mean, rate, length, speed, wait, memory), late > 0

    def _move(self, loss: float, *, sound: bool) -> None:
        """Follow the gradient, unless it leads nowhere. All processes hold the same gradient, so they decide alike."""
        at = self.at
        if sound:
            self.optimiser.step()
            self.average.after_step(self.classifier)
            at.loss_sum, at.loss_steps = at.loss_sum + loss, at.loss_steps + 1
        else:
            self.statistics.put_back()
            if self.accelerator.scaler is not None:
                # The scaler skips the step by itself, and has to learn that its scale was too large.
                self.optimiser.step()
        self.optimiser.zero_grad()
        at.step += 1
        at.unsound = 0 if sound else at.unsound + 1
        if at.unsound >= MOST_UNSOUND:
            raise _diverged(f"step {at.step}: loss or gradient was not finite for {MOST_UNSOUND} steps in a row")

    def _end_epoch(self) -> Epoch:
        """Average, judge, and keep what is better than all before. Every process comes to the same decisions."""
        at, plan = self.at, self.plan
        number = len(at.train_losses) + 1
        self.average.after_epoch(self.classifier, number)
        at.train_losses.append(at.loss_sum / at.loss_steps if at.loss_steps else math.nan)
        at.loss_sum, at.loss_steps = 0.0, 0
        found = self._judge() if self.main and self.valid else NOT_JUDGED
        figures = torch.tensor([found.loss, found.accuracy, found.macro_f1], dtype=torch.float64, device=self.device)
        loss, accuracy, macro_f1 = broadcast(figures).tolist()
        at.valid_losses.append(loss)
        at.accuracies.append(accuracy)
        better = loss < at.best_loss
        if better:
            at.best_epoch, at.best_loss = number, loss
            self._keep()
        if number == plan.epochs:
            at.stopped = Stopped.COMPLETE
        elif self.valid and plan.patience and number - at.best_epoch >= plan.patience:
            at.stopped = Stopped.EARLY
        measures = (at.train_losses[-1], loss, accuracy, macro_f1)
        spent = (self.pace.epoch_s, self.pace.epoch_wait_share)
        targets = self.valid.targets if self.valid else ()
        return Epoch(number, at.step, *measures, better, *spent, found.logits, found.embeddings, targets)

    def _judge(self) -> Judgement:
        assert self.valid is not None
        return judge(self._candidate(), self.valid, self.device)

    def _candidate(self) -> Classifier:
        """The weights that would be kept now, with statistics of their own if they are averaged."""
        candidate = self.average.chosen(self.classifier)
        if candidate is not self.classifier:
            size = len(self.crops)
            # Once at the end as many as it takes; with validation after every epoch, and so no more than an epoch.
            count = STATISTICS_CROPS if self.valid is None else min(STATISTICS_CROPS, size)
            # The same crops each time, in an order that is never trained on.
            draws = Stream(self.sampler, (self.plan.epochs + 1) * size, count)
            renew(candidate, self.statistics.names, plain(self.crops, draws, self.plan.batch, self.device))
        return candidate

    def _keep(self) -> None:
        if self.main:
            kept = self.average.chosen(self.classifier)
            checkpoint.save_best(self.folder, kept.state_dict(), kept.labels)

    def _finish(self) -> Outcome:
        """Leave the chosen weights in the classifier, the same on all processes."""
        at = self.at
        if self.valid and not at.best_epoch and at.stopped != Stopped.DEADLINE:
            raise _diverged("the validation loss was never finite")
        if self.main:
            if not at.best_epoch:
                self._candidate()
                self._keep()
            self.classifier.load_state_dict(checkpoint.load_best(self.folder))
        self.classifier.to(memory_format=torch.contiguous_format)
        for value in self.classifier.state_dict().values():
            broadcast(value)
        epochs = len(at.train_losses)
        losses = tuple(at.train_losses), tuple(at.valid_losses), tuple(at.accuracies)
        return Outcome(Stopped(at.stopped), epochs, at.best_epoch or epochs, at.step, *losses)

    def release(self) -> None:
        """Give the classifier back as it came, but for its weights and mode."""
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.classifier.to(self.home).eval().requires_grad_(True)

    def _batches(self) -> Generator[Batch]:
        done = self.at.step
        draws = Stream(self.sampler, done * self.examples, (self.steps - done) * self.examples)
        return feed(self.accelerator, self.crops, draws, self.plan)

    def _begin(self, resume: bool) -> None:
        state = checkpoint.load(self.folder, self._facts()) if resume else None
        if state is None:
            if self.main:
                checkpoint.clear(self.folder)
            return
        self.classifier.load_state_dict(state["weights"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average.load_state_dict(state["average"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        for name, value in state["counters"].items():
            setattr(self.at, name, value)
        if self.at.stopped == Stopped.DEADLINE:
            self.at.stopped = ""

    def _save(self) -> None:
        # Rates follow from the step, chance from the seed and the step: neither has a state to keep.
        if self.main:
            scaler = self.accelerator.scaler
            state = {
                "weights": self.classifier.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "average": self.average.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else {},
                "counters": asdict(self.at) | {"stopped": str(self.at.stopped)},
            }
            checkpoint.save(self.folder, self._facts(), state)

    def _facts(self) -> dict[str, Any]:
        """What has to be the same for a run to go on: all that its losses hang on."""
        crops = self.crops
        pairs = zip(crops.tracks, crops.targets, strict=True)
        drawn = [(track.audio_id, track.artist, int(target)) for track, target in pairs]
        return {
            "plan": {name: value for name, value in self.plan.as_dict().items() if name != "workers"},
            "labels": list(self.classifier.labels),
            "tracks": hashlib.sha256(repr((drawn, crops.samples)).encode()).hexdigest(),
            "processes": self.processes,
        }

    def _start(self) -> Start:
        size = sum(weight.numel() for weight in self.classifier.parameters())
        learning = sum(weight.numel() for weight in self.learning)
        device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        done, tracks = self.at.step, len(self.crops)
        return Start(done, self.steps, self.plan.epochs, tracks, device, self.processes, learning, size)


def seed(plan_seed: int, step: int, place: int) -> None:
    """Set torch's generators for the batch at this place of this step; dropout, mixup and masks hang on them alone."""
    torch.manual_seed(int(np.random.SeedSequence((plan_seed, step, place)).generate_state(1, np.uint64)[0]))


def loss_of(model: nn.Module, classifier: Classifier, waveform: Tensor, targets: Tensor, plan: Plan) -> Tensor:
    """The (smoothed) cross-entropy of a batch of crops [batch, samples] with label indices `targets` [batch], after all
    augmentation. `model` is `classifier` as accelerate prepared it: it computes in the plan's precision, while the
    front end, in float32 and without gradient, does not."""
    wanted = functional.one_hot(targets, len(classifier.labels)).to(waveform.dtype)
    with torch.no_grad():
        waveform, wanted = mix(disturb(waveform, plan), wanted, plan.mixup)
        picture = mask(classifier.backbone.front(waveform), plan)
    return functional.cross_entropy(model(picture), wanted, label_smoothing=plan.smoothing)


def _diverged(what: str) -> ConfigError:
    return ConfigError("training", [f"{what}; lower `rate` and `head_rate`, or use another `precision`"])
