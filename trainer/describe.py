"""Says in a bundle what it is: the manifest's numbers and the model card. Must never hide a number."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.judging.calibrate import Calibration
from trainer.judging.findings import Findings
from trainer.plan import Plan
from trainer.tracks.manifest import DataSet, Split


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model comes from. `folds` is 1 where validation tracks judged; `probe` holds what a linear head on the
    untouched backbone would call each judged track, None where there is none to compare with."""

    plan: Plan
    start: str | None
    id: str
    folds: int
    calibration: Calibration
    probe: Mapping[Path, str] | None

    @property
    def judged_on(self) -> str:
        """Which tracks the numbers are of."""
        if self.folds > 1:
            return f"tracks of artists that the judging model never heard (cross-validation in {self.folds} folds)"
        return "validation tracks, of artists that the model never heard; they chose epoch, temperature and thresholds"

    @property
    def began_with(self) -> str:
        """The checkpoint's name, without the way to it; empty for random weights."""
        return Path(self.start).name if self.start else ""

    def learnt(self, data: DataSet) -> DataSet:
        """The part of the set that the final model learnt from."""
        parts = (Split.TRAIN, Split.VALID) if self.folds > 1 else (Split.TRAIN,)
        return DataSet(data.labels, tuple(data.of(*parts)))


def description(found: Findings, data: DataSet, origin: Origin) -> dict[str, Any]:
    """The manifest's `metrics`, `training_data` and `provenance`. No path of the owner's is in it."""
    learnt = origin.learnt(data).tracks
    return {
        "metrics": {
            "measured_on": origin.judged_on,
            **found.as_dict(),
            "linear_probe_accuracy": round(found.rivals[0].rival, 4) if found.rivals else None,
        },
        "training_data": {
            "tracks": len(learnt),
            "hours": round(sum(track.duration_s for track in learnt) / 3600.0, 2),
            "genres": dict(Counter(track.genre for track in learnt)),
            "sources": dict(Counter(track.source or "unnamed" for track in learnt)),
            "artists": len({track.artist for track in learnt if track.artist}),
            "folds": origin.folds,
        },
        "provenance": {
            "trainer": "music-reclass-train fit",
            "start": origin.began_with or None,
            "plan": {name: value for name, value in origin.plan.as_dict().items() if name != "checkpoint"},
        },
    }


def card(found: Findings, data: DataSet, origin: Origin) -> str:
    """The model card in Markdown."""
    low, high = found.accuracy.interval
    beaten = "".join(f" {rival.name.capitalize()} gets {rival.rival:.1%} of the same tracks." for rival in found.rivals)
    start = f"from `{origin.began_with}`" if origin.start else "from random weights"
    rows = [
        f"| {row.score.genre} | {row.score.precision:.0%} | {row.score.recall:.0%} | {row.score.support} |"
        for row in found.rows
    ]
    sections = [
        f"# {origin.id}",
        _prose(f"Hears {len(data.labels)} genres: {', '.join(data.labels)}. Trained {start} ({origin.plan.backbone})."),
        "## How good it is",
        _prose(
            f"**{found.accuracy.value:.1%}** right of {found.tracks} tracks (95 % interval {low:.1%} to {high:.1%}), "
            f"measured on {origin.judged_on}, heard as the daemon hears.{beaten}"
        ),
        _prose(
            f"At its thresholds it tags {found.tagged.value:.0%} of them, and {found.right.value:.1%} of those tags "
            f"are right; with artists evened out {found.evened.coverage:.0%} and {found.evened.precision:.1%}. Each "
            "track was decided by a threshold that others had chosen."
        ),
        "\n".join(["| genre | precision | recall | tracks |", "|---|---|---|---|", *rows]),
    ]
    return "\n\n".join(sections) + "\n"


def _prose(text: str) -> str:
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False)
