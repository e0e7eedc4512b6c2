"""Says what was found: the numbers of the manifest and the model card. Must never compute a model or hide a number."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.judging import metrics
from trainer.judging.calibrate import choose_threshold
from trainer.judging.metrics import Dared, Labels, Probabilities, Weights
from trainer.starter.distil import Plan
from trainer.tracks.manifest import Track

COVERAGES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

COMMAND = (
    "music-reclass-train starter --tracks $MUSIC_RECLASS_DATA/tracks.csv \\\n"
    "  --teacher $MUSIC_RECLASS_DATA/weights/efficientat_mn04_as_mAP_432.pt --out daemon/starter"
)


@dataclass(frozen=True, slots=True)
class Findings:
    """What cross-validation found.

    `labels` is -1 for tracks of other genres; `probabilities` [tracks, genres] are out of fold and calibrated;
    `weights` even out artists with many tracks; `probe` holds the probabilities of a linear head on the teacher's
    hidden layer, None without a teacher.
    """

    genres: tuple[str, ...]
    tracks: tuple[Track, ...]
    labels: Labels
    probabilities: Probabilities
    weights: Weights
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
        return self.dared_among(self.known)

    def dared_among(self, chosen: NDArray[np.bool_]) -> Dared:
        """As `dared`, among the `chosen` tracks only."""
        return metrics.dare(self.probabilities[chosen], self.labels[chosen], [self.threshold] * len(self.genres))

    @property
    def dared_by_artist(self) -> Dared:
        """As `dared`, with artists evened out."""
        known = self.known
        thresholds = [self.threshold] * len(self.genres)
        return metrics.dare(self.probabilities[known], self.labels[known], thresholds, self.weights[known])

    @property
    def dared_outside(self) -> Dared:
        """How often a track of another genre is tagged all the same; every such tag is wrong."""
        return self.dared_among(~self.known)


def _crosswise(findings: Findings) -> tuple[float, float]:
    """Coverage and precision by weight, with each fold judged at the threshold that the other folds would choose."""
    known = findings.known
    probabilities, labels, weights = findings.probabilities[known], findings.labels[known], findings.weights[known]
    folds = np.array([track.fold for track in findings.tracks])[known]
    dared = right = 0.0
    for fold in sorted(set(folds.tolist())):
        inside = folds == fold
        others = ~inside
        threshold = choose_threshold(probabilities[others], labels[others], findings.target_precision, weights[others])
        thresholds = [threshold] * len(findings.genres)
        part = metrics.dare(probabilities[inside], labels[inside], thresholds, weights[inside])
        dared += part.coverage * weights[inside].sum()
        right += part.precision * part.coverage * weights[inside].sum()
    return float(dared / weights.sum()), float(right / dared) if dared else 0.0


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
            "coverage_artists_evened": round(findings.dared_by_artist.coverage, 4),
            "precision_of_tags_artists_evened": round(findings.dared_by_artist.precision, 4),
            "tagged_outside_taxonomy": round(findings.dared_outside.coverage, 4),
            "genres": {
                row.genre: {
                    "precision": round(row.precision, 4),
                    "recall": round(row.recall, 4),
                    "support": row.support,
                }
                for row in scores
            },
        },
        "training_data": {
            "tracks": len(findings.tracks),
            "genres": dict(Counter(track.genre for track in findings.tracks)),
            "datasets": dict(Counter(track.source or "unnamed" for track in findings.tracks)),
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
    sections = [_heading, _data, _accuracy, _daring, _limits, _origin]
    return "\n\n".join(part for section in sections for part in section(findings)) + "\n"


def _prose(text: str) -> str:
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False)


def _heading(findings: Findings) -> list[str]:
    genres = f"{', '.join(findings.genres[:-1])} or {findings.genres[-1]}"
    inside = "one small network" if findings.committee == 1 else f"{findings.committee} small networks side by side"
    return [
        "# The starter model",
        _prose(
            f'Hears whether a track is **{genres}**, and says "I don\'t know" where it is not sure. It is what Music '
            "Reclass starts with, until it has learnt your own genres from you."
        ),
        _prose(
            f"Inside: {inside} over log-mel ({findings.sample_rate_hz // 1000} kHz, 64 bands, 20 ms steps), front end "
            f"included in the ONNX graph; up to {findings.segments} windows of {findings.window_s:g} s per track, "
            "embeddings averaged, one linear head. Runs on any CPU."
        ),
    ]


def _data(findings: Findings) -> list[str]:
    known = [track for track, fine in zip(findings.tracks, findings.known, strict=True) if fine]
    others = sorted({track.genre for track in findings.tracks} - set(findings.genres))
    doubt = (
        f" {len(findings.tracks) - len(known)} tracks of other genres ({', '.join(others)}) taught doubt: they ask for "
        "no genre at all."
        if others
        else ""
    )
    return [
        "## Data and split",
        _prose(
            f"{len(findings.tracks)} recordings, of which the first 30 s count "
            f"({_listed(Counter(track.source or 'unnamed' for track in findings.tracks))}). Known genres: "
            f"{_listed(Counter(track.genre for track in known))}.{doubt}"
        ),
        _prose(
            f"{len({track.fold for track in findings.tracks})} folds that share no artist (GTZAN, whose artists are "
            "not named, by its fault-filtered split). Every number below is for tracks that the judging network, its "
            "head and its scaling never saw, heard through the windows that the daemon uses. Temperature and "
            "threshold were fitted on those same out-of-fold outputs. Network, optimiser and training length were "
            "settled by a few trials on two of the folds; how the head weighs genres and how artists are evened out, "
            "after a look at the out-of-fold errors: the numbers are a little kind. The network that ships was then "
            "trained in the same way on all tracks."
        ),
    ]


def _accuracy(findings: Findings) -> list[str]:
    probabilities, labels = findings.probabilities[findings.known], findings.labels[findings.known]
    scores = metrics.per_genre(probabilities, labels, findings.genres)
    low, high = findings.interval
    rows = [f"| {row.genre} | {row.precision:.0%} | {row.recall:.0%} | {row.support} |" for row in scores]
    parts = [
        "## Accuracy",
        _prose(
            f"**{findings.accuracy:.1%}** of {len(labels)} tracks (95 % interval {low:.1%} to {high:.1%}; macro F1 "
            f"{metrics.macro_f1(scores):.2f}; calibration error {metrics.calibration_error(probabilities, labels):.3f})"
            f". By fold: {_by_fold(findings)}."
        ),
        "\n".join(["| genre | precision | recall | tracks |", "|---|---|---|---|", *rows]),
        _confusion(findings),
    ]
    if findings.probe is not None:
        reference = metrics.accuracy(findings.probe[findings.known], labels)
        parts.append(
            _prose(f"For comparison, a linear head on the teacher's own hidden layer, same folds: {reference:.1%}.")
        )
    return parts


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
        if inside.any():
            share = metrics.accuracy(findings.probabilities[inside], findings.labels[inside])
            parts.append(f"{share:.0%} of {int(inside.sum())}")
    return ", ".join(parts)


def _daring(findings: Findings) -> list[str]:
    curve = metrics.risk_coverage(findings.probabilities[findings.known], findings.labels[findings.known])
    surest = [curve[max(0, round(coverage * len(curve)) - 1)] for coverage in COVERAGES]
    rows = [f"| {share:.0%} | {1 - risk:.1%} |" for share, risk in surest]
    dared, evened, outside = findings.dared, findings.dared_by_artist, findings.dared_outside
    coverage, precision = _crosswise(findings)
    low, high = metrics.wilson(round(dared.precision * dared.dared), dared.dared)
    parts = [
        "## When it dares",
        _prose(
            f"At the shipped threshold ({findings.threshold:.3f} for every genre, temperature "
            f"{findings.temperature:.3f}) it tags "
            f"**{dared.coverage:.0%}** of the tracks and **{dared.precision:.1%}** of those tags are right "
            f"({dared.dared} tags; 95 % interval {low:.1%} to {high:.1%}). By collection: {_by_collection(findings)}."
        ),
        _prose(
            "Tracks of one artist stand and fall together, and a few artists have many here, so temperature and "
            "threshold were chosen with every track weighted by one over the root of its artist's number of tracks. "
            f"Counted so, {evened.coverage:.0%} are tagged and {evened.precision:.1%} of the tags are right "
            f"(the aim was {findings.target_precision:.0%}); with each fold judged at the threshold that the other "
            f"folds would have chosen, {coverage:.0%} and {precision:.1%}."
        ),
        "\n".join(["| tagged, surest first | right |", "|---|---|", *rows]),
    ]
    if outside.tracks:
        parts.append(
            _prose(
                f"Of {outside.tracks} tracks of genres that it does not know it tags {outside.coverage:.0%}, all of "
                "them wrongly. Those tracks, too, were judged by networks that had not seen them, but that had seen "
                "others of their genres."
            )
        )
    return parts


def _by_collection(findings: Findings) -> str:
    names = np.array([track.source or "unnamed" for track in findings.tracks])
    parts = []
    for name in sorted(set(names[findings.known].tolist())):
        inside = findings.known & (names == name)
        part = findings.dared_among(inside)
        share = metrics.accuracy(findings.probabilities[inside], findings.labels[inside])
        parts.append(f"{name} {part.coverage:.0%} tagged, {part.precision:.0%} right (accuracy {share:.0%})")
    return "; ".join(parts)


def _limits(findings: Findings) -> list[str]:
    return [
        "## What it cannot do",
        "\n".join(
            [
                "- It knows no other genre than those, and has heard few examples of some. Which it confuses, the",
                "  table above says. A label can be a matter of taste: an artist that one shop calls pop is rock in",
                "  another.",
                "- It was never tried on speech, on field recordings or on music of which these collections hold none.",
                "- A genre that it does not know may be tagged as one that it does.",
                "- Its numbers come from short clips of few collections. Yours will differ.",
            ]
        ),
    ]


def _origin(findings: Findings) -> list[str]:
    teacher = (
        f"Besides the labels, the training used the hidden layers and AudioSet outputs of `{findings.teacher}` "
        "(EfficientAT, Schmid et al., ICASSP 2023; MIT licence) as targets. Its weights are not part of this model and "
        "did not initialise it."
        if findings.teacher
        else "No teacher was used."
    )
    return [
        "## Licence and provenance",
        _prose(
            "GPL-3.0-or-later, like the program. Trained from random weights by the program's own trainer. "
            f"{teacher} The recordings were used for training only: they are not cleared for redistribution and are "
            "not shipped. The golden input is synthetic."
        ),
        "Made with:",
        f"```\n{COMMAND}\n```",
        _prose(
            f"Seed {findings.seed}, {findings.committee} student(s), {findings.plan.steps} steps of "
            f"{findings.plan.batch} crops each, drawn from {findings.rows} rows of 30 s: each recording as it is, at "
            "other speeds, and mixed with others of its fold."
        ),
    ]


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
