"""The training suite as an owner uses it: data set, fit, evaluate, export by the command line, on made sound."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from make_audio import make

from daemon.core import bundle
from daemon.core.audio import Sound
from daemon.core.errors import ConfigError
from daemon.core.inference import Ensemble
from daemon.core.records import Device
from trainer.commands import program
from trainer.plan import CPU, GPU, Depth, Plan
from trainer.rounds import plan_rounds, read_outcome

QUICK = [
    *("--backbone", "compact", "--start", "random", "--set", "epochs=1", "--set", "crop_s=1.0"),
    *("--set", "segments=2", "--set", "batch=4", "--set", "depth=full"),
]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(f"state_directory: {tmp_path / 'state'}\n")
    return path


def run(config: Path, *arguments: str | Path, well: bool = True) -> Result:
    words = ["--config", str(config), *(str(argument) for argument in arguments)]
    result = CliRunner().invoke(program, words, catch_exceptions=False) if well else CliRunner().invoke(program, words)
    assert not well or result.exit_code == 0, result.output
    return result


def library(folder: Path, genres: dict[str, int], seconds: float = 4.0) -> Path:
    """A folder per genre with an artist per track."""
    seed = 0
    for genre, tracks in genres.items():
        for number in range(tracks):
            seed += 1
            place = folder / genre / f"{genre} artist {number}"
            place.mkdir(parents=True)
            make(place / f"{number}.wav", seconds, seed=seed, genres=None)
    return folder


@pytest.fixture
def data(config: Path, tmp_path: Path) -> Path:
    folder = library(tmp_path / "music", {"爵士": 6, "rock & roll": 6})
    run(
        config,
        "dataset",
        "--folders",
        folder,
        "--names",
        "--folds",
        "2",
        "--holdout",
        "0.2",
        "--out",
        tmp_path / "data",
    )
    return tmp_path / "data"


@pytest.mark.slow
def test_from_folders_to_a_bundle_that_serves(config: Path, data: Path, tmp_path: Path) -> None:
    done = run(config, "fit", "--data", data, "--run", tmp_path / "run", "--id", "mine-1", *QUICK)
    assert "accuracy" in done.stdout
    assert "frozen holdout" in done.stdout
    page = (tmp_path / "run" / "report" / "report.html").read_text(encoding="utf-8")
    assert "爵士" in page
    served = bundle.load(tmp_path / "run" / "bundle")
    assert served.labels == ("rock & roll", "爵士")
    assert str(tmp_path) not in (served.path / "manifest.json").read_text()
    # What the report says is what the daemon's own classes say.
    judged = json.loads((tmp_path / "run" / "holdout" / "evaluation.json").read_text(encoding="utf-8"))
    assert judged
    shown = run(config, "evaluate", served.path, "--data", data, "--split", "holdout", "--out", tmp_path / "judged")
    assert done.stdout.split("frozen holdout: ")[1].split(" (")[0] in shown.stdout
    exported = run(config, "export", tmp_path / "run", "--install", "--no-fp16", "--no-int8")
    assert "music-reclass models use mine-1" in exported.stdout
    installed = tmp_path / "state" / "models" / "mine-1"
    Ensemble(bundle.load(installed), device=Device.CPU, threads=1)
    state = torch.load(installed / "music_classifier.pth", weights_only=True)
    assert list(state["labels"]) == list(served.labels)
    assert (installed / "report" / "report.html").is_file()


@pytest.mark.slow
def test_a_rate_is_suggested_with_its_plot(config: Path, data: Path, tmp_path: Path) -> None:
    done = run(config, "lr-find", "--data", data, "--out", tmp_path / "rates", *QUICK)
    rate = float(done.stdout.split("rate=")[1].split()[0])
    assert 1e-7 < rate < 10.0
    assert (tmp_path / "rates" / "learning-rates.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_run_that_time_ran_out_on_goes_on_to_the_same_bundle(config: Path, data: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(config, "fit", "--data", data, "--run", whole, "--id", "same", *QUICK)
    stopped = run(config, "fit", "--data", data, "--run", cut, "--id", "same", *QUICK, "--minutes", "0.01")
    assert "resume" in stopped.stderr
    assert not (cut / "bundle").exists()
    assert read_outcome(cut / "final") is None
    run(config, "resume", cut)
    one, other = (np.load(folder / "final" / "head.npz")["weights"] for folder in (whole, cut))
    assert np.array_equal(one, other)
    again = run(config, "fit", "--data", data, "--run", cut, "--id", "same", *QUICK, "--set", "epochs=2", well=False)
    assert isinstance(again.exception, ConfigError)
    assert "plan" in str(again.exception)


@pytest.mark.slow
def test_a_killed_run_goes_on(config: Path, data: Path, tmp_path: Path) -> None:
    words = ["--config", config, "fit", "--data", data, "--run", tmp_path / "run", *QUICK]
    killed = subprocess.Popen([sys.executable, "-m", "trainer", *map(str, words)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "fold-0" / "last.pt").exists():
        assert killed.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "run" / "bundle").exists()
    run(config, "resume", tmp_path / "run")
    Ensemble(bundle.load(tmp_path / "run" / "bundle"), device=Device.CPU, threads=1)
    leftovers = [path.name for path in (tmp_path / "run").rglob("*") if ".part" in path.name or path.name[0] == "."]
    assert leftovers == []


@pytest.mark.slow
def test_two_processes_fit_one_model(config: Path, data: Path, tmp_path: Path) -> None:
    """As `accelerate launch` runs it on two GPUs, here on two processes of a CPU."""
    # Without `--multi_gpu` the launcher starts one process only; what a process finds decides what it computes on.
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    words = ["-m", "trainer", "--config", config, "fit", "--data", data, "--run", tmp_path / "run", *QUICK]
    environment = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *map(str, words)], env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("accuracy ") == 1
    assert '"processes": 2' in done.stderr
    Ensemble(bundle.load(tmp_path / "run" / "bundle"), device=Device.CPU, threads=1)


def test_broken_and_unlabelled_files_are_left_out_by_name(config: Path, tmp_path: Path) -> None:
    folder = library(tmp_path / "music", {"jazz": 3, "rock": 3, "pop": 1})
    (folder / "classical").mkdir()
    for number in range(10):
        (folder / "jazz" / f"broken {number}.mp3").write_bytes(b"no sound" * number)
        make(folder / f"unlabelled {number}.wav", 4.0, seed=100 + number, genres=None)
    done = run(config, "dataset", "--folders", folder, "--out", tmp_path / "data", "--holdout", "0", "--folds", "2")
    assert "6 tracks, 2 genres" in done.stdout
    left = (tmp_path / "data" / "left_out.csv").read_text(encoding="utf-8")
    assert left.count("/broken ") == 10
    assert left.count("/unlabelled ") == 10
    assert "pop" in left


def test_a_set_that_cannot_be_learnt_from_is_refused_before_anything_is_decoded(config: Path, tmp_path: Path) -> None:
    folder = library(tmp_path / "music", {"jazz": 4, "rock": 1})
    run(config, "dataset", "--folders", folder, "--out", tmp_path / "data", "--least", "1", "--holdout", "0")
    refused = run(config, "fit", "--data", tmp_path / "data", "--run", tmp_path / "run", *QUICK, well=False)
    assert isinstance(refused.exception, ConfigError)
    assert "'rock' is in one fold only" in str(refused.exception)
    empty = run(config, "fit", "--data", tmp_path, "--run", tmp_path / "run", *QUICK, well=False)
    assert "music-reclass-train dataset" in str(empty.exception)


def test_unknown_settings_are_all_named(config: Path, data: Path, tmp_path: Path) -> None:
    words = ["fit", "--data", data, "--run", tmp_path / "run", "--set", "epoch=1", "--set", "batch=many"]
    refused = run(config, *words, well=False)
    assert isinstance(refused.exception, ConfigError)
    assert len(refused.exception.problems) == 2


@pytest.mark.slow
def test_a_full_disk_is_said_and_leaves_nothing_half_written(config: Path, data: Path, tmp_path: Path) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    words = ["--config", config, "fit", "--data", data, "--run", tmp_path / "run", *QUICK]
    failed = subprocess.run(
        [sys.executable, "-m", "trainer", *map(str, words)], capture_output=True, text=True, preexec_fn=small_files
    )
    assert failed.returncode == 1, failed.stderr
    assert "Traceback" not in failed.stderr
    assert str(tmp_path / "run") in failed.stderr
    assert not (tmp_path / "run" / "bundle").exists()
    run(config, "resume", tmp_path / "run")
    assert (tmp_path / "run" / "bundle" / "manifest.json").exists()


def test_rounds_share_no_track_between_learning_and_judging(data: Path) -> None:
    from trainer.tracks import manifest

    tracks = [track for track in manifest.read(data).tracks if track.fold >= 0]
    rounds = plan_rounds(tracks, crosswise=True)
    assert [one.name for one in rounds] == ["fold-0", "fold-1", "final"]
    for one in rounds[:-1]:
        assert {track.artist for track in one.learns}.isdisjoint(track.artist for track in one.judged)
        assert not one.valid
    assert sorted(track.path for one in rounds for track in one.judged) == sorted(track.path for track in tracks)
    assert len(rounds[-1].learns) == len(tracks)


def test_a_plan_reads_texts_and_refuses_what_makes_no_sense() -> None:
    plan = CPU.with_changes({"epochs": "3", "depth": "full", "gradient_checkpointing": "yes", "rate": "1e-4"})
    assert (plan.epochs, plan.depth, plan.gradient_checkpointing, plan.rate) == (3, Depth.FULL, True, 1e-4)
    assert Plan("").with_changes(GPU.as_dict()) == GPU
    with pytest.raises(ConfigError) as refused:
        CPU.with_changes({"epochs": 0, "smoothing": 2.0, "ema_decay": 1.0})
    assert len(refused.value.problems) == 3


DATA = os.environ.get("MUSIC_RECLASS_DATA")


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason="MUSIC_RECLASS_DATA is unset: no tracks and no checkpoint")
def test_real_tracks_are_heard_by_the_bundle_as_its_evaluation_says(config: Path, tmp_path: Path) -> None:
    """A head on the pretrained network over some real tracks; the daemon's classes give the evaluation's logits."""
    lines = (Path(DATA or "") / "tracks.csv").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines[1:] if ",jazz," in line or ",classical," in line][::8]
    table = tmp_path / "tracks.csv"
    table.write_text("\n".join([lines[0], *(f"{DATA}/{row}" for row in rows)]) + "\n", encoding="utf-8")
    weights = Path(DATA or "") / "weights" / "efficientat_mn04_as_mAP_432.pt"
    run(config, "dataset", "--table", table, "--out", tmp_path / "data")
    done = run(config, "fit", "--data", tmp_path / "data", "--run", tmp_path / "run", "--start", weights)
    right = float(done.stdout.split("accuracy ")[1].split("%")[0])
    assert right > 80.0
    from trainer.judging.evaluate import Evaluation

    judged = Evaluation.load(tmp_path / "run" / "evaluation")
    fold = judged.heard[0].track.fold
    ensemble = Ensemble(bundle.load(tmp_path / "run" / f"fold-{fold}" / "bundle"), device=Device.CPU, threads=1)
    with Sound(judged.heard[0].track.path) as sound:
        heard = ensemble.hear(sound)
    assert np.allclose(heard.logits, judged.heard[0].logits, atol=1e-3)
