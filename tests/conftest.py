"""Fixtures for every test, and three rules that all of them live under.

A test leaves no thread behind, reads nothing of the developer's own home or settings, and leaves logging as it was.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from console import command, music
from hypothesis import settings
from make_bundle import make_bundle
from structlog.testing import capture_logs

from daemon.core import bundle
from daemon.core.inference import Ensemble
from daemon.core.ledger import Ledger
from daemon.core.records import Device
from daemon.reading import Reader

__all__ = ["command", "music"]

# Single examples are slow on a busy machine; a test that is slow as a whole is seen in the total.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

_THREAD_GRACE_S = 5.0
_OWNERS_VARIABLES = (
    *("MUSIC_RECLASS_CONFIG", "XDG_MUSIC_DIR", "XDG_CONFIG_DIRS", "XDG_DATA_DIRS", "STATE_DIRECTORY"),
    *("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "JOURNAL_STREAM", "INVOCATION_ID"),
)


# torch's exporter shows its progress with tqdm, which starts one watching thread per process and never ends it.
_FOREIGN = frozenset({"tqdm_monitor"})


@pytest.fixture(autouse=True)
def no_leaked_threads() -> Iterator[None]:
    """A thread that outlives its test fails it."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + _THREAD_GRACE_S
    leaked = [thread for thread in threading.enumerate() if thread not in before and thread.name not in _FOREIGN]
    for thread in leaked:
        thread.join(max(0.0, deadline - time.monotonic()))
    assert not [thread.name for thread in leaked if thread.is_alive()], "the test left threads behind"


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where each test's home is made; thousands of numbered temporary folders would take longer."""
    folder = tmp_path_factory.mktemp("homes")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def home(homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder; nothing of the developer's own config, state or systemd session is seen."""
    folder = next(homes)
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    for name, place in {
        "CONFIG": ".config",
        "STATE": ".local/state",
        "CACHE": ".cache",
        "DATA": ".local/share",
    }.items():
        monkeypatch.setenv(f"XDG_{name}_HOME", str(folder / place))
    for variable in _OWNERS_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    return folder


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Whatever a test configures, the next one starts with structlog's defaults and the handlers there were."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    # pytest adds and removes handlers of its own around each phase of a test: take away only what is ours.
    for handler in root.handlers[:]:
        if handler not in handlers and type(handler).__module__.startswith("daemon."):
            root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture
def events() -> Iterator[list[Any]]:
    """Every event logged in the test, as dictionaries with `event`, `log_level` and the event's own fields."""
    with capture_logs() as captured:
        yield captured


@pytest.fixture(scope="session")
def tone_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed bundle that hears three tones; shared by all tests, so copy it before changing anything in it."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tones-1")


@pytest.fixture(scope="session")
def ensemble(tone_bundle: Path) -> Ensemble:
    """The bundle of tones, ready to hear."""
    return Ensemble(bundle.load(tone_bundle), device=Device.CPU, threads=1)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger."""
    ledger = Ledger(tmp_path / "state" / "ledger.db")
    yield ledger
    ledger.close()


@pytest.fixture(scope="session")
def reader() -> Iterator[Reader]:
    """One process that reads files, for all tests; starting one takes a third of a second."""
    with Reader() as reader:
        yield reader


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of labelled tracks and fixture files that is too big, or not ours, to ship."""
    given = os.environ.get("MUSIC_RECLASS_DATA")
    if not given:
        pytest.skip("MUSIC_RECLASS_DATA is not set: it names the folder with tracks/ and corpora/")
    folder = Path(given)
    if not folder.is_dir():
        pytest.skip(f"MUSIC_RECLASS_DATA names {folder}, which is not there")
    return folder
