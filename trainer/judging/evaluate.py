"""Judges a bundle on labelled tracks through the very path by which the daemon serves it, and keeps what was heard.

Owns the record of an evaluation, in memory and on disk. Must never train, choose a threshold or count what is right:
`findings` does the counting. A record holds the logits of every segment and the rule by which they were decided, so
that other thresholds, another temperature or fewer segments can be tried without opening an audio file again.

Format versions of evaluation.json:
    1  rules, tracks with their decisions (for readers; they are decided anew on loading), failures, and the SHA-256
       of evaluation.npz: float32 `logits` [segments, labels], `starts_s` [segments], int64 `ends` [tracks], the row
       behind each track's last segment.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daemon.core import bundle as bundles
from daemon.core.audio import Sound
from daemon.core.config import Config, Thresholds
from daemon.core.decide import Rule, decide
from daemon.core.errors import BadFile, ConfigError, FileTrouble
from daemon.core.inference import Ensemble
from daemon.core.records import Decision, Device
from daemon.core.rule import decision_rule
from daemon.core.taxonomy import Taxonomy
from trainer.judging.calibrate import Groups, grouped
from trainer.judging.metrics import Probabilities
from trainer.tracks.manifest import LeftOut, Split, Track
from trainer.writing import write_whole

FORMAT_VERSION = 1
FACTS, ARRAYS = "evaluation.json", "evaluation.npz"

Logits = NDArray[np.float32]
Advance = Callable[[int, int], None]


def _nobody(done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True, slots=True, eq=False)
class Hearing:
    """One track as it was heard. `rule` is the place of its rule in `Evaluation.rules`.

    `logits` is float32 [segments, labels], the segments in order of information, begun at `starts_s`; both are empty
    for a silent track. `decode_s` and `infer_s` are wall time.
    """

    track: Track
    rule: int
    starts_s: tuple[float, ...]
    logits: Logits
    decode_s: float
    infer_s: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What one bundle, or one per fold, made of the tracks. `rules` differ in no label and no genre.

    `failures` are files that could not be heard. Arrays are in the order of `heard`.
    """

    rules: tuple[Rule, ...]
    heard: tuple[Hearing, ...]
    failures: tuple[LeftOut, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels in the order of the logits' columns."""
        return tuple(self.rules[0].labels)

    @functools.cached_property
    def genres(self) -> tuple[str, ...]:
        """The owner's genres that the labels stand for, each once, in the labels' order."""
        mapped = (self.rules[0].genres[label] for label in self.labels)
        return tuple(dict.fromkeys(genre for genre in mapped if genre is not None))

    @functools.cached_property
    def groups(self) -> Groups:
        """Which labels are which genres: float [labels, genres], 1 where they belong together."""
        groups = np.zeros((len(self.labels), len(self.genres)))
        for row, label in enumerate(self.labels):
            genre = self.rules[0].genres[label]
            if genre is not None:
                groups[row, self.genres.index(genre)] = 1.0
        return groups

    @functools.cached_property
    def truths(self) -> NDArray[np.int64]:
        """Each track's genre as a place in `genres`, -1 where the labels stand for no such genre."""
        place = {genre: index for index, genre in enumerate(self.genres)}
        return np.array([place.get(hearing.track.genre, -1) for hearing in self.heard], np.int64)

    @functools.cached_property
    def logits(self) -> Logits:
        """Each track's mean over its segments, float32 [tracks, labels]; zeros where there is none."""
        return self.first(None)

    def first(self, segments: int | None) -> Logits:
        """As `logits`, of no more than the first `segments` segments of each track, which tell the most."""
        means = np.zeros((len(self.heard), len(self.labels)), np.float32)
        for place, hearing in enumerate(self.heard):
            if len(hearing.logits):
                means[place] = hearing.logits[:segments].mean(axis=0)
        return means

    @functools.cached_property
    def audible(self) -> NDArray[np.bool_]:
        """Which tracks gave logits that can be judged: not silent, and finite."""
        fine = [bool(len(hearing.logits)) and bool(np.isfinite(hearing.logits).all()) for hearing in self.heard]
        return np.array(fine, bool)

    @functools.cached_property
    def probabilities(self) -> Probabilities:
        """Each track's probabilities of the genres, float [tracks, genres], as they were decided by.

        What a row lacks to 1 is the probability of labels that are no genre of the owner's.
        """
        return self.served(self.logits)

    def served(self, logits: Logits) -> Probabilities:
        """The probabilities [tracks, genres] of other logits [tracks, labels] of the same tracks, each at the
        temperature of its rule."""
        probabilities = np.zeros((len(self.heard), len(self.genres)))
        used = np.array([hearing.rule for hearing in self.heard], int)
        for place, rule in enumerate(self.rules):
            probabilities[used == place] = grouped(logits[used == place], rule.temperature, self.groups)
        return probabilities

    @functools.cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """What the daemon decides on each track."""
        return tuple(decide(hearing.logits, hearing.starts_s, self.rules[hearing.rule]) for hearing in self.heard)

    def decided_by(self, temperature: float, thresholds: Mapping[str, float]) -> Evaluation:
        """The same tracks decided anew, with this temperature and these thresholds (one per genre) for all."""
        rules = tuple(replace(rule, temperature=temperature, thresholds=dict(thresholds)) for rule in self.rules)
        return Evaluation(rules, self.heard, self.failures)

    def save(self, folder: Path) -> None:
        """Write evaluation.json and evaluation.npz into `folder`, each whole or not at all, the first one last.

        Raises:
            BadFile, TryLater: the folder cannot be written to, or the disk is full.
        """
        arrays = io.BytesIO()
        counts = [len(hearing.logits) for hearing in self.heard]
        np.savez_compressed(
            arrays,
            logits=np.concatenate([self.logits[:0], *(hearing.logits for hearing in self.heard)]),
            starts_s=np.array([start_s for hearing in self.heard for start_s in hearing.starts_s], np.float64),
            ends=np.cumsum(counts, dtype=np.int64),
        )
        facts = {
            "format_version": FORMAT_VERSION,
            "rules": [asdict(rule) for rule in self.rules],
            "tracks": [_row(*pair) for pair in zip(self.heard, self.decisions, strict=True)],
            "failures": [{"path": str(left.path), "reason": left.reason} for left in self.failures],
            "arrays_sha256": hashlib.sha256(arrays.getvalue()).hexdigest(),
        }
        write_whole(folder / ARRAYS, arrays.getvalue())
        # In ASCII: file names are bytes on Linux, and what is no UTF-8 in them must come back as it was.
        write_whole(folder / FACTS, json.dumps(facts, indent=1).encode("ascii"))

    @classmethod
    def load(cls, folder: Path) -> Evaluation:
        """The evaluation that was saved in `folder`.

        Raises:
            BadFile: it is missing, damaged, of another version, or its two files do not belong together.
        """
        try:
            facts = json.loads((folder / FACTS).read_bytes())
            if not isinstance(facts, dict) or facts.get("format_version") != FORMAT_VERSION:
                raise BadFile(folder / FACTS, f"is no evaluation of format version {FORMAT_VERSION}")
            packed = (folder / ARRAYS).read_bytes()
            if hashlib.sha256(packed).hexdigest() != facts["arrays_sha256"]:
                raise BadFile(folder / ARRAYS, f"does not belong to the {FACTS} beside it")
            with np.load(io.BytesIO(packed), allow_pickle=False) as archive:
                return _read(facts, archive["logits"], archive["starts_s"], archive["ends"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadFile(folder / FACTS, f"is no evaluation that can be read: {error}") from error


def evaluate(
    bundle: Path,
    tracks: Sequence[Track],
    config: Config | None = None,
    *,
    segments: int | None = None,
    threads: int | None = None,
    device: Device | None = None,
    advance: Advance = _nobody,
) -> Evaluation:
    """Hear and decide every one of `tracks` with the bundle in the folder `bundle`, as the daemon would.

    With a `config` in the owner's taxonomy, by its thresholds, segments, threads and device; the tracks' genres are
    names or aliases of that taxonomy. Without one the bundle's labels are the genres, and its own settings hold.
    `segments`, `threads` and `device` outrank both. `advance` is told how many tracks of how many are done.

    Raises:
        BundleError: the bundle is refused.
        ConfigError: there is no track, or the taxonomy has no genre for any of the bundle's labels.
    """
    loaded = bundles.load(bundle)
    taxonomy = None if config is None else config.build_taxonomy()
    rule = decision_rule(loaded.manifest, taxonomy, Thresholds() if config is None else config.thresholds)
    if not rule.thresholds:
        raise ConfigError("taxonomy", [f"has no genre for any label of {loaded.id}: {', '.join(loaded.labels)}"])
    if not tracks:
        raise ConfigError("tracks", ["there is no track to evaluate on"])
    if config is not None:
        segments, threads = segments or config.models.segments, threads or config.models.threads
        device = device or config.models.device
    ensemble = Ensemble(loaded, device=device or Device.AUTO, threads=threads)
    heard: list[Hearing] = []
    failures: list[LeftOut] = []
    for done, track in enumerate(tracks, start=1):
        try:
            heard.append(_hear(ensemble, _named(track, taxonomy), segments))
        except FileTrouble as trouble:
            failures.append(LeftOut(track.path, trouble.reason))
        advance(done, len(tracks))
    return Evaluation((rule,), tuple(heard), tuple(failures))


def join(evaluations: Sequence[Evaluation]) -> Evaluation:
    """One evaluation of all their tracks, each still judged by its own bundle: the folds of a cross-validation.

    Raises:
        ConfigError: there is none, their labels or genres differ, or a track is in two of them.
    """
    if not evaluations:
        raise ConfigError("evaluations", ["there is none to join"])
    first, problems = evaluations[0], []
    rules: list[Rule] = []
    heard: list[Hearing] = []
    for number, evaluation in enumerate(evaluations, start=1):
        if evaluation.labels != first.labels or evaluation.rules[0].genres != first.rules[0].genres:
            problems.append(f"number {number} has other labels or genres than the first one")
        heard += [replace(hearing, rule=hearing.rule + len(rules)) for hearing in evaluation.heard]
        rules += evaluation.rules
    times = Counter(hearing.track.path for hearing in heard)
    problems += [f"{path} is in {count} of them" for path, count in times.items() if count > 1]
    if problems:
        raise ConfigError("evaluations", problems)
    failures = tuple(left for evaluation in evaluations for left in evaluation.failures)
    return Evaluation(tuple(rules), tuple(heard), failures)


def _named(track: Track, taxonomy: Taxonomy | None) -> Track:
    """The track with its genre under the owner's own name for it, where the owner has one."""
    name = None if taxonomy is None else taxonomy.resolve(track.genre)
    return track if name is None else replace(track, genre=name)


def _hear(ensemble: Ensemble, track: Track, segments: int | None) -> Hearing:
    with Sound(track.path) as sound:
        heard = ensemble.hear(sound, segments)
    starts_s = tuple(window.start_s for window in heard.windows)
    return Hearing(track, 0, starts_s, heard.logits, heard.decode_s, heard.infer_s)


def _row(hearing: Hearing, decision: Decision) -> dict[str, Any]:
    return {
        **asdict(hearing.track),
        "path": str(hearing.track.path),
        "rule": hearing.rule,
        "decode_s": hearing.decode_s,
        "infer_s": hearing.infer_s,
        "decision": {
            "genre": decision.genre,
            "confidence": decision.confidence,
            "threshold": decision.threshold,
            "abstention": decision.abstention,
        },
    }


def _read(facts: dict[str, Any], logits: Logits, starts_s: NDArray[np.float64], ends: NDArray[np.int64]) -> Evaluation:
    rules = tuple(Rule(**{**rule, "labels": tuple(rule["labels"])}) for rule in facts["rules"])
    begins = [0, *ends.tolist()]
    heard = []
    for row, begin, end in zip(facts["tracks"], begins[:-1], begins[1:], strict=True):
        about = {key: value for key, value in row.items() if key in Track.__dataclass_fields__}
        track = Track(**{**about, "path": Path(row["path"]), "split": Split(row["split"])})
        starts = tuple(starts_s[begin:end].tolist())
        heard.append(Hearing(track, row["rule"], starts, logits[begin:end], row["decode_s"], row["infer_s"]))
    failures = tuple(LeftOut(Path(row["path"]), row["reason"]) for row in facts["failures"])
    return Evaluation(rules, tuple(heard), failures)
