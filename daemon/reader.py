"""The process that opens music files: `python -m daemon.reader`, started by `reading.Reader` and by nobody else.

Whatever the libraries beneath do to it, crash, hang or want all memory, happens to it alone. It decides nothing, keeps
nothing but the file that is open, and neither logs nor prints.
"""

from __future__ import annotations

import dataclasses
import errno
import os

from daemon.core import audio
from daemon.core.errors import BadFile, FileTrouble, from_os_error
from daemon.effects import child, tags

Answer = tuple[child.Message, bytes]


class Door:
    """Answers requests, each with a `verb` and a `path`. The sound that was opened last stays open until `close`."""

    def __init__(self) -> None:
        self._sound: audio.Sound | None = None
        self._path = ""
        self._fresh = False

    def answer(self, request: child.Message) -> Answer:
        """The result, or the trouble with the file; anything else that is raised is the parent's to judge."""
        path: str = request["path"]
        try:
            return self._answer(path, request)
        except FileTrouble as trouble:
            return _refusal(trouble)
        except OSError as error:
            return _refusal(from_os_error(path, error))
        except MemoryError as error:
            return {"trouble": "memory", "reason": str(error)}, b""

    def _answer(self, path: str, request: child.Message) -> Answer:
        match request["verb"]:
            case "size":
                return _result(_size(path))
            case "open":
                self._open(path)
                return _result(None)
            case "close":
                self._close()
                return _result(None)
            case "info":
                return _result(dataclasses.asdict(self._opened(path).info))
            case "digest":
                # It reads on from where the file stands.
                if not self._fresh:
                    self._close()
                sound = self._opened(path)
                self._fresh = False
                return _result(sound.packet_digest())
            case "read":
                samples = self._opened(path).read(request["start_s"], request["length_s"], request["sample_rate_hz"])
                self._fresh = False
                return {"result": None}, samples.astype("<f4", copy=False).tobytes()
            case "tags":
                found = tags.read(path, id3_v23_separator=request["separator"])
                return _result(dataclasses.asdict(found))
            case "write_genres":
                tags.write_genres(path, request["genres"], id3_v23_separator=request["separator"])
                return _result(None)
            case unknown:
                raise ValueError(f"no such verb: {unknown}")

    def _open(self, path: str) -> audio.Sound:
        self._close()
        self._sound = audio.Sound(path)
        self._path, self._fresh = path, True
        return self._sound

    def _opened(self, path: str) -> audio.Sound:
        """The sound at `path`, opened anew where this process has not: it may have taken the place of another."""
        if self._sound is not None and self._path == path:
            return self._sound
        return self._open(path)

    def _close(self) -> None:
        if self._sound is not None:
            self._sound.__exit__(None, None, None)
        self._sound = None


def _result(value: object) -> Answer:
    return {"result": value}, b""


def _refusal(trouble: FileTrouble) -> Answer:
    if _lacks_memory(trouble):
        return {"trouble": "memory", "reason": trouble.reason}, b""
    return {"trouble": "bad" if isinstance(trouble, BadFile) else "later", "reason": trouble.reason}, b""


def _lacks_memory(error: BaseException) -> bool:
    """Whether an allocation that failed is beneath `error`."""
    beneath: BaseException | None = error
    while beneath is not None:
        if isinstance(beneath, MemoryError) or getattr(beneath, "errno", None) == errno.ENOMEM:
            return True
        beneath = beneath.__cause__ or beneath.__context__
    return False


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        # Whoever opens it will say what is wrong with it.
        return 0


if __name__ == "__main__":
    child.serve(Door().answer)
