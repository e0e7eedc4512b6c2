"""Logging: events with fields, one per line, that no file name can forge."""

from __future__ import annotations

import io
import json
import logging
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from daemon.core import log
from daemon.core.records import LogFormat

ESCAPES = "\x1b[2J\x1b]0;owned\x07"
HOSTILE = (
    "line\nbreak",
    "carriage\rreturn",
    f"terminal{ESCAPES}",
    "c1\x9b31mred",
    "next\x85line",
    "line\u2028separator\u2029",
    "right\u202eto left",
    "isolate\u2066d\u2069",
    "nul\0byte",
    "del\x7f",
    "tab\there",
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def emitted(form: LogFormat, emit: Callable[[Any], object], level: str = "debug") -> str:
    out = io.StringIO()
    log.configure(level, form, stream=out)
    emit(structlog.get_logger())
    return out.getvalue()


def event_of(emit: Callable[[Any], object]) -> dict[str, Any]:
    """The one event that `emit` logs, as its line of JSON says."""
    line = emitted(LogFormat.JSON, emit)
    assert line.endswith("\n")
    assert len(line.splitlines()) == 1, line
    event: dict[str, Any] = json.loads(line)
    return event


def dangerous(text: str) -> set[str]:
    """Characters that move a cursor, break a line or turn the writing around."""
    kinds = {char: unicodedata.category(char) for char in text}
    bidirectional = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    return {char for char, kind in kinds.items() if kind in ("Cc", "Zl", "Zp") or char in bidirectional}


# Events


def test_an_event_is_one_line_of_json_with_its_fields() -> None:
    event = event_of(
        lambda logger: logger.info("tagged", path=Path("/music/ñ.flac"), confidence=0.5, genres=("ロック",))
    )
    assert event.pop("timestamp").endswith("Z")
    assert event == {
        "event": "tagged",
        "level": "info",
        "path": "/music/ñ.flac",
        "confidence": 0.5,
        "genres": ["ロック"],
    }


def test_other_scripts_stay_readable() -> None:
    assert "日本語" in emitted(LogFormat.JSON, lambda logger: logger.info("x", path="日本語"))


def test_every_event_is_a_line_of_its_own() -> None:
    def three(logger: Any) -> None:
        logger.info("a")
        logger.warning("b")
        logger.error("c")

    lines = emitted(LogFormat.JSON, three).splitlines()
    assert [(json.loads(line)["event"], json.loads(line)["level"]) for line in lines] == [
        ("a", "info"),
        ("b", "warning"),
        ("c", "error"),
    ]


@pytest.mark.parametrize(
    ("level", "passed"),
    [("debug", "diwe"), ("info", "iwe"), ("warning", "we"), ("error", "e")],
)
def test_events_below_the_level_are_not_printed(level: str, passed: str) -> None:
    def one_of_each(logger: Any) -> None:
        logger.debug("d")
        logger.info("i")
        logger.warning("w")
        logger.error("e")

    lines = emitted(LogFormat.JSON, one_of_each, level).splitlines()
    assert "".join(json.loads(line)["event"] for line in lines) == passed


def test_loggers_made_before_the_configuration_obey_it() -> None:
    logger = structlog.get_logger()
    out = io.StringIO()
    log.configure("info", LogFormat.JSON, stream=out)
    logger.info("late")
    assert json.loads(out.getvalue())["event"] == "late"


# Forging


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("place", ["path", "text", "list", "nested", "key"])
def test_no_text_breaks_a_line_of_json(text: str, place: str) -> None:
    fields: dict[str, Any] = {
        "path": {"path": Path("/music") / text.replace("\0", "")},
        "text": {"reason": text},
        "list": {"genres": [text]},
        "nested": {"evidence": {"best": (text,)}},
        "key": {"evidence": {text: 1}},
    }[place]
    line = emitted(LogFormat.JSON, lambda logger: logger.info("x", **fields))
    assert dangerous(line) == {"\n"}
    assert line.count("\n") == 1
    assert dangerous(str(json.loads(line))) == set()


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_breaks_a_line_on_the_console(text: str) -> None:
    line = emitted(LogFormat.CONSOLE, lambda logger: logger.info("x", reason=text, genres=[text]))
    assert dangerous(line) == {"\n"}
    assert line.count("\n") == 1


@given(st.text())
def test_whatever_a_file_is_called_it_is_one_line(text: str) -> None:
    for form in (LogFormat.JSON, LogFormat.CONSOLE):
        line = emitted(form, lambda logger: logger.info("x", path=text))
        assert dangerous(line) == {"\n"}
        assert line.count("\n") == 1


def test_an_escaped_text_can_still_be_told() -> None:
    assert event_of(lambda logger: logger.info("x", path="a\nb"))["path"] == "a\\x0ab"


@pytest.mark.parametrize("form", [LogFormat.JSON, LogFormat.CONSOLE])
def test_a_name_that_is_not_utf8_is_printed_escaped(form: LogFormat, tmp_path: Path) -> None:
    path = Path(os.fsdecode(b"/music/caf\xe9.mp3"))
    with open(tmp_path / "log", "w", encoding="utf-8") as out:
        log.configure("info", form, stream=out)
        structlog.get_logger().info("x", path=path)
    assert "caf\\udce9.mp3" in (tmp_path / "log").read_text(encoding="utf-8")


# Exceptions


def raise_and_log(logger: Any) -> None:
    try:
        raise ValueError(f"bad\x9b {ESCAPES}")
    except ValueError:
        logger.exception("bug", path="/music/a.mp3")


def test_an_exception_carries_its_traceback() -> None:
    event = event_of(raise_and_log)
    assert event["event"] == "bug"
    assert event["level"] == "error"
    assert event["exception"].startswith("Traceback (most recent call last):\n")
    assert "raise_and_log" in event["exception"]
    assert "ValueError: bad" in event["exception"]


def test_an_exception_on_the_console_carries_its_traceback_and_no_local_values() -> None:
    text = emitted(LogFormat.CONSOLE, raise_and_log)
    assert "bug" in text.splitlines()[0]
    assert "raise_and_log" in text
    assert "logger =" not in text


@pytest.mark.parametrize("form", [LogFormat.JSON, LogFormat.CONSOLE])
def test_the_text_of_an_exception_is_escaped_too(form: LogFormat) -> None:
    assert dangerous(emitted(form, raise_and_log)) == {"\n"}


# The terminal and the journal


def test_auto_is_json_where_nobody_watches() -> None:
    json.loads(emitted(LogFormat.AUTO, lambda logger: logger.info("x")))


def test_auto_is_coloured_on_a_terminal() -> None:
    out = Terminal()
    log.configure("info", LogFormat.AUTO, stream=out)
    structlog.get_logger().info("tagged", path="/music/a.mp3")
    assert "\x1b[" in out.getvalue()
    assert "tagged" in out.getvalue()


def test_json_stays_json_on_a_terminal() -> None:
    out = Terminal()
    log.configure("info", LogFormat.JSON, stream=out)
    structlog.get_logger().info("x")
    json.loads(out.getvalue())


def test_by_default_events_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", LogFormat.JSON)
    structlog.get_logger().info("x")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["event"] == "x"


def journal_lines(folder: Path, variable: Callable[[os.stat_result], str]) -> list[str]:
    with open(folder / "journal", "w+", encoding="utf-8") as out:
        environment = {"JOURNAL_STREAM": variable(os.fstat(out.fileno()))}
        log.configure("debug", LogFormat.AUTO, stream=out, environment=environment)
        logger = structlog.get_logger()
        for level in ("debug", "info", "warning", "error", "critical"):
            getattr(logger, level)(level)
        out.seek(0)
        return out.read().splitlines()


def test_the_journal_is_told_each_priority(tmp_path: Path) -> None:
    lines = journal_lines(tmp_path, lambda status: f"{status.st_dev}:{status.st_ino}")
    assert [line[:3] for line in lines] == ["<7>", "<6>", "<4>", "<3>", "<2>"]
    assert [json.loads(line[3:])["level"] for line in lines] == ["debug", "info", "warning", "error", "critical"]


@pytest.mark.parametrize("variable", ["1:2", "", "nonsense"])
def test_a_file_is_not_taken_for_the_journal_of_a_parent(tmp_path: Path, variable: str) -> None:
    """Everything started from a desktop session inherits the variable, redirected or not."""
    assert all(json.loads(line) for line in journal_lines(tmp_path, lambda status: variable))


# Other libraries


def library_events(emit: Callable[[logging.Logger], object]) -> list[dict[str, Any]]:
    out = io.StringIO()
    log.configure("debug", LogFormat.JSON, stream=out)
    emit(logging.getLogger("some.library"))
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_librarys_warning_becomes_an_event() -> None:
    (event,) = library_events(lambda logger: logger.warning("disk %s is slow", "sda"))
    assert event["event"] == "library_message"
    assert event["library"] == "some.library"
    assert event["message"] == "disk sda is slow"
    assert event["level"] == "warning"


def test_a_librarys_chatter_is_not_heard() -> None:
    logging.getLogger().setLevel(logging.DEBUG)
    assert library_events(lambda logger: logger.info("hello")) == []


def test_configuring_twice_adopts_a_warning_once() -> None:
    log.configure("info", LogFormat.JSON, stream=io.StringIO())
    assert len(library_events(lambda logger: logger.warning("x"))) == 1


def test_a_librarys_exception_keeps_its_traceback() -> None:
    def fail(logger: logging.Logger) -> None:
        try:
            raise OSError("disk on fire")
        except OSError:
            logger.exception("job failed")

    (event,) = library_events(fail)
    assert event["message"] == "job failed"
    assert "OSError: disk on fire" in event["exception"]


def test_a_level_of_a_librarys_own_is_heard() -> None:
    (event,) = library_events(lambda logger: logger.log(35, "notice"))
    assert event["level"] == "warning"


def test_a_librarys_wrong_format_does_not_raise() -> None:
    record = logging.LogRecord("some.library", logging.WARNING, "x.py", 1, "%d files", ("many",), None)

    def handle(logger: logging.Logger) -> None:
        # Only ours: pytest's handlers would raise, as they should.
        for handler in logging.getLogger().handlers:
            if type(handler).__module__ == log.__name__:
                handler.handle(record)

    (event,) = library_events(handle)
    assert event["message"] == "%d files"


def test_only_the_log_module_configures_structlog() -> None:
    sources = [*Path(log.__file__).parents[1].rglob("*.py")]
    users = [source.name for source in sources if "structlog.configure(" in source.read_text(encoding="utf-8")]
    assert users == ["log.py"]
