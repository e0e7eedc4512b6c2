"""One change to one music file: intent, verified copy, rename, record; its undoing; and what a crash left open.

The only place where the ledger and the file effects meet. It never decides what is written.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import structlog

from daemon.core import audio
from daemon.core.config import HardLinks, Tagging
from daemon.core.errors import BadFile, FileTrouble, TryLater, UndoRefused
from daemon.core.ledger import Change, ChangeKind, ChangeState, FileStatus, KnownFile, Ledger
from daemon.core.records import Applied
from daemon.effects import files, scan, tags, writers

log = structlog.get_logger()


class Changer:
    """Writes genres into files and takes them back, every step recorded. One change at a time per object."""

    def __init__(self, ledger: Ledger, tagging: Tagging) -> None:
        """Record in `ledger`; write as `tagging` says."""
        self._ledger = ledger
        self._tagging = tagging
        rewrite = tagging.hard_links is HardLinks.REWRITE
        self._hard_links = files.HardLinks.SPLIT if rewrite else files.HardLinks.REFUSE

    def write_genres(
        self, path: Path, audio_id: str, before: Sequence[str], after: Sequence[str], bundle: str | None
    ) -> Applied:
        """The file at `path` carries exactly the genres `after`, everything else in it is as it was.

        Raises:
            BadFile, TryLater: the file is as it was, byte for byte.
        """
        separator = self._tagging.id3_v23_separator

        def edit(copy: Path) -> None:
            tags.write_genres(copy, after, id3_v23_separator=separator)

        def verify(original: Path, copy: Path) -> None:
            _verify(original, copy, audio_id, before, after, separator)

        number = self._ledger.intend(audio_id, path, ChangeKind.TAG, before=before, after=after, bundle=bundle)
        staged = self._record_staging(number, lambda: self._stage(path, edit, verify))
        self._commit(number, staged, audio_id, tuple(after), FileStatus.TAGGED)
        return Applied(path, number, tuple(before), tuple(after))

    def _stage(self, path: Path, edit: files.Edit, verify: files.Verify) -> files.Staged:
        _check_writers(path)
        return files.stage(
            path,
            edit,
            verify,
            mtime=files.Mtime.KEEP if self._tagging.keep_mtime else files.Mtime.NOW,
            hard_links=self._hard_links,
        )

    def undo(self, number: int) -> Applied:
        """The change's file is again what it was before it, byte for byte; this is a change that can be undone too.

        Raises:
            UndoRefused: there is no such change, it is undone already, or the file was changed since.
            BadFile, TryLater: the file is as it was.
        """
        change = self._ledger.change(number)
        if change is None:
            raise UndoRefused(f"change {number}: there is no such change")
        if not change.undoable:
            raise UndoRefused(f"change {number} of {change.path}: is {change.state.replace('_', ' ')}")
        path = self._present_path(change)
        undoing = self._ledger.intend(
            change.audio_id,
            path,
            ChangeKind.UNDO,
            before=change.genres_after,
            after=change.genres_before,
            undoes=number,
        )
        staged = self._record_staging(undoing, lambda: _stage_undo(path, change, self._hard_links))
        self._commit(undoing, staged, change.audio_id, change.genres_before, FileStatus.UNCHANGED)
        return Applied(path, undoing, change.genres_after, change.genres_before)

    def _present_path(self, change: Change) -> Path:
        """Where the change's file is now; the owner may have moved it."""
        elsewhere = [known.path for known in self._ledger.known_by_sound(change.audio_id)]
        reason = "the file is gone"
        for path in dict.fromkeys((change.path, *elsewhere)):
            if scan.state_of(path) is None:
                continue
            if files.sha256_of(path) == change.sha256_after:
                return path
            reason = "the file was changed since, and taking this change back would lose that"
        raise UndoRefused(f"change {change.number} of {change.path}: {reason}")

    def _record_staging(self, number: int, staging: Callable[[], files.Staged]) -> files.Staged:
        try:
            staged = staging()
        except Exception:
            self._ledger.close_change(number, ChangeState.ROLLED_BACK)
            raise
        self._ledger.staged(
            number,
            temporary=staged.temporary,
            sha256_before=staged.before_sha256,
            sha256_after=staged.after_sha256,
            mtime_ns_before=staged.before_state.mtime_ns,
            patch=staged.patch,
        )
        return staged

    def _commit(
        self, number: int, staged: files.Staged, audio_id: str, genres: tuple[str, ...], status: FileStatus
    ) -> None:
        try:
            # Once more: a player may have opened the file while the copy was made, and would write into the old one.
            _check_writers(staged.path)
            state = files.commit(staged)
        except Exception:
            files.discard(staged)
            # Only the very last step, getting the folder to disk, can fail with the new version in place.
            if scan.state_of(staged.path) != staged.after_state:
                self._ledger.close_change(number, ChangeState.ROLLED_BACK)
                raise
            state = staged.after_state
            log.warning("folder_not_synced", path=staged.path, change=number)
        with self._ledger.transaction():
            self._ledger.close_change(number, ChangeState.DONE)
            self._ledger.remember(KnownFile(staged.path, audio_id, state, genres, status, ""))
        if not staged.owner_kept:
            log.warning("owner_not_kept", path=staged.path, change=number)

    def recover(self) -> int:
        """Settle every change that a crash left open: finished if the new content is in place, else rolled back.

        One whose folder is not there (an unmounted volume) stays open until it is. Returns how many were settled. Call
        it only while no other process is writing (see `WriterLock`).
        """
        found = [change for change in self._ledger.open_changes() if change.path.parent.is_dir()]
        for change in found:
            files.sweep(change.path.parent, older_than_s=0.0)
            state = scan.state_of(change.path)
            arrived = state is not None and change.sha256_after is not None and _sha256(change) == change.sha256_after
            if arrived and state is not None:
                status = FileStatus.TAGGED if change.kind is ChangeKind.TAG else FileStatus.UNCHANGED
                with self._ledger.transaction():
                    self._ledger.close_change(change.number, ChangeState.DONE)
                    self._ledger.remember(
                        KnownFile(change.path, change.audio_id, state, change.genres_after, status, "")
                    )
            else:
                self._ledger.close_change(change.number, ChangeState.ROLLED_BACK)
            log.warning("change_recovered", path=change.path, change=change.number, finished=arrived)
        return len(found)


class WriterLock:
    """Held shared by every process that writes music files; whoever gets it alone may clean up after a crash."""

    def __init__(self, state_directory: Path) -> None:
        """Open the lock file, without waiting for anybody."""
        state_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file: IO[bytes] = open(state_directory / "writers.lock", "ab")  # noqa: SIM115 - held until close

    def alone(self) -> bool:
        """Take the lock for this process alone, if no other holds it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def share(self) -> None:
        """Hold the lock together with other writers; waits while one of them cleans up."""
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def close(self) -> None:
        """Let go."""
        self._file.close()


def _verify(
    original: Path, copy: Path, audio_id: str, expected: Sequence[str], genres: Sequence[str], separator: str
) -> None:
    before = tags.read(original, id3_v23_separator=separator)
    after = tags.read(copy, id3_v23_separator=separator)
    if before.genres != tuple(expected):
        # The owner was faster: what they wrote while the track was being heard must not be overwritten.
        raise TryLater(original, f"its genre was changed meanwhile, to {list(before.genres)}")
    if after.genres != tuple(genres):
        raise BadFile(original, f"its tags cannot hold the genre: {list(genres)} reads back as {list(after.genres)}")
    if changed := before.changed_beside(after):
        raise BadFile(original, f"writing the genre would change other tags: {', '.join(changed)}")
    if audio.audio_id(copy) != audio_id:
        raise BadFile(original, "writing the genre would change the sound")


def _stage_undo(path: Path, change: Change, hard_links: files.HardLinks) -> files.Staged:
    if change.patch is None or change.sha256_before is None or change.sha256_after is None:
        raise UndoRefused(f"change {change.number} of {path}: its record holds no way back")
    _check_writers(path)
    return files.stage_restore(
        path,
        change.patch,
        after_sha256=change.sha256_after,
        before_sha256=change.sha256_before,
        mtime_ns=change.mtime_ns_before,
        hard_links=hard_links,
    )


def _check_writers(path: Path) -> None:
    if writers.writers_of(path) is writers.Writers.SOME:
        raise TryLater(path, "another program has it open for writing")


def _sha256(change: Change) -> str | None:
    try:
        return files.sha256_of(change.path)
    except (FileTrouble, OSError):
        return None
