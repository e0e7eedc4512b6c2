"""Fits a temperature and a threshold to out-of-fold outputs, so that a probability can be believed. Pure arithmetic.

Few numbers, since few tracks fit them: one threshold per genre met its aim on the tracks that it was chosen on and
missed it on held-out folds, where one for all kept it. Tracks are weighted, see `artist_weights`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from daemon.core.decide import softmax
from trainer.metrics import Labels, Probabilities, Weights, negative_log_likelihood

Logits = NDArray[np.float32]


def artist_weights(artists: Sequence[str]) -> Weights:
    """A weight per track: one over the root of its artist's number of tracks, 1 where the artist is unknown.

    What is to be met are new artists, not more tracks of these. Of the starter's data two artists are a third of all
    pop: unweighted, their label's taste alone would set the threshold. The root stands between counting tracks, of
    which an artist's resemble each other, and counting artists, of whom some have one track only.
    """
    counts = Counter(artists)
    return np.array([counts[artist] ** -0.5 if artist else 1.0 for artist in artists])


def fit_temperature(logits: Logits, labels: Labels, weights: Weights) -> float:
    """The temperature in [0.05, 20] that makes `labels` likeliest (Guo et al., "On Calibration of Modern Neural
    Networks", ICML 2017), by golden-section search over its logarithm: the likelihood has one peak."""
    low, high = np.log(0.05), np.log(20.0)
    golden = (np.sqrt(5.0) - 1.0) / 2.0

    def cost(log_temperature: float) -> float:
        return negative_log_likelihood(softmax(logits, float(np.exp(log_temperature))), labels, weights)

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
