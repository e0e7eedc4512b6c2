"""Puts findings into plain sentences: how to read each picture, and what it says here. Must never compute a measure.

Written for an owner who has never heard of precision and recall; numbers are counts out of ten or a hundred tracks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trainer.judging.calibrate import Kind, Thresholds
from trainer.judging.findings import Compared, Findings, GenreRow, Share
from trainer.judging.metrics import Interval
from trainer.progress import Outcome

# Below this many tracks a genre's numbers say little.
FEW = 20

# Counts are told as they are up to here, and in tenths or hundredths beyond.
_EXACT = 100


def told(share: float) -> str:
    """A share in words: "7 of 10" where that is true to half a point, else "66 of 100", "none" or "all"."""
    if share in {0.0, 1.0}:
        return "all" if share else "none"
    tenths, hundredths = round(share * 10), round(share * 100)
    if 0 < tenths < 10 and abs(share - tenths / 10) < 0.005:
        return f"{tenths} of 10"
    if hundredths in {0, 100}:
        return "more than 99 of 100" if hundredths else "fewer than 1 of 100"
    return f"{hundredths} of 100"


def counted(share: Share) -> str:
    """As `told`, or the counts themselves where there are few."""
    return f"{share.right:,} of {share.of:,}" if share.of < _EXACT else told(share.value)


def between(interval: Interval) -> str:
    """An interval of a share: "between 82 and 91 of 100"."""
    low, high = round(interval[0] * 100), round(interval[1] * 100)
    return f"between {low} and {high} of 100" if low < high else f"about {low} of 100"


def listed(names: Sequence[str], most: int = 5) -> str:
    """Names in a sentence: "jazz, pop and rock", or "jazz, pop and 7 others"."""
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} others"
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def number_of(count: int, noun: str, plural: str = "") -> str:
    """A count with its noun: "1 track", "2,000 tracks"."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def headline(findings: Findings) -> str:
    """The one sentence that says how good it is."""
    tagged, right = findings.tagged, findings.right
    if not tagged.right:
        return f"It tags none of the {number_of(findings.tracks, 'track')}: it was never sure enough."
    coverage = "every track" if tagged.right == tagged.of else f"{counted(tagged)} tracks"
    if right.right == right.of:
        return f"It tags {coverage}, and every one of these tags is right."
    if not right.right:
        return f"It tags {coverage}, and not one of these tags is right."
    return f"It tags {coverage}, and {counted(right)} tags are right."


def standfirst(findings: Findings) -> list[str]:
    """What must be known beside the headline."""
    said = []
    if findings.tagged.right < findings.tagged.of:
        said.append("What it does not tag it leaves as it is: no tag rather than a guess.")
    if findings.tagged.right:
        said.append(f"With other tracks of this kind, {between(findings.right.interval)} tags would be right.")
    said.append(
        f"If it had to name a genre for every track, {told(findings.accuracy.value)} would be right "
        f"({between(findings.accuracy.interval)})."
    )
    return said


def base(findings: Findings, measured_on: str) -> list[str]:
    """What the numbers stand on; `measured_on` says which tracks these are, and may be empty."""
    which = f": {measured_on}" if measured_on else ""
    said = [f"Judged on {number_of(findings.tracks, 'track')} of {number_of(len(findings.genres), 'genre')}{which}."]
    if findings.unnamed == findings.tracks:
        said.append(
            "No track names its artist, so that each counts as one of its own; tracks of one artist resemble each "
            "other, and the uncertainty is larger than it is shown."
        )
    elif findings.unnamed:
        said.append(
            f"{number_of(findings.artists - findings.unnamed, 'artist')} stand behind them; "
            f"{number_of(findings.unnamed, 'track')} name no artist and count as one of their own each."
        )
    else:
        said.append(f"{number_of(findings.artists, 'artist')} stand behind them.")
    if findings.tracks < _EXACT:
        said.append("So few tracks say little: take every number for a hint.")
    if findings.outside.tracks:
        said.append(
            f"Of {number_of(findings.outside.tracks, 'track')} of genres that it does not know it tags "
            f"{findings.outside.dared or 'none'}{', wrongly of course' if findings.outside.dared else ''}."
        )
    return said


def coverage(findings: Findings, aim: float | None) -> tuple[str, str]:
    """How to read the risk-coverage curve, and what it says here."""
    how = (
        "From left to right more tracks are tagged, beginning with those that it is surest of; the height of the line "
        "says how many of these tags are right."
    )
    everything = f"If it tagged everything, {told(findings.accuracy.value)} would be right"
    if not findings.tagged.right:
        return how, f"{everything}; as it is set it tags nothing, so that there is no diamond in the picture."
    here = (
        f"{everything}; as it is set (the diamond) it tags {counted(findings.tagged)} and "
        f"{counted(findings.right)} of these are right"
    )
    if aim is None:
        return how, f"{here}."
    low, high = findings.right.interval
    apart = findings.right.value - aim
    verdict = "is about" if abs(apart) < 0.01 else "is above" if apart > 0.0 else "misses"
    doubt = ", though that may be chance" if low < aim <= high and abs(apart) >= 0.01 else ""
    return how, f"{here}, which {verdict} the aim of {aim:.0%}{doubt}."


def genres(findings: Findings) -> tuple[str, str]:
    """How to read the bars, and what they say here."""
    how = (
        "The upper bar of a genre is the share of its tracks that are found, the lower one the share that is right "
        "where the genre is named; the thin line across the end of a bar is how far off it may be, and in brackets "
        "stands the number of tracks."
    )
    judged = sorted((row for row in findings.rows if row.score.support), key=lambda row: row.score.f1)
    worst, best = judged[0], judged[-1]
    found = _weakness(worst)
    here = f"Best is {best.score.genre}, worst {worst.score.genre}: {found}."
    if len(judged) == 1:
        here = f"Only {best.score.genre} could be judged: {found}."
    elif worst.score.f1 == best.score.f1:
        here = f"All genres do alike: the mean of their scores is {findings.macro_f1:.2f} of 1."
    few = [row.score.genre for row in judged if row.score.support < FEW]
    none = [row.score.genre for row in findings.rows if not row.score.support]
    if few:
        here += f" With fewer than {FEW} tracks the bars of {listed(few)} say little."
    if none:
        here += f" Of {listed(none)} there was no track to judge by."
    return how, here


def _weakness(row: GenreRow) -> str:
    hits = round(row.score.recall * row.score.support)
    if row.score.recall <= row.score.precision or not row.called:
        return f"of {number_of(row.score.support, 'track')} it finds {hits}"
    return f"of {number_of(row.called, 'track')} that it names so {hits} are right"


def confusion(findings: Findings) -> tuple[str, str]:
    """How to read the matrix, and what it says here."""
    how = (
        "A row is a genre as it really is, a column what was heard, and a strong colour many tracks: on the diagonal "
        "from top left to bottom right it is right, and everywhere else it mixes two genres up."
    )
    pairs = mix_ups(findings)
    if not pairs:
        return how, "Here no track was taken for another genre."
    true, heard, count, of = pairs[0]
    return how, f"Most often {true} is taken for {heard}: {count} of {number_of(of, 'track')}."


def mix_ups(findings: Findings, most: int = 10) -> list[tuple[str, str, int, int]]:
    """The most frequent mix-ups: true genre, heard genre, how many tracks, of how many of the true genre."""
    wrong = findings.confusion - np.diag(np.diag(findings.confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    places = [divmod(int(place), len(findings.genres)) for place in order]
    return [
        (findings.genres[row], findings.genres[column], int(wrong[row, column]), int(findings.confusion[row].sum()))
        for row, column in places
        if wrong[row, column]
    ]


def reliability(findings: Findings) -> tuple[str, str]:
    """How to read the reliability picture, and what it says here."""
    how = (
        "On the dotted line it is right exactly as often as it says: of the tracks of which it is 80% sure, 80% are "
        "right; below the line it is too sure of itself, above it too modest. The bars "
        "underneath count the tracks; points of very few are left out."
    )
    sure = sum(row.confidence * row.count for row in findings.after) / findings.tracks
    gap = sure - findings.accuracy.value
    tendency = "right as often as it says" if abs(gap) < 0.02 else "too sure of itself" if gap > 0 else "too modest"
    error = f"{findings.error_after * 100:.0f} of 100"
    before = "" if findings.temperature == 1.0 else f" (before scaling {findings.error_before * 100:.0f})"
    return how, f"Its word and the truth lie {error} apart on average{before}; on the whole it is {tendency}."


def segments(findings: Findings) -> tuple[str, str]:
    """How to read the picture of segments, and what it says here."""
    how = (
        "To the right more stretches of each track are heard, the most telling one first, which takes longer; the "
        "higher the line, the more tracks are named rightly. In the shaded band the truth may lie."
    )
    first, last = findings.steps[0], findings.steps[-1]
    if len(findings.steps) == 1:
        return how, f"Only one stretch of each track was heard: {told(first.accuracy.value)} are named rightly."
    enough = next(step for step in findings.steps if step.accuracy.value >= last.accuracy.value - 0.01)
    tail = "" if enough is last else f"; from {enough.segments} on there is no more than 1 of 100 to gain"
    return how, (
        f"With one stretch {told(first.accuracy.value)} are named rightly, with all {last.segments} "
        f"{told(last.accuracy.value)}{tail}."
    )


def learning(runs: Mapping[str, Outcome]) -> tuple[str, str]:
    """How to read the learning curves, and what they say here."""
    how = (
        "The dashed line is the error on the tracks that it learns from, the solid one on tracks that are kept back: "
        "while both fall it learns, and where the solid one rises again it learns by heart."
    )
    kept = sorted(run.best_epoch for run in runs.values())
    reached = sorted(
        run.accuracies[run.best_epoch - 1]
        for run in runs.values()
        if 1 <= run.best_epoch <= len(run.accuracies) and np.isfinite(run.accuracies[run.best_epoch - 1])
    )
    first = next(iter(runs.values()))
    if len(runs) == 1:
        rightly = f", with {told(reached[0])} of what was kept back named rightly" if reached else ""
        return how, f"Epoch {first.best_epoch} of {first.epochs} was kept{rightly}."
    rightly = f"; they named {told(reached[0])} to {told(reached[-1])} rightly" if reached else ""
    which = f"epoch {kept[0]} was" if kept[0] == kept[-1] else f"epochs between {kept[0]} and {kept[-1]} were"
    return how, f"Of {len(runs)} runs {which} kept{rightly}."


def rival(compared: Compared) -> str:
    """How the model stands against another one."""
    name = compared.name[:1].upper() + compared.name[1:]
    if not compared.tracks:
        return f"{name} was measured on none of these tracks."
    points = (compared.ours - compared.rival) * 100
    low, high = (end * 100 for end in compared.lead)
    chance = "which may be chance" if low <= 0.0 <= high else "which is more than chance"
    if abs(points) < 0.05:
        verdict = "no difference"
    else:
        verdict = f"{abs(points):.1f} of 100 {'more' if points > 0 else 'fewer'}, {chance}"
    return (
        f"{name} names {compared.rival:.1%} of the same {number_of(compared.tracks, 'track')} rightly, this "
        f"model {compared.ours:.1%}: {verdict} (95 % interval of the difference {low:+.1f} to {high:+.1f})."
    )


def thresholds(chosen: Thresholds) -> str:
    """Which thresholds were chosen, and why; the numbers beside it were made crosswise."""
    own, shared = chosen.per_genre, chosen.shared
    tried = (
        f"one per genre tagged {own.coverage:.0%} with {own.precision:.0%} right, one for all {shared.coverage:.0%} "
        f"with {shared.precision:.0%} (artists evened, aim {chosen.aim:.0%})"
    )
    which = "Each genre has a threshold of its own, which did better"
    if chosen.kind is Kind.SHARED:
        which = "One threshold holds for all genres, since one per genre did no better"
    return (
        f"{which}: {tried}. For the numbers here every track was decided by thresholds that were chosen without it; "
        "those that ship were chosen on all of them."
    )


def evened(findings: Findings) -> str:
    """What becomes of the headline where an artist with many tracks counts for less."""
    return (
        "Tracks of one artist stand and fall together. With artists of many tracks evened out, as thresholds are "
        f"chosen, {findings.evened.coverage:.0%} of the tracks are tagged and {findings.evened.precision:.0%} of the "
        "tags are right."
    )


def suspects(count: int) -> list[str]:
    """What the list of doubtful labels is."""
    return [
        f"{number_of(count, 'file')} may bear a wrong label: a model that never learnt from the file hears another "
        "genre, and is less sure of the label than it is of other tracks with that label.",
        "Listen before you change anything: the model, too, is wrong at times. But a wrong label costs twice, since "
        "the model learns from it.",
    ]


def intervals() -> str:
    """What intervals mean and how they were made."""
    return (
        "An interval says between which values the truth lies; 95 of 100 such intervals are right. It is the wider of "
        "two: one that counts tracks (Wilson) and one that draws whole artists at random (bootstrap), because tracks "
        "of one artist resemble each other."
    )


WORDS = (
    "Recall is the share of a genre's tracks that are found; precision is the share of the tracks named so that really "
    "are; F1 is their mean, which is low where either is; macro-F1 is the mean of that over the genres.",
    "A threshold is how sure the model must be of a genre before it tags; below it the track is left alone.",
    "Scaling divides what the model puts out by one number, the temperature, so that 80% sure comes to mean right in "
    "80 of 100 cases. The calibration error is how far that is missed on average.",
)
