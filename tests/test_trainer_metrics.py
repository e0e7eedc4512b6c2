"""Metrics against values worked out by hand; calibration, thresholds and heads on made data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from daemon.core.decide import softmax
from trainer.head import fit_head
from trainer.judging import metrics
from trainer.judging.calibrate import artist_weights, choose_threshold, fit_temperature

PROBABILITIES = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.55, 0.45]])
LABELS = np.array([0, 1, 1, 0])


def test_accuracy_and_table_match_counting_by_hand() -> None:
    assert metrics.accuracy(PROBABILITIES, LABELS) == 0.75
    first, second = metrics.per_genre(PROBABILITIES, LABELS, ["a", "b"])
    assert (first.precision, first.recall, first.support) == (pytest.approx(2 / 3), 1.0, 2)
    assert (second.precision, second.recall, second.support) == (1.0, 0.5, 2)
    assert metrics.macro_f1([first, second]) == pytest.approx((0.8 + 2 / 3) / 2)


def test_a_genre_never_called_scores_nothing_instead_of_dividing_by_zero() -> None:
    row = metrics.per_genre(np.array([[0.9, 0.1]]), np.array([0]), ["a", "b"])[1]
    assert (row.precision, row.recall, row.f1, row.support) == (0.0, 0.0, 0.0, 0)


def test_likelihood_and_calibration_error_match_working_by_hand() -> None:
    expected = -(math.log(0.9) + math.log(0.4) + math.log(0.7) + math.log(0.55)) / 4
    assert metrics.negative_log_likelihood(PROBABILITIES, LABELS) == pytest.approx(expected)
    # Bins of a tenth: 0.9 right, 0.6 wrong, 0.7 right, 0.55 right.
    assert metrics.calibration_error(PROBABILITIES, LABELS) == pytest.approx((0.1 + 0.6 + 0.3 + 0.45) / 4)


def test_interval_is_wilsons() -> None:
    low, high = metrics.wilson(75, 100)
    assert (low, high) == (pytest.approx(0.6570, abs=1e-4), pytest.approx(0.8245, abs=1e-4))
    assert metrics.wilson(0, 0) == (0.0, 1.0)


def test_risk_grows_with_coverage_as_counted_by_hand() -> None:
    assert metrics.risk_coverage(PROBABILITIES, LABELS) == [
        (0.25, 0.0),
        (0.5, 0.0),
        (0.75, pytest.approx(1 / 3)),
        (1.0, 0.25),
    ]


def test_daring_counts_only_what_reaches_its_genres_threshold() -> None:
    dared = metrics.dare(PROBABILITIES, LABELS, [0.8, 0.65])
    assert dared == metrics.Dared(coverage=0.5, precision=1.0, dared=2, tracks=4)
    assert metrics.dare(PROBABILITIES, LABELS, [1.0, 1.0]).precision == 0.0


def _made(count: int, overconfidence: float) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits whose softmax at `overconfidence` is the true distribution of the labels."""
    chance = np.random.default_rng(0)
    logits = chance.normal(0.0, 2.0, (count, 3))
    truth = softmax(logits.astype(np.float32), 1.0)
    labels = (truth.cumsum(1) > chance.random((count, 1))).argmax(1)
    return (logits * overconfidence).astype(np.float32), labels


def test_temperature_undoes_overconfidence() -> None:
    logits, labels = _made(4000, 3.0)
    temperature = fit_temperature(logits, labels, np.ones(4000))
    assert temperature == pytest.approx(3.0, rel=0.1)
    before, after = softmax(logits, 1.0), softmax(logits, temperature)
    assert metrics.negative_log_likelihood(after, labels) < metrics.negative_log_likelihood(before, labels)
    assert metrics.calibration_error(after, labels) < 0.03


def test_threshold_reaches_its_precision_and_not_much_more() -> None:
    logits, labels = _made(4000, 1.0)
    probabilities = softmax(logits, 1.0)
    threshold = choose_threshold(probabilities, labels, 0.9, np.ones(4000))
    dared = metrics.dare(probabilities, labels, [threshold] * 3)
    assert 0.9 <= dared.precision < 0.905
    assert 0.1 < dared.coverage < 0.9
    lower = metrics.dare(probabilities, labels, [threshold - 0.02] * 3)
    assert lower.precision < 0.9


def test_many_tracks_of_one_artist_do_not_outvote_the_others() -> None:
    weights = artist_weights(["Nina"] * 4 + ["Ella", "", ""])
    assert weights.tolist() == [0.5] * 4 + [1.0] * 3
    # Four wrong ones of one artist, surest; three right ones of others.
    probabilities = np.array([[0.9, 0.1]] * 4 + [[0.8, 0.2]] * 3)
    labels = np.array([1] * 4 + [0] * 3)
    assert choose_threshold(probabilities, labels, 0.5, np.ones(7)) == 1.0
    assert choose_threshold(probabilities, labels, 0.5, weights) == pytest.approx(0.4)
    assert metrics.dare(probabilities, labels, [0.5, 0.5], weights).precision == pytest.approx(3 / 5)


def test_threshold_that_cannot_be_reached_dares_nothing() -> None:
    wrong = np.array([[0.9, 0.1], [0.8, 0.2]])
    assert choose_threshold(wrong, np.array([1, 1]), 0.9, np.ones(2)) == 1.0


def test_head_separates_what_can_be_separated() -> None:
    chance = np.random.default_rng(0)
    labels = [0, 1, 2] * 30
    centres = chance.normal(0.0, 3.0, (3, 8))
    embeddings = (centres[labels] + chance.normal(0.0, 0.3, (90, 8)) + 100.0).astype(np.float32)
    head = fit_head(embeddings, labels, 3, [1.0] * 90)
    assert head.weights.dtype == head.bias.dtype == np.float32
    assert (head.logits(embeddings).argmax(1) == labels).all()


def test_head_of_two_genres_has_two_rows() -> None:
    embeddings = np.array([[0.0], [0.2], [1.0], [1.2]], np.float32)
    head = fit_head(embeddings, [0, 0, 1, 1], 2, [1.0] * 4, penalty=100.0)
    assert head.weights.shape == (2, 1)
    assert head.logits(embeddings).argmax(1).tolist() == [0, 0, 1, 1]


def test_tracks_of_no_genre_make_the_head_doubt_what_is_like_them() -> None:
    chance = np.random.default_rng(0)
    known = chance.normal(0.0, 0.3, (60, 2)) + np.repeat([[2.0, 0.0], [-2.0, 0.0]], 30, axis=0)
    strange = chance.normal(0.0, 0.3, (30, 2)) + np.array([1.2, 2.0])
    both = np.concatenate([known, strange]).astype(np.float32)
    labels = [0] * 30 + [1] * 30
    bold = fit_head(both[:60], labels, 2, [1.0] * 60, penalty=1.0)
    doubting = fit_head(both, labels + [-1] * 30, 2, [1.0] * 90, penalty=1.0)
    surest = [softmax(head.logits(both[60:]), 1.0).max(1).mean() for head in (bold, doubting)]
    assert surest[1] < surest[0] - 0.1


def test_head_names_the_genre_it_has_no_rows_for() -> None:
    with pytest.raises(ValueError, match="label 1"):
        fit_head(np.zeros((2, 3), np.float32), [0, 0], 2, [1.0, 1.0])
