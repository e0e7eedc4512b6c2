"""Bundles as the trainer writes them: the graph says what torch says, variants are measured; all of it or nothing."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import resource
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from make_audio import make
from numpy.typing import NDArray
from torch import Tensor, nn

from daemon.core import bundle
from daemon.core.audio import Sound
from daemon.core.errors import BadFile, BundleError, TryLater
from daemon.core.inference import Ensemble, Heard
from daemon.core.records import Device, Precision
from daemon.core.segments import tiled
from trainer.backbones.ast import Ast, Scale
from trainer.backbones.compact import Committee, Compact
from trainer.backbones.contract import Backbone
from trainer.backbones.mobilenet import MobileNet, load_mobilenet
from trainer.frontends import LogMel, MelSettings
from trainer.head import Head
from trainer.learning.classifier import Classifier
from trainer.shipping import plain, variants
from trainer.shipping.draft import drafted
from trainer.shipping.export import WEIGHTS, Contents, Extra, Part, export
from trainer.shipping.graph import check_parity, cut, embedding_of, golden_waveform, join, write_graph
from trainer.shipping.variants import Made, Trial, is_recommended, measure_loss

Array = NDArray[np.float32]

LABELS = ("a", "b", "c")
RATE_HZ, SECONDS, LOUD = 8000, 1.0, 0.7
MEL = MelSettings(RATE_HZ, 256, 256, 160, 24, 60.0, 3900.0, 1e-5, 0.0, centred=False)


class Small(Backbone):
    """Two convolutions over a log-mel of 24 bands: the least that has what an encoder has, so that exporting it takes
    a second or two, less where the window is fixed. `size` multiplies the embedding."""

    sample_rate_hz, window_s, embedding_dim, frames_per_s = RATE_HZ, SECONDS, 24, 50.0
    fixed_window = True

    def __init__(self, size: float = 1.0) -> None:
        super().__init__()
        self.size = size
        self.log_mel = LogMel(MEL)
        self.narrow = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.wide = nn.Sequential(nn.Conv2d(16, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())

    def front(self, waveform: Tensor) -> Tensor:
        picture: Tensor = (self.log_mel(waveform) + 4.0) / 4.0
        return picture

    def embed(self, picture: Tensor) -> Tensor:
        embedding: Tensor = self.wide(self.narrow(picture[:, None])).mean((2, 3)) * self.size
        return embedding


class Fine(Small):
    """As `Small`, at a rate of its own."""

    sample_rate_hz, frames_per_s = 16_000, 100.0


class Clipping(Small):
    """Hears loud sound otherwise once it is exported, and quiet sound alike: what a wrong operator may come to."""

    def front(self, waveform: Tensor) -> Tensor:
        return super().front(waveform.clamp(-LOUD, LOUD) if torch.compiler.is_exporting() else waveform)


def small(size: float = 1.0, kind: type[Small] = Small) -> Small:
    torch.manual_seed(0)
    return kind(size).eval()


def head_for(encoder: Backbone, seed: int = 0) -> Head:
    """A head under which different windows get different labels."""
    weights = np.random.default_rng(seed).normal(size=(len(LABELS), encoder.embedding_dim))
    heard = embedding_of(encoder, real_sound(encoder.sample_rate_hz, encoder.window_s))
    weights = weights / heard.std(0).mean()
    return Head(weights.astype(np.float32), -(heard.mean(0) @ weights.T).astype(np.float32))


def real_sound(rate_hz: int = RATE_HZ, window_s: float = SECONDS, tracks: int = 12) -> Array:
    """One window of each of some tunes, float32 [tracks, samples]."""
    from make_audio import waveform

    return np.stack([waveform(window_s, seed, rate_hz)[0] for seed in range(tracks)])


def contents_of(*parts: Part, **changes: Any) -> Contents:
    contents = Contents(
        id="tiny-1",
        members=parts,
        labels=LABELS,
        segments=3,
        temperature=1.5,
        thresholds=dict.fromkeys(LABELS, 0.6),
        description={"metrics": {}, "training_data": {}, "provenance": {}},
        card="# Tiny\n",
    )
    return replace(contents, **changes)


def contents_for(encoder: Backbone, **changes: Any) -> Contents:
    return contents_of(Part("small", encoder, head_for(encoder), encoder.window_s), **changes)


def trial_of(sound: Array, windows: int = 2) -> Trial:
    """Each `windows` rows of `sound` as one track, of the labels in turn."""
    tracks = len(sound) // windows
    targets = [track % len(LABELS) for track in range(tracks)]
    return Trial(tracks, lambda track: sound[track * windows : (track + 1) * windows], targets)


def manifest_of(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / bundle.MANIFEST).read_text(encoding="utf-8"))
    return manifest


def hear(folder: Path, path: Path, precision: Precision = Precision.FP32) -> Heard:
    ensemble = Ensemble(bundle.load(folder), device=Device.CPU, precision=precision, threads=1)
    with Sound(path) as sound:
        return ensemble.hear(sound)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# The graph


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> tuple[Backbone, Path]:
    """An encoder and its graph; exporting takes seconds, so it is done once."""
    encoder, path = small(), tmp_path_factory.mktemp("graph") / "tiny.onnx"
    encoder.fixed_window = False
    write_graph(encoder, path, RATE_HZ)
    return encoder, path


def test_exported_graph_takes_any_batch_and_length(graph: tuple[Backbone, Path]) -> None:
    assert check_parity(*graph, golden_waveform(SECONDS, RATE_HZ)) < 1e-4
    assert check_parity(*graph, golden_waveform(1.7, RATE_HZ)) < 1e-4


def test_graph_that_says_something_else_is_not_exported(graph: tuple[Backbone, Path]) -> None:
    with pytest.raises(BundleError, match=r"tiny.onnx: ONNX Runtime differs from torch by"):
        check_parity(Small().eval(), graph[1], golden_waveform(SECONDS, RATE_HZ))


def test_an_encoder_that_gives_no_numbers_is_not_exported(graph: tuple[Backbone, Path]) -> None:
    encoder = small()
    with torch.no_grad():
        next(encoder.parameters()).fill_(float("nan"))
    with pytest.raises(BundleError, match="differs from torch by nan"):
        check_parity(encoder, graph[1], golden_waveform(SECONDS, RATE_HZ))


def test_golden_sound_is_within_full_scale_and_always_the_same() -> None:
    waveform = golden_waveform(6.0, 16000)
    assert waveform.shape == (2, 96000)
    assert waveform.dtype == np.float32
    assert np.abs(waveform).max() <= 1.0
    assert np.array_equal(waveform, golden_waveform(6.0, 16000))


def test_halves_of_a_graph_make_the_graph_again(graph: tuple[Backbone, Path], tmp_path: Path) -> None:
    front, network = cut(onnx.load(graph[1]))
    assert [node.op_type for node in front.graph.node][-3:] == ["Log", "Add", "Div"]
    assert not {c.name for c in front.graph.initializer} & {c.name for c in network.graph.initializer}
    onnx.save(join(front, network), tmp_path / "joined.onnx")
    assert check_parity(graph[0], tmp_path / "joined.onnx", golden_waveform(SECONDS, RATE_HZ)) < 1e-4


# All or nothing


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Whatever stood where the bundle is to be."""
    folder = tmp_path / "place" / "tiny-1"
    folder.mkdir(parents=True)
    (folder / "old").write_text("old")
    return folder


def untouched(folder: Path) -> bool:
    return left_in(folder.parent) == [folder.name] and left_in(folder) == ["old"]


def test_a_graph_that_errs_on_real_sound_only_fails_the_export(old: Path) -> None:
    """The synthetic sound is not loud enough to tell; the tracks that the caller passes are."""
    assert np.abs(golden_waveform(SECONDS, RATE_HZ)).max() < LOUD < np.abs(real_sound() * 1.6).max()
    with pytest.raises(BundleError, match=r"small\.onnx: ONNX Runtime differs from torch by"):
        export(contents_for(small(kind=Clipping)), old, sound=real_sound() * np.float32(1.6))
    assert untouched(old)


@contextlib.contextmanager
def small_disk() -> Iterator[None]:
    """No file may grow beyond 20 kB: the graph is larger."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_old_bundle_and_no_half_of_a_new_one(old: Path) -> None:
    contents = contents_for(small())
    with small_disk(), pytest.raises(TryLater, match="file too large") as caught:
        export(contents, old)
    assert caught.value.path == old
    assert untouched(old)
    # Once there is room, the bundle takes the place of the old one.
    assert export(contents, old, sound=real_sound()) == []
    assert left_in(old.parent) == [old.name]
    assert left_in(old) == ["MODEL_CARD.md", "golden.npz", "manifest.json", "small.head.npz", "small.onnx"]
    assert old.stat().st_mode & 0o777 == 0o755
    here = str(Path(__file__).resolve().parent.parent).encode()
    assert not [path for path in old.iterdir() if here in path.read_bytes() or str(old).encode() in path.read_bytes()]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
def test_weights_for_torch_that_do_not_fit_leave_the_old_bundle(tmp_path: Path) -> None:
    """torch writes them itself, and has errors of its own for a full disk."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=320k", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("this root may not mount a file system")
    try:
        (place / "tiny-1").mkdir()
        (place / "tiny-1" / "old").write_text("old")
        encoder = small()
        encoder.register_buffer("large", torch.randn(200_000))
        with pytest.raises(TryLater, match="no space left on device") as caught:
            export(contents_for(encoder), place / "tiny-1", extras=[Extra.TORCH])
        assert caught.value.path == place / "tiny-1"
        assert untouched(place / "tiny-1")
    finally:
        subprocess.run(["umount", place], check=True)


def test_what_a_killed_program_left_is_tidied_and_what_a_running_one_writes_is_not(tmp_path: Path) -> None:
    killed, running = tmp_path / ".new.draft-killed", tmp_path / ".new.draft-running"
    for folder in (killed, running, tmp_path / ".newer.draft-killed"):
        folder.mkdir()
        (folder / "half").write_text("half")
    held = os.open(running, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with drafted(tmp_path / "new") as draft:
        (draft / "whole").write_text("whole")
    os.close(held)
    assert left_in(tmp_path) == [".new.draft-running", ".newer.draft-killed", "new"]


def test_two_folders_change_places_or_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the file system cannot exchange two names."""
    for exchange in (True, False):
        if not exchange:
            monkeypatch.setattr("trainer.shipping.draft._exchange", lambda one, other: False)
        with drafted(tmp_path / "new") as draft:
            (draft / f"{exchange}").write_text("whole")
        assert left_in(tmp_path) == ["new"]
        assert left_in(tmp_path / "new") == [str(exchange)]


def test_a_draft_that_fails_is_gone(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="disk"), drafted(tmp_path / "new") as draft:
        (draft / "half").write_text("half")
        raise OSError(errno.EIO, "disk")
    assert left_in(tmp_path) == []


# What is in it


def test_golden_outputs_are_given_room_by_their_size(tmp_path: Path) -> None:
    """float32 rounds relative to what it rounds, so large embeddings differ by more from machine to machine."""
    encoder = small(size=100.0)
    export(contents_for(encoder), tmp_path / "large")
    size = float(np.sqrt(np.square(embedding_of(encoder, golden_waveform(SECONDS, RATE_HZ))).mean()))
    assert size > 5.0
    assert bundle.load(tmp_path / "large").manifest.golden_tolerance == pytest.approx(1e-3 * size, rel=1e-3)


def test_members_hear_at_their_own_rates(tmp_path: Path) -> None:
    first, second = small(), small(kind=Fine)
    parts = Part("small", first, head_for(first), SECONDS, 2.0), Part("fine", second, head_for(second), 2.0)
    sound = {"small": real_sound(), "fine": real_sound(16_000, 2.0)}
    with pytest.raises(ValueError, match="several members"):
        export(contents_of(*parts), tmp_path / "pair", sound=real_sound())
    export(contents_of(*parts), tmp_path / "pair", sound=sound, extras=[Extra.TORCH])
    loaded = bundle.load(tmp_path / "pair")
    assert [(member.sample_rate_hz, member.window_s, member.weight) for member in loaded.members] == [
        (8000, 1.0, 2.0),
        (16_000, 2.0, 1.0),
    ]
    assert {WEIGHTS, "fine.pth"} <= set(left_in(tmp_path / "pair"))
    assert hear(tmp_path / "pair", make(tmp_path / "tune.wav", 8.0)).logits.shape[1] == len(LABELS)


# Variants


@dataclass(frozen=True)
class Everything:
    """A bundle with all that there may be in one."""

    folder: Path
    encoder: Backbone
    head: Head
    made: Mapping[Precision, Made]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Everything:
    """Of convolutions."""
    folder = tmp_path_factory.mktemp("everything") / "small"
    report = tmp_path_factory.mktemp("report")
    (report / "report.md").write_text("# Report")
    encoder = small()
    head = head_for(encoder)
    told = {"metrics": {"tracks": 3}, "training_data": {}, "provenance": {"trainer": "tests"}}
    origin = {"parent": "tiny-0", "licence": "MIT", "taxonomy_hash": "f" * 64, "report": report, "description": told}
    contents = contents_of(Part("small", encoder, head, SECONDS), **origin)
    trial = trial_of(real_sound(tracks=48))
    capture = pytest.MonkeyPatch()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    capture.setattr(tempfile, "tempdir", str(elsewhere))
    handlers = list(logging.getLogger().handlers)
    made = export(contents, folder, sound=real_sound(), trial=trial, extras=list(Extra))
    assert logging.getLogger().handlers == handlers
    assert tempfile.tempdir == str(elsewhere)
    assert left_in(elsewhere) == []
    capture.undo()
    return Everything(folder, encoder, head, {variant.precision: variant for variant in made})


PRECISIONS = [Precision.FP16, Precision.INT8]


def test_the_manifest_says_where_it_comes_from(everything: Everything) -> None:
    manifest = bundle.load(everything.folder).manifest
    assert (manifest.parent, manifest.licence, manifest.taxonomy_hash) == ("tiny-0", "MIT", "f" * 64)
    assert manifest.metrics == {"tracks": 3}
    assert (manifest.decision.segments, manifest.decision.temperature) == (3, 1.5)
    assert (everything.folder / "report" / "report.md").read_text() == "# Report"


def test_a_bundle_with_variants_holds_nothing_else(everything: Everything) -> None:
    assert left_in(everything.folder) == [
        "MODEL_CARD.md",
        "golden.npz",
        "manifest.json",
        "music_classifier.pth",
        "report",
        "small.fp16.onnx",
        "small.head.npz",
        "small.int8.onnx",
        "small.onnx",
    ]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_variant_is_measured_against_fp32(everything: Everything, precision: Precision) -> None:
    (member,) = manifest_of(everything.folder)["members"]
    (told,) = [variant for variant in member["variants"] if variant["precision"] == precision]
    assert told["device"] == ("cuda" if precision is Precision.FP16 else "cpu")
    measured = told["measured"]
    assert measured == everything.made[precision].measured
    assert (measured["tracks"], measured["windows"]) == (18, 36)
    assert measured["calibration_tracks"] == (6 if precision is Precision.INT8 else 0)
    assert 0.0 <= measured["tracks_changed"] <= 1.0
    assert measured["largest_logit_difference"] >= measured["mean_logit_difference"] > 0.0
    assert 0.0 < measured["distance"] < 0.2
    assert 0.0 <= measured["accuracy"] <= 1.0
    assert abs(measured["accuracy"] - measured["accuracy_fp32"]) <= measured["tracks_changed"]
    assert measured["speedup"] == pytest.approx(measured["ms_per_window_fp32"] / measured["ms_per_window"])
    for key, name in (("bytes", f"small.{precision}.onnx"), ("bytes_fp32", "small.onnx")):
        assert measured[key] == (everything.folder / name).stat().st_size
    assert measured["measured_on"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_variant_serves_as_an_encoder_of_its_own(
    everything: Everything, precision: Precision, tmp_path: Path
) -> None:
    tune = make(tmp_path / "tune.wav", 6.0, seed=3)
    plain, heard = hear(everything.folder, tune), hear(everything.folder, tune, precision)
    assert heard.windows == plain.windows
    assert set(heard.embeddings).isdisjoint(plain.embeddings)
    apart = np.abs(heard.logits - plain.logits).max()
    assert 0.0 < apart < 0.5 * np.abs(plain.logits).max()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_front_end_of_a_variant_is_that_of_fp32(everything: Everything, precision: Precision) -> None:
    plain = onnx.load(everything.folder / "small.onnx")
    variant = onnx.load(everything.folder / f"small.{precision}.onnx")
    for one, other in zip(cut(plain)[0].graph.node, cut(variant)[0].graph.node, strict=True):
        assert one.SerializeToString() == other.SerializeToString()
    constants = {constant.name: constant.SerializeToString() for constant in variant.graph.initializer}
    for constant in cut(plain)[0].graph.initializer:
        assert constants[constant.name] == constant.SerializeToString()
    onnx.checker.check_model(variant)
    ends = [*variant.graph.input, *variant.graph.output]
    assert {end.type.tensor_type.elem_type for end in ends} == {onnx.TensorProto.FLOAT}


def kinds(folder: Path, name: str) -> set[str]:
    return {node.op_type for node in onnx.load(folder / name).graph.node}


def test_wide_convolutions_are_quantised_with_ranges_from_real_sound(everything: Everything) -> None:
    graph = onnx.load(everything.folder / "small.int8.onnx").graph
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in graph.node}
    stored = {constant.name: (constant.data_type, tuple(constant.dims)) for constant in graph.initializer}
    held = [kind for kind, shape in stored.values() if len(shape) == 4]
    # The narrow convolution stays as it is, and so does the front end's, which has three dimensions.
    assert sorted(held) == sorted([onnx.TensorProto.FLOAT, onnx.TensorProto.INT8])


def test_half_precision_halves_the_network(everything: Everything) -> None:
    stored = {c.name: c.data_type for c in onnx.load(everything.folder / "small.fp16.onnx").graph.initializer}
    assert onnx.TensorProto.FLOAT16 in stored.values()
    assert [kind for name, kind in stored.items() if "kernel" in name or "mel" in name] == [onnx.TensorProto.FLOAT] * 2


def test_a_transformer_is_quantised_as_it_runs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    encoder = Ast.random(**sizes, max_length=64).eval()
    contents = contents_for(encoder)
    trial = trial_of(real_sound(encoder.sample_rate_hz, encoder.window_s))
    made = export(contents, tmp_path / "ast", trial=trial, extras=[Extra.FP16, Extra.INT8])
    assert [(variant.precision, variant.left_out) for variant in made] == [(each, "") for each in PRECISIONS]
    assert "MatMulInteger" in kinds(tmp_path / "ast", "small.int8.onnx")
    assert "MatMulInteger" not in kinds(tmp_path / "ast", "small.onnx")
    assert [variant.measured["calibration_tracks"] for variant in made] == [0, 0]
    assert all(variant.measured["distance"] < 0.2 for variant in made)


def test_a_variant_that_overflows_is_left_out_and_says_so(tmp_path: Path) -> None:
    """The largest number of fp16 is 65504."""
    contents = contents_for(small(size=1e6))
    (made,) = export(contents, tmp_path / "large", trial=trial_of(real_sound()), extras=[Extra.FP16])
    assert "gives something else than fp32" in made.left_out
    assert (made.recommended, made.measured) == (False, {})
    assert "small.fp16.onnx" not in left_in(tmp_path / "large")
    assert bundle.load(tmp_path / "large").members[0].variants == ()


def test_a_variant_without_tracks_to_measure_it_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="small: variants are measured on real tracks"):
        export(contents_for(small()), tmp_path / "new", extras=[Extra.INT8])
    assert left_in(tmp_path) == []


def test_making_variants_prints_nothing(everything: Everything, tmp_path: Path, capfd: Any, caplog: Any) -> None:
    contents = contents_of(Part("small", everything.encoder, everything.head, SECONDS))
    export(contents, tmp_path / "new", trial=trial_of(real_sound()), extras=list(Extra))
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


class _Opposite:
    """An encoder that says the opposite of what the first one says."""

    def embed(self, waveform: Array) -> Array:
        return -waveform


def test_the_loss_is_counted_in_decisions(everything: Everything) -> None:
    """Embeddings are their own windows here, so that every number can be told beforehand."""
    head = Head(np.eye(2, dtype=np.float32), np.zeros(2, np.float32))
    tracks = [np.float32([[1.0, 0.0], [3.0, 0.0]]), np.float32([[0.0, 2.0], [2.0, 0.0]]), np.float32([[0.0, 1.0]])]
    trial = Trial(3, lambda track: tracks[track], [0, -1, 0])
    loss = measure_loss(lambda track: tracks[track], _Opposite(), head, trial, [0, 2])  # type: ignore[arg-type]
    assert loss["tracks"] == 2
    assert loss["windows"] == 3
    assert (loss["tracks_changed"], loss["windows_changed"]) == (1.0, 1.0)
    assert loss["largest_logit_difference"] == 4.0
    assert loss["distance"] == pytest.approx(2.0)
    assert (loss["accuracy_fp32"], loss["accuracy"]) == (0.5, 0.5)
    without = measure_loss(lambda track: tracks[track], _Opposite(), head, trial, [1])  # type: ignore[arg-type]
    assert "accuracy" not in without


MEASURED = {"tracks": 150, "windows": 450, "tracks_changed": 0.005, "windows_changed": 0.02, "speedup": 1.4}


@pytest.mark.parametrize(
    ("precision", "changes", "recommended"),
    [
        (Precision.INT8, {}, True),
        (Precision.INT8, {"tracks_changed": 0.01}, False),
        (Precision.INT8, {"speedup": 1.29}, False),
        (Precision.INT8, {"tracks": 40}, False),
        (Precision.INT8, {"tracks": 40, "windows_changed": 0.0}, True),
        (Precision.INT8, {"tracks": 20, "windows": 60, "windows_changed": 0.0}, False),
        (Precision.FP16, {"speedup": 0.2}, True),
        (Precision.FP16, {"tracks_changed": 0.01}, False),
    ],
)
def test_a_variant_is_recommended_by_its_numbers(
    precision: Precision, changes: dict[str, Any], recommended: bool
) -> None:
    assert is_recommended(precision, MEASURED | changes) is recommended


def test_an_encoder_that_only_got_another_head_is_shared(everything: Everything, tmp_path: Path) -> None:
    part = Part("small", everything.encoder, head_for(everything.encoder, seed=5), SECONDS)
    export(contents_of(part, id="tiny-2", parent="tiny-1"), tmp_path / "2", sharing=everything.folder)
    assert (tmp_path / "2" / "small.onnx").samefile(everything.folder / "small.onnx")
    assert not (tmp_path / "2" / "small.head.npz").samefile(everything.folder / "small.head.npz")
    Ensemble(bundle.load(tmp_path / "2"), device=Device.CPU, threads=1)


def test_an_encoder_of_a_fixed_window_gets_a_graph_for_it_alone(everything: Everything) -> None:
    with pytest.raises(BundleError, match=r"small\.onnx: ONNX Runtime fails on it"):
        check_parity(everything.encoder, everything.folder / "small.onnx", golden_waveform(1.5, RATE_HZ))


@pytest.mark.slow
@pytest.mark.data
def test_the_published_network_loses_little_on_real_tracks(data_dir: Path, tmp_path: Path) -> None:
    encoder = load_mobilenet(data_dir / "weights" / "efficientat_mn04_as_mAP_432.pt")
    windows = []
    for path in sorted((data_dir / "tracks").rglob("*.opus"))[::20]:
        with Sound(path) as sound:
            windows.append(tiled(sound.read(5.0, encoder.window_s, encoder.sample_rate_hz), 320_000))
    sound_of_all = np.stack(windows)
    weights = np.random.default_rng(0).normal(size=(len(LABELS), encoder.embedding_dim)).astype(np.float32)
    part = Part("mobilenet", encoder, Head(weights, np.zeros(3, np.float32)), encoder.window_s)
    trial = trial_of(sound_of_all, 1)
    made = export(contents_of(part), tmp_path / "real", sound=sound_of_all[:4], trial=trial, extras=list(Extra))
    assert [variant.left_out for variant in made] == ["", ""]
    half, quantised = (variant.measured for variant in made)
    assert half["distance"] < 0.03
    assert quantised["distance"] < 0.2
    assert quantised["bytes"] < quantised["bytes_fp32"]


# Weights for torch


def test_the_weights_for_torch_say_what_the_bundle_says(everything: Everything) -> None:
    saved = torch.load(everything.folder / WEIGHTS, weights_only=True)
    assert saved["labels"] == list(LABELS)
    assert (saved["backbone"], saved["sample_rate_hz"], saved["window_s"]) == ("small", RATE_HZ, SECONDS)
    classifier = Classifier(Small(), saved["labels"])
    classifier.load_state_dict(saved["state_dict"])
    golden = bundle.load(everything.folder).golden["small"]
    with torch.inference_mode():
        logits = classifier.eval()(classifier.backbone.front(torch.from_numpy(golden.waveform)))
    np.testing.assert_allclose(logits.numpy(), golden.logits, atol=1e-4)


def networks() -> dict[str, Backbone]:
    """One of each network, of other sizes than it has by default."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    return {
        "ast": Ast(Ast.random(**sizes, max_length=64, num_labels=5).model, Scale(-3.0, 2.0)),
        "compact": Compact(8, 16),
        "committee": Committee([Compact(8, 16), Compact(16, 8)]),
        "mobilenet": MobileNet(0.2, 7),
    }


@pytest.mark.parametrize("name", ["ast", "compact", "committee", "mobilenet"])
def test_every_network_comes_back_from_its_weights(name: str, tmp_path: Path) -> None:
    encoder = networks()[name].eval()
    sound = real_sound(encoder.sample_rate_hz, 1.0, tracks=2)
    embedding = embedding_of(encoder, sound)
    head = Head(np.ones((3, encoder.embedding_dim), np.float32), np.float32([1, 2, 3]))
    plain.save(tmp_path / WEIGHTS, name, encoder, head, LABELS, 1.0, 1.5)
    model = plain.load(tmp_path / WEIGHTS)
    with torch.inference_mode():
        logits = model(model.backbone.front(torch.from_numpy(sound)))
    assert model.labels == LABELS
    np.testing.assert_allclose(logits.numpy(), head.logits(embedding), atol=1e-5)


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_a_file_of_something_else_is_no_model(tmp_path: Path, content: bytes | None) -> None:
    if content is None:
        torch.save({"state_dict": {"weight": torch.zeros(3)}, "labels": [], "backbone": "x"}, tmp_path / "other.pth")
    else:
        (tmp_path / "other.pth").write_bytes(content)
    with pytest.raises(BadFile, match=r"other\.pth: is no model that this program wrote for torch"):
        plain.load(tmp_path / "other.pth")


# Nothing is reported


def test_onnx_runtime_is_told_to_report_nothing_before_it_is_loaded() -> None:
    source = Path(variants.__file__).read_text(encoding="utf-8")
    assert 0 < source.index("from daemon.core import inference") < source.index("import onnxruntime")
