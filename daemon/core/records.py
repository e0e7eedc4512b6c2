"""The plain values that pass between parts. Owns no behaviour beyond reading its own fields."""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# Mono sound, float32 in [-1, 1], shape [samples] or [batch, samples].
Waveform = NDArray[np.float32]


class Device(enum.StrEnum):
    """Where encoders run. AUTO takes the GPU if one answers."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Precision(enum.StrEnum):
    """The arithmetic of an encoder. AUTO takes the bundle's variant for the device where it has one that it recommends
    (fp16 on a GPU, int8 on a processor), else FP32, which every bundle has."""

    AUTO = "auto"
    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


class LogFormat(enum.StrEnum):
    """How an event is printed. AUTO is CONSOLE on a terminal and JSON elsewhere."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


@dataclass(frozen=True, slots=True)
class FileState:
    """What `stat` says of a file's content; a rewrite by rename changes the inode, an in-place one the mtime.

    A tagger that edits inside the padding and puts the mtime back ("preserve timestamps" in Picard and Mp3tag) changes
    nothing but the change time, which no program can set. It moves on chmod and link as well: see `same_content`.
    """

    size: int
    mtime_ns: int
    inode: int
    ctime_ns: int = 0

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        """The state in `status`, which the caller took with `os.stat`."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)

    def same_content(self, other: FileState) -> bool:
        """Whether everything but the change time is equal: the content is most likely the same, and cheaply checked."""
        return (self.size, self.mtime_ns, self.inode) == (other.size, other.mtime_ns, other.inode)


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of a track, in seconds from its start."""

    start_s: float
    length_s: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A genre of the owner's taxonomy and its calibrated probability, 0 to 1."""

    genre: str
    probability: float


@dataclass(frozen=True, slots=True)
class SegmentVote:
    """What one segment alone would have said: evidence for the record, not the decision."""

    start_s: float
    genre: str
    probability: float


class Abstention(enum.StrEnum):
    """Why a decision names no genre."""

    UNSURE = "unsure"
    OUTSIDE_TAXONOMY = "outside_taxonomy"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Decision:
    """What the bundle says of one track. `genre` is None where it abstains, and then `abstention` says why.

    `confidence` is the probability of the best candidate; `threshold` is what it had to reach.
    """

    genre: str | None
    confidence: float
    threshold: float
    candidates: tuple[Candidate, ...]
    votes: tuple[SegmentVote, ...]
    bundle: str
    abstention: Abstention | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """The file's genre was written; `change` is the ledger's number for `undo`."""

    path: Path
    change: int
    genres_before: tuple[str, ...]
    genres_after: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Moved:
    """The file stands at `path` now, where its genre has its place; `change` is the ledger's number for `undo`."""

    path: Path
    change: int
    from_path: Path


@dataclass(frozen=True, slots=True)
class Suggested:
    """A genre was found, and writing it waits for the owner's word."""

    path: Path
    genres: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Nothing was written, and nothing had to be: `reason` says why (already right, the owner's label, dry run)."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Abstained:
    """The bundle was not sure enough to name a genre."""

    path: Path
    reason: Abstention


@dataclass(frozen=True, slots=True)
class Parked:
    """The file could not be used; it is left alone, as it was, until it changes."""

    path: Path
    reason: str


Ending = Applied | Moved | Suggested | Unchanged | Abstained | Parked
