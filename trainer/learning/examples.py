"""Shows what a plan's augmentation does to some tracks. Must never train, and leaves the generators as they were."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from trainer.backbones.contract import Backbone
from trainer.learning.augment import disturb, mask, mix
from trainer.learning.batches import Crops
from trainer.plan import Plan


def examples(
    backbone: Backbone, crops: Crops, labels: tuple[str, ...], plan: Plan, count: int = 3
) -> tuple[NDArray[np.float32], list[str]]:
    """`count` crops of different genres (as far as there are) as the front end pictures them, each as it is and as it
    would be trained on: float32 [2 * count, bands, frames] and a name for each."""
    first = {target: index for index, target in reversed(list(enumerate(crops.targets)))}
    chosen = [first[target] for target in sorted(first)][:: -(-len(first) // count)] if first else []
    items = [crops[index, plan.seed] for index in chosen]
    device = next((weight.device for weight in backbone.parameters()), torch.device("cpu"))
    waveform = torch.stack([sound for sound, _, _ in items]).to(device)
    targets = functional.one_hot(torch.stack([target for _, target, _ in items]), len(labels)).float().to(device)
    with torch.inference_mode(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(plan.seed)
        mixed, wanted = mix(disturb(waveform, plan), targets, plan.mixup)
        pictures = torch.stack([backbone.front(waveform), mask(backbone.front(mixed), plan)], 1).flatten(0, 1)
    names = [
        name
        for row, share in zip(targets, wanted, strict=True)
        for name in (labels[int(row.argmax())], _told(share.tolist(), labels))
    ]
    return pictures.float().cpu().numpy(), names


def _told(shares: list[float], labels: tuple[str, ...]) -> str:
    parts = sorted(((share, label) for share, label in zip(shares, labels, strict=True) if share > 0.005), reverse=True)
    return "trained on: " + " + ".join(f"{share:.0%} {label}" for share, label in parts)
