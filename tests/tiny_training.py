"""A whole training set-up that takes a second: three kinds of sound, a tiny network, and a run in a process of its own.

Nothing of it is a mock: the sounds are real files behind the real `ClipStore`, the network is a real `Backbone`.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from make_audio import encode
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.backbones.contract import Backbone
from trainer.frontends import LogMel, MelSettings
from trainer.learning.batches import Crops
from trainer.learning.classifier import Classifier
from trainer.learning.train import Validation, train
from trainer.plan import Averaging, Plan
from trainer.progress import Epoch, Outcome, Start, Step
from trainer.tracks.clips import ClipStore
from trainer.tracks.manifest import Track

LABELS = ("low", "high", "hiss")
RATE_HZ = 8000
SECONDS = 1.0
MEL = MelSettings(RATE_HZ, 256, 256, 160, 24, 60.0, 3900.0, 1e-5, 0.0, centred=False)

PLAN = Plan(
    "tiny",
    epochs=4,
    batch=4,
    rate=2e-3,
    head_rate=1e-2,
    layer_decay=0.5,
    averaging=Averaging.NONE,
    patience=0,
    segments=2,
    seed=7,
)


class Tiny(Backbone):
    """Two convolutions with BatchNorm over a log-mel of 24 bands."""

    sample_rate_hz, window_s, embedding_dim, frames_per_s = RATE_HZ, SECONDS, 12, 50.0

    def __init__(self) -> None:
        super().__init__()
        self.log_mel = LogMel(MEL)
        self.first = nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU())

    def front(self, waveform: Tensor) -> Tensor:
        picture: Tensor = (self.log_mel(waveform) + 4.0) / 4.0
        return picture

    def embed(self, picture: Tensor) -> Tensor:
        embedding: Tensor = self.second(self.first(picture[:, None])).mean((2, 3))
        return embedding

    def stages(self) -> Sequence[nn.Module]:
        return [self.first, self.second]

    def save_memory(self) -> None:
        raise AssertionError("nobody asked for it")


def new_classifier(seed: int = 3, dropout: float = 0.2) -> Classifier:
    """The same random start each time."""
    torch.manual_seed(seed)
    return Classifier(Tiny(), LABELS, dropout)


def sound(label: str, seed: int) -> NDArray[np.float32]:
    """Two seconds of a low tone, a high tone or hiss, in some noise; another seed, another one of its kind."""
    chance = np.random.default_rng(seed)
    time_s = np.arange(2 * 44_100) / 44_100
    hz = {"low": chance.uniform(150, 400), "high": chance.uniform(1500, 3000), "hiss": 0.0}[label]
    noise = chance.normal(0.0, 0.15 if label == "hiss" else 0.03, size=(2, time_s.size))
    return np.clip(0.3 * np.sin(2 * np.pi * hz * time_s) + noise, -1.0, 1.0).astype(np.float32)


@dataclass(frozen=True)
class Setup:
    """Tracks and how to learn from them."""

    store: ClipStore
    tracks: tuple[Track, ...]

    def crops(self, targets: Sequence[int] | None = None) -> Crops:
        """Crops of a second."""
        known = [LABELS.index(track.genre) for track in self.tracks] if targets is None else targets
        return Crops(self.store, self.tracks, known, round(SECONDS * RATE_HZ))

    def validation(self, targets: Sequence[int] | None = None) -> Validation:
        """The same tracks, as the daemon would hear them."""
        known = [LABELS.index(track.genre) for track in self.tracks] if targets is None else targets
        return Validation(self._windows, known)

    def _windows(self) -> Iterator[NDArray[np.float32]]:
        return (self.store.windows(track, SECONDS, 2) for track in self.tracks)


def make_setup(folder: Path, each: int = 5) -> Setup:
    """`each` real files of each kind of sound, decoded."""
    tracks = []
    for number in range(each * len(LABELS)):
        label = LABELS[number % len(LABELS)]
        path = folder / f"{number}-{label}.wav"
        encode(path, sound(label, number))
        tracks.append(Track(path, label, audio_id=f"{number:08x}", duration_s=2.0))
    store = ClipStore(folder / "clips", RATE_HZ, stretch_s=2.0)
    assert store.prepare(tracks, workers=0, advance=lambda done, of: None) == []
    return Setup(store, tuple(tracks))


def open_setup(folder: Path) -> Setup:
    """What `make_setup` made there."""
    paths = sorted(folder.glob("*.wav"), key=lambda path: int(path.name.split("-")[0]))
    tracks = [
        Track(path, path.stem.split("-")[1], audio_id=f"{int(path.stem.split('-')[0]):08x}", duration_s=2.0)
        for path in paths
    ]
    return Setup(ClipStore(folder / "clips", RATE_HZ, stretch_s=2.0), tuple(tracks))


@dataclass
class Witness:
    """An observer that remembers all that it is told; may kill its process after a step."""

    kill_after: int = -1
    begun: list[Start] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def started(self, start: Start) -> None:
        self.begun.append(start)

    def stepped(self, step: Step) -> None:
        self.steps.append(step)
        if step.step == self.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    def epoch_ended(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)

    def ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    @property
    def losses(self) -> dict[int, float]:
        """By number of step."""
        return {step.step: step.loss for step in self.steps}


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of everything that a module remembers."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def main(folder: Path, run: Path, told: dict[str, Any]) -> None:
    """Train in this process (perhaps one of several) and leave `run/<rank>.json` and `run/<rank>.pt`.

    `told` may hold changes to the `plan`, `resume`, `checkpoint_s`, the step to be killed after (`kill_after`), and how
    many steps the first process has time for (`stop_after`; the others have all the time there is).
    """
    from trainer.learning.devices import processes

    torch.set_num_threads(1)
    state = processes()
    setup, classifier = open_setup(folder), new_classifier()
    plan = PLAN.with_changes(told.get("plan", {}))
    witness = Witness(told.get("kill_after", -1))
    asked = itertools.count(1)
    late = told.get("stop_after", math.inf) if state.is_main_process else math.inf
    outcome = train(
        classifier,
        setup.crops(),
        setup.validation(),
        plan,
        run,
        observers=[witness],
        resume=told.get("resume", False),
        deadline=lambda: next(asked) >= late,
        checkpoint_s=told.get("checkpoint_s", 0.0),
    )
    rank = state.process_index
    torch.save(weights(classifier), run / f"{rank}.pt")
    facts = {
        "losses": witness.losses,
        "valid": outcome.valid_losses,
        "best": outcome.best_epoch,
        "processes": state.num_processes,
    }
    (run / f"{rank}.json").write_text(json.dumps(facts))
    state.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
