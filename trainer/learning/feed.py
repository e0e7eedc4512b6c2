"""Brings the batches of a run, each process its own, from any step on. Must never decide what is drawn: `batches` does.

The epochs' draws follow each other without a seam: a step takes the next `batch * accumulate * processes` of them. So
all steps are of one size, every draw is trained on once, and one number says where a run is.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import islice
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Sampler, default_collate

from trainer.judging.calibrate import artist_weights
from trainer.learning.batches import BalancedSampler, Crops, Key
from trainer.plan import Plan

Batch = tuple[Tensor, Tensor, Tensor]


class Stream(Sampler[Key]):
    """`count` draws of a sampler's epochs 0, 1, 2, …, laid end to end, from the draw numbered `start` on.

    It has no `set_epoch`, or accelerate would call it.
    """

    def __init__(self, sampler: BalancedSampler, start: int, count: int) -> None:
        self._sampler, self._start, self._count = sampler, start, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Key]:
        return islice(self._endless(), self._count)

    def _endless(self) -> Iterator[Key]:
        epoch, skipped = divmod(self._start, len(self._sampler))
        while True:
            self._sampler.set_epoch(epoch)
            self._sampler.skip(skipped)
            yield from self._sampler
            epoch, skipped = epoch + 1, 0


def sampler_for(crops: Crops, labels: int, plan: Plan) -> BalancedSampler:
    """The order in which a plan draws these tracks; every stream of a run lies over one of these."""
    importance = artist_weights([track.artist for track in crops.tracks], plan.artist_balance)
    return BalancedSampler(crops.targets, labels, plan.balance, plan.seed, importance.tolist())


def feed(accelerator: Accelerator, crops: Crops, draws: Stream, plan: Plan) -> Generator[Batch]:
    """This process's batches (waveform [batch, samples], target [batch], index [batch]) on its device: of the batches
    0, 1, 2, … of `draws`, process p of n gets p, p + n, p + 2n, …; a multiple of n makes them even.

    One loader serves all epochs, so that its workers start once and read ahead while an epoch is judged.
    """
    loader = DataLoader(
        crops,
        # torch's types know of integer keys only.
        batch_sampler=BatchSampler(cast("Sampler[int]", draws), plan.batch, drop_last=True),
        num_workers=plan.workers,
        pin_memory=accelerator.device.type == "cuda",
        # Not forked: this process holds threads, and perhaps a GPU.
        multiprocessing_context="forkserver" if plan.workers else None,
    )
    yield from accelerator.prepare_data_loader(loader)


def plain(crops: Crops, draws: Stream, batch: int, device: torch.device) -> Iterator[Tensor]:
    """Waveforms [batch, samples] on `device`, without accelerate or workers; a last smaller batch is left out, unless
    it is the only one: a mean over batches would count it as much as a whole one."""
    keys = list(draws)
    for start in range(0, max(batch, len(keys)) - batch + 1, batch):
        yield default_collate([crops[key] for key in keys[start : start + batch]])[0].to(device)
