"""Examples per second of our training loop and of `transformers.Trainer`, on the same network, sound and machine.

    .ci/uv run --extra trainer --group dev python tests/bench/train.py
    MUSIC_RECLASS_DATA=… .ci/uv run --extra trainer --group dev python tests/bench/train.py --real --full

Four ways, one after the other and again in every round, each from the same random weights (which cost the same time as
trained ones), over the same prepared clips, with the same batch, precision, optimiser (fused AdamW) and clipping:

- ours, as recommended: front end in the graph, all augmentations, moving average of the weights;
- ours, bare: neither augmentations nor average, which is all that the next two do;
- Trainer: `ASTFeatureExtractor` makes the input of each crop, as its documentation has it;
- Trainer, inputs ready: the same inputs made before the clock starts, so that only the loop is compared.

What is printed is the fastest round: others share the machine. Time spent waiting for data is that of its loop.
"""

from __future__ import annotations

import argparse
import copy
import csv
import gc
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.utils import logging

from daemon.core.audio import audio_id
from trainer.backbones.ast import Ast
from trainer.learning.batches import Crops
from trainer.learning.classifier import Classifier
from trainer.learning.train import train
from trainer.plan import Averaging, Plan, Precision
from trainer.progress import Epoch, Outcome, Start, Step
from trainer.tracks.clips import ClipStore
from trainer.tracks.manifest import Track

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from make_audio import make

LABELS = ("chords", "noise", "beat", "hum", "other")

# Steps before the clock starts: threads, caches and kernels are chosen in them.
WARM_UP = 3

SMALL = {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3, "intermediate_size": 768}


@dataclass(frozen=True, slots=True)
class Run:
    """What one way took in one round; `cpu_s` is the processor time of an example, in all threads but no workers."""

    examples_per_s: float
    cpu_s: float
    wait_share: float
    memory_bytes: int


@dataclass(slots=True)
class Clock:
    """When each step of a run ended, in time and in processor time, and the share of time spent waiting for data."""

    ends: list[float] = field(default_factory=list)
    cpu_ends: list[float] = field(default_factory=list)
    wait_share: float = 0.0

    def stepped(self) -> None:
        """A step has just ended, on the accelerator too."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
        self.cpu_ends.append(time.process_time())


class Meter:
    """Our loop's observer."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def started(self, start: Start) -> None:
        """Nothing to note."""

    def stepped(self, step: Step) -> None:
        """Note the step."""
        self.clock.stepped()

    def epoch_ended(self, epoch: Epoch) -> None:
        """Note what the loop tells of its waiting; there is one epoch."""
        self.clock.wait_share = epoch.wait_share

    def ended(self, outcome: Outcome) -> None:
        """Nothing to note."""


class Inputs(Dataset[dict[str, Tensor]]):
    """Crops as `ASTForAudioClassification` takes them, made by transformers' own extractor when asked for."""

    def __init__(self, crops: Crops, extractor: ASTFeatureExtractor) -> None:
        self.crops, self.extractor = crops, extractor

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        waveform, target, _ = self.crops[index, index]
        rate = self.crops.store.sample_rate_hz
        made = self.extractor(waveform.numpy(), sampling_rate=rate, return_tensors="pt")
        return {"input_values": made["input_values"][0], "labels": target}


class Ready(Dataset[dict[str, Tensor]]):
    """The same inputs, all made at once and held in memory."""

    def __init__(self, inputs: Inputs) -> None:
        self.made = [inputs[index] for index in range(len(inputs))]

    def __len__(self) -> int:
        return len(self.made)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.made[index]


class Timed(Trainer):
    """transformers' own loop, with a clock at the end of each step and around the fetching of its batches."""

    def __init__(self, clock: Clock, **given: Any) -> None:
        super().__init__(**given)
        self.clock, self.waited_s, self.began = clock, 0.0, 0.0
        self.add_callback(Ends(self))

    def get_batch_samples(self, *given: Any, **named: Any) -> Any:
        """As it is, timed."""
        began = time.perf_counter()
        self.began = self.began or began
        fetched = super().get_batch_samples(*given, **named)
        self.waited_s += time.perf_counter() - began
        return fetched


class Ends(TrainerCallback):
    """Tells the clock of each step's end."""

    def __init__(self, trainer: Timed) -> None:
        self.trainer = trainer

    def on_step_end(self, *given: Any, **named: Any) -> None:
        """An optimiser step is done."""
        clock, trainer = self.trainer.clock, self.trainer
        clock.stepped()
        clock.wait_share = trainer.waited_s / (clock.ends[-1] - trainer.began)


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the AST at its published size (default: a small one)")
    parser.add_argument("--stride", type=int, default=10, help="of its patches; 16 has fewer of them (default 10)")
    parser.add_argument("--real", action="store_true", help="tracks of MUSIC_RECLASS_DATA (default: made sounds)")
    parser.add_argument("--tracks", type=int, default=32, help="how many of them (default 32)")
    parser.add_argument("--batch", type=int, default=8, help="crops of 10.24 s in a batch (default 8)")
    parser.add_argument(
        "--steps", type=int, default=13, help=f"optimiser steps, {WARM_UP} of them untimed (default 13)"
    )
    parser.add_argument("--rounds", type=int, default=2, help="how often each way is timed (default 2)")
    parser.add_argument("--workers", type=int, default=0, help="processes that load data (default 0)")
    parser.add_argument("--precision", choices=[str(each) for each in Precision], default="fp32")
    parser.add_argument("--checkpointing", action="store_true", help="with gradient checkpointing")
    asked = parser.parse_args()
    if asked.steps <= WARM_UP:
        parser.error(f"--steps: must be more than {WARM_UP}")
    return asked


def real_tracks(count: int) -> list[Track]:
    """`count` of the labelled tracks, evenly over the list."""
    place = os.environ.get("MUSIC_RECLASS_DATA")
    if not place:
        sys.exit("set MUSIC_RECLASS_DATA to the folder with tracks.csv")
    with open(Path(place) / "tracks.csv", newline="") as file:
        paths = [Path(place) / row["path"] for row in csv.DictReader(file)]
    count = min(count, len(paths))
    return [_track(paths[len(paths) * number // count], number) for number in range(count)]


def made_tracks(folder: Path, count: int) -> list[Track]:
    """`count` made sounds of 15 s."""
    return [_track(make(folder / f"{number}.flac", 15.0, seed=number), number) for number in range(count)]


def _track(path: Path, number: int) -> Track:
    return Track(path, LABELS[number % len(LABELS)], audio_id=audio_id(path))


def prepare(
    asked: argparse.Namespace, folder: Path, tracks: Sequence[Track], network: ASTForAudioClassification
) -> dict[str, Callable[[], Clock]]:
    """The four ways by name; clips are decoded and inputs made here, before any clock starts."""
    store = ClipStore(folder / "clips", Ast.sample_rate_hz)
    store.prepare(tracks, workers=0, advance=lambda done, of: None)
    # One epoch of as many draws as are asked for, so that nothing but steps lies between two steps.
    drawn = [tracks[number % len(tracks)] for number in range(asked.steps * asked.batch)]
    length = round(Ast(network).window_s * Ast.sample_rate_hz)
    crops = Crops(store, drawn, [LABELS.index(track.genre) for track in drawn], length)
    inputs = Inputs(crops, ASTFeatureExtractor(max_length=network.config.max_length))
    ready = Ready(inputs)
    recommended = Plan(
        "ast",
        epochs=1,
        batch=asked.batch,
        precision=Precision(asked.precision),
        gradient_checkpointing=asked.checkpointing,
        rate=5e-5,
        workers=asked.workers,
    )
    bare = replace(recommended, mixup=0.0, masks=0, gain_db=0.0, noise_share=0.0, averaging=Averaging.NONE)
    return {
        "ours, as recommended": lambda: ours(recommended, crops, copy.deepcopy(network), folder / "run"),
        "ours, bare": lambda: ours(bare, crops, copy.deepcopy(network), folder / "run"),
        "Trainer": lambda: theirs(recommended, inputs, copy.deepcopy(network), folder / "peer"),
        "Trainer, inputs ready": lambda: theirs(recommended, ready, copy.deepcopy(network), folder / "peer"),
    }


def ours(plan: Plan, crops: Crops, network: ASTForAudioClassification, folder: Path) -> Clock:
    """One run of our loop."""
    clock = Clock()
    train(Classifier(Ast(network), LABELS, plan.dropout), crops, None, plan, folder, observers=[Meter(clock)])
    return clock


def theirs(plan: Plan, inputs: Dataset[dict[str, Tensor]], network: ASTForAudioClassification, folder: Path) -> Clock:
    """One run of transformers' loop, told to write and report nothing."""
    clock = Clock()
    settings = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=plan.batch,
        learning_rate=plan.rate,
        lr_scheduler_type="cosine",
        warmup_steps=plan.warmup,
        weight_decay=plan.weight_decay,
        max_grad_norm=plan.clip_norm,
        label_smoothing_factor=plan.smoothing,
        bf16=plan.precision is Precision.BF16,
        fp16=plan.precision is Precision.FP16,
        gradient_checkpointing=plan.gradient_checkpointing,
        optim="adamw_torch_fused",
        dataloader_num_workers=plan.workers,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Timed(clock, model=network, args=settings, train_dataset=inputs)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return clock


def measured(way: Callable[[], Clock], batch: int) -> Run:
    """One round of one way."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    clock = way()
    memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    examples = batch * (len(clock.ends) - WARM_UP)
    took_s, cpu_s = (ends[-1] - ends[WARM_UP - 1] for ends in (clock.ends, clock.cpu_ends))
    return Run(examples / took_s, cpu_s / examples, clock.wait_share, memory)


def main() -> None:
    """Print the table."""
    asked = arguments()
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    torch.manual_seed(0)
    strides = {"frequency_stride": asked.stride, "time_stride": asked.stride}
    network = ASTForAudioClassification(ASTConfig(num_labels=len(LABELS), **strides, **({} if asked.full else SMALL)))
    with tempfile.TemporaryDirectory(prefix="bench-train-") as place:
        tracks = real_tracks(asked.tracks) if asked.real else made_tracks(Path(place), asked.tracks)
        ways = prepare(asked, Path(place), tracks, network)
        runs: dict[str, list[Run]] = {name: [] for name in ways}
        for _ in range(asked.rounds):
            for name, way in ways.items():
                runs[name].append(measured(way, asked.batch))
    report(asked, network, {name: max(each, key=lambda run: run.examples_per_s) for name, each in runs.items()})


def report(asked: argparse.Namespace, network: ASTForAudioClassification, best: dict[str, Run]) -> None:
    """Print what was measured, with ratios: seconds differ from machine to machine."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    where = gpu or f"CPU, {torch.get_num_threads()} threads"
    size = sum(weight.numel() for weight in network.parameters()) / 1e6
    console = Console(width=110)
    console.print(f"AST of {size:.1f} M parameters, stride {asked.stride}, on {where}")
    console.print(
        f"batch {asked.batch}, {asked.precision}, {asked.workers} workers, {asked.steps - WARM_UP} timed steps"
    )
    table = Table()
    for column in ("what", "examples/s", "of Trainer", "CPU s each", "waiting for data", *(["memory"] if gpu else [])):
        table.add_column(column, justify="left" if column == "what" else "right")
    peer = best["Trainer"].examples_per_s
    for name, run in best.items():
        memory = [f"{run.memory_bytes / 2**30:.2f} GiB"] if gpu else []
        speed, waiting = f"{run.examples_per_s:.2f}", f"{run.wait_share:.1%}"
        table.add_row(name, speed, f"{run.examples_per_s / peer:.2f}", f"{run.cpu_s:.3f}", waiting, *memory)
    console.print(table)


if __name__ == "__main__":
    main()
