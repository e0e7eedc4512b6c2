"""What stands in the report of an evaluation, in order: sections with their pictures, sentences and tables, as plain
values. Must never know HTML or Markdown, nor write a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trainer.judging.calibrate import Calibration
from trainer.judging.findings import Findings, GenreRow, Rival
from trainer.judging.metrics import Interval
from trainer.judging.suspects import Suspect
from trainer.progress import Outcome
from trainer.telling import plots, sentences
from trainer.telling.fonts import Lettering, lettering
from trainer.telling.plots import Picture

# What a page shows of a long list of files.
MOST_ROWS = 100

# Up to so many genres the confusion matrix is told as a table too.
MOST_COLUMNS = 25

_NOT_MEASURED = "–"


@dataclass(frozen=True, slots=True)
class Variant:
    """One form of the exported model: its size, its accuracy on the same tracks, the share of tracks on which it
    decides like the first one, and seconds per track; None is what was not measured."""

    name: str
    size_bytes: int
    accuracy: float | None = None
    agreement: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Extras:
    """What a report tells besides the evaluation; whatever is empty is left out.

    Attributes:
        measured_on: which tracks these are, to follow "Measured on": "tracks of artists that it never heard".
        aim: the share of tags that was to be right.
        facts: how the model came about, as names and values.
        suspects: tracks whose label is in doubt; None where nobody looked for them.
        rivals: what to compare with, such as a linear probe.
        variants: the exported forms.
        learning: runs of training by name (a fold, or the final one).
        calibration: the temperature and thresholds that ship, where they were chosen by these very tracks. The
            evaluation is then to be `crosswise.crosswise`, or else its numbers would flatter.
    """

    measured_on: str = ""
    aim: float | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    suspects: Sequence[Suspect] | None = None
    rivals: Sequence[Rival] = ()
    variants: Sequence[Variant] = ()
    learning: Mapping[str, Outcome] = field(default_factory=dict)
    calibration: Calibration | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under `columns`. The first column names the row; those from `numbers` on hold numbers. A `folded`
    table is shown on demand; one of `files` begins with a path."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: int = 1
    folded: bool = False
    files: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the report. A picture comes with what kind of picture it is (`alt`), `how` to read it and what it
    says `here`; `notes` follow."""

    anchor: str
    heading: str
    picture: Picture | None = None
    alt: str = ""
    how: str = ""
    here: str = ""
    notes: Sequence[str] = ()
    tables: Sequence[Table] = ()


def key_numbers(found: Findings) -> list[tuple[str, str, str]]:
    """The four numbers to remember: name, value, and the interval in words."""
    rows = [("tracks that get a tag", f"{found.tagged.value:.0%}", _interval(found.tagged.interval))]
    if found.tagged.right:
        rows.append(("tags that are right", f"{found.right.value:.0%}", _interval(found.right.interval)))
    rows.append(("right if every track were named", f"{found.accuracy.value:.0%}", _interval(found.accuracy.interval)))
    low, high = found.macro_f1_interval
    # Where all is right, or all wrong, resampling has nothing to vary.
    between = f"{low:.2f} to {high:.2f}" if low < high else _NOT_MEASURED
    rows.append(("mean score of the genres (macro-F1)", f"{found.macro_f1:.2f}", between))
    return rows


def sections(found: Findings, extras: Extras) -> list[Section]:
    """The report's sections, without those that have nothing to say."""
    letters = lettering(found.genres)
    parts = [_coverage(found, extras), _genres(found, extras, letters), _confusion(found, letters), _reliability(found)]
    parts += [_segments(found), *_learning(extras), *_rivals(found), *_variants(extras), *_suspects(extras)]
    return [*parts, *_unheard(found), _measured(found, extras)]


def _coverage(found: Findings, extras: Extras) -> Section:
    how, here = sentences.coverage(found, extras.aim)
    notes = [sentences.evened(found)] if found.tagged.right and found.unnamed < found.tracks else []
    if extras.calibration is not None:
        notes.append(sentences.thresholds(extras.calibration.thresholds))
    alt = "Line chart: share of right tags against share of tracks tagged."
    return Section("coverage", "When it dares", plots.coverage(found, extras.aim), alt, how, here, notes)


def _genres(found: Findings, extras: Extras, letters: Lettering) -> Section:
    how, here = sentences.genres(found)
    shipped = [row.threshold for row in found.rows]
    if extras.calibration is not None:
        shipped = list(extras.calibration.thresholds.values)
    rows = [_genre(row, threshold) for row, threshold in zip(found.rows, shipped, strict=True)]
    columns = (
        "genre",
        "tracks",
        "found (recall)",
        "right (precision)",
        "F1",
        "tags given",
        "of these right",
        "threshold",
    )
    table = Table("Each genre, 95 % intervals in brackets", columns, rows)
    key = ", ".join(f"{text} is {name}" for name, text in letters.numbered.items())
    notes = [f"In the pictures {key}: no font here has their letters."] if key else []
    alt = "Bar chart: recall and precision of each genre."
    picture = plots.genres(found, letters)
    return Section("genres", "Genre by genre", picture, alt, how, here, notes, [table])


def _genre(row: GenreRow, shipped: float | None) -> tuple[str, ...]:
    score = row.score
    recall = f"{score.recall:.0%} ({_narrow(row.recall)})" if score.support else _NOT_MEASURED
    precision = f"{score.precision:.0%} ({_narrow(row.precision)})" if row.called else _NOT_MEASURED
    threshold = "differs" if shipped is None else f"{shipped:.2f}"
    f1 = f"{score.f1:.2f}" if score.support else _NOT_MEASURED
    return score.genre, f"{score.support:,}", recall, precision, f1, f"{row.tags:,}", f"{row.right_tags:,}", threshold


def _confusion(found: Findings, letters: Lettering) -> Section:
    how, here = sentences.confusion(found)
    tables = []
    if pairs := sentences.mix_ups(found):
        rows = [(true, heard, f"{count:,}", f"{of:,}") for true, heard, count, of in pairs]
        tables.append(Table("The most frequent mix-ups", ("really is", "heard as", "tracks", "of"), rows, 2))
    if len(found.genres) <= MOST_COLUMNS:
        whole = [
            (genre, *(f"{int(number):,}" for number in row))
            for genre, row in zip(found.genres, found.confusion, strict=True)
        ]
        tables.append(Table("The whole picture as a table", ("really is ↓ heard as →", *found.genres), whole, 1, True))
    alt = "Matrix: true genres against heard genres."
    return Section("confusion", "What it mixes up", plots.confusion(found, letters), alt, how, here, (), tables)


def _reliability(found: Findings) -> Section:
    how, here = sentences.reliability(found)
    alt = "Line chart: how often it is right against how sure it says it is."
    return Section("reliability", "Whether its word can be believed", plots.reliability(found), alt, how, here)


def _segments(found: Findings) -> Section:
    how, here = sentences.segments(found)
    notes = [f"Reading and hearing a track took {found.seconds:.2g} seconds on the machine that judged (the median)."]
    alt = "Line chart: share of tracks named rightly against stretches heard."
    return Section("segments", "How much of a track it must hear", plots.segments(found), alt, how, here, notes)


def _learning(extras: Extras) -> list[Section]:
    if not extras.learning:
        return []
    how, here = sentences.learning(extras.learning)
    alt = "Line charts: loss and accuracy, epoch by epoch."
    return [Section("learning", "How it learnt", plots.learning(extras.learning), alt, how, here)]


def _rivals(found: Findings) -> list[Section]:
    if not found.rivals:
        return []
    return [Section("rivals", "Compared with others", notes=[sentences.rival(compared) for compared in found.rivals])]


def _variants(extras: Extras) -> list[Section]:
    if not extras.variants:
        return []
    rows = [
        (
            variant.name,
            f"{variant.size_bytes / 1e6:,.1f}",
            _optional(variant.accuracy, "{:.1%}"),
            _optional(variant.agreement, "{:.1%}"),
            _optional(variant.seconds, "{:.3f}"),
        )
        for variant in extras.variants
    ]
    columns = ("form", "megabytes", "named rightly", "decides as the first", "seconds per track")
    note = "The same model in several forms: smaller or faster ones may lose a little, which is measured here."
    return [Section("variants", "Its forms", notes=[note], tables=[Table("Forms of the model", columns, rows)])]


def _suspects(extras: Extras) -> list[Section]:
    if extras.suspects is None:
        return []
    found = len(extras.suspects)
    if not found:
        return [Section("suspects", "Labels worth checking", notes=["No label looks wrong."])]
    shown = extras.suspects[:MOST_ROWS]
    rows = [
        (str(row.path), row.given, row.suggested, f"{row.given_probability:.0%}", f"{row.suggested_probability:.0%}")
        for row in shown
    ]
    columns = ("file", "its label", "sounds like", "sure of the label", "sure of the other")
    caption = f"The {len(rows)} most doubtful of {found:,}" if found > len(rows) else "The most doubtful first"
    return [
        Section(
            "suspects",
            "Labels worth checking",
            notes=sentences.suspects(found),
            tables=[Table(caption, columns, rows, 3, files=True)],
        )
    ]


def _unheard(found: Findings) -> list[Section]:
    rows = [(str(left.path), left.reason) for left in found.failures]
    rows += [(str(path), "is silent: there is nothing to hear") for path in found.silent]
    if not rows:
        return []
    shown = rows[:MOST_ROWS]
    caption = f"The first {len(shown)} of {len(rows):,}" if len(rows) > len(shown) else "Files and reasons"
    note = f"{sentences.number_of(len(rows), 'file')} could not be judged, which no number above counts."
    return [
        Section(
            "unheard",
            "What could not be heard",
            notes=[note],
            tables=[Table(caption, ("file", "why"), shown, 2, files=True)],
        )
    ]


def _measured(found: Findings, extras: Extras) -> Section:
    facts = dict(extras.facts)
    facts.setdefault("model", ", ".join(found.bundles))
    temperature = found.temperature if extras.calibration is None else extras.calibration.temperature
    if temperature is not None:
        facts.setdefault("temperature", f"{temperature:.3f}")
    facts |= {
        "accuracy": f"{found.accuracy.value:.2%} of {found.tracks:,} tracks",
        "its 95 % interval by tracks (Wilson)": _interval(found.accuracy_wilson, 2),
        "its 95 % interval by artists (bootstrap)": _interval(found.accuracy_by_artist, 2),
        "macro-F1": f"{found.macro_f1:.4f}",
        "calibration error (ECE) before and after scaling": f"{found.error_before:.4f}, {found.error_after:.4f}",
        "area under the risk-coverage curve (AURC)": f"{found.area:.4f}",
    }
    notes = [*sentences.WORDS, sentences.intervals()]
    table = Table("Facts and figures", ("", ""), list(facts.items()), 2)
    return Section("measured", "How this was measured", notes=notes, tables=[table])


def _interval(interval: Interval, decimals: int = 0) -> str:
    """An interval of a share as percentages: "82 to 91%"."""
    low, high = (f"{end * 100:.{decimals}f}" for end in interval)
    return f"{low} to {high}%" if low != high else f"{low}%"


def _narrow(interval: Interval) -> str:
    return f"{interval[0] * 100:.0f}–{interval[1] * 100:.0f}"


def _optional(value: float | None, form: str) -> str:
    return _NOT_MEASURED if value is None else form.format(value)
