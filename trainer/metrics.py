"""Measures of a classifier that may abstain. Pure arithmetic on arrays; never reads, prints or decides.

`probabilities` are float [tracks, labels], `labels` int [tracks]; a label of -1 is a track of no known genre.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.float64]
Labels = NDArray[np.int64]
Weights = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GenreScore:
    """One genre's row of the table; `recall` and `precision` are 0.0 where nothing was there to find or was found."""

    genre: str
    precision: float
    recall: float
    support: int

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2.0 * self.precision * self.recall / total if total else 0.0


@dataclass(frozen=True, slots=True)
class Dared:
    """What happens at given thresholds: `coverage` of all tracks get a tag, `precision` of those tags are right.

    Both by weight, if there were weights; `dared` and `tracks` count.
    """

    coverage: float
    precision: float
    dared: int
    tracks: int


def wilson(right: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """The score interval of a proportion (Wilson 1927), 95 % by default; (0, 1) of nothing."""
    if of == 0:
        return 0.0, 1.0
    share = right / of
    centre = share + z * z / (2 * of)
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return (centre - half) / (1 + z * z / of), (centre + half) / (1 + z * z / of)


def accuracy(probabilities: Probabilities, labels: Labels) -> float:
    """The share of tracks whose most probable label is right."""
    return float((probabilities.argmax(1) == labels).mean())


def per_genre(probabilities: Probabilities, labels: Labels, genres: Sequence[str]) -> list[GenreScore]:
    """Precision, recall and support of every genre, in their order."""
    guessed = probabilities.argmax(1)
    rows = []
    for index, genre in enumerate(genres):
        hits = int(((guessed == index) & (labels == index)).sum())
        called, there = int((guessed == index).sum()), int((labels == index).sum())
        rows.append(GenreScore(genre, hits / called if called else 0.0, hits / there if there else 0.0, there))
    return rows


def macro_f1(scores: Sequence[GenreScore]) -> float:
    """The mean of the genres' F1, each counting alike."""
    return sum(score.f1 for score in scores) / len(scores)


def negative_log_likelihood(probabilities: Probabilities, labels: Labels, weights: Weights | None = None) -> float:
    """Mean (by weight) of -log(probability of the true label), in nats."""
    likelihood = np.clip(probabilities[np.arange(len(labels)), labels], 1e-12, 1.0)
    return float(np.average(-np.log(likelihood), weights=weights))


def calibration_error(probabilities: Probabilities, labels: Labels, bins: int = 10) -> float:
    """Expected calibration error of the most probable label (Guo et al., ICML 2017), equal-width bins."""
    sure = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    place = np.minimum((sure * bins).astype(int), bins - 1)
    gaps = [
        abs(right[place == b].mean() - sure[place == b].mean()) * (place == b).mean()
        for b in range(bins)
        if (place == b).any()
    ]
    return float(sum(gaps))


def risk_coverage(probabilities: Probabilities, labels: Labels) -> list[tuple[float, float]]:
    """(coverage, share wrong) when only the surest 1, 2, … tracks are tagged (El-Yaniv & Wiener, JMLR 2010)."""
    order = np.argsort(-probabilities.max(1), kind="stable")
    wrong = np.cumsum((probabilities.argmax(1) != labels)[order])
    count = np.arange(1, len(labels) + 1)
    return [(float(n / len(labels)), float(w / n)) for n, w in zip(count, wrong, strict=True)]


def dare(
    probabilities: Probabilities, labels: Labels, thresholds: Sequence[float], weights: Weights | None = None
) -> Dared:
    """What happens when a track is tagged only if its most probable label reaches that label's threshold."""
    weight = np.ones(len(labels)) if weights is None else weights
    guessed = probabilities.argmax(1)
    daring = probabilities.max(1) >= np.asarray(thresholds)[guessed]
    total, dared = float(weight.sum()), float(weight[daring].sum())
    right = float(weight[daring & (guessed == labels)].sum())
    return Dared(dared / total if total else 0.0, right / dared if dared else 0.0, int(daring.sum()), len(labels))
