"""Says what was found: the numbers of the manifest and the model card. Must never compute a model or hide a number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer import metrics
from trainer.calibrate import choose_threshold
from trainer.dataset import Track
from trainer.metrics import Dared, Labels, Probabilities
from trainer.train import Plan

COVERAGES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

COMMAND = (
    "music-reclass-train starter --tracks $MUSIC_RECLASS_DATA/tracks.csv \\\n"
    "  --teacher $MUSIC_RECLASS_DATA/weights/efficientat_mn04_as_mAP_432.pt --out daemon/starter"
)


@dataclass(frozen=True, slots=True)
class Findings:
    """What cross-validation found. `labels` is -1 for tracks of other genres; `probabilities` [tracks, genres] are out
    of fold and calibrated; `probe` those of a linear head on the teacher's embeddings, None without a teacher."""

    genres: tuple[str, ...]
    tracks: tuple[Track, ...]
    labels: Labels
    probabilities: Probabilities
    temperature: float
    threshold: float
    target_precision: float
    probe: NDArray[np.float64] | None
    plan: Plan
    committee: int
    seed: int
    rows: int
    teacher: str | None
    window_s: float
    segments: int
    sample_rate_hz: int

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which tracks are of a genre that the bundle knows."""
        return np.asarray(self.labels >= 0)

    @property
    def accuracy(self) -> float:
        """Out-of-fold accuracy over the known genres."""
        return metrics.accuracy(self.probabilities[self.known], self.labels[self.known])

    @property
    def interval(self) -> tuple[float, float]:
        """The accuracy's 95 % interval (Wilson)."""
        count = int(self.known.sum())
        return metrics.wilson(round(self.accuracy * count), count)

    @property
    def dared(self) -> Dared:
        """Coverage and precision at the shipped threshold."""
        return self.dared_at(self.threshold)

    def dared_at(self, threshold: float) -> Dared:
        """Coverage and precision over the known genres at another threshold."""
        thresholds = [threshold] * len(self.genres)
        return metrics.dare(self.probabilities[self.known], self.labels[self.known], thresholds)

    @property
    def dared_without_itself(self) -> Dared:
        """As `dared`, with each fold judged at the threshold that the other folds would have chosen."""
        return _nested(self)

    @property
    def dared_outside(self) -> Dared:
        """How often a track of another genre is tagged all the same; every such tag is wrong."""
        thresholds = [self.threshold] * len(self.genres)
        return metrics.dare(self.probabilities[~self.known], self.labels[~self.known], thresholds)


def _nested(findings: Findings) -> Dared:
    probabilities, labels = findings.probabilities[findings.known], findings.labels[findings.known]
    folds = np.array([track.fold for track in findings.tracks])[findings.known]
    dared = right = 0
    for fold in sorted(set(folds.tolist())):
        inside = folds == fold
        threshold = choose_threshold(probabilities[~inside], labels[~inside], findings.target_precision)
        part = metrics.dare(probabilities[inside], labels[inside], [threshold] * len(findings.genres))
        dared += part.dared
        right += round(part.precision * part.dared)
    return Dared(dared / len(labels), right / dared if dared else 0.0, dared, len(labels))


def description(findings: Findings) -> dict[str, Any]:
    """The manifest's `metrics`, `training_data` and `provenance`."""
    probabilities, labels = findings.probabilities[findings.known], findings.labels[findings.known]
    scores = metrics.per_genre(probabilities, labels, findings.genres)
    low, high = findings.interval
    return {
        "metrics": {
            "measured_on": "out-of-fold tracks of artist-disjoint cross-validation",
            "tracks": len(labels),
            "accuracy": round(findings.accuracy, 4),
            "accuracy_interval_95": [round(low, 4), round(high, 4)],
            "macro_f1": round(metrics.macro_f1(scores), 4),
            "calibration_error": round(metrics.calibration_error(probabilities, labels), 4),
            "coverage": round(findings.dared.coverage, 4),
            "precision_of_tags": round(findings.dared.precision, 4),
            "tagged_outside_taxonomy": round(findings.dared_outside.coverage, 4),
            "genres": {row.genre: {"precision": round(row.precision, 4), "recall": round(row.recall, 4),
                                   "support": row.support} for row in scores},
        },
        "training_data": {
            "tracks": len(findings.tracks),
            "genres": dict(Counter(track.genre for track in findings.tracks)),
            "datasets": dict(Counter(track.dataset or "unnamed" for track in findings.tracks)),
            "folds": len({track.fold for track in findings.tracks}),
            "shipped": False,
        },
        "provenance": {
            "trainer": "music-reclass-train starter",
            "teacher": findings.teacher,
            "teacher_weights_shipped": False,
            "seed": findings.seed,
            "committee": findings.committee,
            "plan": asdict(findings.plan),
        },
    }


def card(findings: Findings) -> str:
    """The model card in Markdown."""
    sections = [_heading(findings), _data(findings), _accuracy(findings), _daring(findings), _limits(findings),
                _origin(findings)]
    return "\n\n".join(sections) + "\n"


def _heading(findings: Findings) -> str:
    students = "one small network" if findings.committee == 1 else f"{findings.committee} small networks side by side"
    return f"""# The starter model

Hears whether a track is **{', '.join(findings.genres[:-1])} or {findings.genres[-1]}**, and says "I don't know"
where it is not sure. It is what Music Reclass starts with, until it has learnt your own genres from you.

Inside: {students} over log-mel ({findings.sample_rate_hz // 1000} kHz, 64 bands, 20 ms steps), front end included in
the ONNX graph; up to {findings.segments} windows of {findings.window_s:g} s per track, embeddings averaged, one linear
head. Runs on any CPU."""


def _data(findings: Findings) -> str:
    known = [track for track, fine in zip(findings.tracks, findings.known, strict=True) if fine]
    counts = Counter(track.genre for track in known)
    others = sorted({track.genre for track in findings.tracks} - set(findings.genres))
    sources = Counter(track.dataset or "unnamed" for track in findings.tracks)
    folds = len({track.fold for track in findings.tracks})
    doubt = (
        f" {len(findings.tracks) - len(known)} tracks of other genres ({', '.join(others)}) taught doubt: they ask for "
        "no genre at all." if others else ""
    )
    return f"""## Data and split

{len(findings.tracks)} recordings of at most 30 s, mono, Opus 48 kbit/s: {_listed(sources)}. Known genres:
{_listed(counts)}.{doubt}

{folds} folds that share no artist (Emotify by artist, GTZAN by its fault-filtered split). Every number below is for
tracks that the judging network, its head and its scaling never saw, heard through the windows that the daemon uses.
Temperature and threshold were fitted on those same out-of-fold outputs. Architecture and training length were settled
beforehand on a few trials with two of the folds; the network that ships was then trained on all tracks in the
same way."""


def _accuracy(findings: Findings) -> str:
    probabilities, labels = findings.probabilities[findings.known], findings.labels[findings.known]
    scores = metrics.per_genre(probabilities, labels, findings.genres)
    low, high = findings.interval
    rows = [f"| {row.genre} | {row.precision:.0%} | {row.recall:.0%} | {row.support} |" for row in scores]
    probe = ""
    if findings.probe is not None:
        reference = metrics.accuracy(findings.probe[findings.known], labels)
        probe = f"\n\nFor comparison, a linear head on the teacher's own embeddings, same folds: {reference:.1%}."
    return "\n".join([
        "## Accuracy",
        "",
        f"**{findings.accuracy:.1%}** of {len(labels)} tracks (95 % interval {low:.1%} to {high:.1%}; "
        f"macro F1 {metrics.macro_f1(scores):.2f}; calibration error "
        f"{metrics.calibration_error(probabilities, labels):.3f}). By fold: {_by_fold(findings)}.",
        "",
        "| genre | precision | recall | tracks |",
        "|---|---|---|---|",
        *rows,
    ]) + "\n\n" + _confusion(findings) + probe


def _confusion(findings: Findings) -> str:
    labels, guessed = findings.labels[findings.known], findings.probabilities[findings.known].argmax(1)
    rows = []
    for index, genre in enumerate(findings.genres):
        counts = [int(((labels == index) & (guessed == other)).sum()) for other in range(len(findings.genres))]
        rows.append(f"| {genre} | {' | '.join(map(str, counts))} |")
    head = f"| true, heard as → | {' | '.join(findings.genres)} |"
    return "\n".join([head, "|---" * (len(findings.genres) + 1) + "|", *rows])


def _by_fold(findings: Findings) -> str:
    folds = np.array([track.fold for track in findings.tracks])
    parts = []
    for fold in sorted(set(folds.tolist())):
        inside = (folds == fold) & findings.known
        share = metrics.accuracy(findings.probabilities[inside], findings.labels[inside])
        parts.append(f"{share:.0%} of {int(inside.sum())}")
    return ", ".join(parts)


def _daring(findings: Findings) -> str:
    curve = metrics.risk_coverage(findings.probabilities[findings.known], findings.labels[findings.known])
    rows = []
    for coverage in COVERAGES:
        share, risk = curve[max(0, round(coverage * len(curve)) - 1)]
        rows.append(f"| {share:.0%} | {1 - risk:.1%} |")
    dared, nested, outside = findings.dared, findings.dared_without_itself, findings.dared_outside
    low, high = metrics.wilson(round(dared.precision * dared.dared), dared.dared)
    others = (
        f"\n\nOf {outside.tracks} tracks of genres it does not know it tags {outside.coverage:.0%}, all wrongly."
        if outside.tracks else ""
    )
    return "\n".join([
        "## When it dares",
        "",
        f"At the shipped threshold ({findings.threshold:.3f} for every genre, temperature {findings.temperature:.3f}) "
        f"it tags **{dared.coverage:.0%}** of the tracks and **{dared.precision:.1%}** of those tags are right "
        f"({dared.dared} tags; 95 % interval {low:.1%} to {high:.1%}). With each fold judged at the threshold that the "
        f"other folds would have chosen: {nested.coverage:.0%} tagged, {nested.precision:.1%} right.",
        "",
        "| tagged, surest first | right |",
        "|---|---|",
        *rows,
    ]) + others


def _limits(findings: Findings) -> str:
    return """## What it cannot do

- It knows no other genre, and it has heard few examples of some that it knows. Pop and rock are the hardest pair:
  in the recordings it learnt from, the line between them is the label's, not the ear's.
- It was never tried on speech, on field recordings or on music of which these two collections hold none.
- A genre that it does not know may be tagged as one that it does. Teach it your own genres, or leave the review page
  on, before letting it move files.
- Its numbers come from 30-second clips of two collections. Yours will differ."""


def _origin(findings: Findings) -> str:
    teacher = (
        f"Besides the labels, the training used the embeddings and AudioSet outputs of `{findings.teacher}` "
        "(EfficientAT, Schmid et al., ICASSP 2023; MIT licence) as targets. Its weights are not part of this model and "
        "did not initialise it."
        if findings.teacher else "No teacher was used."
    )
    return f"""## Licence and provenance

GPL-3.0-or-later, like the program. Trained from random weights by the program's own trainer. {teacher} The
recordings were used for training only: they are not cleared for redistribution and are not shipped. The golden input
is synthetic.

Made with:

```
{COMMAND}
```

Seed {findings.seed}, {findings.committee} student(s), {findings.plan.steps} steps of {findings.plan.batch} crops
each, drawn from {findings.rows} rows of 30 s: each recording as it is, at other speeds, and mixed with others of its
fold."""


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def summary(findings: Findings) -> Sequence[str]:
    """A few lines for the terminal."""
    low, high = findings.interval
    dared = findings.dared
    return (
        f"accuracy on unseen artists {findings.accuracy:.1%} (95 % interval {low:.1%} to {high:.1%})",
        f"tags {dared.coverage:.0%} of the tracks, {dared.precision:.1%} of the tags right",
        f"tags {findings.dared_outside.coverage:.0%} of {findings.dared_outside.tracks} tracks of other genres",
    )
