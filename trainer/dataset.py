"""Reads a training manifest (`tracks.csv`) and checks it whole. Must never decode audio.

A manifest is a CSV file with the columns `path` (relative to the manifest), `genre` and `fold`, and, where known,
`artist` and `dataset`. Folds are the unit of every split: all tracks of an artist must be in one fold, or else an
accuracy measured across folds would be flattered.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from daemon.core.errors import ConfigError

REQUIRED = ("path", "genre", "fold")


@dataclass(frozen=True, slots=True)
class Track:
    """One labelled recording; `artist` and `dataset` are empty where unknown."""

    path: Path
    genre: str
    fold: int
    artist: str = ""
    dataset: str = ""


def read_manifest(manifest: Path) -> list[Track]:
    """The tracks of `manifest`, in its order.

    Raises:
        ConfigError: with every bad row and its reason, or because the file cannot be read or lacks a column.
    """
    try:
        with manifest.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            columns = reader.fieldnames or []
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(str(manifest), [f"cannot be read: {error}"]) from error
    missing = [column for column in REQUIRED if column not in columns]
    if missing:
        raise ConfigError(str(manifest), [f"line 1: column missing: {', '.join(missing)}"])
    return _checked(manifest, rows)


def _checked(manifest: Path, rows: list[dict[str, str]]) -> list[Track]:
    problems: list[str] = []
    tracks: list[Track] = []
    paths: dict[Path, int] = {}
    folds: dict[str, tuple[int, int]] = {}
    for line, row in enumerate(rows, start=2):
        reasons = _reasons(manifest, row)
        if not reasons:
            track = _track(manifest, row)
            first = paths.setdefault(track.path, line)
            fold, since = folds.setdefault(track.artist, (track.fold, line)) if track.artist else (track.fold, line)
            if first != line:
                reasons.append(f"{row['path']} is already on line {first}")
            if fold != track.fold:
                reasons.append(f"artist {track.artist!r} is in fold {track.fold}, but in fold {fold} on line {since}")
            tracks.append(track)
        problems += [f"line {line}: {reason}" for reason in reasons]
    if not tracks and not problems:
        problems.append("holds no tracks")
    if problems:
        raise ConfigError(str(manifest), problems)
    return tracks


def _reasons(manifest: Path, row: dict[str, str]) -> list[str]:
    reasons: list[str] = []
    name = (row.get("path") or "").strip()
    if not name:
        reasons.append("path is empty")
    elif not (manifest.parent / name).is_file():
        reasons.append(f"{name} does not exist")
    if not (row.get("genre") or "").strip():
        reasons.append("genre is empty")
    fold = (row.get("fold") or "").strip()
    if not fold.isdecimal():
        reasons.append(f"fold must be 0 or a positive whole number, got {fold!r}")
    return reasons


def _track(manifest: Path, row: dict[str, str]) -> Track:
    return Track(
        path=manifest.parent / row["path"].strip(),
        genre=row["genre"].strip(),
        fold=int(row["fold"]),
        artist=(row.get("artist") or "").strip(),
        dataset=(row.get("dataset") or "").strip(),
    )
