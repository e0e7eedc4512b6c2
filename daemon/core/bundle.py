"""The model bundle on disk: reads, checks and seals it. Never opens an ONNX session and never unpickles.

Format versions:
    1  manifest.json, one encoder and one head per member, golden.npz, sha256 of every file; a member may have variants
       of its encoder, which a reader may pass over.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from daemon.core.errors import BundleError
from daemon.core.records import Device, Precision

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
GOLDEN = "golden.npz"

Array = NDArray[np.float32]
_Probability = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class VariantManifest(_Part):
    """The same encoder in another arithmetic, for one kind of device; its labels, window and head are the member's.

    `golden_tolerance` is how far, relative to their size, its outputs may be from its own golden ones. `recommended`:
    who measured it would serve it. `measured`: what it loses, how large it is and how fast, against fp32.
    """

    precision: Literal[Precision.FP16, Precision.INT8]
    device: Literal[Device.CPU, Device.CUDA]
    encoder: str
    golden_tolerance: Annotated[float, Field(gt=0, le=0.5)]
    recommended: bool = False
    measured: dict[str, Any]


class MemberManifest(_Part):
    """One encoder with its head, as the manifest names them. `weight` is its share in the ensemble's logits."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
    encoder: str
    head: str
    sample_rate_hz: Annotated[int, Field(ge=4000, le=192_000)]
    window_s: Annotated[float, Field(gt=0, le=120)]
    embedding_dim: Annotated[int, Field(ge=1)]
    weight: Annotated[float, Field(gt=0)] = 1.0
    variants: list[VariantManifest] = []


class DecisionManifest(_Part):
    """How outputs become a decision. `thresholds` holds one calibrated probability per label."""

    temperature: Annotated[float, Field(gt=0)]
    thresholds: dict[str, _Probability]
    segments: Annotated[int, Field(ge=1, le=64)]


class Manifest(_Part):
    """manifest.json of a bundle, format version 1."""

    format_version: int
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
    parent: str | None = None
    labels: Annotated[list[str], Field(min_length=2)]
    taxonomy_hash: str
    members: Annotated[list[MemberManifest], Field(min_length=1)]
    decision: DecisionManifest
    golden_tolerance: Annotated[float, Field(gt=0, le=0.1)] = 1e-3
    metrics: dict[str, Any]
    training_data: dict[str, Any]
    licence: str
    provenance: dict[str, Any]
    files: dict[str, str]


@dataclass(frozen=True, slots=True)
class Variant:
    """A member's encoder in another arithmetic. `golden` [n, dim] is what it gives for the member's golden input, to
    within `tolerance` of its size."""

    precision: Precision
    device: Device
    encoder: Path
    encoder_sha256: str
    golden: Array
    tolerance: float
    recommended: bool


@dataclass(frozen=True, slots=True)
class Member:
    """One encoder with its head. `weights` has shape [labels, dim], `bias` [labels]."""

    name: str
    encoder: Path
    encoder_sha256: str
    sample_rate_hz: int
    window_s: float
    embedding_dim: int
    weight: float
    weights: Array
    bias: Array
    variants: tuple[Variant, ...] = ()

    def served_by(self, variant: Variant) -> Member:
        """The member with the variant's encoder in place of its own.

        It counts as another encoder, with a hash of its own: embeddings of the two are alike but not equal, and what
        was stored under one is not taken for the other's.
        """
        return replace(self, encoder=variant.encoder, encoder_sha256=variant.encoder_sha256)

    @property
    def window_samples(self) -> int:
        """Samples in one window at the member's own rate."""
        return round(self.window_s * self.sample_rate_hz)


@dataclass(frozen=True, slots=True)
class Golden:
    """Input and outputs of one member that must be reproduced: [n, samples], [n, dim], [n, labels]."""

    waveform: Array
    embedding: Array
    logits: Array


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files were all found and matched their hashes."""

    path: Path
    manifest: Manifest
    members: tuple[Member, ...]
    golden: dict[str, Golden]

    @property
    def id(self) -> str:
        """The bundle's name, as the ledger records it with every decision."""
        return self.manifest.id

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels in the order of every head's rows."""
        return tuple(self.manifest.labels)


def load(folder: Path) -> Bundle:
    """Read and check the bundle in `folder`; its golden outputs are replayed later, by `inference`.

    Raises:
        BundleError: a file is missing, unlisted, changed, unreadable, or does not fit the manifest.
    """
    manifest = _manifest(folder)
    _check_files(folder, manifest)
    labels = len(manifest.labels)
    members = tuple(_member(folder, entry, labels, manifest) for entry in manifest.members)
    arrays = _arrays(folder / GOLDEN)
    golden = _golden(folder, members, labels, arrays)
    complete = (
        replace(member, variants=_variants(folder, entry, golden[member.name], manifest, arrays))
        for member, entry in zip(members, manifest.members, strict=True)
    )
    return Bundle(folder, manifest, tuple(complete), golden)


def variant_key(member: str, precision: Precision) -> str:
    """The name of a variant's golden embedding in golden.npz; no member is called so."""
    return f"{member}@{precision}.embedding"


def seal(folder: Path, manifest: dict[str, Any]) -> None:
    """Write manifest.json into `folder`, with the SHA-256 of every other file there; then the bundle loads.

    Raises:
        BundleError: what was sealed would not load; the folder then holds no manifest.
    """
    files = {
        path.relative_to(folder).as_posix(): _sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    text = json.dumps({**manifest, "files": files}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    target = folder / MANIFEST
    with open(target, "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    try:
        load(folder)
    except BundleError:
        target.unlink()
        raise


def _manifest(folder: Path) -> Manifest:
    try:
        data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(f"{folder}: {MANIFEST} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{folder}: {MANIFEST} is not JSON: {error}") from error
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise BundleError(f"{folder}: format version {version!r}, this program reads {FORMAT_VERSION}")
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise BundleError(f"{folder}: {MANIFEST}: {reasons}") from error
    _check_labels(folder, manifest)
    return manifest


def _check_labels(folder: Path, manifest: Manifest) -> None:
    if len(set(manifest.labels)) != len(manifest.labels):
        raise BundleError(f"{folder}: a label is listed twice")
    if set(manifest.decision.thresholds) != set(manifest.labels):
        raise BundleError(f"{folder}: thresholds and labels do not name the same genres")
    names = [member.name for member in manifest.members]
    if len(set(names)) != len(names):
        raise BundleError(f"{folder}: a member is listed twice")
    for member in manifest.members:
        precisions = [variant.precision for variant in member.variants]
        if len(set(precisions)) != len(precisions):
            raise BundleError(f"{folder}: a variant of {member.name} is listed twice")


def _check_files(folder: Path, manifest: Manifest) -> None:
    needed = {GOLDEN, *(m.encoder for m in manifest.members), *(m.head for m in manifest.members)}
    needed |= {variant.encoder for member in manifest.members for variant in member.variants}
    for name in sorted(needed - set(manifest.files)):
        raise BundleError(f"{folder}: the manifest names {name} but lists no hash for it")
    for name, expected in manifest.files.items():
        # A manifest is foreign input: no name in it may lead out of the bundle's folder.
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise BundleError(f"{folder}: file name {name!r} leads out of the bundle")
        try:
            actual = _sha256(folder / name)
        except (OSError, ValueError) as error:
            # ValueError: a name that no file can have, such as one with a NUL in it.
            raise BundleError(f"{folder}: {name!r} cannot be read: {error}") from error
        if actual != expected:
            raise BundleError(f"{folder}: {name} does not match its hash in the manifest")


def _member(folder: Path, entry: MemberManifest, labels: int, manifest: Manifest) -> Member:
    arrays = _arrays(folder / entry.head)
    weights, bias = arrays.get("weights"), arrays.get("bias")
    if weights is None or weights.shape != (labels, entry.embedding_dim):
        raise BundleError(f"{folder}: {entry.head}: weights must have shape [{labels}, {entry.embedding_dim}]")
    if bias is None or bias.shape != (labels,):
        raise BundleError(f"{folder}: {entry.head}: bias must have shape [{labels}]")
    return Member(
        name=entry.name,
        encoder=folder / entry.encoder,
        encoder_sha256=manifest.files[entry.encoder],
        sample_rate_hz=entry.sample_rate_hz,
        window_s=entry.window_s,
        embedding_dim=entry.embedding_dim,
        weight=entry.weight,
        weights=weights,
        bias=bias,
    )


def _golden(folder: Path, members: tuple[Member, ...], labels: int, arrays: dict[str, Array]) -> dict[str, Golden]:
    golden = {}
    for member in members:
        try:
            entry = Golden(*(arrays[f"{member.name}.{part}"] for part in ("waveform", "embedding", "logits")))
        except KeyError as error:
            raise BundleError(f"{folder}: {GOLDEN} lacks {error}") from error
        n = entry.waveform.shape[0] if entry.waveform.ndim == 2 else 0
        if n == 0 or entry.embedding.shape != (n, member.embedding_dim) or entry.logits.shape != (n, labels):
            raise BundleError(f"{folder}: {GOLDEN}: the arrays of {member.name} do not fit the manifest")
        golden[member.name] = entry
    return golden


def _variants(
    folder: Path, entry: MemberManifest, golden: Golden, manifest: Manifest, arrays: dict[str, Array]
) -> tuple[Variant, ...]:
    found = []
    for variant in entry.variants:
        key = variant_key(entry.name, variant.precision)
        expected = arrays.get(key)
        if expected is None:
            raise BundleError(f"{folder}: {GOLDEN} lacks {key!r}")
        if expected.shape != golden.embedding.shape:
            raise BundleError(f"{folder}: {GOLDEN}: {key} does not fit the manifest")
        found.append(
            Variant(
                precision=variant.precision,
                device=variant.device,
                encoder=folder / variant.encoder,
                encoder_sha256=manifest.files[variant.encoder],
                golden=expected,
                tolerance=variant.golden_tolerance,
                recommended=variant.recommended,
            )
        )
    return tuple(found)


def _arrays(path: Path) -> dict[str, Array]:
    """The float32 arrays of an .npz; refuses pickles (numpy.load documentation, allow_pickle) and other types."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            # An entry that is no array comes out as bytes.
            arrays = {name: np.asarray(archive[name]) for name in archive.files}
    except Exception as error:
        # zipfile and numpy raise a dozen types on damaged input, zlib.error and NotImplementedError among them.
        raise BundleError(f"{path}: is not a readable .npz: {error}") from error
    for name, array in arrays.items():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise BundleError(f"{path}: {name} must hold finite float32 numbers")
    return arrays


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
