"""The training loop of the starter's student, readable from top to bottom. Must never see a validation track.

The student learns from three teachers at once: the genre labels, the hidden layer of an AudioSet network, which it also
follows step by step of 0.32 s (Romero et al., "FitNets", ICLR 2015), and that network's AudioSet outputs (Hinton et
al., "Distilling the Knowledge in a Neural Network", 2015). What is kept is the moving
average of its weights (Tarvainen & Valpola, NeurIPS 2017).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from torch.nn import functional

from trainer.backbones.compact import Compact, normalised
from trainer.backbones.mobilenet import MobileNet
from trainer.starter.augment import augment
from trainer.starter.muon import Muon
from trainer.starter.rows import Clips

Report = Callable[[int, int, float], None]

# Frames of log-mel to one column of the student: four halvings. It is also one step of the teacher, 0.32 s.
STRETCH = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how hard to train. The defaults are what the shipped starter was trained with."""

    steps: int = 4000
    batch: int = 32
    crop_frames: int = 199
    peak_rate: float = 3e-3
    weight_decay: float = 0.05
    clean_share: float = 0.4
    width: int = 32
    embedding_dim: int = 512
    label_weight: float = 0.5
    hidden_weight: float = 1.0
    tag_weight: float = 1.0
    step_weight: float = 1.0
    smoothing: float = 0.1
    average: float = 0.998


class Guesses(NamedTuple):
    """Genre logits [batch, genres], the teacher's hidden layer [batch, its dim], AudioSet logits [batch, 527] and
    the teacher's steps [batch, stretches, dim]; as targets, probabilities take the place of logits."""

    genre: Tensor
    hidden: Tensor
    tags: Tensor
    steps: Tensor


class Learner(nn.Module):
    """The student with the heads that it is trained through; only the student outlives the training."""

    def __init__(self, plan: Plan, genres: int, teacher: MobileNet | None) -> None:
        super().__init__()
        self.student = Compact(plan.width, plan.embedding_dim)
        self.genre = nn.Linear(plan.embedding_dim, genres)
        # Where the sizes agree the embedding itself is to be the teacher's hidden layer, dimension by dimension.
        same = teacher is None or teacher.embedding_dim == plan.embedding_dim
        self.copy = nn.Identity() if same or teacher is None else nn.Linear(plan.embedding_dim, teacher.embedding_dim)
        self.tags = nn.Linear(plan.embedding_dim, 527 if teacher else 1)
        self.steps = nn.Linear(self.student.wide, teacher.pooled_dim if teacher else 1)

    def forward(self, log_mel: Tensor) -> Guesses:
        """What the student makes of log-mel [batch, bands, frames]."""
        columns = self.student.columns(normalised(log_mel))
        embedding = self.student.pool(columns)
        return Guesses(
            self.genre(embedding), self.copy(embedding), self.tags(embedding), self.steps(columns.transpose(1, 2))
        )


def label_targets(clips: Clips, labels: Sequence[int], genres: int) -> NDArray[np.float32]:
    """What each row should be called, float32 [rows, genres]; mixes share, and a track of no known genre (label -1)
    asks for no preference at all, so that the student learns to doubt what it does not know (outlier exposure,
    Hendrycks et al., ICLR 2019)."""
    one = np.full((len(labels), genres), 1.0 / genres, np.float32)
    for track, label in enumerate(labels):
        if label >= 0:
            one[track] = np.eye(genres, dtype=np.float32)[label]
    first = np.array([recipe.first for recipe in clips.recipes])
    second = np.array([max(recipe.second, 0) for recipe in clips.recipes])
    share = np.array([recipe.share for recipe in clips.recipes], np.float32)[:, None]
    return np.asarray(share * one[first] + (1.0 - share) * one[second], np.float32)


def train(
    clips: Clips,
    labels: Sequence[int],
    genres: int,
    may_see: Sequence[bool],
    teacher: MobileNet | None,
    plan: Plan,
    seed: int,
    report: Report,
) -> Compact:
    """A student trained on the rows made from tracks that it `may_see` (one flag per track), in evaluation mode.

    `labels` holds a genre index per track, -1 for none. `report(step, of, loss)` is called every 50 steps with
    the loss of the last fifty or so.
    """
    torch.manual_seed(seed)
    chance = torch.Generator().manual_seed(seed)
    feed = _Feed(clips, labels, genres, may_see, teacher, plan, chance)
    learner = Learner(plan, genres, teacher).train().to(memory_format=torch.channels_last)
    average = copy.deepcopy(learner.student)
    optimisers = _optimisers(learner, plan)
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(
            optimiser, plan.peak_rate, total_steps=plan.steps, pct_start=0.15, cycle_momentum=False
        )
        for optimiser in optimisers
    ]
    smooth = 0.0
    for step in range(1, plan.steps + 1):
        log_mel, targets = feed.batch()
        # bfloat16 halves the time of a step on CPUs that know it; the pooling and the losses stay in float32.
        with torch.autocast("cpu", torch.bfloat16):
            guesses = learner(augment(log_mel, chance))
        loss = _loss(guesses, targets, plan)
        learner.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(learner.parameters(), 5.0)
        for optimiser, schedule in zip(optimisers, schedules, strict=True):
            optimiser.step()
            schedule.step()
        smooth += (float(loss.detach()) - smooth) * max(0.02, 1.0 / step)
        _follow(average, learner.student, min(plan.average, step / (step + 10.0)))
        if step % 50 == 0 or step == plan.steps:
            report(step, plan.steps, smooth)
    return average.eval()


class _Feed:
    """Draws batches of crops with their targets from the rows that may be seen."""

    def __init__(
        self,
        clips: Clips,
        labels: Sequence[int],
        genres: int,
        may_see: Sequence[bool],
        teacher: MobileNet | None,
        plan: Plan,
        chance: Generator,
    ) -> None:
        self.clips, self.teacher, self.plan, self.chance = clips, teacher, plan, chance
        self.targets = torch.from_numpy(label_targets(clips, labels, genres))
        seen = [may_see[recipe.first] for recipe in clips.recipes]
        clean = torch.tensor(
            [
                fine and recipe.second < 0 and recipe.speed == (1, 1)
                for fine, recipe in zip(seen, clips.recipes, strict=True)
            ]
        )
        rarity = _rarity([labels[recipe.first] for recipe in clips.recipes], seen)
        self.clean = rarity * clean
        self.varied = rarity * (torch.tensor(seen) & ~clean)
        if not float(self.varied.sum()):
            self.varied = self.clean
        self.hidden, self.steps = self._scales()

    def _scales(self) -> tuple[_Scale, _Scale]:
        """Of the hidden layer and of the steps, over the clean rows."""
        rows = torch.nonzero(self.clean)[:, 0].tolist()
        steps = torch.from_numpy(np.stack([self.clips.steps[row] for row in rows]).astype(np.float32))
        return _Scale.of(self._hidden(steps.mean(1))), _Scale.of(steps.flatten(0, 1))

    @torch.no_grad()
    def _hidden(self, embedding: Tensor) -> Tensor:
        return self.teacher.hide(embedding) if self.teacher else embedding

    def batch(self) -> tuple[Tensor, Guesses]:
        """log-mel [batch, bands, crop_frames] and what should be said of those very crops."""
        plan = self.plan
        clean = round(plan.batch * plan.clean_share)
        rows = torch.cat(
            [
                torch.multinomial(self.clean, clean, replacement=True, generator=self.chance),
                torch.multinomial(self.varied, plan.batch - clean, replacement=True, generator=self.chance),
            ]
        ).tolist()
        frames = self.clips.log_mel.shape[1]
        starts = torch.randint(frames - plan.crop_frames + 1, (plan.batch,), generator=self.chance).tolist()
        crops = [self.clips.log_mel[row, at : at + plan.crop_frames] for row, at in zip(rows, starts, strict=True)]
        log_mel = torch.from_numpy(np.stack(crops).astype(np.float32)).transpose(1, 2)
        heard = [self.clips.steps[row, self._steps_from(at)] for row, at in zip(rows, starts, strict=True)]
        steps = torch.from_numpy(np.stack(heard).astype(np.float32))
        embedding = steps.mean(1)
        with torch.no_grad():
            tags = self.teacher.tag(embedding).sigmoid() if self.teacher else embedding
        hidden = self.hidden.standard(self._hidden(embedding))
        return log_mel, Guesses(self.targets[rows], hidden, tags, self.steps.standard(steps))

    def _steps_from(self, start: int) -> NDArray[np.intp]:
        """For each of the student's stretches of 16 frames, the teacher's step that hears its middle."""
        middles = start + np.arange(0, self.plan.crop_frames, STRETCH) + STRETCH / 2
        steps = self.clips.steps.shape[1]
        places = middles / self.clips.log_mel.shape[1] * steps
        return np.asarray(np.minimum(places, steps - 1), np.intp)


@dataclass(frozen=True, slots=True)
class _Scale:
    """Mean and spread of each dimension of a target, so that all dimensions count alike."""

    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> _Scale:
        if not rows.shape[1]:
            return cls(rows.mean(0), rows.mean(0))
        # A dimension that hardly moves must not be blown up into noise.
        return cls(rows.mean(0), rows.std(0) + 0.1 * rows.std(0).mean())

    def standard(self, target: Tensor) -> Tensor:
        return (target - self.mean) / self.spread


def _rarity(labels: Sequence[int], seen: Sequence[bool]) -> Tensor:
    """A row's weight: one over the root of its genre's size, between equal rows and equal genres."""
    counts: dict[int, int] = {}
    for label, fine in zip(labels, seen, strict=True):
        counts[label] = counts.get(label, 0) + int(fine)
    return torch.tensor([1.0 / math.sqrt(max(counts[label], 1)) for label in labels])


def _loss(guesses: Guesses, targets: Guesses, plan: Plan) -> Tensor:
    genre, hidden, tags, steps = (guess.float() for guess in guesses)
    wanted = targets.genre * (1.0 - plan.smoothing) + plan.smoothing / genre.shape[1]
    loss = plan.label_weight * functional.cross_entropy(genre, wanted)
    if targets.hidden.shape[1]:
        loss = loss + plan.hidden_weight * functional.mse_loss(hidden, targets.hidden)
        loss = loss + plan.step_weight * functional.mse_loss(steps, targets.steps)
        # Summed over the 527 classes, of which few sound at a time, and scaled to the size of the others.
        loss = loss + plan.tag_weight * 20.0 * functional.binary_cross_entropy_with_logits(tags, targets.tags)
    return loss


def _optimisers(learner: Learner, plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon for the student's convolutions, AdamW for the rest; no decay for biases and normalisations."""
    heavy = [weight for weight in learner.student.parameters() if weight.ndim > 2]
    inside = {id(weight) for weight in heavy}
    rest = [weight for weight in learner.parameters() if id(weight) not in inside]
    light = [
        {"params": [weight for weight in rest if weight.ndim > 1], "weight_decay": plan.weight_decay},
        {"params": [weight for weight in rest if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    return [Muon(heavy, plan.peak_rate, plan.weight_decay), torch.optim.AdamW(light, lr=plan.peak_rate)]


@torch.no_grad()
def _follow(average: nn.Module, student: nn.Module, keep: float) -> None:
    for mine, theirs in zip(average.state_dict().values(), student.state_dict().values(), strict=True):
        if mine.is_floating_point():
            mine.lerp_(theirs, 1.0 - keep)
        else:
            mine.copy_(theirs)
