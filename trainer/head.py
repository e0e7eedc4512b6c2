"""Fits the linear head of a bundle: embeddings in, weights and bias out. Must never touch an encoder.

A regularised multinomial logistic regression on standardised embeddings, with the standardisation folded into the
weights, so that the daemon needs one matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

Array = NDArray[np.float32]

# Inverse strength of the L2 penalty on standardised embeddings. Wide embeddings and a few hundred tracks want a strong
# one; the accuracy is flat for a factor of ten around it.
PENALTY = 0.003


@dataclass(frozen=True, slots=True)
class Head:
    """`weights` float32 [labels, dim], `bias` float32 [labels]."""

    weights: Array
    bias: Array

    def logits(self, embedding: Array) -> Array:
        """Logits [..., labels] of embeddings [..., dim]."""
        return np.asarray(embedding @ self.weights.T + self.bias, np.float32)


def fit_head(
    embeddings: Array, labels: Sequence[int], genres: int, importance: Sequence[float], penalty: float = PENALTY
) -> Head:
    """The head for `genres` labels from embeddings [rows, dim], a label and an importance for each row.

    A row labelled -1 is of no known genre: it counts for every genre alike, which teaches the head to doubt. A rare
    genre's rows count for more, by the root of how much rarer it is: halfway between equal rows and equal genres.

    Raises:
        ValueError: a genre has no row.
    """
    known = np.asarray(labels)
    lacking = sorted(set(range(genres)) - set(known.tolist()))
    if lacking:
        raise ValueError(f"no rows for label {lacking[0]}")
    rows = np.concatenate([np.arange(len(known))[known >= 0], np.repeat(np.flatnonzero(known < 0), genres)])
    wanted = np.concatenate([known[known >= 0], np.tile(np.arange(genres), int((known < 0).sum()))])
    share = np.where(known < 0, 1.0 / genres, _rarity(known, genres)[known]) * np.asarray(importance)
    mean, spread = embeddings.mean(0), embeddings.std(0) + 1e-6
    model = LogisticRegression(C=penalty, max_iter=2000)
    model.fit((embeddings[rows] - mean) / spread, wanted, sample_weight=share[rows])
    coefficients, intercept = np.asarray(model.coef_), np.asarray(model.intercept_)
    if genres == 2:
        # Two classes get one row of coefficients; softmax over half of it and its negative says the same.
        coefficients = np.concatenate([-coefficients, coefficients]) / 2.0
        intercept = np.concatenate([-intercept, intercept]) / 2.0
    weights = coefficients / spread
    return Head(weights.astype(np.float32), (intercept - weights @ mean).astype(np.float32))


def _rarity(known: NDArray[np.int64], genres: int) -> NDArray[np.float64]:
    counts = np.bincount(known[known >= 0], minlength=genres)
    return np.asarray((counts / counts.mean()) ** -0.5, np.float64)
