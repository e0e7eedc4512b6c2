"""The kernel's events for one folder and everything below it, through watchdog, with what watchdog leaves out.

Added to watchdog 7.1, measured with tests/bench/burst.py:

- The kernel's queue (16,384 events) is emptied into memory at once by a thread that does nothing else. watchdog
  handles each event before it reads on, and tells of 19,000 to 25,000 of 40,000 files that come to one folder.
- Only telling events come: the daemon's own walks of a large library would otherwise fill the queue with openings of
  folders, and an overflow asks for the next walk.
- An overflow is told after the watches were set anew, not before: a walk that starts earlier can pass a folder
  that is not watched yet.
- A folder that could not be watched for a limit of the kernel is noticed; watchdog swallows that below the root.
- The arrival of a renamed file is an arrival. watchdog looks for each one's departure through everything that waits:
  8 s instead of 0.8 s for 20,000 renamed files.
"""

from __future__ import annotations

import dataclasses
import logging
import queue
import threading
from collections.abc import Callable

from watchdog.events import FileClosedEvent, FileCreatedEvent, FileModifiedEvent, FileMovedEvent, FileSystemEvent
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify import InotifyEmitter
from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchCallback,
    WatchDescriptor,
)

from daemon.effects.watch import limits

TELLING: list[type[FileSystemEvent]] = [FileCreatedEvent, FileModifiedEvent, FileClosedEvent, FileMovedEvent]
"""The events after which a file may be another one; what is gone is found gone by whoever looks."""

# Bytes taken at once: the whole of a full kernel queue with names of 48 bytes.
_READ_BYTES = 2**20


class InotifyObserver(BaseObserver):
    """As watchdog's, with a reader that keeps up. `hit_limit` is the errno of a limit that left folders unwatched."""

    def __init__(self, on_overflow: Callable[[], None]) -> None:
        """`on_overflow` is called when events were lost and every folder is watched again."""
        self.reader = Reader(on_overflow)
        self.reader.start()
        super().__init__(InotifyEmitter, inotify_fd=self.reader)

    @property
    def hit_limit(self) -> int | None:
        """The errno of the limit for which a folder below the root could not be watched; None so far."""
        return self.reader.hit_limit

    @property
    def threads(self) -> list[threading.Thread]:
        """Every thread that must run for events to arrive."""
        return [self, *self.emitters, self.reader, self.reader.handler]

    def on_thread_stop(self) -> None:
        """Stop the emitters first, so that the reader has nobody left to call."""
        super().on_thread_stop()
        self.reader.stop()
        self.reader.join()


class Handling(threading.Thread):
    """Works through what was read; a class of its own, so that a dead one can be named."""


class Reader(InotifyFD):
    """Reads the kernel's queue in one thread and lets another, `handler`, work through what was read."""

    def __init__(self, on_overflow: Callable[[], None]) -> None:
        """Make the inotify instance; nothing is read before `start`."""
        super().__init__()
        self.hit_limit: int | None = None
        self.handler = Handling(target=self._handle, daemon=True)
        self._on_overflow = on_overflow
        self._unhandled: queue.SimpleQueue[list[InotifyEvent] | None] = queue.SimpleQueue()

    def on_thread_start(self) -> None:
        """Start the handler as well; a thread that has yet to start would look dead."""
        self.handler.start()

    def run(self) -> None:
        """Read until stopped."""
        try:
            while self.should_keep_running() and self.handler.is_alive():
                self._unhandled.put(self.read_events(event_buffer_size=_READ_BYTES))
        finally:
            self._unhandled.put(None)
            self.handler.join()

    def _handle(self) -> None:
        while (events := self._unhandled.get()) is not None:
            for event in events:
                if not self.should_keep_running():
                    return
                self.handle_event(event)

    def handle_event(self, event: InotifyEvent) -> None:
        """Pass an event on to whoever watches its folder, unless it tells nothing."""
        if event.is_moved_from and not event.is_directory:
            return
        if event.is_moved_to and not event.is_directory:
            event = dataclasses.replace(event, mask=Mask(InotifyConstants.IN_CREATE), cookie=0)
        super().handle_event(event)
        if event.is_queue_overflow:
            self._on_overflow()

    def add_callback(self, path: bytes, mask: Mask, callback: WatchCallback, id_: CallbackId) -> WatchDescriptor:
        """Watch one folder; a limit is noted even where the caller swallows the error."""
        try:
            # watchdog asks for attributes wherever it asks for content.
            telling = Mask(mask & ~InotifyConstants.IN_ATTRIB)
            return super().add_callback(path, telling, callback, id_)
        except OSError as error:
            if limits.is_limit(error):
                self.hit_limit = error.errno
            raise


class Hush(logging.Filter):
    """Keeps watchdog's warnings of an overflow, two for each lost burst, out of the log; `Reader` tells of it."""

    _LOGGERS = ("watchdog.observers.inotify", "watchdog.observers.inotify_c")

    def attach(self) -> None:
        """Begin."""
        for name in self._LOGGERS:
            logging.getLogger(name).addFilter(self)

    def detach(self) -> None:
        """End."""
        for name in self._LOGGERS:
            logging.getLogger(name).removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record may pass."""
        return "overflowed" not in str(record.msg)
