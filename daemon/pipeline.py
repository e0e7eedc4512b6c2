"""One track from path to record: read, hear, decide, write, remember. Runs in one thread; knows no queue and no clock.

The daemon never answers itself: the ledger holds each file's state and genres as last seen, own writes included, so
a file that matches is left alone and a file that differs was changed by somebody else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from daemon.change import Changer
from daemon.core import decide
from daemon.core.config import Config, Inside, Mode, Outside, Root
from daemon.core.errors import BadFile, TryLater
from daemon.core.inference import Ensemble, Heard
from daemon.core.ledger import FileStatus, Filing, KnownFile, Ledger
from daemon.core.records import Abstained, Applied, Decision, Ending, FileState, Parked, Suggested, Unchanged
from daemon.core.rule import decision_rule
from daemon.core.taxonomy import Taxonomy
from daemon.effects import scan, tags
from daemon.filing import Filer
from daemon.reading import Reader
from daemon.recognition import Recognition, Track
from daemon.rules import policy

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Judged:
    """A decision with what was heard for it."""

    decision: Decision
    heard: Heard


class Pipeline:
    """Carries tracks from path to record with one config and one bundle; a new config or bundle makes a new one."""

    def __init__(
        self,
        config: Config,
        ensemble: Ensemble,
        ledger: Ledger,
        reader: Reader,
        *,
        roots: Sequence[Root] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Decide with `ensemble` in the taxonomy of `config`, and record in `ledger`; files are read by `reader`.

        `roots` are the watched folders where they are not those of `config`.
        """
        self._config = config
        self._ledger = ledger
        self._reader = reader
        self._clock = clock
        self._taxonomy = config.build_taxonomy()
        self._judge = Judge(config, ensemble, self._taxonomy, reader)
        self._bundle = ensemble.bundle.id
        self._changer = Changer(ledger, config.tagging, reader)
        self._roots = config.roots if roots is None else tuple(roots)
        self._recognition = Recognition(ledger, self._roots, self._taxonomy)
        self.filer = Filer(config, self._roots, ledger, reader)

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
        try:
            if known is not None and policy.finished(known.status, mode) and self._as_known(known, state):
                return Unchanged(path, "seen already")
            track = self._read(path, state)
            last = self._recognition.last_seen(track)
            if last is not None and (ending := self._recognised(track, last, mode)) is not None:
                return ending
            if self._recognition.was_undone(track):
                self._remember(track, FileStatus.UNCHANGED, "undone by the owner")
                return Unchanged(track.path, "undone by the owner")
            if last is None and (twin := self._twin(track, mode)) is not None:
                return self._take_over(track, twin, mode)
            return self._hear_and_write(track, mode, started - settled_s)
        except BadFile as trouble:
            return self.park(path, trouble.reason)

    def apply(self, path: Path, mode: Mode = Mode.APPLY) -> Ending:
        """As `process`, but also for a file that was seen before: the owner asked for it by name.

        A dry run only tells; it leaves no suggestion behind.
        """
        try:
            track = self._read(path, _present(path))
            last = self._recognition.last_seen(track)
            if last is not None:
                self._recognition.learn(track, last)
            return self._try_out(track) if mode is Mode.DRY_RUN else self._hear_and_write(track, mode, self._clock())
        except BadFile as trouble:
            return self.park(path, trouble.reason)

    def accept(self, path: Path) -> Ending:
        """Write what was suggested for the file at `path`: from now on that is the owner's own label.

        Raises:
            BadFile: nothing is suggested for it, or it was changed since.
            TryLater: the moment was bad; the file is as it was.
        """
        known = self._ledger.known(path)
        if known is None or not known.suggestion:
            raise BadFile(path, "nothing is suggested for it")
        track = self._read(path, _present(path))
        if (track.audio_id, track.tags.genres) != (known.audio_id, known.genres):
            raise BadFile(path, "was changed since the suggestion was made")
        # It is the owner's label now: `undo --model` leaves it alone.
        ending = self._write(track, known.suggestion, None)
        genre = policy.filed_genre(known.suggestion, self._taxonomy)
        self._ledger.record_correction(track.audio_id, path, known.suggestion, genre, "accepted")
        log.info("accepted", path=path, genres=known.suggestion, change=ending.change)
        return ending

    def mode_of(self, path: Path) -> Mode:
        """What may be done to the file at `path`, by the root in which it lies; anything, outside of all roots."""
        return next((root.mode for root in self._roots if path.is_relative_to(root.path)), Mode.APPLY)

    def decline(self, path: Path) -> None:
        """Make no more of what was suggested for the file at `path`, until the file changes.

        Raises:
            BadFile: nothing is suggested for it.
        """
        known = self._ledger.known(path)
        if known is None or not known.suggestion:
            raise BadFile(path, "nothing is suggested for it")
        self._ledger.remember(
            replace(known, status=FileStatus.UNCHANGED, reason="the owner declined the suggestion", suggestion=())
        )
        log.info("declined", path=path, genres=known.suggestion)

    def park(self, path: Path, reason: str, status: FileStatus = FileStatus.PARKED) -> Parked:
        """Leave the file alone, with the reason on record, until it changes."""
        state = scan.state_of(path)
        if state is not None:
            known = self._ledger.known(path)
            # What was known of it stays known: a file caught in the middle of an edit is whole again in a moment, and
            # its genre then tells whether the owner changed it.
            audio_id, genres = (known.audio_id, known.genres) if known else (None, ())
            self._ledger.remember(KnownFile(path, audio_id, state, genres, status, reason))
        log.warning("parked", path=path, reason=reason)
        return Parked(path, reason)

    def _read(self, path: Path, state: FileState) -> Track:
        with self._reader.sound(path) as sound:
            audio_id = sound.packet_digest()
        return Track(path, state, audio_id, self._tags(path))

    def _tags(self, path: Path) -> tags.Tags:
        return self._reader.tags(path, self._config.tagging.id3_v23_separator)

    def _as_known(self, known: KnownFile, state: FileState) -> bool:
        """Whether the file is as it is on record.

        Where only its change time has moved (chmod, a hard link, a player that puts the mtime back), its genres tell:
        reading them is cheap, reading all of its sound is not.
        """
        if known.state == state:
            return True
        if not known.state.same_content(state) or self._tags(known.path).genres != known.genres:
            return False
        self._ledger.remember(replace(known, state=state))
        return True

    # What the ledger already knows of the track

    def _recognised(self, track: Track, last: KnownFile, mode: Mode) -> Ending | None:
        """The ending for a track that was seen before and needs no more: moved, touched, or corrected by the owner."""
        if self._recognition.learn(track, last):
            self._remember(track, FileStatus.UNCHANGED, "the owner's label")
            self.filer.ask(track.path, track.audio_id, track.tags.genres, mode)
            return Unchanged(track.path, "the owner's label")
        if not policy.finished(last.status, mode) or (last.path != track.path and self._recognition.is_original(track)):
            return None
        self._remember(track, last.status, last.reason, last.suggestion)
        if track.tags.genres != last.genres:
            self.filer.ask(track.path, track.audio_id, track.tags.genres, mode)
        return Unchanged(track.path, last.reason or "seen already")

    def _twin(self, track: Track, mode: Mode) -> KnownFile | None:
        tagging = self._config.tagging
        if tagging.inside is not Inside.KEEP or tagging.outside is not Outside.KEEP:
            return None  # genres that are there are to be judged anew
        return self._recognition.twin(track, mode, self._bundle)

    def _take_over(self, track: Track, twin: KnownFile, mode: Mode) -> Ending:
        self._remember(track, twin.status, twin.reason)
        self.filer.ask(track.path, track.audio_id, track.tags.genres, mode)
        log.info("copy", path=track.path, of_path=twin.path, status=twin.status.value)
        return Unchanged(track.path, "a copy of a known track")

    # A new track

    def _hear_and_write(self, track: Track, mode: Mode, settled: float) -> Ending:
        judged, plan = self._hear(track)
        ending = self._carry_out(track, plan, judged.decision, mode)
        self._report(ending, judged, self._clock() - settled)
        return ending

    def _hear(self, track: Track) -> tuple[Judged, policy.Plan]:
        judged = self._judge.hear(track.path)
        self._ledger.record_decision(track.audio_id, track.path, judged.decision, judged.heard.embeddings)
        owner = self._recognition.owners_label(track.audio_id)
        plan = policy.plan(track.tags.genres, judged.decision, owner, self._config.tagging, self._taxonomy)
        return judged, plan

    def _try_out(self, track: Track) -> Ending:
        """What would become of the track; nothing is left behind that the daemon would act upon."""
        started = self._clock()
        judged, plan = self._hear(track)
        ending: Ending = (
            Suggested(track.path, plan.genres) if isinstance(plan, policy.Write) else Unchanged(track.path, plan.reason)
        )
        self._report(ending, judged, self._clock() - started)
        return ending

    def _carry_out(self, track: Track, plan: policy.Plan, decision: Decision, mode: Mode) -> Ending:
        if track.tags.cannot and isinstance(plan, policy.Write):
            self._remember(track, FileStatus.UNCHANGED, f"{', '.join(plan.genres)}, untagged: {track.tags.cannot}")
            self.filer.ask(track.path, track.audio_id, plan.genres, mode)
            return Unchanged(track.path, track.tags.cannot)
        if isinstance(plan, policy.Write) and mode is Mode.APPLY:
            # What the owner decided for another copy is no decision of the bundle.
            owners = plan.genres == self._recognition.owners_label(track.audio_id)
            return self._write(track, plan.genres, None if owners else decision.bundle)
        if isinstance(plan, policy.Write):
            reason = "suggested" if mode is Mode.SUGGEST else "dry run"
            self._remember(track, FileStatus.SUGGESTED, reason, plan.genres)
            return Suggested(track.path, plan.genres)
        if decision.abstention is not None:
            self._remember(track, FileStatus.ABSTAINED, decision.abstention.value)
            self.filer.ask(track.path, track.audio_id, track.tags.genres, mode)
            return Abstained(track.path, decision.abstention)
        self._remember(track, FileStatus.UNCHANGED, plan.reason)
        self.filer.ask(track.path, track.audio_id, track.tags.genres, mode)
        return Unchanged(track.path, plan.reason)

    def _write(self, track: Track, genres: tuple[str, ...], bundle: str | None) -> Applied:
        filing: Filing | None = self.filer.wish(track.path, track.audio_id, genres)
        return self._changer.write_genres(track.path, track.audio_id, track.tags.genres, genres, bundle, filing=filing)

    def _remember(self, track: Track, status: FileStatus, reason: str, suggestion: tuple[str, ...] = ()) -> None:
        self._ledger.remember(
            KnownFile(track.path, track.audio_id, track.state, track.tags.genres, status, reason, suggestion)
        )

    def _report(self, ending: Ending, judged: Judged, since_settled_s: float) -> None:
        decision, heard = judged.decision, judged.heard
        runner_up = decision.candidates[1] if len(decision.candidates) > 1 else None
        written = ending.genres_after[0] if isinstance(ending, Applied) and ending.genres_after else decision.genre
        event = log.bind(
            path=ending.path,
            genre=written,
            **({} if written == decision.genre else {"heard": decision.genre}),
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
            case Suggested():
                event.info("suggested", genres=ending.genres)
            case Unchanged():
                event.info("left", reason=ending.reason)


class Judge:
    """Hears files and decides, without writing or recording anything; `classify` is this and nothing more."""

    def __init__(self, config: Config, ensemble: Ensemble, taxonomy: Taxonomy, reader: Reader) -> None:
        """Decide with `ensemble` in `taxonomy`, by the thresholds and segments of `config`."""
        self._ensemble = ensemble
        self._reader = reader
        self._segments = config.models.segments
        self._rule = decision_rule(ensemble.bundle.manifest, taxonomy, config.thresholds)

    def hear(self, path: Path) -> Judged:
        """The decision on the file at `path`.

        Raises:
            BadFile, TryLater: as `Reader.sound`.
        """
        with self._reader.sound(path) as sound:
            heard = self._ensemble.hear(sound, self._segments)
        starts = [window.start_s for window in heard.windows]
        return Judged(decide.decide(heard.logits, starts, self._rule), heard)


def retry_or_park(pipeline: Pipeline, trouble: TryLater, attempts: int, max_attempts: int) -> Parked | None:
    """Leave a file that failed `max_attempts` times for a day or the next start; None while it is worth another try."""
    if attempts < max_attempts:
        log.warning("postponed", path=trouble.path, reason=trouble.reason, attempt=attempts)
        return None
    return pipeline.park(trouble.path, f"{trouble.reason} (tried {attempts} times)", FileStatus.WAITING)


def _present(path: Path) -> FileState:
    state = scan.state_of(path)
    if state is None:
        raise BadFile(path, "is not there, or not a regular file")
    return state
