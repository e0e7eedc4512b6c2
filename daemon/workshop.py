"""What commands may ask for. `__main__` makes these things; commands and the doctor see only this description."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from daemon.core.config import Config
from daemon.core.inference import Ensemble
from daemon.core.ledger import Ledger
from daemon.pipeline import Judge, Pipeline
from daemon.reading import Reader
from daemon.undoing import Undoer


@dataclass(frozen=True, slots=True)
class Desk:
    """What a command needs that changes files."""

    ledger: Ledger
    reader: Reader
    undoer: Undoer


class Workshop(Protocol):
    """Makes the program's objects when a command asks for them; nothing is opened before that."""

    @property
    def config_path(self) -> Path | None:
        """The config file in use; None where the built-in defaults serve."""

    @property
    def config(self) -> Config:
        """The config, read once."""

    @property
    def state_directory(self) -> Path:
        """Where ledger, queue and bundles live."""

    @property
    def models_directory(self) -> Path:
        """Where bundles live."""

    def start_logging(self, settings: Config | None = None) -> None:
        """Log as the config says, from now on."""

    def bundle_folder(self, name: str | None = None) -> Path:
        """The folder of the bundle called `name`, by default the one that the config names."""

    def ensemble(self, settings: Config | None = None, name: str | None = None) -> Ensemble:
        """The bundle, checked, opened and its golden outputs reproduced."""

    def judge(self) -> contextlib.AbstractContextManager[Judge]:
        """What `classify` needs: no ledger is opened and nothing is written."""

    def ledger(self) -> contextlib.AbstractContextManager[Ledger]:
        """The ledger, closed afterwards."""

    def writing(self) -> contextlib.AbstractContextManager[Desk]:
        """The ledger and the means to change files, after what a crash left open is settled."""

    def alone(self) -> contextlib.AbstractContextManager[Path]:
        """No other process of this program uses the state directory; where its ledger lies."""

    def pipeline(self) -> contextlib.AbstractContextManager[Pipeline]:
        """A pipeline for one command."""

    def serve(self, folders: Sequence[Path], announce: Callable[[str], None]) -> bool:
        """Run the daemon until it is told to stop; False if it wants to be started again."""

    def published(self) -> dict[str, Any] | None:
        """What the running daemon last said of itself; None where none has ever run on this state."""

    def daemon_runs(self) -> bool:
        """Whether a daemon holds this state directory now."""
