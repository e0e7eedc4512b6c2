"""Fetches a file over HTTP, piece by piece and again from where it stopped: the only module with urllib and http.

Owns the connection and the partial file. Knows nothing of models or hashes: that a file is the right one is for the
caller to find out. Must never be called but on the owner's command, and never follows an address to where its bytes
could be read or changed on the way.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message
from enum import Enum
from pathlib import Path
from typing import IO, Final

from daemon.core.errors import MusicReclassError, TryLater, from_os_error

Advance = Callable[[int, int | None], None]
"""Told of bytes on disk, and of how many there will be, None where the server does not say."""

Reply = http.client.HTTPResponse

_BLOCK: Final = 1 << 16
_TIMEOUT_S: Final = 30.0
# A network that comes back, and a server that restarts, do so within these; whoever waits longer starts the command
# again, and it goes on from there.
_PAUSES_S: Final = (1.0, 3.0, 9.0)
_LONGEST_PAUSE_S: Final = 60.0
_SAID_TO_PASS: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
# No checkpoint of this kind is larger; a server that never stops must not fill the disk.
_MOST_BYTES: Final = 16 << 30


class FetchRefused(MusicReclassError):
    """Raised when a file cannot be fetched; names the address and the reason."""


class Plain(Enum):
    """Where an unencrypted address may lead: only to this machine, or wherever the owner named one outright."""

    THIS_MACHINE = "this machine"
    ANYWHERE = "anywhere"


class _Moment(Exception):
    """Raised when the same request may succeed soon; `pause_s` is the wait that the server asked for."""

    def __init__(self, reason: str, pause_s: float | None = None) -> None:
        self.pause_s = pause_s
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Terms:
    """How patient to be: `timeout_s` without a byte, and a pause before each further try that brings nothing new."""

    timeout_s: float = _TIMEOUT_S
    pauses_s: tuple[float, ...] = _PAUSES_S
    plain: Plain = Plain.THIS_MACHINE


def download(
    url: str,
    part: Path,
    size_bytes: int | None,
    advance: Advance,
    terms: Terms | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> bool:
    """Fetch `url` into `part`, going on from what is in it; True where that was done.

    Afterwards `part` holds as many bytes as the server said. It is continued only where the server still has the same
    file (RFC 9110, If-Range with a strong validator); else it is begun again.

    Raises:
        FetchRefused: the address is not allowed or not there, or the tries are used up; what came is kept.
        TryLater: the disk is full or failed; what came is kept.
    """
    terms = terms or Terms()
    _check_address(url, terms.plain)
    opener = _opener(terms.plain)
    most, tries, continued = 0, 0, False
    while True:
        try:
            continued |= _attempt(opener, url, part, size_bytes, advance, terms.timeout_s)
            _note_of(part).unlink(missing_ok=True)
            return continued
        except _Moment as moment:
            held = _size(part)
            if held > most:
                most, tries = held, 0
            if tries == len(terms.pauses_s):
                kept = "; what came is kept, and the next try goes on from there" if held else ""
                raise FetchRefused(f"{url}: {moment} (tried {tries + 1} times{kept})") from moment
            wait_s = terms.pauses_s[tries] if moment.pause_s is None else moment.pause_s
            tries += 1
        pause(min(wait_s, _LONGEST_PAUSE_S))


def is_address(text: str) -> bool:
    """Whether `text` is an address rather than a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def mirrored(url: str, mirror: str) -> str:
    """The address of the same path below `mirror`."""
    return mirror.rstrip("/") + urllib.parse.urlsplit(url).path


# One request


def _attempt(
    opener: urllib.request.OpenerDirector,
    url: str,
    part: Path,
    size_bytes: int | None,
    advance: Advance,
    timeout_s: float,
) -> bool:
    held, note = _size(part), _read_note(part)
    if held and held == (size_bytes or note.total):
        # Nothing was lost but the end of the program.
        return True
    if not note.validator:
        held = 0
    with _ask(opener, _request(url, held, note.validator), part, timeout_s) as reply:
        if reply.status == 206 and _validator(reply) not in ("", note.validator):
            # It was told to send the end of the same file only, and has not listened.
            part.unlink(missing_ok=True)
            raise _Moment("the file there is another one now; it is begun again", 0.0)
        start, total = _extent(reply, held, url)
        if size_bytes is not None and total not in (None, size_bytes):
            raise FetchRefused(f"{url}: it is {total} bytes there, but {size_bytes} were expected: another file")
        _make_room(part, (total or size_bytes or 0) - start)
        if not start:
            _write_note(part, _Note(_validator(reply), total))
        end = _receive(reply, part, start, total or size_bytes, advance, url)
    wanted = size_bytes if total is None else total
    if wanted is not None and end != wanted:
        raise _Moment(f"the connection was cut after {end} of {wanted} bytes")
    return start > 0


def _request(url: str, held: int, validator: str) -> urllib.request.Request:
    headers = {"User-Agent": "music-reclass", "Accept": "*/*", "Accept-Encoding": "identity"}
    if held:
        headers |= {"Range": f"bytes={held}-", "If-Range": validator}
    return urllib.request.Request(url, headers=headers)  # noqa: S310 - the address was checked


def _ask(opener: urllib.request.OpenerDirector, request: urllib.request.Request, part: Path, timeout_s: float) -> Reply:
    try:
        reply = opener.open(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        with error:
            raise _answered(error, request.full_url, part) from None
    except urllib.error.URLError as error:
        raise _unreachable(error.reason, request) from error
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(error, request) from error
    assert isinstance(reply, http.client.HTTPResponse), "no other scheme has a handler"
    return reply


def _extent(reply: Reply, held: int, url: str) -> tuple[int, int | None]:
    """The place in the file where the answer begins, and the size of the whole."""
    if reply.status != 206:
        length = reply.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() else None
    said = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", reply.headers.get("Content-Range", ""))
    if said is None or int(said[1]) != held:
        raise FetchRefused(f"{url}: the server sent another part of the file than it was asked for")
    return held, int(said[2]) if said[2] != "*" else None


def _receive(reply: Reply, part: Path, start: int, total: int | None, advance: Advance, url: str) -> int:
    """Write the answer into `part` from `start` on; where it ended."""
    done = start
    advance(done, total)
    try:
        # Unbuffered: what came is there for the next try, whatever becomes of this process.
        with open(part, "r+b" if start else "wb", buffering=0) as out:
            out.seek(start)
            out.truncate()
            for block in _blocks(reply):
                done += _write_all(out, block)
                if done > (total or _MOST_BYTES):
                    raise FetchRefused(f"{url}: the server sent more than the {total or _MOST_BYTES} bytes expected")
                advance(done, total)
            os.fsync(out.fileno())
    except OSError as error:
        raise from_os_error(part, error) from error
    return done


def _write_all(out: IO[bytes], block: bytes) -> int:
    rest = memoryview(block)
    while rest:
        rest = rest[out.write(rest) :]
    return len(block)


def _blocks(reply: Reply) -> Iterator[bytes]:
    """What comes, as it comes; an error of the network is never taken for one of the disk."""
    while True:
        try:
            block = reply.read1(_BLOCK)
        except http.client.HTTPException:
            raise _Moment("the connection was cut") from None
        except TimeoutError:
            raise _Moment("nothing came for too long") from None
        except OSError as error:
            raise _Moment(f"the connection was lost: {_words(error)}") from error
        if not block:
            return
        yield block


# What went wrong, in plain words


def _answered(error: urllib.error.HTTPError, url: str, part: Path) -> Exception:
    if error.code == 416:
        # The file there is shorter than what we have of it.
        part.unlink(missing_ok=True)
        return _Moment("the server has no more of this file; it is begun again", 0.0)
    if error.code in _SAID_TO_PASS:
        asked = error.headers.get("Retry-After", "")
        return _Moment(f"the server says {error.code} {error.reason}", float(asked) if asked.isdigit() else None)
    meaning = {
        401: "it wants a password",
        403: "it refuses this file",
        404: "there is no such file",
        407: "the proxy wants a password (see $https_proxy)",
        410: "the file is no longer there",
    }.get(error.code, "the request was refused")
    return FetchRefused(f"{url}: {meaning} ({error.code} {error.reason})")


def _unreachable(reason: object, request: urllib.request.Request) -> Exception:
    url, host = request.full_url, request.host
    if isinstance(reason, ssl.SSLCertVerificationError):
        return FetchRefused(f"{url}: the certificate of {host} cannot be trusted: {reason.verify_message}")
    if isinstance(reason, TimeoutError):
        return _Moment(f"{host} does not answer")
    if isinstance(reason, http.client.InvalidURL):
        return FetchRefused(f"{url}: is not an address: {reason}")
    if isinstance(reason, http.client.HTTPException):
        return _Moment(f"{host} hung up")
    if isinstance(reason, OSError):
        # The resolver's own numbers are negative (netdb.h).
        if (reason.errno or 0) < 0:
            return _Moment(f"the name {host} cannot be looked up: is there a network?")
        return _Moment(f"{host} cannot be reached: {_words(reason)}")
    return FetchRefused(f"{url}: {reason}")


def _words(error: OSError) -> str:
    return (error.strerror or str(error) or type(error).__name__).lower()


def _make_room(part: Path, needed: int) -> None:
    """Refuse at once what cannot fit: a full disk is trouble for everything else on it."""
    status = os.statvfs(part.parent)
    free = status.f_bavail * status.f_frsize
    # What is there may be written over: only the rest needs room.
    if needed > free:
        raise TryLater(part, f"the disk is full: {needed / 1e6:.1f} MB are to come and {free / 1e6:.1f} MB are left")


# Addresses


def _check_address(url: str, plain: Plain) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise FetchRefused(f"{url}: is not an https address")
    if parts.scheme == "http" and plain is Plain.THIS_MACHINE and not _is_loopback(parts.hostname):
        raise FetchRefused(f"{url}: is not encrypted; only https is followed")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows only to where the first address might have led."""

    def __init__(self, plain: Plain) -> None:
        self._plain = plain

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        try:
            _check_address(newurl, self._plain)
        except FetchRefused:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _opener(plain: Plain) -> urllib.request.OpenerDirector:
    """Knows http and https, by way of the environment's proxies, and nothing else (not file, ftp or data)."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(plain),
    ):
        opener.add_handler(handler)
    return opener


# What is noted beside a partial file


@dataclass(frozen=True, slots=True)
class _Note:
    """By which mark the server knows the file that a part is of, and its size."""

    validator: str = ""
    total: int | None = None


def _validator(reply: Reply) -> str:
    """What If-Range may carry: a strong ETag, else a date (RFC 9110, 13.1.5)."""
    etag: str = reply.headers.get("ETag", "")
    if etag.startswith('"'):
        return etag
    return str(reply.headers.get("Last-Modified", "")) if not etag else ""


def _note_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_note(part: Path) -> _Note:
    try:
        said = json.loads(_note_of(part).read_text(encoding="utf-8"))
        total = said["total"]
        return _Note(str(said["validator"]), int(total) if total is not None else None)
    except (OSError, ValueError, KeyError, TypeError):
        return _Note()


def _write_note(part: Path, note: _Note) -> None:
    # Before the first byte: a part that is older than its note would be continued with another file's end.
    try:
        part.unlink(missing_ok=True)
        _note_of(part).write_text(json.dumps({"validator": note.validator, "total": note.total}), encoding="utf-8")
    except OSError as error:
        raise from_os_error(part, error) from error


def _size(part: Path) -> int:
    try:
        return os.stat(part).st_size
    except FileNotFoundError:
        return 0
