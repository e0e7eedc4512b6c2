"""Finds labelled tracks whose label is most likely wrong. Pure arithmetic; must never change a label.

Confident learning (Northcutt, Jiang & Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR
2021): a classifier that never saw a track is asked how sure it is of the given label, by the measure of how sure it
is of that label where it was given. Only probabilities of models that did not train on the track can tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.judging.evaluate import Evaluation
from trainer.judging.metrics import Labels, Probabilities


@dataclass(frozen=True, slots=True)
class Doubt:
    """A row whose label is in doubt: `given` and `suggested` are labels; `margin` by how much more probable the
    second is, from 0 to 1."""

    row: int
    given: int
    suggested: int
    margin: float


@dataclass(frozen=True, slots=True)
class Suspect:
    """A track that may bear the wrong genre, with the probabilities of the genre it bears and of the one suggested."""

    path: Path
    given: str
    suggested: str
    given_probability: float
    suggested_probability: float

    @property
    def margin(self) -> float:
        """How much more probable the suggested genre is."""
        return self.suggested_probability - self.given_probability


def suspects(evaluation: Evaluation) -> list[Suspect]:
    """The tracks of `evaluation` with a doubtful genre, the most doubtful first.

    The evaluation must be out of sample: of kept-back tracks, or joined from folds.
    """
    chosen = np.flatnonzero(evaluation.audible & (evaluation.truths >= 0))
    if not len(chosen):
        return []
    probabilities = evaluation.probabilities[chosen]
    found = doubts(probabilities, evaluation.truths[chosen])
    return [
        Suspect(
            path=evaluation.heard[int(chosen[doubt.row])].track.path,
            given=evaluation.genres[doubt.given],
            suggested=evaluation.genres[doubt.suggested],
            given_probability=float(probabilities[doubt.row, doubt.given]),
            suggested_probability=float(probabilities[doubt.row, doubt.suggested]),
        )
        for doubt in found
    ]


def doubts(probabilities: Probabilities, labels: Labels) -> Sequence[Doubt]:
    """The rows of `probabilities` [rows, labels] whose label (0 or more) is in doubt, by falling margin.

    A class's threshold is its mean probability over the rows that bear it. In doubt is a row whose own label stays
    below its threshold, while another one reaches its own and is the more probable; of several, the most probable.
    """
    rows, classes = probabilities.shape
    thresholds = np.full(classes, np.inf)
    for label in np.unique(labels):
        thresholds[label] = probabilities[labels == label, label].mean()
    own = probabilities[np.arange(rows), labels]
    others = np.where(probabilities >= thresholds, probabilities, -1.0)
    others[np.arange(rows), labels] = -1.0
    best = others.argmax(1)
    margins = others[np.arange(rows), best] - own
    doubtful = np.flatnonzero((own < thresholds[labels]) & (margins > 0.0))
    ranked = doubtful[np.argsort(-margins[doubtful], kind="stable")]
    return [Doubt(int(row), int(labels[row]), int(best[row]), float(margins[row])) for row in ranked]
