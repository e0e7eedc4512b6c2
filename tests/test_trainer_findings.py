"""Intervals, thresholds, findings and suspects against counting by hand and against data made to have the answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from daemon.core.decide import Rule, softmax
from daemon.core.errors import ConfigError
from trainer.judging import metrics
from trainer.judging.calibrate import (
    LEAST,
    Kind,
    artist_weights,
    calibrate,
    choose_threshold,
    choose_thresholds,
    fit_temperature,
    genre_thresholds,
    held_out_folds,
)
from trainer.judging.crosswise import crosswise
from trainer.judging.evaluate import Evaluation, Hearing
from trainer.judging.findings import Rival, find
from trainer.judging.suspects import doubts, suspects
from trainer.tracks.manifest import Track

Array = NDArray[np.float64]
Labels = NDArray[np.int64]


def made(tracks: int, genres: int = 4, strength: float = 2.5, seed: int = 0, artists: int = 0) -> tuple[Array, Labels]:
    """Logits [tracks, genres] and labels [tracks]; tracks of one artist lean to one side together."""
    chance = np.random.default_rng(seed)
    labels = np.arange(tracks) % genres
    logits = chance.normal(0.0, 1.0, (tracks, genres))
    if artists:
        logits += np.repeat(chance.normal(0.0, 1.5, (artists, genres)), -(-tracks // artists), axis=0)[:tracks]
    logits[np.arange(tracks), labels] += strength
    return logits, labels


def evaluation(
    logits: Array, labels: Labels, *, artists: int = 0, threshold: float = 0.6, folds: int = 5
) -> Evaluation:
    """An evaluation of one segment per track; `artists` of as many tracks each, or none named."""
    genres = [f"g{number}" for number in range(logits.shape[1])]
    each = -(-len(labels) // artists) if artists else 1
    rule = Rule("made-1", tuple(genres), dict(zip(genres, genres, strict=True)), 1.0, dict.fromkeys(genres, threshold))
    heard = tuple(
        Hearing(
            Track(
                Path(f"/music/{place}.flac"),
                genres[label] if label >= 0 else "polka",
                place // each % folds,
                f"artist {place // each}" if artists else "",
            ),
            *(0, (0.0,), row[None].astype(np.float32), 0.1, 0.2),
        )
        for place, (row, label) in enumerate(zip(logits, labels, strict=True))
    )
    return Evaluation((rule,), heard)


# Measures


def test_confusion_reliability_and_area_match_counting_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.55, 0.45], [0.2, 0.8]])
    labels = np.array([0, 1, 1, 0, -1])
    assert metrics.confusion(probabilities, labels).tolist() == [[2, 0], [1, 1]]
    rows = metrics.reliability(probabilities[:4], labels[:4])
    assert [(row.low, row.count, row.right) for row in rows] == [
        (0.5, 1, 1.0),
        (0.6, 1, 0.0),
        (0.7, 1, 1.0),
        (0.9, 1, 1.0),
    ]
    assert metrics.area_under([(0.25, 0.0), (0.5, 0.0), (0.75, 1 / 3), (1.0, 0.25)]) == pytest.approx(7 / 48)
    assert metrics.macro_f1([]) == 0.0


def test_a_proportions_interval_stays_between_nothing_and_all() -> None:
    assert metrics.wilson(0, 40)[0] == 0.0
    assert metrics.wilson(40, 40)[1] == 1.0


def test_unknown_artists_stand_for_themselves() -> None:
    assert metrics.clusters(["Nina", "", "Ella", "Nina", ""]).tolist() == [0, 1, 2, 0, 3]


def test_resampling_independent_tracks_gives_what_wilson_gives() -> None:
    right = np.arange(400) % 5 != 0
    low, high = metrics.spread(np.where(right, 0, 1), np.zeros(400, int), 2, np.arange(400)).accuracy
    assert (low, high) == pytest.approx(metrics.wilson(320, 400), abs=0.01)


def test_artists_that_stand_or_fall_together_widen_the_interval() -> None:
    right = np.repeat(np.arange(20) % 5 != 0, 20)
    guessed, truths = np.where(right, 0, 1), np.zeros(400, int)
    low, high = metrics.spread(guessed, truths, 2, np.repeat(np.arange(20), 20)).accuracy
    assert (low, high) == pytest.approx(metrics.wilson(16, 20), abs=0.06)
    assert metrics.wider((low, high), metrics.wilson(320, 400)) == (low, high)


@pytest.mark.slow
def test_intervals_by_artist_hold_the_truth_where_those_by_track_do_not() -> None:
    by_artist = by_track = 0
    chance = np.random.default_rng(1)
    for trial in range(200):
        share = chance.beta(2.4, 0.6, 30)
        right = chance.random((30, 15)) < share[:, None]
        guessed = np.where(right.ravel(), 0, 1)
        low, high = metrics.spread(guessed, np.zeros(450, int), 2, np.repeat(np.arange(30), 15), seed=trial).accuracy
        by_artist += low <= 0.8 <= high
        low, high = metrics.wilson(int(right.sum()), 450)
        by_track += low <= 0.8 <= high
    assert by_artist >= 0.88 * 200
    assert by_track <= 0.75 * 200


def test_each_genres_interval_holds_its_value_and_the_draws_are_repeatable() -> None:
    logits, labels = made(300, artists=60)
    guessed = logits.argmax(1)
    groups = np.arange(300) // 5
    spread = metrics.spread(guessed, labels, 4, groups)
    scores = metrics.per_genre(softmax(logits.astype(np.float32), 1.0), labels, list("abcd"))
    for score, precision, recall, f1 in zip(scores, spread.precision, spread.recall, spread.f1, strict=True):
        assert precision[0] <= score.precision <= precision[1]
        assert recall[0] <= score.recall <= recall[1]
        assert f1[0] <= score.f1 <= f1[1]
    assert spread.macro_f1[0] <= metrics.macro_f1(scores) <= spread.macro_f1[1]
    assert metrics.spread(guessed, labels, 4, groups) == spread


def test_a_genre_without_tracks_has_no_interval_and_does_not_spoil_the_mean() -> None:
    spread = metrics.spread(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]), 3, np.arange(4))
    assert spread.recall[2] == spread.precision[2] == (0.0, 1.0)
    assert spread.macro_f1 == (1.0, 1.0)


# Temperature and thresholds


def test_temperature_is_fitted_to_genres_that_gather_labels() -> None:
    logits, labels = made(4000, 4, 0.0)
    truth = softmax(logits.astype(np.float32), 1.0)
    labels = (truth.cumsum(1) > np.random.default_rng(3).random((4000, 1))).argmax(1)
    groups = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    confident = (logits * 3.0).astype(np.float32)
    assert fit_temperature(confident, labels // 2, np.ones(4000), groups) == pytest.approx(3.0, rel=0.15)
    assert fit_temperature(confident[:0], labels[:0], np.ones(0)) == 1.0


def _two_genres(first_right: float, second_right: float, tracks: int = 600, seed: int = 0) -> tuple[Array, Labels]:
    """Two genres called alternately with confidence from 0.5 to 1, right in shares that have nothing to do with it
    below 0.9 and always right above."""
    chance = np.random.default_rng(seed)
    called = np.arange(tracks) % 2
    sure = chance.uniform(0.5, 1.0, tracks)
    share = np.where(sure > 0.9, 1.0, np.where(called == 0, first_right, second_right))
    labels = np.where(chance.random(tracks) < share, called, 1 - called)
    probabilities = np.stack([np.where(called == 0, sure, 1 - sure), np.where(called == 0, 1 - sure, sure)], axis=1)
    return probabilities, labels


def test_a_genre_has_a_threshold_of_its_own_where_its_tracks_can_tell() -> None:
    probabilities, labels = _two_genres(0.98, 0.5)
    easy, hard = genre_thresholds(probabilities, labels, 0.95, np.ones(600))
    shared = choose_threshold(probabilities, labels, 0.95, np.ones(600))
    assert easy < shared < hard
    assert easy < 0.55
    assert hard > 0.85


def test_a_genre_of_few_tracks_keeps_the_shared_threshold() -> None:
    probabilities, labels = _two_genres(0.98, 0.5)
    few = np.concatenate(
        [np.flatnonzero(probabilities.argmax(1) == 0), np.flatnonzero(probabilities.argmax(1) == 1)[: LEAST - 1]]
    )
    part, truths = probabilities[few], labels[few]
    thresholds = genre_thresholds(part, truths, 0.95, np.ones(len(few)))
    assert thresholds[1] == choose_threshold(part, truths, 0.95, np.ones(len(few)))


def test_no_threshold_falls_below_the_shared_one_on_a_streak_of_luck() -> None:
    # All of the genre's 25 tracks are right: below the aim of 0.97 at the lower end of a standard error (0.962).
    lucky = np.tile([0.6, 0.4], (25, 1))
    others, labels = _two_genres(0.5, 0.5)
    others = others[others.argmax(1) == 1]
    probabilities = np.concatenate([lucky, others])
    truths = np.concatenate([np.zeros(25, int), labels[: len(others)]])
    weights = np.ones(len(truths))
    shared = choose_threshold(probabilities, truths, 0.97, weights)
    assert genre_thresholds(probabilities, truths, 0.97, weights)[0] == shared > 0.6
    assert (
        genre_thresholds(np.repeat(probabilities, 3, axis=0), np.repeat(truths, 3), 0.97, np.ones(3 * len(truths)))[0]
        < 0.6
    )


def test_thresholds_per_genre_are_taken_where_they_help_on_held_out_folds_only() -> None:
    folds = np.arange(600) // 2 % 5
    chosen = choose_thresholds(*_two_genres(0.98, 0.5), 0.95, np.ones(600), folds)
    assert chosen.kind is Kind.PER_GENRE
    assert chosen.per_genre.coverage > chosen.shared.coverage + 0.1
    assert len(set(chosen.values)) == 2
    alike = choose_thresholds(*_two_genres(0.7, 0.7), 0.95, np.ones(600), folds)
    assert alike.kind is Kind.SHARED
    assert len(set(alike.values)) == 1


def test_tracks_of_other_genres_raise_the_thresholds() -> None:
    logits, labels = made(400)
    folds, weights = np.arange(400) % 5, np.ones(400)
    without = calibrate(logits.astype(np.float32), labels, 0.9, weights, folds)
    labels = np.where(np.arange(400) % 7 == 0, -1, labels)
    with_others = calibrate(logits.astype(np.float32), labels, 0.9, weights, folds)
    assert min(with_others.thresholds.values) > max(without.thresholds.values)


def test_folds_are_the_tracks_own_or_share_no_artist() -> None:
    assert held_out_folds(["a", "b"], [3, 1]).tolist() == [3, 1]
    artists = ["a"] * 7 + ["b"] * 3 + ["c", "d", "e", "", ""]
    folds = held_out_folds(artists, [-1] * len(artists))
    assert len(set(folds[:7].tolist())) == len(set(folds[7:10].tolist())) == 1
    assert len(set(folds.tolist())) == 5


def test_a_fold_is_decided_without_being_asked() -> None:
    logits, labels = made(200)
    before = crosswise(evaluation(logits, labels), 0.9)
    held_out = np.arange(200) % 5 == 0
    logits[held_out] *= -4.0
    after = crosswise(evaluation(logits, labels), 0.9)
    own = {before.heard[place].rule for place in np.flatnonzero(held_out)}
    assert len(own) == 1
    number = own.pop()
    assert after.rules[number] == before.rules[number]
    assert sum(one != other for one, other in zip(after.rules, before.rules, strict=True)) == 4
    assert len(before.rules) == 5


def test_deciding_crosswise_takes_the_flattery_out() -> None:
    flattered, honest = [], []
    for seed in range(8):
        logits, labels = made(120, 6, 1.5, seed)
        judged = evaluation(logits, labels)
        fitted = calibrate(judged.logits, judged.truths, 0.9, np.ones(120), np.arange(120) % 5)
        thresholds = dict(zip(judged.genres, fitted.thresholds.values, strict=True))
        for results, one in (
            (flattered, judged.decided_by(fitted.temperature, thresholds)),
            (honest, crosswise(judged, 0.9)),
        ):
            results.append(find(one).right)
    precision = [
        sum(share.right for share in shares) / sum(share.of for share in shares) for shares in (flattered, honest)
    ]
    assert precision[0] > precision[1]


def test_one_artist_alone_cannot_be_decided_crosswise_and_stays_as_it_was() -> None:
    logits, labels = made(20)
    judged = evaluation(logits, labels, artists=1, folds=1)
    assert crosswise(judged, 0.9).decisions == judged.decisions


# Findings


def test_findings_count_what_the_daemon_tags() -> None:
    logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.55, 0.45], [0.2, 0.8], [0.7, 0.3]])
    found = find(evaluation(logits, np.array([0, 1, 0, 1, -1]), threshold=0.6))
    assert (found.tagged.right, found.tagged.of) == (3, 4)
    assert (found.right.right, found.right.of) == (2, 3)
    assert found.accuracy.value == 0.75
    assert (found.outside.dared, found.outside.tracks) == (1, 1)
    assert [(row.tags, row.right_tags) for row in found.rows] == [(2, 1), (1, 1)]
    assert found.curve == ((0.25, 0.0), (0.5, 0.5), (0.75, pytest.approx(1 / 3)), (1.0, 0.25))
    assert found.unnamed == found.artists == found.tracks == 4


def test_the_point_in_use_lies_on_the_curve_with_thresholds_per_genre_too() -> None:
    logits, labels = made(300)
    judged = evaluation(logits, labels).decided_by(1.0, {"g0": 0.3, "g1": 0.9, "g2": 0.5, "g3": 0.99})
    found = find(judged)
    coverage, risk = found.curve[found.tagged.right - 1]
    assert coverage == pytest.approx(found.tagged.value)
    assert 1.0 - risk == pytest.approx(found.right.value)


def test_more_segments_name_more_tracks_rightly() -> None:
    chance = np.random.default_rng(0)
    labels = np.arange(200) % 3
    one = evaluation(np.zeros((200, 3)), labels)
    segments = chance.normal(0.0, 2.0, (200, 6, 3)).astype(np.float32)
    segments[np.arange(200), :, labels] += 1.0
    heard = tuple(
        Hearing(old.track, 0, tuple(float(start) for start in range(6)), logits, 0.1, 0.2)
        for old, logits in zip(one.heard, segments, strict=True)
    )
    steps = find(Evaluation(one.rules, heard)).steps
    assert [step.segments for step in steps] == [1, 2, 3, 4, 5, 6]
    assert steps[-1].accuracy.value > steps[0].accuracy.value + 0.1
    assert steps[-1].accuracy.value == find(Evaluation(one.rules, heard)).accuracy.value


def test_a_rival_is_compared_on_the_same_tracks() -> None:
    logits, labels = made(200, strength=3.0)
    judged = evaluation(logits, labels)
    right = {hearing.track.path: hearing.track.genre for hearing in judged.heard}
    half = {path: genre if place % 2 else "g9" for place, (path, genre) in enumerate(right.items())}
    some = dict(list(right.items())[:50])
    worse, same, none = find(judged, [Rival("half", half), Rival("some", some), Rival("none", {})]).rivals
    assert (worse.tracks, worse.rival) == (200, 0.5)
    assert 0.0 < worse.lead[0] < worse.ours - worse.rival < worse.lead[1]
    assert (same.tracks, same.rival) == (50, 1.0)
    assert none.tracks == 0


def test_nothing_that_could_be_judged_is_said_so() -> None:
    with pytest.raises(ConfigError, match="no track of a known genre"):
        find(evaluation(np.zeros((2, 2)), np.array([-1, -1])))


def test_the_manifests_numbers_are_plain() -> None:
    logits, labels = made(100)
    told = find(evaluation(logits, labels, artists=20)).as_dict()
    assert told["tracks"] == 100
    assert told["accuracy_interval_95"][0] <= told["accuracy"] <= told["accuracy_interval_95"][1]
    assert set(told["genres"]) == {"g0", "g1", "g2", "g3"}


# Suspects


@pytest.mark.parametrize(("strength", "caught"), [(2.5, 30), (3.0, 38), (4.0, 45)], ids=["88 %", "94 %", "99 %"])
def test_flipped_labels_come_first(strength: float, caught: int) -> None:
    """The share in the test's name is the accuracy of the classifier that is asked."""
    logits, truths = made(1000, 5, strength)
    chance = np.random.default_rng(10)
    flipped = chance.choice(1000, 50, replace=False)
    given = truths.copy()
    given[flipped] = (truths[flipped] + chance.integers(1, 5, 50)) % 5
    found = doubts(softmax((logits * strength).astype(np.float32), 1.0), given)
    hits = [doubt for doubt in found if doubt.row in set(flipped.tolist())]
    assert len({doubt.row for doubt in found[:50]} & set(flipped.tolist())) >= caught
    assert np.mean([doubt.suggested == truths[doubt.row] for doubt in hits]) > 0.9
    assert [doubt.margin for doubt in found] == sorted((doubt.margin for doubt in found), reverse=True)


def test_a_timid_classs_tracks_are_measured_by_its_own_timidity() -> None:
    # The second label never gets more than 0.45, and 0.4 is usual: only the row with 0.1 is strange.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.55, 0.45], [0.6, 0.4], [0.6, 0.4], [0.9, 0.1]])
    found = doubts(probabilities, np.array([0, 0, 1, 1, 1, 1]))
    assert [(doubt.row, doubt.given, doubt.suggested) for doubt in found] == [(5, 1, 0)]


def test_suspects_name_file_and_both_genres_and_pass_over_what_cannot_be_judged() -> None:
    logits = np.array([[4.0, 0.0], [4.0, 0.0], [0.0, 4.0], [0.0, 4.0], [5.0, 0.0], [0.0, 9.0]])
    judged = evaluation(logits, np.array([0, 0, 1, 1, 1, -1]))
    (one,) = suspects(judged)
    assert (one.path, one.given, one.suggested) == (Path("/music/4.flac"), "g1", "g0")
    assert one.margin == pytest.approx(one.suggested_probability - one.given_probability)
    assert suspects(evaluation(logits[:1], np.array([-1]))) == []


def test_artists_are_evened_out_in_the_findings() -> None:
    logits = np.log([[0.9, 0.1]] * 4 + [[0.9, 0.1]] * 2)
    labels = np.array([1, 1, 1, 1, 0, 0])
    judged = evaluation(logits, labels)
    names = ["Nina"] * 4 + ["Ella", "Ray"]
    heard = tuple(
        Hearing(Track(old.track.path, old.track.genre, 0, name), 0, old.starts_s, old.logits, 0.1, 0.1)
        for old, name in zip(judged.heard, names, strict=True)
    )
    found = find(Evaluation(judged.rules, heard))
    assert found.right.value == pytest.approx(2 / 6)
    assert found.evened.precision == pytest.approx(2.0 / float(artist_weights(names).sum()))
