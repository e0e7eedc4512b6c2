"""Measures students on tracks that they never saw, through the very windows that the daemon will hear.

Owns embedding of tracks and out-of-fold outputs; must never train a student or choose a threshold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.backbones.compact import Committee
from trainer.head import Head, fit_head
from trainer.starter.rows import Clips

Array = NDArray[np.float32]

# Tracks played faster or slower are further views of the same recording: they count, but less than the recording.
VARIED_IMPORTANCE = 0.5

# A few tracks of other genres stand for all the music that the bundle will not know.
UNKNOWN_IMPORTANCE = 2.0


@dataclass(frozen=True, slots=True)
class Served:
    """Every track as the daemon will hear it: `windows[track]` is log-mel float32 [count, bands, frames]."""

    windows: Sequence[Array]


def embed_tracks(committee: Committee, served: Served) -> Array:
    """The mean embedding of each track over its windows, float32 [tracks, dim]."""
    with torch.inference_mode():
        means = [committee.embed(torch.from_numpy(windows)).mean(0).numpy() for windows in served.windows]
    return np.stack(means)


def embed_rows(committee: Committee, clips: Clips, rows: Sequence[int], frames: int) -> Array:
    """The mean embedding of `rows` of `clips` over adjoining windows of `frames` frames, float32 [rows, dim]."""
    means = []
    with torch.inference_mode():
        for row in rows:
            image = torch.from_numpy(clips.log_mel[row].astype(np.float32)).T
            whole = image.shape[1] // frames * frames
            windows = image[:, :whole].reshape(image.shape[0], -1, frames).transpose(0, 1)
            means.append(committee.embed(windows).mean(0).numpy())
    return np.stack(means) if means else np.zeros((0, committee.embedding_dim), np.float32)


def fit_on(
    committee: Committee, served: Served, clips: Clips, labels: Sequence[int], genres: int, may_see: Sequence[bool]
) -> tuple[Head, Array]:
    """A head for `committee` from the tracks that it `may_see`, and the embeddings [tracks, dim] of all tracks."""
    embeddings = embed_tracks(committee, served)
    tracks = [track for track, fine in enumerate(may_see) if fine]
    varied = [
        row
        for row, recipe in enumerate(clips.recipes)
        if recipe.second < 0 and recipe.speed != (1, 1) and may_see[recipe.first]
    ]
    views = embed_rows(committee, clips, varied, served.windows[0].shape[2])
    called = [labels[track] for track in tracks] + [labels[clips.recipes[row].first] for row in varied]
    importance = [1.0] * len(tracks) + [VARIED_IMPORTANCE] * len(varied)
    importance = [
        weight * (UNKNOWN_IMPORTANCE if label < 0 else 1.0) for weight, label in zip(importance, called, strict=True)
    ]
    return fit_head(np.concatenate([embeddings[tracks], views]), called, genres, importance), embeddings


def out_of_fold(
    committees: Mapping[int, Committee],
    served: Served,
    clips: Clips,
    labels: Sequence[int],
    folds: Sequence[int],
    genres: int,
) -> Array:
    """Logits float32 [tracks, genres], each track judged by the committee of its fold, which never saw that fold."""
    logits = np.zeros((len(labels), genres), np.float32)
    for fold, committee in committees.items():
        head, embeddings = fit_on(committee, served, clips, labels, genres, [other != fold for other in folds])
        held_out = np.asarray(folds) == fold
        logits[held_out] = head.logits(embeddings[held_out])
    return logits
