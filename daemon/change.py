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
from daemon.core.errors import BadFile, TryLater, UndoRefused, from_os_error
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
        writers.refuse_if_written(path)
        if self._tagging.read_only is not ReadOnly.PARK:
            return
        try:
            status = os.lstat(path)
        except OSError as error:
            raise from_os_error(path, error) from error
        if stat.S_ISREG(status.st_mode) and not status.st_mode & 0o222:
            raise BadFile(path, "is protected from writing by its mode (tagging.read_only)")

    def _owner_checked(self, staged: files.Staged) -> files.Staged:
        if not staged.owner_kept and self._tagging.foreign_owner is ForeignOwner.PARK:
            files.discard(staged)
            raise BadFile(
                staged.path,
                "belongs to another user, and would belong to this one afterwards: run the daemon as the owner of the"
                " music (tagging.foreign_owner: take would take it over)",
            )
        return staged

    def undo(self, change: Change, act: int | None = None, at: Path | None = None) -> Applied:
        """The change's file is again what it was before it, byte for byte; this is a change that can be undone too.

        A move that was still to follow is off. `at` is where the file is meant to be.

        Raises:
            UndoRefused: see `check`.
            BadFile, TryLater: the file is as it was.
        """
        path = self.check(change, at)
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

    def check(self, change: Change, at: Path | None = None) -> Path:
        """Where the change's file is now, if the change can be taken back; the owner may have moved it.

        Of several copies the one at `at` is meant, else the one that was changed.

        Raises:
            UndoRefused: the file is gone or was changed since, or the record holds no way back.
        """
        if change.patch is None or change.sha256_before is None or change.sha256_after is None:
            raise UndoRefused(f"change {change.number} of {change.path}: its record holds no way back")
        elsewhere = [known.path for known in self._ledger.known_by_sound(change.audio_id)]
        reason = "the file is gone"
        for path in dict.fromkeys(filter(None, (at, change.path, *elsewhere))):
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
        try:
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
        except BaseException:
            files.discard(staged)
            raise
        return staged

    def _commit(
        self, number: int, staged: files.Staged, audio_id: str, genres: tuple[str, ...], status: FileStatus
    ) -> None:
        try:
            # Once more: a player may have opened the file while the copy was made, and would write into the old one.
            writers.refuse_if_written(staged.path)
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
            if status is not FileStatus.TAGGED:
                self._ledger.drop_filing(staged.path)
        if not staged.owner_kept:
            log.warning("owner_not_kept", path=staged.path, change=number)

    def _roll_back(self, number: int, path: Path) -> None:
        with self._ledger.transaction():
            self._ledger.close_change(number, ChangeState.ROLLED_BACK)
            self._ledger.drop_filing(path, act=number)

    def settle(self, change: Change) -> bool:
        """Finish a change that a crash left open if the new content is in place, else roll it back; whether it was.

        A file that the owner has changed since then tells by its genre: it is looked at once more.

        Raises:
            BadFile, TryLater: it cannot be told now, so that the change stays open.
        """
        files.sweep(change.path.parent)
        state = scan.state_of(change.path)
        if state is None or change.sha256_after is None:
            self._roll_back(change.number, change.path)
            return False
        present = files.sha256_of(change.path)
        if present != change.sha256_after:
            if present == change.sha256_before or not self._carries(change.path, change.genres_after):
                self._roll_back(change.number, change.path)
                return False
            state = replace(state, ctime_ns=0)
        status = FileStatus.TAGGED if change.kind is ChangeKind.TAG else FileStatus.UNCHANGED
        with self._ledger.transaction():
            self._ledger.close_change(change.number, ChangeState.DONE)
            self._ledger.remember(KnownFile(change.path, change.audio_id, state, change.genres_after, status, ""))
        return True

    def _carries(self, path: Path, genres: tuple[str, ...]) -> bool:
        try:
            return self._reader.tags(path, self._tagging.id3_v23_separator).genres == genres
        except BadFile:
            return False


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
    writers.refuse_if_written(path)
    return files.stage_restore(
        path,
        change.patch,
        after_sha256=change.sha256_after,
        before_sha256=change.sha256_before,
        mtime_ns=change.mtime_ns_before,
        hard_links=hard_links,
    )
