"""Random changes to batches of log-mel that leave the genre alone. Must never touch targets or read files.

All work on float32 [batch, bands, frames] in natural-log power and return the same shape. Randomness comes from the
generator that is passed in. Masks are SpecAugment's (Park et al., Interspeech 2019).
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional

# A decibel of power in natural logarithm.
DECIBEL = math.log(10.0) / 10.0


def augment(log_mel: Tensor, chance: Generator) -> Tensor:
    """All of this module's changes, in the order in which sound meets them: mix, equaliser, codec, noise, loss."""
    changed = equalise(log_mel, 2.5, chance)
    changed = gain(changed, 5.0, chance)
    changed = cut_highs(changed, 0.25, chance)
    changed = add_noise(changed, 0.2, chance)
    changed = mask(changed, 1, 10, 2, chance)
    return mask(changed, 2, 40, 2, chance)


def gain(log_mel: Tensor, most_db: float, chance: Generator) -> Tensor:
    """Each clip louder or softer by up to `most_db`."""
    return log_mel + _uniform(len(log_mel), -most_db, most_db, chance)[:, None, None] * DECIBEL


def equalise(log_mel: Tensor, spread_db: float, chance: Generator) -> Tensor:
    """A smooth random equaliser per clip: six control points of standard deviation `spread_db`, linear between."""
    points = torch.randn(len(log_mel), 1, 6, generator=chance) * spread_db * DECIBEL
    curve = functional.interpolate(points, size=log_mel.shape[1], mode="linear", align_corners=True)
    return log_mel + curve.transpose(1, 2)


def cut_highs(log_mel: Tensor, share: float, chance: Generator) -> Tensor:
    """A `share` of the clips loses what lies above a random band in the upper half, as poor codecs make it."""
    bands = log_mel.shape[1]
    edge = _uniform(len(log_mel), bands / 2, bands, chance)
    edge = torch.where(_chosen(len(log_mel), share, chance), edge, torch.full_like(edge, float(bands)))
    above = (torch.arange(bands) - edge[:, None]).clamp(min=0.0)
    return log_mel - 6.0 * DECIBEL * above[:, :, None]


def add_noise(log_mel: Tensor, share: float, chance: Generator) -> Tensor:
    """A `share` of the clips gets a floor of steady noise, 20 to 60 dB below its loudest cell."""
    loudest = log_mel.amax((1, 2))
    level = loudest - _uniform(len(log_mel), 20.0, 60.0, chance) * DECIBEL
    level = torch.where(_chosen(len(log_mel), share, chance), level, torch.full_like(level, -30.0))
    return torch.logaddexp(log_mel, level[:, None, None])


def mask(log_mel: Tensor, axis: int, widest: int, times: int, chance: Generator) -> Tensor:
    """`times` stripes of up to `widest` bands (axis 1) or frames (axis 2) per clip become the clip's mean."""
    size = log_mel.shape[axis]
    place = torch.arange(size)
    struck = torch.zeros(len(log_mel), size, dtype=torch.bool)
    for _ in range(times):
        width = _uniform(len(log_mel), 0.0, float(widest), chance)
        start = _uniform(len(log_mel), 0.0, 1.0, chance) * (size - width).clamp(min=0.0)
        struck |= (place >= start[:, None]) & (place < (start + width)[:, None])
    shaped = struck[:, :, None] if axis == 1 else struck[:, None, :]
    return torch.where(shaped, log_mel.mean((1, 2), keepdim=True), log_mel)


def _uniform(count: int, low: float, high: float, chance: Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=chance)


def _chosen(count: int, share: float, chance: Generator) -> Tensor:
    return torch.rand(count, generator=chance) < share
