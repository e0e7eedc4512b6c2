"""One model from start to bundle: which tracks it learns from, which it is judged on, and every step between.

Each round has a folder of its own and takes up where it stopped when it is run again. Must never choose thresholds.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.backbones import build
from trainer.backbones.contract import Backbone
from trainer.head import Head, fit_head
from trainer.judging.calibrate import artist_weights
from trainer.learning import checkpoint
from trainer.learning.batches import Crops
from trainer.learning.classifier import Classifier, embed
from trainer.learning.devices import processes
from trainer.learning.examples import examples
from trainer.learning.train import Validation, train
from trainer.plan import Depth, Plan
from trainer.progress import Epoch, Gallery, Observer, Outcome, Start, Step, Stopped
from trainer.tracks.clips import ClipStore
from trainer.tracks.manifest import Split, Track
from trainer.writing import write_whole

Array = NDArray[np.float32]
Targets = Callable[[Sequence[Track]], list[int]]
Known = dict[Path, Array]

PARITY_TRACKS = 8

OUTCOME = "outcome.json"
HEAD = "head.npz"


@dataclass(frozen=True, slots=True)
class Round:
    """One model: `learns` from these tracks, stops early by `valid` (may be empty), and is judged on `judged`."""

    name: str
    learns: tuple[Track, ...]
    valid: tuple[Track, ...] = ()
    judged: tuple[Track, ...] = ()


@dataclass(frozen=True, slots=True)
class Trained:
    """What a round gave; `outcome` is None where it was stopped before its end and can be resumed."""

    classifier: Classifier
    head: Head
    outcome: dict[str, Any] | None


def plan_rounds(tracks: Sequence[Track], crosswise: bool) -> list[Round]:
    """One round per fold and a last one on all tracks, or a single one that the validation tracks stop and judge."""
    if not crosswise:
        valid = tuple(track for track in tracks if track.split is Split.VALID)
        return [Round("final", tuple(track for track in tracks if track.split is Split.TRAIN), valid, valid)]
    # Early stopping by the held-out fold would flatter it, so these rounds take all their epochs.
    rounds = [
        Round(
            f"fold-{fold}",
            tuple(track for track in tracks if track.fold != fold),
            judged=tuple(track for track in tracks if track.fold == fold),
        )
        for fold in sorted({track.fold for track in tracks})
    ]
    return [*rounds, Round("final", tuple(tracks))]


def take(
    one: Round,
    labels: Sequence[str],
    plan: Plan,
    start: str | None,
    store: ClipStore,
    folder: Path,
    untouched: Known,
    *,
    observers: Sequence[Observer] = (),
    deadline: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train the round's model, or take up where an earlier try stopped; a finished one is only loaded.

    `untouched` holds embeddings of the backbone as `start` has it, which all rounds share.

    Raises:
        ConfigError: an unfinished try in `folder` was made with another plan.
    """
    targets = partial(_targets, labels)
    classifier = Classifier(build(plan.backbone, start), labels, plan.dropout)
    # Convolutions are about twice as fast on a CPU with their channels last.
    classifier.to(memory_format=torch.channels_last)
    done = read_outcome(folder)
    if done is not None:
        classifier.load_state_dict(checkpoint.load_best(folder))
        return Trained(classifier, read_head(folder / HEAD), done)
    if start is not None:
        # A head that is right from the first step sends back no noise into pretrained weights.
        classifier.take_head(probe(classifier.backbone, one.learns, targets, store, plan, len(labels), untouched))
    outcome = Outcome(Stopped.COMPLETE, 0, 0, 0, (), (), ())
    if plan.depth is not Depth.HEAD or not plan.refit_head:
        outcome = _learn(one, classifier, targets, plan, store, folder, observers, deadline)
    # Otherwise the regression has the best head there is for this backbone: nothing is left to descend to.
    if outcome.stopped is Stopped.DEADLINE:
        return Trained(classifier, classifier.linear(), None)
    state = processes()
    if state.is_main_process:
        _finish(one, classifier, targets, plan, store, folder, untouched, outcome)
    state.wait_for_everyone()
    return Trained(classifier, read_head(folder / HEAD), read_outcome(folder))


def probe(
    backbone: Backbone,
    tracks: Sequence[Track],
    targets: Targets,
    store: ClipStore,
    plan: Plan,
    labels: int,
    known: Known | None = None,
) -> Head:
    """A logistic regression on the mean embeddings of `tracks`, artists evened out; see `embeddings` for `known`."""
    rows = embeddings(backbone, tracks, store, plan, {} if known is None else known)
    importance = artist_weights([track.artist for track in tracks]).tolist()
    return fit_head(rows, targets(tracks), labels, importance)


def embeddings(backbone: Backbone, tracks: Sequence[Track], store: ClipStore, plan: Plan, known: Known) -> Array:
    """The mean embedding of each track, float32 [tracks, dim]; `known` holds those computed before with this very
    backbone, and afterwards these, too."""
    missing = [track for track in tracks if track.path not in known]
    rows = embed(backbone, (windows(store, track, backbone, plan) for track in missing))
    for track, row in zip(missing, rows, strict=True):
        known[track.path] = row
    return np.stack([known[track.path] for track in tracks])


def windows(store: ClipStore, track: Track, backbone: Backbone, plan: Plan) -> Array:
    """The windows of a track as the daemon would hear them, float32 [n, samples]."""
    return store.windows(track, plan.crop_s or backbone.window_s, plan.segments)


def some_windows(store: ClipStore, tracks: Sequence[Track], backbone: Backbone, plan: Plan) -> Array:
    """One window of each of a few tracks, float32 [n, samples]: real sound to compare torch with ONNX Runtime by."""
    few = [tracks[place] for place in np.linspace(0, len(tracks) - 1, min(PARITY_TRACKS, len(tracks)), dtype=int)]
    return np.stack([windows(store, track, backbone, plan)[0] for track in few])


def read_outcome(folder: Path) -> dict[str, Any] | None:
    """How the round in `folder` ended; None where it has not."""
    try:
        found: dict[str, Any] = json.loads((folder / OUTCOME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found


def read_head(path: Path) -> Head:
    """The head in an `.npz`."""
    with np.load(path, allow_pickle=False) as arrays:
        return Head(arrays["weights"], arrays["bias"])


def _targets(labels: Sequence[str], tracks: Sequence[Track]) -> list[int]:
    return [labels.index(track.genre) for track in tracks]


def _learn(
    one: Round,
    classifier: Classifier,
    targets: Targets,
    plan: Plan,
    store: ClipStore,
    folder: Path,
    observers: Sequence[Observer],
    deadline: Callable[[], bool],
) -> Outcome:
    backbone = classifier.backbone
    samples = round((plan.crop_s or backbone.window_s) * backbone.sample_rate_hz)
    crops = Crops(store, one.learns, targets(one.learns), samples)
    valid = None
    if one.valid:
        heard = list(one.valid)
        valid = Validation(lambda: (windows(store, track, backbone, plan) for track in heard), targets(heard))
    shown = [*observers, _Examples(observers, classifier, crops, plan)]
    return train(classifier, crops, valid, plan, folder, observers=shown, resume=True, deadline=deadline)


class _Examples:
    """Shows, as training begins, a few crops before and after augmentation to whoever shows pictures."""

    def __init__(self, observers: Sequence[Observer], classifier: Classifier, crops: Crops, plan: Plan) -> None:
        self._galleries = [observer for observer in observers if isinstance(observer, Gallery)]
        self._classifier, self._crops, self._plan = classifier, crops, plan

    def started(self, start: Start) -> None:
        for gallery in self._galleries:
            pictures, names = examples(self._classifier.backbone, self._crops, self._classifier.labels, self._plan)
            gallery.show_pictures(pictures, names, start.step)

    def stepped(self, step: Step) -> None:
        """Nothing to show."""

    def epoch_ended(self, epoch: Epoch) -> None:
        """Nothing to show."""

    def ended(self, outcome: Outcome) -> None:
        """Nothing to show."""


def _finish(
    one: Round,
    classifier: Classifier,
    targets: Targets,
    plan: Plan,
    store: ClipStore,
    folder: Path,
    untouched: Known,
    outcome: Outcome,
) -> None:
    """Fit the last head, and write weights, head and, last of all, the outcome that says that the round is done."""
    folder.mkdir(parents=True, exist_ok=True)
    if plan.refit_head and outcome.epochs:
        known = untouched if plan.depth is Depth.HEAD else None
        classifier.take_head(
            probe(classifier.backbone, one.learns, targets, store, plan, len(classifier.labels), known)
        )
    checkpoint.save_best(folder, classifier.state_dict(), classifier.labels)
    head = classifier.linear()
    arrays = io.BytesIO()
    np.savez(arrays, weights=head.weights, bias=head.bias)
    write_whole(folder / HEAD, arrays.getvalue())
    told = {
        "stopped": str(outcome.stopped),
        "epochs": outcome.epochs,
        "best_epoch": outcome.best_epoch,
        "steps": outcome.steps,
        "train_losses": list(outcome.train_losses),
        "valid_losses": list(outcome.valid_losses),
        "accuracies": list(outcome.accuracies),
    }
    write_whole(folder / OUTCOME, json.dumps(told, indent=2).encode())
