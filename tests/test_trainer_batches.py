"""What training is fed: crops that a seed fixes, and an order that balances genres and can be gone on with."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from make_audio import encode, make, waveform
from torch.utils.data import DataLoader

from daemon.core import audio, segments
from trainer.learning.batches import BalancedSampler, Crops, quotas
from trainer.tracks.clips import ClipStore, as_float
from trainer.tracks.manifest import Track

RATE = 8000
CHECKOUT = Path(__file__).parents[1]


def track(path: Path) -> Track:
    return Track(path, "rock", audio_id=audio.audio_id(path))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    return ClipStore(tmp_path_factory.mktemp("clips"), RATE, stretch_s=2.0, most=3)


@pytest.fixture(scope="module")
def tracks(store: ClipStore) -> list[Track]:
    """A long, a short, and a very short one."""
    return [track(make(store.folder.parent / f"{seconds}.flac", seconds)) for seconds in (20.0, 4.0, 0.7)]


def crops(store: ClipStore, tracks: list[Track], samples: int = RATE) -> Crops:
    return Crops(store, tracks, list(range(len(tracks))), samples)


class TestCrops:
    def test_an_item_is_fixed_by_its_key_alone(self, store: ClipStore, tracks: list[Track]) -> None:
        one, other = crops(store, tracks), crops(store, tracks)
        first = one[0, 5][0]
        one[1, 5], one[0, 6]
        assert torch.equal(one[0, 5][0], first)
        assert torch.equal(other[0, 5][0], first)
        assert len({one[0, seed][0].numpy().tobytes() for seed in range(20)}) == 20

    def test_holds_sound_target_and_index(self, store: ClipStore, tracks: list[Track]) -> None:
        sound, target, index = Crops(store, tracks, [7, 8, 9], RATE)[1, 0]
        assert (sound.dtype, sound.shape) == (torch.float32, (RATE,))
        assert (target.dtype, target.shape, target.item()) == (torch.int64, (), 8)
        assert (index.dtype, index.shape, index.item()) == (torch.int64, (), 1)

    def test_is_cut_from_every_part_of_what_is_kept(self, store: ClipStore, tracks: list[Track]) -> None:
        data, pieces = crops(store, tracks), as_float(store.pieces(tracks[0]))
        found = []
        for seed in range(60):
            crop = data[0, seed][0].numpy()
            found += [
                (piece, int(start))
                for piece in range(len(pieces))
                for start in np.flatnonzero(pieces[piece, : RATE + 1] == crop[0])
                if np.array_equal(pieces[piece, start : start + RATE], crop)
            ]
        assert len(found) == 60
        assert {piece for piece, _ in found} == {0, 1, 2}
        assert min(start for _, start in found) < 0.1 * RATE
        assert max(start for _, start in found) > 0.9 * RATE

    def test_a_short_track_is_repeated_from_a_random_place(self, store: ClipStore, tracks: list[Track]) -> None:
        data, whole = crops(store, tracks), as_float(store.pieces(tracks[2]))[0]
        starts = set()
        for seed in range(10):
            crop = data[2, seed][0].numpy()
            assert np.array_equal(crop[: RATE - whole.size], crop[whole.size :])
            assert sorted(crop[: whole.size]) == sorted(whole)
            starts.add(float(crop[0]))
        assert len(starts) > 5

    def test_a_silent_place_is_avoided(self, store: ClipStore, tmp_path: Path) -> None:
        sound = waveform(6.0)
        sound[:, 44100:176400] = 0.0
        encode(tmp_path / "pause.flac", sound)
        data = crops(store, [track(tmp_path / "pause.flac")])
        levels = np.array([segments.level_dbfs(data[0, seed][0].numpy()) for seed in range(50)])
        # Two fifths of the places are silent, and four are tried.
        assert (levels < segments.SILENCE_DBFS).mean() < 0.15

    def test_as_many_targets_as_tracks_are_asked_for(self, store: ClipStore, tracks: list[Track]) -> None:
        with pytest.raises(ValueError, match="3 tracks and 2 targets"):
            Crops(store, tracks, [0, 1], RATE)


COUNTS = (40, 10, 3, 0, 1)
TARGETS = [label for label, count in enumerate(COUNTS) for _ in range(count)]


def drawn(sampler: BalancedSampler) -> Counter[int]:
    return Counter(TARGETS[index] for index, _ in sampler)


class TestQuotas:
    def test_without_balance_are_the_counts(self) -> None:
        assert quotas(np.array(COUNTS), 0.0).tolist() == list(COUNTS)

    def test_with_full_balance_are_equal_for_every_genre_that_has_tracks(self) -> None:
        assert sorted(quotas(np.array(COUNTS), 1.0).tolist()) == [0, 13, 13, 14, 14]

    def test_halfway_go_by_the_root(self) -> None:
        assert quotas(np.array([100, 25, 25, 4]), 0.5).tolist() == [70, 35, 35, 14]

    @pytest.mark.parametrize("balance", [0.0, 0.3, 0.5, 0.9, 1.0])
    def test_add_up_to_an_epoch(self, balance: float) -> None:
        random = np.random.default_rng(0)
        for _ in range(50):
            counts = random.integers(0, 1000, size=7)
            assert quotas(counts, balance).sum() == counts.sum()


class TestSampler:
    def test_draws_as_often_as_the_quotas_say(self) -> None:
        sampler = BalancedSampler(TARGETS, 5, 0.5, seed=1)
        assert len(sampler) == len(TARGETS) == len(list(sampler))
        assert [drawn(sampler)[label] for label in range(5)] == quotas(np.array(COUNTS), 0.5).tolist()

    def test_without_balance_draws_every_track_once(self) -> None:
        assert sorted(index for index, _ in BalancedSampler(TARGETS, 5, 0.0, seed=1)) == list(range(len(TARGETS)))

    def test_prolific_artists_are_drawn_less_often_and_nobody_is_left_out_for_long(self) -> None:
        importance = [0.25] * 8 + [1.0, 1.0]
        sampler = BalancedSampler([0] * 10, 1, 0.0, seed=1, importance=importance)
        drawn: Counter[int] = Counter()
        for epoch in range(40):
            sampler.set_epoch(epoch)
            once = Counter(index for index, _ in sampler)
            assert sum(once.values()) == 10
            # Two shares of four each for the last two tracks: 2.5 draws an epoch, rounded.
            assert all(once[index] in {2, 3} for index in (8, 9))
            drawn += once
        assert all(abs(drawn[index] - 40 * 10 * importance[index] / 4.0) <= 12 for index in range(10))

    def test_draws_no_track_again_before_all_others_of_its_genre(self) -> None:
        sampler = BalancedSampler(TARGETS, 5, 1.0, seed=1)
        for epoch in range(5):
            sampler.set_epoch(epoch)
            times: Counter[int] = Counter()
            for index, _ in sampler:
                times[index] += 1
                of_genre = [times[other] for other, target in enumerate(TARGETS) if target == TARGETS[index]]
                assert max(of_genre) - min(of_genre) <= 1

    def test_spreads_each_genre_over_the_epoch(self) -> None:
        targets = [0] * 300 + [1] * 100
        order = [targets[index] for index, _ in BalancedSampler(targets, 2, 0.0, seed=3)]
        for quarter in np.array_split(np.array(order), 4):
            assert abs(int(quarter.sum()) - 25) <= 1

    def test_the_order_is_fixed_by_seed_and_epoch(self) -> None:
        def keys(seed: int, epoch: int) -> list[tuple[int, int]]:
            sampler = BalancedSampler(TARGETS, 5, 0.5, seed)
            sampler.set_epoch(epoch)
            return list(sampler)

        assert keys(1, 2) == keys(1, 2)
        assert [index for index, _ in keys(1, 2)] != [index for index, _ in keys(1, 3)]
        assert [index for index, _ in keys(1, 2)] != [index for index, _ in keys(2, 2)]

    def test_every_draw_has_a_seed_of_its_own(self) -> None:
        sampler = BalancedSampler(TARGETS, 5, 1.0, seed=1)
        seeds = [seed for _, seed in sampler]
        sampler.set_epoch(1)
        seeds += [seed for _, seed in sampler]
        assert len(set(seeds)) == len(seeds)

    def test_an_epoch_can_be_gone_on_with(self) -> None:
        sampler = BalancedSampler(TARGETS, 5, 0.5, seed=1)
        sampler.set_epoch(3)
        whole = list(sampler)
        sampler.skip(20)
        assert list(sampler) == whole[20:]
        sampler.set_epoch(3)
        assert list(sampler) == whole[20:]
        sampler.set_epoch(4)
        assert len(list(sampler)) == len(TARGETS)

    def test_wrong_targets_are_refused(self) -> None:
        with pytest.raises(ValueError, match="no tracks"):
            BalancedSampler([], 2, 0.5, seed=0)
        with pytest.raises(ValueError, match="2 labels"):
            BalancedSampler([0, 2], 2, 0.5, seed=0)


# What two processes that train one model hear, told as JSON by each.
SCRIPT = """
import json, sys
from pathlib import Path
from accelerate import Accelerator
from torch.utils.data import DataLoader
from daemon.core import audio
from trainer.learning.batches import BalancedSampler, Crops
from trainer.tracks.clips import ClipStore
from trainer.tracks.manifest import Track

folder = Path(sys.argv[1])
tracks = [Track(path, "rock", audio_id=audio.audio_id(path)) for path in sorted(folder.glob("*.flac"))]
accelerator = Accelerator(cpu=True)
sampler = BalancedSampler([0, 0, 0, 0, 0, 0, 1, 1, 1], 2, 1.0, seed=5)
data = Crops(ClipStore(folder, 8000, stretch_s=2.0, most=3), tracks, [0] * 9, 800)
loader = accelerator.prepare(DataLoader(data, batch_size=2, sampler=sampler, drop_last=True))
heard = {}
for epoch, skip in ((0, 0), (1, 0), (1, 4)):
    loader.set_epoch(epoch)
    sampler.skip(skip)
    heard[f"{epoch}+{skip}"] = [[index.tolist(), sound.sum(1).tolist()] for sound, _, index in loader]
(folder / f"heard-{accelerator.process_index}.json").write_text(json.dumps(heard))
accelerator.end_training()
"""


class TestUnderAccelerate:
    def test_one_process_hears_the_sampler_s_order(self, store: ClipStore, tracks: list[Track]) -> None:
        sampler = BalancedSampler([0, 0, 1], 2, 0.5, seed=5)
        data = crops(store, tracks)
        loader = Accelerator(cpu=True).prepare(DataLoader(data, batch_size=2, sampler=sampler))
        for epoch in (4, 5):
            loader.set_epoch(epoch)
            heard = [sound for sounds, _, _ in loader for sound in sounds]
            expected = BalancedSampler([0, 0, 1], 2, 0.5, seed=5)
            expected.set_epoch(epoch)
            keys = list(expected)
            assert len(heard) == len(keys) == 3
            assert all(torch.equal(sound, data[key][0]) for sound, key in zip(heard, keys, strict=True))

    @pytest.mark.slow
    def test_worker_processes_hear_the_same(self, store: ClipStore, tracks: list[Track]) -> None:
        sampler, data = BalancedSampler([0, 0, 1], 2, 0.5, seed=5), crops(store, tracks)
        plain = [sounds for sounds, _, _ in DataLoader(data, batch_size=1, sampler=sampler)]
        # Not forked, as a process with threads should not be.
        loader = DataLoader(data, batch_size=1, sampler=sampler, num_workers=1, multiprocessing_context="spawn")
        fed = [sounds for sounds, _, _ in Accelerator(cpu=True).prepare(loader)]
        assert len(fed) == len(plain)
        assert all(torch.equal(one, other) for one, other in zip(fed, plain, strict=True))

    @pytest.mark.slow
    def test_two_processes_share_an_epoch(self, tmp_path: Path) -> None:
        for seed in range(9):
            make(tmp_path / f"{seed}.flac", 1.0, seed)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
        shared |= {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
        runs = [
            subprocess.Popen(
                [sys.executable, "-c", SCRIPT, str(tmp_path)],
                env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stderr=subprocess.PIPE,
            )
            for rank in range(2)
        ]
        for run in runs:
            assert run.communicate(timeout=120)[1] is not None
            assert run.returncode == 0
        heard = [json.loads((tmp_path / f"heard-{rank}.json").read_text()) for rank in range(2)]
        sampler = BalancedSampler([0, 0, 0, 0, 0, 0, 1, 1, 1], 2, 1.0, seed=5)
        for epoch in (0, 1):
            sampler.set_epoch(epoch)
            order = [index for index, _ in sampler]
            batches = [order[start : start + 2] for start in range(0, 8, 2)]
            for rank in range(2):
                assert [indices for indices, _ in heard[rank][f"{epoch}+0"]] == batches[rank::2]
        # Gone on with after the first batch of both.
        assert all(heard[rank]["1+4"] == heard[rank]["1+0"][1:] for rank in range(2))
