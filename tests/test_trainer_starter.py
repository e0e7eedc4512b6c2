"""Clips and the `starter` command, end to end on a few seconds of made sound."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from make_audio import make

from daemon.core import bundle
from daemon.core.audio import Sound
from daemon.core.errors import BadFile
from daemon.core.inference import Ensemble
from daemon.core.records import Device
from trainer.backbones.mobilenet import MobileNet, load_mobilenet
from trainer.commands import program as cli
from trainer.starter.rows import serve, write_recipes

DATA = os.environ.get("MUSIC_RECLASS_DATA")
CHECKPOINT = Path(DATA or "") / "weights" / "efficientat_mn04_as_mAP_432.pt"
needs_data = pytest.mark.skipif(DATA is None, reason="MUSIC_RECLASS_DATA is unset: no tracks and no checkpoint to test")


def test_mixes_stay_inside_their_fold() -> None:
    folds = [0, 0, 0, 1, 1, 2]
    recipes = write_recipes(folds, speeds=1, mixes=4, seed=0)
    assert len(recipes) == 6 * 6
    assert [recipe.first for recipe in recipes[:6]] == list(range(6))
    assert all(recipe.second < 0 for recipe in recipes[:12])
    mixed = [recipe for recipe in recipes if recipe.second >= 0]
    assert len(mixed) == 24
    assert all(folds[recipe.first] == folds[recipe.second] for recipe in mixed)
    assert all(0.5 <= recipe.share < 0.81 for recipe in mixed)
    assert recipes == write_recipes(folds, speeds=1, mixes=4, seed=0)


def test_windows_are_those_that_the_daemon_hears(tmp_path: Path) -> None:
    served = serve(make(tmp_path / "short.wav", 3.0), 6.0, 5)
    assert served.shape == (1, 64, 299)
    assert serve(make(tmp_path / "long.wav", 20.0), 6.0, 5).shape == (4, 64, 299)


def _manifest(folder: Path) -> Path:
    lines = ["path,genre,artist,dataset,fold"]
    for index in range(9):
        genre = ("chords", "noise", "other")[index % 3]
        make(folder / f"{index}.wav", 2.0, seed=index)
        lines.append(f"{index}.wav,{genre},artist {index},made,{index // 3 % 2}")
    manifest = folder / "tracks.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


def test_starter_command_makes_a_bundle_that_serves(tmp_path: Path) -> None:
    manifest = _manifest(tmp_path)
    out = tmp_path / "bundle"
    arguments = [
        "starter",
        "--tracks",
        str(manifest),
        "--out",
        str(out),
        "--cache",
        str(tmp_path / "cache"),
        "--genres",
        "chords,noise",
        "--steps",
        "2",
        "--batch",
        "4",
        "--width",
        "8",
        "--committee",
        "1",
        "--speeds",
        "1",
        "--mixes",
        "0",
        "--workers",
        "1",
    ]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "accuracy on unseen artists" in result.stdout
    ensemble = Ensemble(bundle.load(out), device=Device.CPU, threads=1)
    with Sound(tmp_path / "0.wav") as sound:
        heard = ensemble.hear(sound)
    assert heard.logits.shape == (1, 2)
    card = (out / "MODEL_CARD.md").read_text()
    assert "**chords or noise**" in card
    here = str(Path(__file__).resolve().parent.parent)
    for path in out.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()
        assert here.encode() not in path.read_bytes()
    assert json.loads((out / "manifest.json").read_text())["training_data"]["tracks"] == 9
    again = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert "0 of them to train" in again.stderr


def test_starter_refuses_a_genre_that_only_one_fold_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainer.__main__ import main

    make(tmp_path / "a.wav", 1.0)
    (tmp_path / "tracks.csv").write_text("path,genre,fold\na.wav,jazz,0\n")
    monkeypatch.setattr(
        "sys.argv",
        [
            "music-reclass-train",
            "starter",
            "--tracks",
            str(tmp_path / "tracks.csv"),
            "--out",
            str(tmp_path / "out"),
            "--genres",
            "jazz,rock",
        ],
    )
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "genre 'rock' needs tracks in at least two folds, it has them in 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_wrong_usage_exits_with_two_and_help_has_an_example(tmp_path: Path) -> None:
    assert CliRunner().invoke(cli, ["starter"]).exit_code == 2
    (tmp_path / "tracks.csv").write_text("path,genre,fold\n")
    one = CliRunner().invoke(cli, ["starter", "--tracks", str(tmp_path / "tracks.csv"), "--out", "x", "--genres", "a"])
    assert one.exit_code == 2
    helped = CliRunner().invoke(cli, ["starter", "--help"])
    assert helped.exit_code == 0
    assert "Example:" in helped.output


def test_mobilenet_has_the_published_size() -> None:
    weights = sum(parameter.numel() for parameter in MobileNet().parameters())
    assert weights == 983_599
    heard = MobileNet().eval().hear(torch.zeros(1, 32000))
    assert heard.pooled.shape == (1, 384)
    assert heard.source_logits.shape == (1, 527)


def test_checkpoint_of_something_else_is_a_bad_file(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(BadFile, match="is not an EfficientAT checkpoint"):
        load_mobilenet(tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("no tensors here")
    with pytest.raises(BadFile, match="is no file of weights"):
        load_mobilenet(tmp_path / "text.pt")


@pytest.mark.data
@needs_data
@pytest.mark.parametrize(
    ("track", "expected"),
    [
        ("classical/gtzan-classical.00000.opus", "Classical music"),
        ("metal/gtzan-metal.00000.opus", "Heavy metal"),
    ],
)
def test_real_checkpoint_hears_what_is_there(track: str, expected: str) -> None:
    names = [
        line.split(",", 2)[2].strip().strip('"')
        for line in (CHECKPOINT.parent / "audioset_class_labels_indices.csv").read_text().splitlines()[1:]
    ]
    with Sound(Path(DATA or "") / "tracks" / track) as sound:
        waveform = sound.read(5.0, 10.0, 32000)
    with torch.inference_mode():
        heard = load_mobilenet(CHECKPOINT).hear(torch.from_numpy(waveform)[None])
    top = [names[index] for index in heard.source_logits[0].topk(8).indices.tolist()]
    assert top[0] == "Music"
    assert expected in top
