"""The bundle on disk: whole and matching its hashes, or refused with the reason."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from make_bundle import add_variant

from daemon.core import bundle
from daemon.core.errors import BundleError
from daemon.core.records import Device, Precision


@pytest.fixture
def folder(tone_bundle: Path, tmp_path: Path) -> Path:
    """A sealed bundle of one's own to spoil."""
    return Path(shutil.copytree(tone_bundle, tmp_path / "spoiled"))


def manifest_of(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / bundle.MANIFEST).read_text(encoding="utf-8"))
    return manifest


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    (folder / bundle.MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def hashed(folder: Path, **changes: Any) -> None:
    """Write the manifest with `changes`, and hashes that match whatever lies in the folder now."""
    manifest = manifest_of(folder) | changes
    manifest["files"] = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name != bundle.MANIFEST
    }
    write_manifest(folder, manifest)


def save_arrays(path: Path, **arrays: Any) -> None:
    with np.load(path) as archive:
        kept = {name: archive[name] for name in archive.files}
    np.savez(path, **{name: array for name, array in (kept | arrays).items() if array is not None})


def refusal_of(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        bundle.load(folder)
    assert str(folder) in str(caught.value)
    return str(caught.value)


# What is good


def test_what_was_sealed_loads(tone_bundle: Path) -> None:
    loaded = bundle.load(tone_bundle)
    assert loaded.id == "tones-1"
    assert loaded.labels == ("classical", "jazz", "rock")
    (member,) = loaded.members
    assert (member.sample_rate_hz, member.window_samples, member.embedding_dim) == (16_000, 32_000, 3)
    assert member.encoder_sha256 == hashlib.sha256(member.encoder.read_bytes()).hexdigest()
    np.testing.assert_array_equal(member.weights, np.eye(3))
    golden = loaded.golden["tones"]
    assert (golden.waveform.shape, golden.embedding.shape, golden.logits.shape) == ((3, 32_000), (3, 3), (3, 3))


def test_every_file_but_the_manifest_is_hashed(tone_bundle: Path) -> None:
    listed = set(manifest_of(tone_bundle)["files"])
    assert listed == {path.name for path in tone_bundle.iterdir()} - {bundle.MANIFEST}


def test_a_report_in_a_folder_of_its_own_is_hashed_too(folder: Path) -> None:
    (folder / "report").mkdir()
    (folder / "report" / "card.md").write_text("# Card")
    bundle.seal(folder, manifest_of(folder))
    assert "report/card.md" in manifest_of(folder)["files"]
    (folder / "report" / "card.md").write_text("# Forged")
    assert "report/card.md does not match its hash" in refusal_of(folder)


def test_sealing_again_changes_nothing(folder: Path) -> None:
    before = (folder / bundle.MANIFEST).read_text()
    bundle.seal(folder, manifest_of(folder))
    assert manifest_of(folder) == json.loads(before)


# Files


@pytest.mark.parametrize("name", ["tones.onnx", "tones.head.npz", "golden.npz"])
def test_a_missing_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert f"{name!r} cannot be read" in refusal_of(folder)


@pytest.mark.parametrize("name", ["tones.onnx", "tones.head.npz", "golden.npz"])
def test_one_changed_byte_is_refused(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert f"{name} does not match its hash" in refusal_of(folder)


@pytest.mark.parametrize("name", ["tones.onnx", "tones.head.npz", "golden.npz"])
def test_a_file_without_a_hash_is_refused(folder: Path, name: str) -> None:
    manifest = manifest_of(folder)
    del manifest["files"][name]
    write_manifest(folder, manifest)
    assert f"names {name} but lists no hash" in refusal_of(folder)


@pytest.mark.parametrize("name", ["../outside.npz", "/etc/hostname", "report/../../outside.npz"])
def test_no_name_leads_out_of_the_bundle(folder: Path, name: str) -> None:
    (folder.parent / "outside.npz").write_bytes(b"secret")
    manifest = manifest_of(folder)
    manifest["files"][name] = hashlib.sha256(b"secret").hexdigest()
    write_manifest(folder, manifest)
    assert "leads out of the bundle" in refusal_of(folder)


def test_no_head_leads_out_of_the_bundle(folder: Path) -> None:
    shutil.copy(folder / "tones.head.npz", folder.parent / "outside.npz")
    manifest = manifest_of(folder)
    manifest["members"][0]["head"] = "../outside.npz"
    manifest["files"]["../outside.npz"] = manifest["files"]["tones.head.npz"]
    write_manifest(folder, manifest)
    assert "leads out of the bundle" in refusal_of(folder)


@pytest.mark.parametrize("name", ["", ".", "nul\0", "half \ud800", "x" * 5000])
def test_a_name_that_no_file_can_have_is_refused(folder: Path, name: str) -> None:
    manifest = manifest_of(folder)
    manifest["files"][name] = "0" * 64
    write_manifest(folder, manifest)
    assert "cannot be read" in refusal_of(folder)


# The manifest


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    assert "manifest.json cannot be read" in refusal_of(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"\xff\xfe\x00",
        b'{"format_version": 1,',
        b"[" * 100_000,
        b'{"format_version": ' + b"9" * 10_000 + b"}",
    ],
    ids=["empty", "text", "not UTF-8", "cut off", "deeply nested", "endless number"],
)
def test_a_manifest_that_is_no_json_is_refused(folder: Path, content: bytes) -> None:
    (folder / bundle.MANIFEST).write_bytes(content)
    assert "is not JSON" in refusal_of(folder)


@pytest.mark.parametrize("content", [b"[]", b"null", b'"text"', b"{}"])
def test_json_that_is_no_manifest_is_refused(folder: Path, content: bytes) -> None:
    (folder / bundle.MANIFEST).write_bytes(content)
    assert "format version None, this program reads 1" in refusal_of(folder)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_version_is_refused(folder: Path, version: object) -> None:
    hashed(folder, format_version=version)
    assert f"format version {version!r}, this program reads 1" in refusal_of(folder)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"labels": ["classical", "jazz", "jazz"]}, "a label is listed twice"),
        ({"labels": ["classical"]}, "labels: List should have at least 2 items"),
        ({"labels": ["classical", "jazz", "polka"]}, "thresholds and labels do not name the same genres"),
        ({"members": []}, "members: List should have at least 1 item"),
        ({"id": "../tones"}, "id: String should match pattern"),
        ({"id": ""}, "id: String should match pattern"),
        ({"surprise": 1}, "surprise: Extra inputs are not permitted"),
        ({"golden_tolerance": 5.0}, "golden_tolerance: Input should be less than or equal to 0.1"),
        ({"licence": None}, "licence: Input should be a valid string"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(folder: Path, changes: dict[str, Any], reason: str) -> None:
    hashed(folder, **changes)
    assert reason in refusal_of(folder)


@pytest.mark.parametrize("key", ["id", "labels", "members", "decision", "licence", "provenance", "files"])
def test_a_missing_key_is_refused(folder: Path, key: str) -> None:
    manifest = manifest_of(folder)
    del manifest[key]
    write_manifest(folder, manifest)
    assert f"{key}: Field required" in refusal_of(folder)


def test_everything_wrong_with_a_manifest_is_told_at_once(folder: Path) -> None:
    hashed(folder, labels=[], licence=7)
    assert "labels" in refusal_of(folder)
    assert "licence" in refusal_of(folder)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("temperature", 0.0),
        ("temperature", float("nan")),
        ("segments", 0),
        ("segments", 65),
        ("thresholds", {"classical": 1.5, "jazz": 0.5, "rock": 0.5}),
        ("thresholds", {"classical": float("nan"), "jazz": 0.5, "rock": 0.5}),
    ],
)
def test_decision_settings_out_of_bounds_are_refused(folder: Path, part: str, value: Any) -> None:
    hashed(folder, decision=manifest_of(folder)["decision"] | {part: value})
    assert f"decision.{part}" in refusal_of(folder)


def test_thresholds_for_other_labels_are_refused(folder: Path) -> None:
    hashed(folder, decision=manifest_of(folder)["decision"] | {"thresholds": {"classical": 0.5, "jazz": 0.5}})
    assert "thresholds and labels do not name the same genres" in refusal_of(folder)


def test_a_member_named_twice_is_refused(folder: Path) -> None:
    hashed(folder, members=manifest_of(folder)["members"] * 2)
    assert "a member is listed twice" in refusal_of(folder)


@pytest.mark.parametrize(
    ("part", "value"),
    [("sample_rate_hz", 100), ("window_s", 0), ("embedding_dim", 0), ("weight", -1.0), ("name", "../x")],
)
def test_a_member_out_of_bounds_is_refused(folder: Path, part: str, value: Any) -> None:
    hashed(folder, members=[manifest_of(folder)["members"][0] | {part: value}])
    assert f"members.0.{part}" in refusal_of(folder)


# Arrays


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"weights": np.eye(3, 4, dtype=np.float32)}, "weights must have shape [3, 3]"),
        ({"weights": np.eye(2, dtype=np.float32)}, "weights must have shape [3, 3]"),
        ({"weights": None}, "weights must have shape [3, 3]"),
        ({"bias": np.zeros(4, np.float32)}, "bias must have shape [3]"),
        ({"bias": np.zeros((3, 1), np.float32)}, "bias must have shape [3]"),
        ({"bias": None}, "bias must have shape [3]"),
        ({"weights": np.full((3, 3), np.nan, np.float32)}, "weights must hold finite float32 numbers"),
        ({"bias": np.float32([0, np.inf, 0])}, "bias must hold finite float32 numbers"),
        ({"weights": np.eye(3)}, "weights must hold finite float32 numbers"),
        ({"weights": np.array([["a"]])}, "weights must hold finite float32 numbers"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(folder: Path, arrays: dict[str, Any], reason: str) -> None:
    save_arrays(folder / "tones.head.npz", **arrays)
    hashed(folder)
    assert reason in refusal_of(folder)


def test_a_head_for_another_dimension_is_refused(folder: Path) -> None:
    hashed(folder, members=[manifest_of(folder)["members"][0] | {"embedding_dim": 4}])
    assert "weights must have shape [3, 4]" in refusal_of(folder)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"tones.waveform": None}, "lacks 'tones.waveform'"),
        ({"tones.embedding": np.zeros((3, 4), np.float32)}, "do not fit the manifest"),
        ({"tones.logits": np.zeros((2, 3), np.float32)}, "do not fit the manifest"),
        ({"tones.waveform": np.zeros((0, 32_000), np.float32)}, "do not fit the manifest"),
        ({"tones.waveform": np.float32(0.0)}, "do not fit the manifest"),
        ({"tones.waveform": np.zeros(32_000, np.float32)}, "do not fit the manifest"),
        ({"tones.embedding": np.full((3, 3), np.nan, np.float32)}, "must hold finite float32 numbers"),
    ],
)
def test_golden_outputs_that_do_not_fit_are_refused(folder: Path, arrays: dict[str, Any], reason: str) -> None:
    save_arrays(folder / "golden.npz", **arrays)
    hashed(folder)
    assert reason in refusal_of(folder)


class _Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self._path),)


def test_a_pickle_is_refused_and_not_opened(folder: Path, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    bomb = np.empty(1, dtype=object)
    bomb[0] = _Bomb(trap)
    np.savez(folder / "tones.head.npz", weights=bomb, bias=np.zeros(3, np.float32))
    hashed(folder)
    assert "is not a readable .npz" in refusal_of(folder)
    assert not trap.exists()


def npy_of(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def zip_of(entries: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"text", npy_of(np.eye(3, dtype=np.float32)), zip_of({"weights.npy": b"text", "bias.npy": b"\x93NUMPY"})],
    ids=["empty", "text", "a bare array", "a zip of texts"],
)
def test_what_is_no_npz_is_refused(folder: Path, content: bytes) -> None:
    (folder / "tones.head.npz").write_bytes(content)
    hashed(folder)
    assert "tones.head.npz" in refusal_of(folder)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_truncated_npz_is_refused(folder: Path, share: float) -> None:
    content = (folder / "tones.head.npz").read_bytes()
    (folder / "tones.head.npz").write_bytes(content[: int(len(content) * share)])
    hashed(folder)
    assert "is not a readable .npz" in refusal_of(folder)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_damaged_npz_loads_or_is_refused(tone_bundle: Path, tmp_path: Path, damage: list[tuple[int, int]]) -> None:
    """Even with hashes that match: whoever can write a bundle can write its hashes."""
    folder = tmp_path / "damaged"
    shutil.copytree(tone_bundle, folder, dirs_exist_ok=True)
    content = bytearray((folder / "tones.head.npz").read_bytes())
    for place, value in damage:
        content[place % len(content)] = value
    (folder / "tones.head.npz").write_bytes(content)
    hashed(folder)
    try:
        bundle.load(folder)
    except BundleError as error:
        assert str(folder) in str(error)


# Variants


@pytest.fixture
def varied(folder: Path) -> Path:
    """A bundle with an int8 variant."""
    return add_variant(folder)


def spoil_variant(folder: Path, **changes: Any) -> None:
    manifest = manifest_of(folder)
    manifest["members"][0]["variants"][0] |= changes
    hashed(folder, members=manifest["members"])


def test_a_bundle_made_before_there_were_variants_has_none(tone_bundle: Path) -> None:
    assert bundle.load(tone_bundle).members[0].variants == ()


def test_the_bundle_that_ships_loads() -> None:
    assert bundle.load(Path(bundle.__file__).parents[1] / "starter").members


def test_a_variant_is_an_encoder_of_its_own(varied: Path) -> None:
    member = bundle.load(varied).members[0]
    (variant,) = member.variants
    assert (variant.precision, variant.device, variant.recommended) == (Precision.INT8, Device.CPU, True)
    assert variant.encoder_sha256 == hashlib.sha256((varied / "tones.int8.onnx").read_bytes()).hexdigest()
    assert variant.golden.shape == (3, 3)
    served = member.served_by(variant)
    assert (served.encoder, served.encoder_sha256) == (varied / "tones.int8.onnx", variant.encoder_sha256)
    assert (served.name, served.weight, served.window_samples) == (member.name, member.weight, member.window_samples)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"precision": "fp32"}, "members.0.variants.0.precision"),
        ({"precision": "auto"}, "members.0.variants.0.precision"),
        ({"device": "auto"}, "members.0.variants.0.device"),
        ({"golden_tolerance": 0.0}, "members.0.variants.0.golden_tolerance"),
        ({"golden_tolerance": 0.6}, "members.0.variants.0.golden_tolerance"),
        ({"surprise": 1}, "members.0.variants.0.surprise"),
        ({"encoder": "elsewhere.onnx"}, "names elsewhere.onnx but lists no hash"),
        ({"precision": "fp16"}, "lacks 'tones@fp16.embedding'"),
    ],
)
def test_a_variant_that_does_not_fit_is_refused(varied: Path, changes: dict[str, Any], reason: str) -> None:
    spoil_variant(varied, **changes)
    assert reason in refusal_of(varied)


def test_a_variant_listed_twice_is_refused(varied: Path) -> None:
    member = manifest_of(varied)["members"][0]
    hashed(varied, members=[member | {"variants": member["variants"] * 2}])
    assert "a variant of tones is listed twice" in refusal_of(varied)


def test_a_changed_variant_is_refused(varied: Path) -> None:
    content = bytearray((varied / "tones.int8.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (varied / "tones.int8.onnx").write_bytes(content)
    assert "tones.int8.onnx does not match its hash" in refusal_of(varied)


def test_golden_outputs_of_a_variant_that_do_not_fit_are_refused(varied: Path) -> None:
    save_arrays(varied / "golden.npz", **{"tones@int8.embedding": np.zeros((3, 4), np.float32)})
    hashed(varied)
    assert "tones@int8.embedding does not fit the manifest" in refusal_of(varied)


# Sealing


def test_sealing_what_would_not_load_leaves_no_manifest(folder: Path) -> None:
    manifest = manifest_of(folder) | {"labels": ["classical", "jazz"]}
    with pytest.raises(BundleError):
        bundle.seal(folder, manifest)
    assert not (folder / bundle.MANIFEST).exists()


def test_sealing_without_an_encoder_leaves_no_manifest(folder: Path) -> None:
    (folder / "tones.onnx").unlink()
    with pytest.raises(BundleError, match=r"names tones\.onnx but lists no hash"):
        bundle.seal(folder, manifest_of(folder))
    assert not (folder / bundle.MANIFEST).exists()


def test_sealing_takes_no_hashes_from_outside(folder: Path) -> None:
    forged = manifest_of(folder) | {"files": {"tones.onnx": "0" * 64}}
    bundle.seal(folder, forged)
    assert manifest_of(folder)["files"]["tones.onnx"] != "0" * 64


def test_sealing_refuses_numbers_that_json_has_not(folder: Path) -> None:
    manifest = manifest_of(folder)
    (folder / bundle.MANIFEST).unlink()
    with pytest.raises(ValueError, match="JSON compliant"):
        bundle.seal(folder, manifest | {"metrics": {"accuracy": float("nan")}})
    assert not (folder / bundle.MANIFEST).exists()
