"""Writes a bundle: the graph, its head, golden outputs, model card and manifest. Must never train or choose anything.

The graph that ONNX Runtime runs must say what torch says, or there is no bundle. The folder is built beside its place
and renamed into it, so that nobody ever sees half of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from daemon.core import bundle
from daemon.core.bundle import Member
from daemon.core.errors import BundleError
from daemon.core.inference import Encoder, Ensemble
from daemon.core.records import Device
from trainer.backbones.compact import Committee
from trainer.head import Head

MEMBER = "compact"
TOLERANCE = 1e-3
CARD = "MODEL_CARD.md"


@dataclass(frozen=True, slots=True)
class Contents:
    """All that goes into a bundle. `description` holds the manifest's metrics, training_data and provenance."""

    id: str
    student: Committee
    head: Head
    labels: Sequence[str]
    window_s: float
    segments: int
    temperature: float
    thresholds: dict[str, float]
    description: dict[str, Any]
    card: str


def export(contents: Contents, folder: Path) -> None:
    """Write the bundle to `folder`, replacing the bundle that was there; it has then been loaded and replayed.

    Raises:
        BundleError: ONNX Runtime does not reproduce torch's outputs; `folder` is as it was.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        draft.chmod(0o755)
        _write(contents, draft)
        Ensemble(bundle.load(draft), device=Device.CPU, threads=1)
        _swap(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _swap(draft: Path, folder: Path) -> None:
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    if folder.exists():
        os.rename(folder, old / "bundle")
    try:
        os.rename(draft, folder)
    except OSError:
        if (old / "bundle").exists():
            os.rename(old / "bundle", folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _write(contents: Contents, draft: Path) -> None:
    encoder, head = f"{MEMBER}.onnx", f"{MEMBER}.head.npz"
    waveform = golden_waveform(contents.window_s, contents.student.log_mel.settings.sample_rate_hz)
    write_graph(contents.student, draft / encoder, waveform.shape[1])
    check_parity(contents.student, draft / encoder, waveform)
    np.savez_compressed(draft / head, weights=contents.head.weights, bias=contents.head.bias)
    with torch.inference_mode():
        expected = contents.student(torch.from_numpy(waveform)).numpy()
    parts = {"waveform": waveform, "embedding": expected, "logits": contents.head.logits(expected)}
    np.savez_compressed(draft / bundle.GOLDEN, **{f"{MEMBER}.{part}": array for part, array in parts.items()})
    (draft / CARD).write_text(contents.card, encoding="utf-8")
    bundle.seal(draft, _manifest(contents, encoder, head))


def _manifest(contents: Contents, encoder: str, head: str) -> dict[str, Any]:
    labels = list(contents.labels)
    member = {
        "name": MEMBER,
        "encoder": encoder,
        "head": head,
        "sample_rate_hz": contents.student.log_mel.settings.sample_rate_hz,
        "window_s": contents.window_s,
        "embedding_dim": contents.student.embedding_dim,
        "weight": 1.0,
    }
    decision = {
        "temperature": contents.temperature,
        "thresholds": contents.thresholds,
        "segments": contents.segments,
    }
    return {
        "format_version": bundle.FORMAT_VERSION,
        "id": contents.id,
        "parent": None,
        "labels": labels,
        "taxonomy_hash": hashlib.sha256("\n".join(labels).encode()).hexdigest(),
        "members": [member],
        "decision": decision,
        "golden_tolerance": TOLERANCE,
        "licence": "GPL-3.0-or-later",
        **contents.description,
    }


def write_graph(student: Committee, path: Path, samples: int) -> None:
    """The student as an ONNX graph: `waveform` [batch, samples] → `embedding` [batch, dim], both sizes free."""
    example = torch.zeros(2, samples)
    with _quiet_exporter():
        program = torch.onnx.export(
            student.eval(),
            (example,),
            dynamo=True,
            verbose=False,
            input_names=["waveform"],
            output_names=["embedding"],
            opset_version=18,
            dynamic_shapes={"waveform": {0: torch.export.Dim("batch"), 1: torch.export.Dim("samples", min=8000)}},
        )
    assert program is not None, "the dynamo exporter returns a program"
    graph = program.model_proto
    strip_origins(graph)
    onnx.save(graph, path)


def strip_origins(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes of its own making: stack traces with the paths of the machine it ran on."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        part.doc_string = ""
        if "metadata_props" in part.DESCRIPTOR.fields_by_name:
            del part.metadata_props[:]


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter warns of its own internals and of an absent torchvision, which nobody here can mend."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def check_parity(student: Committee, path: Path, waveform: NDArray[np.float32]) -> float:
    """The largest difference between torch and ONNX Runtime over `waveform` [n, samples] and over its first alone.

    Raises:
        BundleError: it exceeds a tenth of the bundle's tolerance (the rest is left for other machines), or the graph
            does not run.
    """
    member = Member(
        MEMBER,
        path,
        "",
        student.log_mel.settings.sample_rate_hz,
        1.0,
        student.embedding_dim,
        1.0,
        np.zeros((0, student.embedding_dim), np.float32),
        np.zeros(0, np.float32),
    )
    encoder = Encoder(member, ["CPUExecutionProvider"], threads=1)
    apart = 0.0
    for batch in (waveform, waveform[:1]):
        with torch.inference_mode():
            expected = student(torch.from_numpy(batch)).numpy()
        apart = max(apart, float(np.abs(encoder.embed(batch) - expected).max()))
    if not apart <= TOLERANCE / 10.0:
        raise BundleError(f"{path.name}: ONNX Runtime differs from torch by {apart:.2g}, allowed {TOLERANCE / 10:.2g}")
    return apart


def golden_waveform(window_s: float, sample_rate_hz: int) -> NDArray[np.float32]:
    """A synthetic chord and a synthetic rhythm, float32 [2, samples] in [-1, 1], in 16-bit steps so that they pack
    well; nobody's recording, and loud in every band, so that no logarithm of nearly nothing is compared."""
    time = np.arange(round(window_s * sample_rate_hz)) / sample_rate_hz
    noise = np.random.default_rng(0).uniform(-1.0, 1.0, time.size)
    chord = sum(np.sin(2.0 * np.pi * pitch * time) for pitch in (220.0, 277.18, 329.63, 880.0)) * 0.12
    beat = np.exp(-8.0 * (time % 0.5)) * np.sin(2.0 * np.pi * 90.0 * time) * 0.5
    both = np.stack([chord + 0.05 * noise, beat + 0.1 * noise * np.exp(-6.0 * (time % 0.25)) + 0.02 * noise])
    return (np.round(both * 1024.0) / 1024.0).astype(np.float32)
