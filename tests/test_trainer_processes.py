"""Several processes train one model."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_training
import torch
from tiny_training import PLAN, Witness, make_setup, new_classifier, same, weights

from trainer.learning import checkpoint
from trainer.learning.train import train

pytestmark = pytest.mark.slow


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def launch(sounds: Path, run: Path, told: dict[str, Any]) -> list[dict[str, Any]]:
    """Train in two processes, by accelerate's own launcher; what each of them saw."""
    # Without `--multi_gpu` the launcher starts one process only; what a process finds decides what it computes on.
    options = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    options += ["--dynamo_backend", "no", "--main_process_port", str(free_port())]
    script = [tiny_training.__file__, str(sounds), str(run), json.dumps(told)]
    here = Path(tiny_training.__file__).parent.parent
    environment = os.environ | {"PYTHONPATH": str(here), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    run.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, *script]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return [json.loads((run / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture
def one_thread() -> Any:
    """As in the processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_two_processes_train_the_model_that_one_trains_with_twice_the_accumulation(
    tmp_path: Path, one_thread: None
) -> None:
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    setup = make_setup(sounds)
    changes = {"epochs": 3, "batch": 2, "averaging": "ema", "accumulate": 2}
    run = tmp_path / "two"
    first, second = launch(sounds, run, {"plan": changes})
    assert first["processes"] == second["processes"] == 2
    # Each rank ends with the same weights, to the last bit, and they are those that were kept.
    ranks = [torch.load(run / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert same(ranks[0], ranks[1])
    assert same(ranks[0], checkpoint.load_best(run))
    assert (first["valid"], first["best"]) == (second["valid"], second["best"])
    # Only the main process tells of its steps.
    assert len(first["losses"]) == 6
    assert second["losses"] == {}
    # One process with twice the accumulation hears the same crops and draws the same chance.
    classifier, witness = new_classifier(), Witness()
    plan = PLAN.with_changes(changes | {"accumulate": 4})
    outcome = train(classifier, setup.crops(), setup.validation(), plan, tmp_path / "one", observers=[witness])
    assert list(first["losses"].values()) == pytest.approx(list(witness.losses.values()), rel=1e-4)
    assert first["valid"] == pytest.approx(outcome.valid_losses, rel=1e-3)
    torch.testing.assert_close(ranks[0], weights(classifier), rtol=1e-3, atol=1e-4)


def test_two_processes_resume_exactly(tmp_path: Path) -> None:
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    make_setup(sounds)
    changes = {"epochs": 2, "batch": 2, "averaging": "swa"}
    whole, _ = launch(sounds, tmp_path / "whole", {"plan": changes})
    launch(sounds, tmp_path / "parts", {"plan": changes, "stop_after": 3})
    rest, _ = launch(sounds, tmp_path / "parts", {"plan": changes, "resume": True})
    assert list(rest["losses"]) == ["4", "5", "6", "7", "8"]
    assert {step: whole["losses"][step] for step in rest["losses"]} == rest["losses"]
    ended = [torch.load(tmp_path / run / "1.pt", weights_only=True) for run in ("whole", "parts")]
    assert same(ended[0], ended[1])
