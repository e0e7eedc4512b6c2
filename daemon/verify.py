"""Compares the record, the disk and the queue, and tells every difference. It mends nothing and writes nothing.

Each difference is told as soon as it is found, and no list of the library is held: 100,000 files need no more memory
than ten. Folders that are not there, or empty where files were recorded, are told once, with how many files they take
along: an unmounted disk is one difference, not thousands.
"""

from __future__ import annotations

import contextlib
import enum
import os
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from daemon.core import ledger_backup
from daemon.core.config import Root
from daemon.core.errors import FileTrouble, LedgerDamaged, LedgerError, TryLater
from daemon.core.ledger_records import KnownFile
from daemon.core.ledger_view import LedgerView
from daemon.core.records import FileState
from daemon.effects import files, scan, tags
from daemon.effects.queue import QueueReader
from daemon.rules import ignore
from daemon.workshop import Workshop

# A copy is made daily; two days without one mean that something is wrong.
_BACKUP_AGE = timedelta(days=2)
# Younger ones may be in work.
_LEFTOVER_AGE_S = 3600.0
# The kernel's change time may lie this much after the moment that the record calls the end of a change.
_CLOCK_GRAIN_NS = 2_000_000_000


class Depth(enum.Enum):
    """How closely files are looked at: their state only, or also every byte of those that this program wrote."""

    STATES = enum.auto()
    BYTES = enum.auto()


class Kind(enum.StrEnum):
    """What differs."""

    DATABASE = "database"
    BACKUP = "backup"
    CHANGE_OPEN = "change_open"
    ROOT_MISSING = "root_missing"
    FOLDER_MISSING = "folder_missing"
    FILE_MISSING = "file_missing"
    FILE_UNREADABLE = "file_unreadable"
    FILE_CHANGED = "file_changed"
    BYTES_DIFFER = "bytes_differ"
    FILE_UNKNOWN = "file_unknown"
    JOB_WITHOUT_FILE = "job_without_file"
    LEFTOVER = "leftover"


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it should be; `advice` says what to do, where there is something to do."""

    kind: Kind
    path: Path
    what: str
    advice: str = ""


OnFile = Callable[[Path], None]
"""Told of every file that is looked at, recorded ones first and then those on the disk: for a progress bar."""


def verify(
    workshop: Workshop,
    *,
    depth: Depth = Depth.STATES,
    on_file: OnFile = lambda path: None,
    now: Callable[[], float] = time.time,
) -> Iterator[Difference]:
    """Every difference between record, disk and queue.

    Raises:
        ConfigError: the config cannot be used, so nobody knows where to look.
    """
    place = workshop.state_directory / "ledger.db"
    roots = _roots(workshop)
    yield from _backups(place, datetime.fromtimestamp(now(), UTC))
    with contextlib.ExitStack() as stack:
        queue = yield from _opened_queue(workshop.state_directory / "queue.db")
        view = yield from _opened_ledger(place)
        for opened in (queue, view):
            if opened is not None:
                stack.callback(opened.close)
        if view is None:
            return
        running = workshop.daemon_runs()
        yield from _Comparison(view, queue, roots, running, depth, on_file, now).differences()


def _roots(workshop: Workshop) -> tuple[Root, ...]:
    """The watched folders: the config's, or else those that the daemon watched last."""
    told = (workshop.published() or {}).get("roots", [])
    return workshop.config.roots or tuple(Root(path=Path(path)) for path in told)


# State files


def _opened_ledger(place: Path) -> Generator[Difference, None, LedgerView | None]:
    try:
        view = LedgerView(place)
    except LedgerError as error:
        known = place.exists() or ledger_backup.traces(place)
        advice = ledger_backup.advice(place) if known else "nothing was recorded so far: start the daemon"
        yield Difference(Kind.DATABASE, place, str(error), advice)
        return None
    try:
        view.check()
    except LedgerDamaged as error:
        yield Difference(Kind.DATABASE, place, str(error), ledger_backup.advice(place))
        view.close()
        return None
    return view


def _opened_queue(place: Path) -> Generator[Difference, None, QueueReader | None]:
    if not place.exists():
        return None
    try:
        queue = QueueReader(place)
    except LedgerError as error:
        yield Difference(Kind.DATABASE, place, str(error), "the next start of the daemon sees to it")
        return None
    try:
        queue.check()
    except LedgerError as error:
        advice = "the next start of the daemon sets it aside and fills a new one"
        yield Difference(Kind.DATABASE, place, str(error), advice)
        queue.close()
        return None
    return queue


def _backups(place: Path, now: datetime) -> Iterator[Difference]:
    folder = ledger_backup.folder_of(place)
    found = ledger_backup.backups(folder, now=now)
    sound = {backup.path for backup in ledger_backup.sound_backups(folder, now=now)}
    advice = "`music-reclass ledger backup` makes one now"
    for backup in found:
        if backup.path not in sound:
            yield Difference(Kind.BACKUP, backup.path, "this copy of the ledger is not sound", advice)
    newest = next((backup for backup in found if backup.path in sound), None)
    if newest is None and place.exists():
        yield Difference(Kind.BACKUP, folder, "there is no sound copy of the ledger", advice)
    elif newest is not None and now - newest.made_at > _BACKUP_AGE:
        days = (now - newest.made_at).days
        yield Difference(Kind.BACKUP, newest.path, f"the newest sound copy of the ledger is {days} days old", advice)


# Files


class _Comparison:
    """One run over the record, the disk and the queue."""

    def __init__(
        self,
        view: LedgerView,
        queue: QueueReader | None,
        roots: tuple[Root, ...],
        running: bool,
        depth: Depth,
        on_file: OnFile,
        now: Callable[[], float],
    ) -> None:
        self._view = view
        self._queue = queue
        self._here = tuple(root for root in roots if scan.is_inhabited(root.path))
        self._gone = tuple(root for root in roots if root not in self._here)
        self._running = running
        self._depth = depth
        self._on_file = on_file
        self._now = now

    def differences(self) -> Iterator[Difference]:
        yield from self._changes()
        yield from self._recorded()
        for root in self._here:
            yield from self._on_disk(root)
        yield from self._jobs()

    def _changes(self) -> Iterator[Difference]:
        if self._running:
            # One that is open now is most likely being made.
            return
        for change in self._view.open_changes():
            what = f"change {change.number} was begun {change.at} and never ended"
            yield Difference(Kind.CHANGE_OPEN, change.path, what, "the next start of the daemon settles it")

    def _queued(self, path: Path) -> bool:
        return self._queue is not None and self._queue.holds(path)

    # What is recorded

    def _recorded(self) -> Iterator[Difference]:
        taken = dict.fromkeys((root.path for root in self._gone), 0)
        lost = _LostFolder()
        for file in self._view.files():
            self._on_file(file.path)
            gone = next((root.path for root in self._gone if file.path.is_relative_to(root.path)), None)
            if gone is not None:
                taken[gone] += 1
                continue
            found = self._compare(file)
            if found is None:
                continue
            if found.kind is Kind.FILE_MISSING and (folder := self._lost_folder(file.path)) is not None:
                yield from lost.add(folder)
            else:
                yield found
        yield from lost.told()
        for folder, count in taken.items():
            # A folder that is empty and always was is an inbox.
            if count or not os.path.isdir(folder):
                yield _missing_root(folder, count)

    def _compare(self, file: KnownFile) -> Difference | None:
        try:
            status = os.lstat(file.path)
        except (FileNotFoundError, NotADirectoryError):
            advice = "if it was taken away on purpose, nothing is to be done; its record and its undo data stay"
            return Difference(Kind.FILE_MISSING, file.path, "it was recorded and is not there", advice)
        except OSError as error:
            return Difference(Kind.FILE_UNREADABLE, file.path, f"it cannot be looked at: {error.strerror}")
        state = FileState.of(status)
        # A record of the first schema version does not have the change time.
        same = file.state.same_content(state) and file.state.ctime_ns in (0, state.ctime_ns)
        if not same:
            return None if self._queued(file.path) else self._changed(file.path)
        return self._compare_bytes(file, state) if self._depth is Depth.BYTES else None

    def _changed(self, path: Path) -> Difference:
        watched = any(path.is_relative_to(root.path) for root in self._here)
        advice = "the daemon's next rescan looks at it" if watched else f"`music-reclass apply {path}` looks at it"
        return Difference(Kind.FILE_CHANGED, path, "it is not in the state in which it was last seen", advice)

    def _compare_bytes(self, file: KnownFile, state: FileState) -> Difference | None:
        """Whether the disk gives back what was written there, where nothing was changed since then.

        No program can set a change time, so one from before the end of our change tells that it was the last.
        """
        written = self._view.written(file)
        if written is None or state.ctime_ns > written.at.timestamp() * 1e9 + _CLOCK_GRAIN_NS:
            return None
        try:
            sha256 = files.sha256_of(file.path)
        except FileTrouble as trouble:
            return Difference(Kind.FILE_UNREADABLE, file.path, f"it cannot be read: {trouble.reason}", _DISK)
        except OSError as error:
            return Difference(Kind.FILE_UNREADABLE, file.path, f"it cannot be read: {error.strerror}", _DISK)
        if sha256 == written.sha256 or scan.state_of(file.path) != state:
            return None
        what = f"its bytes are not those that change {written.change} wrote, though nothing has touched it since"
        return Difference(Kind.BYTES_DIFFER, file.path, what, _DISK)

    def _lost_folder(self, path: Path) -> Path | None:
        """The topmost folder above a missing file that is gone or empty; None where only the file is."""
        root = next((root.path for root in self._here if path.is_relative_to(root.path)), None)
        above = [folder for folder in path.parents if root is None or folder.is_relative_to(root)]
        lost = None
        for folder in above:
            if scan.is_inhabited(folder):
                break
            lost = folder
        return lost

    # What is on the disk

    def _on_disk(self, root: Root) -> Iterator[Difference]:
        def wanted(path: Path) -> bool:
            if files.is_temporary(path):
                return True
            return ignore.wanted(path, root.path, tags.AUDIO_SUFFIXES, root.ignore)

        def enter(name: str) -> bool:
            return not ignore.is_junk(name, root.ignore)

        try:
            for path, state in scan.walk(root.path, wanted, enter):
                self._on_file(path)
                if files.is_temporary(path):
                    yield from self._leftover(path, state)
                elif not self._view.knows(path) and not self._queued(path):
                    advice = "the daemon's next rescan queues it"
                    yield Difference(Kind.FILE_UNKNOWN, path, "it is neither recorded nor queued", advice)
        except TryLater as trouble:
            yield Difference(Kind.ROOT_MISSING, root.path, trouble.reason)

    def _leftover(self, path: Path, state: FileState) -> Iterator[Difference]:
        if self._running and self._now() - state.ctime_ns / 1e9 < _LEFTOVER_AGE_S:
            return
        advice = "delete it, once a start of the daemon has settled what was cut off"
        yield Difference(Kind.LEFTOVER, path, "a temporary copy of this program's was left behind", advice)

    # What is queued

    def _jobs(self) -> Iterator[Difference]:
        if self._queue is None:
            return
        for path in self._queue.paths():
            away = any(path.is_relative_to(root.path) for root in self._gone)
            if not away and scan.state_of(path) is None and not os.path.lexists(path):
                advice = "the daemon drops it when its turn comes"
                yield Difference(Kind.JOB_WITHOUT_FILE, path, "it waits in the queue and is not there", advice)


_DISK = "the disk may be failing: look at the kernel's log, and take the file from a backup"


class _LostFolder:
    """Counts the missing files of one folder after another: the record gives those of a folder together."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._count = 0

    def add(self, folder: Path) -> Iterator[Difference]:
        """One more file of `folder` is missing; the folder before it is told."""
        if folder != self._folder:
            yield from self.told()
            self._folder, self._count = folder, 0
        self._count += 1

    def told(self) -> Iterator[Difference]:
        """The folder that was counted last."""
        if self._folder is not None:
            what = f"{_files(self._count)} recorded in it; it is gone or empty now"
            advice = "mount it; if it was taken away on purpose, nothing is to be done"
            yield Difference(Kind.FOLDER_MISSING, self._folder, what, advice)


def _missing_root(root: Path, count: int) -> Difference:
    state = "is empty, or cannot be read" if os.path.isdir(root) else "is not there"
    what = f"this watched folder {state}; {_files(count)} recorded in it"
    return Difference(Kind.ROOT_MISSING, root, what, "mount it, or correct roots: in the config")


def _files(count: int) -> str:
    return "1 file is" if count == 1 else f"{count} files are"
