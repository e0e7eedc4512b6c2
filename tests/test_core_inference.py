"""A bundle at work: golden outputs reproduced before it serves, and real files heard as what they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from make_audio import encode
from make_bundle import SAMPLE_RATE_HZ, TONES_HZ, WINDOW_S, add_variant, make_bundle, make_track, tone
from onnx import TensorProto, helper

from daemon.core import bundle
from daemon.core.audio import Sound
from daemon.core.bundle import Bundle
from daemon.core.decide import Rule, decide
from daemon.core.errors import BundleError
from daemon.core.inference import Encoder, Ensemble, Heard, cuda_available, head_logits
from daemon.core.records import Device, Precision, Window

LABELS = tuple(TONES_HZ)


@pytest.fixture(scope="module")
def serving(tone_bundle: Path) -> Ensemble:
    return Ensemble(bundle.load(tone_bundle), device=Device.CPU, threads=1)


@pytest.fixture
def folder(tone_bundle: Path, tmp_path: Path) -> Path:
    """A sealed bundle of one's own to change."""
    return Path(shutil.copytree(tone_bundle, tmp_path / "changed"))


@pytest.fixture(scope="module")
def tracks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tones")
    for label in LABELS:
        make_track(folder / f"{label}.flac", label, seconds=9.0)
    return folder


def hear(ensemble: Ensemble, path: Path, segment_count: int | None = None) -> Heard:
    with Sound(path) as sound:
        return ensemble.hear(sound, segment_count)


def best_of(heard: Heard) -> str:
    return LABELS[int(heard.logits.mean(axis=0).argmax())]


def resealed(folder: Path, **changes: Any) -> Bundle:
    """Seal what lies in `folder` with changes to its manifest, and load it."""
    manifest = json.loads((folder / bundle.MANIFEST).read_text(encoding="utf-8")) | changes
    bundle.seal(folder, manifest)
    return bundle.load(folder)


def save_arrays(path: Path, **arrays: Any) -> None:
    with np.load(path) as archive:
        kept = {name: archive[name] for name in archive.files}
    np.savez(path, **(kept | arrays))


def array_of(path: Path, name: str) -> Any:
    with np.load(path) as archive:
        return archive[name]


def save_graph(path: Path, nodes: list[Any], input_name: str = "waveform", output_name: str = "embedding") -> None:
    """A graph from `nodes` that map [batch, samples] to [batch, 1]."""
    graph = helper.make_graph(
        nodes,
        "other",
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, ["batch", "samples"])],
        [helper.make_tensor_value_info(output_name, TensorProto.FLOAT, ["batch", 1])],
        [helper.make_tensor("axis", TensorProto.INT64, [1], [1])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


def refusal_of(loaded: Bundle) -> str:
    with pytest.raises(BundleError) as caught:
        Ensemble(loaded, device=Device.CPU, threads=1)
    return str(caught.value)


# Before it serves


def test_golden_outputs_are_reproduced(serving: Ensemble) -> None:
    assert serving.device is Device.CPU


@pytest.mark.parametrize("part", ["embedding", "logits"])
def test_golden_outputs_that_differ_are_refused(folder: Path, part: str) -> None:
    golden = array_of(folder / "golden.npz", f"tones.{part}")
    save_arrays(folder / "golden.npz", **{f"tones.{part}": golden + np.float32(0.02)})
    assert "golden outputs differ" in refusal_of(resealed(folder))


def test_golden_outputs_may_differ_by_the_tolerance(folder: Path) -> None:
    """Another processor rounds otherwise."""
    golden = array_of(folder / "golden.npz", "tones.embedding")
    save_arrays(folder / "golden.npz", **{"tones.embedding": golden + np.float32(5e-4)})
    Ensemble(resealed(folder), device=Device.CPU, threads=1)
    assert "golden outputs differ" in refusal_of(resealed(folder, golden_tolerance=1e-4))


def test_a_changed_head_is_noticed(folder: Path) -> None:
    save_arrays(folder / "tones.head.npz", weights=np.eye(3, dtype=np.float32)[::-1].copy())
    assert "golden outputs differ" in refusal_of(resealed(folder))


@pytest.mark.parametrize("content", [b"", b"text", b"\x08\x09" * 500])
def test_an_encoder_that_is_no_graph_is_refused(folder: Path, content: bytes) -> None:
    (folder / "tones.onnx").write_bytes(content)
    assert "is not a graph that ONNX Runtime can run" in refusal_of(resealed(folder))


def test_a_truncated_graph_is_refused(folder: Path) -> None:
    content = (folder / "tones.onnx").read_bytes()
    (folder / "tones.onnx").write_bytes(content[: len(content) // 2])
    assert "is not a graph that ONNX Runtime can run" in refusal_of(resealed(folder))


def test_an_operator_of_nobodys_is_refused(folder: Path) -> None:
    save_graph(folder / "tones.onnx", [helper.make_node("Whistle", ["waveform"], ["embedding"], domain="org.example")])
    assert "is not a graph that ONNX Runtime can run" in refusal_of(resealed(folder))


@pytest.mark.parametrize(("source", "target"), [("audio", "embedding"), ("waveform", "logits")])
def test_a_graph_with_other_inputs_or_outputs_is_refused(folder: Path, source: str, target: str) -> None:
    mean = helper.make_node("ReduceMean", [source, "axis"], [target], keepdims=1)
    save_graph(folder / "tones.onnx", [mean], source, target)
    assert f"maps ['{source}'] to ['{target}'], not waveform to embedding" in refusal_of(resealed(folder))


def test_an_embedding_of_another_dimension_is_refused(folder: Path) -> None:
    mean = helper.make_node("ReduceMean", ["waveform", "axis"], ["embedding"], keepdims=1)
    save_graph(folder / "tones.onnx", [mean])
    assert "gives shape (3, 1), not (3, 3)" in refusal_of(resealed(folder))


def test_a_graph_that_gives_no_numbers_is_refused(folder: Path) -> None:
    """Its golden outputs cannot be right: a NaN is not near anything."""
    nodes = [
        helper.make_node("ReduceMax", ["waveform", "axis"], ["max"], keepdims=1),
        helper.make_node("Sub", ["max", "max"], ["zero"]),
        helper.make_node("Div", ["zero", "zero"], ["embedding"]),
    ]
    save_graph(folder / "tones.onnx", nodes)
    save_arrays(folder / "tones.head.npz", weights=np.ones((3, 1), np.float32))
    zeros = np.zeros((3, 1), np.float32)
    save_arrays(folder / "golden.npz", **{"tones.embedding": zeros})
    manifest = json.loads((folder / bundle.MANIFEST).read_text())
    members = [manifest["members"][0] | {"embedding_dim": 1}]
    assert "golden outputs differ by nan" in refusal_of(resealed(folder, members=members))


def test_a_graph_that_cannot_run_on_its_golden_input_is_refused(folder: Path) -> None:
    save_arrays(folder / "golden.npz", **{"tones.waveform": np.zeros((3, 10), np.float32)})
    assert "fails on its golden input" in refusal_of(resealed(folder))


def test_opening_a_bundle_prints_nothing(tone_bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Ensemble(bundle.load(tone_bundle), threads=1)
    assert capfd.readouterr() == ("", "")


# Devices


@pytest.mark.skipif(cuda_available(), reason="this machine has CUDA")
def test_cuda_asked_for_by_name_and_not_there_is_refused(tone_bundle: Path) -> None:
    with pytest.raises(BundleError, match="no CUDA device"):
        Ensemble(bundle.load(tone_bundle), device=Device.CUDA)


@pytest.mark.skipif(cuda_available(), reason="this machine has CUDA")
def test_without_cuda_auto_is_the_processor(tone_bundle: Path) -> None:
    assert Ensemble(bundle.load(tone_bundle), device=Device.AUTO, threads=1).device is Device.CPU


@pytest.mark.skipif(not cuda_available(), reason="no CUDA device answers here")
def test_on_cuda_the_golden_outputs_are_reproduced_and_tracks_heard(tone_bundle: Path, tracks: Path) -> None:
    ensemble = Ensemble(bundle.load(tone_bundle), device=Device.AUTO)
    assert ensemble.device is Device.CUDA
    assert best_of(hear(ensemble, tracks / "jazz.flac")) == "jazz"


# Variants


def served(folder: Path, precision: Precision) -> Ensemble:
    return Ensemble(bundle.load(folder), device=Device.CPU, precision=precision, threads=1)


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FP16])
def test_a_precision_asked_for_serves_under_a_hash_of_its_own(folder: Path, tracks: Path, precision: Precision) -> None:
    """What is stored of one encoder is never taken for the other's."""
    add_variant(folder, precision, recommended=False)
    plain, varied = served(folder, Precision.FP32), served(folder, precision)
    assert (plain.precisions, varied.precisions) == ({"tones": Precision.FP32}, {"tones": precision})
    one, other = hear(plain, tracks / "jazz.flac"), hear(varied, tracks / "jazz.flac")
    assert set(one.embeddings) == {bundle.load(folder).members[0].encoder_sha256}
    assert set(other.embeddings) == {bundle.load(folder).members[0].variants[0].encoder_sha256}
    np.testing.assert_allclose(other.logits, one.logits + 0.1, atol=1e-4)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ({"precision": "int8"}, Precision.INT8),
        ({"precision": "int8", "recommended": False}, Precision.FP32),
        ({"precision": "fp16", "device": "cuda"}, Precision.FP32),
    ],
)
def test_auto_takes_what_is_recommended_for_the_device(
    folder: Path, variant: dict[str, Any], expected: Precision
) -> None:
    add_variant(folder, **variant)
    assert served(folder, Precision.AUTO).precisions == {"tones": expected}


def test_a_precision_that_the_bundle_has_not_is_refused_in_plain_words(folder: Path, tone_bundle: Path) -> None:
    with pytest.raises(BundleError, match="precision is int8, and tones comes in fp32 only"):
        served(tone_bundle, Precision.INT8)
    add_variant(folder)
    with pytest.raises(BundleError, match="precision is fp16, and tones comes in fp32, int8 only") as caught:
        served(folder, Precision.FP16)
    assert str(folder) in str(caught.value)


def test_int8_is_not_for_the_gpu(folder: Path) -> None:
    add_variant(folder)
    with pytest.raises(BundleError, match="change one of the two"):
        Ensemble(bundle.load(folder), device=Device.CUDA, precision=Precision.INT8)
    assert Ensemble(bundle.load(folder), device=Device.AUTO, precision=Precision.INT8).device is Device.CPU


def spoilt_golden(folder: Path) -> None:
    golden = array_of(folder / "golden.npz", "tones@int8.embedding")
    save_arrays(folder / "golden.npz", **{"tones@int8.embedding": golden * np.float32(1.02)})


def spoilt_graph(folder: Path) -> None:
    content = (folder / "tones.int8.onnx").read_bytes()
    (folder / "tones.int8.onnx").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(spoilt_golden, "golden outputs differ by 0.02"), (spoilt_graph, "is not a graph that ONNX Runtime can run")],
)
def test_a_variant_that_this_machine_computes_otherwise_is_not_served(
    folder: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    """A processor without the instructions that int8 is made for may saturate: then fp32 serves, or nothing."""
    add_variant(folder)
    spoil(folder)
    resealed(folder)
    with pytest.raises(BundleError, match=reason):
        served(folder, Precision.INT8)
    fallen_back = served(folder, Precision.AUTO)
    assert fallen_back.precisions == {"tones": Precision.FP32}
    assert reason in fallen_back.passed_over["tones"]


def test_a_variant_may_differ_by_its_tolerance(folder: Path) -> None:
    add_variant(folder, tolerance=0.05)
    spoilt_golden(folder)
    resealed(folder)
    assert served(folder, Precision.AUTO).passed_over == {}


def test_a_changed_head_is_noticed_by_a_variant_too(folder: Path) -> None:
    add_variant(folder)
    save_arrays(folder / "tones.head.npz", weights=np.eye(3, dtype=np.float32)[::-1].copy())
    resealed(folder)
    with pytest.raises(BundleError, match="golden outputs differ"):
        served(folder, Precision.INT8)


def test_the_bundle_that_ships_serves() -> None:
    starter = Path(bundle.__file__).parents[1] / "starter"
    assert set(served(starter, Precision.FP32).precisions.values()) == {Precision.FP32}


# Hearing


@pytest.mark.parametrize("label", LABELS)
def test_a_track_is_heard_as_what_it_is(serving: Ensemble, tracks: Path, label: str) -> None:
    heard = hear(serving, tracks / f"{label}.flac")
    assert best_of(heard) == label
    assert heard.duration_s == pytest.approx(9.0, abs=0.05)
    assert heard.decode_s > 0
    assert heard.infer_s > 0


@pytest.mark.parametrize("suffix", [".mp3", ".opus", ".m4a", ".wav", ".ogg"])
def test_every_container_is_heard_alike(serving: Ensemble, tmp_path: Path, suffix: str) -> None:
    assert best_of(hear(serving, make_track(tmp_path / f"jazz{suffix}", "jazz"))) == "jazz"


def test_there_is_one_row_of_logits_per_window(serving: Ensemble, tracks: Path) -> None:
    heard = hear(serving, tracks / "jazz.flac")
    assert heard.logits.shape == (len(heard.windows), len(LABELS)) == (3, 3)
    assert {window.length_s for window in heard.windows} == {WINDOW_S}


@pytest.mark.parametrize("count", [1, 2, 5])
def test_as_many_segments_are_heard_as_asked(serving: Ensemble, tracks: Path, count: int) -> None:
    assert len(hear(serving, tracks / "rock.flac", count).windows) == count


def test_a_short_track_is_repeated_to_fill_the_window(serving: Ensemble, tmp_path: Path) -> None:
    heard = hear(serving, make_track(tmp_path / "short.flac", "rock", seconds=1.0))
    assert heard.windows == (Window(0.0, WINDOW_S),)
    assert best_of(heard) == "rock"


def test_a_silent_track_has_no_segments(serving: Ensemble, tmp_path: Path) -> None:
    path = tmp_path / "silent.flac"
    encode(path, np.zeros((2, 6 * 44_100), np.float32))
    heard = hear(serving, path)
    assert heard.windows == ()
    assert heard.logits.shape == (0, len(LABELS))
    assert heard.embeddings == {}


def test_silence_inside_a_track_is_passed_over(serving: Ensemble, tmp_path: Path) -> None:
    """A hidden track after minutes of nothing: only the sound is heard."""
    path = tmp_path / "hidden.flac"
    sound = np.concatenate([np.zeros((2, 8 * 44_100), np.float32), tone(TONES_HZ["jazz"], 8.0)], axis=1)
    encode(path, sound)
    heard = hear(serving, path)
    assert heard.windows
    assert all(window.start_s + window.length_s > 8.0 for window in heard.windows)
    assert best_of(heard) == "jazz"


def test_the_stored_embedding_is_the_mean_over_the_segments(serving: Ensemble, tracks: Path) -> None:
    path = tracks / "classical.flac"
    heard = hear(serving, path)
    member = serving.bundle.members[0]
    with Sound(path) as sound:
        waveforms = np.stack([sound.read(w.start_s, w.length_s, SAMPLE_RATE_HZ) for w in heard.windows])
    encoder = Encoder(member, ["CPUExecutionProvider"], 1)
    mean = encoder.embed(waveforms).mean(axis=0)
    np.testing.assert_allclose(heard.embeddings[member.encoder_sha256], mean, atol=1e-5)


def test_the_head_on_the_mean_embedding_is_the_mean_of_the_logits(folder: Path, tracks: Path) -> None:
    """What lets one stored vector per track re-decide the library; with a head that is not trivial."""
    random = np.random.default_rng(0)
    weights, bias = random.normal(size=(3, 3)).astype(np.float32), random.normal(size=3).astype(np.float32)
    save_arrays(folder / "tones.head.npz", weights=weights, bias=bias)
    embedding = array_of(folder / "golden.npz", "tones.embedding")
    save_arrays(folder / "golden.npz", **{"tones.logits": (embedding @ weights.T + bias).astype(np.float32)})
    ensemble = Ensemble(resealed(folder), device=Device.CPU, threads=1)
    heard = hear(ensemble, tracks / "jazz.flac", 5)
    (member,) = ensemble.bundle.members
    stored = heard.embeddings[member.encoder_sha256]
    np.testing.assert_allclose(head_logits(member, stored), heard.logits.mean(axis=0), atol=1e-4)


# Ensembles


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two members of weights 1 and 2; the second one's head prefers rock by 3."""
    folder = make_bundle(tmp_path_factory.mktemp("pair") / "pair", name="pair", members=2)
    preference = np.float32([0, 0, 3])
    save_arrays(folder / "tones1.head.npz", bias=preference)
    embedding = array_of(folder / "golden.npz", "tones1.embedding")
    save_arrays(folder / "golden.npz", **{"tones1.logits": embedding + preference})
    resealed(folder)
    yield folder


def test_members_are_averaged_by_weight(serving: Ensemble, pair: Path, tracks: Path) -> None:
    alone = hear(serving, tracks / "jazz.flac")
    together = hear(Ensemble(bundle.load(pair), device=Device.CPU, threads=1), tracks / "jazz.flac")
    np.testing.assert_allclose(together.logits, alone.logits + np.float32([0, 0, 2]), atol=1e-4)


def test_members_of_different_windows_still_decide(pair: Path, tmp_path: Path) -> None:
    """In a short track they fit different numbers of segments: each counts with its mean."""
    folder = Path(shutil.copytree(pair, tmp_path / "uneven"))
    manifest = json.loads((folder / bundle.MANIFEST).read_text())
    manifest["members"][1]["window_s"] = 0.5
    ensemble = Ensemble(resealed(folder, members=manifest["members"]), device=Device.CPU, threads=1)
    heard = hear(ensemble, make_track(tmp_path / "short.flac", "jazz", seconds=2.5))
    assert len(heard.windows) == len(heard.logits) == 1
    rule = Rule("pair", LABELS, {label: label for label in LABELS}, 1.0, dict.fromkeys(LABELS, 0.5))
    decision = decide(heard.logits, [window.start_s for window in heard.windows], rule)
    assert decision.genre == "jazz"
