"""Deals tracks out to training, validation, holdout and folds. Pure: it reads no file, and chance is a seed.

Tracks of one artist, or of one album, sound alike beyond their genre (Pampalk, Flexer & Widmer, ISMIR 2005; Flexer &
Schnitzer, CMJ 2010), so that whoever trains on one and judges on another flatters the model. They form a group, and a
group goes to one place as a whole. Groups are dealt out greedily, the largest first, each to the place that lacks its
genres most (as StratifiedGroupKFold of scikit-learn does with folds, here with places of unequal size).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from daemon.core.taxonomy import normal_form
from trainer.tracks.manifest import NO_FOLD, Split

# Who stands in for an artist that is not named: such tracks have nothing in common.
_NOBODY = frozenset(
    normal_form(name)
    for name in (
        *("various", "various artists", "various artist", "va", "v.a.", "v/a", "unknown", "unknown artist"),
        *("<unknown>", "[unknown]", "no artist", "n/a", "none", "diverse", "divers", "artistes divers"),
        *("verschiedene", "verschiedene interpreten", "verschiedene künstler", "diverse interpreten", "varios"),
        *("varios artistas", "vários", "vários artistas", "artisti vari", "aa.vv.", "vv.aa.", "разные исполнители"),
        *("неизвестный исполнитель", "群星", "合輯", "合辑", "ヴァリアス アーティスト", "オムニバス", "여러 아티스트"),
    )
)
# A guest makes no other artist. FFmpeg joins several artists with ";".
_GUESTS = re.compile(r"\s*(?:;|[(\[]?\b(?:feat|ft|featuring)\b[. ]).*", re.IGNORECASE | re.DOTALL)

Where = TypeVar("Where", Split, int)


@dataclass(frozen=True, slots=True)
class Member:
    """A track, as far as a split cares. `keys` are what it shares with its group; `fold` is -1 where none is given."""

    id: str
    genre: str
    keys: tuple[str, ...] = ()
    fold: int = NO_FOLD


@dataclass(frozen=True, slots=True)
class Place:
    """Where a track went; `fold` is -1 for what is kept out of cross-validation, the holdout above all."""

    split: Split
    fold: int = NO_FOLD


@dataclass(frozen=True, slots=True)
class Shares:
    """How much goes where, as shares of all tracks of each genre; the same `seed` deals the same way."""

    valid: float = 0.15
    holdout: float = 0.15
    folds: int = 5
    seed: int = 0


def main_artist(artist: str) -> str:
    """The form in which artists are compared, without guests; empty for one that is not named."""
    form = normal_form(_GUESTS.sub("", artist) or artist)
    return "" if form in _NOBODY else form


def keys_of(artist: str, album: str, album_artist: str = "") -> tuple[str, ...]:
    """What puts a track into one group with others: its artist, and its album.

    An album is known by its title and its artist. One of various artists joins only the tracks on it that name none of
    their own: else a few compilations would tie a whole library together.
    """
    of_album = main_artist(album_artist)
    who = main_artist(artist) or of_album
    keys = [f"artist {who}"] if who else []
    if normal_form(album) and (of_album or not who):
        keys.append(f"album {normal_form(album)} by {of_album}")
    return tuple(keys)


def groups_of(keys: Sequence[Collection[str]]) -> list[int]:
    """For each track the number of its group, that of the first track in it: whoever shares a key shares a group."""
    leader = list(range(len(keys)))

    def lead(index: int) -> int:
        while leader[index] != index:
            leader[index] = leader[leader[index]]
            index = leader[index]
        return index

    first: dict[str, int] = {}
    for index, own in enumerate(keys):
        for key in own:
            one, other = sorted((lead(first.setdefault(key, index)), lead(index)))
            leader[other] = one
    return [lead(index) for index in range(len(keys))]


def deal(
    members: Sequence[Member],
    shares: Shares,
    before: Mapping[str, Place] | None = None,
    frozen: Mapping[str, Collection[str]] | None = None,
) -> list[Place]:
    """Where each of `members` goes, whatever their order.

    `frozen` are the ids that were ever held out, with their keys: they stay so, also those that are not here now, and
    what joins their groups later is RESERVED. `before` is where tracks went the last time: their groups stay there (a
    group that has grown together out of several, where most of it is), and others are dealt out around them. As long
    as nothing is frozen, a holdout of `shares.holdout` is dealt out of all groups, wherever they went before; their
    folds stay. A given fold is kept.

    Raises:
        ValueError: two members have the same id.
    """
    ids = {member.id for member in members}
    if len(ids) != len(members):
        raise ValueError("two members have the same id")
    held = dict(frozen or {})
    known = dict(before or {}) if held or not shares.holdout else {}
    absent = [keys for id, keys in held.items() if id not in ids]
    numbers = groups_of([*(member.keys for member in members), *absent])
    thawed = _gather(members, numbers)
    touched = {number for member, number in zip(members, numbers, strict=False) if member.id in held}
    touched |= set(numbers[len(members) :])

    splits: dict[str, Split] = {}
    for number in touched & thawed.keys():
        for member in thawed[number]:
            splits[member.id] = Split.HOLDOUT if member.id in held else _stayed(known.get(member.id))
    free = [group for number, group in thawed.items() if number not in touched]
    wanted = {Split.VALID: shares.valid, Split.HOLDOUT: 0.0 if held else shares.holdout}
    wanted = {Split.TRAIN: 1.0 - sum(wanted.values())} | {split: share for split, share in wanted.items() if share}
    splits |= _deal_out(free, wanted, lambda member: _of(known, member.id), shares.seed, "split")
    folds = _fold(members, numbers, splits, shares, before or {})
    return [Place(splits[member.id], folds.get(member.id, NO_FOLD)) for member in members]


def _gather(members: Iterable[Member], numbers: Iterable[int]) -> dict[int, list[Member]]:
    gathered: dict[int, list[Member]] = defaultdict(list)
    for member, number in zip(members, numbers, strict=False):
        gathered[number].append(member)
    return gathered


def _stayed(place: Place | None) -> Split:
    """What a track in the holdout's group becomes: what was trained on before cannot be unheard."""
    return place.split if place is not None and place.split in (Split.TRAIN, Split.VALID) else Split.RESERVED


def _of(known: Mapping[str, Place], id: str) -> Split | None:
    place = known.get(id)
    return place.split if place is not None and place.split in (Split.TRAIN, Split.VALID) else None


def _fold(
    members: Sequence[Member],
    numbers: Sequence[int],
    splits: Mapping[str, Split],
    shares: Shares,
    before: Mapping[str, Place],
) -> dict[str, int]:
    """The folds of all tracks that may be trained on."""
    trained = [
        (member, number)
        for member, number in zip(members, numbers, strict=False)
        if splits[member.id] in (Split.TRAIN, Split.VALID)
    ]
    given = {member.fold for member, _ in trained} - {NO_FOLD}
    folds = sorted(given) or list(range(shares.folds))
    if len(folds) < 2:
        return {member.id: member.fold for member, _ in trained}

    def settled(member: Member) -> int | None:
        if member.fold != NO_FOLD:
            return member.fold
        place = before.get(member.id)
        return place.fold if place is not None and place.fold in folds else None

    groups = _gather(*zip(*trained, strict=True)).values() if trained else []
    dealt = _deal_out(groups, dict.fromkeys(folds, 1.0 / len(folds)), settled, shares.seed, "fold")
    return dealt | {member.id: member.fold for member, _ in trained if member.fold != NO_FOLD}


def _deal_out(
    groups: Collection[Sequence[Member]],
    wanted: Mapping[Where, float],
    settled: Callable[[Member], Where | None],
    seed: int,
    purpose: str,
) -> dict[str, Where]:
    """The place of every member of `groups`; places are to hold their `wanted` shares of each genre.

    A group goes to the place p for which the sum over genres of (tracks there - tracks wanted there)^2 / tracks of the
    genre grows least.
    """
    totals = Counter(member.genre for group in groups for member in group)
    have: dict[Where, Counter[str]] = {where: Counter() for where in wanted}
    found: dict[str, Where] = {}

    def put(group: Sequence[Member], where: Where) -> None:
        have.setdefault(where, Counter()).update(member.genre for member in group)
        found.update((member.id, where) for member in group)

    def cost(genres: Counter[str], where: Where) -> float:
        return sum(
            count * (2.0 * (have[where][genre] - wanted[where] * totals[genre]) + count) / totals[genre]
            for genre, count in genres.items()
        )

    new: list[Sequence[Member]] = []
    for group in groups:
        old = Counter(where for member in group if (where := settled(member)) is not None)
        if old:
            put(group, min(old, key=lambda where: (-old[where], where)))
        else:
            new.append(group)
    # By what they are, not by where they stand: another order of the tracks, or more of them, shuffles nothing.
    for group in sorted(new, key=lambda group: (-len(group), _chance(seed, purpose, group))):
        genres = Counter(member.genre for member in group)
        put(group, min(wanted, key=lambda where: (round(cost(genres, where), 9), sum(have[where].values()))))
    return found


def _chance(seed: int, purpose: str, group: Sequence[Member]) -> bytes:
    first = min(member.id for member in group)
    return hashlib.sha256(f"{seed} {purpose} {first}".encode("utf-8", "surrogateescape")).digest()
