"""What a linear head on the untouched backbone makes of the judged tracks: what the training has to beat."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from trainer import rounds
from trainer.backbones import build
from trainer.head import fit_head
from trainer.plan import Plan
from trainer.tracks.clips import ClipStore
from trainer.tracks.manifest import Track
from trainer.writing import write_whole

_FILE = "untouched.json"


def call(
    tracks: Sequence[Track], labels: Sequence[str], plan: Plan, start: str, store: ClipStore, known: rounds.Known
) -> dict[Path, str]:
    """What a logistic regression on the backbone as `start` has it, every track counting alike, would call each track
    without having seen its fold; `known` as in `rounds.embeddings`."""
    backbone = build(plan.backbone, start).eval()
    embeddings = rounds.embeddings(backbone, tracks, store, plan, known)
    targets = np.array([labels.index(track.genre) for track in tracks])
    fold = np.array([track.fold for track in tracks])
    called: dict[Path, str] = {}
    for held_out in sorted(set(fold.tolist())):
        seen, judged = fold != held_out, np.flatnonzero(fold == held_out)
        head = fit_head(embeddings[seen], targets[seen].tolist(), len(labels), [1.0] * int(seen.sum()))
        best = head.logits(embeddings[judged]).argmax(1)
        called |= {
            tracks[place].path: labels[label] for place, label in zip(judged.tolist(), best.tolist(), strict=True)
        }
    return called


def save(called: Mapping[Path, str], run: Path) -> None:
    """Keep it in the run's folder.

    Raises:
        BadFile, TryLater: the disk is full or cannot be written.
    """
    told = [[os.fsdecode(path), genre] for path, genre in called.items()]
    write_whole(run / _FILE, json.dumps(told, ensure_ascii=True).encode())


def load(run: Path) -> dict[Path, str] | None:
    """What `save` kept; None where there was nothing to compare with."""
    try:
        return {Path(path): genre for path, genre in json.loads((run / _FILE).read_text(encoding="ascii"))}
    except FileNotFoundError:
        return None
