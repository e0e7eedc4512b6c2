"""Writes a bundle: graphs, heads, golden outputs, variants, weights for torch, model card and manifest.

Must never train or choose anything. The graph that ONNX Runtime runs must say what torch says, or there is no bundle.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from daemon.core import bundle
from daemon.core.errors import from_os_error
from daemon.core.inference import Ensemble
from daemon.core.records import Device, Precision
from trainer.backbones.contract import Backbone
from trainer.head import Head
from trainer.shipping import plain
from trainer.shipping.draft import drafted
from trainer.shipping.graph import TOLERANCE, check_parity, embedding_of, golden_waveform, size_of, write_graph
from trainer.shipping.variants import Made, Original, Trial, make_variants, variant_path

Array = NDArray[np.float32]
_Given = TypeVar("_Given", Array, Trial)

CARD, REPORT, WEIGHTS = "MODEL_CARD.md", "report", "music_classifier.pth"

# The most that a manifest may allow golden outputs to differ.
_LARGEST_TOLERANCE = 0.1


class Extra(enum.StrEnum):
    """What a bundle may hold besides what serves everywhere: two variants, and `music_classifier.pth` for torch (see
    `trainer.shipping.plain`)."""

    FP16 = "fp16"
    INT8 = "int8"
    TORCH = "torch"


@dataclass(frozen=True, slots=True)
class Part:
    """One member: `encoder` with its `head`, heard in windows of `window_s`, counting `weight` in the ensemble. `name`
    is what `trainer.backbones` calls the encoder's network."""

    name: str
    encoder: Backbone
    head: Head
    window_s: float
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Contents:
    """All that goes into a bundle.

    Attributes:
        members: with names that differ.
        description: the manifest's metrics, training_data and provenance; a licence in it outranks `licence`.
        parent: the id of the bundle that this one comes from.
        taxonomy_hash: empty for the hash of the labels.
        report: a folder to be copied into the bundle.
    """

    id: str
    members: Sequence[Part]
    labels: Sequence[str]
    segments: int
    temperature: float
    thresholds: Mapping[str, float]
    description: Mapping[str, Any]
    card: str
    parent: str | None = None
    licence: str = "GPL-3.0-or-later"
    taxonomy_hash: str = ""
    report: Path | None = None


@dataclass(frozen=True, slots=True)
class _Ask:
    """What `export` was asked for besides the contents."""

    sound: Mapping[str, Array]
    trials: Mapping[str, Trial]
    precisions: tuple[Precision, ...]
    torch: bool


def export(
    contents: Contents,
    folder: Path,
    *,
    sound: Array | Mapping[str, Array] | None = None,
    trial: Trial | Mapping[str, Trial] | None = None,
    extras: Collection[Extra] = (),
    sharing: Path | None = None,
) -> list[Made]:
    """Write the bundle to `folder`, replacing the one that was there; it has then been loaded and replayed.

    Args:
        sound: windows of real tracks [n, samples] over which torch and ONNX Runtime must agree, as they must over a
            synthetic one. Of several members each hears its own: then by the member's name.
        trial: the tracks that variants are calibrated and measured on; by name as well.
        extras: what to add. Variants need a trial.
        sharing: a bundle whose files are linked to where they are equal, such as an encoder that only got a new head.

    Returns:
        What became of each variant: measured, or left out with the reason.

    Raises:
        BundleError: ONNX Runtime does not reproduce torch's outputs; `folder` is as it was.
        BadFile, TryLater: the disk is full or cannot be written; `folder` is as it was.
        ValueError: a variant is asked for and a member has no trial, or several members share what each needs.
    """
    precisions = tuple(Precision(extra) for extra in Extra if extra in extras and extra is not Extra.TORCH)
    ask = _Ask(_by_member(contents, sound), _by_member(contents, trial), precisions, Extra.TORCH in extras)
    lacking = [part.name for part in contents.members if part.name not in ask.trials]
    if precisions and lacking:
        raise ValueError(f"{', '.join(lacking)}: variants are measured on real tracks, and there is no trial")
    try:
        with drafted(folder) as draft:
            made = _write(contents, draft, ask)
            if sharing is not None:
                _share(draft, sharing)
            _replay(draft, made)
    except OSError as error:
        raise from_os_error(folder, error) from error
    return made


def _by_member(contents: Contents, given: _Given | Mapping[str, _Given] | None) -> Mapping[str, _Given]:
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return given
    if len(contents.members) > 1:
        raise ValueError("several members: give each its own sound and trial, by name")
    return {contents.members[0].name: given}


def _write(contents: Contents, draft: Path, ask: _Ask) -> list[Made]:
    golden: dict[str, Array] = {}
    made: list[Made] = []
    entries = []
    for part in contents.members:
        part.encoder.eval()
        original = _write_member(part, draft, ask.sound.get(part.name))
        variants = make_variants(original, ask.precisions, ask.trials[part.name]) if ask.precisions else []
        golden |= _golden(original, variants)
        entries.append(_entry(part, original, variants))
        made += variants
    np.savez_compressed(draft / bundle.GOLDEN, allow_pickle=False, **golden)
    for number, part in enumerate(contents.members if ask.torch else ()):
        # Of several members the first is in the file of the known name.
        path = draft / (f"{part.name}.pth" if number else WEIGHTS)
        plain.save(path, part.name, part.encoder, part.head, contents.labels, part.window_s, contents.temperature)
    (draft / CARD).write_text(contents.card, encoding="utf-8")
    if contents.report is not None:
        shutil.copytree(contents.report, draft / REPORT)
    bundle.seal(draft, _manifest(contents, entries, golden))
    return made


def _write_member(part: Part, draft: Path, sound: Array | None) -> Original:
    """Graph and head, after the comparison with torch."""
    path = draft / f"{part.name}.onnx"
    waveform = golden_waveform(part.window_s, part.encoder.sample_rate_hz)
    write_graph(part.encoder, path, waveform.shape[1])
    check_parity(part.encoder, path, waveform)
    if sound is not None:
        check_parity(part.encoder, path, sound)
    np.savez_compressed(draft / _head_name(part), weights=part.head.weights, bias=part.head.bias)
    return Original(part.name, part.encoder, path, part.head, waveform, embedding_of(part.encoder, waveform))


def _head_name(part: Part) -> str:
    return f"{part.name}.head.npz"


def _golden(original: Original, variants: Sequence[Made]) -> dict[str, Array]:
    name, embedding = original.member, original.golden
    parts = {"waveform": original.golden_waveform, "embedding": embedding, "logits": original.head.logits(embedding)}
    arrays = {f"{name}.{part}": array for part, array in parts.items()}
    for variant in variants:
        if variant.golden is not None:
            arrays[bundle.variant_key(name, variant.precision)] = variant.golden
    return arrays


def _entry(part: Part, original: Original, variants: Sequence[Made]) -> dict[str, Any]:
    """The member in the manifest."""
    entry: dict[str, Any] = {
        "name": part.name,
        "encoder": original.path.name,
        "head": _head_name(part),
        "sample_rate_hz": part.encoder.sample_rate_hz,
        "window_s": part.window_s,
        "embedding_dim": part.encoder.embedding_dim,
        "weight": part.weight,
    }
    kept = [variant for variant in variants if not variant.left_out]
    if kept:
        entry["variants"] = [
            {
                "precision": variant.precision,
                "device": variant.device,
                "encoder": variant_path(original.path, variant.precision).name,
                "golden_tolerance": variant.tolerance,
                "recommended": variant.recommended,
                "measured": dict(variant.measured),
            }
            for variant in kept
        ]
    return entry


def _manifest(contents: Contents, entries: Sequence[dict[str, Any]], golden: Mapping[str, Array]) -> dict[str, Any]:
    labels = list(contents.labels)
    largest = max(size_of(golden[f"{part.name}.embedding"]) for part in contents.members)
    return {
        "format_version": bundle.FORMAT_VERSION,
        "id": contents.id,
        "parent": contents.parent,
        "labels": labels,
        "taxonomy_hash": contents.taxonomy_hash or hashlib.sha256("\n".join(labels).encode()).hexdigest(),
        "members": list(entries),
        "decision": {
            "temperature": contents.temperature,
            "thresholds": dict(contents.thresholds),
            "segments": contents.segments,
        },
        # Rounding grows with the numbers that are rounded; small ones are given no less room than those of size 1.
        "golden_tolerance": min(_LARGEST_TOLERANCE, TOLERANCE * max(1.0, largest)),
        "licence": contents.licence,
        **contents.description,
    }


def _share(draft: Path, other: Path) -> None:
    """Replace files of `draft` by links to equal ones of the bundle `other`, where the file system allows it."""
    files: dict[str, str] = json.loads((draft / bundle.MANIFEST).read_text(encoding="utf-8"))["files"]
    for name, digest in bundle.load(other).manifest.files.items():
        for twin in (mine for mine, hashed in files.items() if hashed == digest):
            linked = draft / f"{twin}.link"
            with contextlib.suppress(OSError):
                os.link(other / name, linked)
                os.replace(linked, draft / twin)


def _replay(draft: Path, made: Sequence[Made]) -> None:
    """Load the bundle as the daemon does, in every precision that all members have."""
    loaded = bundle.load(draft)
    Ensemble(loaded, device=Device.CPU, precision=Precision.FP32, threads=1)
    for precision in {variant.precision for variant in made}:
        if not any(variant.left_out for variant in made if variant.precision is precision):
            Ensemble(loaded, device=Device.CPU, precision=precision, threads=1)
