"""The log-mel front ends and the augmentations that act on their output."""

from __future__ import annotations

import math

import pytest
import torch
import torchaudio

from trainer import augment
from trainer.frontends import COMPACT_MEL, EFFICIENTAT_MEL, LogMel, MelSettings, mel_matrix


@pytest.mark.parametrize("settings", [COMPACT_MEL, EFFICIENTAT_MEL])
def test_mel_matrix_is_kaldis(settings: MelSettings) -> None:
    banks, _ = torchaudio.compliance.kaldi.get_mel_banks(
        settings.bands,
        settings.fft,
        float(settings.sample_rate_hz),
        settings.low_hz,
        settings.high_hz,
        100.0,
        -500.0,
        1.0,
    )
    ours = mel_matrix(settings)
    assert torch.allclose(ours[:, :-1], banks, atol=2e-4)
    assert not ours[:, -1].any()


@pytest.mark.parametrize("settings", [COMPACT_MEL, EFFICIENTAT_MEL])
def test_convolution_gives_the_log_mel_of_a_fourier_transform(settings: MelSettings) -> None:
    waveform = torch.randn(2, settings.sample_rate_hz, generator=torch.Generator().manual_seed(1)) * 0.1
    signal = waveform
    if settings.pre_emphasis:
        signal = waveform[:, 1:] - settings.pre_emphasis * waveform[:, :-1]
    spectrum = torch.stft(
        signal,
        settings.fft,
        settings.hop,
        settings.window,
        torch.hann_window(settings.window, periodic=False),
        center=settings.centred,
        return_complex=True,
    )
    expected = torch.log(mel_matrix(settings) @ spectrum.abs().square() + settings.floor)
    front = LogMel(settings)
    got = front(waveform)
    assert got.shape == expected.shape == (2, settings.bands, front.frames(settings.sample_rate_hz))
    assert (got - expected).abs().max() < 1e-3


def test_silence_gives_the_floor() -> None:
    assert torch.allclose(LogMel(COMPACT_MEL)(torch.zeros(1, 8000)), torch.tensor(math.log(COMPACT_MEL.floor)))


def test_louder_sound_is_a_constant_more() -> None:
    log_mel = torch.zeros(3, 64, 50)
    changed = augment.gain(log_mel, 6.0, torch.Generator().manual_seed(0))
    assert torch.equal(changed, changed[:, :1, :1].expand_as(changed))
    assert changed.abs().max() <= 6.0 * augment.DECIBEL
    assert changed[0, 0, 0] != changed[1, 0, 0]


def test_masks_replace_no_more_than_they_may() -> None:
    log_mel = torch.randn(8, 64, 100, generator=torch.Generator().manual_seed(0))
    changed = augment.mask(log_mel, 1, 10, 2, torch.Generator().manual_seed(1))
    struck = (changed != log_mel).all(2).sum(1)
    assert struck.max() <= 22
    assert struck.sum() > 0


def test_highs_are_cut_in_the_upper_half_only() -> None:
    changed = augment.cut_highs(torch.zeros(4, 64, 10), 1.0, torch.Generator().manual_seed(0))
    assert not changed[:, :32].any()
    assert (changed <= 0).all()
    assert changed[:, -1].min() < -1.0


def test_noise_never_makes_a_cell_quieter() -> None:
    log_mel = torch.randn(4, 64, 10, generator=torch.Generator().manual_seed(0))
    changed = augment.add_noise(log_mel, 1.0, torch.Generator().manual_seed(1))
    assert (changed >= log_mel - 1e-6).all()


def test_same_seed_changes_the_same() -> None:
    log_mel = torch.randn(4, 64, 100, generator=torch.Generator().manual_seed(0))
    first, second = (augment.augment(log_mel, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first.shape == log_mel.shape
    assert torch.equal(first, second)
    assert not torch.equal(first, log_mel)
