"""The student: a small residual network over log-mel, waveform → embedding in one exportable graph.

Dense 3 x 3 convolutions (He et al., CVPR 2016) with four halvings of the image, the first two before any wide layer:
on a CPU they run faster than the depthwise ones of a MobileNet with the same accuracy in mind. Time is pooled by mean
and standard deviation, so that one clip length can be trained and another served. Must never know a genre: labels live
in heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.backbones.contract import Backbone
from trainer.backbones.memory import computed_again
from trainer.backbones.weights import load_strictly, read_weights, shape_of
from trainer.frontends import COMPACT_MEL, LogMel

# Mean and standard deviation of the log-mel of all 483 training tracks, rounded.
LOG_MEL_MEAN, LOG_MEL_STD = -0.8, 3.6


def normalised(log_mel: Tensor) -> Tensor:
    """The picture that a `Compact` takes, of log-mel of the same shape."""
    return (log_mel - LOG_MEL_MEAN) / LOG_MEL_STD


class Compact(Backbone):
    """waveform float32 [batch, samples] at 16 kHz in [-1, 1] → embedding float32 [batch, embedding_dim]."""

    sample_rate_hz = COMPACT_MEL.sample_rate_hz
    window_s = 4.0
    frames_per_s = COMPACT_MEL.sample_rate_hz / COMPACT_MEL.hop
    embed_batch = 32

    def __init__(self, width: int = 48, embedding_dim: int = 256) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.log_mel = LogMel(COMPACT_MEL)
        self.trunk = nn.Sequential(
            _convolve(1, width // 2, 5, 2),
            _convolve(width // 2, width, 3, 2),
            _Residual(width),
            _convolve(width, 2 * width, 3, 2),
            _Residual(2 * width),
            _convolve(2 * width, 4 * width, 3, 2),
            _Residual(4 * width),
        )
        rows = COMPACT_MEL.bands // 16
        wide = self.wide = 8 * width
        # A whole column at once: where in frequency something sounds matters, unlike in a photograph.
        self.column = nn.Sequential(nn.Conv2d(4 * width, wide, (rows, 1), bias=False), nn.BatchNorm2d(wide), nn.ReLU())
        self.neck = nn.Linear(2 * wide, embedding_dim)
        self.dropout = nn.Dropout(0.2)
        self.saves_memory = False

    def front(self, waveform: Tensor) -> Tensor:
        """The normalised log-mel [batch, 64, frames], 50 frames a second."""
        return normalised(self.log_mel(waveform))

    def embed(self, picture: Tensor) -> Tensor:
        """The embedding [batch, embedding_dim] of a picture [batch, bands, frames]."""
        return self.pool(self.columns(picture))

    def columns(self, picture: Tensor) -> Tensor:
        """What is heard in each stretch of 16 frames of a picture [batch, bands, frames], [batch, wide, stretches]."""
        image = picture[:, None]
        for part in (*self.trunk, self.column):
            image = computed_again(part, image) if self.saves_memory else part(image)
        return image[:, :, 0].float()

    def pool(self, columns: Tensor) -> Tensor:
        """The embedding [batch, embedding_dim] of stretches [batch, wide, stretches]."""
        mean = columns.mean(2)
        spread = torch.sqrt((columns - mean[:, :, None]).square().mean(2) + 1e-5)
        embedding: Tensor = self.neck(self.dropout(torch.cat([mean, spread], 1)))
        return embedding

    def stages(self) -> Sequence[nn.Module]:
        """The seven parts of the trunk, the whole columns, and the neck."""
        return [*self.trunk, self.column, self.neck]

    def save_memory(self) -> None:
        """Keep only what passes from one stage to the next."""
        self.saves_memory = True


def load_compact(weights: Path) -> Compact:
    """A student with weights that this program trained, as wide as they are, in evaluation mode.

    Raises:
        BadFile: missing, or of another architecture.
    """
    what = "a compact student"
    found = read_weights(weights)
    width, *_ = shape_of(found, "trunk.1.0.weight", 4, weights, what)
    embedding_dim, _ = shape_of(found, "neck.weight", 2, weights, what)
    student = Compact(width, embedding_dim)
    load_strictly(student, found, weights, what)
    return student.eval()


class Committee(Backbone):
    """Several students side by side in one graph, sharing one front end; their embeddings are laid end to end.

    Students that differ only in their random start err in different places, and a linear head over all of them does
    better than one over a wider student of the same cost. It is put together from trained students and not trained in
    one piece, so its picture is log-mel as it is, which each student normalises for itself.
    """

    sample_rate_hz, window_s, frames_per_s = Compact.sample_rate_hz, Compact.window_s, Compact.frames_per_s

    def __init__(self, students: Sequence[Compact]) -> None:
        super().__init__()
        self.log_mel = students[0].log_mel
        self.students = nn.ModuleList(students)
        self.embedding_dim = sum(student.embedding_dim for student in students)

    def front(self, waveform: Tensor) -> Tensor:
        """The log-mel [batch, 64, frames], not normalised."""
        log_mel: Tensor = self.log_mel(waveform)
        return log_mel

    def embed(self, picture: Tensor) -> Tensor:
        """log-mel float32 [batch, bands, frames] → embedding [batch, embedding_dim], all students' in one row."""
        return torch.cat([student.embed(normalised(picture)) for student in self._members()], 1)

    def stages(self) -> Sequence[nn.Module]:
        """The students, each of which hears the whole way from sound to embedding."""
        return list(self._members())

    def save_memory(self) -> None:
        """As each student does."""
        for student in self._members():
            student.save_memory()

    def _members(self) -> Iterator[Compact]:
        for student in self.students:
            assert isinstance(student, Compact)
            yield student


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolve(channels, channels, 3, 1)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, image: Tensor) -> Tensor:
        return functional.relu(image + self.second(self.first(image)))


def _convolve(inward: int, out: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inward, out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(out), nn.ReLU()
    )
