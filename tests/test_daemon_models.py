"""The folder of bundles: which there are, which one serves, and how another takes over."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from daemon.core.errors import BundleError
from daemon.effects import models


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "models"
    for name in ("mine-1", "mine-2"):
        make_folder(directory / name)
    return directory


def make_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    return folder


# Which there are


def test_bundles_are_the_folders_with_a_manifest(directory: Path) -> None:
    (directory / "no-bundle").mkdir()
    (directory / "file").touch()
    make_folder(directory / ".half-pulled")
    models.use(directory, directory / "mine-1")
    assert models.available(directory) == [directory / "mine-1", directory / "mine-2"]


def test_without_a_folder_there_are_none(tmp_path: Path) -> None:
    assert models.available(tmp_path / "gone") == []


# Which one is meant


def test_auto_is_the_starter_where_none_is_current(directory: Path, tmp_path: Path) -> None:
    assert models.locate(directory, "auto") == models.STARTER
    assert models.locate(tmp_path / "gone", "auto") == models.STARTER


def test_auto_is_the_current_one(directory: Path) -> None:
    models.use(directory, directory / "mine-2")
    assert models.locate(directory, "auto") == directory / "mine-2"


def test_starter_is_the_starter_whichever_is_current(directory: Path) -> None:
    models.use(directory, directory / "mine-1")
    assert models.locate(directory, "starter") == models.STARTER


def test_a_bundle_is_named_by_its_folder_or_by_its_path(directory: Path, tmp_path: Path) -> None:
    outside = make_folder(tmp_path / "elsewhere" / "theirs")
    assert models.locate(directory, "mine-1") == directory / "mine-1"
    assert models.locate(directory, str(outside)) == outside


@pytest.mark.parametrize("name", ["mine-3", "/nowhere/at/all"])
def test_a_bundle_that_is_not_there_is_refused_with_a_hint(directory: Path, name: str) -> None:
    with pytest.raises(BundleError, match=f"{name}: no such bundle .* `music-reclass models list`"):
        models.locate(directory, name)


# Taking over


def test_current_is_a_link_that_moves_with_the_folder(directory: Path, tmp_path: Path) -> None:
    models.use(directory, directory / "mine-1")
    assert os.readlink(directory / "current") == "mine-1"
    directory.rename(tmp_path / "moved")
    assert models.locate(tmp_path / "moved", "auto") == tmp_path / "moved" / "mine-1"


def test_a_bundle_outside_the_folder_can_serve(directory: Path, tmp_path: Path) -> None:
    outside = make_folder(tmp_path / "elsewhere")
    models.use(directory, outside)
    assert models.locate(directory, "auto") == outside


def test_a_folder_of_models_is_made_where_there_is_none(tmp_path: Path) -> None:
    outside = make_folder(tmp_path / "elsewhere")
    models.use(tmp_path / "state" / "models", outside)
    assert models.locate(tmp_path / "state" / "models", "auto") == outside


def test_using_the_starter_again_leaves_no_link_to_where_the_program_was_installed(directory: Path) -> None:
    models.use(directory, directory / "mine-1")
    models.use(directory, models.STARTER)
    assert models.locate(directory, "auto") == models.STARTER
    assert not (directory / "current").is_symlink()
    assert sorted(entry.name for entry in directory.iterdir()) == ["mine-1", "mine-2"]


def test_using_the_current_one_by_that_name_makes_no_link_to_itself(directory: Path) -> None:
    models.use(directory, directory / "mine-1")
    models.use(directory, models.locate(directory, "current"))
    assert models.locate(directory, "auto") == directory / "mine-1"


def test_a_link_that_a_crash_left_is_no_hindrance(directory: Path) -> None:
    (directory / f".current.{os.getpid()}").symlink_to("gone")
    models.use(directory, directory / "mine-2")
    assert models.locate(directory, "auto") == directory / "mine-2"
    assert sorted(entry.name for entry in directory.iterdir()) == ["current", "mine-1", "mine-2"]


def test_a_reader_sees_the_old_one_or_the_new_one_never_none(directory: Path) -> None:
    models.use(directory, directory / "mine-1")
    seen: set[Path] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.add(models.locate(directory, "auto"))

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(200):
        models.use(directory, directory / f"mine-{1 + number % 2}")
    done.set()
    reader.join()
    assert seen <= {directory / "mine-1", directory / "mine-2"}


# Noticing another one


def test_the_mark_changes_with_the_bundle(directory: Path) -> None:
    before = models.mark(directory, "auto")
    models.use(directory, directory / "mine-1")
    first = models.mark(directory, "auto")
    assert models.mark(directory, "auto") == first
    models.use(directory, directory / "mine-2")
    assert len({before, first, models.mark(directory, "auto")}) == 3


def test_the_mark_changes_with_the_manifest(directory: Path) -> None:
    before = models.mark(directory, "mine-1")
    (directory / "mine-1" / "manifest.json").unlink()
    missing = models.mark(directory, "mine-1")
    (directory / "mine-1" / "other.json").write_text("{ }")
    os.utime(directory / "mine-1" / "other.json", ns=(1, 1))
    (directory / "mine-1" / "other.json").rename(directory / "mine-1" / "manifest.json")
    assert missing == ""
    assert models.mark(directory, "mine-1") not in (before, missing)


def test_a_mark_of_nothing_is_empty_and_never_raises(directory: Path) -> None:
    (directory / "current").symlink_to("current")
    assert models.mark(directory, "auto") == ""
    (directory / "current").unlink()
    (directory / "current").symlink_to("gone")
    assert models.mark(directory, "auto") == ""
    assert models.mark(directory, "mine-3") == ""
