"""Dealing out: no artist or album in two places, genres alike everywhere, and what is held out stays held out."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.tracks.manifest import NO_FOLD, Split
from trainer.tracks.split import Member, Place, Shares, deal, groups_of, keys_of, main_artist

GENRES = ("jazz", "pop", "rock")
TRAINED = (Split.TRAIN, Split.VALID)


@st.composite
def libraries(draw: st.DrawFn, most: int = 60) -> list[Member]:
    """Tracks of a few artists; an artist now and then plays another genre, and some are not named."""
    rows = draw(st.lists(st.tuples(st.integers(0, 20), st.sampled_from(GENRES), st.booleans()), max_size=most))
    return [
        Member(f"{number:02x}", genre, keys_of(f"artist {artist}" if named else "", ""))
        for number, (artist, genre, named) in enumerate(rows)
    ]


shares = st.builds(
    Shares,
    valid=st.sampled_from([0.0, 0.1, 0.2]),
    holdout=st.sampled_from([0.0, 0.1, 0.2]),
    folds=st.sampled_from([0, 2, 5]),
    seed=st.integers(0, 9),
)


def frozen_of(members: Sequence[Member], places: Sequence[Place]) -> dict[str, tuple[str, ...]]:
    pairs = zip(members, places, strict=True)
    return {member.id: member.keys for member, place in pairs if place.split is Split.HOLDOUT}


def before_of(members: Sequence[Member], places: Sequence[Place]) -> dict[str, Place]:
    return {member.id: place for member, place in zip(members, places, strict=True)}


# Groups


@given(libraries(), shares)
def test_no_group_is_in_two_places(members: list[Member], shares: Shares) -> None:
    found: dict[int, set[Place]] = defaultdict(set)
    for group, place in zip(groups_of([m.keys for m in members]), deal(members, shares), strict=True):
        found[group].add(place)
    assert all(len(places) == 1 for places in found.values())


@given(libraries(), shares)
def test_what_is_held_out_has_no_fold_and_all_else_has_one(members: list[Member], shares: Shares) -> None:
    folds = range(shares.folds) if shares.folds else [NO_FOLD]
    for place in deal(members, shares):
        assert place.fold in folds if place.split in TRAINED else place.fold == NO_FOLD


@given(libraries(), shares, st.randoms())
def test_the_order_of_the_tracks_does_not_matter(members: list[Member], shares: Shares, chance: random.Random) -> None:
    shuffled = list(members)
    chance.shuffle(shuffled)
    assert before_of(members, deal(members, shares)) == before_of(shuffled, deal(shuffled, shares))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("Nina Simone", "Pastel Blues"), ("NINA  SIMONE", "Wild Is the Wind")),
        (("Sigur Rós", "( )"), ("Sigur Rós feat. Amiina", "Takk")),
        (("A; B", ""), ("A", "")),
        (("", "Blue Train"), ("", "blue train")),
        (("First Violin", "Live", "The Quartet"), ("Second Violin", "Live", "The Quartet")),
        (("", "Takk", "Sigur Rós"), ("Sigur Rós", "")),
    ],
)
def test_one_artist_or_album_is_one_group(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert groups_of([keys_of(*one), keys_of(*other)]) == [0, 0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("Nina Simone", "Greatest Hits"), ("Queen", "Greatest Hits")),
        (("Nina Simone", "Now 42", "Various Artists"), ("Queen", "Now 42", "Various Artists")),
        (("Unknown Artist", ""), ("<unknown>", "")),
        (("群星", ""), ("VA", "")),
        (("", ""), ("", "")),
        (("", "Greatest Hits", "Queen"), ("", "Greatest Hits", "Abba")),
    ],
)
def test_tracks_with_nothing_in_common_are_no_group(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert groups_of([keys_of(*one), keys_of(*other)]) == [0, 1]


def test_groups_are_joined_across_what_they_share() -> None:
    assert groups_of([("a",), ("b",), ("c",), ("a", "x"), ("b", "x"), ()]) == [0, 0, 2, 0, 0, 5]


def test_an_artist_named_like_a_guest_is_still_an_artist() -> None:
    assert main_artist("Ft. Lauderdale") != ""


def test_two_members_of_one_id_are_refused() -> None:
    with pytest.raises(ValueError, match="same id"):
        deal([Member("a", "jazz"), Member("a", "rock")], Shares())


# Stratification


@given(libraries(200), st.integers(0, 9))
def test_each_genre_is_spread_as_evenly_as_its_artists_allow(members: list[Member], seed: int) -> None:
    """Where artists keep to one genre, no part is further from its share than the genre's largest artists explain."""
    pure = [Member(m.id, m.genre, (*(f"{key} of {m.genre}" for key in m.keys),)) for m in members]
    shares = Shares(valid=0.2, holdout=0.2, folds=5, seed=seed)
    places = deal(pure, shares)
    for genre in GENRES:
        mine = [(m, place) for m, place in zip(pure, places, strict=True) if m.genre == genre]
        largest = max(Counter(m.keys or (m.id,) for m, _ in mine).values(), default=0)
        wanted = {Split.TRAIN: 0.6 * len(mine), Split.VALID: 0.2 * len(mine), Split.HOLDOUT: 0.2 * len(mine)}
        got = Counter(place.split for _, place in mine)
        for split, share in wanted.items():
            assert abs(got[split] - share) <= 2 * largest
        folded = [place.fold for _, place in mine if place.fold != NO_FOLD]
        for fold in range(5):
            assert abs(folded.count(fold) - len(folded) / 5) <= 4 * largest


def test_single_tracks_are_dealt_out_exactly() -> None:
    members = [Member(f"{number:03}", GENRES[number % 2]) for number in range(200)]
    places = deal(members, Shares(valid=0.15, holdout=0.15, folds=5))
    for genre in GENRES[:2]:
        mine = [place for member, place in zip(members, places, strict=True) if member.genre == genre]
        assert Counter(place.split for place in mine) == {Split.TRAIN: 70, Split.VALID: 15, Split.HOLDOUT: 15}
        assert set(Counter(place.fold for place in mine if place.fold != NO_FOLD).values()) == {17}


def test_a_genre_of_one_artist_is_trained_on() -> None:
    members = [Member(f"j{n}", "jazz", ("artist a",)) for n in range(9)] + [Member(f"r{n}", "rock") for n in range(9)]
    places = before_of(members, deal(members, Shares()))
    assert {places[f"j{n}"].split for n in range(9)} == {Split.TRAIN}


def test_another_seed_deals_otherwise() -> None:
    members = [Member(f"{number:02}", "jazz") for number in range(40)]
    assert deal(members, Shares(seed=1)) == deal(members, Shares(seed=1))
    assert deal(members, Shares(seed=1)) != deal(members, Shares(seed=2))


# Growth


@given(libraries(80), st.integers(0, 80), shares)
def test_what_is_held_out_stays_so_as_the_set_grows(library: list[Member], cut: int, shares: Shares) -> None:
    old, new = library[:cut], library[cut:]
    first = deal(old, shares)
    frozen, before = frozen_of(old, first), before_of(old, first)
    now = before_of(library, deal(library, shares, before, frozen))
    # A set that was too small for a holdout gets one when it has grown.
    for member in old if frozen or not shares.holdout else ():
        assert now[member.id] == before[member.id]
    held = {key for keys in frozen.values() for key in keys}
    if frozen:
        for member in new:
            assert now[member.id].split is not Split.HOLDOUT
            assert (now[member.id].split is Split.RESERVED) == bool(held & set(member.keys))


@given(libraries(60), shares)
def test_what_was_held_out_and_went_away_comes_back_held_out(library: list[Member], shares: Shares) -> None:
    first = deal(library, shares)
    frozen, before = frozen_of(library, first), before_of(library, first)
    here = [member for member in library if member.id not in frozen]
    deal(here, shares, before, frozen)
    again = deal(library, shares, before_of(here, deal(here, shares, before, frozen)), frozen)
    assert frozen_of(library, again) == frozen or not frozen


def test_a_newcomer_by_an_artist_whose_held_out_tracks_are_away_is_reserved() -> None:
    places = deal([Member("new", "jazz", ("artist a",))], Shares(), {}, {"gone": ("artist a",)})
    assert places == [Place(Split.RESERVED)]


def test_a_newcomer_between_training_and_holdout_is_reserved_and_takes_nothing_along() -> None:
    members = [Member("old", "jazz", ("artist a",)), Member("held", "jazz", ("album x",))]
    bridge = Member("new", "jazz", ("artist a", "album x"))
    before = {"old": Place(Split.TRAIN, 2), "held": Place(Split.HOLDOUT)}
    places = deal([*members, bridge], Shares(), before, {"held": ("album x",)})
    assert places == [Place(Split.TRAIN, 2), Place(Split.HOLDOUT), Place(Split.RESERVED)]


def test_groups_that_grow_together_go_where_most_of_them_are() -> None:
    before = {"a": Place(Split.VALID, 0), "b": Place(Split.TRAIN, 1), "c": Place(Split.TRAIN, 1)}
    members = [Member(id, "jazz", ("artist x",)) for id in "abcd"]
    assert set(deal(members, Shares(holdout=0.0), before)) == {Place(Split.TRAIN, 1)}


def test_newcomers_go_to_the_smallest_fold() -> None:
    before = {str(number): Place(Split.TRAIN, number % 2) for number in range(8)}
    members = [*(Member(id, "jazz") for id in before), *(Member(f"new {n}", "jazz") for n in range(6))]
    places = deal(members, Shares(valid=0.0, holdout=0.0, folds=3), before)
    assert Counter(place.fold for place in places) == {0: 5, 1: 5, 2: 4}
    assert [place.fold for place in places[:8]] == [0, 1] * 4


# Folds that are given


def test_given_folds_are_kept_and_tracks_without_one_follow_their_group() -> None:
    members = [
        Member("a", "jazz", ("artist x",), fold=3),
        Member("b", "jazz", ("artist x",)),
        Member("c", "jazz", ("artist y",), fold=7),
        Member("d", "jazz", ("artist x",), fold=7),
        Member("e", "rock"),
    ]
    folds = [place.fold for place in deal(members, Shares(valid=0.0, holdout=0.0))]
    assert folds[:4] == [3, 3, 7, 7]
    assert folds[4] in (3, 7)


def test_a_holdout_cut_from_given_folds_leaves_them() -> None:
    members = [Member(f"{number:02}", "jazz", fold=number % 4) for number in range(20)]
    places = deal(members, Shares(valid=0.0, holdout=0.2))
    held = [place for place in places if place.split is Split.HOLDOUT]
    assert len(held) == 4
    for member, place in zip(members, places, strict=True):
        assert place.fold == (NO_FOLD if place.split is Split.HOLDOUT else member.fold)
