"""Decides every track by a temperature and thresholds that were chosen without it. Must never choose what ships.

Thresholds look better on the tracks that they were chosen on. Where out-of-fold logits serve both to choose them and to
say how good they are, each fold is decided here by what the other folds would have chosen (nested cross-validation:
Varma & Simon, "Bias in error estimation when using cross-validation for model selection", BMC Bioinformatics 2006).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from trainer.judging.calibrate import artist_weights, calibrate, held_out_folds
from trainer.judging.evaluate import Evaluation


def crosswise(evaluation: Evaluation, aim: float) -> Evaluation:
    """`evaluation` with each fold decided by the temperature and the thresholds that the others choose for `aim`.

    Folds are the tracks' own, or ones that share no artist (`calibrate.held_out_folds`). Tracks that gave no logits
    keep the rule that they had, as does everything where there are not two folds.
    """
    chosen = np.flatnonzero(evaluation.audible)
    tracks = [evaluation.heard[place].track for place in chosen]
    artists = [track.artist for track in tracks]
    folds = held_out_folds(artists, [track.fold for track in tracks])
    weights, logits, truths = artist_weights(artists), evaluation.logits[chosen], evaluation.truths[chosen]
    rules, heard = list(evaluation.rules), list(evaluation.heard)
    for fold in np.unique(folds):
        others = folds != fold
        if not others.any():
            continue
        fitted = calibrate(logits[others], truths[others], aim, weights[others], folds[others], evaluation.groups)
        thresholds = dict(zip(evaluation.genres, fitted.thresholds.values, strict=True))
        places: dict[int, int] = {}
        for place in chosen[folds == fold]:
            before = heard[place].rule
            if before not in places:
                places[before] = len(rules)
                rules.append(replace(rules[before], temperature=fitted.temperature, thresholds=thresholds))
            heard[place] = replace(heard[place], rule=places[before])
    used = sorted({hearing.rule for hearing in heard})
    kept = tuple(replace(hearing, rule=used.index(hearing.rule)) for hearing in heard)
    return Evaluation(tuple(rules[place] for place in used), kept, evaluation.failures)
