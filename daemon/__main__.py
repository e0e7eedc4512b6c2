"""The door of `music-reclass`, and the only place that wires objects together."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import click

from daemon import commands
from daemon.change import Changer, WriterLock
from daemon.core import bundle, config, ledger_backup, log
from daemon.core.config import Config, Root
from daemon.core.errors import ConfigError, LedgerError, MusicReclassError
from daemon.core.inference import Ensemble
from daemon.core.ledger import Ledger
from daemon.effects import models
from daemon.effects.notify import Notifier
from daemon.effects.queue import open_queue
from daemon.moving import Mover
from daemon.pipeline import Judge, Pipeline
from daemon.reading import Reader
from daemon.service import Reloadable, Service
from daemon.undoing import Undoer
from daemon.workshop import Desk

_LOCK_TRIES, _LOCK_PAUSE_S = 4, 0.05
CHECKOUT = Path(__file__).resolve().parents[1]


class Workshop:
    """Makes the program's objects when a command asks for them; nothing is opened before that."""

    def __init__(self, config_file: Path | None) -> None:
        """Use the config in `config_file`, or the one that is found in its usual places."""
        self._explicit = config_file
        self._config: Config | None = None
        self._serving: Ensemble | None = None
        self._beat: Callable[[], None] = lambda: None

    # Config and places

    @property
    def config_path(self) -> Path | None:
        """The config file in use; None where the built-in defaults serve."""
        return config.find(self._explicit, os.environ, Path.home(), CHECKOUT)

    @property
    def config(self) -> Config:
        """The config, read once; a running daemon that takes over an edit does so by itself."""
        if self._config is None:
            path = self.config_path
            self._config = config.load(path) if path is not None else config.default()
        return self._config

    @property
    def state_directory(self) -> Path:
        """Where ledger, queue and bundles live."""
        return config.state_directory(self.config, os.environ, Path.home())

    @property
    def models_directory(self) -> Path:
        """Where bundles live."""
        return self._models_of(self.config)

    def _models_of(self, settings: Config) -> Path:
        return config.models_directory(settings, self.state_directory)

    def start_logging(self, settings: Config | None = None) -> None:
        """Log as the config says, from now on."""
        wanted = (settings or self.config).logging
        log.configure(wanted.level.value, wanted.format, environment=os.environ)

    # Parts

    def bundle_folder(self, name: str | None = None) -> Path:
        """The folder of the bundle called `name`, by default the one that the config names."""
        return models.locate(self.models_directory, name or self.config.models.bundle)

    def ensemble(self, settings: Config | None = None, name: str | None = None) -> Ensemble:
        """The bundle, checked, opened and its golden outputs reproduced."""
        using = settings or self.config
        chosen = using.models
        loaded = bundle.load(models.locate(self._models_of(using), name or chosen.bundle))
        return Ensemble(loaded, device=chosen.device, precision=chosen.precision, threads=chosen.threads)

    @contextlib.contextmanager
    def judge(self) -> Iterator[Judge]:
        """What `classify` needs: no ledger is opened and nothing is written."""
        ensemble = self.ensemble()
        with Reader() as reader:
            yield Judge(self.config, ensemble, self.config.build_taxonomy(), reader)

    @contextlib.contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """The ledger, closed afterwards."""
        place = self.state_directory / "ledger.db"
        ledger = Ledger(place)
        try:
            with ledger_backup.advising(place):
                yield ledger
        finally:
            ledger.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[Desk]:
        """The ledger and the means to change files, after what a crash left open is settled."""
        with self.ledger() as ledger, Reader(beat=lambda: self._beat()) as reader:
            lock = WriterLock(self.state_directory)
            undoer = Undoer(ledger, Changer(ledger, self.config.tagging, reader), Mover(ledger))
            try:
                if lock.alone():
                    undoer.recover()
                lock.share()
                yield Desk(ledger, reader, undoer)
            finally:
                lock.close()

    @contextlib.contextmanager
    def alone(self) -> Iterator[Path]:
        """No other process of this program uses the state directory; where its ledger lies."""
        with _only_daemon(self.state_directory):
            lock = WriterLock(self.state_directory)
            try:
                if not lock.alone():
                    raise LedgerError(f"{self.state_directory}: a command is changing files just now; try again")
                yield self.state_directory / "ledger.db"
            finally:
                lock.close()

    @contextlib.contextmanager
    def pipeline(self) -> Iterator[Pipeline]:
        """A pipeline for one command."""
        with self.writing() as desk:
            yield Pipeline(self.config, self.ensemble(), desk.ledger, desk.reader)

    # The daemon

    def serve(self, folders: Sequence[Path], announce: Callable[[str], None]) -> bool:
        """Run the daemon until it is told to stop; False if it wants to be started again."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(_only_daemon(self.state_directory))
            # Before anything is written into it, or any file touched by what it says.
            with self.ledger() as ledger:
                ledger.check()
            desk = stack.enter_context(self.writing())
            queue = open_queue(self.state_directory / "queue.db")
            try:
                source = self._reloadable(folders, desk, announce)
                service = Service(source, desk.ledger, queue, Notifier(), self._publish)
                self._beat = service.worker_lives
                service.handle_signals()
                return service.run()
            finally:
                queue.close()

    def _reloadable(self, folders: Sequence[Path], desk: Desk, announce: Callable[[str], None]) -> Reloadable:
        ledger = desk.ledger

        def build(settings: Config) -> Pipeline:
            ensemble = self.ensemble(settings)
            manifest = ensemble.bundle.manifest
            ledger.record_serving(manifest.id, ensemble.bundle.path, manifest.taxonomy_hash)
            self._serving = ensemble
            roots = _roots(settings, folders, lambda _: None)
            return Pipeline(settings, ensemble, ledger, desk.reader, roots=roots)

        path = self.config_path

        def read_again() -> Config:
            # The file that was found at the start, whatever has appeared since; that it is gone or empty is a moment
            # of an editor's, not a wish for the defaults.
            if path is None:
                return self.config
            if not path.read_text(encoding="utf-8", errors="replace").strip():
                raise ConfigError(str(path), ["is empty"])
            settings = config.load(path)
            if config.state_directory(settings, os.environ, Path.home()) != self.state_directory:
                raise ConfigError(str(path), ["state_directory: cannot be changed while the daemon runs: restart it"])
            return settings

        return Reloadable(
            config=self.config,
            read_again=read_again,
            start_logging=self.start_logging,
            roots=lambda settings: _roots(settings, folders, announce),
            build_pipeline=build,
            config_path=path,
            bundle_mark=lambda settings: models.mark(self._models_of(settings), settings.models.bundle),
            describe=self._describe,
        )

    def _describe(self) -> dict[str, Any]:
        assert self._serving is not None, "a service is built with a bundle"
        serving = self._serving
        told: dict[str, Any] = {"bundle": serving.bundle.id, "device": serving.device.value}
        return told | ({"passed_over": serving.passed_over} if serving.passed_over else {})

    def _publish(self, state: dict[str, Any]) -> None:
        target = self.state_directory / "status.json"
        partial = target.with_name(".status.json")
        partial.write_text(json.dumps(state) + "\n", encoding="utf-8")
        os.replace(partial, target)

    def published(self) -> dict[str, Any] | None:
        """What the running daemon last said of itself; None where none has ever run on this state."""
        try:
            state = json.loads((self.state_directory / "status.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return state if isinstance(state, dict) else None

    def daemon_runs(self) -> bool:
        """Whether a daemon holds this state directory now."""
        try:
            with _only_daemon(self.state_directory):
                return False
        except LedgerError:
            return True


@contextlib.contextmanager
def _only_daemon(state: Path) -> Iterator[IO[bytes]]:
    """The state directory is this daemon's alone; the kernel lets go of it when the process ends, however it ends."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(state / "daemon.lock", "ab") as file:
        # `status` and `doctor` hold it for an instant to see whether a daemon runs.
        for left in reversed(range(_LOCK_TRIES)):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if not left:
                    raise LedgerError(f"{state}: another daemon is running on this state directory") from error
                time.sleep(_LOCK_PAUSE_S)
        yield file


def _roots(settings: Config, folders: Sequence[Path], announce: Callable[[str], None]) -> tuple[Root, ...]:
    if folders:
        return tuple(Root(path=folder) for folder in folders)
    if settings.roots:
        return settings.roots
    music = Path(os.environ.get("XDG_MUSIC_DIR") or Path.home() / "Music")
    inbox = music / "reclass-inbox"
    inbox.mkdir(parents=True, exist_ok=True)
    announce(f"drop music here: {inbox}")
    return (Root(path=inbox),)


def main() -> None:
    """Run the command line and exit: 0 done, 1 something failed or was refused, 2 wrong usage or config."""
    code: int | None
    try:
        code = commands.program.main(prog_name="music-reclass", obj=Workshop, standalone_mode=False)
    except click.ClickException as refusal:
        refusal.show()
        code = refusal.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except BrokenPipeError:
        # Whoever read our output has seen enough (`| head`); Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        click.echo(f"music-reclass: {error.filename or 'the system'}: {error.strerror or error}", err=True)
        code = 1
    except MusicReclassError as error:
        click.echo(f"music-reclass: {error}", err=True)
        code = 2 if isinstance(error, ConfigError) else 1
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
