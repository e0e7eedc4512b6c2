"""From touched paths to the queue: nothing that was touched is dropped on the way, however much comes at once."""

from __future__ import annotations

import time
from pathlib import Path

from daemon import intake
from daemon.core.config import Root, Settle
from daemon.core.ledger import Ledger
from daemon.effects.queue import Queue

DEADLINE_S = 60.0


def test_a_burst_larger_than_one_step_takes_loses_no_file(tmp_path: Path) -> None:
    music = tmp_path / "music"
    music.mkdir()
    paths = {music / f"{number}.flac" for number in range(2 * intake._BURST + 5)}
    ledger, queue = Ledger(tmp_path / "ledger.db"), Queue(tmp_path / "queue.db")
    settling = intake.Intake(ledger, queue, [Root(path=music)], Settle(quiet_s=0.01))
    for path in paths:
        path.touch()
        settling.touch(path)
    deadline = time.monotonic() + DEADLINE_S
    while settling.settling and time.monotonic() < deadline:
        settling.step(0.1)
    assert set(queue.states()) == paths
    queue.close()
    ledger.close()
