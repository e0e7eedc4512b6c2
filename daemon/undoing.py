"""Takes changes back, of bytes and of places alike, and settles at start what a crash left open.

Changes that belong together (a genre and the move that followed it) are taken back together, and so is their undoing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import structlog

from daemon.change import Changer
from daemon.core.errors import FileTrouble, UndoRefused
from daemon.core.ledger import Change, ChangeState, Ledger
from daemon.core.records import Applied, Moved
from daemon.effects import scan
from daemon.moving import Mover

log = structlog.get_logger()


class Undoer:
    """Undoes changes by number or by act. An undone change can be brought back by undoing its undoing."""

    def __init__(self, ledger: Ledger, changer: Changer, mover: Mover) -> None:
        """Take back what `changer` and `mover` did."""
        self._ledger = ledger
        self._changer = changer
        self._mover = mover
        # Undone one by one, as by `undo --since`, what belonged together still belongs together afterwards.
        self._acts: dict[int, int] = {}

    def undo(self, number: int, at: Path | None = None) -> Applied | Moved:
        """Take back one change; of several copies of its file the one at `at` is meant.

        Raises:
            UndoRefused: there is no such change, it is undone already, or the file was changed or moved since.
            BadFile, TryLater: everything is as it was.
        """
        change = self._ledger.change(number)
        if change is None:
            raise UndoRefused(f"change {number}: there is no such change")
        if not change.undoable:
            raise UndoRefused(f"change {number} of {change.path}: is {change.state.replace('_', ' ')}")
        done = self._take_back(change, self._acts.get(change.act), at)
        self._acts.setdefault(change.act, done.change)
        return done

    def _take_back(self, change: Change, act: int | None, at: Path | None = None) -> Applied | Moved:
        return self._mover.undo(change, act) if change.moves else self._changer.undo(change, act, at)

    def undo_act(self, act: int, at: Path | None = None) -> list[Applied | Moved]:
        """Take back every change of one act, as `undo_together`."""
        changes = [change.number for change in self._ledger.changes_of_act(act) if change.undoable]
        if not changes:
            raise UndoRefused(f"change {act}: there is nothing of it to take back")
        return self.undo_together(changes, at)

    def undo_together(self, numbers: Iterable[int], at: Path | None = None) -> list[Applied | Moved]:
        """Take back these changes, the last one first; where one cannot be taken back, none is.

        Raises:
            UndoRefused, BadFile, TryLater: as `undo`; everything is as it was.
        """
        changes = [change for number in sorted(numbers, reverse=True) if (change := self._ledger.change(number))]
        for change in changes:
            if change.moves:
                self._mover.check(change)
            else:
                self._changer.check(change, at)
        done: list[tuple[Change, Applied | Moved]] = []
        try:
            for change in changes:
                # What a move brought back is no longer where the owner named it.
                done.append((change, self.undo(change.number, at if not done else None)))
        except BaseException:
            for change, undone in reversed(done):
                self._acts.pop(change.act, None)
                again = self._ledger.change(undone.change)
                try:
                    if again is not None:
                        self._take_back(again, change.act)
                except (UndoRefused, FileTrouble) as trouble:
                    log.error("undone_in_part", path=undone.path, change=undone.change, reason=str(trouble))
            raise
        return [undone for _, undone in done]

    def by_act(self, changes: Iterable[Change]) -> list[list[int]]:
        """The numbers of `changes`, those together that belong together, in the order of their first."""
        groups: dict[int, dict[int, None]] = {}
        for change in changes:
            groups.setdefault(change.act, {})[change.number] = None
        return [list(numbers) for numbers in groups.values()]

    def recover(self) -> int:
        """Settle every change that a crash left open: finished if the new state is in place, else rolled back.

        One whose folder is not there (an unmounted volume), or whose disk fails, stays open until the next time.
        Returns how many were settled. Call it only while no other process is writing (see `change.WriterLock`).
        """
        settled = 0
        # What is staged first: settling an intent sweeps away the copies that nobody has a record of.
        found = sorted(self._ledger.open_changes(), key=lambda change: change.state is ChangeState.INTENT)
        for change in filter(_reachable, found):
            try:
                finished = self._mover.settle(change) if change.moves else self._changer.settle(change)
            except (FileTrouble, OSError) as trouble:
                log.error("change_left_open", path=change.path, change=change.number, reason=str(trouble))
                continue
            settled += 1
            log.warning("change_recovered", path=change.path, change=change.number, finished=finished)
        return settled


def _reachable(change: Change) -> bool:
    """Whether its volume is mounted. A move may have taken its emptied folder away before the crash."""
    return scan.is_inhabited(change.path.parent) or scan.is_inhabited(change.place_after.parent)
