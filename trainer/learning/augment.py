"""Random changes to batches of sound and of log-mel pictures that leave the genre alone. Must never read files.

All chance comes from torch's global generators, which the caller seeds. Which examples are changed and how much is
drawn on the CPU, so that a run makes the same choices on every device and none of them makes a GPU wait; only noise is
drawn where the sound is. Nothing is changed in place. (A shift in time is what `batches.Crops` does.)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Beta
from torchaudio.functional import add_noise
from torchaudio.transforms import FrequencyMasking, TimeMasking

from trainer.plan import Plan

# White noise from a hiss that is plainly heard to one that is hardly there.
SNR_DB = (15.0, 50.0)


def disturb(waveform: Tensor, plan: Plan) -> Tensor:
    """Sound float32 [batch, samples], each example louder or softer by up to `plan.gain_db`; a `plan.noise_share` of
    them with white noise `SNR_DB` below.

    What gets louder than full scale is not clipped: no part of the graph minds, and clipping would be another change.
    """
    loudness_db = (2.0 * torch.rand(len(waveform)) - 1.0) * plan.gain_db
    changed = waveform * _to((10.0 ** (loudness_db / 20.0))[:, None], waveform)
    noisy = torch.nonzero(torch.rand(len(waveform)) < plan.noise_share)[:, 0]
    snr_db = SNR_DB[0] + (SNR_DB[1] - SNR_DB[0]) * torch.rand(len(noisy))
    if not len(noisy):
        return changed
    where = noisy.to(waveform.device, non_blocking=True)
    quiet = changed[where]
    return changed.index_copy(0, where, add_noise(quiet, torch.randn_like(quiet), _to(snr_db, quiet)))


def mix(waveform: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al., ICLR 2018) of sound [batch, samples] and targets float [batch, labels], each example with
    another (or itself) of the batch.

    The shares are drawn for each example from Beta(alpha, alpha) and its own share is the larger one, at least a half:
    then which example a row is still says what it mostly is. An `alpha` of 0 mixes nothing.
    """
    if alpha <= 0 or len(waveform) < 2:
        return waveform, targets
    drawn = Beta(alpha, alpha).sample((len(waveform), 1))
    own = _to(torch.maximum(drawn, 1.0 - drawn), waveform)
    other = torch.randperm(len(waveform)).to(waveform.device, non_blocking=True)
    return (
        own * waveform + (1.0 - own) * waveform[other],
        own.to(targets.dtype) * targets + (1.0 - own).to(targets.dtype) * targets[other],
    )


def mask(picture: Tensor, plan: Plan) -> Tensor:
    """SpecAugment's masks (Park et al., Interspeech 2019) over pictures [batch, bands, frames], others for each.

    `plan.masks` stripes of up to `plan.frequency_mask` of the bands and as many of up to `plan.time_mask` of the frames
    take on the mean of their picture.
    """
    batch, bands, frames = picture.shape
    across = torch.ones(batch, bands, 1)
    along = torch.ones(batch, 1, frames)
    # Each mask is laid over one column or row of ones, whatever the picture's precision: in bfloat16 torchaudio could
    # not count beyond 256 frames. It draws widths below its parameter, hence one more.
    bar = FrequencyMasking(min(bands, round(plan.frequency_mask * bands) + 1), iid_masks=True)
    gap = TimeMasking(min(frames, round(plan.time_mask * frames) + 1), iid_masks=True)
    for _ in range(plan.masks):
        across, along = bar(across), gap(along)
    kept = (across * along).to(picture.device, non_blocking=True) > 0
    return torch.where(kept, picture, picture.mean((1, 2), keepdim=True))


def _to(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.device, like.dtype, non_blocking=True)
