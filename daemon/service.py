"""The daemon: threads, stop flag, schedule, health, reload of config and bundle. It decides nothing about a track.

Three threads beside the main one: intake (touched files until they settle), worker (queued files through the
pipeline), rescan (what the watchers missed). The main thread sees to signals, health, reloads and systemd, a scheduler
to the daily backup of the ledger. Signal handlers only set flags.
"""

from __future__ import annotations

import contextlib
import os
import queue as thread_queue
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import structlog
from apscheduler.schedulers.background import BackgroundScheduler

from daemon.core import config as configuration
from daemon.core.config import Config, Root
from daemon.core.errors import BundleError, ConfigError, LedgerDamaged, LedgerError
from daemon.core.ledger import Ledger
from daemon.effects import watch
from daemon.effects.notify import Notifier
from daemon.effects.queue import Queue
from daemon.intake import Intake
from daemon.pipeline import Pipeline
from daemon.worker import Worker

log = structlog.get_logger()

# How long a thread may be silent before the watchdog counts it as stuck. The worker's is longer than any file takes.
_SILENCE_S = {"intake": 60.0, "rescan": 900.0, "worker": 600.0}
_TICK_S = 1.0
_IDLE_S = 5.0


@dataclass(slots=True)
class Reloadable:
    """Where config, roots and bundle come from, so that the service can take new ones while it runs."""

    config: Config
    read_again: Callable[[], Config]
    start_logging: Callable[[Config], None]
    roots: Callable[[Config], Sequence[Root]]
    build_pipeline: Callable[[Config], Pipeline]
    config_path: Path | None
    bundle_mark: Callable[[Config], str]
    describe: Callable[[], dict[str, Any]]


class Service:
    """The running daemon. `run` returns when it was asked to stop and every thread has ended."""

    def __init__(
        self,
        source: Reloadable,
        ledger: Ledger,
        queue: Queue,
        notifier: Notifier,
        publish: Callable[[dict[str, Any]], None],
    ) -> None:
        """Nothing starts before `run`. `publish` is given the service's state every few seconds."""
        self._source = source
        self._ledger = ledger
        self._queue = queue
        self._notifier = notifier
        self._publish = publish
        self._config = source.config
        self._roots = tuple(source.roots(self._config))
        pipeline = source.build_pipeline(self._config)
        self._bundle_mark = source.bundle_mark(self._config)
        self._intake = Intake(ledger, queue, self._roots, self._config.settle)
        self._worker = Worker(queue, self._intake, pipeline, self._config.queue)
        self._watcher = watch.Watcher(self._intake.touch, self._on_loss)
        self._stop = threading.Event()
        # Signal handlers run between any two steps of the main thread, so they must not take a lock that it may hold,
        # as an Event's: plain flags, and a queue whose `put` is reentrant.
        self._asked_to_stop = self._asked_to_reload = False
        self._knocks: thread_queue.SimpleQueue[None] = thread_queue.SimpleQueue()
        self._rescan_wanted = threading.Event()
        self._rescanned_at = time.monotonic()
        self._threads: dict[str, threading.Thread] = {}
        self._heartbeats: dict[str, float] = {}
        self._config_mark = self._seen_mark = _mark(source.config_path)
        self._started_at = time.time()
        self._sound = True

    # Life

    def run(self) -> bool:
        """Serve until `stop` or a signal (True), or until one of the threads has died (False: start me again)."""
        self._queue.release_all()
        scheduler = self._schedule()
        try:
            self._watcher.start(self._watches())
            steps = {"intake": self._intake_step, "worker": self._worker_step, "rescan": self._rescan_step}
            for name, step in steps.items():
                self._start(name, step)
            self._rescan_wanted.set()
            self._notifier.ready(self._status_line())
            log.info("ready", roots=[str(root.path) for root in self._roots], **self._source.describe())
            self._main_loop()
        finally:
            self._notifier.stopping()
            log.info("stopping", settling=self._intake.settling)
            scheduler.shutdown(wait=False)
            self._end_threads()
            self._tell(self.state() | {"running": False, "healthy": False, "troubles": []})
            log.info("stopped")
        return self._sound

    def stop(self) -> None:
        """Ask `run` to return; the track in hand is finished first. Safe from any thread and from signal handlers."""
        self._asked_to_stop = True
        self._knocks.put(None)

    def handle_signals(self) -> None:
        """SIGTERM and SIGINT stop, SIGHUP reloads. Call from the main thread."""

        def on_stop(number: int, frame: FrameType | None) -> None:
            self.stop()

        def on_reload(number: int, frame: FrameType | None) -> None:
            self._asked_to_reload = True
            self._knocks.put(None)

        signal.signal(signal.SIGTERM, on_stop)
        signal.signal(signal.SIGINT, on_stop)
        signal.signal(signal.SIGHUP, on_reload)

    def _schedule(self) -> BackgroundScheduler:
        # A machine that slept through a job does it once on waking: the default grace of 1 s would drop it.
        scheduler = BackgroundScheduler(job_defaults={"misfire_grace_time": None, "coalesce": True})
        scheduler.add_job(self._back_up, "interval", hours=1, next_run_time=datetime.now(UTC), id="backup")
        scheduler.start()
        return scheduler

    def _back_up(self) -> None:
        try:
            made = self._ledger.back_up()
        except LedgerDamaged as error:
            # The daily copy is the daily look for damage too. The next start refuses, and says what to do.
            log.critical("ledger_damaged", reason=str(error))
            self._sound = False
            self.stop()
        except (LedgerError, OSError) as error:
            log.error("backup_failed", reason=str(error))
        else:
            if made is not None:
                log.info("backed_up", path=made)

    def _start(self, name: str, step: Callable[[], None]) -> None:
        self._heartbeats[name] = time.monotonic()
        thread = threading.Thread(target=self._guarded, args=(name, step), name=name)
        self._threads[name] = thread
        thread.start()

    def _guarded(self, name: str, step: Callable[[], None]) -> None:
        try:
            while not self._stop.is_set():
                self._heartbeats[name] = time.monotonic()
                self._try(step)
        except Exception:
            # The main loop sees the dead thread and ends the service, so that it is started afresh: a damaged queue is
            # then set aside, a damaged ledger refused.
            log.exception("thread_died", thread=name)
            self._knocks.put(None)

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except LedgerDamaged:
            raise
        except LedgerError as error:
            # What had settled is lost to the queue; the next rescan brings it again.
            log.error("record_failed", reason=str(error))
            self._stop.wait(_IDLE_S)
            self._rescan_wanted.set()

    def _end_threads(self) -> None:
        self._stop.set()
        self._watcher.stop()
        self._intake.wake()
        self._worker.wake()
        self._rescan_wanted.set()
        for thread in self._threads.values():
            thread.join()

    def _main_loop(self) -> None:
        next_sign = 0.0
        while not self._asked_to_stop:
            self._watcher.heal()
            self._reload_if_changed()
            now = time.monotonic()
            troubles = self.troubles()
            if not all(thread.is_alive() for thread in self._threads.values()):
                self._sound = False
                self.stop()
            if now >= next_sign or not self._sound:
                next_sign = now + min(_IDLE_S, (self._notifier.watchdog_s or 2 * _IDLE_S) / 2)
                self._sign_of_life(troubles)
            with contextlib.suppress(thread_queue.Empty):
                self._knocks.get(timeout=_TICK_S)

    def _sign_of_life(self, troubles: list[str]) -> None:
        if troubles:
            # No sign of life: systemd restarts a service whose threads are stuck or dead.
            log.error("unhealthy", troubles=troubles)
        else:
            self._notifier.alive()
        self._notifier.status(self._status_line())
        self._tell(self.state() | {"running": True})

    def _tell(self, state: dict[str, Any]) -> None:
        try:
            self._publish(state)
        except OSError as error:
            log.warning("status_not_written", path=error.filename, reason=error.strerror)

    # Health

    def worker_lives(self) -> None:
        """The worker is busy with a file that takes its time; called from its own thread."""
        self._heartbeats["worker"] = time.monotonic()

    def troubles(self) -> list[str]:
        """Threads that are dead or stuck; a folder that is not there is not one of them."""
        now = time.monotonic()
        lines = [f"thread {name} has died" for name, thread in self._threads.items() if not thread.is_alive()]
        for name, beat in self._heartbeats.items():
            if now - beat > _SILENCE_S[name]:
                lines.append(f"thread {name} has been silent for {now - beat:.0f} s")
        return lines

    def state(self) -> dict[str, Any]:
        """What `status --json` shows."""
        return {
            "pid": os.getpid(),
            "started_at": self._started_at,
            "at": time.time(),
            "roots": [str(root.path) for root in self._roots],
            "queued": len(self._queue),
            "settling": self._intake.settling,
            "done": dict(self._worker.endings),
            "last_track_at": self._worker.last_track_at,
            "healthy": not self.troubles(),
            "troubles": list(dict.fromkeys(self.troubles() + self._watcher.troubles() + self._intake.troubles())),
            "threads": {name: thread.is_alive() for name, thread in self._threads.items()},
            **self._source.describe(),
        }

    def _status_line(self) -> str:
        done = ", ".join(f"{count} {name}" for name, count in sorted(self._worker.endings.items())) or "nothing yet"
        return f"{len(self._queue)} queued, {self._intake.settling} settling; since start: {done}"

    # Reload

    def _reload_if_changed(self) -> None:
        mark, before = _mark(self._source.config_path), self._seen_mark
        self._seen_mark = mark
        asked, self._asked_to_reload = self._asked_to_reload, False
        # An editor may empty the file before it writes: an edit counts once it has stood for a tick.
        if asked or (mark == before and mark != self._config_mark):
            self._config_mark = mark
            self._reload_config()
        elif self._source.bundle_mark(self._config) != self._bundle_mark:
            self._reload_pipeline(self._config)

    def _reload_config(self) -> None:
        try:
            config = self._source.read_again()
            roots = tuple(self._source.roots(config))
            pipeline = self._source.build_pipeline(config)
        except ConfigError as error:
            self._refuse_config(error.problems)
            return
        except (BundleError, LedgerError, OSError) as error:
            self._refuse_config([str(error)])
            return
        self._config, self._roots = config, roots
        self._worker.pipeline, self._worker.limits = pipeline, config.queue
        self._bundle_mark = self._source.bundle_mark(config)
        self._source.start_logging(config)
        self._intake.set(roots, config.settle)
        self._watcher.start(self._watches())
        self._rescan_wanted.set()
        log.info("config_reloaded", roots=[str(root.path) for root in roots], **self._source.describe())

    def _refuse_config(self, problems: list[str]) -> None:
        path = self._source.config_path
        log.error("config_refused", path=path, problems=problems, serving="the previous config")

    def _reload_pipeline(self, config: Config) -> None:
        """A new pipeline serves; a bundle that fails never displaces the one that works."""
        self._bundle_mark = self._source.bundle_mark(config)
        try:
            pipeline = self._source.build_pipeline(config)
        except (BundleError, LedgerError, OSError) as error:
            log.error("bundle_refused", reason=str(error), serving="the previous bundle")
            return
        self._worker.pipeline = pipeline
        log.info("bundle_serves", **self._source.describe())

    # Threads

    def _watches(self) -> list[watch.Watch]:
        watched = [root for root in self._roots if root.watch is not configuration.Watch.OFF]
        return [watch.Watch(root.path, _poll_s(root), root.poll_interval_s) for root in watched]

    def _on_loss(self, root: Path, reason: str) -> None:
        log.warning("rescan_needed", root=root, reason=reason)
        self._rescan_wanted.set()

    def _intake_step(self) -> None:
        if self._intake.step(_IDLE_S):
            self._worker.wake()

    def _worker_step(self) -> None:
        self._worker.step(_IDLE_S)

    def _rescan_step(self) -> None:
        # By the monotonic clock: a clock that is set back by a year must not put off the next rescan for a year.
        due = time.monotonic() >= self._rescanned_at + self._config.rescan.interval_s
        if not (due or self._rescan_wanted.wait(_IDLE_S)):
            return
        self._rescan_wanted.clear()
        self._rescanned_at = time.monotonic()
        self._intake.rescan(self._rescan_goes_on)

    def _rescan_goes_on(self) -> bool:
        self._heartbeats["rescan"] = time.monotonic()
        return not self._stop.is_set()


def _mark(path: Path | None) -> tuple[int, int] | None:
    """What changes when the config file is edited; None without one."""
    if path is None:
        return None
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def _poll_s(root: Root) -> float | None:
    if root.watch is configuration.Watch.POLL:
        return root.poll_interval_s
    if root.watch is configuration.Watch.AUTO and watch.is_on_network(root.path):
        log.info("polled", root=root.path, reason="on a network file system", interval_s=root.poll_interval_s)
        return root.poll_interval_s
    return None
