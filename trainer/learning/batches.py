"""Feeds training: random crops of the prepared clips, and the order in which tracks are drawn.

Both are pure functions of seeds, so that a run which was interrupted hears what it would have heard. Must never decode,
augment, or draw from a generator that others share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from daemon.core import segments
from trainer.tracks.clips import ClipStore, as_float
from trainer.tracks.manifest import Track

Key = tuple[int, int]

# How often another place is looked for where a crop turns out silent.
_TRIES = 4


class Crops(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """One random crop of a track per key `(index, seed)`: waveform float32 [samples] in [-1, 1], target int64 [] and
    index int64 []. A track that is shorter than the crop is repeated, from a random place on."""

    def __init__(self, store: ClipStore, tracks: Sequence[Track], targets: Sequence[int], samples: int) -> None:
        if len(tracks) != len(targets):
            raise ValueError(f"{len(tracks)} tracks and {len(targets)} targets")
        self.store, self.tracks, self.targets, self.samples = store, tuple(tracks), tuple(targets), samples

    def __len__(self) -> int:
        return len(self.tracks)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor, Tensor]:
        """The crop that this key stands for.

        Raises:
            BadFile, TryLater: its clips are gone and cannot be made again.
        """
        index, seed = key
        crop = torch.from_numpy(self._crop(index, seed))
        return crop, torch.tensor(self.targets[index]), torch.tensor(index)

    def _crop(self, index: int, seed: int) -> NDArray[np.float32]:
        pieces = self.store.pieces(self.tracks[index])
        chance = np.random.default_rng((seed, index))
        length = pieces.shape[1]
        for _ in range(_TRIES):
            piece = pieces[chance.integers(len(pieces))]
            if length >= self.samples:
                start = int(chance.integers(length - self.samples + 1))
                crop = as_float(piece[start : start + self.samples])
            else:
                crop = segments.tiled(np.roll(as_float(piece), -int(chance.integers(length))), self.samples)
            if segments.level_dbfs(crop) > segments.SILENCE_DBFS:
                break
        return crop


class BalancedSampler(Sampler[Key]):
    """Keys `(index, seed)` for `Crops`, as many per epoch as there are tracks, with a new seed each.

    A track is drawn in proportion to `count_of_its_genre ** -balance`: 0 draws every track once, 1 every genre equally
    often. `importance` (positive, one per track) shares a genre's draws out among its tracks; without it, all count
    alike. Draws are spread: of equal tracks none comes a second time in an epoch before all others of its genre came,
    and each genre's draws lie evenly over the epoch, so that batches resemble each other. What is drawn depends on
    `seed` and the epoch alone.
    """

    def __init__(
        self,
        targets: Sequence[int],
        labels: int,
        balance: float,
        seed: int,
        importance: Sequence[float] | None = None,
    ) -> None:
        if not targets:
            raise ValueError("no tracks to draw from")
        if not all(0 <= target < labels for target in targets):
            raise ValueError(f"a target is not among the {labels} labels")
        known = np.asarray(targets)
        self._members = [np.flatnonzero(known == label) for label in range(labels)]
        self._draws = quotas(np.array([len(members) for members in self._members]), balance)
        self._tracks, self._seed = len(targets), seed
        self._importance = np.ones(len(targets)) if importance is None else np.asarray(importance, float)
        self._epoch = self._skipped = 0

    def __len__(self) -> int:
        return self._tracks

    def set_epoch(self, epoch: int) -> None:
        """Draw this epoch from now on, from its start if it is another than before.

        `accelerate` calls this itself whenever its loader is iterated, with the number that the *loader* counts: tell
        the prepared loader (`loader.set_epoch`), which passes it on.
        """
        if epoch != self._epoch:
            self._epoch, self._skipped = epoch, 0

    def skip(self, items: int) -> None:
        """Start the present epoch `items` draws later (of all processes together); the next epochs are whole."""
        self._skipped = items

    def __iter__(self) -> Iterator[Key]:
        chance = np.random.default_rng((self._seed, self._epoch))
        drawn, places = [], []
        for members, draws in zip(self._members, self._draws, strict=True):
            drawn.append(_drawn(members, self._importance[members], int(draws), chance))
            places.append((np.arange(draws) + chance.random(draws)) / max(1, draws))
        order = np.argsort(np.concatenate(places), kind="stable")
        indices = np.concatenate(drawn)[order]
        seeds = chance.integers(2**63, size=len(indices))
        for index, seed in zip(indices[self._skipped :], seeds[self._skipped :], strict=True):
            yield int(index), int(seed)


def _drawn(
    members: NDArray[np.int64], importance: NDArray[np.float64], draws: int, chance: np.random.Generator
) -> NDArray[np.int64]:
    """`draws` of `members`, in random order: everyone's share by importance, rounded up or down."""
    if not len(members) or np.ptp(importance) == 0.0:
        rounds = -(-draws // max(1, len(members)))
        cycles = [chance.permutation(members) for _ in range(rounds)]
        return np.concatenate([*cycles, members[:0]])[:draws]
    # Systematic sampling (Madow 1949): one random start, then equal steps along the line of all shares.
    order = chance.permutation(len(members))
    ends = np.cumsum(importance[order]) / importance.sum() * draws
    marks = np.arange(draws) + chance.random()
    places = np.minimum(np.searchsorted(ends, marks, side="right"), len(members) - 1)
    return chance.permutation(members[order][places])


def quotas(counts: NDArray[np.int64], balance: float) -> NDArray[np.int64]:
    """How often each genre is drawn in an epoch of `counts.sum()` draws: in proportion to `count ** (1 - balance)`,
    rounded by largest remainders; a genre without tracks never."""
    shares = np.where(counts > 0, np.maximum(counts, 1) ** (1.0 - balance), 0.0)
    exact = counts.sum() * shares / shares.sum()
    whole: NDArray[np.int64] = np.floor(exact + 1e-9).astype(np.int64)
    rest = int(counts.sum() - whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[:rest]] += 1
    return whole
