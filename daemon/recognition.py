"""Whether a track was seen before, where, and whose genre it carries: what the ledger tells of a file. Hears nothing.

The daemon knows its own writes by content, not by time: what it wrote is in the ledger with its hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from daemon.core.config import Mode, Root
from daemon.core.ledger import FileStatus, KnownFile, Ledger
from daemon.core.records import FileState
from daemon.core.taxonomy import Taxonomy
from daemon.effects import files, scan, tags
from daemon.rules import correct, policy

log = structlog.get_logger()

# The fact that `music-reclass ledger restore` states: since when the record goes on from a backup.
RESTORED_AT = "restored_at"


@dataclass(frozen=True, slots=True)
class Track:
    """A file that was read: where it is, what its tags say, and which sound it holds."""

    path: Path
    state: FileState
    audio_id: str
    tags: tags.Tags


class Recognition:
    """Recognises tracks, and learns what the owner changed in them."""

    def __init__(self, ledger: Ledger, roots: Sequence[Root], taxonomy: Taxonomy) -> None:
        """Compare with `ledger`; files of `roots` may be away because these are not mounted."""
        self._ledger = ledger
        self._roots = tuple(roots)
        self._taxonomy = taxonomy

    def last_seen(self, track: Track) -> KnownFile | None:
        """The track as it was last seen: at this path, or at one from which it has gone since."""
        seen = self._ledger.known_by_sound(track.audio_id)
        here = next((known for known in seen if known.path == track.path), None)
        if here is not None:
            return here
        left = [known for known in seen if self._has_left(known, track.state)]
        # Of several that are gone, the very file that is here now: a copy must not take the record of another's move.
        left.sort(key=lambda known: not known.state.same_content(track.state))
        return left[0] if left else None

    def learn(self, track: Track, last: KnownFile) -> bool:
        """Record the owner's correction, if the track carries one since it was last seen."""
        if last.path != track.path:
            # Another inode on the same device is a copy; the one that it was copied from may still turn up elsewhere.
            if last.state.inode == track.state.inode or not scan.on_one_device(last.path, track.path):
                self._ledger.forget(last.path)
            log.info("moved", path=track.path, from_path=last.path)
        elif last.genres and not track.tags.genres:
            log.info("genre_removed", path=track.path, before=last.genres)
        correction = correct.recognise(last.genres, track.tags.genres, self._taxonomy)
        if correction is None or self._is_our_write(track) or self._is_older_than_the_record(track, last):
            return False
        self._ledger.record_correction(track.audio_id, track.path, correction.genres, correction.genre, "retagged")
        log.info("corrected", path=track.path, before=last.genres, genres=correction.genres, genre=correction.genre)
        return True

    def _is_our_write(self, track: Track) -> bool:
        """Whether the file is, byte for byte, what we once wrote, and no correction has come since then.

        By content and not by the state of the change: what a crash cut off before it was recorded is ours as well.
        """
        corrections = self._ledger.corrections(track.audio_id)
        since = corrections[-1].at if corrections else ""
        ours = {
            change.sha256_after
            for change in self._ledger.changes_of(track.audio_id)
            if not change.moves and change.genres_after == track.tags.genres and change.at >= since
        }
        return bool(ours - {None}) and files.sha256_of(track.path) in ours

    def _is_older_than_the_record(self, track: Track, last: KnownFile) -> bool:
        """Whether the difference may be our own doing: the ledger was restored from a backup made before it."""
        restored_at = self._ledger.fact(RESTORED_AT)
        if restored_at is None or last.seen_at >= restored_at:
            return False
        changed_at = datetime.fromtimestamp(track.state.ctime_ns / 1e9, UTC).isoformat(timespec="milliseconds")
        if changed_at >= restored_at:
            return False
        log.info("relearned", path=track.path, genres=track.tags.genres, reason="older than the restored record")
        return True

    def is_original(self, track: Track) -> bool:
        """Whether the file is again, byte for byte, what we once wrote a genre into: it was copied here anew."""
        if track.tags.genres:
            return False
        changes = self._ledger.changes_of(track.audio_id)
        before = {change.sha256_before for change in changes if change.undoable and not change.moves}
        return bool(before - {None}) and files.sha256_of(track.path) in before

    def _has_left(self, known: KnownFile, state: FileState) -> bool:
        """Whether the file of `known` is the one that is in `state` elsewhere now, or was at least taken away.

        The same sound at a path that is still there makes this file a copy; so it is where the volume of that path may
        be unmounted: its mount point is empty or gone. A renamed file keeps its inode, with it a whole tree of them.
        """
        if scan.state_of(known.path) is not None:
            return False
        if known.state.same_content(state):
            return True
        root = next((root.path for root in self._roots if known.path.is_relative_to(root.path)), known.path.parent)
        folder = scan.nearest_folder(known.path)
        return folder.is_relative_to(root) and scan.looks_mounted(folder, known.seen_at)

    def twin(self, track: Track, mode: Mode, bundle: str) -> KnownFile | None:
        """Another file with the same sound and genres, of which is known what became: nothing new is to be heard.

        What another bundle than the one that serves could not name is heard again.
        """
        latest = self._ledger.latest_decision(track.audio_id)
        unsure = latest is not None and latest[1].bundle == bundle
        twins = (known for known in self._ledger.known_by_sound(track.audio_id) if known.path != track.path)
        alike = (known for known in twins if known.genres == track.tags.genres and policy.finished(known.status, mode))
        return next(
            (known for known in alike if known.genres or (unsure and known.status is FileStatus.ABSTAINED)), None
        )

    def was_undone(self, track: Track) -> bool:
        """Whether the owner took our last change to this sound back, and its genres are still what they were then."""
        written = [c for c in self._ledger.changes_of(track.audio_id) if c.undoable and not c.moves]
        if not written or not written[-1].takes_back or written[-1].genres_after != track.tags.genres:
            return False
        undone = self._ledger.change(written[-1].undoes or 0)
        return undone is not None and not undone.takes_back

    def owners_label(self, audio_id: str) -> tuple[str, ...]:
        """The genres that the owner last gave to this sound; none where they never did."""
        corrections = self._ledger.corrections(audio_id)
        return corrections[-1].genres if corrections else ()
