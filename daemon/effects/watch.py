"""Watches folders for changes: the only module that imports watchdog. Reports paths; never looks into a file.

Events do get lost: the kernel's queue overflows (40,000 files in one folder overflow it), a network share sends none
for other hosts' writes, an emitter thread can die silently. So losses are reported too (`on_loss`), and whoever
listens walks the folder again.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from watchdog.events import (
    EVENT_TYPE_CLOSED,
    EVENT_TYPE_CREATED,
    EVENT_TYPE_MODIFIED,
    EVENT_TYPE_MOVED,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify import InotifyObserver
from watchdog.observers.polling import PollingObserver

# File systems on which other hosts write without this kernel knowing.
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs"}
    | {"fuse.rclone", "fuse.glusterfs", "fuse.mergerfs", "fuse.davfs", "davfs", "fuse.s3fs"}
)
_TELLING = (EVENT_TYPE_CREATED, EVENT_TYPE_MODIFIED, EVENT_TYPE_CLOSED, EVENT_TYPE_MOVED)


@dataclass(frozen=True, slots=True)
class Watch:
    """A folder to watch. `poll_s` None means inotify; otherwise it is looked at every `poll_s` seconds."""

    root: Path
    poll_s: float | None


@dataclass(frozen=True, slots=True)
class _Place:
    """Which folder stands at a root: a mount over it, or a link that leads elsewhere now, makes it another one."""

    path: str
    device: int
    inode: int


@dataclass(frozen=True, slots=True)
class _Running:
    observer: BaseObserver
    place: _Place


class Watcher:
    """Observers for a set of folders. `on_touch` and `on_loss` are called from the observers' threads."""

    def __init__(self, on_touch: Callable[[Path], None], on_loss: Callable[[Path, str], None]) -> None:
        """Report touched files to `on_touch`; to `on_loss` a root whose events may have been missed, and why."""
        self._on_touch = on_touch
        self._on_loss = on_loss
        self._lock = threading.Lock()
        self._running: dict[Watch, _Running] = {}
        self._wanted: tuple[Watch, ...] = ()
        self._missed: frozenset[Watch] = frozenset()
        self._failures: dict[Watch, str] = {}
        self._overflow = _OverflowListener(self._lost_everywhere)

    def start(self, watches: Sequence[Watch]) -> None:
        """Watch exactly these folders from now on; call again to change them. Missing ones wait for `heal`."""
        self._overflow.attach()
        # watchdog warns when it meets a new folder twice, once in the parent's event and once in its own walk.
        warnings.filterwarnings("ignore", message="Callback with id", category=RuntimeWarning)
        self._wanted = tuple(watches)
        for watch in set(self._running) - set(self._wanted):
            self._drop(watch)
        self.heal()

    def heal(self) -> None:
        """Watch folders that have appeared, let go of those that vanished, replace observers whose thread died.

        A folder that was replaced by another one, as by a mount over it, has vanished and appeared.
        """
        for watch in self._wanted:
            running = self._running.get(watch)
            place = _place_of(watch.root)
            reason = ""
            if running is not None and (reason := _why_blind(watch, running, place)):
                self._drop(watch)
                running = None
            if running is None and place is not None:
                watched = self._add(watch, place)
                if watched and watch in self._missed:
                    reason = "it can be watched now"
                self._missed = self._missed - {watch} if watched else self._missed | {watch}
            elif place is None:
                self._missed |= {watch}
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
        return lines

    def stop(self) -> None:
        """Stop every observer and wait for its threads."""
        self._wanted = ()
        for watch in list(self._running):
            self._drop(watch)
        self._overflow.detach()

    def _add(self, watch: Watch, place: _Place) -> bool:
        observer: BaseObserver | None = None
        try:
            observer = InotifyObserver() if watch.poll_s is None else PollingObserver(timeout=watch.poll_s)
            # By its real path, since inotify would watch a link itself and not the folder that it leads to.
            observer.schedule(_Handler(watch.root, place.path, self._on_touch), place.path, recursive=True)
            observer.start()
        except OSError as error:
            # Out of inotify watches, or the folder vanished in this instant: `heal` tries again, and is silent about
            # the same failure, since it comes by every second.
            if observer is not None:
                observer.stop()
            reason = f"cannot be watched: {error.strerror or error}"
            if self._failures.get(watch) != reason:
                self._failures[watch] = reason
                self._on_loss(watch.root, reason)
            return False
        self._failures.pop(watch, None)
        with self._lock:
            self._running[watch] = _Running(observer, place)
        return True

    def _drop(self, watch: Watch) -> None:
        with self._lock:
            observer = self._running.pop(watch).observer
        observer.stop()
        if observer.is_alive():
            observer.join()

    def _lost_everywhere(self) -> None:
        with self._lock:
            roots = [watch.root for watch in self._running if watch.poll_s is None]
        for root in roots:
            self._on_loss(root, "the kernel's event queue overflowed")


class _Handler(FileSystemEventHandler):
    """Passes on the path at which a file now stands, as seen from the root."""

    def __init__(self, root: Path, real: str, on_touch: Callable[[Path], None]) -> None:
        self._root = root
        self._real = real
        self._on_touch = on_touch

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.is_directory or event.event_type not in _TELLING:
            return
        path = event.dest_path if event.event_type == EVENT_TYPE_MOVED else event.src_path
        if path:
            self._on_touch(self._root / os.path.relpath(os.fsdecode(path), self._real))


class _OverflowListener(logging.Filter):
    """watchdog tells of an overflow only in its log, once per lost burst: hear it there, and keep the flood out."""

    _LOGGERS = ("watchdog.observers.inotify", "watchdog.observers.inotify_c")

    def __init__(self, on_overflow: Callable[[], None]) -> None:
        super().__init__()
        self._on_overflow = on_overflow

    def attach(self) -> None:
        for name in self._LOGGERS:
            logging.getLogger(name).addFilter(self)

    def detach(self) -> None:
        for name in self._LOGGERS:
            logging.getLogger(name).removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        if "overflowed" not in str(record.msg):
            return True
        self._on_overflow()
        return False


def is_on_network(path: Path, mountinfo: str | None = None) -> bool:
    """Whether `path` lies on a file system that other hosts can write to; see proc_pid_mountinfo(5)."""
    text = Path("/proc/self/mountinfo").read_text(errors="surrogateescape") if mountinfo is None else mountinfo
    best, kind = "", ""
    target = os.path.realpath(path)
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or not after:
            continue
        mount = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        inside = target == mount or target.startswith(mount.rstrip("/") + "/")
        # The last of several mounts over one place is the one that is seen.
        if inside and len(mount) >= len(best):
            best, kind = mount, after.split()[0]
    return kind in NETWORK_FILE_SYSTEMS


def _place_of(root: Path) -> _Place | None:
    """The folder at `root`, None where there is none or it cannot be reached (a stale mount raises, too)."""
    try:
        real = os.path.realpath(root)
        status = os.stat(real)
    except OSError:
        return None
    return _Place(real, status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None


def _why_blind(watch: Watch, running: _Running, place: _Place | None) -> str:
    """Why this observer no longer tells what happens at the root; empty while it does."""
    if place is None:
        return "the folder has vanished (unmounted?)"
    if _dead_threads(running.observer):
        return "the watching thread had died"
    # Polling goes by path and sees a replaced folder by itself; network file systems may also renumber inodes.
    if running.place.path != place.path or (watch.poll_s is None and running.place != place):
        return "another folder has taken its place (mounted anew?)"
    return ""


def _dead_threads(observer: BaseObserver) -> str:
    """The names of the observer's threads that are not running; a dead emitter looks healthy from outside."""
    threads: list[Any] = [observer, *observer.emitters]
    # The thread that reads the kernel's queue; watchdog names it in no public way.
    if (reader := getattr(observer, "_inotify_fd", None)) is not None:
        threads.append(reader)
    return ", ".join(type(thread).__name__ for thread in threads if not thread.is_alive())
