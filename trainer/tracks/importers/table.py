"""Genres from a table: a CSV file that somebody made, read and checked whole. Must never decode audio.

It has the columns `path` (relative to the table, or absolute) and `genre`, and, where known, `fold`, `artist`, `album`
and `dataset`. A manifest is a table whose folds make a split: all tracks of an artist must be in one fold, or else an
accuracy measured across folds would be flattered.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from daemon.core.errors import ConfigError
from daemon.core.taxonomy import holds_control
from trainer.tracks.importers.claim import Claim, Source
from trainer.tracks.manifest import NO_FOLD, Track

REQUIRED = ("path", "genre")

Row = dict[str, str]


def claims(table: Path) -> list[Claim]:
    """What `table` says, in its order; a row without a genre or whose file is gone is left to the builder to refuse.

    Raises:
        ConfigError: with every row that has no path or a bad fold, or because the file cannot be read or lacks a
            column.
    """
    rows = _rows(table, REQUIRED)
    problems = [f"line {line}: {reason}" for line, row in enumerate(rows, start=2) for reason in _flaws(row)]
    if not rows:
        problems.append("holds no tracks")
    if problems:
        raise ConfigError(str(table), problems)
    return [_claim(table, row) for row in rows]


def read_manifest(manifest: Path) -> list[Track]:
    """The tracks of `manifest`, in its order; each has a fold, and none shares its artist with another fold.

    Raises:
        ConfigError: with every bad row and its reason, or because the file cannot be read or lacks a column.
    """
    return _checked(manifest, _rows(manifest, (*REQUIRED, "fold")))


def _rows(table: Path, required: Sequence[str]) -> list[Row]:
    try:
        # Spreadsheets put a byte order mark in front.
        with table.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            reader = csv.DictReader(stream)
            columns = reader.fieldnames or []
            rows = list(reader)
    except (OSError, csv.Error) as error:
        raise ConfigError(str(table), [f"cannot be read: {error}"]) from error
    missing = [column for column in required if column not in columns]
    if missing:
        raise ConfigError(str(table), [f"line 1: column missing: {', '.join(missing)}"])
    return rows


def _claim(table: Path, row: Row) -> Claim:
    genre, fold = _cell(row, "genre"), _cell(row, "fold")
    return Claim(
        path=table.parent / _cell(row, "path"),
        names=(genre,) if genre else (),
        kind=Source.TABLE,
        artist=_cell(row, "artist"),
        album=_cell(row, "album"),
        fold=int(fold) if fold else NO_FOLD,
        label_source=_cell(row, "dataset") or _cell(row, "source"),
        trouble="" if genre else "no genre: the table names none",
    )


def _checked(manifest: Path, rows: list[Row]) -> list[Track]:
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


def _reasons(manifest: Path, row: Row) -> list[str]:
    reasons = _path_flaws(row)
    name = _cell(row, "path")
    if name and not (manifest.parent / name).is_file():
        reasons.append(f"{name} does not exist")
    if not _cell(row, "genre"):
        reasons.append("genre is empty")
    return reasons + _fold_flaws(row)


def _flaws(row: Row) -> list[str]:
    """What is wrong with a row as a claim, whatever else is in the table."""
    readable = not holds_control(_cell(row, "genre"))
    return [
        *_path_flaws(row),
        *([] if readable else ["genre is not text in UTF-8"]),
        *(_fold_flaws(row) if _cell(row, "fold") else []),
    ]


def _path_flaws(row: Row) -> list[str]:
    return [] if _cell(row, "path") else ["path is empty"]


def _fold_flaws(row: Row) -> list[str]:
    fold = _cell(row, "fold")
    return [] if fold.isdecimal() else [f"fold must be 0 or a positive whole number, got {fold!r}"]


def _track(manifest: Path, row: Row) -> Track:
    return Track(
        path=manifest.parent / _cell(row, "path"),
        genre=_cell(row, "genre"),
        fold=int(_cell(row, "fold")),
        artist=_cell(row, "artist"),
        source=_cell(row, "dataset"),
        album=_cell(row, "album"),
    )


def _cell(row: Row, column: str) -> str:
    return (row.get(column) or "").strip()
