"""Fits a temperature and thresholds to out-of-fold outputs, so that a probability can be believed. Pure arithmetic.

Few numbers, since few tracks fit them: with the starter's data one threshold per genre met its aim on the tracks that
it was chosen on and missed it on held-out folds, where one for all kept it. So the choice between the two is made on
held-out folds, see `choose_thresholds`. Tracks are weighted, see `artist_weights`.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from daemon.core.decide import softmax
from trainer.judging import metrics
from trainer.judging.metrics import Labels, Probabilities, Weights, negative_log_likelihood

Logits = NDArray[np.float32]

# Labels to genres, float [labels, genres]: 1 where the label is that genre.
Groups = NDArray[np.float64]

# Tracks that a genre must have been called on before they can speak for a threshold of its own.
LEAST = 20

# Folds where the tracks bring none of their own.
FOLDS = 5

# More coverage at the same precision is worth one number per genre from here on.
_COVERAGE_MARGIN = 0.01


class Kind(enum.StrEnum):
    """One threshold for all genres, or one for each."""

    SHARED = "shared"
    PER_GENRE = "per genre"


@dataclass(frozen=True, slots=True)
class Crosswise:
    """What a way of choosing thresholds gave on tracks that it had not chosen by, by weight; `error` is the standard
    error of the precision."""

    coverage: float
    precision: float
    error: float


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The chosen thresholds, one per genre in their order, and what both ways gave on held-out folds."""

    values: tuple[float, ...]
    kind: Kind
    aim: float
    shared: Crosswise
    per_genre: Crosswise


@dataclass(frozen=True, slots=True)
class Calibration:
    """How the outputs of a classifier become decisions."""

    temperature: float
    thresholds: Thresholds


def artist_weights(artists: Sequence[str], power: float = 0.5) -> Weights:
    """A weight per track: one over its artist's number of tracks to the `power`, 1 where the artist is unknown.

    What is to be met are new artists, not more tracks of these. Of the starter's data two artists are a third of all
    pop: unweighted, their label's taste alone would set the threshold. The root stands between counting tracks, of
    which an artist's resemble each other, and counting artists, of whom some have one track only.
    """
    counts = Counter(artists)
    return np.array([counts[artist] ** -power if artist else 1.0 for artist in artists])


def calibrate(
    logits: Logits, labels: Labels, precision: float, weights: Weights, folds: Labels, groups: Groups | None = None
) -> Calibration:
    """Temperature and thresholds from out-of-fold `logits` [tracks, labels].

    `labels` [tracks] are genres, -1 where none of them is right: such tracks say nothing of the temperature, and
    every tag that they get is wrong. `groups` says which labels are which genres where they are not the same. The
    temperature is fitted once on all tracks, being one number; the thresholds are checked crosswise over `folds`.
    """
    known = labels >= 0
    temperature = fit_temperature(logits[known], labels[known], weights[known], groups)
    probabilities = grouped(logits, temperature, groups)
    return Calibration(temperature, choose_thresholds(probabilities, labels, precision, weights, folds))


def grouped(logits: Logits, temperature: float, groups: Groups | None) -> Probabilities:
    """Probabilities float [tracks, genres] of `logits` [tracks, labels]; labels of one genre add theirs."""
    probabilities = softmax(logits, temperature)
    return probabilities if groups is None else np.asarray(probabilities @ groups)


def fit_temperature(logits: Logits, labels: Labels, weights: Weights, groups: Groups | None = None) -> float:
    """The temperature in [0.05, 20] that makes `labels` likeliest (Guo et al., "On Calibration of Modern Neural
    Networks", ICML 2017), by golden-section search over its logarithm: the likelihood has one peak. Without a track
    it is 1."""
    if not len(labels):
        return 1.0
    low, high = np.log(0.05), np.log(20.0)
    golden = (np.sqrt(5.0) - 1.0) / 2.0

    def cost(log_temperature: float) -> float:
        return negative_log_likelihood(grouped(logits, float(np.exp(log_temperature)), groups), labels, weights)

    left, right = high - golden * (high - low), low + golden * (high - low)
    cost_left, cost_right = cost(left), cost(right)
    while high - low > 1e-4:
        if cost_left <= cost_right:
            high, right, cost_right = right, left, cost_left
            left = high - golden * (high - low)
            cost_left = cost(left)
        else:
            low, left, cost_left = left, right, cost_right
            right = low + golden * (high - low)
            cost_right = cost(right)
    return float(np.exp((low + high) / 2.0))


def choose_threshold(probabilities: Probabilities, labels: Labels, precision: float, weights: Weights) -> float:
    """The lowest probability from which on at least `precision` of the tags (by weight) are right; 1.0 if none is.

    It lies halfway to the next track below, so that it hangs on no single output. On the tracks that it was chosen on
    it is optimistic: ask for a margin.
    """
    order = np.argsort(-probabilities.max(1), kind="stable")
    sure = probabilities.max(1)[order]
    right = np.cumsum((weights * (probabilities.argmax(1) == labels))[order])
    good = np.flatnonzero(right / np.cumsum(weights[order]) >= precision)
    if not len(good):
        return 1.0
    last = int(good[-1])
    below = sure[last + 1] if last + 1 < len(sure) else 0.0
    return float((sure[last] + below) / 2.0)


def genre_thresholds(probabilities: Probabilities, labels: Labels, precision: float, weights: Weights) -> list[float]:
    """A threshold for each genre, by the tracks on which it is called (its probability is the highest).

    That of `choose_threshold` on those tracks alone, but the shared one where fewer than `LEAST` tracks call the
    genre, and the shared one where the genre's own is lower without evidence: the precision at its own threshold must
    reach the aim even at the lower end of one standard error (Wilson's, for the effective number of tracks).
    """
    shared = choose_threshold(probabilities, labels, precision, weights)
    called = probabilities.argmax(1)
    chosen = []
    for genre in range(probabilities.shape[1]):
        inside = called == genre
        own = shared
        if int(inside.sum()) >= LEAST:
            part = probabilities[inside], labels[inside], precision, weights[inside]
            own = choose_threshold(*part)
            if own < shared and not _evident(*part, own):
                own = shared
        chosen.append(own)
    return chosen


def _evident(probabilities: Probabilities, labels: Labels, precision: float, weights: Weights, own: float) -> bool:
    dared = probabilities.max(1) >= own
    effective = _effective(weights[dared])
    right = float(np.average(probabilities[dared].argmax(1) == labels[dared], weights=weights[dared]))
    return metrics.wilson(right * effective, effective, z=1.0)[0] >= precision


def choose_thresholds(
    probabilities: Probabilities, labels: Labels, precision: float, weights: Weights, folds: Labels
) -> Thresholds:
    """The thresholds for a target `precision`: one per genre only where that is better on held-out folds.

    Each fold is tagged by the thresholds that the other folds would choose, in both ways. One per genre is better
    where it comes closer to the aim by more than a standard error (the simpler of two that are as good is to be taken:
    Breiman et al., "Classification and Regression Trees", 1984), or is at least as close and tags one in a hundred
    tracks more.
    """
    data = probabilities, labels, precision, weights
    shared = _crosswise(_one_for_all, *data, folds)
    own = _crosswise(genre_thresholds, *data, folds)
    kind = Kind.PER_GENRE if _better(own, shared, precision) else Kind.SHARED
    choose = genre_thresholds if kind is Kind.PER_GENRE else _one_for_all
    return Thresholds(tuple(choose(*data)), kind, precision, shared, own)


def _one_for_all(probabilities: Probabilities, labels: Labels, precision: float, weights: Weights) -> list[float]:
    return [choose_threshold(probabilities, labels, precision, weights)] * probabilities.shape[1]


def _crosswise(
    choose: Callable[[Probabilities, Labels, float, Weights], list[float]],
    probabilities: Probabilities,
    labels: Labels,
    precision: float,
    weights: Weights,
    folds: Labels,
) -> Crosswise:
    dared = np.zeros(len(labels), bool)
    for fold in np.unique(folds):
        inside, others = folds == fold, folds != fold
        if others.any():
            thresholds = choose(probabilities[others], labels[others], precision, weights[others])
            dared[inside] = metrics.daring(probabilities[inside], thresholds)
    if not dared.any():
        return Crosswise(0.0, 0.0, 0.0)
    weight = weights[dared]
    right = float(np.average(probabilities[dared].argmax(1) == labels[dared], weights=weight))
    error = float(np.sqrt(right * (1.0 - right) / _effective(weight)))
    return Crosswise(float(weight.sum() / weights.sum()), right, error)


def _effective(weight: Weights) -> float:
    """How many equal tracks tell as much as tracks of these weights (Kish, "Survey Sampling", 1965)."""
    return float(weight.sum() ** 2 / (weight**2).sum())


def _better(own: Crosswise, shared: Crosswise, aim: float) -> bool:
    if own.coverage == 0.0:
        return False
    closer = max(0.0, aim - shared.precision) - max(0.0, aim - own.precision)
    return closer > shared.error or (closer >= 0.0 and own.coverage >= shared.coverage + _COVERAGE_MARGIN)


def held_out_folds(artists: Sequence[str], folds: Sequence[int]) -> Labels:
    """The tracks' own `folds` where there are several, or else `FOLDS` folds that share no artist.

    The largest artists are dealt out first, each to the smallest fold so far.
    """
    if len(set(folds)) > 1 and min(folds) >= 0:
        return np.asarray(folds, int)
    groups = metrics.clusters(artists)
    sizes = np.bincount(groups, minlength=1)
    fold_of, filled = np.zeros(len(sizes), int), np.zeros(FOLDS)
    for group in np.argsort(-sizes, kind="stable"):
        fold_of[group] = int(filled.argmin())
        filled[fold_of[group]] += sizes[group]
    return np.asarray(fold_of[groups])
