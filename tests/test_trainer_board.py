"""What TensorBoard, a terminal and a service's log are told of a run, read back from where they look."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from make_audio import make
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from daemon.core import audio
from trainer.backbones.contract import Backbone
from trainer.learning.batches import Crops
from trainer.learning.examples import examples
from trainer.plan import CPU
from trainer.progress import Epoch, Outcome, Start, Step, Stopped
from trainer.telling.board import POINTS, Board
from trainer.telling.live import Bar, Events
from trainer.tracks.clips import ClipStore
from trainer.tracks.manifest import Track

LABELS = ("classical", "日本のロック", "$1 & $2 | [jazz]")
START = Start(step=0, steps=40, epochs=4, tracks=90, device="cpu", processes=1, trainable=100_000, parameters=1_500_000)
OUTCOME = Outcome(Stopped.EARLY, 3, 2, 30, (1.0, 0.9, 0.8), (1.2, 1.0, 1.1), (0.5, 0.6, 0.6))


def step(number: int, **changes: Any) -> Step:
    told = Step(number, 40, 1 + (number - 1) // 10, 2.0 / number, 1e-4 * number, 0.5, 64.0, 0.02, 0)
    return replace(told, **changes)


def epoch(number: int, tracks: int = 60, **changes: Any) -> Epoch:
    chance = np.random.default_rng(number)
    targets = chance.integers(0, 3, tracks)
    logits = (np.eye(3)[targets] * 2.0 + chance.normal(size=(tracks, 3))).astype(np.float32)
    embeddings = chance.normal(size=(tracks, 8)).astype(np.float32)
    told = Epoch(
        number, 10 * number, 1.0, 1.1, 0.7, 0.65, True, 12.0, 0.01, logits, embeddings, tuple(targets.tolist())
    )
    return replace(told, **changes)


def unjudged(number: int) -> Epoch:
    nothing = np.zeros((0, 0), np.float32)
    lacking = {"valid_loss": math.nan, "accuracy": math.nan, "macro_f1": math.nan, "best": False}
    return epoch(number, logits=nothing, embeddings=nothing, targets=(), **lacking)


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    return events


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]


def picture(folder: Path, tag: str) -> Image.Image:
    return Image.open(io.BytesIO(read(folder).Images(tag)[-1].encoded_image_string))


class TestBoard:
    def test_draws_every_step(self, tmp_path: Path) -> None:
        board = Board(tmp_path, LABELS)
        board.started(START)
        for number in (1, 2, 3):
            board.stepped(step(number, gpu_memory_bytes=3 << 29))
        board.ended(OUTCOME)
        drawn = {
            "loss/train": 0.5 * 2.0,
            "optimiser/learning_rate": 2e-4,
            "optimiser/gradient_norm": 0.5,
            "speed/examples_per_s": 64.0,
            "speed/wait_share": 0.02,
            "speed/gpu_memory_gib": 1.5,
        }
        for tag, value in drawn.items():
            assert [number for number, _ in scalars(tmp_path, tag)] == [1, 2, 3]
            assert scalars(tmp_path, tag)[1][1] == pytest.approx(value)

    def test_draws_no_gpu_where_there_is_none(self, tmp_path: Path) -> None:
        board = Board(tmp_path, LABELS)
        board.started(START)
        board.stepped(step(1))
        board.close()
        assert "speed/gpu_memory_gib" not in read(tmp_path).Tags()["scalars"]

    def test_draws_every_epoch_at_its_step(self, tmp_path: Path) -> None:
        board = Board(tmp_path, LABELS)
        board.started(START)
        board.epoch_ended(epoch(1))
        board.epoch_ended(epoch(2, accuracy=0.8))
        board.ended(OUTCOME)
        assert scalars(tmp_path, "measures/accuracy") == [(10, pytest.approx(0.7)), (20, pytest.approx(0.8))]
        assert scalars(tmp_path, "measures/macro_f1")[0] == (10, pytest.approx(0.65))
        assert scalars(tmp_path, "loss/valid")[0] == (10, pytest.approx(1.1))
        assert scalars(tmp_path, "loss/train_epoch")[0] == (10, pytest.approx(1.0))
        assert [event.step for event in read(tmp_path).Images("confusion")] == [10, 20]

    def test_the_confusion_matrix_shows_what_was_confused(self, tmp_path: Path) -> None:
        """Two runs: all right, and everything heard as the second genre. Dark cells lie where they must."""
        columns = {}
        for name, heard in {"right": (0, 1, 2), "wrong": (1, 1, 1)}.items():
            board = Board(tmp_path / name, ("a", "b", "c"))
            board.started(START)
            targets = (0, 1, 2) * 10
            logits = np.eye(3, dtype=np.float32)[[heard[target] for target in targets]]
            board.epoch_ended(epoch(1, 30, logits=logits, targets=targets))
            board.close()
            pixels = np.asarray(picture(tmp_path / name, "confusion").convert("RGB"), np.int64)
            dark = np.argwhere((pixels[:, :, 2] > pixels[:, :, 0] + 60) & (pixels[:, :, 0] < 40))
            columns[name] = (np.unique(dark[:, 1]).size / pixels.shape[1], np.unique(dark[:, 0]).size / pixels.shape[0])
        assert columns["right"][0] == pytest.approx(columns["right"][1], abs=0.05)
        assert columns["right"][0] > 0.6
        assert columns["wrong"][0] == pytest.approx(columns["right"][0] / 3, rel=0.05)
        assert columns["wrong"][1] == pytest.approx(columns["right"][1], rel=0.05)

    def test_without_validation_draws_what_there_is(self, tmp_path: Path) -> None:
        board = Board(tmp_path, LABELS)
        board.started(START)
        board.epoch_ended(unjudged(1))
        board.ended(OUTCOME)
        tags = read(tmp_path).Tags()
        assert "loss/train_epoch" in tags["scalars"]
        assert not {"loss/valid", "measures/accuracy", "measures/macro_f1"} & set(tags["scalars"])
        assert tags["images"] == []
        assert not list(tmp_path.glob("*/*/tensors.tsv"))

    def test_names_that_no_font_has_can_be_looked_up(self, tmp_path: Path) -> None:
        board = Board(tmp_path, LABELS)
        board.started(START)
        board.close()
        table = read(tmp_path).Tensors("genres/text_summary")[0].tensor_proto.string_val[0].decode()
        assert "| No. 2 | 日本のロック |" in table
        assert r"\$1 \& \$2 \| \[jazz\]" in table

    def test_a_resumed_run_draws_no_step_twice(self, tmp_path: Path) -> None:
        killed = Board(tmp_path, LABELS)
        killed.started(START)
        for number in range(1, 16):
            killed.stepped(step(number))
            if number == 10:
                killed.epoch_ended(epoch(1))
        killed.close()
        (file,) = tmp_path.glob("events.*")
        # Readers sort by the second in the name; between a crash and a restart more than one goes by.
        file.rename(re.sub(r"(?<=tfevents\.)\d+", lambda second: str(int(second[0]) - 10), str(file)))
        # The last checkpoint was that at the end of the first epoch.
        resumed = Board(tmp_path, LABELS)
        resumed.started(replace(START, step=10))
        for number in range(11, 21):
            resumed.stepped(step(number, loss=7.0))
        resumed.epoch_ended(epoch(2))
        resumed.ended(OUTCOME)
        losses = scalars(tmp_path, "loss/train")
        assert [number for number, _ in losses] == list(range(1, 21))
        assert [value for _, value in losses[10:]] == [7.0] * 10
        assert [number for number, _ in scalars(tmp_path, "measures/accuracy")] == [10, 20]
        assert [event.step for event in read(tmp_path).Images("confusion")] == [10, 20]

    def test_a_fresh_run_takes_the_place_of_the_old_one(self, tmp_path: Path) -> None:
        for loss in (3.0, 5.0):
            board = Board(tmp_path, LABELS)
            board.started(START)
            board.stepped(step(1, loss=loss))
            board.epoch_ended(epoch(1, best=loss < 4.0))
            board.close()
        assert scalars(tmp_path, "loss/train") == [(1, 5.0)]
        assert not list(tmp_path.glob("*/best"))

    def test_shows_pictures_low_bands_at_the_bottom(self, tmp_path: Path) -> None:
        board = Board(tmp_path, LABELS)
        board.started(START)
        pictures = np.zeros((3, 32, 100), np.float32)
        pictures[:, :8] = 1.0
        board.show_pictures(pictures, ["rock", "trained on: 80% rock + 20% 日本", "jazz"], 0)
        board.close()
        shown = picture(tmp_path, "examples").convert("L")
        pixels = np.asarray(shown, np.float64)
        assert shown.size[0] == 1000
        # The upper left picture, without its title.
        first = pixels[40 : shown.size[1] // 2 - 10, 20:480]
        assert first[-20:].mean() > first[:50].mean() + 100

    def test_needs_a_run(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="not told that a run has started"):
            Board(tmp_path, LABELS).stepped(step(1))


class TestProjector:
    def run(self, folder: Path, *epochs: Epoch, at: int = 0, tracks: int = 60) -> None:
        board = Board(folder, LABELS)
        board.started(replace(START, step=at))
        for each in epochs:
            board.epoch_ended(each)
        board.ended(OUTCOME)

    def test_holds_the_best_and_the_last_epoch_s_embeddings(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.run(tmp_path, epoch(1), epoch(2), epoch(3, best=False))
        assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*/tensors.tsv")) == [
            "00020/best/tensors.tsv",
            "00030/last/tensors.tsv",
        ]
        stored = np.loadtxt(tmp_path / "00020" / "best" / "tensors.tsv", delimiter="\t")
        assert np.abs(stored - epoch(2).embeddings).max() < 1e-4
        rows = (tmp_path / "00020" / "best" / "metadata.tsv").read_text(encoding="utf-8").splitlines()
        assert rows[0] == "genre\theard as"
        assert [row.split("\t")[0] for row in rows[1:]] == [LABELS[target] for target in epoch(2).targets]
        assert capsys.readouterr().out == ""

    def test_lists_what_there_is(self, tmp_path: Path) -> None:
        self.run(tmp_path, epoch(1), epoch(2), epoch(3, best=False))
        # A resumed run that finds nothing better keeps the best of before.
        self.run(tmp_path, epoch(4, best=False), at=30)
        listed = (tmp_path / "projector_config.pbtxt").read_text()
        assert listed.count("embeddings {") == 2
        assert 'tensor_name: "best, step 20"' in listed
        assert 'tensor_path: "00040/last/tensors.tsv"' in listed
        assert 'metadata_path: "00040/last/metadata.tsv"' in listed
        assert not (tmp_path / "00030" / "last").exists()

    def test_is_read_by_tensorboard(self, tmp_path: Path) -> None:
        from google.protobuf import text_format
        from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

        self.run(tmp_path, epoch(1))
        config = text_format.Parse((tmp_path / "projector_config.pbtxt").read_text(), ProjectorConfig())
        for entry in config.embeddings:
            assert (tmp_path / entry.tensor_path).is_file()
            assert (tmp_path / entry.metadata_path).is_file()

    def test_holds_a_bounded_number_of_points(self, tmp_path: Path) -> None:
        self.run(tmp_path, epoch(1, 3000))
        assert len((tmp_path / "00010" / "best" / "tensors.tsv").read_text().splitlines()) == POINTS


class Plain(Backbone):
    """Sound cut into columns: enough to see what was changed."""

    sample_rate_hz, window_s, embedding_dim, frames_per_s = 8000, 1.0, 20, 400.0

    def front(self, waveform: Tensor) -> Tensor:
        return waveform.reshape(len(waveform), -1, 20).transpose(1, 2)


class TestExamples:
    def test_show_each_genre_before_and_after(self, tmp_path: Path) -> None:
        store = ClipStore(tmp_path / "clips", 8000, stretch_s=2.0, most=3)
        paths = [make(tmp_path / f"{seed}.flac", 2.0, seed) for seed in range(4)]
        tracks = [Track(path, "", audio_id=audio.audio_id(path)) for path in paths]
        before = torch.random.get_rng_state()
        plan = replace(CPU, mixup=5.0)
        crops = Crops(store, tracks, [0, 0, 1, 2], 8000)
        pictures, names = examples(Plain(), crops, ("rock", "jazz", "blues"), plan)
        assert pictures.shape == (6, 20, 400)
        assert names[0::2] == ["rock", "jazz", "blues"]
        assert all(name.startswith("trained on: ") for name in names[1::2])
        assert " + " in "".join(names)
        assert np.array_equal(pictures[2], Plain().front(crops[2, plan.seed][0][None])[0])
        assert all(np.abs(pictures[row] - pictures[row + 1]).max() > 0 for row in (0, 2, 4))
        assert torch.equal(torch.random.get_rng_state(), before)
        assert len(examples(Plain(), crops, ("rock", "jazz", "blues"), plan, count=2)[1]) == 4


class TestBar:
    @staticmethod
    def told(*epochs: Epoch, outcome: Outcome = OUTCOME, terminal: bool = True) -> str:
        out = io.StringIO()
        bar = Bar("fold [1]", Console(file=out, force_terminal=terminal, width=160, _environ={}))
        bar.started(START)
        bar.stepped(step(1))
        for each in epochs:
            bar.epoch_ended(each)
        bar.ended(outcome)
        return out.getvalue()

    def test_shows_steps_and_loss(self) -> None:
        told = self.told()
        assert "1/40" in told
        assert "epoch 1/4  loss 2.000  64.0/s" in told

    def test_writes_a_line_for_every_epoch(self) -> None:
        told = self.told(epoch(1), unjudged(2))
        assert "loss 1.000, validation loss 1.100, accuracy 70.0%, macro-F1 0.650 (best so far), 12 s" in told
        assert "epoch 2/4: loss 1.000, 12 s" in told
        assert "nan" not in told

    @pytest.mark.parametrize(
        ("stopped", "words"),
        [
            (Stopped.COMPLETE, "all epochs done; kept: epoch 2"),
            (Stopped.EARLY, "stopped early, since it no longer improved"),
            (Stopped.DEADLINE, "it can be resumed"),
        ],
    )
    def test_says_how_it_ended(self, stopped: Stopped, words: str) -> None:
        assert words in self.told(outcome=replace(OUTCOME, stopped=stopped))

    def test_takes_a_name_as_it_is(self) -> None:
        assert "fold [1]: 90 tracks, 0.1 of 1.5 million parameters, on cpu" in self.told()

    def test_gives_the_cursor_back(self) -> None:
        told = self.told()
        assert told.count("\x1b[?25l") == told.count("\x1b[?25h") == 1


class TestEvents:
    def test_tell_start_epochs_and_end(self, events: list[Any]) -> None:
        listener = Events("final")
        listener.started(START)
        listener.epoch_ended(epoch(1))
        listener.epoch_ended(unjudged(2))
        listener.ended(OUTCOME)
        assert [event["event"] for event in events] == [
            "training_started",
            "training_epoch",
            "training_epoch",
            "training_ended",
        ]
        assert {event["name"] for event in events} == {"final"}
        assert (events[0]["steps"], events[0]["device"]) == (40, "cpu")
        assert (events[1]["accuracy"], events[1]["best"]) == (0.7, True)
        assert "accuracy" not in events[2]
        assert (events[3]["stopped"], events[3]["best_epoch"]) == ("early", 2)

    def test_tell_of_a_step_now_and_then(self, events: list[Any]) -> None:
        now_s = 0.0
        listener = Events("final", every_s=60.0, clock=lambda: now_s)
        listener.started(START)
        for number in range(1, 41):
            now_s += 10.0
            listener.stepped(step(number))
        steps = [event for event in events if event["event"] == "training_step"]
        assert [event["step"] for event in steps] == [6, 12, 18, 24, 30, 36]
        assert steps[0]["loss"] == pytest.approx(1 / 3, abs=1e-5)
        assert steps[0]["examples_per_s"] == 64.0
