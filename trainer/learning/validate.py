"""Judges a classifier on the validation tracks, as the daemon would hear them. Must never train or choose."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from daemon.core.decide import softmax
from trainer.judging import metrics
from trainer.learning.classifier import Classifier, embed

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Validation:
    """The tracks a run is judged on: `windows()` yields each one's windows, float32 [n, samples], in a fixed order,
    and `targets` holds their labels in the same order."""

    windows: Callable[[], Iterable[Array]]
    targets: Sequence[int]


@dataclass(frozen=True, slots=True)
class Judgement:
    """The mean loss in nats (without smoothing), the measures of `judging.metrics`, and what they were taken from:
    `logits` [tracks, labels] and `embeddings` [tracks, dim]."""

    loss: float
    accuracy: float
    macro_f1: float
    logits: Array
    embeddings: Array


_NONE = np.zeros((0, 0), np.float32)
NOT_JUDGED = Judgement(math.nan, math.nan, math.nan, _NONE, _NONE)


def judge(classifier: Classifier, valid: Validation, device: torch.device) -> Judgement:
    """What the classifier, which is on `device`, makes of the tracks: the mean embedding of each one's windows through
    the head. Its backbone is put back into the mode that it was in, but as a whole."""
    embeddings = np.stack(list(embed(classifier.backbone, valid.windows(), device)))
    logits = classifier.linear().logits(embeddings)
    known, probabilities = np.asarray(valid.targets, np.int64), softmax(logits, 1.0)
    scores = metrics.per_genre(probabilities, known, classifier.labels)
    return Judgement(
        metrics.negative_log_likelihood(probabilities, known),
        metrics.accuracy(probabilities, known),
        metrics.macro_f1(scores),
        logits,
        embeddings,
    )
