"""The training loop and its optimiser, on made rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from trainer.backbones.compact import Committee, Compact
from trainer.starter.distil import Plan, label_targets, train
from trainer.starter.muon import Muon, orthogonal
from trainer.starter.rows import Clips, Recipe, write_recipes

PLAN = replace(Plan(), steps=3, batch=4, crop_frames=64, width=8, embedding_dim=16)


def _rows(folds: list[int]) -> Clips:
    recipes = write_recipes(folds, speeds=1, mixes=1, seed=0)
    chance = np.random.default_rng(0)
    log_mel = chance.normal(size=(len(recipes), 100, 64)).astype(np.float16)
    return Clips(log_mel, np.zeros((len(recipes), 10, 0), np.float16), recipes)


def _train(clips: Clips, may_see: list[bool], seed: int = 0) -> Compact:
    return train(clips, [0, 1, -1, 0, 1, -1], 2, may_see, None, PLAN, seed, lambda step, of, loss: None)


def test_rows_of_held_out_tracks_are_never_looked_at() -> None:
    clips = _rows([0, 0, 0, 1, 1, 1])
    may_see = [False] * 3 + [True] * 3
    poisoned = clips.log_mel.copy()
    for row, recipe in enumerate(clips.recipes):
        if not may_see[recipe.first]:
            poisoned[row] = np.nan
    clean = _train(clips, may_see)
    same = _train(replace(clips, log_mel=poisoned), may_see)
    for ours, theirs in zip(clean.parameters(), same.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert torch.isfinite(ours).all()


def test_another_seed_gives_another_student() -> None:
    clips = _rows([0, 0, 0, 1, 1, 1])
    first, second = (_train(clips, [True] * 6, seed) for seed in (0, 1))
    assert not torch.equal(next(first.parameters()), next(second.parameters()))


def test_loss_is_reported_at_the_end() -> None:
    told: list[tuple[int, int, float]] = []
    clips = _rows([0, 0, 0, 1, 1, 1])
    train(clips, [0, 1, -1, 0, 1, -1], 2, [True] * 6, None, PLAN, 0, lambda *line: told.append(line))
    (line,) = told
    assert line[:2] == (3, 3)
    # Cross-entropy of two genres, halved by its weight, before anything is learnt.
    assert line[2] == pytest.approx(0.5 * np.log(2.0), abs=0.25)


def test_a_mix_is_called_by_the_share_of_each() -> None:
    mixes = ((0, -1, 0.0), (0, 1, 0.0), (1, 2, 6.0206))
    recipes = tuple(Recipe(first, second, quieter_db, (1, 1), (1, 1)) for first, second, quieter_db in mixes)
    clips = Clips(np.zeros((3, 10, 64), np.float16), np.zeros((3, 1, 0), np.float16), recipes)
    targets = label_targets(clips, [0, 1, -1], 2)
    assert targets[0].tolist() == [1.0, 0.0]
    assert targets[1].tolist() == [0.5, 0.5]
    assert targets[2] == pytest.approx([1 / 6, 5 / 6], abs=1e-4)


def test_committee_lays_its_students_end_to_end() -> None:
    torch.manual_seed(0)
    first, second = Compact(8, 16).eval(), Compact(8, 8).eval()
    committee = Committee([first, second]).eval()
    waveform = torch.randn(2, 16000)
    assert committee.embedding_dim == 24
    expected = torch.cat([first(waveform), second(waveform)], 1)
    assert torch.allclose(committee(waveform), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 32), (32, 8), (16, 16)])
def test_orthogonal_brings_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_muon_finds_the_bottom_of_a_bowl() -> None:
    wanted = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    weight = torch.zeros_like(wanted, requires_grad=True)
    optimiser = Muon([weight], lr=0.02, weight_decay=0.0)
    losses = []
    for _ in range(200):
        loss = (weight - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]
