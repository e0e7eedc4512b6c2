"""Draws what `findings` counted, each picture for light and for dark pages. Must never compute a measure.

Colours are those of Okabe and Ito (2008), which most colour-blind readers tell apart; markers and order say the same
without colour.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from trainer.judging.findings import Findings
from trainer.judging.metrics import Bin, Interval
from trainer.progress import Outcome
from trainer.telling.fonts import BASIC, Lettering

# A picture of this width in inches can be read on a phone, which shows it at about two thirds of its size.
_WIDTH = 5.2
_PNG_DPI = 150

# CSS pixels and points in an inch.
_CSS_PIXELS = 96

# Up to so many genres a matrix has room for its numbers, and up to so many for names that are nearly level.
_NUMBERED = 12
_LEVEL = 6


@dataclass(frozen=True, slots=True)
class Theme:
    """The colours of a page: `paper` behind everything, `ink` for text, `faint` for grids, `quiet` for what is not
    measured, two for data."""

    paper: str
    ink: str
    faint: str
    quiet: str
    first: str
    second: str


LIGHT = Theme("#ffffff", "#1c1c1c", "#dcdcdc", "#757575", "#0072b2", "#d55e00")
DARK = Theme("#171a1f", "#e8e8e8", "#3a3f47", "#9aa1ab", "#56b4e9", "#e69f00")


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture as SVG for a light and for a dark page, and as PNG; `width` and `height` are in CSS pixels."""

    light: bytes
    dark: bytes
    png: bytes
    width: int
    height: int


Draw = Callable[[Figure, Theme], None]


def confusion(findings: Findings, lettering: Lettering) -> Picture:
    """Which genre is heard as which: a row per true genre, shaded by the share of its tracks."""
    count = len(findings.genres)
    totals = findings.confusion.sum(1, keepdims=True)
    shares = np.divide(findings.confusion, totals, out=np.zeros((count, count)), where=totals > 0)
    names = [lettering.texts[genre] for genre in findings.genres]

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        shades = LinearSegmentedColormap.from_list("shades", [theme.paper, theme.first])
        axes.imshow(shares, cmap=shades, vmin=0.0, vmax=1.0, interpolation="none")
        level = count <= _LEVEL
        turned = {"rotation": 30.0, "ha": "right", "rotation_mode": "anchor"} if level else {"rotation": 90.0}
        axes.set_xticks(range(count), names, **turned)
        axes.set_yticks(range(count), names)
        axes.tick_params(labelsize=10 if count <= _NUMBERED else 7, length=0)
        axes.set(xlabel="heard as", ylabel="really is")
        for place in np.arange(count + 1) - 0.5:
            axes.axhline(place, color=theme.faint, linewidth=0.5)
            axes.axvline(place, color=theme.faint, linewidth=0.5)
        axes.grid(visible=False)
        if count <= _NUMBERED:
            _write_numbers(axes, findings.confusion, shares, theme)

    side = max(_WIDTH, 2.0 + count * (0.4 if count <= _NUMBERED else 0.17))
    return _picture(draw, side, side * 0.95, lettering.families)


def _write_numbers(axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64], theme: Theme) -> None:
    size = 12 if len(counts) <= _LEVEL else 9
    for (row, column), number in np.ndenumerate(counts):
        if number:
            colour = theme.paper if shares[row, column] > 0.5 else theme.ink
            axes.text(column, row, str(number), ha="center", va="center", fontsize=size, color=colour)


def reliability(findings: Findings) -> Picture:
    """How often it is right, against how sure it says it is, before and after the temperature."""
    scaled = findings.temperature != 1.0

    def draw(figure: Figure, theme: Theme) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        upper.plot([0, 1], [0, 1], color=theme.quiet, linestyle=":", label="exactly as sure as right")
        if scaled:
            _reliability_line(upper, findings.before, findings.tracks, theme.second, "s--", "before scaling")
        _reliability_line(upper, findings.after, findings.tracks, theme.first, "o-", "as it is used")
        upper.set(xlim=(0.0, 1.0), ylim=(0.0, 1.02), ylabel="is right")
        figure.legend(loc="outside upper left", ncols=2)
        lows, counts = [row.low for row in findings.after], [row.count for row in findings.after]
        lower.bar(lows, counts, 0.1, align="edge", color=theme.first, edgecolor=theme.paper)
        lower.set(ylabel="tracks", xlabel="how sure it says it is")
        lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        _percent(upper, "xy")

    return _picture(draw, _WIDTH, 4.8)


def _reliability_line(axes: Axes, bins: Sequence[Bin], tracks: int, colour: str, style: str, label: str) -> None:
    # A point of a track or two among hundreds would be all noise.
    told = [row for row in bins if row.count * 100 >= tracks]
    axes.plot([row.confidence for row in told], [row.right for row in told], style, color=colour, label=label)


def coverage(findings: Findings, aim: float | None) -> Picture:
    """How many tags are right when only the surest tracks are tagged, with the point that was chosen."""
    shares = [share for share, _ in findings.curve]
    right = [1.0 - risk for _, risk in findings.curve]
    tagged = findings.tagged.right > 0
    # The left end hangs on a handful of tracks: it must not squeeze the rest.
    steady = right[len(right) // 10 :]
    floor = min([*steady, aim or 1.0, findings.right.interval[0] if tagged else 1.0])

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        axes.plot(shares, right, color=theme.first, label="surest tracks first")
        if aim is not None:
            axes.axhline(aim, color=theme.quiet, linestyle=":", label=f"the aim, {aim:.0%}")
        if tagged:
            at = findings.tagged.value
            axes.plot([at, at], findings.right.interval, color=theme.second, clip_on=False)
            point = [at], [findings.right.value], "D"
            axes.plot(*point, color=theme.second, markersize=8, clip_on=False, label="as it is used")
        axes.set(xlim=(0.0, 1.0), ylim=(max(0.0, floor - 0.05), 1.01))
        axes.set(xlabel="tracks that get a tag", ylabel="tags that are right")
        axes.legend(loc="lower left")
        _percent(axes, "xy")

    return _picture(draw, _WIDTH, 3.8)


def genres(findings: Findings, lettering: Lettering) -> Picture:
    """Each genre's recall and precision with their intervals, the best first."""
    rows = sorted(findings.rows, key=lambda row: (-row.score.f1, -row.score.support))
    names = [f"{lettering.texts[row.score.genre]} ({row.score.support})" for row in rows]
    place = np.arange(len(rows), dtype=np.float64)
    recalls = [(row.score.recall, row.recall, row.score.support) for row in rows]
    precisions = [(row.score.precision, row.precision, row.called) for row in rows]

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        _bars(axes, place - 0.2, recalls, theme.first, theme.ink, "found, of its tracks")
        _bars(axes, place + 0.2, precisions, theme.second, theme.ink, "right, where it is named")
        axes.set_yticks(place, names)
        axes.set(xlim=(0.0, 1.0), ylim=(len(rows) - 0.4, -0.6))
        axes.grid(axis="y", visible=False)
        figure.legend(loc="outside upper left", ncols=2)
        _percent(axes, "x")

    return _picture(draw, _WIDTH, 1.1 + 0.42 * len(rows), lettering.families)


def _bars(
    axes: Axes,
    place: NDArray[np.float64],
    values: Sequence[tuple[float, Interval, int]],
    colour: str,
    ink: str,
    label: str,
) -> None:
    axes.barh(place, [value for value, _, _ in values], 0.38, color=colour, label=label)
    for at, (_, between, of) in zip(place, values, strict=True):
        # The interval of nothing would be as wide as the picture: it is left out.
        if of:
            axes.plot(between, [at, at], color=ink, linewidth=1.2, solid_capstyle="butt")


def segments(findings: Findings) -> Picture:
    """Accuracy against the number of segments that are heard."""
    numbers = [step.segments for step in findings.steps]
    values = [step.accuracy.value for step in findings.steps]
    lows, highs = zip(*(step.accuracy.interval for step in findings.steps), strict=True)

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        axes.fill_between(
            numbers, lows, highs, color=theme.first, alpha=0.2, linewidth=0, label="where the truth may lie"
        )
        axes.plot(numbers, values, "o-", color=theme.first, label="named rightly")
        axes.set(xlabel="stretches heard of each track", ylabel="named rightly")
        axes.set(xlim=(min(numbers) - 0.3, max(numbers) + 0.3))
        axes.set(ylim=(max(0.0, min(lows) - 0.03), min(1.01, max(highs) + 0.03)))
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        figure.legend(loc="outside upper left", ncols=2)
        _percent(axes, "y")

    return _picture(draw, _WIDTH, 3.4)


def learning(runs: Mapping[str, Outcome]) -> Picture:
    """Loss on both kinds of tracks, and accuracy on those kept back, epoch by epoch; a line per run."""

    def draw(figure: Figure, theme: Theme) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True)
        for number, run in enumerate(runs.values()):
            first = number == 0
            epochs = range(1, len(run.train_losses) + 1)
            upper.plot(epochs, run.train_losses, "--", color=theme.second, label="trained on" if first else None)
            epochs = range(1, len(run.valid_losses) + 1)
            upper.plot(epochs, run.valid_losses, "-", color=theme.first, label="kept back" if first else None)
            lower.plot(range(1, len(run.accuracies) + 1), run.accuracies, "-", color=theme.first)
            if 1 <= run.best_epoch <= len(run.accuracies):
                best = run.accuracies[run.best_epoch - 1]
                label = "epoch that was kept" if first else None
                lower.plot([run.best_epoch], [best], "D", color=theme.second, label=label)
        upper.set(ylabel="loss")
        upper.legend()
        lower.set(xlabel="epoch", ylabel="named rightly")
        if lower.get_legend_handles_labels()[1]:
            lower.legend(loc="lower right")
        lower.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        _percent(lower, "y")

    return _picture(draw, _WIDTH, 5.0)


def _percent(axes: Axes, which: str) -> None:
    for letter in which:
        axis = axes.xaxis if letter == "x" else axes.yaxis
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _picture(draw: Draw, width: float, height: float, families: Sequence[str] = (BASIC,)) -> Picture:
    light, png = _drawn(draw, LIGHT, width, height, families)
    dark, _ = _drawn(draw, DARK, width, height, families)
    return Picture(light, dark, png, round(width * _CSS_PIXELS), round(height * _CSS_PIXELS))


def _drawn(draw: Draw, theme: Theme, width: float, height: float, families: Sequence[str]) -> tuple[bytes, bytes]:
    vector, pixels = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context(_style(theme, families)):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure, theme)
        # Without date and version the same numbers give the same bytes.
        figure.savefig(vector, format="svg", metadata={"Date": None, "Creator": None})
        if theme is LIGHT:
            figure.savefig(pixels, format="png", dpi=_PNG_DPI, metadata={"Software": None})
    return vector.getvalue(), pixels.getvalue()


def _style(theme: Theme, families: Sequence[str]) -> Any:
    # Any: matplotlib's own stubs name its settings one by one since 3.11, and take any text before.
    return {
        "font.family": list(families),
        "font.size": 11,
        "legend.fontsize": 10,
        "legend.frameon": False,
        # A genre called "Cash $ Carry $" is no formula.
        "text.parse_math": False,
        "svg.fonttype": "path",
        "svg.hashsalt": "report",
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": theme.faint,
        "figure.facecolor": theme.paper,
        "savefig.facecolor": theme.paper,
        "axes.facecolor": theme.paper,
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), theme.ink),
    }
