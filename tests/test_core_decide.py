"""From logits to a genre or to "I don't know", by arithmetic that can be done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.decide import TOP, Rule, decide, softmax
from daemon.core.records import Abstention, Candidate

LABELS = ("classical", "jazz", "rock")


def rule_of(
    genres: dict[str, str | None] | None = None, threshold: float = 0.5, temperature: float = 1.0, **thresholds: float
) -> Rule:
    mapping = dict(zip(LABELS, LABELS, strict=True)) if genres is None else genres
    chosen = {genre: thresholds.get(genre, threshold) for genre in mapping.values() if genre is not None}
    return Rule("b-1", tuple(mapping), mapping, temperature, chosen)


def logits_of(*probabilities: float) -> np.ndarray:
    """Logits of one segment that softmax turns into `probabilities`."""
    return np.log(np.float32([probabilities]))


# Softmax


def test_softmax_by_hand() -> None:
    e = math.e
    np.testing.assert_allclose(softmax(np.float32([0, 1, 2]), 1.0), np.array([1, e, e * e]) / (1 + e + e * e))


def test_temperature_divides_the_logits() -> None:
    np.testing.assert_allclose(softmax(np.float32([0, 2]), 2.0), [1 / (1 + math.e), math.e / (1 + math.e)])


def test_softmax_of_huge_logits_does_not_overflow() -> None:
    np.testing.assert_allclose(softmax(np.float32([1e30, 0, -1e30]), 1.0), [1, 0, 0])


def test_softmax_is_taken_over_the_last_axis() -> None:
    assert softmax(np.zeros((4, 2, 5), np.float32), 1.0).sum(axis=-1) == pytest.approx(np.ones((4, 2)))


# Naming a genre


def test_the_surest_genre_is_named() -> None:
    decision = decide(logits_of(0.1, 0.7, 0.2), [3.0], rule_of())
    assert decision.genre == "jazz"
    assert decision.abstention is None
    assert decision.confidence == pytest.approx(0.7, abs=1e-6)
    assert [(c.genre, round(c.probability, 6)) for c in decision.candidates] == [
        ("jazz", 0.7),
        ("rock", 0.2),
        ("classical", 0.1),
    ]
    assert (decision.bundle, decision.threshold) == ("b-1", 0.5)


def test_segments_are_averaged_as_logits() -> None:
    """Mean logits (0, 1, -1): no segment alone says so."""
    logits = np.float32([[3, 1, -4], [-3, 1, 2]])
    decision = decide(logits, [0.0, 5.0], rule_of())
    total = 1 + math.e + 1 / math.e
    assert decision.genre == "jazz"
    assert decision.confidence == pytest.approx(math.e / total, abs=1e-6)


def test_each_segment_is_kept_as_evidence() -> None:
    logits = np.concatenate([logits_of(0.6, 0.3, 0.1), logits_of(0.1, 0.1, 0.8)])
    decision = decide(logits, [12.5, 40.0], rule_of())
    assert [(vote.start_s, vote.genre) for vote in decision.votes] == [(12.5, "classical"), (40.0, "rock")]
    assert [vote.probability for vote in decision.votes] == pytest.approx([0.6, 0.8], abs=1e-6)


def test_temperature_makes_the_decision_less_sure() -> None:
    logits = np.float32([[0, 2, 0]])
    sure, calm = (decide(logits, [0.0], rule_of(temperature=t)) for t in (1.0, 4.0))
    assert sure.confidence == pytest.approx(math.e**2 / (math.e**2 + 2), abs=1e-6)
    assert calm.confidence == pytest.approx(math.e**0.5 / (math.e**0.5 + 2), abs=1e-6)


def test_labels_of_one_genre_add_up() -> None:
    """Neither baroque nor opera would win alone."""
    genres: dict[str, str | None] = {"baroque": "Klassik", "opera": "Klassik", "rock": "Rock"}
    decision = decide(logits_of(0.3, 0.3, 0.4), [0.0], rule_of(genres))
    assert decision.genre == "Klassik"
    assert decision.confidence == pytest.approx(0.6, abs=1e-6)


def test_at_most_the_best_candidates_are_kept() -> None:
    genres: dict[str, str | None] = {f"label {n}": f"genre {n}" for n in range(9)}
    decision = decide(np.arange(9, dtype=np.float32)[None], [0.0], rule_of(genres))
    assert [candidate.genre for candidate in decision.candidates] == [f"genre {n}" for n in (8, 7, 6, 5, 4)]
    assert len(decision.candidates) == TOP


def test_equal_candidates_come_in_the_order_of_their_names() -> None:
    decision = decide(np.zeros((1, 3), np.float32), [0.0], rule_of(threshold=0.3))
    assert [candidate.genre for candidate in decision.candidates] == ["classical", "jazz", "rock"]


# Abstaining


def test_a_probability_at_the_threshold_names_the_genre() -> None:
    decision = decide(np.float32([[0, 0, -200]]), [0.0], rule_of(threshold=0.5))
    assert decision.confidence == 0.5
    assert decision.genre == "classical"


def test_below_the_threshold_it_is_unsure() -> None:
    decision = decide(logits_of(0.1, 0.7, 0.2), [0.0], rule_of(threshold=0.71))
    assert decision.genre is None
    assert decision.abstention is Abstention.UNSURE
    assert decision.candidates[0].genre == "jazz"
    assert decision.threshold == 0.71


def test_each_genre_has_a_threshold_of_its_own() -> None:
    rule = rule_of(threshold=0.5, jazz=0.9)
    assert decide(logits_of(0.1, 0.7, 0.2), [0.0], rule).abstention is Abstention.UNSURE
    assert decide(logits_of(0.7, 0.1, 0.2), [0.0], rule).genre == "classical"


def test_a_track_of_a_genre_that_the_owner_has_not_is_not_pressed_into_another() -> None:
    genres: dict[str, str | None] = {"classical": "classical", "jazz": "jazz", "polka": None}
    decision = decide(logits_of(0.3, 0.2, 0.5), [0.0], rule_of(genres, threshold=0.1))
    assert decision.genre is None
    assert decision.abstention is Abstention.OUTSIDE_TAXONOMY
    assert decision.confidence == pytest.approx(0.3, abs=1e-6)


def test_what_is_outside_the_taxonomy_keeps_its_share() -> None:
    """0.4 jazz beside 0.3 + 0.3 of others: named by threshold, not blown up to 100 %."""
    genres: dict[str, str | None] = {"jazz": "jazz", "polka": None, "schlager": None}
    decision = decide(logits_of(0.4, 0.3, 0.3), [0.0], rule_of(genres, threshold=0.4 - 1e-6))
    assert decision.genre == "jazz"
    assert decision.candidates == (Candidate("jazz", pytest.approx(0.4, abs=1e-6)),)


def test_with_no_label_in_the_taxonomy_nothing_can_be_named() -> None:
    genres: dict[str, str | None] = {"polka": None, "schlager": None}
    decision = decide(logits_of(0.9, 0.1), [7.0], rule_of(genres))
    assert decision.abstention is Abstention.OUTSIDE_TAXONOMY
    assert decision.candidates == ()
    assert [vote.genre for vote in decision.votes] == ["polka"]


def test_a_track_without_an_audible_segment_is_silent() -> None:
    decision = decide(np.zeros((0, 3), np.float32), [], rule_of())
    assert (decision.genre, decision.abstention) == (None, Abstention.SILENT)
    assert (decision.confidence, decision.candidates, decision.votes) == (0.0, (), ())


def test_logits_that_are_no_numbers_name_nothing() -> None:
    decision = decide(np.float32([[0, 1, 2], [0, np.nan, 0]]), [0.0, 5.0], rule_of(threshold=0.0))
    assert decision.genre is None
    assert decision.abstention is Abstention.UNSURE


# What always holds


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, list[float], Rule]:
    labels = [f"label {n}" for n in range(draw(st.integers(2, 9)))]
    names = st.sampled_from(["A", "B", "C", "D", None])
    genres = {label: draw(names) for label in labels}
    thresholds = {genre: draw(st.floats(0, 1)) for genre in genres.values() if genre is not None}
    segments = draw(st.integers(0, 4))
    numbers = st.floats(-50, 50, width=32)
    rows = draw(
        st.lists(st.lists(numbers, min_size=len(labels), max_size=len(labels)), min_size=segments, max_size=segments)
    )
    logits = np.array(rows, np.float32).reshape(segments, len(labels))
    rule = Rule("b", tuple(labels), genres, draw(st.floats(0.1, 10)), thresholds)
    return logits, [float(n) for n in range(segments)], rule


@given(case=cases())
def test_probabilities_stay_probabilities_and_a_genre_is_named_or_the_reason_why_not(
    case: tuple[np.ndarray, list[float], Rule],
) -> None:
    logits, starts_s, rule = case
    decision = decide(logits, starts_s, rule)
    probabilities = [candidate.probability for candidate in decision.candidates]
    assert sum(probabilities) <= 1 + 1e-9
    assert all(0 <= probability <= 1 for probability in probabilities)
    assert probabilities == sorted(probabilities, reverse=True)
    assert (decision.genre is None) == (decision.abstention is not None)
    assert decision.confidence == (probabilities[0] if probabilities else 0.0)
    assert [vote.start_s for vote in decision.votes] == starts_s
    if decision.genre is not None:
        assert decision.genre == decision.candidates[0].genre
        assert decision.confidence >= decision.threshold == rule.thresholds[decision.genre]
