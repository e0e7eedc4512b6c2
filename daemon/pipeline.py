"""One track from path to record: read, hear, decide, write, remember. Runs in one thread; knows no queue and no clock.

The daemon never answers itself: the ledger holds each file's state and genres as last seen, own writes included, so
a file that matches is left alone and a file that differs was changed by somebody else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from daemon.change import Changer
from daemon.core import decide
from daemon.core.audio import Sound
from daemon.core.config import Config, Mode
from daemon.core.errors import BadFile, TryLater
from daemon.core.inference import Ensemble, Heard
from daemon.core.ledger import FileStatus, KnownFile, Ledger
from daemon.core.records import Abstained, Applied, Decision, Ending, FileState, Parked, Unchanged
from daemon.core.taxonomy import Taxonomy
from daemon.effects import files, scan, tags
from daemon.rules import correct, policy

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Track:
    """A file that was read: where it is, what its tags say, and which sound it holds."""

    path: Path
    state: FileState
    audio_id: str
    tags: tags.Tags


@dataclass(frozen=True, slots=True)
class Judged:
    """A decision with what was heard for it."""

    decision: Decision
    heard: Heard


class Pipeline:
    """Carries tracks from path to record with one config and one bundle; a new config or bundle makes a new one."""

    def __init__(
        self, config: Config, ensemble: Ensemble, ledger: Ledger, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """Decide with `ensemble` in the taxonomy of `config`, and record in `ledger`."""
        self._config = config
        self._ledger = ledger
        self._clock = clock
        self._taxonomy = config.build_taxonomy()
        self._judge = Judge(config, ensemble, self._taxonomy)
        self._changer = Changer(ledger, config.tagging)

    def process(self, path: Path, mode: Mode, *, settled_s: float = 0.0) -> Ending:
        """Bring the file at `path` to its ending, recorded and logged; `settled_s` is how long it waited before.

        Raises:
            TryLater: the moment was bad; the file is as it was, and another try starts from the beginning.
        """
        started = self._clock()
        state = scan.state_of(path)
        if state is None:
            # Not forgotten: an unmounted volume looks the same, and what the owner changes there must be noticed.
            log.info("vanished", path=path)
            return Unchanged(path, "gone")
        known = self._ledger.known(path)
        if known is not None and known.state == state and known.status is not FileStatus.PARKED:
            return Unchanged(path, "seen already")
        try:
            track = self._read(path, state)
            last = self._last_seen(track)
            if last is not None and (ending := self._recognised(track, last)) is not None:
                return ending
            return self._hear_and_write(track, mode, started - settled_s)
        except BadFile as trouble:
            return self.park(path, trouble.reason)

    def apply(self, path: Path, mode: Mode = Mode.APPLY) -> Ending:
        """As `process`, but also for a file that was seen before: the owner asked for it by name."""
        state = scan.state_of(path)
        try:
            if state is None:
                raise BadFile(path, "is not there, or not a regular file")
            track = self._read(path, state)
            last = self._last_seen(track)
            if last is not None:
                self._learn(track, last)
            return self._hear_and_write(track, mode, self._clock())
        except BadFile as trouble:
            return self.park(path, trouble.reason)

    def park(self, path: Path, reason: str) -> Parked:
        """Leave the file alone, with the reason on record, until it changes."""
        state = scan.state_of(path)
        if state is not None:
            known = self._ledger.known(path)
            # What was known of it stays known: a file caught in the middle of an edit is whole again in a moment, and
            # its genre then tells whether the owner changed it.
            audio_id, genres = (known.audio_id, known.genres) if known else (None, ())
            self._ledger.remember(KnownFile(path, audio_id, state, genres, FileStatus.PARKED, reason))
        log.warning("parked", path=path, reason=reason)
        return Parked(path, reason)

    def _read(self, path: Path, state: FileState) -> Track:
        with Sound(path) as sound:
            audio_id = sound.packet_digest()
        found = tags.read(path, id3_v23_separator=self._config.tagging.id3_v23_separator)
        return Track(path, state, audio_id, found)

    # What the ledger already knows of the track

    def _recognised(self, track: Track, last: KnownFile) -> Ending | None:
        """The ending for a track that was seen before and needs no more: moved, touched, or corrected by the owner."""
        if self._learn(track, last):
            self._remember(track, FileStatus.UNCHANGED, "the owner's label")
            return Unchanged(track.path, "the owner's label")
        if last.status is FileStatus.PARKED or self._is_original(track):
            return None
        self._remember(track, last.status, last.reason)
        return Unchanged(track.path, last.reason or "seen already")

    def _learn(self, track: Track, last: KnownFile) -> bool:
        """Record the owner's correction, if the track carries one since it was last seen."""
        if last.path != track.path:
            self._ledger.forget(last.path)
            log.info("moved", path=track.path, from_path=last.path)
        correction = correct.recognise(last.genres, track.tags.genres, self._taxonomy)
        if correction is None or self._is_our_write(track):
            return False
        self._ledger.record_correction(track.audio_id, track.path, correction.genres, correction.genre, "retagged")
        log.info("corrected", path=track.path, before=last.genres, genres=correction.genres, genre=correction.genre)
        return True

    def _is_our_write(self, track: Track) -> bool:
        """Whether the genres are what we last wrote for this sound, perhaps into another copy of it."""
        ours = [change for change in self._ledger.changes_of(track.audio_id) if change.undoable]
        return bool(ours) and ours[-1].genres_after == track.tags.genres

    def _is_original(self, track: Track) -> bool:
        """Whether the file is again, byte for byte, what we once wrote a genre into: it was copied here anew."""
        if track.tags.genres:
            return False
        before = {change.sha256_before for change in self._ledger.changes_of(track.audio_id)}
        return bool(before - {None}) and files.sha256_of(track.path) in before

    def _last_seen(self, track: Track) -> KnownFile | None:
        """The track as it was last seen: at this path, or at one from which it has gone since."""
        seen = self._ledger.known_by_sound(track.audio_id)
        here = next((known for known in seen if known.path == track.path), None)
        if here is not None:
            return here
        # The same sound at a path that is gone was moved; at one that is still there this file is a copy, and so it is
        # where the whole folder is gone: a volume may be unmounted.
        gone = (known for known in seen if scan.state_of(known.path) is None and known.path.parent.is_dir())
        return next(gone, None)

    def _owners_label(self, audio_id: str) -> tuple[str, ...]:
        corrections = self._ledger.corrections(audio_id)
        return corrections[-1].genres if corrections else ()

    # A new track

    def _hear_and_write(self, track: Track, mode: Mode, settled: float) -> Ending:
        judged = self._judge.hear(track.path)
        decision = judged.decision
        self._ledger.record_decision(track.audio_id, track.path, decision, judged.heard.embeddings)
        owner = self._owners_label(track.audio_id)
        plan = policy.plan(track.tags.genres, decision, owner, self._config.tagging, self._taxonomy)
        ending = self._carry_out(track, plan, decision, mode)
        self._report(ending, judged, self._clock() - settled)
        return ending

    def _carry_out(self, track: Track, plan: policy.Plan, decision: Decision, mode: Mode) -> Ending:
        if isinstance(plan, policy.Write) and mode is Mode.APPLY:
            return self._changer.write_genres(
                track.path, track.audio_id, track.tags.genres, plan.genres, decision.bundle
            )
        if isinstance(plan, policy.Write):
            reason = f"{'suggested' if mode is Mode.SUGGEST else 'dry run'}: {', '.join(plan.genres)}"
            self._remember(track, FileStatus.UNCHANGED, reason)
            return Unchanged(track.path, reason)
        if decision.abstention is not None:
            self._remember(track, FileStatus.ABSTAINED, decision.abstention.value)
            return Abstained(track.path, decision.abstention)
        self._remember(track, FileStatus.UNCHANGED, plan.reason)
        return Unchanged(track.path, plan.reason)

    def _remember(self, track: Track, status: FileStatus, reason: str) -> None:
        self._ledger.remember(KnownFile(track.path, track.audio_id, track.state, track.tags.genres, status, reason))

    def _report(self, ending: Ending, judged: Judged, since_settled_s: float) -> None:
        decision, heard = judged.decision, judged.heard
        runner_up = decision.candidates[1] if len(decision.candidates) > 1 else None
        event = log.bind(
            path=ending.path,
            genre=decision.genre,
            confidence=round(decision.confidence, 3),
            threshold=round(decision.threshold, 3),
            best=decision.candidates[0].genre if decision.candidates else None,
            runner_up=f"{runner_up.genre} {runner_up.probability:.2f}" if runner_up else None,
            segments=len(decision.votes),
            bundle=decision.bundle,
            decode_s=round(heard.decode_s, 3),
            infer_s=round(heard.infer_s, 3),
            since_settled_s=round(since_settled_s, 3),
        )
        match ending:
            case Applied():
                event.info("tagged", change=ending.change, genres=ending.genres_after, before=ending.genres_before)
            case Abstained():
                event.info("abstained", reason=ending.reason.value)
            case Unchanged():
                event.info("left", reason=ending.reason)


class Judge:
    """Hears files and decides, without writing or recording anything; `classify` is this and nothing more."""

    def __init__(self, config: Config, ensemble: Ensemble, taxonomy: Taxonomy) -> None:
        """Decide with `ensemble` in `taxonomy`, by the thresholds and segments of `config`."""
        self._ensemble = ensemble
        self._segments = config.models.segments
        self._rule = policy.decision_rule(ensemble.bundle.manifest, taxonomy, config.thresholds)

    def hear(self, path: Path) -> Judged:
        """The decision on the file at `path`.

        Raises:
            BadFile, TryLater: as `Sound`.
        """
        with Sound(path) as sound:
            heard = self._ensemble.hear(sound, self._segments)
        starts = [window.start_s for window in heard.windows]
        return Judged(decide.decide(heard.logits, starts, self._rule), heard)


def retry_or_park(pipeline: Pipeline, trouble: TryLater, attempts: int, max_attempts: int) -> Parked | None:
    """Park a file that failed `max_attempts` times; None while it is worth another try."""
    if attempts < max_attempts:
        log.warning("postponed", path=trouble.path, reason=trouble.reason, attempt=attempts)
        return None
    return pipeline.park(trouble.path, f"{trouble.reason} (tried {attempts} times)")
