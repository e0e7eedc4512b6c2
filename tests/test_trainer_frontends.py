"""The log-mel front ends, and the starter's augmentations that act on their output."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch
import torchaudio
from make_audio import waveform as made
from torch import Tensor

from daemon.core.audio import Sound
from trainer.frontends import (
    AST_MEL,
    COMPACT_MEL,
    EFFICIENTAT_MEL,
    KaldiLogMel,
    LogMel,
    MelSettings,
    exact_convolutions,
    mel_matrix,
)
from trainer.starter import augment


@pytest.mark.parametrize("settings", [COMPACT_MEL, EFFICIENTAT_MEL, AST_MEL])
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
    assert torch.allclose(KaldiLogMel(AST_MEL)(torch.zeros(1, 8000)), torch.tensor(math.log(AST_MEL.floor)))


def _kaldi(waveform: Tensor) -> Tensor:
    """torchaudio's filter bank of one waveform [samples], as transformers asks for it, [bands, frames]."""
    bank = torchaudio.compliance.kaldi.fbank(
        waveform[None], sample_frequency=16000.0, window_type="hanning", num_mel_bins=128
    )
    return torch.as_tensor(bank).T


@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_convolution_gives_kaldis_filter_bank(offset: float) -> None:
    waveforms = torch.from_numpy(made(3.0, sample_rate_hz=16000)) * 0.7 + offset
    front = KaldiLogMel(AST_MEL)
    got = front(waveforms)
    expected = torch.stack([_kaldi(waveform) for waveform in waveforms])
    assert got.shape == expected.shape == (2, 128, front.frames(48000))
    assert (got - expected).abs().max() < 2e-3


@pytest.mark.parametrize(("samples", "frames"), [(400, 1), (559, 1), (560, 2), (163840, 1022)])
def test_only_whole_frames_count(samples: int, frames: int) -> None:
    front = KaldiLogMel(AST_MEL)
    assert front.frames(samples) == frames
    assert front(torch.zeros(1, samples)).shape[2] == frames


@pytest.mark.data
def test_real_tracks_give_kaldis_filter_bank(data_dir: Path) -> None:
    with open(data_dir / "tracks.csv", newline="") as stream:
        paths = [data_dir / row["path"] for row in csv.DictReader(stream)][::50]
    front, apart = KaldiLogMel(AST_MEL), []
    for path in paths:
        with Sound(path) as sound:
            waveform = torch.from_numpy(sound.read(5.0, 10.24, 16000))
        apart.append(float((front(waveform[None])[0] - _kaldi(waveform)).abs().max()))
    # Just above the floor of float32 torchaudio itself is nearly 2e-3 away from the same in float64.
    assert max(apart) < 4e-3
    assert sorted(apart)[len(apart) // 2] < 1e-3


@pytest.mark.parametrize("front", [LogMel(EFFICIENTAT_MEL), KaldiLogMel(AST_MEL)], ids=["efficientat", "kaldi"])
def test_half_precision_around_it_does_not_reach_the_log_mel(front: LogMel | KaldiLogMel) -> None:
    waveform = torch.from_numpy(made(1.0, sample_rate_hz=16000))
    exact = front(waveform)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(front(waveform), exact)
        assert front(waveform).dtype == torch.float32


def test_convolutions_are_exact_within_and_as_they_were_outside() -> None:
    cudnn = torch.backends.cudnn
    before = (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32)
    with exact_convolutions():
        assert not cudnn.allow_tf32
        assert (cudnn.enabled, cudnn.benchmark, cudnn.deterministic) == before[:3]
    assert (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32) == before


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
