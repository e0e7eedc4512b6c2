"""From touched paths to the queue: nothing that was touched is dropped on the way, however much comes at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon import intake
from daemon.core.config import Root, Settle
from daemon.core.ledger import Ledger
from daemon.effects.queue import Queue

DEADLINE_S = 60.0


@pytest.fixture
def music(tmp_path: Path) -> Path:
    music = tmp_path / "music"
    music.mkdir()
    return music


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    queue = Queue(tmp_path / "queue.db")
    yield queue
    queue.close()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger.db")
    yield ledger
    ledger.close()


@pytest.fixture
def settling(music: Path, ledger: Ledger, queue: Queue) -> intake.Intake:
    return intake.Intake(ledger, queue, [Root(path=music)], Settle(quiet_s=0.01))


def settle_all(settling: intake.Intake) -> int:
    """Step until nothing is left to settle; how many steps that took."""
    steps, deadline = 0, time.monotonic() + DEADLINE_S
    while settling.settling:
        assert time.monotonic() < deadline, f"{settling.settling} files never settled"
        settling.step(0.1)
        steps += 1
    return steps


def always() -> bool:
    return True


def named(events: list[Any], name: str) -> list[Any]:
    return [event for event in events if event["event"] == name]


def test_a_burst_larger_than_one_step_takes_loses_no_file(settling: intake.Intake, music: Path, queue: Queue) -> None:
    paths = {music / f"{number}.flac" for number in range(2 * intake._BURST + 5)}
    for path in paths:
        path.touch()
        settling.touch(path)
    settle_all(settling)
    assert set(queue.states()) == paths


def test_a_path_touched_many_times_at_once_is_looked_at_once(settling: intake.Intake, music: Path) -> None:
    song = music / "song.mp3"
    song.touch()
    for _ in range(100):
        settling.touch(song)
    assert settling._take_touched(0.0) == [song]


def test_a_waiting_step_can_be_woken(settling: intake.Intake) -> None:
    settling.wake()
    started = time.monotonic()
    assert settling.step(DEADLINE_S) == 0
    assert time.monotonic() - started < DEADLINE_S / 2


def test_what_nobody_touched_is_found_by_a_rescan(settling: intake.Intake, music: Path, queue: Queue) -> None:
    (music / "cd").mkdir()
    for name in ("cd/1.mp3", "2.mp3", "cover.jpg", ".hidden.mp3"):
        (music / name).touch()
    settling.rescan(always)
    settle_all(settling)
    assert set(queue.states()) == {music / "cd" / "1.mp3", music / "2.mp3"}


def test_what_waits_in_the_queue_already_is_not_found_again(settling: intake.Intake, music: Path, queue: Queue) -> None:
    (music / "song.mp3").touch()
    settling.rescan(always)
    settle_all(settling)
    settling.rescan(always)
    assert settling.settling == 0


def test_rescan_upon_rescan_does_not_keep_a_file_from_settling(music: Path, ledger: Ledger, queue: Queue) -> None:
    """As in a burst that overflows again and again: each walk meets the files that have yet to settle."""
    settling = intake.Intake(ledger, queue, [Root(path=music)], Settle(quiet_s=0.2))
    (music / "song.mp3").touch()
    started = time.monotonic()
    while not len(queue):
        assert time.monotonic() - started < DEADLINE_S, "it never settled"
        settling.rescan(always)
        settling.step(0.01)


def test_a_rescan_can_be_broken_off(settling: intake.Intake, music: Path) -> None:
    for number in range(10):
        (music / f"{number}.mp3").touch()
    settling.rescan(lambda: False)
    assert settling.settling == 1


def test_a_missing_root_does_not_keep_a_rescan_from_the_others(
    music: Path, ledger: Ledger, queue: Queue, events: list[Any]
) -> None:
    (music / "song.mp3").touch()
    roots = [Root(path=music / "gone"), Root(path=music)]
    settling = intake.Intake(ledger, queue, roots, Settle(quiet_s=0.01))
    settling.rescan(always)
    settle_all(settling)
    assert set(queue.states()) == {music / "song.mp3"}
    (event,) = named(events, "root_unavailable")
    assert event["root"] == music / "gone"


def test_links_are_told_of_once_for_all_and_again_only_when_there_are_others(
    settling: intake.Intake, music: Path, events: list[Any]
) -> None:
    for number in range(10):
        (music / f"{number}.mp3").symlink_to("/bin/sh")
    for _ in range(2):
        settling.rescan(always)
    first, second = named(events, "links_passed_over")
    assert (first["root"], first["count"]) == (music, 10)
    assert first["paths"] == [music / f"{number}.mp3" for number in range(5)]
    assert (first["log_level"], second["log_level"]) == ("info", "debug")
    (music / "10.mp3").symlink_to("/bin/sh")
    settling.rescan(always)
    assert named(events, "links_passed_over")[-1]["log_level"] == "info"


def test_a_library_without_links_is_not_told_of(settling: intake.Intake, music: Path, events: list[Any]) -> None:
    (music / "song.mp3").touch()
    settling.rescan(always)
    assert named(events, "links_passed_over") == named(events, "folders_unreadable") == []


def test_other_limits_hold_from_the_next_step_on(music: Path, ledger: Ledger, queue: Queue) -> None:
    settling = intake.Intake(ledger, queue, [Root(path=music)], Settle(quiet_s=500.0))
    (music / "song.mp3").touch()
    settling.touch(music / "song.mp3")
    settling.step(0.0)
    assert len(queue) == 0
    settling.set([Root(path=music)], Settle(quiet_s=0.01))
    settle_all(settling)
    assert len(queue) == 1
