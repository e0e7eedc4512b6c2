"""Files tracks into the folders of their genres: who is to be moved, when, and to which place. Moves one when asked.

The wish to move a file is on record with its genre, so that no crash forgets it, and waits: a media server that sees
the new genre at the old place first keeps plays and ratings.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import structlog

from daemon.core.config import Config, Mode, Root
from daemon.core.errors import BadFile, FileTrouble, TryLater
from daemon.core.ledger import FileStatus, Filing, KnownFile, Ledger
from daemon.core.records import Ending, Unchanged
from daemon.core.taxonomy import Taxonomy
from daemon.effects import files, scan, tags
from daemon.moving import Mover
from daemon.reading import Reader
from daemon.rules import ignore, place, policy

log = structlog.get_logger()


class _NotYet(TryLater):
    """Raised when a file cannot be moved for now, however long that takes: it is no failed attempt."""


# More files of one name than this in one folder are no accident any more.
_MAX_NUMBER = 999
_LONGEST_WAIT_S = 3600.0


class Filer:
    """Moves files within their root, as the config's `organise` says."""

    def __init__(
        self,
        config: Config,
        roots: Sequence[Root],
        ledger: Ledger,
        reader: Reader,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """File the files of `roots`; `clock` gives Unix seconds."""
        self._organise = config.organise
        self._separator = config.tagging.id3_v23_separator
        self._retries = config.queue
        self._taxonomy: Taxonomy = config.build_taxonomy()
        self._roots = tuple(roots)
        self._ledger = ledger
        self._reader = reader
        self._mover = Mover(ledger)
        self._clock = clock

    def wish(self, path: Path, audio_id: str, genres: Sequence[str]) -> Filing | None:
        """That the file at `path`, which carries `genres`, be moved in due time; None where it is to stay."""
        genre = policy.filed_genre(genres, self._taxonomy)
        if genre is None or self._root_of(path) is None:
            return None
        now = self._clock()
        return Filing(path, audio_id, genre, act=None, asked_at=now, due_at=now + self._organise.wait_s, attempts=0)

    def ask(self, path: Path, audio_id: str, genres: Sequence[str], mode: Mode) -> None:
        """Put the wish on record, if there is one; what was asked for this place before no longer holds."""
        if mode is Mode.APPLY and (wish := self.wish(path, audio_id, genres)) is not None:
            self._ledger.ask_filing(wish)
        elif self._ledger.filing(path) is not None:
            self._ledger.drop_filing(path)

    def due(self) -> Filing | None:
        """The wish whose time has come."""
        return self._ledger.next_filing(self._clock())

    def due_among(self, paths: Collection[Path]) -> list[Filing]:
        """The wishes for files at `paths` whose time has come."""
        now = self._clock()
        return [filing for filing in self._ledger.filings() if filing.path in paths and filing.due_at <= now]

    def seconds_to_next(self) -> float | None:
        """How long until the next wish is due (0 if one is); None where there is none."""
        first = self._ledger.first_filing()
        return None if first is None else max(0.0, first.due_at - self._clock())

    def carry_out(self, filing: Filing) -> Ending | None:
        """Move the file of a wish to its place, and drop the wish; None where that has to wait.

        Whatever fails, the file is where it was; it is tried again as often as the config says.
        """
        if filing.attempts >= self._retries.max_attempts:
            # Every failure below ends in time: this file took the whole process down each time.
            return self._give_up(filing, f"was tried {filing.attempts} times")
        # Counted before: see above. A wish that is gone was taken back, as by `undo`.
        if not self._ledger.renew_filing(replace(filing, attempts=filing.attempts + 1)):
            return None
        try:
            ending = self._file(filing)
        except _NotYet as trouble:
            # Longer and longer, up to an hour: a volume may be away for weeks.
            waited_s = self._clock() - filing.asked_at
            self._wait(filing, trouble, min(_LONGEST_WAIT_S, max(self._retries.retry_s, waited_s)))
            return None
        except TryLater as trouble:
            counted = replace(filing, attempts=filing.attempts + 1)
            if counted.attempts >= self._retries.max_attempts:
                return self._give_up(filing, f"{trouble.reason} (tried {counted.attempts} times)")
            self._wait(counted, trouble, self._retries.retry_s * 2**filing.attempts)
            return None
        except BadFile as trouble:
            return self._give_up(filing, trouble.reason)
        self.drop(filing)
        return ending

    def drop(self, filing: Filing) -> None:
        """The file is no longer to be moved; a newer wish for it stands."""
        if self._ledger.renew_filing(filing):
            self._ledger.drop_filing(filing.path)

    def _give_up(self, filing: Filing, reason: str) -> Ending:
        log.warning("not_filed", path=filing.path, genre=filing.genre, reason=reason)
        self.drop(filing)
        return Unchanged(filing.path, reason)

    def _wait(self, filing: Filing, trouble: FileTrouble, delay_s: float) -> None:
        self._ledger.renew_filing(replace(filing, due_at=self._clock() + delay_s))
        log.info("filing_postponed", path=filing.path, reason=trouble.reason, attempt=filing.attempts)

    def _file(self, filing: Filing) -> Ending:
        root = self._root_of(filing.path)
        if root is None or filing.genre not in self._taxonomy.names:
            return Unchanged(filing.path, "is not to be filed any more")
        known = self._checked(filing, root)
        if known is None:
            return Unchanged(filing.path, "is another track now, or of another genre")
        relative = self._destination(known, root, filing.genre)
        if relative is None or files.is_same_place(root.path / relative, known.path):
            return Unchanged(filing.path, "is in its place")
        if not ignore.wanted(root.path / relative, root.path, tags.AUDIO_SUFFIXES, root.ignore):
            raise BadFile(filing.path, f"would be ignored at {relative} from then on: change the template or its tags")
        target = self._free_place(root.path, relative, known)
        siblings = _names_in(filing.path.parent)
        companions = self._companions(filing.path, target, siblings)
        moved = self._mover.move(known, target, root.path, companions, filing.act)
        self._clean(filing.path.parent, root.path)
        log.info(
            "filed",
            path=moved.path,
            from_path=filing.path,
            genre=filing.genre,
            change=moved.change,
            companions=len(companions),
        )
        return moved

    def _checked(self, filing: Filing, root: Root) -> KnownFile | None:
        """What is on record of the file, if it is still as it was; None where the wish was meant for another one."""
        path = filing.path
        known, state = self._ledger.known(path), scan.state_of(path)
        if state is None:
            if not scan.is_inhabited(root.path):
                raise _NotYet(path, "its root is not there (not mounted?)")
            raise BadFile(path, "has left its place before it could be filed")
        if known is None or known.status is FileStatus.PARKED or known.audio_id != filing.audio_id:
            return None
        if not known.state.same_content(state):
            raise _NotYet(path, "was changed, and has to be looked at first")
        # One that can hold no tags carries no genre of its own; it was written to by no act.
        untagged = not known.genres and filing.act is None
        return known if untagged or policy.filed_genre(known.genres, self._taxonomy) == filing.genre else None

    def _destination(self, known: KnownFile, root: Root, genre: str) -> PurePosixPath | None:
        found = self._reader.tags(known.path, self._separator)
        return place.destination(
            PurePosixPath(known.path.relative_to(root.path)),
            genre,
            self._taxonomy,
            template=self._organise.template,
            unknown=self._organise.unknown,
            artist=found.artist or "",
            album=found.album or "",
            title=found.title or "",
        )

    def _free_place(self, root: Path, relative: PurePosixPath, known: KnownFile) -> Path:
        """The target, with a number where another track has its name.

        Raises:
            BadFile: the same track stands there already, and the owner has to choose between the two.
        """
        for number in range(1, _MAX_NUMBER):
            target = root / (relative if number == 1 else place.numbered(relative, number))
            if files.is_free(target, known.path):
                return target
            there = self._ledger.known(target)
            if there is not None and there.audio_id == known.audio_id:
                raise BadFile(known.path, f"the same track stands at {target} already")
        raise BadFile(known.path, f"there are too many files called {relative.name} already")

    def _companions(self, source: Path, target: Path, siblings: Sequence[str]) -> list[tuple[Path, Path]]:
        if not self._organise.companions or (source.parent == target.parent and source.stem == target.stem):
            return []
        pairs = place.companions_of(source.name, target.name, siblings, tags.AUDIO_SUFFIXES)
        return [(source.with_name(old), target.with_name(new)) for old, new in pairs]

    def _clean(self, folder: Path, root: Path) -> None:
        """Remove what the move has emptied, but not a genre's own folder, which the owner may have made beforehand."""
        if not self._organise.remove_emptied:
            return
        top = root / folder.relative_to(root).parts[0] if folder != root else root
        genre_folders = {self._taxonomy.folder_of(name) for name in self._taxonomy.names}
        for gone in files.remove_emptied(folder, top if top.name in genre_folders else root):
            log.info("emptied_folder_removed", path=gone)

    def _root_of(self, path: Path) -> Root | None:
        """The root within which the file is to be filed, if it is."""
        root = next((root for root in self._roots if path.is_relative_to(root.path)), None)
        if root is None or root.mode is not Mode.APPLY:
            return None
        wanted = self._organise.enabled if root.organise is None else root.organise
        return root if wanted else None


def _names_in(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
    except OSError as error:
        raise TryLater(folder, f"cannot be read: {error.strerror}") from error
