"""Runs a bundle's encoders on ONNX Runtime: the only module that imports it. Sound in, embeddings and logits out."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from daemon.core import segments
from daemon.core.bundle import Bundle, Golden, Member, Variant
from daemon.core.errors import BundleError
from daemon.core.records import Device, Precision, Waveform, Window

# ONNX Runtime 1.31 for Linux collects reports of use: it writes a device id and a database below ~/.cache/Microsoft, to
# be sent to its makers. It reads this variable when it is loaded, so the import comes after.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime as ort

# ONNX Runtime logs to stderr by itself; errors reach us as exceptions, warnings are of no use to the owner.
_FATAL_ONLY = 4

Provider = str | tuple[str, dict[str, str]]
Embedding = NDArray[np.float32]
Logits = NDArray[np.float32]


class Audible(Protocol):
    """A sound that can be heard: `audio.Sound`, or one that another process reads."""

    @property
    def duration_s(self) -> float:
        """As `audio.Sound.duration_s`."""

    def read(self, start_s: float, length_s: float, sample_rate_hz: int) -> Waveform:
        """As `audio.Sound.read`."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What the ensemble heard in one track.

    Attributes:
        windows: the segments that were heard, in order of information; empty for a silent track. Where members heard
            different numbers of them, only the first one, which then stands for all.
        logits: weighted ensemble logits per segment, shape [segments, labels], one row per window.
        embeddings: each member's mean embedding over the segments, shape [dim], by the SHA-256 of the encoder that made
            it; a variant counts as an encoder of its own.
        duration_s: the track's length as the container states it.
        decode_s, infer_s: wall time spent reading sound and running encoders.
    """

    windows: tuple[Window, ...]
    logits: Logits
    embeddings: dict[str, Embedding]
    duration_s: float
    decode_s: float
    infer_s: float


class Encoder:
    """One member's ONNX session. `embed` may be called from one thread at a time."""

    def __init__(
        self,
        member: Member,
        providers: Sequence[Provider],
        threads: int | None,
        precision: Precision = Precision.FP32,
    ) -> None:
        """Open the session; `threads` None lets ONNX Runtime use every core. `precision` says what the file holds.

        Raises:
            BundleError: the file is no ONNX graph that maps waveform [batch, samples] to embedding [batch, dim].
        """
        self.member, self.precision = member, precision
        options = ort.SessionOptions()
        options.log_severity_level = _FATAL_ONLY
        # Asked to choose by itself, ONNX Runtime pins its threads to cores, which a sandbox refuses with a red line.
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        # Spinning keeps idle cores at 100 % between tracks; a daemon is idle most of its life.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(str(member.encoder), options, providers=list(providers))
        except Exception as error:
            # ONNX Runtime's exceptions have no common base; whatever the file makes it raise means: refuse it.
            raise BundleError(f"{member.encoder}: is not a graph that ONNX Runtime can run: {error}") from error
        self._check_signature()

    def _check_signature(self) -> None:
        inputs = [node.name for node in self._session.get_inputs()]
        outputs = [node.name for node in self._session.get_outputs()]
        if inputs != ["waveform"] or "embedding" not in outputs:
            raise BundleError(f"{self.member.encoder}: maps {inputs} to {outputs}, not waveform to embedding")

    @property
    def providers(self) -> list[str]:
        """The execution providers in use, first choice first."""
        return list(self._session.get_providers())

    def embed(self, waveforms: Waveform) -> Embedding:
        """Embeddings [batch, dim] of `waveforms` [batch, samples], float32 in [-1, 1] at the member's rate."""
        (embedding,) = self._session.run(["embedding"], {"waveform": np.ascontiguousarray(waveforms, np.float32)})
        return np.asarray(embedding, np.float32)


class Ensemble:
    """A bundle ready to hear: sessions open, golden outputs reproduced. Use it from one thread."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: Device = Device.AUTO,
        precision: Precision = Precision.AUTO,
        threads: int | None = None,
    ) -> None:
        """Open every member and replay its golden input.

        With AUTO a member is served by the variant that the bundle recommends for this device. Where the variant does
        not give its golden outputs here, another processor computing it otherwise than the one that measured it, the
        member is served in fp32, and `passed_over` says why. A precision asked for by name is used or refused.

        Raises:
            BundleError: a member does not run, or its outputs differ from the golden ones by more than the
                manifest's tolerance: the bundle must not serve. Or it has no variant of the precision asked for.
        """
        self.bundle = bundle
        self.device = _available(device, precision)
        self._precision, self._threads = precision, threads
        self.passed_over: dict[str, str] = {}
        self._encoders = [self._open(member) for member in bundle.members]
        if self.device is Device.CUDA and any("CUDAExecutionProvider" not in one.providers for one in self._encoders):
            # ONNX Runtime falls back by itself when the provider cannot load; say what is true, and choose for it.
            self.device = Device.CPU
            self._encoders = [self._open(member) for member in bundle.members]

    @property
    def precisions(self) -> dict[str, Precision]:
        """What each member is served in, by its name."""
        return {encoder.member.name: encoder.precision for encoder in self._encoders}

    def _open(self, member: Member) -> Encoder:
        """The member's encoder or its variant, whichever is to serve; its golden outputs are reproduced."""
        providers = providers_for(self.device)
        if variant := _chosen(self.bundle, member, self.device, self._precision):
            try:
                encoder = Encoder(member.served_by(variant), providers, self._threads, variant.precision)
                self._replay_variant(encoder, variant)
            except BundleError as error:
                if self._precision is not Precision.AUTO:
                    raise
                self.passed_over[member.name] = str(error)
            else:
                return encoder
        encoder = Encoder(member, providers, self._threads)
        self._replay(encoder)
        return encoder

    def _replay(self, encoder: Encoder) -> None:
        golden = self.bundle.golden[encoder.member.name]
        embedding = _replayed(encoder, golden)
        tolerance = self.bundle.manifest.golden_tolerance
        apart = float(np.abs(embedding - golden.embedding).max())
        apart_logits = float(np.abs(head_logits(encoder.member, embedding) - golden.logits).max())
        # A NaN compares false, so the comparison is written to fail on it.
        if not (apart <= tolerance and apart_logits <= tolerance * 10):
            raise BundleError(
                f"{encoder.member.encoder}: golden outputs differ by {apart:.2g} in the embedding and"
                f" {apart_logits:.2g} in the logits, allowed {tolerance:.2g} and {tolerance * 10:.2g}"
            )

    def _replay_variant(self, encoder: Encoder, variant: Variant) -> None:
        """As `_replay`. The head, which the two share, is checked on the golden embedding of fp32."""
        golden, member = self.bundle.golden[encoder.member.name], encoder.member
        tolerance = self.bundle.manifest.golden_tolerance * 10
        apart_logits = float(np.abs(head_logits(member, golden.embedding) - golden.logits).max())
        apart = distance(_replayed(encoder, golden), variant.golden)
        if not (apart <= variant.tolerance and apart_logits <= tolerance):
            raise BundleError(
                f"{member.encoder}: golden outputs differ by {apart:.2g} of the embedding's size and"
                f" {apart_logits:.2g} in the logits, allowed {variant.tolerance:.2g} and {tolerance:.2g}"
            )

    def hear(self, sound: Audible, segment_count: int | None = None) -> Heard:
        """Decode some windows of `sound` and run every member over them, in one batch each.

        `segment_count` None takes the bundle's own number.

        Raises:
            BadFile, TryLater: as `Sound.read`.
        """
        duration_s = sound.duration_s
        count = segment_count or self.bundle.manifest.decision.segments
        decode_s = infer_s = 0.0
        logits: Logits | None = None
        embeddings: dict[str, Embedding] = {}
        windows: tuple[Window, ...] = ()
        for encoder in self._encoders:
            member = encoder.member
            started = time.perf_counter()
            heard = _decode(sound, member, duration_s, count)
            decoded = time.perf_counter()
            decode_s += decoded - started
            if not heard:
                return Heard((), _no_segments(self.bundle), {}, duration_s, decode_s, infer_s)
            embedding = encoder.embed(np.stack([samples for _, samples in heard]))
            infer_s += time.perf_counter() - decoded
            embeddings[member.encoder_sha256] = embedding.mean(axis=0)
            windows = tuple(window for window, _ in heard)
            logits = _add(logits, head_logits(member, embedding) * member.weight)
            windows = windows[: len(logits)]
        assert logits is not None, "a bundle has at least one member"
        total = sum(member.weight for member in self.bundle.members)
        return Heard(windows, logits / np.float32(total), embeddings, duration_s, decode_s, infer_s)


def head_logits(member: Member, embedding: Embedding) -> Logits:
    """The member's head over `embedding` [..., dim]: logits [..., labels]."""
    return np.asarray(embedding @ member.weights.T + member.bias, np.float32)


def providers_for(device: Device) -> list[Provider]:
    """The execution providers that an encoder gets on `device`, first choice first."""
    if device is not Device.CUDA:
        return ["CPUExecutionProvider"]
    # TF32 keeps 10 bits of a mantissa: the golden outputs, made on a CPU, would not be reproduced.
    return [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]


def cuda_available() -> bool:
    """Whether ONNX Runtime was built with CUDA, this machine has an NVIDIA device, and the provider can load.

    Asking for the provider where it cannot load prints a red C++ error, so the device files are looked at first.
    """
    if "CUDAExecutionProvider" not in ort.get_available_providers() or not os.path.exists("/dev/nvidiactl"):
        return False
    ort.preload_dlls()
    return True


def distance(embedding: Embedding, golden: Embedding) -> float:
    """How far `embedding` is from `golden`, as a share of the latter's size (Euclidean norm of all numbers)."""
    size = float(np.linalg.norm(golden))
    return float(np.linalg.norm(embedding - golden)) / size if size else float("inf")


def _available(device: Device, precision: Precision) -> Device:
    if precision is Precision.INT8 and device is Device.CUDA:
        raise BundleError("models.precision int8 is for processors and models.device is cuda: change one of the two")
    if device is Device.CPU or precision is Precision.INT8:
        return Device.CPU
    if cuda_available():
        return Device.CUDA
    if device is Device.CUDA:
        raise BundleError("models.device is cuda, but no CUDA device answers here: see `music-reclass doctor`")
    return Device.CPU


def _chosen(bundle: Bundle, member: Member, device: Device, precision: Precision) -> Variant | None:
    """The variant that is to serve, None for the encoder itself."""
    if precision is Precision.FP32:
        return None
    if precision is Precision.AUTO:
        fit = (variant for variant in member.variants if variant.device is device and variant.recommended)
        return next(fit, None)
    for variant in member.variants:
        if variant.precision is precision:
            return variant
    there = ", ".join(["fp32", *(variant.precision for variant in member.variants)])
    raise BundleError(
        f"{bundle.path}: models.precision is {precision}, and {member.name} comes in {there} only;"
        " models.precision auto takes what there is"
    )


def _replayed(encoder: Encoder, golden: Golden) -> Embedding:
    try:
        embedding = encoder.embed(golden.waveform)
    except Exception as error:
        raise BundleError(f"{encoder.member.encoder}: fails on its golden input: {error}") from error
    if embedding.shape != golden.embedding.shape:
        raise BundleError(f"{encoder.member.encoder}: gives shape {embedding.shape}, not {golden.embedding.shape}")
    return embedding


def _decode(sound: Audible, member: Member, duration_s: float, count: int) -> list[tuple[Window, Waveform]]:
    windows = segments.spread(duration_s, member.window_s, count)

    def read(window: Window) -> Waveform:
        return sound.read(window.start_s, window.length_s, member.sample_rate_hz)

    heard = segments.audible(windows, duration_s, read)
    return [(window, segments.tiled(samples, member.window_samples)) for window, samples in heard]


def _no_segments(bundle: Bundle) -> Logits:
    return np.zeros((0, len(bundle.labels)), np.float32)


def _add(total: Logits | None, part: Logits) -> Logits:
    if total is None:
        return part
    # Members with windows of different length may fit a different number of segments into a short track; each then
    # counts with its mean.
    if total.shape != part.shape:
        return np.asarray(total.mean(axis=0, keepdims=True) + part.mean(axis=0, keepdims=True), np.float32)
    return np.asarray(total + part, np.float32)
