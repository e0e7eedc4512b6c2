"""The messages that systemd gets, on a real datagram socket."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.effects.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def listening(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """What $NOTIFY_SOCKET says, and the socket where systemd listens."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@music-reclass-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address.replace("@", "\0", 1) if request.param == "abstract" else address)
        systemd.settimeout(5.0)
        yield address, systemd


def test_each_message_is_one_datagram(listening: tuple[str, socket.socket]) -> None:
    address, systemd = listening
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.ready("3 roots")
    notifier.status("12 queued")
    notifier.alive()
    notifier.stopping()
    received = [systemd.recv(4096).decode() for _ in range(4)]
    assert received == ["READY=1\nSTATUS=3 roots", "STATUS=12 queued", "WATCHDOG=1", "STOPPING=1"]


def test_a_status_cannot_smuggle_in_another_message(listening: tuple[str, socket.socket]) -> None:
    address, systemd = listening
    Notifier({"NOTIFY_SOCKET": address}).status("hearing\nMAINPID=1")
    assert systemd.recv(4096) == b"STATUS=hearing MAINPID=1"


def test_without_systemd_it_is_silent() -> None:
    notifier = Notifier({})
    notifier.ready("x")
    notifier.alive()
    notifier.stopping()
    assert notifier.watchdog_s is None


def test_a_systemd_that_is_gone_is_no_trouble(tmp_path: Path) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).alive()
    Notifier({"NOTIFY_SOCKET": "/" + "x" * 500}).alive()
    Notifier({"NOTIFY_SOCKET": "vsock:2:1234"}).alive()


def test_a_systemd_that_is_stuck_does_not_hold_up_the_music(listening: tuple[str, socket.socket]) -> None:
    address, _ = listening
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        target = address.replace("@", "\0", 1) if address.startswith("@") else address
        with pytest.raises(BlockingIOError):
            while True:
                other.sendto(b"x", target)
    started = time.monotonic()
    Notifier({"NOTIFY_SOCKET": address}).alive()
    assert time.monotonic() - started < 5.0


@pytest.mark.parametrize(
    ("environment", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": ""}, None),
        ({"WATCHDOG_PID": str(os.getpid())}, None),
    ],
)
def test_the_watchdog_counts_only_where_it_waits_for_this_process(
    environment: dict[str, str], watchdog_s: float | None
) -> None:
    assert Notifier(environment).watchdog_s == watchdog_s
