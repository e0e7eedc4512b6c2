"""From logits to a decision in the owner's taxonomy, or to "I don't know". Pure arithmetic.

A segment ensemble averages logits, and heads are linear: the head on a track's mean embedding gives the same logits,
so one stored vector per track is enough to decide the whole library again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from daemon.core.records import Abstention, Candidate, Decision, SegmentVote

# Candidates kept as evidence.
TOP = 5

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Rule:
    """How one bundle's outputs become decisions in one owner's taxonomy.

    Attributes:
        bundle: the bundle's id, recorded with each decision.
        labels: the head's labels in output order.
        genres: for each label the owner's genre, or None where the taxonomy has none for it.
        temperature: divides the logits (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017).
        thresholds: for each of the owner's genres, the probability that a decision needs.
    """

    bundle: str
    labels: Sequence[str]
    genres: Mapping[str, str | None]
    temperature: float
    thresholds: Mapping[str, float]


def softmax(logits: Logits, temperature: float) -> NDArray[np.float64]:
    """Probabilities along the last axis of `logits` (shape [..., labels]) at `temperature`."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    exponent = np.exp(scaled)
    return np.asarray(exponent / exponent.sum(axis=-1, keepdims=True))


def decide(segment_logits: Logits, starts_s: Sequence[float], rule: Rule) -> Decision:
    """Decide one track from the logits of its segments, shape [segments, labels], which began at `starts_s`.

    Labels that the taxonomy gathers under one genre add their probabilities. What the taxonomy has no genre for keeps
    its share of the probability: a track that is most likely something else is not pressed into a known genre.
    """
    if segment_logits.shape[0] == 0:
        return Decision(None, 0.0, 1.0, (), (), rule.bundle, Abstention.SILENT)
    if not np.isfinite(segment_logits).all():
        # An encoder that overflows must not name a genre; a NaN passes every comparison with a threshold.
        return Decision(None, 0.0, 1.0, (), (), rule.bundle, Abstention.UNSURE)
    ranked, outside = _ranked(segment_logits.mean(axis=0), rule)
    votes = tuple(_vote(start_s, logits, rule) for start_s, logits in zip(starts_s, segment_logits, strict=True))
    if not ranked:
        return Decision(None, 0.0, 1.0, (), votes, rule.bundle, Abstention.OUTSIDE_TAXONOMY)
    best = ranked[0]
    threshold = rule.thresholds[best.genre]
    abstention = None
    if outside > best.probability:
        abstention = Abstention.OUTSIDE_TAXONOMY
    elif best.probability < threshold:
        abstention = Abstention.UNSURE
    genre = None if abstention else best.genre
    return Decision(genre, best.probability, threshold, tuple(ranked[:TOP]), votes, rule.bundle, abstention)


def _ranked(logits: Logits, rule: Rule) -> tuple[list[Candidate], float]:
    """The owner's genres by probability, best first, and the largest probability of a label outside them."""
    totals: dict[str, float] = {}
    outside = 0.0
    for label, probability in zip(rule.labels, softmax(logits, rule.temperature), strict=True):
        genre = rule.genres[label]
        if genre is None:
            outside = max(outside, float(probability))
        else:
            totals[genre] = totals.get(genre, 0.0) + float(probability)
    ranked = sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    return [Candidate(genre, min(1.0, probability)) for genre, probability in ranked], outside


def _vote(start_s: float, logits: Logits, rule: Rule) -> SegmentVote:
    probabilities = softmax(logits, rule.temperature)
    best = int(probabilities.argmax())
    label = rule.labels[best]
    return SegmentVote(start_s, rule.genres[label] or label, float(probabilities[best]))
