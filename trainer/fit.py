"""The whole way from a data set to a bundle: clips, rounds, calibration, bundle, evaluation. Resumable at every step.

A run's folder holds `run.json` (what was asked), one folder per round with its checkpoint, bundle and evaluation,
`bundle` (what is to serve), `evaluation` (its measures) and `tensorboard`. Owns the order of steps and must hold no
arithmetic of its own.

Versions of run.json:
    1  plan, data, fingerprint, start, precision, id.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray

from daemon.core.errors import ConfigError
from trainer import rounds, untouched
from trainer.backbones import build
from trainer.describe import Origin, card, description
from trainer.judging import calibrate
from trainer.judging.crosswise import crosswise
from trainer.judging.evaluate import Evaluation, evaluate, join
from trainer.judging.findings import Rival, find
from trainer.learning.devices import processes
from trainer.plan import Plan
from trainer.progress import Telling
from trainer.rounds import Round, Trained
from trainer.shipping.export import Contents, Part, export
from trainer.tracks import manifest
from trainer.tracks.clips import ClipStore
from trainer.tracks.manifest import DataSet, LeftOut, Split, Track
from trainer.writing import write_whole

Array = NDArray[np.float32]

RUN_VERSION = 1
RUN = "run.json"
FINAL = "final"
BUNDLE, EVALUATION, HOLDOUT = "bundle", "evaluation", "holdout"

# A clip's pieces are longer than the windows that are cut from them.
STRETCH_S = 15.0

PROBE_NAME = "a linear head on the untouched network"


@dataclass(frozen=True, slots=True)
class Job:
    """What a run is to do.

    `start` is the checkpoint's file, folder or published id, None for random weights; `aim` is the share of tags that
    is to be right. `crosswise` trains one model per fold besides the last one, which costs as many times the time and
    judges on every track; else the validation tracks judge.
    """

    data: Path
    run: Path
    clips: Path
    plan: Plan
    start: str | None
    id: str
    crosswise: bool = True
    aim: float = 0.9
    taxonomy_hash: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run: its bundle, the evaluation that it was calibrated by, and the one on the frozen holdout (None
    where there is no holdout)."""

    bundle: Path
    judged: Evaluation
    holdout: Evaluation | None
    origin: Origin
    data: DataSet
    left_out: tuple[LeftOut, ...]


def begin(job: Job) -> None:
    """Write down what the run is to do, before it does any of it.

    Raises:
        ConfigError: the folder holds a run that was asked for something else.
    """
    wanted = _facts(job)
    path = job.run / RUN
    if path.exists():
        found = _read_facts(path)
        problems = [
            f"{name}: the run that is there has {found.get(name)!r}, now it is {wanted[name]!r}"
            for name in wanted
            if name not in {"id"} and found.get(name) != wanted[name]
        ]
        if problems:
            raise ConfigError(str(job.run), [*problems, "take another folder, or remove this one"])
        return
    write_whole(path, json.dumps(wanted, indent=2, ensure_ascii=False).encode())


def read_job(run: Path) -> Job:
    """What the run in this folder was asked to do.

    Raises:
        ConfigError: there is no run, or the data changed since it began.
    """
    facts = _read_facts(run / RUN)
    if facts.get("version") != RUN_VERSION:
        raise ConfigError(str(run / RUN), [f"version {facts.get('version')!r}, this program reads {RUN_VERSION}"])
    data = Path(facts["data"])
    if fingerprint(data) != facts["fingerprint"]:
        raise ConfigError(str(run), [f"{data} has changed since this run began: begin a new one with `fit`"])
    plan = Plan("").with_changes(facts["plan"])
    return Job(
        data,
        run,
        Path(facts["clips"]),
        plan,
        facts["start"],
        facts["id"],
        facts["crosswise"],
        facts["aim"],
        facts["taxonomy_hash"],
    )


def fit(job: Job, telling: Telling, deadline: Callable[[], bool] = lambda: False) -> Result | None:
    """Train, judge and export; None where `deadline` said that time is up: the same call goes on another time.

    Raises:
        ConfigError: the data set or the plan does not allow it.
        BundleError: the exported graph does not say what torch says.
        TryLater: the disk is full or fails.
    """
    state = processes()
    data = manifest.read(job.data)
    if state.is_main_process:
        begin(job)
    store, left = _clips(job, data, telling, state)
    tracks = _usable(data.of(Split.TRAIN, Split.VALID), left)
    _check(job, data, tracks)
    evaluations: list[Evaluation] = []
    known: rounds.Known = {}
    for one in rounds.plan_rounds(tracks, job.crosswise):
        if _time_is_up(deadline, state):
            return None
        telling.say(
            f"{one.name}: learns from {len(one.learns)} tracks"
            + (f", judged on {len(one.judged)}" if one.judged else "")
        )
        trained = _train(job, one, data, store, known, telling, deadline)
        if trained.outcome is None:
            return None
        if one.judged and state.is_main_process:
            evaluations.append(_judge(job, one, trained, data, store, telling))
        state.wait_for_everyone()
    if not state.is_main_process:
        return None
    return _finish(job, data, trained, evaluations, store, known, left, telling)


def _time_is_up(deadline: Callable[[], bool], state: PartialState) -> bool:
    """What the main process's clock says; the others must not go on, or stop, without it."""
    told = [deadline()]
    if state.num_processes > 1:
        broadcast_object_list(told)
    return told[0]


def fingerprint(data: Path) -> str:
    """SHA-256 of the data set's table: two sets with the same one train the same model."""
    try:
        return hashlib.sha256((data / manifest.TRACKS).read_bytes()).hexdigest()
    except OSError as error:
        reason = f"is no data set (make one with `music-reclass-train dataset`): {error.strerror}"
        raise ConfigError(str(data), [reason]) from error


def default_id(backbone: str, now: datetime | None = None) -> str:
    """A bundle's name by backbone and minute."""
    return f"{backbone}-{(now or datetime.now(UTC)):%Y%m%d-%H%M}"


def _facts(job: Job) -> dict[str, Any]:
    return {
        "version": RUN_VERSION,
        "id": job.id,
        "data": str(job.data.resolve()),
        "fingerprint": fingerprint(job.data),
        "clips": str(job.clips.resolve()),
        "start": job.start,
        "crosswise": job.crosswise,
        "aim": job.aim,
        "taxonomy_hash": job.taxonomy_hash,
        "plan": job.plan.as_dict(),
    }


def _read_facts(path: Path) -> Mapping[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            str(path), [f"is no training run (begin one with `music-reclass-train fit`): {error}"]
        ) from error
    if not isinstance(facts, dict):
        raise ConfigError(str(path), ["is no training run: holds no object"])
    return facts


def _clips(job: Job, data: DataSet, telling: Telling, state: PartialState) -> tuple[ClipStore, list[LeftOut]]:
    rate = build(job.plan.backbone, job.start).sample_rate_hz
    store = ClipStore(job.clips, rate, stretch_s=max(STRETCH_S, job.plan.crop_s))
    tracks = data.of(Split.TRAIN, Split.VALID)
    # One process decodes; the others then find everything there.
    with state.main_process_first():
        workers = (job.plan.workers or os.cpu_count() or 1) if state.is_main_process else 0
        left = store.prepare(tracks, workers=workers, advance=telling.advance("decoding"))
    for file in left:
        telling.say(f"left out: {file.path}: {file.reason}")
    return store, left


def _usable(tracks: Sequence[Track], left: Sequence[LeftOut]) -> list[Track]:
    lost = {file.path for file in left}
    return [track for track in tracks if track.path not in lost]


def _check(job: Job, data: DataSet, tracks: Sequence[Track]) -> None:
    counts = {label: sum(track.genre == label for track in tracks) for label in data.labels}
    problems = [f"genre {label!r} has no track to learn from" for label, count in counts.items() if not count]
    if job.crosswise:
        folds = {label: {track.fold for track in tracks if track.genre == label} for label in data.labels}
        problems += [
            f"genre {label!r} is in one fold only, so no model can learn it and be judged on it: it needs tracks of "
            "another artist"
            for label, found in folds.items()
            if len(found) == 1
        ]
        if any(track.fold < 0 for track in tracks):
            problems.append("some tracks have no fold: `fit --no-cross-validate` judges on validation tracks instead")
    else:
        learnt = {track.genre for track in tracks if track.split is Split.TRAIN}
        problems += [
            f"genre {label!r} has no track besides those to judge by" for label in counts if label not in learnt
        ]
        if not any(track.split is Split.VALID for track in tracks):
            problems.append("has no validation tracks, so nothing can be calibrated")
    if problems:
        raise ConfigError(str(job.data), problems)


def _train(
    job: Job,
    one: Round,
    data: DataSet,
    store: ClipStore,
    known: rounds.Known,
    telling: Telling,
    deadline: Callable[[], bool],
) -> Trained:
    folder = job.run / one.name
    observers = telling.observers(one.name, job.run / "tensorboard" / one.name, data.labels)
    start = job.start
    return rounds.take(one, data.labels, job.plan, start, store, folder, known, observers=observers, deadline=deadline)


def _judge(job: Job, one: Round, trained: Trained, data: DataSet, store: ClipStore, telling: Telling) -> Evaluation:
    """The round's tracks through its own exported bundle, as the daemon would hear them."""
    folder = job.run / one.name
    if (folder / EVALUATION).exists():
        return Evaluation.load(folder / EVALUATION)
    contents = _contents(job, f"{job.id}-{one.name}", trained, data, 1.0, dict.fromkeys(data.labels, 0.5))
    export(
        contents, folder / BUNDLE, sound=rounds.some_windows(store, one.judged, trained.classifier.backbone, job.plan)
    )
    evaluation = evaluate(folder / BUNDLE, one.judged, advance=telling.advance(f"judging {one.name}"))
    evaluation.save(folder / EVALUATION)
    return evaluation


def load_result(job: Job) -> Result:
    """A finished run as it was left in its folder.

    Raises:
        ConfigError: it has not finished.
    """
    if not (job.run / EVALUATION).exists():
        raise ConfigError(str(job.run), ["has not finished; `music-reclass-train resume` goes on with it"])
    judged = Evaluation.load(job.run / EVALUATION)
    probe = untouched.load(job.run)
    holdout = Evaluation.load(job.run / HOLDOUT) if (job.run / HOLDOUT).exists() else None
    data = manifest.read(job.data)
    origin = Origin(job.plan, job.start, job.id, _folds(judged, job), _calibrated(judged, job), probe)
    return Result(job.run / BUNDLE, judged, holdout, origin, data, ())


def _finish(
    job: Job,
    data: DataSet,
    trained: Trained,
    evaluations: Sequence[Evaluation],
    store: ClipStore,
    known: rounds.Known,
    left: Sequence[LeftOut],
    telling: Telling,
) -> Result:
    heard = _audible(join(evaluations))
    fitted = _calibrated(heard, job)
    thresholds = dict(zip(data.labels, fitted.thresholds.values, strict=True))
    judged = heard.decided_by(fitted.temperature, thresholds)
    probe = None
    if job.crosswise and job.start:
        tracks = [hearing.track for hearing in heard.heard]
        probe = untouched.call(tracks, data.labels, job.plan, job.start, store, known)
        untouched.save(probe, job.run)
    origin = Origin(job.plan, job.start, job.id, len(evaluations), fitted, probe)
    contents = _contents(job, job.id, trained, data, fitted.temperature, thresholds)
    found = find(crosswise(judged, job.aim), rivals(origin))
    contents = replace(contents, description=description(found, data, origin), card=card(found, data, origin))
    export(
        contents,
        job.run / BUNDLE,
        sound=rounds.some_windows(store, [each.track for each in judged.heard], trained.classifier.backbone, job.plan),
    )
    holdout = None
    if kept := data.of(Split.HOLDOUT):
        holdout = evaluate(job.run / BUNDLE, kept, advance=telling.advance("judging the holdout"))
        holdout.save(job.run / HOLDOUT)
    judged.save(job.run / EVALUATION)
    return Result(job.run / BUNDLE, judged, holdout, origin, data, tuple(left))


def rivals(origin: Origin) -> tuple[Rival, ...]:
    """What the judged model is compared with."""
    return () if origin.probe is None else (Rival(PROBE_NAME, origin.probe),)


def _calibrated(heard: Evaluation, job: Job) -> calibrate.Calibration:
    artists = [hearing.track.artist for hearing in heard.heard]
    folds = calibrate.held_out_folds(artists, [hearing.track.fold for hearing in heard.heard])
    return calibrate.calibrate(heard.logits, heard.truths, job.aim, calibrate.artist_weights(artists), folds)


def _folds(judged: Evaluation, job: Job) -> int:
    return len({hearing.track.fold for hearing in judged.heard}) if job.crosswise else 1


def _audible(evaluation: Evaluation) -> Evaluation:
    """Without tracks that gave no logits to calibrate by."""
    heard = tuple(hearing for hearing, fine in zip(evaluation.heard, evaluation.audible, strict=True) if fine)
    return Evaluation(evaluation.rules, heard, evaluation.failures)


def _contents(
    job: Job, name: str, trained: Trained, data: DataSet, temperature: float, thresholds: Mapping[str, float]
) -> Contents:
    backbone = trained.classifier.backbone.eval()
    part = Part(job.plan.backbone, backbone, trained.head, job.plan.crop_s or backbone.window_s)
    return Contents(
        id=name,
        members=(part,),
        labels=data.labels,
        segments=job.plan.segments,
        temperature=temperature,
        thresholds=dict(thresholds),
        description={"metrics": {}, "training_data": {}, "provenance": {}},
        card="",
        taxonomy_hash=job.taxonomy_hash,
    )
