"""One change to the bytes of one music file: intent, verified copy, rename, record; its undoing; what a crash left.

Beside `moving` the only place where the ledger and the file effects meet. It never decides what is written.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

import structlog

from daemon.core.config import ForeignOwner, HardLinks, ReadOnly, Tagging
from daemon.core.errors import BadFile, FileTrouble, TryLater, UndoRefused
from daemon.core.ledger import Change, ChangeKind, ChangeState, FileStatus, Filing, KnownFile, Ledger
from daemon.core.records import Applied
from daemon.effects import files, scan, writers
from daemon.reading import Reader

log = structlog.get_logger()


class Changer:
    """Writes genres into files and takes them back, every step recorded. One change at a time per object."""

    def __init__(self, ledger: Ledger, tagging: Tagging, reader: Reader) -> None:
        """Record in `ledger`; write as `tagging` says, by way of `reader`."""
        self._ledger = ledger
        self._tagging = tagging
        self._reader = reader
        rewrite = tagging.hard_links is HardLinks.REWRITE
        self._hard_links = files.HardLinks.SPLIT if rewrite else files.HardLinks.REFUSE

    def write_genres(
        self,
        path: Path,
        audio_id: str,
        before: Sequence[str],
        after: Sequence[str],
        bundle: str | None,
        filing: Filing | None = None,
    ) -> Applied:
        """The file at `path` carries exactly the genres `after`, everything else in it is as it was.

        `filing` is asked for together with the change, and is not where the change fails.

        Raises:
            BadFile, TryLater: the file is as it was, byte for byte.
        """
        separator = self._tagging.id3_v23_separator

        def edit(copy: Path) -> None:
            self._reader.write_genres(copy, after, separator)

        def verify(original: Path, copy: Path) -> None:
            self._verify(original, copy, audio_id, before, after)

        number = self._ledger.intend(audio_id, path, ChangeKind.TAG, before=before, after=after, bundle=bundle)
        staged = self._record_staging(number, lambda: self._stage(path, edit, verify), filing)
        self._commit(number, staged, audio_id, tuple(after), FileStatus.TAGGED)
        return Applied(path, number, tuple(before), tuple(after))

    def _verify(
        self, original: Path, copy: Path, audio_id: str, expected: Sequence[str], genres: Sequence[str]
    ) -> None:
        before = self._reader.tags(original, self._tagging.id3_v23_separator)
        after = self._reader.tags(copy, self._tagging.id3_v23_separator)
        if before.genres != tuple(expected):
            # The owner was faster: what they wrote while the track was being heard must not be overwritten.
            raise TryLater(original, f"its genre was changed meanwhile, to {list(before.genres)}")
        if after.genres != tuple(genres):
            raise BadFile(
                original, f"its tags cannot hold the genre: {list(genres)} reads back as {list(after.genres)}"
            )
        if changed := before.changed_beside(after):
            raise BadFile(original, f"writing the genre would change other tags: {', '.join(changed)}")
        if self._reader.audio_id(copy) != audio_id:
            raise BadFile(original, "writing the genre would change the sound")

    def _stage(self, path: Path, edit: files.Edit, verify: files.Verify) -> files.Staged:
        self._check_allowed(path)
        staged = files.stage(
            path,
            edit,
            verify,
            mtime=files.Mtime.KEEP if self._tagging.keep_mtime else files.Mtime.NOW,
            hard_links=self._hard_links,
        )
        return self._owner_checked(staged)

    def _check_allowed(self, path: Path) -> None:
        _check_writers(path)
        protected = self._tagging.read_only is ReadOnly.PARK
        status = os.lstat(path) if os.path.lexists(path) else None
        if protected and status is not None and stat.S_ISREG(status.st_mode) and not status.st_mode & 0o222:
            raise BadFile(path, "is protected from writing by its mode (tagging.read_only: write would write it)")

    def _owner_checked(self, staged: files.Staged) -> files.Staged:
        if not staged.owner_kept and self._tagging.foreign_owner is ForeignOwner.PARK:
            files.discard(staged)
            raise BadFile(
                staged.path,
                "belongs to another user, and would belong to this one afterwards: run the daemon as the owner of the"
                " music (tagging.foreign_owner: take would take it over)",
            )
        return staged

    def undo(self, change: Change, act: int | None = None) -> Applied:
        """The change's file is again what it was before it, byte for byte; this is a change that can be undone too.

        Raises:
            UndoRefused: see `check`.
            BadFile, TryLater: the file is as it was.
        """
        path = self.check(change)
        origin = self._ledger.change(change.undoes) if change.undoes is not None else None
        undoing = self._ledger.intend(
            change.audio_id,
            path,
            ChangeKind.UNDO,
            before=change.genres_after,
            after=change.genres_before,
            undoes=change.number,
            # Taking back an undoing brings back what a bundle decided, so that `undo --model` finds it again.
            bundle=origin.bundle if origin is not None else None,
            act=act,
        )
        staged = self._record_staging(
            undoing, lambda: self._owner_checked(_stage_undo(path, change, self._hard_links)), None
        )
        self._commit(undoing, staged, change.audio_id, change.genres_before, FileStatus.UNCHANGED)
        return Applied(path, undoing, change.genres_after, change.genres_before)

    def check(self, change: Change) -> Path:
        """Where the change's file is now, if the change can be taken back; the owner may have moved it.

        Raises:
            UndoRefused: the file is gone or was changed since, or the record holds no way back.
        """
        if change.patch is None or change.sha256_before is None or change.sha256_after is None:
            raise UndoRefused(f"change {change.number} of {change.path}: its record holds no way back")
        elsewhere = [known.path for known in self._ledger.known_by_sound(change.audio_id)]
        reason = "the file is gone"
        for path in dict.fromkeys((change.path, *elsewhere)):
            if scan.state_of(path) is None:
                continue
            if files.sha256_of(path) == change.sha256_after:
                return path
            reason = "the file was changed since, and taking this change back would lose that"
        raise UndoRefused(f"change {change.number} of {change.path}: {reason}")

    def _record_staging(self, number: int, staging: Callable[[], files.Staged], filing: Filing | None) -> files.Staged:
        try:
            staged = staging()
        except Exception:
            self._ledger.close_change(number, ChangeState.ROLLED_BACK)
            raise
        with self._ledger.transaction():
            self._ledger.staged(
                number,
                temporary=staged.temporary,
                sha256_before=staged.before_sha256,
                sha256_after=staged.after_sha256,
                mtime_ns_before=staged.before_state.mtime_ns,
                patch=staged.patch,
            )
            if filing is not None:
                self._ledger.ask_filing(replace(filing, act=number))
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
            found = scan.state_of(staged.path)
            if found is None or not found.same_content(staged.after_state):
                self._roll_back(number, staged.path)
                raise
            state = found
            log.warning("folder_not_synced", path=staged.path, change=number)
        with self._ledger.transaction():
            self._ledger.close_change(number, ChangeState.DONE)
            self._ledger.remember(KnownFile(staged.path, audio_id, state, genres, status, ""))
        if not staged.owner_kept:
            log.warning("owner_not_kept", path=staged.path, change=number)

    def _roll_back(self, number: int, path: Path) -> None:
        with self._ledger.transaction():
            self._ledger.close_change(number, ChangeState.ROLLED_BACK)
            self._ledger.drop_filing(path)

    def settle(self, change: Change) -> bool:
        """Finish a change that a crash left open if the new content is in place, else roll it back; whether it was."""
        files.sweep(change.path.parent)
        state = scan.state_of(change.path)
        if state is None or change.sha256_after is None or _sha256(change) != change.sha256_after:
            self._roll_back(change.number, change.path)
            return False
        status = FileStatus.TAGGED if change.kind is ChangeKind.TAG else FileStatus.UNCHANGED
        with self._ledger.transaction():
            self._ledger.close_change(change.number, ChangeState.DONE)
            self._ledger.remember(KnownFile(change.path, change.audio_id, state, change.genres_after, status, ""))
        return True


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


def _stage_undo(path: Path, change: Change, hard_links: files.HardLinks) -> files.Staged:
    assert change.patch and change.sha256_before and change.sha256_after, "`check` was asked before"
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
