"""The labelled tracks of a training set, on disk and in memory. Must never decode sound or choose a split.

A data folder holds `tracks.csv` (one row per track, columns as in `COLUMNS`), `left_out.csv` (what was not taken, and
why) and `dataset.json` (labels in output order and where each name went).

Format versions of dataset.json:
    1  labels, mapping, settings.
"""

from __future__ import annotations

import csv
import enum
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from daemon.core.errors import ConfigError

FORMAT_VERSION = 1
TRACKS, LEFT_OUT, FACTS = "tracks.csv", "left_out.csv", "dataset.json"
COLUMNS = ("audio_id", "path", "genre", "artist", "album", "duration_s", "source", "split", "fold")

NO_FOLD = -1


class Split(enum.StrEnum):
    """What a track is for. RESERVED tracks share an artist or album with the frozen holdout and came after it was
    frozen: to train on them would flatter the holdout, to judge on them would thaw it."""

    TRAIN = "train"
    VALID = "valid"
    HOLDOUT = "holdout"
    RESERVED = "reserved"


@dataclass(frozen=True, slots=True)
class Track:
    """One labelled recording. `genre` is a label of the set; texts are empty and `fold` is -1 where unknown;
    `source` says who told the label (`folders`, `tags`, `ledger`, or a data set's name)."""

    path: Path
    genre: str
    fold: int = NO_FOLD
    artist: str = ""
    source: str = ""
    audio_id: str = ""
    album: str = ""
    duration_s: float = 0.0
    split: Split = Split.TRAIN


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file that is not in the set, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class DataSet:
    """A training set. `labels` in output order; `mapping` holds, for every name that a source gave, the label that it
    became or None; `settings` is how the set was made, for the record."""

    labels: tuple[str, ...]
    tracks: tuple[Track, ...]
    left_out: tuple[LeftOut, ...] = ()
    mapping: Mapping[str, str | None] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def of(self, *splits: Split) -> list[Track]:
        """The tracks of these splits, in order."""
        return [track for track in self.tracks if track.split in splits]

    def targets(self, tracks: Iterable[Track]) -> list[int]:
        """Each track's label as an index into `labels`."""
        place = {label: index for index, label in enumerate(self.labels)}
        return [place[track.genre] for track in tracks]


def write(data: DataSet, folder: Path) -> None:
    """Write the set into `folder`, each file whole or not at all; `dataset.json` last.

    Raises:
        OSError: the disk is full or not writable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _replacing(folder / TRACKS) as out:
        rows = csv.writer(out)
        rows.writerow(COLUMNS)
        rows.writerows(_row(track) for track in data.tracks)
    with _replacing(folder / LEFT_OUT) as out:
        rows = csv.writer(out)
        rows.writerow(("path", "reason"))
        rows.writerows((str(left.path), left.reason) for left in data.left_out)
    facts = {
        "format_version": FORMAT_VERSION,
        "labels": list(data.labels),
        "mapping": dict(data.mapping),
        "settings": dict(data.settings),
    }
    with _replacing(folder / FACTS) as out:
        json.dump(facts, out, ensure_ascii=False, indent=2)


def read(folder: Path) -> DataSet:
    """The set in `folder`.

    Raises:
        ConfigError: it is missing, damaged or of another version; every bad row is named.
    """
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8", errors="surrogateescape"))
        rows, left = _rows(folder / TRACKS), _rows(folder / LEFT_OUT)
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(
            str(folder), [f"is no data set (make one with `music-reclass-train dataset`): {error}"]
        ) from error
    version = facts.get("format_version") if isinstance(facts, dict) else None
    if version != FORMAT_VERSION:
        raise ConfigError(str(folder / FACTS), [f"format version {version!r}, this program reads {FORMAT_VERSION}"])
    problems: list[str] = []
    labels = tuple(facts["labels"])
    tracks = tuple(_track(row, labels, line, problems) for line, row in enumerate(rows, start=2))
    if problems:
        raise ConfigError(str(folder / TRACKS), problems)
    left_out = tuple(LeftOut(Path(row["path"]), row["reason"]) for row in left)
    return DataSet(labels, tracks, left_out, facts["mapping"], facts["settings"])


class _Replacing:
    """A text file that takes its name only when it is whole and on disk."""

    def __init__(self, path: Path) -> None:
        self._path, self._partial = path, path.with_name(f".{path.name}.part")

    def __enter__(self) -> TextIO:
        # File names are bytes on Linux: what is not UTF-8 in them must come back as it was.
        self._out = open(self._partial, "w", encoding="utf-8", errors="surrogateescape", newline="")
        return self._out

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        whole = False
        try:
            with self._out:
                if kind is None:
                    self._out.flush()
                    os.fsync(self._out.fileno())
            whole = kind is None
        finally:
            if whole:
                os.replace(self._partial, self._path)
            else:
                self._partial.unlink(missing_ok=True)


def _replacing(path: Path) -> _Replacing:
    return _Replacing(path)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
        return list(csv.DictReader(stream))


def _row(track: Track) -> Sequence[object]:
    return (
        *(track.audio_id, str(track.path), track.genre, track.artist, track.album),
        *(f"{track.duration_s:.3f}", track.source, track.split.value, "" if track.fold == NO_FOLD else track.fold),
    )


def _track(row: dict[str, str], labels: tuple[str, ...], line: int, problems: list[str]) -> Track:
    try:
        track = Track(
            path=Path(row["path"]),
            genre=row["genre"],
            fold=int(row["fold"]) if row["fold"] else NO_FOLD,
            artist=row["artist"],
            source=row["source"],
            audio_id=row["audio_id"],
            album=row["album"],
            duration_s=float(row["duration_s"]),
            split=Split(row["split"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        problems.append(f"line {line}: {error}")
        return Track(Path(), "")
    if track.genre not in labels:
        problems.append(f"line {line}: genre {track.genre!r} is no label of the set")
    return track
