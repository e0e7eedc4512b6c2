"""Tells systemd how the service is: the only module that imports socket. Silent where systemd is not listening."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

_PATIENCE_S = 0.5


class Notifier:
    """The sd_notify(3) protocol: datagrams of KEY=value lines to $NOTIFY_SOCKET."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        """Read where to send, and how often systemd expects a sign of life."""
        self._address = environment.get("NOTIFY_SOCKET", "")
        own = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(microseconds) / 1e6 if own and microseconds.isdigit() else None

    def ready(self, status: str) -> None:
        """The service serves."""
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def status(self, status: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={_line(status)}")

    def alive(self) -> None:
        """Every thread was seen working."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """The service winds down."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        # A leading @ means the abstract namespace, which the kernel spells with a NUL.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            # A full queue blocks the sender for as long as systemd is stuck.
            out.settimeout(_PATIENCE_S)
            try:
                out.sendto(message.encode(), address)
            except OSError:
                # systemd gone or its queue full: the next message comes soon, and music goes on without it.
                return


def _line(text: str) -> str:
    return text.replace("\n", " ")
