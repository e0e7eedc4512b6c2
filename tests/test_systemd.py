"""The systemd unit: what it exposes, and what it does under a real systemd, booted for these tests in a container.

The container has this machine's /usr, everything else of its own in memory, no network, and this checkout in the
place of the installed program. What an owner would type is taken from systemd/README.md, line by line.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
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
from typing import Any, TypeVar

import mutagen
import pytest
from make_audio import SUFFIXES
from make_bundle import make_bundle, make_track

from daemon.core import config

CHECKOUT = Path(__file__).resolve().parents[1]
UNITS = CHECKOUT / "systemd"
README = (UNITS / "README.md").read_text(encoding="utf-8")
UNIT = "music-reclass.service"

Test = TypeVar("Test", bound=Callable[..., None])

_BOOT_S = 60.0
_EVENT_S = 40.0

# As the README's, but with the tests' small model, and quick to settle.
_CONFIG = """\
roots:
  - path: /srv/music
state_directory: /var/lib/music-reclass
models: {bundle: /opt/tones}
settle: {quiet_s: 0.3}
"""
# A frozen process should be noticed while somebody waits for it; the unit's own times are for large models.
_QUICK = "[Service]\nWatchdogSec=6s\nTimeoutAbortSec=3s\nRestartSec=100ms\nLimitCORE=0\n"
# Runs the checkout on the Python that runs these tests, neither of which the service could see where they are.
_PROGRAM = f"""\
#!/bin/sh
export PYTHONPATH=/opt/checkout:/opt/packages LD_LIBRARY_PATH=/opt/python/lib
exec /opt/python/bin/python{sys.version_info.major}.{sys.version_info.minor} -P -m daemon "$@"
"""


def readme_lines(heading: str) -> str:
    """The shell lines of the README's section `heading`, as they stand, without those marked as untested."""
    section = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", README, re.DOTALL | re.MULTILINE)
    assert section is not None, f"systemd/README.md has no section {heading!r}"
    return "\n".join(re.findall(r"^```sh\n(.*?)^```", section[1], re.DOTALL | re.MULTILINE))


# The files themselves


needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def exposure(unit: Path) -> float:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    overall = re.search(r"Overall exposure level for \S+: ([0-9.]+)", told)
    assert overall is not None, told
    return float(overall[1])


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit file in a folder of its own."""
    return Path(shutil.copy(UNITS / UNIT, tmp_path / UNIT))


@needs_analyze
def test_unit_is_hardly_exposed(installed: Path) -> None:
    assert exposure(installed) <= 0.5


@needs_analyze
def test_gpu_costs_little_exposure(installed: Path) -> None:
    drop_ins = installed.with_name(f"{UNIT}.d")
    drop_ins.mkdir()
    shutil.copy(UNITS / "gpu.conf", drop_ins)
    assert 0.5 < exposure(installed) <= 0.9


@needs_analyze
def test_systemd_finds_no_fault_in_the_unit(installed: Path) -> None:
    drop_ins = installed.with_name(f"{UNIT}.d")
    drop_ins.mkdir()
    shutil.copy(UNITS / "gpu.conf", drop_ins)
    command = ["systemd-analyze", "verify", "--man=no", str(installed)]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stderr.splitlines()
    # The program need not be installed where the tests run.
    assert [line for line in told if "/opt/music-reclass/bin/music-reclass is not executable" not in line] == []


def test_config_of_the_readme_is_valid() -> None:
    found = re.search(r"<<'YAML'\n(.*?)^YAML$", readme_lines("Service"), re.DOTALL | re.MULTILINE)
    assert found is not None
    settings = config.parse(found[1], "systemd/README.md")
    assert [str(root.path) for root in settings.roots] == ["/srv/music"]
    assert str(settings.state_directory) == "/var/lib/music-reclass"


def test_every_line_of_the_readme_is_run_here() -> None:
    headings = re.findall(r"^## (.*)$", README, re.MULTILINE)
    own_text = Path(__file__).read_text(encoding="utf-8")
    assert [each for each in headings if readme_lines(each) and f'readme_lines("{each}")' not in own_text] == []


# A real systemd


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
        """`leader` is the process that is number 1 inside."""
        self.root = Path(f"/proc/{leader}/root")
        self._leader = leader
        self._numbers = itertools.count(1)

    def run(self, script: str) -> str:
        """Run shell lines as root inside, in the checkout; what they print."""
        done = self._start(["bash", "-euo", "pipefail", "-c", f"cd /opt/checkout\n{script}"])
        out, errors = done.communicate(timeout=_EVENT_S)
        assert done.returncode == 0, f"{script}\n{out}{errors}\n{self.journal()}"
        return out

    def _start(self, command: list[str], namespaces: str = "--all") -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["nsenter", "--target", str(self._leader), namespaces, "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": "/usr/sbin:/usr/bin", "LC_ALL": "C.UTF-8", "SYSTEMD_PAGER": ""},
        )

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
        child = self._start(["journalctl", "--no-pager", "-n", "60", "-o", "short-monotonic", "-u", UNIT])
        return child.communicate(timeout=_EVENT_S)[0]

    def now(self) -> str:
        """The journal's cursor: what is waited for `after` it comes later than this call."""
        return str(json.loads(self.run("journalctl -n 1 -o json"))["__CURSOR"])

    def wait(self, after: str, wanted: Callable[[Entry], bool], what: str) -> Entry:
        """The first line of the unit's journal after `after` that is `wanted`, as soon as it is there."""
        return next(self._follow(after, wanted, what))

    def wait_event(self, after: str, event: str, **fields: Any) -> Entry:
        """The first of the daemon's events of that name after `after` with these fields."""
        expected = {"event": event} | fields
        return self.wait(after, lambda entry: expected.items() <= entry.event.items(), str(expected))

    def _follow(self, after: str, wanted: Callable[[Entry], bool], what: str) -> Iterator[Entry]:
        deadline = time.monotonic() + _EVENT_S
        command = ["journalctl", "-f", "--no-tail", "-o", "json", "-u", UNIT, f"--after-cursor={after}"]
        # With a process namespace of its own, nsenter would not be the journalctl that is ended here, but its parent.
        child = self._start(command, "--mount")
        assert child.stdout is not None and child.stderr is not None
        try:
            for line in _lines(child.stdout.fileno(), deadline):
                entry = Entry.parse(line)
                if wanted(entry):
                    yield entry
        finally:
            child.kill()
            child.communicate()
        raise AssertionError(f"never in the journal: {what}\n{self.run('systemctl status ' + UNIT + ' || true')}")

    def until(self, seen: Callable[[], bool], what: str) -> None:
        """Wait for something that no journal tells of."""
        deadline = time.monotonic() + _EVENT_S
        while not seen():
            assert time.monotonic() < deadline, f"never: {what}\n{self.journal()}"
            time.sleep(0.1)

    def settle(self) -> None:
        """Wait until the unit is up, whatever a test did to it."""
        self.until(lambda: self.show("ActiveState") == "active", "the unit is active")

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


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A booted systemd in which the README's lines have installed and started the service."""
    if os.geteuid() != 0:
        pytest.skip("only root can boot a container")
    for program in ("systemd-nspawn", "nsenter", "setpriv"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    folder = tmp_path_factory.mktemp("machine")
    with _booted(folder) as leader:
        machine = Machine(leader)
        write(machine, "etc/music-reclass/config.yaml", _CONFIG)
        write(machine, f"etc/systemd/system/{UNIT}.d/quick.conf", _QUICK)
        # /etc is empty at first; runuser asks there whether root may become somebody else.
        write(machine, "etc/pam.d/runuser", "auth sufficient pam_rootok.so\nsession required pam_permit.so\n")
        write(machine, "etc/sysusers.d/owners.conf", "u alice 1000 - /home/alice\ng media 1500\nm alice media\n")
        machine.run("systemd-sysusers && install -d -o alice -g alice /home/alice /home/alice/Music")
        machine.run(readme_lines("Service"))
        yield machine


def write(machine: Machine, path: str, text: str) -> None:
    target = machine.root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def _booted(folder: Path) -> Iterator[int]:
    """Boot a container and yield its first process, as this machine numbers it; nothing of it is left afterwards."""
    program = folder / "music-reclass"
    program.write_text(_PROGRAM)
    program.chmod(0o755)
    # /etc is empty, so systemd would enable every service that this machine happens to have.
    (folder / "none.preset").write_text("disable *\n")
    binds = {
        CHECKOUT: "/opt/checkout",
        Path(sysconfig.get_path("platlib")): "/opt/packages",
        Path(sys.base_prefix): "/opt/python",
        program: "/opt/music-reclass/bin/music-reclass",
        make_bundle(folder / "bundle"): "/opt/tones",
        folder / "none.preset": "/etc/systemd/system-preset/00-none.preset",
    }
    name = f"music-reclass-test-{os.getpid()}"
    command = ["setpriv", "--pdeathsig", "TERM", "systemd-nspawn", "--quiet", "--directory=/", "--volatile=yes"]
    command += ["--boot", "--keep-unit", "--register=no", "--private-network", "--link-journal=no", "--console=pipe"]
    command += ["--notify-ready=yes", f"--machine={name}", "--setenv=LC_ALL=C.UTF-8"]
    command += [f"--bind-ro={source}:{target}" for source, target in binds.items()]
    command += ["systemd.unit=multi-user.target", "systemd.firstboot=no"]
    with _own_cgroup(name) as cgroups, _notifications(folder) as (address, told), open(folder / "console", "wb") as out:
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
                pytest.skip(f"systemd cannot be booted here: {(folder / 'console').read_text(errors='replace')[-400:]}")
            yield leader
        finally:
            # With its first process the whole container ends, and nspawn, which tidies up.
            if leader is not None:
                os.kill(leader, signal.SIGKILL)
            else:
                child.terminate()
            child.wait(_EVENT_S)


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


@contextlib.contextmanager
def _notifications(folder: Path) -> Iterator[tuple[str, socket.socket]]:
    """Where nspawn tells what happens; the address is abstract, since a path here may be too long for a socket."""
    address = f"music-reclass-test-{os.getpid()}"
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
        for group in groups:
            group.mkdir()
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


def genre_of(path: Path) -> list[str]:
    """The genre as somebody else's program reads it."""
    if shutil.which("ffprobe") is None:
        tags = mutagen.File(path, easy=True)
        return list(tags["genre"]) if tags and "genre" in tags else []
    command = ["ffprobe", "-v", "error", "-show_format", "-show_streams", "-of", "json", str(path)]
    told = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    tags = [each.get("tags", {}) for each in (told["format"], *told["streams"])]
    return [value for each in tags for key, value in each.items() if key.lower() == "genre"]


def in_a_real_systemd(test: Test) -> Test:
    return pytest.mark.systemd(pytest.mark.slow(test))


@in_a_real_systemd
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_dropped_file_is_tagged_and_told_of(machine: Machine, tmp_path: Path, suffix: str) -> None:
    """Every container's decoder and tag code work inside the sandbox; the file keeps owner, group and mode."""
    before = machine.now()
    (dropped,) = machine.drop(make_track(tmp_path / f"dröp{suffix}", "jazz"), "/srv/music", mode=0o664)
    status = dropped.stat()
    told = machine.wait_event(before, "tagged", path=f"/srv/music/dröp{suffix}")
    assert (told.event["genres"], told.event["before"], told.event["bundle"]) == (["jazz"], [], "tones-1")
    assert told.fields["PRIORITY"] == "6"
    assert told.pid == machine.main_pid()
    assert genre_of(dropped) == ["jazz"]
    now = dropped.stat()
    assert (now.st_uid, now.st_gid, now.st_mode) == (status.st_uid, status.st_gid, status.st_mode)
    assert now.st_ino != status.st_ino


@in_a_real_systemd
def test_warning_carries_its_priority(machine: Machine, tmp_path: Path) -> None:
    before = machine.now()
    (tmp_path / "fake.mp3").write_text("no music")
    machine.drop(tmp_path / "fake.mp3", "/srv/music")
    assert machine.wait_event(before, "parked", path="/srv/music/fake.mp3").fields["PRIORITY"] == "4"


@in_a_real_systemd
def test_status_line_counts(machine: Machine, tmp_path: Path) -> None:
    machine.drop(make_track(tmp_path / "counted.flac", "rock"), "/srv/music")
    line = r"0 queued, 0 settling; since start: .*[1-9][0-9]* applied.*"
    machine.until(lambda: re.fullmatch(line, machine.show("StatusText")) is not None, "a status text with a track")


@in_a_real_systemd
def test_file_that_is_being_written_is_let_alone(machine: Machine, tmp_path: Path) -> None:
    """The lease that tells so needs no capability."""
    before = machine.now()
    (first,) = machine.drop(make_track(tmp_path / "open.wav", "rock"), "/srv/music")
    with open(first, "ab"):
        machine.drop(make_track(tmp_path / "closed.wav", "rock"), "/srv/music")
        machine.wait_event(before, "tagged", path="/srv/music/closed.wav")
        assert genre_of(first) == []
        closed = machine.now()
    machine.wait_event(closed, "tagged", path="/srv/music/open.wav")
    assert genre_of(first) == ["rock"]


@in_a_real_systemd
def test_frozen_service_is_ended_and_started_again(machine: Machine, tmp_path: Path) -> None:
    before, frozen = machine.now(), machine.main_pid()
    machine.signal(signal.SIGSTOP)
    machine.drop(make_track(tmp_path / "frozen.ogg", "jazz"), "/srv/music")
    machine.wait(before, lambda entry: "Watchdog timeout" in entry.fields["MESSAGE"], "a watchdog timeout")
    told = machine.wait_event(before, "tagged", path="/srv/music/frozen.ogg")
    assert told.pid not in (frozen, 0)
    machine.settle()
    assert machine.main_pid() == told.pid


@in_a_real_systemd
def test_killed_service_comes_back_and_finishes(machine: Machine, tmp_path: Path) -> None:
    """Killed among its work, with one more file dropped that it has never seen: every file gets its tag, once."""
    before, killed = machine.now(), machine.main_pid()
    tracks = [make_track(tmp_path / f"killed-{number}.mp3", "classical") for number in range(8)]
    dropped = machine.drop(tracks, "/srv/music")
    names = [f"/srv/music/{track.name}" for track in tracks]
    machine.wait(before, lambda entry: entry.event.get("path") in names, "the first of the files")
    machine.signal(signal.SIGSTOP)
    (unseen,) = machine.drop(make_track(tmp_path / "unseen.mp3", "rock"), "/srv/music")
    machine.signal(signal.SIGKILL)
    assert machine.wait_event(before, "tagged", path="/srv/music/unseen.mp3").pid != killed
    machine.until(lambda: all(genre_of(file) == ["classical"] for file in dropped), "every file has its genre")
    assert genre_of(unseen) == ["rock"]
    assert list(unseen.parent.rglob("*.reclass-tmp*")) == []
    machine.settle()


@in_a_real_systemd
def test_reload_reads_the_config_again(machine: Machine) -> None:
    """Asked by SIGHUP alone: the file's inode and times are as before, so that nothing else tells of the edit."""
    file = machine.root / "etc/music-reclass/config.yaml"
    before, status, pid = machine.now(), file.stat(), machine.main_pid()
    machine.run("install -d -o music-reclass /srv/music2")
    _overwrite(file, _CONFIG.replace("/srv/music", "/srv/music2"), status)
    machine.run(readme_lines("Another config"))
    assert machine.wait_event(before, "config_reloaded").event["roots"] == ["/srv/music2"]
    refused = machine.now()
    _overwrite(file, "roots: nowhere\n", status)
    machine.run("systemctl reload music-reclass")
    assert machine.wait_event(refused, "config_refused").fields["PRIORITY"] == "3"
    restored = machine.now()
    _overwrite(file, _CONFIG, status)
    machine.run("systemctl reload music-reclass")
    assert machine.wait_event(restored, "config_reloaded").event["roots"] == ["/srv/music"]
    assert machine.main_pid() == pid


def _overwrite(file: Path, text: str, status: os.stat_result) -> None:
    file.write_text(text, encoding="utf-8")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@in_a_real_systemd
def test_broken_config_is_not_tried_again(machine: Machine) -> None:
    before = machine.now()
    write(machine, "etc/music-reclass/broken.yaml", "roots: nowhere\n")
    command = "/opt/music-reclass/bin/music-reclass --config /etc/music-reclass/broken.yaml run"
    write(machine, f"etc/systemd/system/{UNIT}.d/broken.conf", f"[Service]\nExecStart=\nExecStart={command}\n")
    try:
        machine.run("systemctl daemon-reload; ! systemctl restart music-reclass")
        machine.wait(before, lambda entry: "roots: " in entry.fields["MESSAGE"], "the reason")
        assert (machine.show("ActiveState"), machine.show("ExecMainStatus")) == ("failed", "2")
    finally:
        machine.run(f"rm /etc/systemd/system/{UNIT}.d/broken.conf; systemctl daemon-reload")
        machine.run("systemctl restart music-reclass")


@in_a_real_systemd
def test_stop_is_clean_and_quick(machine: Machine) -> None:
    before, started = machine.now(), time.monotonic()
    machine.run("systemctl stop music-reclass")
    assert time.monotonic() - started < 10.0
    try:
        machine.wait_event(before, "stopped")
        state = [machine.show(each) for each in ("ActiveState", "Result", "ExecMainStatus")]
        assert state == ["inactive", "success", "0"]
    finally:
        machine.run("systemctl start music-reclass")
    assert machine.show("ActiveState") == "active"


@in_a_real_systemd
def test_journal_holds_one_json_object_a_line(machine: Machine) -> None:
    before = machine.now()
    machine.run("systemctl restart music-reclass")
    machine.wait_event(before, "ready", bundle="tones-1")
    lines = machine.run(f"journalctl -o json -u {UNIT} --after-cursor='{before}'").splitlines()
    said = [entry for entry in map(Entry.parse, lines) if entry.fields["SYSLOG_IDENTIFIER"] == "music-reclass"]
    # ONNX Runtime grumbles that it may not bind its threads to processors.
    others = [entry.fields["MESSAGE"] for entry in said if not entry.event]
    assert [line for line in others if "pthread_setaffinity_np" not in line] == []
    assert [entry.event["event"] for entry in said if entry.event][-1] == "ready"


@in_a_real_systemd
def test_nothing_but_music_and_state_can_be_written(machine: Machine) -> None:
    """Asked as the daemon's user from within the daemon's own view of the file system."""
    pid = machine.main_pid()
    script = "for place in / /etc /etc/music-reclass /opt /usr /run /home /root /srv /var /var/lib /srv/music "
    script += "/var/lib/music-reclass /tmp /dev/shm; do test -w $place && echo $place; done; true"
    inside = f"nsenter -t {pid} -m -S $(id -u music-reclass) -G $(id -g music-reclass) -- sh -c '{script}'"
    writable = machine.run(inside).split()
    assert writable == ["/srv/music", "/var/lib/music-reclass", "/tmp", "/dev/shm"]
    mounts = {fields[4]: fields[5].split(",") for fields in map(str.split, _proc(machine, pid, "mountinfo"))}
    assert [place for place in writable if not {"noexec", "nosuid"} <= set(mounts[place])] == []


@in_a_real_systemd
def test_daemon_has_no_rights_and_no_network(machine: Machine) -> None:
    pid = machine.main_pid()
    status = dict(line.split(":\t", 1) for line in _proc(machine, pid, "status") if ":\t" in line)
    assert {status[each] for each in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert [line.split(":")[0].strip() for line in _proc(machine, pid, "net/dev")[2:]] == ["lo"]


def _proc(machine: Machine, pid: int, name: str) -> list[str]:
    return machine.run(f"cat /proc/{pid}/{name}").splitlines()


@in_a_real_systemd
def test_state_is_for_its_user_alone(machine: Machine) -> None:
    listed = machine.run("stat -c '%a %U %n' /var/lib/music-reclass /var/lib/music-reclass/* | sort")
    modes = {Path(name).name: (mode, user) for mode, user, name in map(str.split, listed.splitlines())}
    assert modes["music-reclass"] == ("700", "music-reclass")
    assert {mode for name, mode in modes.items() if name != "music-reclass"} == {("600", "music-reclass")}


@in_a_real_systemd
def test_owner_can_ask_how_it_is(machine: Machine, tmp_path: Path) -> None:
    before = machine.now()
    machine.drop(make_track(tmp_path / "asked.opus", "jazz"), "/srv/music")
    machine.wait_event(before, "tagged", path="/srv/music/asked.opus")
    told = machine.run(readme_lines("How is it?"))
    assert "active (running)" in told
    assert machine.run(readme_lines("What did it do?")).count("/srv/music/asked.opus") == 1


@in_a_real_systemd
def test_it_runs_as_the_owner_of_a_music_folder_at_home(machine: Machine, tmp_path: Path) -> None:
    """With the README's drop-in; a file of a shared group keeps that group."""
    before = machine.now()
    try:
        machine.run(readme_lines("Your own music folder"))
        track = make_track(tmp_path / "alices.m4a", "rock")
        (dropped,) = machine.drop(track, "/home/alice/Music", owner="alice", group="media", mode=0o640)
        machine.wait_event(before, "tagged", path="/home/alice/Music/alices.m4a")
        assert genre_of(dropped) == ["rock"]
        assert machine.run("stat -c '%U %G %a' /home/alice/Music/alices.m4a").split() == ["alice", "media", "640"]
        assert (
            machine.run("stat -c %U /var/lib/music-reclass /var/lib/music-reclass/ledger.db").split() == ["alice"] * 2
        )
    finally:
        write(machine, "etc/music-reclass/config.yaml", _CONFIG)
        machine.run(f"rm /etc/systemd/system/{UNIT}.d/owner.conf; systemctl daemon-reload")
        machine.run("systemctl restart music-reclass")


@in_a_real_systemd
def test_gpu_drop_in_does_no_harm_without_a_gpu(machine: Machine) -> None:
    before = machine.now()
    try:
        machine.run(readme_lines("GPU"))
        assert machine.wait_event(before, "ready").event["device"] in ("cpu", "cuda")
    finally:
        machine.run(f"rm /etc/systemd/system/{UNIT}.d/gpu.conf; systemctl daemon-reload")
        machine.run("systemctl restart music-reclass")


@in_a_real_systemd
def test_uninstalling_leaves_music_and_ledger(machine: Machine, tmp_path: Path) -> None:
    before = machine.now()
    (dropped,) = machine.drop(make_track(tmp_path / "left.flac", "jazz"), "/srv/music")
    machine.wait_event(before, "tagged", path="/srv/music/left.flac")
    try:
        machine.run(readme_lines("Uninstall"))
        assert "could not be found" in machine.run(f"systemctl status {UNIT} 2>&1 || true")
        assert genre_of(dropped) == ["jazz"]
        assert (machine.root / "var/lib/music-reclass/ledger.db").stat().st_size > 0
    finally:
        write(machine, f"etc/systemd/system/{UNIT}.d/quick.conf", _QUICK)
        machine.run(readme_lines("Service"))
        machine.run(readme_lines("Update"))
    assert machine.show("ActiveState") == "active"
