"""Takes changes back, of bytes and of places alike, and settles at start what a crash left open.

Changes that belong together (a genre and the move that followed it) are taken back together, and so is their undoing.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from daemon.change import Changer
from daemon.core.errors import FileTrouble, UndoRefused
from daemon.core.ledger import Change, ChangeState, Ledger
from daemon.core.records import Applied, Moved
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

    def undo(self, number: int) -> Applied | Moved:
        """Take back one change.

        Raises:
            UndoRefused: there is no such change, it is undone already, or the file was changed or moved since.
            BadFile, TryLater: everything is as it was.
        """
        change = self._ledger.change(number)
        if change is None:
            raise UndoRefused(f"change {number}: there is no such change")
        if not change.undoable:
            raise UndoRefused(f"change {number} of {change.path}: is {change.state.replace('_', ' ')}")
        act = self._acts.get(change.act)
        done = self._mover.undo(change, act) if change.moves else self._changer.undo(change, act)
        self._acts.setdefault(change.act, done.change)
        return done

    def undo_act(self, act: int) -> list[Applied | Moved]:
        """Take back every change of one act, the last one first; where one cannot be, none is.

        Raises:
            UndoRefused, BadFile, TryLater: as `undo`.
        """
        changes = self.of_act(act)
        if not changes:
            raise UndoRefused(f"change {act}: there is nothing of it to take back")
        for change in changes:
            if change.moves:
                self._mover.check(change)
            else:
                self._changer.check(change)
        return [self.undo(change.number) for change in changes]

    def of_act(self, act: int) -> Sequence[Change]:
        """What is in place of one act, the last change first."""
        return [change for change in reversed(self._ledger.changes_of_act(act)) if change.undoable]

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
            except FileTrouble as trouble:
                log.error("change_left_open", path=trouble.path, change=change.number, reason=trouble.reason)
                continue
            settled += 1
            log.warning("change_recovered", path=change.path, change=change.number, finished=finished)
        return settled


def _reachable(change: Change) -> bool:
    # A move may have taken its emptied folder away before the crash.
    return change.path.parent.is_dir() or change.place_after.parent.is_dir()
