"""Log-mel front ends as plain modules, so that they can live inside an ONNX graph. Must never read audio files.

One strided convolution takes the windowed discrete Fourier transform of every frame, a square and a sum make power,
a matrix gathers it into mel bands and a logarithm follows. Serving then cannot drift from training: the graph that is
shipped holds the very numbers that the training used. All of it is computed in full float32, whatever arithmetic the
network behind it runs in: the logarithm makes rounding beside a loud band audible in a quiet one.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class MelSettings:
    """What a log-mel front end computes; lengths in samples, frequencies in Hz, `floor` added to mel power."""

    sample_rate_hz: int
    fft: int
    window: int
    hop: int
    bands: int
    low_hz: float
    high_hz: float
    floor: float
    pre_emphasis: float
    centred: bool


# The student's own: 20 ms steps are enough for genre and keep the graph cheap.
COMPACT_MEL = MelSettings(16000, 512, 512, 320, 64, 40.0, 7800.0, 1e-5, 0.0, centred=False)

# EfficientAT's (Schmid et al., ICASSP 2023): mel bands end 1 kHz below Nyquist, as its code sets them for inference.
EFFICIENTAT_MEL = MelSettings(32000, 1024, 800, 320, 128, 0.0, 15000.0, 1e-5, 0.97, centred=True)

# The AST's (Gong et al., Interspeech 2021): Kaldi's filter bank of 25 ms frames every 10 ms; its floor is not added to
# the power of a band but the least that a band is taken for.
AST_MEL = MelSettings(16000, 512, 400, 160, 128, 20.0, 8000.0, torch.finfo(torch.float32).eps, 0.97, centred=False)


def mel_matrix(settings: MelSettings) -> Tensor:
    """Triangular filters, float32 [bands, fft // 2 + 1], equally spaced and linear on Kaldi's mel scale.

    Same numbers as `torchaudio.compliance.kaldi.get_mel_banks` (unit peaks, no area normalisation) with a column of
    zeros for the Nyquist bin.
    """
    low, high = _mel(settings.low_hz), _mel(settings.high_hz)
    edges = torch.linspace(low, high, settings.bands + 2, dtype=torch.float64)
    width = (high - low) / (settings.bands + 1)
    bins = torch.arange(settings.fft // 2, dtype=torch.float64) * settings.sample_rate_hz / settings.fft
    mels = 1127.0 * torch.log1p(bins / 700.0)
    rising = (mels[None, :] - edges[:-2, None]) / width
    falling = (edges[2:, None] - mels[None, :]) / width
    triangles = torch.clamp(torch.minimum(rising, falling), min=0.0)
    return functional.pad(triangles, (0, 1)).to(torch.float32)


def _mel(frequency_hz: float) -> float:
    return 1127.0 * math.log1p(frequency_hz / 700.0)


def fourier_kernel(settings: MelSettings) -> Tensor:
    """The Hann-windowed Fourier basis as a convolution kernel, float32 [2 * (fft // 2 + 1), 1, window].

    The first half of the channels is the real part, the second half the imaginary part; only power is ever used, so
    where the frame sits inside the transform (a phase) does not matter.
    """
    return _fourier(settings)[:, None, :].to(torch.float32)


def kaldi_kernel(settings: MelSettings) -> Tensor:
    """Everything that Kaldi does to a frame before power, as a convolution kernel [2 * (fft // 2 + 1), 1, window].

    `torchaudio.compliance.kaldi.fbank` takes the mean off each frame, then 0.97 of the sample before (of itself, for
    the first), then windows and transforms. All four are linear, so they are one matrix per frame.
    """
    size = settings.window
    identity = torch.eye(size, dtype=torch.float64)
    centre = identity - 1.0 / size
    previous = torch.cat([identity[:1], identity[:-1]])
    emphasis = identity - settings.pre_emphasis * previous
    return (_fourier(settings) @ emphasis @ centre)[:, None, :].to(torch.float32)


def _fourier(settings: MelSettings) -> Tensor:
    time = torch.arange(settings.window, dtype=torch.float64)
    frequency = torch.arange(settings.fft // 2 + 1, dtype=torch.float64)
    angle = 2.0 * math.pi * frequency[:, None] * time[None, :] / settings.fft
    hann = torch.hann_window(settings.window, periodic=False, dtype=torch.float64)
    return torch.cat([torch.cos(angle), torch.sin(angle)]) * hann


class LogMel(nn.Module):
    """waveform float32 [batch, samples] → natural-log mel power float32 [batch, bands, frames]; holds no weights."""

    def __init__(self, settings: MelSettings) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("kernel", fourier_kernel(settings), persistent=False)
        self.register_buffer("mel", mel_matrix(settings), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """The log-mel of a batch of sound."""
        settings = self.settings
        with _full_precision(waveform.device.type):
            signal = waveform.float()[:, None, :]
            if settings.pre_emphasis:
                signal = signal[..., 1:] - settings.pre_emphasis * signal[..., :-1]
            if settings.centred:
                # `torch.stft(center=True)` pads by half the transform and centres the shorter window inside it.
                signal = functional.pad(signal, (settings.window // 2, settings.window // 2), mode="reflect")
            power = _mel_power(signal, self.get_buffer("kernel"), self.get_buffer("mel"), settings.hop)
            return torch.log(power + settings.floor)

    def frames(self, samples: int) -> int:
        """How many frames `samples` samples give."""
        settings = self.settings
        padded = samples + (settings.window // 2 * 2 if settings.centred else 0) - (1 if settings.pre_emphasis else 0)
        return (padded - settings.window) // settings.hop + 1


class KaldiLogMel(nn.Module):
    """As `LogMel`, with the numbers of `torchaudio.compliance.kaldi.fbank(window_type="hanning")` on sound in [-1, 1].

    Over 10 s of each of 31 real tracks the two are at most 3.0e-3 apart, in bands just above the floor; from the same
    in float64 this one is at most 1.2e-3 away and torchaudio's 1.8e-3. Holds no weights.
    """

    def __init__(self, settings: MelSettings) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("kernel", kaldi_kernel(settings), persistent=False)
        self.register_buffer("mel", mel_matrix(settings), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """The log-mel of a batch of sound, at least one frame long."""
        with _full_precision(waveform.device.type):
            signal = waveform.float()[:, None, :]
            power = _mel_power(signal, self.get_buffer("kernel"), self.get_buffer("mel"), self.settings.hop)
            return torch.log(torch.clamp(power, min=self.settings.floor))

    def frames(self, samples: int) -> int:
        """How many frames `samples` samples give: whole ones only."""
        return (samples - self.settings.window) // self.settings.hop + 1


def _mel_power(signal: Tensor, kernel: Tensor, mel: Tensor, hop: int) -> Tensor:
    """signal [batch, 1, samples] → power in each mel band [batch, bands, frames]."""
    power = functional.conv1d(signal, kernel, stride=hop).square()
    half = power.shape[1] // 2
    return torch.matmul(mel, power[:, :half] + power[:, half:])


@contextlib.contextmanager
def _full_precision(device: str) -> Iterator[None]:
    """No autocast, and on a GPU no TF32 in convolutions, which is cuDNN's default: with samples and kernel rounded as
    TF32 rounds them, `KaldiLogMel` was up to 4.9 off on 31 real tracks, in quiet bands beside loud ones."""
    with contextlib.ExitStack() as stack:
        if torch.is_autocast_enabled(device):
            stack.enter_context(torch.autocast(device, enabled=False))
        if device == "cuda":
            stack.enter_context(exact_convolutions())
        yield


def exact_convolutions() -> contextlib.AbstractContextManager[None]:
    """Within it, float32 convolutions on a GPU are not rounded to TF32; everything else stays as it is set."""
    cudnn = torch.backends.cudnn
    return cudnn.flags(
        enabled=cudnn.enabled, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False
    )
