"""The systemd unit: what it exposes, and what it does under a real systemd, booted for these tests in a container.

What an owner would type is taken from systemd/README.md, line by line.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar, cast

import mutagen
import pytest
from booted import CHECKOUT, UNIT, Entry, Machine, NoSystemd, booted
from make_audio import SUFFIXES
from make_bundle import make_track

from daemon.core import config

UNITS = CHECKOUT / "systemd"
README = (UNITS / "README.md").read_text(encoding="utf-8")

Test = TypeVar("Test", bound=Callable[..., None])

# As the README's, but with the tests' small model, and quick to settle.
_CONFIG = """\
roots:
  - path: /srv/music
state_directory: /var/lib/music-reclass
models: {bundle: /opt/tones}
settle: {quiet_s: 0.3}
tagging: {foreign_owner: take}
"""
# A frozen process should be noticed while somebody waits for it; the unit's own times are for large models.
_QUICK = "[Service]\nWatchdogSec=6s\nTimeoutAbortSec=3s\nRestartSec=100ms\nLimitCORE=0\n"


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


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, tone_bundle: Path) -> Iterator[Machine]:
    """A booted systemd in which the README's lines have installed and started the service."""
    with contextlib.ExitStack() as stack:
        try:
            machine = stack.enter_context(booted(tmp_path_factory.mktemp("machine"), {tone_bundle: "/opt/tones"}))
        except NoSystemd as reason:
            pytest.skip(str(reason))
        machine.write("/etc/music-reclass/config.yaml", _CONFIG)
        machine.write(f"/etc/systemd/system/{UNIT}.d/quick.conf", _QUICK)
        machine.write("/etc/sysusers.d/owners.conf", "u alice 1000 - /home/alice\ng media 1500\nm alice media\n")
        machine.run("systemd-sysusers && install -d -o alice -g alice /home/alice /home/alice/Music")
        machine.run(readme_lines("Service"))
        yield machine


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
    return cast(Test, pytest.mark.systemd(pytest.mark.slow(test)))


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
    assert told.pid != frozen
    # Where it hung, for whoever looks into it.
    machine.wait(before, lambda entry: "Fatal Python error: Aborted" in entry.fields["MESSAGE"], "the threads' stacks")
    machine.settle()
    assert machine.main_pid() == told.pid


@in_a_real_systemd
def test_killed_service_comes_back_and_finishes(machine: Machine, tmp_path: Path) -> None:
    """Killed among its work, with one more file dropped that it has never seen: every file gets its tag."""
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
    try:
        _overwrite(file, _CONFIG.replace("/srv/music", "/srv/music2"), status)
        machine.run(readme_lines("Another config"))
        assert machine.wait_event(before, "config_reloaded").event["roots"] == ["/srv/music2"]
        refused = machine.now()
        _overwrite(file, "roots: nowhere\n", status)
        machine.run("systemctl reload music-reclass")
        assert machine.wait_event(refused, "config_refused").fields["PRIORITY"] == "3"
    finally:
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
    machine.write("/etc/music-reclass/broken.yaml", "roots: nowhere\n")
    command = "/opt/music-reclass/bin/music-reclass --config /etc/music-reclass/broken.yaml run"
    machine.write(f"/etc/systemd/system/{UNIT}.d/broken.conf", f"[Service]\nExecStart=\nExecStart={command}\n")
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
    for kind, mode in (("d", "700"), ("f", "600")):
        listed = machine.run(f"find /var/lib/music-reclass/ -type {kind} -printf '%m %u\\n'").splitlines()
        assert set(listed) == {f"{mode} music-reclass"}


@in_a_real_systemd
def test_file_of_another_owner_keeps_mode_and_group(machine: Machine, tmp_path: Path) -> None:
    """Without rights the daemon cannot give a file away; the README says so."""
    before = machine.now()
    track = make_track(tmp_path / "foreign.flac", "jazz")
    machine.drop(track, "/srv/music", owner="alice", group="music-reclass", mode=0o664)
    machine.wait_event(before, "tagged", path="/srv/music/foreign.flac")
    found = machine.run("stat -c '%U %G %a' /srv/music/foreign.flac").split()
    assert found == ["music-reclass", "music-reclass", "664"]


@in_a_real_systemd
def test_owner_can_ask_how_it_is(machine: Machine) -> None:
    assert "active (running)" in machine.run(readme_lines("How is it?"))


@in_a_real_systemd
@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_owner_can_pick_from_the_journal(machine: Machine, tmp_path: Path) -> None:
    before = machine.now()
    machine.drop(make_track(tmp_path / "asked.opus", "jazz"), "/srv/music")
    machine.wait_event(before, "tagged", path="/srv/music/asked.opus")
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
        state = machine.run("stat -c %U /var/lib/music-reclass /var/lib/music-reclass/ledger.db")
        assert state.split() == ["alice", "alice"]
    finally:
        machine.write("/etc/music-reclass/config.yaml", _CONFIG)
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
        machine.write(f"/etc/systemd/system/{UNIT}.d/quick.conf", _QUICK)
        machine.run(readme_lines("Service"))
        machine.run(readme_lines("Update"))
    assert machine.show("ActiveState") == "active"
