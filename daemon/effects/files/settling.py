"""Finishes or takes back a move that a crash interrupted. Must never remove the last whole copy of a file."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from daemon.core.errors import TryLater
from daemon.effects.files.copying import sha256_of, sync_folder, translated
from daemon.effects.files.folders import make_folders, remove_made
from daemon.effects.files.renaming import Spot, is_listed, is_placeholder, rename_new, spot_of, status_of

# Other files of that name, beside which the only copy still finds a place.
_MAX_NUMBER = 100


def settle_move(
    source: Path, target: Path, *, temporary: Path | None, sha256: str | None, made_folders: Sequence[Path]
) -> bool:
    """Whether the move that `stage_move` described by these values is finished; if not, it is taken back.

    What comes from the move and is no longer needed is gone afterwards: the copy, the empty placeholder at the target,
    the folders that were made, if they are empty. Where both whole files are there, the source goes. Files that are
    not the move's own are left alone, whatever they are called; so both stay where the source was changed since.

    Raises:
        TryLater, BadFile: it cannot be told or done now; nothing is lost, and it can be settled again later.
    """
    with translated(source):
        if sha256 is None:
            finished = _settle_rename(source, target, temporary, made_folders)
        else:
            finished = _settle_copy(source, target, temporary, sha256, made_folders)
        if not finished:
            remove_made(made_folders)
    return finished


def _settle_rename(source: Path, target: Path, between: Path | None, made_folders: Sequence[Path]) -> bool:
    if between is not None and _is_file(between):
        if not is_placeholder(between):
            _remove_placeholder(target)
            return _bring_home(between, source, target, made_folders)
        if status_of(source) is None and status_of(target) is None:
            return _bring_home(between, source, target, made_folders)
        os.unlink(between)
    if status_of(source) is not None:
        if spot_of(target, source) in (Spot.HERE, Spot.OTHER_CASE):
            return is_listed(target)
        _remove_placeholder(target)
        return False
    return _is_file(target) and not is_placeholder(target)


def _settle_copy(source: Path, target: Path, temporary: Path | None, sha256: str, made_folders: Sequence[Path]) -> bool:
    if _is_whole(target, sha256):
        # Before the source goes: the crash may have come before the target's name was on disk.
        sync_folder(target.parent)
        if _is_whole(source, sha256) and spot_of(target, source) is Spot.TAKEN:
            os.unlink(source)
            sync_folder(source.parent)
        _remove(temporary)
        return status_of(source) is None
    if temporary is not None and not _is_whole(source, sha256) and _is_whole(temporary, sha256):
        # The owner deleted or changed the source since, or something damaged it: nobody can say which.
        _remove_placeholder(target)
        return _bring_home(temporary, source, target, made_folders) and status_of(source) is None
    if status_of(source) is not None:
        _remove_placeholder(target)
    _remove(temporary)
    return False


def _bring_home(copy: Path, source: Path, target: Path, made_folders: Sequence[Path]) -> bool:
    """Give the only copy its name at the target, or else the best one that is free; whether it is the target's."""
    numbered = (target.with_name(f"{target.stem} ({number}){target.suffix}") for number in range(2, _MAX_NUMBER))
    for place in (target, source, *numbered):
        if status_of(place) is not None:
            continue
        if place is not source:
            make_folders(source, made_folders)
        try:
            rename_new(copy, place)
        except OSError as error:
            if error.errno == errno.EXDEV:
                continue
            raise
        sync_folder(place.parent)
        sync_folder(copy.parent)
        return place is target
    raise TryLater(source, f"its only copy is called {copy}, since other files stand at its place and at {target}")


def _is_whole(path: Path, sha256: str) -> bool:
    return _is_file(path) and sha256_of(path) == sha256


def _is_file(path: Path) -> bool:
    status = status_of(path)
    return status is not None and stat.S_ISREG(status.st_mode)


def _remove_placeholder(target: Path) -> None:
    if is_placeholder(target):
        os.unlink(target)
        sync_folder(target.parent)


def _remove(temporary: Path | None) -> None:
    if temporary is not None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
