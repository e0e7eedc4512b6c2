"""Makes a small real bundle for tests: an ONNX graph that hears which of three tones is in a track.

The graph is what a bundle's encoder must be, waveform to embedding, without any training: a convolution with a sine
and a cosine per tone, squared, averaged over time, as the logarithm of each tone's share. Nothing here is part of the
product.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from make_audio import encode
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from daemon.core import bundle

SAMPLE_RATE_HZ = 16_000
WINDOW_S = 2.0
TONES_HZ = {"classical": 250.0, "jazz": 1000.0, "rock": 4000.0}
"""Each label of the bundle with the tone that it stands for."""

_KERNEL = 256


def make_bundle(
    folder: Path,
    *,
    name: str = "tones-1",
    labels: Sequence[str] = tuple(TONES_HZ),
    thresholds: float = 0.7,
    segments: int = 3,
    members: int = 1,
) -> Path:
    """A sealed bundle in `folder`; label i hears the i-th tone of `TONES_HZ`. Returns the folder."""
    folder.mkdir(parents=True)
    golden: dict[str, NDArray[np.float32]] = {}
    entries = []
    for number in range(members):
        member = f"tones{number}" if number else "tones"
        onnx.save(_graph(), folder / f"{member}.onnx")
        weights, bias = np.eye(3, dtype=np.float32), np.zeros(3, np.float32)
        np.savez(folder / f"{member}.head.npz", weights=weights, bias=bias)
        waveform = np.stack([tone(hz, WINDOW_S, SAMPLE_RATE_HZ)[0] for hz in TONES_HZ.values()])
        embedding = run_graph(folder / f"{member}.onnx", waveform)
        golden |= {f"{member}.waveform": waveform, f"{member}.embedding": embedding, f"{member}.logits": embedding}
        entries.append(
            {"name": member, "encoder": f"{member}.onnx", "head": f"{member}.head.npz", "weight": 1.0 + number}
            | {"sample_rate_hz": SAMPLE_RATE_HZ, "window_s": WINDOW_S, "embedding_dim": 3}
        )
    np.savez(folder / "golden.npz", **golden)
    bundle.seal(folder, manifest(name, labels, entries, thresholds, segments))
    return folder


def add_variant(
    folder: Path,
    precision: str = "int8",
    *,
    device: str = "cpu",
    recommended: bool = True,
    shift: float = 0.1,
    tolerance: float = 0.01,
) -> Path:
    """Give the bundle's member `tones` a variant, which differs by `shift` from it, and seal it again."""
    model = onnx.load(folder / "tones.onnx")
    model.graph.node[-1].output[0] = "exact"
    model.graph.node.append(helper.make_node("Add", ["exact", "shift"], ["embedding"]))
    model.graph.initializer.append(numpy_helper.from_array(np.float32([shift]), "shift"))
    onnx.save(model, folder / f"tones.{precision}.onnx")
    with np.load(folder / "golden.npz") as archive:
        golden = {key: archive[key] for key in archive.files}
    waveform = golden["tones.waveform"]
    golden[f"tones@{precision}.embedding"] = run_graph(folder / f"tones.{precision}.onnx", waveform)
    np.savez(folder / "golden.npz", **golden)
    told = json.loads((folder / bundle.MANIFEST).read_text(encoding="utf-8"))
    told["members"][0].setdefault("variants", []).append(
        {"precision": precision, "device": device, "encoder": f"tones.{precision}.onnx"}
        | {"golden_tolerance": tolerance, "recommended": recommended, "measured": {"speedup": 2.0}}
    )
    bundle.seal(folder, told)
    return folder


def manifest(
    name: str, labels: Sequence[str], members: list[dict[str, Any]], threshold: float, segments: int
) -> dict[str, Any]:
    """The manifest of such a bundle, without the hashes that sealing adds."""
    return {
        "format_version": 1,
        "id": name,
        "parent": None,
        "labels": list(labels),
        "taxonomy_hash": "0" * 64,
        "members": members,
        "decision": {
            "temperature": 1.0,
            "thresholds": dict.fromkeys(labels, threshold),
            "segments": segments,
        },
        "metrics": {},
        "training_data": {},
        "licence": "CC0-1.0",
        "provenance": {"made_by": "tests"},
    }


def tone(hz: float, seconds: float, sample_rate_hz: int = 44_100) -> NDArray[np.float32]:
    """A steady tone, shape [2, samples]."""
    time_s = np.arange(round(seconds * sample_rate_hz)) / sample_rate_hz
    wave = 0.3 * np.sin(2 * np.pi * hz * time_s)
    return np.stack([wave, wave]).astype(np.float32)


def make_track(path: Path, label: str, seconds: float = 6.0, *, mixed_with: str | None = None) -> Path:
    """An untagged audio file that the bundle hears as `label`; mixed with another one's tone it is unsure."""
    sound = tone(TONES_HZ[label], seconds)
    if mixed_with is not None:
        sound = (sound + tone(TONES_HZ[mixed_with], seconds)) / np.float32(1.5)
    # A little noise of its own gives every file a sound, and so an identity, of its own.
    noise = np.random.default_rng(next(_SEEDS)).normal(0, 1e-3, sound.shape)
    encode(path, (sound + noise).astype(np.float32))
    return path


_SEEDS = itertools.count(1)


def run_graph(path: Path, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """The embedding that the graph in `path` gives for `waveform` [batch, samples]."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["embedding"], {"waveform": waveform})[0], np.float32)


def _graph() -> onnx.ModelProto:
    time_s = np.arange(_KERNEL) / SAMPLE_RATE_HZ
    kernels = [wave(2 * math.pi * hz * time_s) for hz in TONES_HZ.values() for wave in (np.sin, np.cos)]
    shapes = {"channel": [1], "time": [2], "pairs": [0, 3, 2], "pair": [2], "label": [1]}
    constants = [
        numpy_helper.from_array(np.stack(kernels)[:, None].astype(np.float32), "kernels"),
        numpy_helper.from_array(np.float32([1e-9]), "floor"),
        *(numpy_helper.from_array(np.int64(value), name) for name, value in shapes.items()),
    ]
    nodes = [
        helper.make_node("Unsqueeze", ["waveform", "channel"], ["mono"]),
        helper.make_node("Conv", ["mono", "kernels"], ["waves"], strides=[_KERNEL // 2]),
        helper.make_node("Mul", ["waves", "waves"], ["power"]),
        helper.make_node("ReduceMean", ["power", "time"], ["mean"], keepdims=0),
        helper.make_node("Reshape", ["mean", "pairs"], ["paired"]),
        helper.make_node("ReduceSum", ["paired", "pair"], ["energy"], keepdims=0),
        helper.make_node("Add", ["energy", "floor"], ["positive"]),
        helper.make_node("ReduceSum", ["positive", "label"], ["total"], keepdims=1),
        helper.make_node("Div", ["positive", "total"], ["share"]),
        helper.make_node("Log", ["share"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tones",
        [helper.make_tensor_value_info("waveform", TensorProto.FLOAT, ["batch", "samples"])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 3])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
