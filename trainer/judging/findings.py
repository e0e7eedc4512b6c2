"""Counts what an evaluation shows: every number of a report, with its interval. Pure arithmetic on the record.

Owns no words and no pictures. Two questions are kept apart: what the classifier would say if it had to name a genre for
every track (`accuracy`, `rows`, `confusion`, `curve`), and what the daemon does with its thresholds (`tagged`,
`right`). Intervals are at 95 %, and the wider of Wilson's and the artists' bootstrap (`metrics.spread`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daemon.core.errors import ConfigError
from daemon.core.records import Decision
from trainer.judging import metrics
from trainer.judging.calibrate import artist_weights, grouped
from trainer.judging.evaluate import Evaluation
from trainer.judging.metrics import Bin, Dared, GenreScore, Interval, Labels
from trainer.tracks.manifest import LeftOut, Track

# Log-odds of 0 and 1 are infinite: probabilities keep this distance from both.
_ODDS = 1e-9


@dataclass(frozen=True, slots=True)
class Share:
    """`right` of `of`, as a share from 0 to 1 (0 of nothing) with its interval."""

    right: int
    of: int
    interval: Interval

    @property
    def value(self) -> float:
        """The share itself."""
        return self.right / self.of if self.of else 0.0


@dataclass(frozen=True, slots=True)
class GenreRow:
    """One genre: its score where every track is named, intervals, and the tags that it really gets.

    `threshold` is None where the folds were served with different ones.
    """

    score: GenreScore
    precision: Interval
    recall: Interval
    called: int
    tags: int
    right_tags: int
    threshold: float | None


@dataclass(frozen=True, slots=True)
class Step:
    """Accuracy of the first `segments` segments of every track (all of a track that has fewer)."""

    segments: int
    accuracy: Share


@dataclass(frozen=True, slots=True)
class Rival:
    """Another classifier's genre for each track, by path, to compare with (a linear probe, the model before)."""

    name: str
    genres: Mapping[Path, str]


@dataclass(frozen=True, slots=True)
class Compared:
    """The accuracy of both on the tracks that both judged; `lead` is ours less the rival's, resampled by artist."""

    name: str
    tracks: int
    ours: float
    rival: float
    lead: Interval


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """All numbers of one evaluation. `tracks` counts those of a known genre that could be judged; `artists` stand
    behind them, counting each of the `unnamed` tracks without an artist as one.

    `curve` tags the tracks in the order in which they would reach their thresholds, were all of these lowered alike;
    `area` is that under the curve by probability alone. `temperature` is None where it is not the same for all tracks.
    `outside` tells of tracks of genres that the bundle does not know.
    `evened` is coverage and precision with prolific artists weighted down.
    """

    genres: tuple[str, ...]
    tracks: int
    artists: int
    unnamed: int
    accuracy: Share
    accuracy_wilson: Interval
    accuracy_by_artist: Interval
    macro_f1: float
    macro_f1_interval: Interval
    tagged: Share
    right: Share
    evened: Dared
    outside: Dared
    rows: tuple[GenreRow, ...]
    confusion: Labels
    before: tuple[Bin, ...]
    after: tuple[Bin, ...]
    error_before: float
    error_after: float
    temperature: float | None
    curve: tuple[tuple[float, float], ...]
    area: float
    steps: tuple[Step, ...]
    rivals: tuple[Compared, ...]
    silent: tuple[Path, ...]
    failures: tuple[LeftOut, ...]
    seconds: float
    bundles: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The main numbers as plain values, as they go into a bundle's manifest."""
        return {
            "tracks": self.tracks,
            "accuracy": round(self.accuracy.value, 4),
            "accuracy_interval_95": _rounded(self.accuracy.interval),
            "accuracy_interval_95_wilson": _rounded(self.accuracy_wilson),
            "accuracy_interval_95_by_artist": _rounded(self.accuracy_by_artist),
            "macro_f1": round(self.macro_f1, 4),
            "macro_f1_interval_95": _rounded(self.macro_f1_interval),
            "calibration_error": round(self.error_after, 4),
            "coverage": round(self.tagged.value, 4),
            "precision_of_tags": round(self.right.value, 4),
            "precision_of_tags_interval_95": _rounded(self.right.interval),
            "coverage_artists_evened": round(self.evened.coverage, 4),
            "precision_of_tags_artists_evened": round(self.evened.precision, 4),
            "tagged_outside_taxonomy": round(self.outside.coverage, 4) if self.outside.tracks else None,
            "risk_coverage_area": round(self.area, 4),
            "genres": {
                row.score.genre: {
                    "precision": round(row.score.precision, 4),
                    "recall": round(row.score.recall, 4),
                    "support": row.score.support,
                }
                for row in self.rows
            },
        }


def find(evaluation: Evaluation, rivals: Sequence[Rival] = ()) -> Findings:
    """Everything that `evaluation` shows.

    Raises:
        ConfigError: not one track of a known genre could be judged.
    """
    chosen = np.flatnonzero(evaluation.audible & (evaluation.truths >= 0))
    if not len(chosen):
        raise ConfigError("evaluation", ["holds no track of a known genre that could be heard"])
    tracks = [evaluation.heard[place].track for place in chosen]
    truths, probabilities = evaluation.truths[chosen], evaluation.probabilities[chosen]
    guessed = probabilities.argmax(1)
    artists = [track.artist for track in tracks]
    groups = metrics.clusters(artists)
    spread = metrics.spread(guessed, truths, len(evaluation.genres), groups)
    raw = grouped(evaluation.logits[chosen], 1.0, evaluation.groups)
    tags = _tags(evaluation, chosen)
    hits = int((guessed == truths).sum())
    wilson = metrics.wilson(hits, len(truths))
    scores = metrics.per_genre(probabilities, truths, evaluation.genres)
    decisions = [evaluation.decisions[place] for place in chosen]
    curve = metrics.risk_coverage(probabilities, truths, _sureness(decisions))
    temperatures = {rule.temperature for rule in evaluation.rules}
    tagged, right = _dared(tags, truths, groups)
    return Findings(
        genres=evaluation.genres,
        tracks=len(truths),
        artists=int(groups.max()) + 1,
        unnamed=artists.count(""),
        accuracy=Share(hits, len(truths), metrics.wider(wilson, spread.accuracy)),
        accuracy_wilson=wilson,
        accuracy_by_artist=spread.accuracy,
        macro_f1=metrics.macro_f1([score for score in scores if score.support]),
        macro_f1_interval=spread.macro_f1,
        tagged=tagged,
        right=right,
        evened=_evened(tags, truths, artists),
        outside=_outside(evaluation),
        rows=_rows(evaluation, scores, spread, guessed, tags, truths),
        confusion=metrics.confusion(probabilities, truths),
        before=tuple(metrics.reliability(raw, truths)),
        after=tuple(metrics.reliability(probabilities, truths)),
        error_before=metrics.calibration_error(raw, truths),
        error_after=metrics.calibration_error(probabilities, truths),
        temperature=temperatures.pop() if len(temperatures) == 1 else None,
        curve=tuple(curve),
        area=metrics.area_under(metrics.risk_coverage(probabilities, truths)),
        steps=_steps(evaluation, chosen, truths, groups),
        rivals=tuple(_compare(rival, tracks, evaluation.genres, guessed, truths) for rival in rivals),
        silent=tuple(
            hearing.track.path for hearing, heard in zip(evaluation.heard, evaluation.audible, strict=True) if not heard
        ),
        failures=evaluation.failures,
        seconds=float(np.median([hearing.decode_s + hearing.infer_s for hearing in evaluation.heard])),
        bundles=tuple(dict.fromkeys(rule.bundle for rule in evaluation.rules)),
    )


def _sureness(decisions: Sequence[Decision]) -> NDArray[np.float64]:
    """How far each track is above its threshold, in log-odds: with one threshold for all the order is that of the
    probabilities, and with one per genre the tracks that are tagged still come first."""
    confidence = np.clip([decision.confidence for decision in decisions], _ODDS, 1.0 - _ODDS)
    threshold = np.clip([decision.threshold for decision in decisions], _ODDS, 1.0 - _ODDS)
    return np.asarray(np.log(confidence / (1.0 - confidence)) - np.log(threshold / (1.0 - threshold)))


def _tags(evaluation: Evaluation, chosen: NDArray[np.int64]) -> Labels:
    """The genre that each chosen track is tagged with, as a place in the genres; -1 where the daemon abstains."""
    named = (evaluation.decisions[place].genre for place in chosen)
    return np.array([-1 if name is None else evaluation.genres.index(name) for name in named], int)


def share(right: NDArray[np.bool_], among: NDArray[np.bool_], groups: Labels) -> Share:
    """How many of the tracks `among` are `right`, with the wider of both intervals; all arrays are [tracks]."""
    hits, of = int((right & among).sum()), int(among.sum())
    counts = np.stack([right & among, among], axis=1).astype(np.float64)
    drawn = metrics.resampled(counts, groups)
    by_artist = metrics.interval(metrics.ratio(drawn[:, 0], drawn[:, 1]))
    return Share(hits, of, metrics.wider(metrics.wilson(hits, of), by_artist))


def _dared(tags: Labels, truths: Labels, groups: Labels) -> tuple[Share, Share]:
    """The share of the tracks that is tagged, and the share of those tags that is right."""
    dared = tags >= 0
    return share(dared, np.ones(len(tags), bool), groups), share(tags == truths, dared, groups)


def _evened(tags: Labels, truths: Labels, artists: Sequence[str]) -> Dared:
    weights = artist_weights(artists)
    dared = tags >= 0
    weight = float(weights[dared].sum())
    right = float(weights[dared & (tags == truths)].sum())
    precision = right / weight if weight else 0.0
    return Dared(weight / float(weights.sum()), precision, int(dared.sum()), len(tags))


def _outside(evaluation: Evaluation) -> Dared:
    """How many tracks of genres that the bundle does not know are tagged all the same; every such tag is wrong."""
    chosen = np.flatnonzero(evaluation.audible & (evaluation.truths < 0))
    dared = int((_tags(evaluation, chosen) >= 0).sum())
    return Dared(dared / len(chosen) if len(chosen) else 0.0, 0.0, dared, len(chosen))


def _rows(
    evaluation: Evaluation,
    scores: Sequence[GenreScore],
    spread: metrics.Spread,
    guessed: Labels,
    tags: Labels,
    truths: Labels,
) -> tuple[GenreRow, ...]:
    rows = []
    for index, score in enumerate(scores):
        called, hits = int((guessed == index).sum()), int(((guessed == index) & (truths == index)).sum())
        thresholds = {rule.thresholds[score.genre] for rule in evaluation.rules}
        rows.append(
            GenreRow(
                score=score,
                precision=metrics.wider(metrics.wilson(hits, called), spread.precision[index]),
                recall=metrics.wider(metrics.wilson(hits, score.support), spread.recall[index]),
                called=called,
                tags=int((tags == index).sum()),
                right_tags=int(((tags == index) & (truths == index)).sum()),
                threshold=thresholds.pop() if len(thresholds) == 1 else None,
            )
        )
    return tuple(rows)


def _steps(evaluation: Evaluation, chosen: NDArray[np.int64], truths: Labels, groups: Labels) -> tuple[Step, ...]:
    steps = []
    for count in range(1, max(len(evaluation.heard[place].logits) for place in chosen) + 1):
        right = evaluation.served(evaluation.first(count))[chosen].argmax(1) == truths
        steps.append(Step(count, share(right, np.ones(len(right), bool), groups)))
    return tuple(steps)


def _compare(rival: Rival, tracks: Sequence[Track], genres: Sequence[str], guessed: Labels, truths: Labels) -> Compared:
    """A paired comparison: on the same tracks, so that what is hard for both does not count against either."""
    both = [place for place, track in enumerate(tracks) if track.path in rival.genres]
    if not both:
        return Compared(rival.name, 0, 0.0, 0.0, (-1.0, 1.0))
    ours = (guessed == truths)[both].astype(np.float64)
    theirs = np.array([rival.genres[tracks[place].path] == genres[truths[place]] for place in both], np.float64)
    groups = metrics.clusters([tracks[place].artist for place in both])
    drawn = metrics.resampled(np.stack([ours - theirs, np.ones(len(both))], axis=1), groups)
    lead = metrics.interval(drawn[:, 0] / drawn[:, 1])
    return Compared(rival.name, len(both), float(ours.mean()), float(theirs.mean()), lead)


def _rounded(interval: Interval) -> list[float]:
    return [round(interval[0], 4), round(interval[1], 4)]
