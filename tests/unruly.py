"""A child process for tests that does what a library does to it which meets the wrong file. No part of the product.

It answers like `daemon.reader`, but for requests that name a misdeed, or ask for the tags of a file that is named for
one (`segfault.mp3`).
"""

from __future__ import annotations

import ctypes
import importlib
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

from daemon.effects import child

_REPLIES = 2  # the number of the argument that says where replies go


def echo(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    return {"echo": request, "pid": os.getpid()}, bytes(request.get("bytes", 0))


def segfault(request: dict[str, Any]) -> None:
    ctypes.string_at(0)


def abort(request: dict[str, Any]) -> None:
    os.abort()


def kill(request: dict[str, Any]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(request: dict[str, Any]) -> None:
    os._exit(3)


def fail(request: dict[str, Any]) -> None:
    raise LookupError("no such atom")


def recurse(request: dict[str, Any]) -> None:
    recurse(request)


def doze(request: dict[str, Any]) -> None:
    while True:
        time.sleep(60.0)


def hold(request: dict[str, Any]) -> None:
    """Busy in native code that never lets go of Python's lock."""
    re.match("(a+)+b", "a" * 60)


def eat(request: dict[str, Any]) -> None:
    eaten = []
    while True:
        eaten.append(bytearray(10_000_000))


def babble(request: dict[str, Any]) -> None:
    os.write(int(sys.argv[_REPLIES]), os.urandom(1 << 16))


def boast(request: dict[str, Any]) -> None:
    os.write(int(sys.argv[_REPLIES]), child._FRAME.pack(2, 0xFFFFFFFF) + b"{}")


def mumble(request: dict[str, Any]) -> None:
    os.write(int(sys.argv[_REPLIES]), child._FRAME.pack(3, 0) + b"{[}")


def list_up(request: dict[str, Any]) -> None:
    os.write(int(sys.argv[_REPLIES]), child._FRAME.pack(2, 0) + b"[]")


def stop_short(request: dict[str, Any]) -> None:
    os.write(int(sys.argv[_REPLIES]), child._FRAME.pack(100, 0) + b"{")
    doze(request)


def chatter(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    for descriptor in (1, 2):
        for _ in range(100):
            try:
                os.write(descriptor, b"warning: who would have thought\n" * 100)
            except BlockingIOError:
                break
    return {"said": True}, b""


def lie(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    return {"result": request["lie"]}, b""


MISDEEDS = {
    misdeed.__name__: misdeed
    for misdeed in (echo, segfault, abort, kill, leave, fail, recurse, doze, hold, eat, babble, boast, mumble, list_up)
}
MISDEEDS |= {misdeed.__name__: misdeed for misdeed in (stop_short, chatter, lie)}

# What a child that a file has got hold of may say for each verb.
LIES = {
    "tags": {"container": "mp3", "genres": "Jazz", "artist": None, "title": None, "album": None, "others": [["a"]]},
    "info": {"duration_s": 1e999, "sample_rate_hz": 1, "channels": 1, "codec": "", "container": ""},
    "digest": "../../etc/passwd",
    "size": "large",
}


class Unruly:
    """Answers as it should until it is asked for something that brings out the worst in it."""

    def __init__(self) -> None:
        self._door: Any = None

    def answer(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        name = request.get("misdeed", "")
        path = Path(request.get("path", ""))
        if path.stem == "lies" and request["verb"] in LIES:
            return {"result": LIES[request["verb"]]}, b""
        if path.stem == "loud" and request["verb"] == "read":
            return {"result": None}, b"\x00\x00\xc0\x7f" * 100
        if request.get("verb") == "tags" and path.stem in MISDEEDS:
            name = path.stem
        if not name:
            return self._orderly(request)
        answer: tuple[dict[str, Any], bytes] | None = MISDEEDS[name](request)
        return answer or ({}, b"")

    def _orderly(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        if self._door is None:
            # Takes a while; a child that is only here to crash starts quicker without it.
            self._door = importlib.import_module("daemon.reader").Door()
        answer: tuple[dict[str, Any], bytes] = self._door.answer(request)
        return answer


if __name__ == "__main__":
    child.serve(Unruly().answer)
