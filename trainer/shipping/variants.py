"""Makes variants of an encoder, fp16 for GPUs and int8 for CPUs, and measures what each loses and gains.

The front end stays in float32 in every variant: the logarithm makes rounding beside a loud band audible in a quiet one.
Must never decide what is served: it recommends, with the numbers that it recommends by.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from daemon.core import inference
from daemon.core.errors import BundleError
from daemon.core.inference import Encoder, distance
from daemon.core.records import Device, Precision
from trainer.backbones.contract import Backbone
from trainer.head import Head
from trainer.shipping.graph import PICTURE, cut, join, session

# `daemon.core.inference` comes first, above: it says to ONNX Runtime that nothing is to be reported to anybody.
# isort: split
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

Array = NDArray[np.float32]

# Convolutions over so few channels cost little and lose most when quantised. With int8 in all convolutions of mn04 but
# the first and the depthwise ones, 2.6 % of 453 tracks got another genre; without those that are narrower, 0.9 %.
NARROW = 16

# Tracks that ranges are taken from, and the most that a variant is judged on.
CALIBRATION_TRACKS, MOST_TRACKS = 48, 150

# Judging ends after so long, with as many tracks as it got to: one window of an AST takes seconds on a CPU.
PATIENCE_S = 600.0

# Recommended: fewer decisions change than this; and on a CPU, where speed is measured here, it is so much faster, and
# there were decisions enough to tell.
FEW_CHANGES, FASTER, ENOUGH = 0.01, 1.3, 100

# A variant may be so many times as far from its golden outputs as those are from fp32. Rounding is chaotic: moving the
# input by a ten-millionth moved int8 outputs by 0.6 to 1 times their distance from fp32 (mn04, and an AST of 6 layers);
# fp16 in torch and in ONNX Runtime, which sum differently, are 1 to 1.4 times as far apart. Saturated sums, of
# processors without the instructions that int8 is made for, are not of that size.
SLACK = 3.0
LEAST_TOLERANCE, LARGEST_TOLERANCE = 0.01, 0.5

_TIMINGS, _TIMING_S = 5, 20.0

# ONNX Runtime's levels of logging; the second is its default.
_FATAL_ONLY, _WARNINGS = 4, 2


@dataclass(frozen=True, slots=True)
class Trial:
    """Real tracks, to calibrate and judge on. `windows(i)` gives the windows of track i as the daemon would hear them,
    float32 [n, samples]; `targets` holds each one's label, -1 for none, or is empty."""

    tracks: int
    windows: Callable[[int], Array]
    targets: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Made:
    """What became of a variant. `golden` [n, dim] and `tolerance` are what it must reproduce where it serves;
    `measured` compares it with fp32. `left_out` says why it is not in the bundle, and is empty where it is."""

    member: str
    precision: Precision
    recommended: bool = False
    measured: Mapping[str, Any] = field(default_factory=dict)
    golden: Array | None = None
    tolerance: float = 0.0
    left_out: str = ""

    @property
    def device(self) -> Device:
        """What it is for."""
        return Device.CUDA if self.precision is Precision.FP16 else Device.CPU


@dataclass(frozen=True, slots=True)
class Original:
    """The fp32 encoder of a member, as torch has it and as the graph at `path`, with its head and golden outputs."""

    member: str
    encoder: Backbone
    path: Path
    head: Head
    golden_waveform: Array
    golden: Array


def variant_path(fp32: Path, precision: Precision) -> Path:
    """Where the variant of a graph lies: beside it."""
    return fp32.with_name(f"{fp32.stem}.{precision}.onnx")


def make_variants(original: Original, precisions: Iterable[Precision], trial: Trial) -> list[Made]:
    """Write a variant of each precision beside the original, and measure them over the same tracks.

    Nothing else is left there: what the tools write meanwhile goes into a folder that is removed.
    """
    reference = session(original.path, original.encoder, threads=None)
    calibration, judged = _divided(trial)
    embedded = functools.cache(lambda track: reference.embed(trial.windows(track)))
    return [_make(original, precision, trial, calibration, judged, embedded) for precision in precisions]


def _make(
    original: Original,
    precision: Precision,
    trial: Trial,
    calibration: Sequence[int],
    judged: Sequence[int],
    reference: Callable[[int], Array],
) -> Made:
    target = variant_path(original.path, precision)
    try:
        ranged = write_variant(original, precision, target, (trial.windows(track)[:1] for track in calibration))
        golden = session(target, original.encoder).embed(original.golden_waveform)
    except BundleError as error:
        target.unlink(missing_ok=True)
        return Made(original.member, precision, left_out=str(error))
    apart = distance(golden, original.golden)
    if not apart <= LARGEST_TOLERANCE:
        target.unlink()
        why = f"it gives something else than fp32: {apart:.2g} of the embedding's size apart on the golden sound"
        return Made(original.member, precision, left_out=why)
    fp32, changed = (_opened(original, path, precision) for path in (original.path, target))
    loss = measure_loss(reference, changed, original.head, trial, judged)
    gain = measure_gain(fp32, changed, trial.windows(judged[0]))
    sizes = {"bytes": target.stat().st_size, "bytes_fp32": original.path.stat().st_size}
    measured = {**loss, **gain, **sizes, "calibration_tracks": ranged}
    tolerance = min(LARGEST_TOLERANCE, max(LEAST_TOLERANCE, SLACK * apart))
    return Made(original.member, precision, is_recommended(precision, measured), measured, golden, tolerance)


def _divided(trial: Trial) -> tuple[list[int], list[int]]:
    """The tracks to calibrate on, and others to judge on; where there is but one, it does for both."""
    order = np.random.default_rng(0).permutation(trial.tracks).tolist()
    few = max(1, min(CALIBRATION_TRACKS, trial.tracks // 4))
    return order[:few], order[few:][:MOST_TRACKS] or order


def is_recommended(precision: Precision, measured: Mapping[str, Any]) -> bool:
    """Whether the numbers speak for serving it: see `FEW_CHANGES`. Decisions are those of tracks where there are enough
    of them, else those of windows, which change more easily."""
    enough = measured["tracks"] >= ENOUGH
    changed = measured["tracks_changed"] if enough else measured["windows_changed"]
    if precision is Precision.FP16:
        # Its speed counts on a GPU, of which the processor here says nothing.
        return bool(changed < FEW_CHANGES)
    return bool(changed < FEW_CHANGES and measured["speedup"] >= FASTER and measured["windows"] >= ENOUGH)


# Making


def write_variant(original: Original, precision: Precision, target: Path, calibration: Iterable[Array]) -> int:
    """Write the encoder in `precision` to `target`, from its fp32 graph; takes and gives float32 as that one does.

    `calibration` yields windows [n, samples] of one real track after the other. Returns from how many of them int8 took
    the ranges of its numbers: of a transformer none, whose ranges are taken as it runs.

    Raises:
        BundleError: front end and network are not two halves of the graph.
    """
    front, network = cut(onnx.load(original.path))
    pictures = _Pictures(original.encoder, calibration)
    with tempfile.TemporaryDirectory(prefix=".", dir=target.parent) as scratch, _quiet_tools(Path(scratch)):
        if precision is Precision.FP16:
            changed = convert_float_to_float16(copy.deepcopy(network), keep_io_types=True)
        else:
            changed = _quantised(network, pictures, Path(scratch))
        onnx.save(join(front, changed), target)
    return pictures.read


def _quantised(network: onnx.ModelProto, pictures: _Pictures, scratch: Path) -> onnx.ModelProto:
    """The network in 8-bit integers (Jacob et al., CVPR 2018), weights by channel.

    Convolutions need the ranges of what passes through them beforehand. Those of a transformer's matrix products vary
    with the input, and are taken from it as it runs.
    """
    plain, prepared, result = (scratch / name for name in ("plain.onnx", "prepared.onnx", "quantised.onnx"))
    onnx.save(network, plain)
    quant_pre_process(plain, prepared, skip_symbolic_shape=True)
    model = onnx.load(prepared)
    if is_convolutional(model):
        quantize_static(
            prepared,
            result,
            pictures,
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=[node.name for node in model.graph.node if _is_wide(node, _shapes(model))],
        )
    else:
        quantize_dynamic(
            prepared, result, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8
        )
    return onnx.load(result)


class _Pictures(CalibrationDataReader):  # type: ignore[misc]
    """The pictures of windows, in the form in which the calibrator asks for them; `read` counts them."""

    def __init__(self, encoder: Backbone, calibration: Iterable[Array]) -> None:
        self._encoder, self._calibration, self.read = encoder, iter(calibration), 0

    def get_next(self) -> dict[str, Array] | None:
        windows = next(self._calibration, None)
        if windows is None:
            return None
        self.read += 1
        with torch.inference_mode():
            return {PICTURE: self._encoder.front(torch.from_numpy(np.ascontiguousarray(windows))).numpy()}


def is_convolutional(model: onnx.ModelProto) -> bool:
    """Whether most layers of the network are convolutions; a transformer has one, which makes patches."""
    kinds = [node.op_type for node in model.graph.node]
    return kinds.count("Conv") > kinds.count("MatMul") + kinds.count("Gemm")


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {constant.name: tuple(constant.dims) for constant in model.graph.initializer}


def _is_wide(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    if node.op_type in ("Gemm", "MatMul"):
        return any(name in shapes for name in node.input)
    # A depthwise convolution has one channel in each of its groups.
    return node.op_type == "Conv" and shapes.get(node.input[1], (0, 0))[1] >= NARROW


@contextlib.contextmanager
def _quiet_tools(scratch: Path) -> Iterator[None]:
    """ONNX Runtime's tools warn of their own internals, and write to the system's folder for temporary files; the
    root logger, its handlers and that folder are afterwards what they were."""
    root, mute = logging.getLogger(), logging.NullHandler()
    disabled, folder = logging.root.manager.disable, tempfile.tempdir
    # `logging.warning` gives a root logger without handlers one that prints.
    root.addHandler(mute)
    logging.disable(logging.CRITICAL)
    tempfile.tempdir = str(scratch)
    onnxruntime.set_default_logger_severity(_FATAL_ONLY)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        onnxruntime.set_default_logger_severity(_WARNINGS)
        tempfile.tempdir = folder
        logging.disable(disabled)
        root.removeHandler(mute)


# Measuring


def _opened(original: Original, path: Path, precision: Precision) -> Encoder:
    """Where it is to serve: fp16 on the GPU if one answers here."""
    device = Device.CUDA if precision is Precision.FP16 and inference.cuda_available() else Device.CPU
    return session(path, original.encoder, threads=None, device=device, precision=precision)


def measure_loss(
    reference: Callable[[int], Array], variant: Encoder, head: Head, trial: Trial, judged: Sequence[int]
) -> dict[str, Any]:
    """How the decisions of `variant` differ from those of fp32, whose embedding [n, dim] of a track `reference` gives.

    Shares are of tracks or windows, differences those of a track's logits; `distance` is that of the embeddings as a
    share of their size. Accuracies are there where targets are.
    """
    started, rows = time.monotonic(), []
    for track in judged:
        precise, found = reference(track), variant.embed(trial.windows(track))
        windows = head.logits(precise), head.logits(found)
        changed = float((windows[0].argmax(1) != windows[1].argmax(1)).sum())
        rows.append((track, len(found), changed, windows[0].mean(0), windows[1].mean(0), distance(found, precise)))
        if time.monotonic() - started > PATIENCE_S:
            break
    tracks, counts, changes, before, after, apart = (np.array(column) for column in zip(*rows, strict=True))
    difference = np.abs(before - after)
    loss: dict[str, Any] = {
        "tracks": len(tracks),
        "windows": int(counts.sum()),
        "tracks_changed": float((before.argmax(1) != after.argmax(1)).mean()),
        "windows_changed": float(changes.sum() / counts.sum()),
        "largest_logit_difference": float(difference.max()),
        "mean_logit_difference": float(difference.mean()),
        "distance": float(apart.mean()),
    }
    targets = np.array([trial.targets[track] if len(trial.targets) else -1 for track in tracks])
    if (known := targets >= 0).any():
        loss["accuracy_fp32"] = float((before.argmax(1) == targets)[known].mean())
        loss["accuracy"] = float((after.argmax(1) == targets)[known].mean())
    return loss


def measure_gain(fp32: Encoder, variant: Encoder, windows: Array) -> dict[str, Any]:
    """Milliseconds per window of both, in turns over `windows` [n, samples] in one batch, the least disturbed time of
    each; and on what."""
    started, best = time.monotonic(), {fp32: float("inf"), variant: float("inf")}
    for encoder in best:
        encoder.embed(windows)
    for _ in range(_TIMINGS):
        for encoder in best:
            begun = time.perf_counter()
            encoder.embed(windows)
            best[encoder] = min(best[encoder], time.perf_counter() - begun)
        if time.monotonic() - started > _TIMING_S:
            break
    where = f"{_processor()}, {len(os.sched_getaffinity(0))} threads"
    if "CUDAExecutionProvider" in variant.providers:
        where = "an NVIDIA GPU"
    elif variant.precision is Precision.FP16:
        where += "; it computes fp16 by way of fp32, so its times say nothing of a GPU"
    return {
        "ms_per_window": 1000.0 * best[variant] / len(windows),
        "ms_per_window_fp32": 1000.0 * best[fp32] / len(windows),
        "speedup": best[fp32] / best[variant],
        "measured_on": where,
    }


def _processor() -> str:
    """What the processor calls itself."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
