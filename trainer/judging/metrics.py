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
Interval = tuple[float, float]

# Resamples of a bootstrap: the ends of a 95 % interval then move by less than a tenth of its width between seeds.
DRAWS = 1000

# Weights drawn at once in a bootstrap, so that it needs 32 MB and no more.
_CHUNK = 4_000_000


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


@dataclass(frozen=True, slots=True)
class Bin:
    """The tracks whose confidence lies from `low` to `high`: their mean `confidence`, the share `right`, `count`."""

    low: float
    high: float
    confidence: float
    right: float
    count: int


@dataclass(frozen=True, slots=True)
class Spread:
    """95 % intervals from resampling whole artists; for each genre where there is one per genre, in their order.

    An interval is that of a measure over the draws in which it is defined, and (0, 1) where there is none.
    """

    accuracy: Interval
    macro_f1: Interval
    precision: tuple[Interval, ...]
    recall: tuple[Interval, ...]
    f1: tuple[Interval, ...]


def wilson(right: float, of: float, z: float = 1.96) -> Interval:
    """The score interval of a proportion (Wilson 1927), 95 % by default; (0, 1) of nothing.

    Weighted counts may be given, with `of` the effective number of tracks.
    """
    if of == 0:
        return 0.0, 1.0
    share = right / of
    centre = share + z * z / (2 * of)
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return max(0.0, (centre - half) / (1 + z * z / of)), min(1.0, (centre + half) / (1 + z * z / of))


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
    """The mean of the genres' F1, each counting alike; 0.0 of none. Leave out genres without a track (support 0)."""
    return sum(score.f1 for score in scores) / len(scores) if scores else 0.0


def confusion(probabilities: Probabilities, labels: Labels) -> Labels:
    """Counts int [genres, genres]: a row per true genre, a column per most probable one; labels of -1 do not count."""
    genres = probabilities.shape[1]
    known = labels >= 0
    place = labels[known] * genres + probabilities[known].argmax(1)
    return np.bincount(place, minlength=genres * genres).reshape(genres, genres)


def negative_log_likelihood(probabilities: Probabilities, labels: Labels, weights: Weights | None = None) -> float:
    """Mean (by weight) of -log(probability of the true label), in nats."""
    likelihood = np.clip(probabilities[np.arange(len(labels)), labels], 1e-12, 1.0)
    return float(np.average(-np.log(likelihood), weights=weights))


def reliability(probabilities: Probabilities, labels: Labels, bins: int = 10) -> list[Bin]:
    """How often the most probable label is right, by how probable it is said to be, in equal-width bins; a bin
    without a track is left out."""
    sure = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    place = np.minimum((sure * bins).astype(int), bins - 1)
    rows = []
    for index in range(bins):
        inside = place == index
        if inside.any():
            share, confidence = float(right[inside].mean()), float(sure[inside].mean())
            rows.append(Bin(index / bins, (index + 1) / bins, confidence, share, int(inside.sum())))
    return rows


def calibration_error(probabilities: Probabilities, labels: Labels, bins: int = 10) -> float:
    """Expected calibration error of the most probable label (Guo et al., ICML 2017), equal-width bins."""
    rows = reliability(probabilities, labels, bins)
    return sum(abs(row.right - row.confidence) * row.count for row in rows) / len(labels)


def risk_coverage(
    probabilities: Probabilities, labels: Labels, sureness: NDArray[np.float64] | None = None
) -> list[tuple[float, float]]:
    """(coverage, share wrong) when only the surest 1, 2, … tracks are tagged (El-Yaniv & Wiener, JMLR 2010).

    `sureness` [tracks] says how sure it is of each; by default that is the largest probability.
    """
    order = np.argsort(-(probabilities.max(1) if sureness is None else sureness), kind="stable")
    wrong = np.cumsum((probabilities.argmax(1) != labels)[order])
    count = np.arange(1, len(labels) + 1)
    return [(float(n / len(labels)), float(w / n)) for n, w in zip(count, wrong, strict=True)]


def area_under(curve: Sequence[tuple[float, float]]) -> float:
    """The mean risk over a risk-coverage curve (AURC; Geifman, Uziel & El-Yaniv, ICLR 2019): 0 is best."""
    return sum(risk for _, risk in curve) / len(curve) if curve else 0.0


def dare(
    probabilities: Probabilities, labels: Labels, thresholds: Sequence[float], weights: Weights | None = None
) -> Dared:
    """What happens when a track is tagged only if its most probable label reaches that label's threshold."""
    weight = np.ones(len(labels)) if weights is None else weights
    dares = daring(probabilities, thresholds)
    total, dared = float(weight.sum()), float(weight[dares].sum())
    right = float(weight[dares & (probabilities.argmax(1) == labels)].sum())
    return Dared(dared / total if total else 0.0, right / dared if dared else 0.0, int(dares.sum()), len(labels))


def daring(probabilities: Probabilities, thresholds: Sequence[float]) -> NDArray[np.bool_]:
    """Which tracks are tagged: bool [tracks], where the most probable label reaches that label's threshold."""
    return np.asarray(probabilities.max(1) >= np.asarray(thresholds)[probabilities.argmax(1)])


def clusters(artists: Sequence[str]) -> Labels:
    """A number per track, the same for tracks of one artist; a track of unknown artist stands for itself."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(artist or index, len(numbers)) for index, artist in enumerate(artists)], int)


def resampled(counts: NDArray[np.float64], groups: Labels, draws: int = DRAWS, seed: int = 0) -> NDArray[np.float64]:
    """Sums float [draws, …] of per-track `counts` [tracks, …] over artists drawn with replacement.

    The cluster bootstrap (Field & Welsh, JRSS B 2007): tracks of one artist resemble each other, so that the artists
    are what a new library would draw anew. `groups` as from `clusters`. From such sums follows every measure that is
    a ratio of counts.
    """
    number = int(groups.max()) + 1
    sums = np.zeros((number, *counts.shape[1:]))
    np.add.at(sums, groups, counts)
    flat = sums.reshape(number, -1)
    chance = np.random.default_rng(seed)
    parts: list[NDArray[np.float64]] = []
    for size in _chunks(draws, max(1, _CHUNK // number)):
        drawn = chance.integers(0, number, (size, number)) + np.arange(size)[:, None] * number
        weights = np.bincount(drawn.ravel(), minlength=size * number).reshape(size, number)
        parts.append(weights.astype(np.float64) @ flat)
    return np.asarray(np.concatenate(parts).reshape(draws, *counts.shape[1:]))


def interval(values: NDArray[np.float64]) -> Interval:
    """The middle 95 % of `values` (Efron's percentile interval), NaN left out; (0, 1) of nothing."""
    there = values[np.isfinite(values)]
    if not len(there):
        return 0.0, 1.0
    low, high = np.quantile(there, [0.025, 0.975])
    return float(low), float(high)


def spread(guessed: Labels, labels: Labels, genres: int, groups: Labels, draws: int = DRAWS, seed: int = 0) -> Spread:
    """The intervals of accuracy, macro-F1 (over the genres of a draw that have a track) and of every genre.

    `guessed` [tracks] is the most probable label of each track; labels of -1 count as wrong guesses.
    """
    counts = np.zeros((len(labels), 3, genres))
    tracks = np.arange(len(labels))
    counts[tracks, 1, guessed] = 1.0
    known = labels >= 0
    counts[tracks[known], 2, labels[known]] = 1.0
    hit = labels == guessed
    counts[tracks[hit], 0, guessed[hit]] = 1.0
    hits, called, there = np.moveaxis(resampled(counts, groups, draws, seed), 1, 0)
    precision, recall = ratio(hits, called), ratio(hits, there)
    f1 = ratio(2.0 * hits, called + there)
    present = there > 0
    macro = ratio(np.where(present, f1, 0.0).sum(1), present.sum(1).astype(float))
    return Spread(
        accuracy=interval(ratio(hits.sum(1), called.sum(1))),
        macro_f1=interval(macro),
        precision=tuple(interval(column) for column in precision.T),
        recall=tuple(interval(column) for column in recall.T),
        f1=tuple(interval(column) for column in f1.T),
    )


def ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """`part / whole`, NaN where there is no whole."""
    return np.asarray(np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0))


def wider(first: Interval, second: Interval) -> Interval:
    """The interval that holds both: a bootstrap of tracks that are all right has no width, and Wilson's knows no
    artists."""
    return min(first[0], second[0]), max(first[1], second[1])


def _chunks(total: int, most: int) -> list[int]:
    return [min(most, total - start) for start in range(0, total, most)]
