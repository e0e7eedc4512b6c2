"""A child process may do what it likes: the parent gets an answer or an error in time, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from daemon.effects.child import Child, ChildDied, ChildError, ChildTimeout, ChildUnavailable

LIMIT_S = 30.0
MEMORY_BYTES = 100 << 20


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child("unruly", memory_bytes=MEMORY_BYTES)
    yield child
    child.close()


def asked(child: Child, misdeed: str = "echo", limit_s: float = LIMIT_S, **fields: Any) -> dict[str, Any]:
    return child.call({"misdeed": misdeed, **fields}, limit_s)[0]


def died(child: Child, misdeed: str) -> ChildDied:
    with pytest.raises(ChildDied) as caught:
        asked(child, misdeed)
    return caught.value


def status(child: Child) -> dict[str, str]:
    text = Path(f"/proc/{child.pid}/status").read_text(encoding="utf-8")
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def until_gone(pid: int) -> None:
    """Wait until a process is no more, or a zombie that nobody of ours has to bury."""
    deadline = time.monotonic() + 10.0
    with contextlib.suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, f"process {pid} lives on"
            time.sleep(0.01)


# Answers


def test_child_answers_with_an_object_and_bytes(child: Child) -> None:
    message, body = child.call({"misdeed": "echo", "name": "caf\udce9 日本", "bytes": 3_000_000}, LIMIT_S)
    assert message["echo"]["name"] == "caf\udce9 日本"
    assert body == bytes(3_000_000)
    assert message["pid"] == child.pid != os.getpid()


def test_one_child_answers_many_questions(child: Child) -> None:
    assert len({asked(child)["pid"] for _ in range(20)}) == 1


def test_question_larger_than_a_pipe_is_asked(child: Child) -> None:
    assert asked(child, text="x" * 1_000_000)["echo"]["text"] == "x" * 1_000_000


def test_nothing_is_started_before_the_first_question() -> None:
    assert Child("unruly", memory_bytes=MEMORY_BYTES).pid is None


def test_child_outlives_the_thread_that_started_it(child: Child) -> None:
    first: list[int] = []
    thread = threading.Thread(target=lambda: first.append(asked(child)["pid"]))
    thread.start()
    thread.join()
    assert asked(child)["pid"] == first[0]


def test_what_the_child_says_aloud_neither_blocks_nor_garbles(child: Child, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        assert asked(child, "chatter") == {"said": True}
    assert capfd.readouterr() == ("", "")


# Ends


@pytest.mark.parametrize(
    ("misdeed", "how", "killed_by", "told"),
    [
        ("segfault", "signal 11, segmentation fault", signal.SIGSEGV, "in segfault"),
        ("abort", "signal 6, aborted", signal.SIGABRT, "in abort"),
        ("kill", "signal 9, killed", signal.SIGKILL, ""),
        ("leave", "exit code 3", None, ""),
        ("fail", "exit code 1", None, "LookupError: no such atom"),
        ("recurse", "exit code 1", None, "RecursionError: maximum recursion depth exceeded"),
        ("eat", "exit code 1", None, "MemoryError"),
        ("babble", "it sent a reply of", None, ""),
        ("boast", "it sent a reply of 2 and 4294967295 bytes", None, ""),
        ("mumble", "it sent what is not JSON", None, ""),
        ("list_up", "it sent what is no JSON object", None, ""),
    ],
)
def test_end_of_the_child_is_an_error_that_says_how(
    child: Child, misdeed: str, how: str, killed_by: int | None, told: str
) -> None:
    before = asked(child)["pid"]
    error = died(child, misdeed)
    assert error.how.startswith(how)
    assert error.killed_by == killed_by
    assert told in error.told
    assert child.pid is None
    assert not psutil.pid_exists(before)
    assert asked(child)["pid"] != before


@pytest.mark.parametrize("misdeed", ["hold", "doze", "stop_short"])
def test_endless_answer_is_ended_in_time(child: Child, misdeed: str) -> None:
    before = asked(child)["pid"]
    started = time.monotonic()
    with pytest.raises(ChildTimeout) as caught:
        asked(child, misdeed, 1.0)
    assert 0.9 < time.monotonic() - started < 5.0
    assert caught.value.limit_s == 1.0
    assert not psutil.pid_exists(before)
    assert asked(child)["pid"] != before


def test_timeout_tells_a_busy_child_from_a_waiting_one(child: Child) -> None:
    asked(child)
    busy = {}
    for misdeed in ("hold", "doze"):
        with pytest.raises(ChildTimeout) as caught:
            asked(child, misdeed, 2.0)
        busy[misdeed] = caught.value.busy_s
    assert busy["doze"] < 0.3 < busy["hold"] <= 2.5


def test_waiting_is_accompanied_by_beats(child: Child) -> None:
    beats: list[float] = []
    with pytest.raises(ChildTimeout):
        child.call({"misdeed": "doze"}, 2.5, lambda: beats.append(time.monotonic()))
    assert len(beats) >= 2


def test_beat_that_raises_ends_the_child(child: Child) -> None:
    def stop() -> None:
        raise InterruptedError("the service stops")

    before = asked(child)["pid"]
    with pytest.raises(InterruptedError, match="the service stops"):
        child.call({"misdeed": "doze"}, LIMIT_S, stop)
    assert not psutil.pid_exists(before)
    assert asked(child)["echo"] == {"misdeed": "echo"}


def test_child_that_was_killed_between_questions_is_replaced(child: Child) -> None:
    before = asked(child)["pid"]
    os.kill(before, signal.SIGKILL)
    until_gone(before)
    assert asked(child)["pid"] != before


def test_child_is_renewed_after_its_share_of_calls() -> None:
    child = Child("unruly", memory_bytes=MEMORY_BYTES, calls=3)
    pids = [asked(child)["pid"] for _ in range(7)]
    child.close()
    assert [pids.index(pid) for pid in pids] == [0, 0, 0, 3, 3, 3, 6]


def test_closed_child_is_gone(child: Child) -> None:
    pid = asked(child)["pid"]
    child.close()
    assert not psutil.pid_exists(pid)
    child.close()


@pytest.mark.parametrize("module", ["no_such_module", "make_audio"])
def test_child_that_cannot_start_is_unavailable(module: str) -> None:
    """The first one cannot be found, the second one ends without a word."""
    child = Child(module, memory_bytes=MEMORY_BYTES)
    with pytest.raises(ChildUnavailable) as caught:
        asked(child)
    assert ("No module named" if module == "no_such_module" else "exit code 0") in str(caught.value)
    assert child.pid is None


@pytest.fixture
def freezer() -> Iterator[Path]:
    """A control group whose frozen processes cannot be killed, like those that wait for a dead disk."""
    group = Path(f"/sys/fs/cgroup/freezer/music-reclass-test-{os.getpid()}")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no freezer of the kind that withstands a kill: {error}")
    yield group
    (group / "freezer.state").write_text("THAWED", encoding="ascii")
    deadline = time.monotonic() + 10.0
    while group.exists() and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            group.rmdir()
        time.sleep(0.01)


@pytest.mark.slow
def test_child_that_cannot_be_killed_is_not_waited_for(child: Child, freezer: Path) -> None:
    """A few of them, but no more: each keeps its memory until the disk answers."""
    (freezer / "freezer.state").write_text("FROZEN", encoding="ascii")
    stuck = []
    for _ in range(4):
        stuck.append(asked(child)["pid"])
        (freezer / "cgroup.procs").write_text(str(stuck[-1]), encoding="ascii")
        started = time.monotonic()
        with pytest.raises(ChildTimeout):
            asked(child, limit_s=0.2)
        assert time.monotonic() - started < 8.0
    with pytest.raises(ChildUnavailable, match="4 earlier ones still wait"):
        asked(child)
    assert all(psutil.pid_exists(pid) for pid in stuck)
    (freezer / "freezer.state").write_text("THAWED", encoding="ascii")
    for pid in stuck:
        until_gone(pid)
    assert asked(child)["pid"] not in stuck
    assert not any(psutil.pid_exists(pid) for pid in stuck)


# Bounds


def test_child_cannot_take_more_memory_than_it_may(child: Child) -> None:
    asked(child)
    now = int(status(child)["VmData"].split()[0]) * 1024
    limits = psutil.Process(child.pid).rlimit(psutil.RLIMIT_DATA)
    assert limits[0] == limits[1]
    assert now <= limits[0] < now + 1.2 * MEMORY_BYTES


def test_child_leaves_no_core_and_is_the_first_to_go(child: Child) -> None:
    asked(child)
    assert psutil.Process(child.pid).rlimit(psutil.RLIMIT_CORE) == (0, 0)
    assert Path(f"/proc/{child.pid}/oom_score_adj").read_text(encoding="ascii").strip() == "1000"


def test_child_has_nothing_open_but_its_pipes(child: Child, tmp_path: Path) -> None:
    with open(tmp_path / "ours", "w", encoding="ascii") as file:
        os.set_inheritable(file.fileno(), True)
        asked(child)
        folder = f"/proc/{child.pid}/fd"
        targets = [os.readlink(f"{folder}/{number}") for number in os.listdir(folder)]
    assert sorted(target.split(":")[0] for target in targets) == ["/dev/null", *["pipe"] * 5]


def test_child_is_not_told_of_the_service(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    asked(child)
    names = [each.split(b"=")[0] for each in Path(f"/proc/{child.pid}/environ").read_bytes().split(b"\0")]
    assert {b"NOTIFY_SOCKET", b"WATCHDOG_USEC"}.isdisjoint(names)


def test_module_in_the_working_folder_is_not_run(child: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("unruly.py", "numpy.py", "ctypes.py"):
        (tmp_path / name).write_text("raise SystemExit('taken in')", encoding="ascii")
    monkeypatch.chdir(tmp_path)
    assert asked(child)["pid"] == child.pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_that_stops_the_service_does_not_stop_the_child(child: Child, number: signal.Signals) -> None:
    """systemd sends its SIGTERM to all processes of a service, while the daemon finishes the track in hand."""
    pid = asked(child)["pid"]
    os.kill(pid, number)
    assert asked(child)["pid"] == pid
    assert number not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


_PARENT = """
import sys
from daemon.effects.child import Child
child = Child("unruly", memory_bytes=100 << 20)
child.call({"misdeed": "echo"}, 60.0)
print(child.pid, flush=True)
child.call({"misdeed": sys.argv[1]}, 60.0)
"""


@pytest.mark.parametrize("misdeed", ["hold", "doze", "stop_short"])
def test_child_dies_with_its_parent_even_while_it_hangs(misdeed: str) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, misdeed], stdout=subprocess.PIPE, env=environment, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        hanging = psutil.Process(pid)
        parent.kill()
        parent.wait()
        until_gone(hanging.pid)


# Leaks


def test_200_calls_leave_nothing_behind(child: Child) -> None:
    def held() -> tuple[int, int, int]:
        us = psutil.Process()
        return us.num_fds(), us.num_threads(), len(us.children())

    asked(child)
    for _ in range(3):
        died(child, "leave")
        asked(child)
    before, memory = held(), psutil.Process().memory_info().rss
    for number in range(200):
        asked(child, bytes=500_000)
        if number % 50 == 0:
            with pytest.raises(ChildError):
                asked(child, "leave")
            asked(child)
    assert held() == before
    assert psutil.Process().memory_info().rss < memory + (20 << 20)
