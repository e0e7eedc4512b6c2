"""Which genres a file shall carry, and what counts as the owner's correction."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.bundle import Manifest
from daemon.core.config import Inside, Missing, Outside, Tagging, Thresholds
from daemon.core.records import Abstention, Candidate, Decision
from daemon.core.rule import decision_rule
from daemon.core.taxonomy import Genre, Taxonomy
from daemon.rules import correct, policy
from daemon.rules.policy import Leave, Write, plan

TAXONOMY = Taxonomy(
    [Genre("Jazz", aliases=("ジャズ", "jazz music")), Genre("Rock", aliases=("Rock & Roll",)), Genre("Hip-Hop")]
)
ROCK = Decision("Rock", 0.9, 0.7, (Candidate("Rock", 0.9),), (), "b", None)
UNSURE = Decision(None, 0.5, 0.7, (Candidate("Rock", 0.5),), (), "b", Abstention.UNSURE)

settings_of_every_kind = [
    Tagging(missing=missing, outside=outside, inside=inside)
    for missing, outside, inside in itertools.product(Missing, Outside, Inside)
]
genre_lists = st.lists(
    st.sampled_from(["Rock", "rock & roll", "Jazz", "ジャズ", "hip hop", "Polka", "VGM", "", "  ", "Polka "]),
    max_size=4,
)


def tagging(missing: Missing = Missing.WRITE, outside: Outside = Outside.KEEP, inside: Inside = Inside.KEEP) -> Tagging:
    return Tagging(missing=missing, outside=outside, inside=inside)


def planned(
    present: Sequence[str], settings: Tagging, decision: Decision = ROCK, owner: Sequence[str] = ()
) -> tuple[str, ...] | str:
    """The genres to write, or why the file is left."""
    result = plan(present, decision, owner, settings, TAXONOMY)
    return result.genres if isinstance(result, Write) else result.reason


# A file without a genre


@pytest.mark.parametrize("present", [(), ("",), ("  ", "")])
@pytest.mark.parametrize("settings", settings_of_every_kind)
def test_a_missing_genre_is_written_or_left(present: tuple[str, ...], settings: Tagging) -> None:
    expected = ("Rock",) if settings.missing is Missing.WRITE else "files without a genre are left so"
    assert planned(present, settings) == expected


# A file with genres outside the taxonomy


@pytest.mark.parametrize(
    ("outside", "expected"),
    [
        (Outside.KEEP, "has a genre outside the taxonomy"),
        (Outside.APPEND, ("Polka", "VGM", "Rock")),
        (Outside.REPLACE, ("Rock",)),
    ],
)
@pytest.mark.parametrize(("missing", "inside"), list(itertools.product(Missing, Inside)))
def test_foreign_genres_are_kept_added_to_or_replaced(
    outside: Outside, expected: object, missing: Missing, inside: Inside
) -> None:
    assert planned(("Polka", "VGM"), tagging(missing, outside, inside)) == expected


# A file with genres of the taxonomy


@pytest.mark.parametrize("settings", settings_of_every_kind)
@pytest.mark.parametrize("present", [("Rock",), ("rock",), ("Rock & Roll",), ("Jazz", "Rock"), ("Polka", "ROCK")])
def test_a_genre_that_is_right_already_is_left(present: tuple[str, ...], settings: Tagging) -> None:
    assert planned(present, settings) == "already right"


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (("Jazz",), ("Rock",)),
        (("jazz music",), ("Rock",)),
        (("Polka", "Jazz", "VGM"), ("Polka", "Rock", "VGM")),
        (("Jazz", "Hip Hop"), ("Rock",)),
        (("Jazz", "Polka", "ジャズ"), ("Rock", "Polka")),
    ],
)
@pytest.mark.parametrize(("missing", "outside"), list(itertools.product(Missing, Outside)))
def test_a_known_genre_is_kept_or_replaced_in_its_place(
    present: tuple[str, ...], expected: tuple[str, ...], missing: Missing, outside: Outside
) -> None:
    assert planned(present, tagging(missing, outside, Inside.KEEP)) == "has a genre"
    assert planned(present, tagging(missing, outside, Inside.REPLACE)) == expected


# The owner and the doubt


@pytest.mark.parametrize("settings", settings_of_every_kind)
@pytest.mark.parametrize("decision", [ROCK, UNSURE])
@pytest.mark.parametrize("present", [("Polka",), ("Jazz",), ("Rock",)])
def test_the_owners_label_outranks_the_model(settings: Tagging, decision: Decision, present: tuple[str, ...]) -> None:
    assert planned(present, settings, decision, owner=("Jazz",)) == "the owner's label"


@pytest.mark.parametrize("decision", [ROCK, UNSURE])
def test_another_copy_without_a_genre_gets_the_owners_label(decision: Decision) -> None:
    assert planned((), tagging(), decision, owner=("Polka", "ジャズ")) == ("Polka", "ジャズ")


def test_where_missing_genres_are_left_the_owners_label_is_not_written_either() -> None:
    assert planned((), tagging(missing=Missing.LEAVE), owner=("Jazz",)) == "files without a genre are left so"


@given(
    present=genre_lists, settings=st.sampled_from(settings_of_every_kind), abstention=st.sampled_from(list(Abstention))
)
def test_nothing_is_written_where_the_bundle_abstains(
    present: list[str], settings: Tagging, abstention: Abstention
) -> None:
    decision = Decision(None, 0.5, 0.7, (Candidate("Rock", 0.5),), (), "b", abstention)
    assert isinstance(plan(present, decision, (), settings, TAXONOMY), Leave)


# What always holds


@given(present=genre_lists, settings=st.sampled_from(settings_of_every_kind))
def test_no_foreign_genre_is_lost_unless_replacing_was_asked_for(present: list[str], settings: Tagging) -> None:
    result = plan(present, ROCK, (), settings, TAXONOMY)
    foreign = list(policy.tidy([genre for genre in present if TAXONOMY.resolve(genre) is None]))
    if isinstance(result, Write):
        kept = [genre for genre in result.genres if TAXONOMY.resolve(genre) is None]
        known = any(TAXONOMY.resolve(genre) for genre in present)
        assert kept == foreign or (settings.outside is Outside.REPLACE and not known)
        assert "Rock" in result.genres


@given(present=genre_lists, settings=st.sampled_from(settings_of_every_kind))
def test_what_was_written_is_left_alone_from_then_on(present: list[str], settings: Tagging) -> None:
    result = plan(present, ROCK, (), settings, TAXONOMY)
    if isinstance(result, Write):
        assert plan(result.genres, ROCK, (), settings, TAXONOMY) == Leave("already right")


@given(present=genre_lists, settings=st.sampled_from(settings_of_every_kind))
def test_what_is_written_can_stand_in_a_tag(present: list[str], settings: Tagging) -> None:
    result = plan(present, ROCK, (), settings, TAXONOMY)
    if isinstance(result, Write):
        assert result.genres
        assert all(genre == genre.strip() != "" for genre in result.genres)
        assert len(set(result.genres)) == len(result.genres)


# How a bundle's outputs become decisions


def manifest(labels: Sequence[str], thresholds: Sequence[float]) -> Manifest:
    member = {"name": "m", "encoder": "m.onnx", "head": "m.npz", "sample_rate_hz": 16_000, "window_s": 5.0}
    return Manifest.model_validate(
        {
            "format_version": 1,
            "id": "b-1",
            "labels": list(labels),
            "taxonomy_hash": "0" * 64,
            "members": [member | {"embedding_dim": 3}],
            "decision": {
                "temperature": 1.5,
                "thresholds": dict(zip(labels, thresholds, strict=True)),
                "segments": 3,
            },
            "metrics": {},
            "training_data": {},
            "licence": "CC0-1.0",
            "provenance": {},
            "files": {},
        }
    )


def test_labels_are_the_owners_genres_or_none_of_them() -> None:
    rule = decision_rule(manifest(["rock", "ジャズ", "polka"], [0.5, 0.6, 0.7]), TAXONOMY, Thresholds())
    assert rule.genres == {"rock": "Rock", "ジャズ": "Jazz", "polka": None}
    assert rule.thresholds == {"Rock": 0.5, "Jazz": 0.6}
    assert (rule.bundle, rule.labels, rule.temperature) == ("b-1", ("rock", "ジャズ", "polka"), 1.5)


def test_the_strictest_threshold_of_joined_labels_holds() -> None:
    rule = decision_rule(manifest(["rock", "rock & roll"], [0.5, 0.8]), TAXONOMY, Thresholds())
    assert rule.thresholds == {"Rock": 0.8}


def test_a_genres_own_threshold_outranks_the_configs_and_that_the_bundles() -> None:
    taxonomy = Taxonomy([Genre("Jazz", threshold=0.95), Genre("Rock")])
    labels = manifest(["jazz", "rock"], [0.5, 0.6])
    assert decision_rule(labels, taxonomy, Thresholds()).thresholds == {"Jazz": 0.95, "Rock": 0.6}
    assert decision_rule(labels, taxonomy, Thresholds(default=0.1)).thresholds == {"Jazz": 0.95, "Rock": 0.1}


def test_a_threshold_of_nought_is_a_threshold() -> None:
    taxonomy = Taxonomy([Genre("Jazz", threshold=0.0), Genre("Rock")])
    labels = manifest(["jazz", "rock"], [0.5, 0.6])
    assert decision_rule(labels, taxonomy, Thresholds(default=0.0)).thresholds == {"Jazz": 0.0, "Rock": 0.0}


# Corrections


@pytest.mark.parametrize("genres", [(), ("Rock",), ("Polka", "Rock")])
def test_a_file_as_it_was_is_no_correction(genres: tuple[str, ...]) -> None:
    assert correct.recognise(genres, genres, TAXONOMY) is None


@pytest.mark.parametrize(
    ("present", "genre"),
    [
        (("Jazz",), "Jazz"),
        (("ジャズ",), "Jazz"),
        (("Polka",), None),
        (("Polka", "hip hop", "Jazz"), "Hip-Hop"),
        (("Jazz", "Rock"), "Jazz"),
    ],
)
def test_other_genres_than_last_seen_are_the_owners_word(present: tuple[str, ...], genre: str | None) -> None:
    assert correct.recognise(("Rock",), present, TAXONOMY) == correct.Correction(present, genre)


def test_a_genre_given_to_a_file_without_one_is_a_correction() -> None:
    assert correct.recognise((), ["Rock"], TAXONOMY) == correct.Correction(("Rock",), "Rock")


def test_another_order_is_a_correction() -> None:
    """Most players show the first genre only."""
    assert correct.recognise(("Rock", "Jazz"), ("Jazz", "Rock"), TAXONOMY) is not None


@pytest.mark.parametrize("emptied", [(), ("",), (" ", "")])
def test_an_emptied_genre_is_no_label(emptied: tuple[str, ...]) -> None:
    assert correct.recognise(("Rock",), emptied, TAXONOMY) is None
