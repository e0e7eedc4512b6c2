"""The student: a small residual network over log-mel, waveform → embedding in one exportable graph.

Dense 3 x 3 convolutions (He et al., CVPR 2016) with four halvings of the image, the first two before any wide layer:
on a CPU they run faster than the depthwise ones of a MobileNet with the same accuracy in mind. Time is pooled by mean
and standard deviation, so that one clip length can be trained and another served. Must never know a genre: labels live
in heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.frontends import COMPACT_MEL, LogMel

# Mean and standard deviation of the log-mel of all 483 training tracks, rounded.
LOG_MEL_MEAN, LOG_MEL_STD = -0.8, 3.6


class Compact(nn.Module):
    """waveform float32 [batch, samples] at 16 kHz in [-1, 1] → embedding float32 [batch, embedding_dim]."""

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

    def forward(self, waveform: Tensor) -> Tensor:
        """The embedding of sound, by way of `embed`."""
        return self.embed(self.log_mel(waveform))

    def embed(self, log_mel: Tensor) -> Tensor:
        """log-mel float32 [batch, bands, frames] → embedding [batch, embedding_dim]."""
        return self.pool(self.columns(log_mel))

    def columns(self, log_mel: Tensor) -> Tensor:
        """log-mel [batch, bands, frames] → what is heard in each stretch of 16 frames, [batch, wide, stretches]."""
        image = (log_mel - LOG_MEL_MEAN) / LOG_MEL_STD
        columns: Tensor = self.column(self.trunk(image[:, None]))[:, :, 0].float()
        return columns

    def pool(self, columns: Tensor) -> Tensor:
        """The embedding [batch, embedding_dim] of stretches [batch, wide, stretches]."""
        mean = columns.mean(2)
        spread = torch.sqrt((columns - mean[:, :, None]).square().mean(2) + 1e-5)
        embedding: Tensor = self.neck(self.dropout(torch.cat([mean, spread], 1)))
        return embedding


class Committee(nn.Module):
    """Several students side by side in one graph, sharing one front end; their embeddings are laid end to end.

    Students that differ only in their random start err in different places, and a linear head over all of them does
    better than one over a wider student of the same cost.
    """

    def __init__(self, students: Sequence[Compact]) -> None:
        super().__init__()
        self.log_mel = students[0].log_mel
        self.students = nn.ModuleList(students)
        self.embedding_dim = sum(student.embedding_dim for student in students)

    def forward(self, waveform: Tensor) -> Tensor:
        """As `Compact`, with the embeddings of all students in one row."""
        return self.embed(self.log_mel(waveform))

    def embed(self, log_mel: Tensor) -> Tensor:
        """log-mel float32 [batch, bands, frames] → embedding [batch, embedding_dim]."""
        return torch.cat([student.embed(log_mel) for student in self._members()], 1)

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
