"""The training manifest: read whole, refused whole, with every reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.core.errors import ConfigError
from trainer.dataset import Track, read_manifest


def _write(folder: Path, *lines: str, header: str = "path,genre,artist,fold") -> Path:
    for name in ("a.wav", "b.wav"):
        (folder / name).write_bytes(b"")
    manifest = folder / "tracks.csv"
    manifest.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return manifest


def test_paths_are_taken_from_the_manifests_folder(tmp_path: Path) -> None:
    manifest = _write(tmp_path, "a.wav,jazz,Ärtist,0", "b.wav,rock,,1")
    assert read_manifest(manifest) == [
        Track(tmp_path / "a.wav", "jazz", 0, "Ärtist"),
        Track(tmp_path / "b.wav", "rock", 1),
    ]


def test_every_bad_row_is_named_with_its_reason(tmp_path: Path) -> None:
    manifest = _write(
        tmp_path, "missing.wav,jazz,,0", "a.wav,,,0", "a.wav,jazz,,first", ",jazz,,1", "b.wav,rock,,0", "b.wav,rock,,0"
    )
    with pytest.raises(ConfigError) as caught:
        read_manifest(manifest)
    assert caught.value.problems == [
        "line 2: missing.wav does not exist",
        "line 3: genre is empty",
        "line 4: fold must be 0 or a positive whole number, got 'first'",
        "line 5: path is empty",
        "line 7: b.wav is already on line 6",
    ]


def test_an_artist_in_two_folds_is_refused(tmp_path: Path) -> None:
    manifest = _write(tmp_path, "a.wav,jazz,Nina,0", "b.wav,rock,Nina,1")
    with pytest.raises(ConfigError, match=r"line 3: artist 'Nina' is in fold 1, but in fold 0 on line 2"):
        read_manifest(manifest)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="column missing: fold"):
        read_manifest(_write(tmp_path, "a.wav,jazz", header="path,genre"))


def test_an_empty_or_unreadable_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no tracks"):
        read_manifest(_write(tmp_path))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_manifest(tmp_path / "nothing.csv")
