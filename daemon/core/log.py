"""One home for logging: the only call of `structlog.configure`. Logs are events with fields, on standard error.

A file name or tag is foreign text: control characters in it are escaped, so that it cannot forge a line or send
escape sequences to a terminal.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import PurePath
from typing import Any, TextIO

import structlog

from daemon.core.records import LogFormat

# Priorities of the journal, as in sd-daemon(3); systemd strips the prefix and files the line under it.
_JOURNAL_PREFIX = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>", "critical": "<2>"}
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {
    code: f"\\u{code:04x}" for code in (0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


def configure(
    level: str, form: LogFormat, *, stream: TextIO | None = None, environment: Mapping[str, str] | None = None
) -> None:
    """Send every event of at least `level` to `stream` (standard error), and other libraries' warnings with them."""
    out = stream if stream is not None else sys.stderr
    console = form is LogFormat.CONSOLE or (form is LogFormat.AUTO and out.isatty())
    journal = "JOURNAL_STREAM" in (environment or {})
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=not console),
            _escape,
            structlog.processors.format_exc_info if not console else _leave,
            *_renderers(console, journal, out),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(_Lenient(out)),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )
    _adopt_library_logs()


def _renderers(console: bool, journal: bool, out: TextIO) -> list[Any]:
    if console:
        return [structlog.dev.ConsoleRenderer(colors=out.isatty(), pad_event_to=24)]
    json = structlog.processors.JSONRenderer(ensure_ascii=False)
    return [_Journal(json)] if journal else [json]


class _Journal:
    """Puts the journal's priority before a rendered line."""

    def __init__(self, render: structlog.processors.JSONRenderer) -> None:
        self._render = render

    def __call__(self, logger: Any, name: str, event: MutableMapping[str, Any]) -> str:
        prefix = _JOURNAL_PREFIX.get(str(event.get("level")), "<6>")
        return f"{prefix}{self._render(logger, name, event)!s}"


class _Lenient:
    """A text stream that never fails on a file name which is not UTF-8; it prints the byte escaped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(text.encode("utf-8", "backslashreplace").decode("utf-8"))

    def flush(self) -> None:
        self._stream.flush()


def _leave(logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return event


def _escape(logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        event[key] = _plain(value)
    return event


def _plain(value: Any) -> Any:
    if isinstance(value, PurePath):
        value = str(value)
    if isinstance(value, str):
        return value.translate(_CONTROLS)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    return value


class _Adopted(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        log.log(record.levelno, "library_message", library=record.name, message=record.getMessage())


def _adopt_library_logs() -> None:
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Adopted)]:
        root.removeHandler(handler)
    root.addHandler(_Adopted(logging.WARNING))
