"""Keeps an observer at every watched folder, sees when it no longer tells, and reports what may have been missed.

Where a limit of the kernel leaves folders unwatched, the whole root is looked at at intervals instead, until the
limits change.
"""

from __future__ import annotations

import os
import stat
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from watchdog.events import EVENT_TYPE_MOVED, FileSystemEvent, FileSystemEventHandler
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserverVFS

from daemon.effects.watch import limits
from daemon.effects.watch.inotify import TELLING, Hush, InotifyObserver
from daemon.effects.watch.mounts import Mount, mounted_below


@dataclass(frozen=True, slots=True)
class Watch:
    """A folder to watch. `poll_s` None means inotify; otherwise it is looked at every `poll_s` seconds.

    `fallback_s` is the same for a folder that the kernel refuses to watch.
    """

    root: Path
    poll_s: float | None
    fallback_s: float = 60.0


@dataclass(frozen=True, slots=True)
class _Place:
    """Which folder stands at a root: a mount over it, or a link that leads elsewhere now, makes it another one."""

    path: str
    device: int
    inode: int
    mounts: tuple[Mount, ...]


@dataclass(frozen=True, slots=True)
class _Running:
    observer: BaseObserver
    place: _Place


@dataclass(frozen=True, slots=True)
class _Refused:
    """The kernel watches no more folders: why, and its limits at that time."""

    reason: str
    limits: tuple[int | None, ...]


class Watcher:
    """Observers for a set of folders. `on_touch` and `on_loss` are called from the observers' threads.

    `start`, `heal` and `stop` are for one thread: a `heal` during a `stop` would take up again what was stopped.
    """

    def __init__(self, on_touch: Callable[[Path], None], on_loss: Callable[[Path, str], None]) -> None:
        """Report touched files to `on_touch`; to `on_loss` a root whose events may have been missed, and why."""
        self._on_touch = on_touch
        self._on_loss = on_loss
        self._running: dict[Watch, _Running] = {}
        self._wanted: tuple[Watch, ...] = ()
        self._missed: frozenset[Watch] = frozenset()
        self._failures: dict[Watch, str] = {}
        self._refused: dict[Watch, _Refused] = {}
        self._hush = Hush()

    def start(self, watches: Sequence[Watch]) -> None:
        """Watch exactly these folders from now on; call again to change them. Missing ones wait for `heal`."""
        self._hush.attach()
        # watchdog warns when it meets a new folder twice, once in the parent's event and once in its own walk.
        warnings.filterwarnings("ignore", message="Callback with id", category=RuntimeWarning)
        self._wanted = tuple(watches)
        for watch in set(self._running) - set(self._wanted):
            self._drop(watch)
        self.heal()

    def heal(self) -> None:
        """Watch folders that have appeared, let go of those that vanished, replace observers that tell nothing more.

        A folder that was replaced by another one, as by a mount over it, has vanished and appeared.
        """
        for watch in self._wanted:
            place = _place_of(watch.root)
            reason = self._let_go_if_blind(watch, place)
            if place is None:
                self._missed |= {watch}
            elif watch not in self._running:
                reason = self._take_up(watch, place) or reason
            # After the watch is set: whoever walks the folder now finds what came before, the watch what comes later.
            if reason:
                self._on_loss(watch.root, reason)

    def troubles(self) -> list[str]:
        """What is wrong with watching right now, one line per folder; empty when everything is watched."""
        lines = []
        for watch in self._wanted:
            running = self._running.get(watch)
            if running is None:
                lines.append(f"{watch.root}: {self._failures.get(watch, 'is not there, so it is not watched')}")
            elif dead := _dead_threads(running.observer):
                lines.append(f"{watch.root}: thread {dead} has died")
            elif refused := self._refused.get(watch):
                lines.append(f"{watch.root}: {refused.reason}")
        return lines

    def stop(self) -> None:
        """Stop every observer and wait for its threads."""
        self._wanted = ()
        for watch in list(self._running):
            self._drop(watch)
        self._hush.detach()

    def _let_go_if_blind(self, watch: Watch, place: _Place | None) -> str:
        """Drop the observer that no longer tells what happens at the root; why, or nothing while it does."""
        running = self._running.get(watch)
        if running is None:
            return ""
        refused = self._refused.get(watch)
        if refused is not None and refused.limits != limits.readings():
            del self._refused[watch]
            reason = "the kernel's limits have changed, so it may be watched again"
        else:
            reason = self._notice_limit(watch, running.observer) or _why_blind(watch, running, place)
        if reason:
            self._drop(watch)
        return reason

    def _take_up(self, watch: Watch, place: _Place) -> str:
        """Set an observer to work at a root that has none; what has to be told of it, if anything."""
        before = self._refused.get(watch)
        observer = self._observe(watch, place)
        if observer is not None and self._notice_limit(watch, observer):
            _end(observer)
            observer = self._observe(watch, place)
        refused = self._refused.get(watch)
        reason = refused.reason if refused is not None and refused is not before else ""
        if observer is None:
            self._missed |= {watch}
            return reason
        self._running[watch] = _Running(observer, place)
        if watch in self._missed:
            reason = reason or "it can be watched now"
        self._missed -= {watch}
        return reason

    def _observe(self, watch: Watch, place: _Place) -> BaseObserver | None:
        poll_s = watch.fallback_s if watch in self._refused else watch.poll_s
        observer: BaseObserver | None = None
        try:
            observer = self._new_observer(watch, poll_s)
            # By its real path, since inotify would watch a link itself and not the folder that it leads to.
            handler = _Handler(watch.root, place.path, self._on_touch)
            observer.schedule(handler, place.path, recursive=True, event_filter=TELLING)
            observer.start()
        except OSError as error:
            if observer is not None:
                observer.stop()
            if poll_s is None and limits.is_limit(error):
                self._refuse(watch, error.errno or 0)
                return self._observe(watch, place)
            self._tell_failure(watch, error)
            return None
        self._failures.pop(watch, None)
        return observer

    def _new_observer(self, watch: Watch, poll_s: float | None) -> BaseObserver:
        if poll_s is None:
            return InotifyObserver(lambda: self._on_loss(watch.root, "the kernel's event queue overflowed"))
        # lstat: with stat a link to a folder would be followed, in circles if it leads back.
        return PollingObserverVFS(os.lstat, os.scandir, polling_interval=poll_s)

    def _tell_failure(self, watch: Watch, error: OSError) -> None:
        # Out of descriptors, or the folder vanished in this instant: `heal` tries again, and is silent about the same
        # failure, since it comes by every second.
        reason = f"cannot be watched: {error.strerror or error}"
        if self._failures.get(watch) != reason:
            self._failures[watch] = reason
            self._on_loss(watch.root, reason)

    def _notice_limit(self, watch: Watch, observer: BaseObserver) -> str:
        if isinstance(observer, InotifyObserver) and observer.hit_limit is not None:
            return self._refuse(watch, observer.hit_limit)
        return ""

    def _refuse(self, watch: Watch, number: int) -> str:
        reason = f"is looked at every {watch.fallback_s:g} s only, the kernel watches no more: {limits.explain(number)}"
        self._refused[watch] = _Refused(reason, limits.readings())
        return reason

    def _drop(self, watch: Watch) -> None:
        _end(self._running.pop(watch).observer)


class _Handler(FileSystemEventHandler):
    """Passes on the path at which a file now stands, as seen from the root."""

    def __init__(self, root: Path, real: str, on_touch: Callable[[Path], None]) -> None:
        self._root = str(root).rstrip("/")
        self._above = len(real.rstrip("/"))
        self._on_touch = on_touch

    def on_any_event(self, event: FileSystemEvent) -> None:
        path = event.dest_path if event.event_type == EVENT_TYPE_MOVED else event.src_path
        if path:
            self._on_touch(Path(self._root + os.fsdecode(path)[self._above :]))


def _end(observer: BaseObserver) -> None:
    observer.stop()
    if observer.is_alive():
        observer.join()


def _place_of(root: Path) -> _Place | None:
    """The folder at `root`, None where there is none or it cannot be reached (a stale mount raises, too)."""
    try:
        real = os.path.realpath(root)
        status = os.stat(real)
        mounts = mounted_below(real)
    except OSError:
        return None
    return _Place(real, status.st_dev, status.st_ino, mounts) if stat.S_ISDIR(status.st_mode) else None


def _why_blind(watch: Watch, running: _Running, place: _Place | None) -> str:
    """Why this observer no longer tells what happens at the root; empty while it does."""
    if place is None:
        return "the folder has vanished (unmounted?)"
    if _dead_threads(running.observer):
        return "the watching thread had died"
    if running.place.path != place.path:
        return "another folder has taken its place (mounted anew?)"
    # Polling goes by path and sees a replaced folder by itself; network file systems may also renumber inodes.
    if not isinstance(running.observer, InotifyObserver) or running.place == place:
        return ""
    if running.place.mounts != place.mounts:
        return "something was mounted or unmounted in it"
    return "another folder has taken its place (mounted anew?)"


def _dead_threads(observer: BaseObserver) -> str:
    """The names of the observer's threads that are not running; a dead emitter looks healthy from outside."""
    threads: list[threading.Thread] = [observer, *observer.emitters]
    if isinstance(observer, InotifyObserver):
        threads = observer.threads
    return ", ".join(type(thread).__name__ for thread in threads if not thread.is_alive())
