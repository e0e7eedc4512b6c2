"""One move of one music file with what belongs to it: intent, move, record; its way back; and what a crash left open.

Beside `change` the only place where the ledger and the file effects meet. It never decides where a file belongs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from daemon.core.errors import FileTrouble, TryLater, UndoRefused
from daemon.core.ledger import Change, ChangeKind, ChangeState, FileStatus, Journey, KnownFile, Ledger
from daemon.core.records import FileState, Moved
from daemon.effects import files, scan, writers

log = structlog.get_logger()

Companions = Sequence[tuple[Path, Path]]


class Mover:
    """Moves files within their root and back, every step recorded."""

    def __init__(self, ledger: Ledger) -> None:
        """Record in `ledger`."""
        self._ledger = ledger

    def move(self, known: KnownFile, target: Path, root: Path, companions: Companions, act: int | None) -> Moved:
        """The file of `known` stands at `target`, its companions beside it; folders that this emptied are left as is.

        A companion that cannot come along stays where it is, and that is logged. `act` is the change that this move
        follows.

        Raises:
            BadFile, TryLater: everything is where it was.
        """
        number = self._ledger.intend(
            known.audio_id or "",
            known.path,
            ChangeKind.MOVE,
            before=known.genres,
            after=known.genres,
            target=target,
            act=act,
        )
        return self._carry(number, known, target, root, companions)

    def undo(self, change: Change, act: int | None) -> Moved:
        """The file of a move is where it was before it, its companions too, and folders made for it are gone.

        Raises:
            UndoRefused: see `check`.
            BadFile, TryLater: everything is where it was.
        """
        self.check(change)
        here, there = change.place_after, change.path
        kind = ChangeKind.MOVE_BACK if change.kind is ChangeKind.MOVE else ChangeKind.MOVE
        number = self._ledger.intend(
            change.audio_id,
            here,
            kind,
            before=change.genres_before,
            after=change.genres_after,
            undoes=change.number,
            target=there,
            act=act,
        )
        journey = self._ledger.journey(change.number)
        back = [(target, source) for source, target in journey.companions if scan.state_of(target) is not None]
        known = self._ledger.known(here)
        assert known is not None, "`check` has seen it"
        moved = self._carry(number, known, there, Path(os.path.commonpath([here, there])), back)
        # Also those made for another file that has gone back by now.
        ours = [folder for folder in here.parents if self._ledger.made_folder(folder)]
        files.remove_made([*journey.made, *ours])
        return moved

    def check(self, change: Change) -> None:
        """Whether a move can be taken back now.

        Raises:
            UndoRefused: the file is no longer where the move put it, was changed since and not looked at yet, or
                something else has taken its old place.
        """
        state, known = scan.state_of(change.place_after), self._ledger.known(change.place_after)
        if state is None:
            raise UndoRefused(f"change {change.number} of {change.place_after}: the file is no longer there")
        if known is None or known.audio_id != change.audio_id:
            raise UndoRefused(f"change {change.number} of {change.place_after}: another track has taken its place")
        if not known.state.same_content(state):
            raise UndoRefused(f"change {change.number} of {change.place_after}: the file was changed since")
        if os.path.lexists(change.path) and not _same_file(change.path, change.place_after):
            raise UndoRefused(f"change {change.number} of {change.path}: something else stands there now")

    def _carry(self, number: int, known: KnownFile, target: Path, root: Path, companions: Companions) -> Moved:
        try:
            staged = _staged(known, target, root)
        except Exception:
            self._ledger.close_change(number, ChangeState.ROLLED_BACK)
            raise
        journey = Journey(tuple(companions), staged.made_folders)
        try:
            self._ledger.staged_move(number, temporary=staged.temporary, sha256=staged.sha256, journey=journey)
        except BaseException:
            files.discard_move(staged)
            raise
        try:
            state = files.commit_move(staged)
        except Exception:
            files.discard_move(staged)
            if not _arrived(known.path, target, known.state):
                self._ledger.close_change(number, ChangeState.ROLLED_BACK)
                raise
            state = FileState.of(os.lstat(target))
            log.warning("folder_not_synced", path=target, change=number)
        if not staged.owner_kept:
            log.warning("owner_not_kept", path=target, change=number)
        if staged.state != known.state:
            # Only its change time had moved: what else had, is seen at the next look.
            state = replace(state, ctime_ns=0)
        self._arrive(number, known, target, state, root, companions)
        return Moved(target, number, known.path)

    def _arrive(
        self, number: int, known: KnownFile, target: Path, state: FileState, root: Path, companions: Companions
    ) -> None:
        """The file stands at its target: bring what belongs to it, and close the record."""
        for source, destination in companions:
            self._bring(number, source, destination, root)
        with self._ledger.transaction():
            self._ledger.close_change(number, ChangeState.DONE)
            self._ledger.remember(replace(known, path=target, state=state))
            self._ledger.forget(known.path)
            self._ledger.drop_filing(known.path)

    def _bring(self, number: int, source: Path, target: Path, root: Path) -> None:
        try:
            staged = files.stage_move(source, target, within=root)
            try:
                files.commit_move(staged)
            except BaseException:
                files.discard_move(staged)
                raise
        except FileTrouble as trouble:
            if scan.state_of(source) is None and scan.state_of(target) is not None:
                return  # a crash came after this one
            self._ledger.stayed_behind(number, source)
            log.warning("companion_left", path=source, reason=trouble.reason, change=number)

    def settle(self, change: Change) -> bool:
        """Finish or roll back a move that a crash left open; whether it was finished."""
        journey = self._ledger.journey(change.number)
        target = change.place_after
        if change.state is ChangeState.INTENT:
            # The copy for another device, of which nothing is on record yet, lies on the way to the target.
            files.sweep(scan.nearest_folder(target))
        finished = files.settle_move(
            change.path,
            target,
            temporary=change.temporary,
            sha256=change.sha256_after,
            made_folders=journey.made,
        )
        state = scan.state_of(target)
        if not finished or state is None:
            self._ledger.close_change(change.number, ChangeState.ROLLED_BACK)
            return False
        files.sweep(target.parent)
        for source, destination in journey.companions:
            _settle_companion(source, destination)
        known = self._ledger.known(change.path) or _unseen(change, change.path)
        root = Path(os.path.commonpath([change.path, target]))
        # Whoever was faster than this start may have changed it: it is looked at once more.
        self._arrive(change.number, known, target, replace(state, ctime_ns=0), root, journey.companions)
        return True


def _staged(known: KnownFile, target: Path, root: Path) -> files.StagedMove:
    writers.refuse_if_written(known.path)
    staged = files.stage_move(known.path, target, within=root)
    if not staged.state.same_content(known.state):
        # The owner was faster: the record must not take their file for the one that it knows.
        files.discard_move(staged)
        raise TryLater(known.path, "was changed, and has to be looked at first")
    return staged


def _arrived(source: Path, target: Path, before: FileState) -> bool:
    """Whether a move that raised had happened all the same: only getting the folders to disk can fail so late."""
    state = scan.state_of(target)
    return scan.state_of(source) is None and state is not None and state.size == before.size


def _settle_companion(source: Path, target: Path) -> None:
    """One that was on its way to another device may be at both places now."""
    with contextlib.suppress(FileTrouble):
        if scan.state_of(source) is not None:
            sha256 = files.sha256_of(source)
            files.settle_move(source, target, temporary=None, sha256=sha256, made_folders=())


def _same_file(one: Path, other: Path) -> bool:
    try:
        return os.path.samestat(os.lstat(one), os.lstat(other))
    except OSError:
        return False


def _unseen(change: Change, path: Path) -> KnownFile:
    """What can be said of the file at `path` (it may have left already) where only its change is on record."""
    state = scan.state_of(path) or FileState(0, 0, 0)
    return KnownFile(path, change.audio_id, state, change.genres_after, FileStatus.UNCHANGED, "")
