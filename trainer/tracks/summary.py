"""Says what is in a data set, what is not and why, so that a person can read it. Changes nothing and opens no file."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from trainer.tracks.dataset import doubts
from trainer.tracks.manifest import NO_FOLD, DataSet, Split, Track
from trainer.tracks.split import main_artist

_WIDTH = 100
_EXAMPLES = 5
_DOUBTS = 10
# Beyond this a balanced sampler hears some tracks so often that it learns them by heart.
_STEEP = 10


def summary(data: DataSet, width: int = _WIDTH) -> list[str]:
    """The lines of what `show` prints, without colour; no line is wider than `width` cells."""
    out = io.StringIO()
    show(data, Console(file=out, width=width, color_system=None, legacy_windows=False, force_terminal=False))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def show(data: DataSet, console: Console) -> None:
    """Print what is in the set, how it is split, what was left out and why, and which labels to look at."""
    artists = _artists(data.tracks)
    _say(
        console,
        f"{len(data.tracks)} tracks, {len(data.labels)} genres, {_length(data.tracks)}, "
        f"{artists} known artist{'' if artists == 1 else 's'}",
        style="bold",
    )
    console.print(_genres(data))
    for line in (*_balance(data), *_splits(data), *_holdout(data)):
        _say(console, line)
    _left_out(data, console)
    _doubts(data, console)


def _genres(data: DataSet) -> Table:
    """Tracks, hours, artists and splits of each genre."""
    used = [split for split in Split if data.of(split)]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("genre", overflow="fold")
    for heading in ("tracks", "length", "artists", *(split.value for split in used)):
        table.add_column(heading, justify="right", no_wrap=True)
    of: dict[str, list[Track]] = defaultdict(list)
    for track in data.tracks:
        of[track.genre].append(track)
    for label in data.labels:
        tracks = of[label]
        splits = Counter(track.split for track in tracks)
        cells = (len(tracks), _length(tracks), _artists(tracks) or "-", *(splits[split] for split in used))
        table.add_row(Text(_safe(label)), *map(str, cells))
    return table


def _balance(data: DataSet) -> Iterable[str]:
    counts = Counter(track.genre for track in data.tracks)
    (most, many), (least, few) = counts.most_common()[0], counts.most_common()[-1]
    times = many / few
    steep = ": more tracks of the smaller genres would help most" if times > _STEEP else ""
    yield f"Imbalance: {most} has {times:.1f} times the tracks of {least}{steep}."
    if missing := data.settings.get("without_tracks"):
        yield f"Without a track: {_listed(missing)}. The model will not know these genres."


def _splits(data: DataSet) -> Iterable[str]:
    folds = Counter(track.fold for track in data.tracks if track.fold != NO_FOLD)
    if folds:
        yield f"Folds: {', '.join(f'{fold}: {count}' for fold, count in sorted(folds.items()))} tracks."
    for split, use in ((Split.VALID, "no say in when training stops"), (Split.HOLDOUT, "not judged by the holdout")):
        if tracks := data.of(split):
            lacking = [label for label in data.labels if label not in {track.genre for track in tracks}]
            if lacking:
                yield f"Not in {split.value}: {_listed(lacking)} (too few artists, or none that are new): {use}."
    if torn := _torn(data):
        yield (
            f"In more than one fold: {_listed(torn)}. Accuracy measured across folds is flattered; the table gives "
            "them so."
        )


def _torn(data: DataSet) -> list[str]:
    folds: dict[str, set[int]] = defaultdict(set)
    names: dict[str, str] = {}
    for track in data.tracks:
        if track.fold != NO_FOLD and (artist := main_artist(track.artist)):
            folds[artist].add(track.fold)
            names.setdefault(artist, track.artist)
    return sorted(names[artist] for artist, theirs in folds.items() if len(theirs) > 1)


def _holdout(data: DataSet) -> Iterable[str]:
    remembered = data.settings.get("holdout", {})
    held = data.of(Split.HOLDOUT)
    if not remembered:
        yield "Holdout: none. Only folds or validation tracks can judge a model."
        return
    gone = len(remembered["sounds"]) - len(held)
    away = f"; {gone} more are not here now and stay held out" if gone else ""
    yield f"Holdout: {len(held)} tracks, frozen since {remembered['since'][:10]}, never trained on{away}."
    if reserved := data.of(Split.RESERVED):
        yield f"Reserved: {len(reserved)} newer tracks of the holdout's artists or albums, neither trained nor judged."
    theirs = {main_artist(track.artist) for track in held} - {""}
    shared = sum(main_artist(track.artist) in theirs for track in data.of(Split.TRAIN, Split.VALID))
    if shared:
        yield f"Shared: {shared} tracks trained on are by artists who are in the holdout as well: it flatters a little."


def _left_out(data: DataSet, console: Console) -> None:
    if not data.left_out:
        _say(console, "Left out: nothing.")
        return
    _say(console, f"Left out: {len(data.left_out)}, listed in left_out.csv", style="bold")
    kinds: dict[str, list[tuple[Path, str]]] = defaultdict(list)
    for left in data.left_out:
        kind, _, detail = left.reason.partition(":")
        kinds[kind].append((left.path, detail.strip()))
    for kind, cases in sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0])):
        _say(console, f"{len(cases):>7}  {kind}: {_detail(cases)}", indent=9)


def _detail(cases: Sequence[tuple[Path, str]]) -> str:
    """What a kind of reason comes to: its commonest details, with a file for those of which there is one."""
    details = Counter(detail for _, detail in cases)
    paths = {detail: path for path, detail in reversed(cases)}
    told = [
        f"{detail} ({count})" if count > 1 else f"{detail} ({paths[detail].name})"
        for detail, count in sorted(details.items(), key=lambda item: (-item[1], item[0]))[:_EXAMPLES]
    ]
    more = f"; {len(details) - _EXAMPLES} other" if len(details) > _EXAMPLES else ""
    return "; ".join(told) + more


def _doubts(data: DataSet, console: Console) -> None:
    found = doubts(data)
    if not found:
        return
    _say(console, f"Labels to look at: {len(found)} (these tracks are in the set)", style="bold")
    for doubt in found[:_DOUBTS]:
        _say(console, f"         {doubt.path}: {doubt.reason}", indent=9)
    if len(found) > _DOUBTS:
        _say(console, f"         and {len(found) - _DOUBTS} more, in dataset.json", indent=9)


def _length(tracks: Iterable[Track]) -> str:
    seconds = sum(track.duration_s for track in tracks)
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _artists(tracks: Iterable[Track]) -> int:
    return len({main_artist(track.artist) for track in tracks} - {""})


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:12])
    return shown if len(names) <= 12 else f"{shown} and {len(names) - 12} more"


def _safe(text: str) -> str:
    """The text as a terminal takes it: bytes of a file name that are no UTF-8, and control characters, escaped."""
    plain = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in plain)


def _say(console: Console, line: str, *, indent: int = 0, style: str = "") -> None:
    """Print one line, what does not fit below it at `indent`."""
    text = Text(_safe(line), style=style, overflow="fold")
    wrapped = text.wrap(console, max(20, console.width - indent))
    for number, part in enumerate(wrapped):
        console.print(Padding(part, (0, 0, 0, indent if number else 0)), soft_wrap=False)
