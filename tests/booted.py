"""Boots a real systemd in a container, for tests of the units: this machine's /usr, everything else in memory.

The container has an /etc of its own that is empty but for what a test writes, no network, no service but systemd's
own, and this checkout in the place of the installed program. Nothing of it is left afterwards. Nothing here is part
of the product.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
UNIT = "music-reclass.service"

_BOOT_S = 60.0
_EVENT_S = 40.0

# Runs the checkout on the Python that runs these tests, neither of which the service could see where they are.
_PROGRAM = f"""\
#!/bin/sh
export PYTHONPATH=/opt/checkout:/opt/packages LD_LIBRARY_PATH=/opt/python/lib
exec /opt/python/bin/python{sys.version_info.major}.{sys.version_info.minor} -P -m daemon "$@"
"""


class NoSystemd(Exception):
    """Raised when no systemd can be booted on this machine; the text says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the journal; `event` is what the daemon said in it, empty for a line that is not the daemon's."""

    fields: dict[str, Any]
    event: dict[str, Any]

    @property
    def pid(self) -> int:
        return int(self.fields["_PID"])

    @classmethod
    def parse(cls, line: str) -> Entry:
        fields = json.loads(line)
        if isinstance(fields["MESSAGE"], list):
            # So the journal spells a line with control characters in it.
            fields["MESSAGE"] = bytes(fields["MESSAGE"]).decode("utf-8", "replace")
        try:
            event = json.loads(fields["MESSAGE"])
        except ValueError:
            event = {}
        return cls(fields, event if isinstance(event, dict) else {})


class Machine:
    """A booted container, seen from outside."""

    def __init__(self, leader: int) -> None:
        """`leader` is the process that is number 1 inside; `root` is where we see the container's files."""
        self.root = Path(f"/proc/{leader}/root")
        self._journal = self.root / "run/log/journal"
        self._enter = ["nsenter", "--target", str(leader), "--all", "--"]
        self._numbers = itertools.count(1)

    def run(self, script: str) -> str:
        """Run shell lines as root inside, in the checkout; what they print."""
        # The limit is kept inside: an nsenter that is ended leaves its child behind, and the container could not end.
        shell = ["timeout", f"{_EVENT_S}", "bash", "-euo", "pipefail", "-c", f"cd /opt/checkout\n{script}"]
        environment = {"PATH": "/usr/sbin:/usr/bin", "LC_ALL": "C.UTF-8", "SYSTEMD_PAGER": ""}
        done = subprocess.run([*self._enter, *shell], capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}\n{self.journal()}"
        return done.stdout

    def show(self, setting: str) -> str:
        """A property of the unit as systemd sees it now."""
        return self.run(f"systemctl show --value -p {setting} {UNIT}").strip()

    def main_pid(self) -> int:
        """The daemon's process, by its number inside."""
        return int(self.show("MainPID"))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the daemon's process, not through systemd."""
        self.run(f"kill -{int(number)} {self.main_pid()}")

    def journal(self) -> str:
        """The end of the unit's journal, for a failed test."""
        command = ["journalctl", f"--directory={self._journal}", f"--unit={UNIT}", "--lines=60"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def now(self) -> str:
        """The journal's cursor: what is waited for `after` it comes later than this call."""
        return str(json.loads(self.run("journalctl -n 1 -o json"))["__CURSOR"])

    def wait_event(self, after: str, event: str, **fields: Any) -> Entry:
        """The first of the daemon's events of that name after `after` with these fields."""
        expected = {"event": event} | fields
        return self.wait(after, lambda entry: expected.items() <= entry.event.items(), str(expected))

    def wait(self, after: str, wanted: Callable[[Entry], bool], what: str) -> Entry:
        """The first line of the unit's journal after `after` that is `wanted`, as soon as it is there."""
        # From outside, and not through nsenter, for the same reason as in `run`.
        command = ["journalctl", f"--directory={self._journal}", f"--after-cursor={after}", f"--unit={UNIT}"]
        command += ["--follow", "--no-tail", "--output=json"]
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert child.stdout is not None
        try:
            for entry in map(Entry.parse, _lines(child.stdout.fileno(), time.monotonic() + _EVENT_S)):
                if wanted(entry):
                    return entry
        finally:
            child.kill()
            child.stdout.close()
            child.wait()
        raise AssertionError(f"never in the journal: {what}\n{self.journal()}")

    def until(self, seen: Callable[[], bool], what: str) -> None:
        """Wait for something that no journal tells of."""
        deadline = time.monotonic() + _EVENT_S
        while not seen():
            assert time.monotonic() < deadline, f"never: {what}\n{self.journal()}"
            time.sleep(0.1)

    def settle(self) -> None:
        """Wait until the unit is up, whatever a test did to it."""
        self.until(lambda: self.show("ActiveState") == "active", "the unit is active")

    def write(self, path: str, text: str) -> None:
        """Make a file inside; `path` is absolute."""
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")

    def drop(
        self,
        sources: Path | Sequence[Path],
        folder: str,
        *,
        owner: str = "music-reclass",
        group: str = "",
        mode: int = 0o644,
    ) -> list[Path]:
        """Copy files of ours into a watched folder at once, as a program of that owner would; where we can see them."""
        parcel = self.root / "run" / f"parcel-{next(self._numbers)}"
        parcel.mkdir()
        paths = [sources] if isinstance(sources, Path) else list(sources)
        for path in paths:
            shutil.copyfile(path, parcel / path.name)
        self.run(f"install -o {owner} -g {group or owner} -m {mode:o} /run/{parcel.name}/* {folder}")
        return [self.root / folder.lstrip("/") / path.name for path in paths]


def _lines(descriptor: int, deadline: float) -> Iterator[str]:
    """Lines from a pipe as they come, until the deadline."""
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            block = os.read(descriptor, 1 << 16)
            if not block:
                return
            *lines, pending = (pending + block).split(b"\n")
            for line in lines:
                yield line.decode("utf-8", "replace")


@contextlib.contextmanager
def booted(folder: Path, shown: dict[Path, str]) -> Iterator[Machine]:
    """Boot a container in which the files and folders `shown` are seen, read-only, at the paths given with them.

    `folder` is for scratch files.

    Raises:
        NoSystemd: a container cannot be booted here.
    """
    _check_means()
    name = f"music-reclass-test-{os.getpid()}"
    command = ["setpriv", "--pdeathsig", "TERM", "systemd-nspawn", "--quiet", "--directory=/", "--volatile=yes"]
    command += ["--boot", "--keep-unit", "--register=no", "--private-network", "--link-journal=no", "--console=pipe"]
    command += ["--notify-ready=yes", f"--machine={name}", "--setenv=LC_ALL=C.UTF-8"]
    command += [f"--bind-ro={source}:{target}" for source, target in (_furniture(folder) | shown).items()]
    command += ["systemd.unit=multi-user.target", "systemd.firstboot=no"]
    with _own_cgroup(name) as cgroups, _notifications(name) as (address, told), open(folder / "console", "wb") as out:
        enter = "".join(f"echo $$ > {group}/cgroup.procs\n" for group in cgroups)
        child = subprocess.Popen(
            ["sh", "-ec", enter + 'exec "$@"', "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | {"NOTIFY_SOCKET": address},
        )
        leader = None
        try:
            leader = _wait_for_boot(told, child)
            if leader is None:
                console = (folder / "console").read_text(errors="replace")
                raise NoSystemd(f"systemd cannot be booted here: {console[-400:]}")
            yield Machine(leader)
        finally:
            _end(child, leader)


def _check_means() -> None:
    if os.geteuid() != 0:
        raise NoSystemd("only root can boot a container")
    for program in ("systemd-nspawn", "nsenter", "setpriv"):
        if shutil.which(program) is None:
            raise NoSystemd(f"{program} is not installed")


def _furniture(folder: Path) -> dict[Path, str]:
    files = {
        "music-reclass": _PROGRAM,
        # /etc is empty, so systemd would enable every service that this machine happens to have.
        "none.preset": "disable *\n",
        "journald.conf": "[Journal]\nStorage=volatile\n",
        # runuser asks here whether root may become somebody else.
        "runuser": "auth sufficient pam_rootok.so\nsession required pam_permit.so\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o755)
    return {
        CHECKOUT: "/opt/checkout",
        Path(sysconfig.get_path("platlib")): "/opt/packages",
        Path(sys.base_prefix): "/opt/python",
        folder / "music-reclass": "/opt/music-reclass/bin/music-reclass",
        folder / "none.preset": "/etc/systemd/system-preset/00-none.preset",
        folder / "journald.conf": "/etc/systemd/journald.conf.d/tests.conf",
        folder / "runuser": "/etc/pam.d/runuser",
    }


def _wait_for_boot(told: socket.socket, child: subprocess.Popen[bytes]) -> int | None:
    """The first process inside, once systemd has said that it is up; None where that does not happen."""
    leader = None
    deadline = time.monotonic() + _BOOT_S
    while child.poll() is None and time.monotonic() < deadline:
        try:
            message = told.recv(4096).decode()
        except TimeoutError:
            continue
        for line in message.splitlines():
            key, _, value = line.partition("=")
            if key == "X_NSPAWN_LEADER_PID":
                leader = int(value)
            if key == "READY" and leader is not None:
                return leader
    return None


def _end(nspawn: subprocess.Popen[bytes], leader: int | None) -> None:
    """With its first process the whole container ends, and nspawn, which tidies up."""
    if leader is None:
        nspawn.terminate()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.kill(leader, signal.SIGKILL)
    try:
        nspawn.wait(_EVENT_S)
    except subprocess.TimeoutExpired:
        nspawn.kill()
        nspawn.wait()


@contextlib.contextmanager
def _notifications(address: str) -> Iterator[tuple[str, socket.socket]]:
    """Where nspawn tells what happens; the address is abstract, since a path here may be too long for a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(f"\0{address}")
        told.settimeout(1.0)
        yield f"@{address}", told


@contextlib.contextmanager
def _own_cgroup(name: str) -> Iterator[list[Path]]:
    """Control groups for the container alone, gone afterwards: one on a unified hierarchy, else one in each part."""
    top = Path("/sys/fs/cgroup")
    places = {"name=systemd": top / "systemd", "": top / "unified" if (top / "unified").is_dir() else top}
    groups = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in places:
            groups.append(places[controllers] / path.strip("/") / name)
    try:
        try:
            for group in groups:
                group.mkdir()
        except OSError as error:
            raise NoSystemd(f"no control group can be made here: {error}") from error
        yield groups
    finally:
        for group in groups:
            _remove_cgroup(group)


def _remove_cgroup(group: Path) -> None:
    for folder, _, _ in os.walk(group, topdown=False):
        deadline = time.monotonic() + 10.0
        while os.path.isdir(folder):
            try:
                os.rmdir(folder)
            except OSError:
                # The kernel is still clearing away the container's processes.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
