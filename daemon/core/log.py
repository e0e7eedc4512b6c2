"""One home for logging: the only call of `structlog.configure`. Logs are events with fields, on standard error.

A file name or tag is foreign text: control characters in it are escaped, so that it cannot forge a line or send
escape sequences to a terminal.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import PurePath
from typing import Any, TextIO

import structlog

from daemon.core.records import LogFormat

# Priorities of the journal, as in sd-daemon(3); systemd strips the prefix and files the line under it.
_JOURNAL_PREFIX = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>", "critical": "<2>"}
_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {
    code: f"\\u{code:04x}" for code in (0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


def configure(
    level: str, form: LogFormat, *, stream: TextIO | None = None, environment: Mapping[str, str] | None = None
) -> None:
    """Send every event of at least `level` to `stream` (standard error), and other libraries' warnings with them."""
    out = stream if stream is not None else sys.stderr
    console = form is LogFormat.CONSOLE or (form is LogFormat.AUTO and out.isatty())
    journal = _is_journal(out, (environment or {}).get("JOURNAL_STREAM", ""))
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=not console),
            structlog.processors.format_exc_info,
            _escape,
            *_renderers(console, journal, out),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(_Lenient(out)),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )
    _adopt_library_logs()


def _renderers(console: bool, journal: bool, out: TextIO) -> list[Any]:
    if console:
        plain = structlog.dev.plain_traceback
        return [structlog.dev.ConsoleRenderer(colors=out.isatty(), pad_event_to=24, exception_formatter=plain)]
    json = structlog.processors.JSONRenderer(ensure_ascii=False)
    return [_Journal(json)] if journal else [json]


def _is_journal(out: TextIO, variable: str) -> bool:
    """Whether `out` goes to the journal: systemd.exec(5) has device and inode compared, for children inherit it."""
    try:
        status = os.fstat(out.fileno())
    except (OSError, ValueError):
        return False
    return variable == f"{status.st_dev}:{status.st_ino}"


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


def _escape(logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        # A traceback is the one text with lines of its own.
        event[key] = "\n".join(map(_plain, value.split("\n"))) if key == "exception" else _plain(value)
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
        level = max(known for known in _LEVELS if known <= max(record.levelno, logging.DEBUG))
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = str(record.msg)
        log = structlog.get_logger()
        log.log(level, "library_message", library=record.name, message=message, exc_info=record.exc_info)


def _adopt_library_logs() -> None:
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Adopted)]:
        root.removeHandler(handler)
    root.addHandler(_Adopted(logging.WARNING))
