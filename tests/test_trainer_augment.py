"""Augmentation: each change does what it says, by the amount it says, and leaves alone what it must."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from trainer.learning.augment import SNR_DB, disturb, mask, mix
from trainer.plan import Plan

CALM = Plan("mobilenet", gain_db=0.0, noise_share=0.0, masks=0, mixup=0.0)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def sound(batch: int = 64, samples: int = 4000) -> Tensor:
    return 0.1 * torch.randn(batch, samples)


def level_db(waveform: Tensor) -> Tensor:
    return 10.0 * torch.log10(waveform.square().mean(1))


class TestDisturb:
    def test_a_calm_plan_changes_nothing(self) -> None:
        before = sound()
        assert torch.equal(disturb(before, CALM), before)

    def test_gain_is_of_every_size_up_to_the_plan_s_in_db(self) -> None:
        before = sound(400)
        after = disturb(before, replace(CALM, gain_db=6.0))
        change_db = level_db(after) - level_db(before)
        assert change_db.abs().max() <= 6.0 + 1e-4
        assert change_db.max() > 5.8
        assert change_db.min() < -5.8
        assert abs(change_db.mean()) < 0.5
        # Only louder: the sound is the same.
        factor = 10.0 ** (change_db / 20.0)
        assert torch.allclose(after, before * factor[:, None], atol=1e-5)

    def test_noise_reaches_its_share_of_the_examples_at_its_level(self) -> None:
        before = sound(400)
        noise = disturb(before, replace(CALM, noise_share=0.3)) - before
        noisy = noise.abs().amax(1) > 0
        assert 0.22 < noisy.float().mean() < 0.38
        snr_db = (level_db(before) - level_db(noise + 1e-20))[noisy]
        assert snr_db.min() > SNR_DB[0] - 0.2
        assert snr_db.max() < SNR_DB[1] + 0.2
        assert snr_db.max() - snr_db.min() > 0.8 * (SNR_DB[1] - SNR_DB[0])

    def test_noise_is_white(self) -> None:
        tone = torch.sin(torch.arange(32000) * 0.3).repeat(8, 1)
        noise = disturb(tone, replace(CALM, noise_share=1.0)) - tone
        power = torch.fft.rfft(noise / noise.std(1, keepdim=True)).abs().square().mean(0)[1:]
        quarters = torch.stack([part.mean() for part in power[:16000].chunk(4)])
        assert (quarters / quarters.mean() - 1.0).abs().max() < 0.1

    def test_silence_stays_silent(self) -> None:
        assert disturb(torch.zeros(4, 100), replace(CALM, noise_share=1.0, gain_db=6.0)).abs().max() == 0.0

    def test_what_came_in_is_not_changed(self) -> None:
        before = sound()
        copy = before.clone()
        disturb(before, replace(CALM, noise_share=1.0, gain_db=6.0))
        assert torch.equal(before, copy)

    @pytest.mark.parametrize("device", DEVICES)
    def test_stays_on_its_device_and_comes_again_with_the_seed(self, device: str) -> None:
        plan = replace(CALM, noise_share=0.5, gain_db=6.0)
        before = sound().to(device)
        torch.manual_seed(7)
        once = disturb(before, plan)
        torch.manual_seed(7)
        assert torch.equal(disturb(before, plan), once)
        assert (once.device.type, once.dtype, once.shape) == (device, torch.float32, before.shape)
        assert not torch.equal(disturb(before, plan), once)


class TestMix:
    @staticmethod
    def mixed(alpha: float, batch: int = 200, device: str = "cpu") -> tuple[Tensor, Tensor]:
        """Sound and targets that both say who is in them: example i is the i-th unit vector."""
        names = torch.eye(batch, device=device)
        return mix(names, names.clone(), alpha)

    @pytest.mark.parametrize("device", DEVICES)
    def test_sound_and_targets_are_mixed_alike(self, device: str) -> None:
        waveform, targets = self.mixed(0.5, device=device)
        assert torch.allclose(waveform, targets)
        assert torch.allclose(targets.sum(1), torch.ones(200, device=device))
        assert waveform.device.type == device
        assert ((targets > 0).sum(1) <= 2).all()
        assert ((targets > 0).sum(1) == 2).float().mean() > 0.9

    def test_the_example_s_own_share_is_the_larger(self) -> None:
        own = self.mixed(0.5)[1].diagonal()
        assert own.min() >= 0.5
        assert own.max() <= 1.0

    def test_shares_are_drawn_for_each_example_from_beta(self) -> None:
        # Of max(x, 1 - x), x uniform, the mean is 3/4 and the variance 1/48; with a large alpha all are near a half.
        own = torch.cat([self.mixed(1.0)[1].diagonal() for _ in range(10)])
        own = own[own < 1.0]
        assert abs(float(own.mean()) - 0.75) < 0.02
        assert abs(float(own.var()) - 1.0 / 48.0) < 0.004
        assert self.mixed(1000.0)[1].diagonal().median() < 0.52
        assert self.mixed(0.05)[1].diagonal().median() > 0.98

    def test_nothing_is_mixed_without_alpha_or_a_partner(self) -> None:
        waveform, targets = sound(4), torch.eye(4)
        assert mix(waveform, targets, 0.0) == (waveform, targets)
        alone, target = mix(waveform[:1], targets[:1], 0.5)
        assert torch.equal(alone, waveform[:1])
        assert torch.equal(target, targets[:1])

    def test_what_came_in_is_not_changed(self) -> None:
        waveform, targets = sound(16), torch.eye(16)
        before = waveform.clone()
        mix(waveform, targets, 0.5)
        assert torch.equal(waveform, before)
        assert torch.equal(targets, torch.eye(16))


def picture(batch: int = 200, bands: int = 64, frames: int = 500) -> Tensor:
    return torch.randn(batch, bands, frames) + 3.0


def struck(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Which bands [batch, bands] and frames [batch, frames] are masked from end to end."""
    changed = before != after
    return changed.all(2), changed.all(1)


def stripes(flags: Tensor) -> int:
    """How many runs of masked places there are."""
    return int((torch.diff(flags.int(), prepend=torch.zeros(1)) == 1).sum())


class TestMask:
    plan = replace(CALM, masks=2, frequency_mask=0.2, time_mask=0.1)

    def test_covers_whole_bands_and_frames_and_nothing_else(self) -> None:
        before = picture()
        after = mask(before, self.plan)
        bands, frames = struck(before, after)
        hidden = bands[:, :, None] | frames[:, None, :]
        assert torch.equal(before[~hidden], after[~hidden])
        assert bands.any()
        assert frames.any()

    def test_what_is_hidden_takes_on_its_picture_s_mean(self) -> None:
        before = picture()
        after = mask(before, self.plan)
        mean = before.mean((1, 2), keepdim=True).expand_as(before)
        assert torch.allclose(after[before != after], mean[before != after])

    def test_stripes_are_as_many_and_as_wide_as_the_plan_says(self) -> None:
        before = picture()
        bands, frames = struck(before, mask(before, replace(self.plan, masks=1)))
        assert all(stripes(row) <= 1 for row in (*bands, *frames))
        widths = bands.sum(1)
        # Up to a fifth of 64 bands and a tenth of 500 frames; each width alike.
        assert (int(widths.min()), int(widths.max())) == (0, 13)
        assert abs(float(widths.float().mean()) - 6.5) < 1.0
        assert int(frames.sum(1).max()) in range(47, 51)
        assert max(stripes(row) for row in struck(before, mask(before, self.plan))[1]) == 2

    def test_every_example_has_masks_of_its_own(self) -> None:
        before = picture()
        bands, frames = struck(before, mask(before, self.plan))
        assert len({tuple(row.tolist()) for row in bands}) > 100
        assert len({tuple(row.tolist()) for row in frames}) > 100

    def test_masks_reach_every_place(self) -> None:
        before = picture()
        bands, frames = struck(before, mask(before, self.plan))
        assert bands.any(0).float().mean() > 0.95
        assert frames.any(0).float().mean() > 0.95

    @pytest.mark.parametrize(
        "plan", [replace(plan, masks=0), replace(plan, frequency_mask=0.0, time_mask=0.0)], ids=["no masks", "no width"]
    )
    def test_a_calm_plan_hides_nothing(self, plan: Plan) -> None:
        before = picture()
        assert torch.equal(mask(before, plan), before)

    def test_shares_of_one_hide_no_more_than_there_is(self) -> None:
        before = picture(50, 8, 9)
        assert math.isfinite(mask(before, replace(self.plan, frequency_mask=1.0, time_mask=1.0)).sum())

    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_works_in_every_precision(self, device: str, dtype: torch.dtype) -> None:
        before = picture(32, 64, 1000).to(device, dtype)
        after = mask(before, self.plan)
        assert (after.dtype, after.device.type) == (dtype, device)
        torch.manual_seed(3)
        exact = mask(before.float(), self.plan) != before.float()
        torch.manual_seed(3)
        # A few cells equal the mean once they are rounded.
        rounded = mask(before, self.plan) != before
        assert (exact != rounded).float().mean() < 0.01

    def test_gradients_flow_through_what_is_seen(self) -> None:
        before = picture(4).requires_grad_()
        mask(before, self.plan).sum().backward()
        assert before.grad is not None
        assert torch.isfinite(before.grad).all()
