"""Prints for people and scripts: tables on a terminal, JSON where asked. Decides nothing and opens no file."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from daemon.core.bundle import Bundle
from daemon.core.errors import FileTrouble
from daemon.core.ledger import KnownFile, Ledger
from daemon.core.ledger_backup import Backup
from daemon.core.records import Applied, Decision, Ending, Moved
from daemon.doctor import Finding
from daemon.verify import Difference

# Control, format (bidirectional overrides among them), line and paragraph separators.
_UNPRINTABLE = frozenset({"Cc", "Cf", "Zl", "Zp"})


def progress(paths: Sequence[Path], what: str) -> Iterator[Path]:
    """`paths` one by one, with a progress bar on standard error where that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield from paths
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Where results go to the same terminal they are printed above the bar; into a file or pipe they go untouched.
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        yield from bar.track(paths, description=what)


class Verdicts:
    """Prints what `classify` finds, a line a track, as it comes."""

    def __init__(self, as_json: bool) -> None:
        """One JSON object a line, or aligned columns."""
        self._as_json = as_json
        self._counts: Counter[str] = Counter()
        if not as_json:
            _print(f"{'genre':<16}{'confidence':>10}  {'runner-up':<22}path")

    def verdict(self, path: Path, decision: Decision) -> None:
        """Print the decision on one track."""
        self._counts["named" if decision.genre else "left open"] += 1
        if self._as_json:
            _print_json({"path": str(path)} | decision_fields(decision))
            return
        named = decision.genre or f"? ({_abstention(decision)})"
        others = decision.candidates[1:] if decision.genre else decision.candidates
        runner_up = f"{others[0].genre} {others[0].probability:.0%}" if others else ""
        _print(f"{_pad(named, 16)}{decision.confidence:>10.0%}  {_pad(runner_up, 22)}{printable(path)}")

    def trouble(self, trouble: FileTrouble) -> None:
        """Print why one file has no verdict."""
        self._counts["failed"] += 1
        if self._as_json:
            _print_json({"path": str(trouble.path), "error": trouble.reason})
        else:
            _print(f"{_pad('-', 16)}{'':>10}  {_pad('', 22)}{printable(trouble.path)}: {printable(trouble.reason)}")

    def end(self) -> None:
        """Print the totals, for people."""
        if not self._as_json:
            _print(", ".join(f"{count} {what}" for what, count in self._counts.items()) or "no music files found")


def decision_fields(decision: Decision) -> dict[str, Any]:
    """A decision as JSON has it: genre (null for an abstention), confidence, candidates best first, segments."""
    return {
        "genre": decision.genre,
        "confidence": round(decision.confidence, 4),
        "threshold": round(decision.threshold, 4),
        "abstention": decision.abstention,
        "candidates": [[candidate.genre, round(candidate.probability, 4)] for candidate in decision.candidates],
        "segments": [[round(v.start_s, 2), v.genre, round(v.probability, 4)] for v in decision.votes],
        "bundle": decision.bundle,
    }


def summary(endings: Iterable[Ending]) -> str:
    """One line that counts endings."""
    counts = Counter(type(ending).__name__.lower() for ending in endings)
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "no music files found"


def genres(values: Sequence[str]) -> str:
    """Genres as one text; none at all is said."""
    return printable(", ".join(values)) if values else "empty"


def counted(number: int, what: str) -> str:
    """A number of things, in words."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def undone(done: Applied | Moved) -> str:
    """One line on a change that was taken back."""
    if isinstance(done, Moved):
        return f"{printable(done.path)}: is back in its place (change {done.change})"
    return f"{printable(done.path)}: genre is {genres(done.genres_after)} again (change {done.change})"


def review(found: Sequence[KnownFile], ledger: Ledger, as_json: bool) -> None:
    """Print files that wait for the owner's word, with what was heard in them."""
    for known in found:
        latest = ledger.latest_decision(known.audio_id) if known.audio_id else None
        decision = latest[1] if latest else None
        if as_json:
            row: dict[str, Any] = {"path": str(known.path), "status": known.status.value, "reason": known.reason}
            row |= {"genres": list(known.genres), "suggestion": list(known.suggestion), "seen_at": known.seen_at}
            _print_json(row | {"decision": decision_fields(decision) if decision else None})
            continue
        if known.suggestion:
            what = f"{genres(known.genres)} -> {genres(known.suggestion)}"
        else:
            what = known.status.value + (f": {printable(known.reason)}" if known.reason else "")
        sure = f"{decision.confidence:.0%}" if decision else ""
        _print(f"{sure:>5}  {_pad(what, 32)}{printable(known.path)}")
    if not as_json:
        _print(counted(len(found), "file"))


def history(ledger: Ledger, known: KnownFile, as_json: bool) -> None:
    """Print everything on record for one file, the oldest first."""
    sound = known.audio_id or ""
    events: list[dict[str, Any]] = [
        {"at": at, "event": "decided"} | decision_fields(decision) for at, decision in ledger.decisions(sound)
    ]
    for change in ledger.changes_of(sound):
        events.append(
            {"at": change.at, "event": change.kind.value, "change": change.number, "state": change.state.value}
            | {"before": list(change.genres_before), "after": list(change.genres_after), "path": str(change.path)}
            | {"undoes": change.undoes, "bundle": change.bundle}
            | ({"target": str(change.target)} if change.target else {})
        )
    for correction in ledger.corrections(sound):
        event = {"at": correction.at, "event": "corrected", "genres": list(correction.genres)}
        events.append(event | {"genre": correction.genre, "how": correction.how})
    events.sort(key=lambda event: str(event["at"]))
    now = {"path": str(known.path), "audio_id": known.audio_id, "status": known.status.value, "reason": known.reason}
    if as_json:
        _print_json(now | {"genres": list(known.genres), "events": events})
        return
    _print(
        f"{printable(known.path)}\n{known.status.value}{': ' + printable(known.reason) if known.reason else ''}"
        f", genre: {genres(known.genres)}"
    )
    for event in events:
        place = event.get("path", str(known.path))
        elsewhere = f"  [{printable(place)}]" if place != str(known.path) else ""
        _print(f"  {_local(str(event['at']))}  {_event_line(event)}{elsewhere}")


def _event_line(event: dict[str, Any]) -> str:
    if event["event"] == "decided":
        top = ", ".join(f"{genre} {probability:.0%}" for genre, probability in event["candidates"])
        votes = " ".join(f"{start:g}s:{genre}" for start, genre, _ in event["segments"])
        named = event["genre"] or f"nothing ({event['abstention']}, needed {event['threshold']:.0%})"
        return f"heard by {event['bundle']}: {named} [{top}] segments {votes}"
    if event["event"] == "corrected":
        return f"corrected by the owner ({event['how']}): {genres(event['genres'])}"
    what = f"change {event['change']}" + (f", undo of {event['undoes']}" if event["undoes"] else "")
    if "target" in event:
        return f"{what}: moved to {printable(event['target'])} ({event['state'].replace('_', ' ')})"
    return f"{what}: {genres(event['before'])} -> {genres(event['after'])} ({event['state'].replace('_', ' ')})"


def status(state: dict[str, Any], as_json: bool) -> None:
    """Print the daemon's state."""
    if as_json:
        _print_json(state)
        return
    _print("running" if state["running"] else "not running")
    for key in ("bundle", "device", "roots", "queued", "settling", "done", "library", "troubles", "state_directory"):
        value = state.get(key)
        if isinstance(value, list):
            value = ", ".join(map(str, value))
        if isinstance(value, dict):
            value = ", ".join(f"{count} {name}" for name, count in value.items()) or "nothing yet"
        if value not in (None, ""):
            _print(f"  {key.replace('_', ' '):<16} {printable(value)}")


def findings(found: Sequence[Finding], as_json: bool) -> None:
    """Print what the doctor found."""
    for finding in found:
        if as_json:
            fields = {"level": finding.level.value, "what": finding.what, "advice": finding.advice}
            _print_json(fields)
        else:
            _print(f"{finding.level.value:<8} {printable(finding.what)}")
            if finding.advice:
                _print(f"{'':<8}   {printable(finding.advice)}")


def differences(found: Iterable[Difference], as_json: bool) -> int:
    """Print each difference between record and disk as it is found, and their number; how many there are."""
    count = 0
    for each in found:
        count += 1
        if as_json:
            _print_json({"kind": each.kind.value, "path": str(each.path), "what": each.what, "advice": each.advice})
        else:
            _print(f"{each.kind.value:<16} {printable(each.path)}: {printable(each.what)}")
            if each.advice:
                _print(f"{'':<16}   {printable(each.advice)}")
    if not as_json:
        _print(f"{counted(count, 'difference')} of record and disk" if count else "record, disk and queue agree")
    return count


def bundle_row(bundle: Bundle) -> dict[str, Any]:
    """A bundle in one row."""
    return {
        "id": bundle.id,
        "labels": list(bundle.labels),
        "members": [member.name for member in bundle.members],
        "metrics": bundle.manifest.metrics,
        "licence": bundle.manifest.licence,
        "folder": str(bundle.path),
    }


def bundles(rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Print the bundles of this machine."""
    if as_json:
        for row in rows:
            _print_json(row)
        return
    table = Table("", "id", "genres", "members", "folder", box=None)
    for row in rows:
        if "error" in row:
            table.add_row("!", Text(printable(row["error"])), "", "", row["folder"])
        else:
            star = "*" if row["serves"] else ""
            table.add_row(star, row["id"], ", ".join(row["labels"]), ", ".join(row["members"]), row["folder"])
    Console(soft_wrap=True).print(table)


def backups(found: Sequence[tuple[Backup, bool]], as_json: bool) -> None:
    """Print the copies of the ledger, each with whether it is sound."""
    for backup, sound in found:
        if as_json:
            _print_json({"path": str(backup.path), "made_at": backup.made_at.isoformat(), "sound": sound})
        else:
            _print(f"{'sound' if sound else 'UNSOUND':<8} {_local(backup.made_at.isoformat())}  {backup.path}")
    if not found and not as_json:
        _print("no backup yet")


def bundle(loaded: Bundle, as_json: bool) -> None:
    """Print a bundle's manifest, and its model card where it has one."""
    if as_json:
        _print_json(loaded.manifest.model_dump())
        return
    card = loaded.path / "MODEL_CARD.md"
    _print(card.read_text(encoding="utf-8") if card.is_file() else loaded.manifest.model_dump_json(indent=2))


def printable(value: object) -> str:
    """`value` as text that neither breaks the line nor commands the terminal."""
    text = str(value).encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(f"\\x{ord(char):02x}" if unicodedata.category(char) in _UNPRINTABLE else char for char in text)


def _abstention(decision: Decision) -> str:
    return decision.abstention.replace("_", " ") if decision.abstention else ""


def _pad(text: str, width: int) -> str:
    """`text` and at least one blank; East Asian wide characters take two columns on a terminal."""
    columns = sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
    return text + " " * max(1, width - columns)


def _local(at: str) -> str:
    return datetime.fromisoformat(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")


def _print_json(value: dict[str, Any]) -> None:
    # A file name that is not UTF-8 keeps its bytes as escapes (\\udcXX), which JSON readers understand.
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
