"""Serves files over HTTP as a publisher's host does, with the faults that hosts and lines have. A real server, in a
thread of the test's own process; nothing here is part of the product."""

from __future__ import annotations

import contextlib
import http.server
import socket
import ssl
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Cut:
    """Send `after` bytes of what was announced, then hang up."""

    after: int


@dataclass(frozen=True)
class Stall:
    """Send `after` bytes, then nothing until the test lets go."""

    after: int


@dataclass(frozen=True)
class Say:
    """Answer with a status and headers only."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Unmeasured:
    """Send everything, but say nothing of how much it is."""


Fault = Cut | Stall | Say | Unmeasured


@dataclass
class Publisher:
    """`files` by path; `script` holds what befalls the next requests, in order, after which all goes well."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    script: deque[Fault] = field(default_factory=deque)
    ranges: bool = True
    heeds_if_range: bool = True
    validators: dict[str, str] = field(default_factory=lambda: {"ETag": '"one"'})
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    let_go: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str) -> str:
        """The address of a file here."""
        return f"{self.address}/{path}"

    def put(self, path: str, content: bytes) -> str:
        """Publish `content`; its address."""
        self.files[f"/{path}"] = content
        return self.url(path)

    @property
    def asked(self) -> list[str]:
        """The Range of each request, empty where none was asked for."""
        return [headers.get("Range", "") for _, headers in self.requests]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    publisher: Publisher

    def do_GET(self) -> None:
        host = self.publisher
        host.requests.append((self.path, dict(self.headers)))
        fault = host.script.popleft() if host.script else None
        self.close_connection = True
        if isinstance(fault, Say):
            self._head(fault.status, {**dict(fault.headers), "Content-Length": "0"})
            return
        # A proxy is asked for whole addresses.
        path = "/" + self.path.split("://", 1)[1].split("/", 1)[1] if "://" in self.path else self.path
        if path not in host.files:
            self._head(404, {"Content-Length": "0"})
            return
        self._send(host.files[path], fault)

    def _send(self, content: bytes, fault: Fault | None) -> None:
        start = self._start(content)
        if start is not None and start >= len(content):
            self._head(416, {"Content-Length": "0"})
            return
        rest = content[start or 0 :]
        headers = dict(self.publisher.validators)
        if not isinstance(fault, Unmeasured):
            headers["Content-Length"] = str(len(rest))
        if start is not None:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._head(200 if start is None else 206, headers)
        with contextlib.suppress(OSError):
            self.wfile.write(rest[: fault.after] if isinstance(fault, (Cut, Stall)) else rest)
            if isinstance(fault, Stall):
                self.publisher.let_go.wait(30)

    def _start(self, content: bytes) -> int | None:
        """Where the answer begins; None for an answer from the beginning with status 200."""
        asked = self.headers.get("Range", "")
        host = self.publisher
        if not asked or not host.ranges:
            return None
        if host.heeds_if_range and self.headers.get("If-Range") not in host.validators.values():
            return None
        return int(asked.removeprefix("bytes=").removesuffix("-"))

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up in the middle are what is tested."""


@contextlib.contextmanager
def publishing(certificate: str | None = None) -> Iterator[Publisher]:
    """A publisher on a free port of this machine, over TLS where there is a `certificate` (with its key, PEM)."""
    publisher = Publisher()
    handler = type("Handler", (_Handler,), {"publisher": publisher})
    with _Server(("127.0.0.1", 0), handler) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        publisher.address = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield publisher
        finally:
            publisher.let_go.set()
            server.shutdown()
            thread.join()


def nobody() -> str:
    """An address of this machine where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"
