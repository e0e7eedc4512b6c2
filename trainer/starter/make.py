"""Makes the starter bundle from a manifest: the whole story, from recordings to a sealed folder.

Cross-validation comes first: temperature, threshold and every number on the model card are taken from students that
never saw the track they judge. The student that ships is then trained in the same way on all tracks. Owns the order of
steps and the choice of what is trained; must hold no arithmetic of its own.
"""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
import torch

from daemon.core.decide import softmax
from daemon.core.errors import ConfigError
from trainer.backbones.compact import Committee, Compact
from trainer.backbones.mobilenet import MobileNet, load_mobilenet
from trainer.frontends import COMPACT_MEL
from trainer.head import fit_head
from trainer.judging.calibrate import artist_weights, choose_threshold, fit_temperature
from trainer.shipping.export import Contents, Part, export
from trainer.starter.card import Findings, card, description
from trainer.starter.distil import Plan, train
from trainer.starter.judge import Array, Served, fit_on, out_of_fold
from trainer.starter.rows import Clips, open_clips, prepare_clips, serve, write_recipes
from trainer.tracks.importers.table import read_manifest
from trainer.tracks.manifest import Track

Say = Callable[[str], None]

# The window that is served is as long as the crop that is trained.
WINDOW_S = 4.0
SEGMENTS = 7

# Stands for "held out nothing": the students that ship.
ALL = -1


@dataclass(frozen=True, slots=True)
class Setting:
    """All that decides the bundle. Paths apart, the same setting gives the same bundle on the same machine."""

    manifest: Path
    teacher: Path | None
    out: Path
    cache: Path
    genres: tuple[str, ...]
    id: str = "starter-1"
    speeds: int = 2
    mixes: int = 6
    committee: int = 1
    precision: float = 0.92
    workers: int = 1
    seed: int = 0
    plan: Plan = field(default_factory=Plan)


@dataclass(frozen=True, slots=True)
class Job:
    """One student to train: without the tracks of `fold`, from random start `seed`; kept at `checkpoint`."""

    fold: int
    seed: int
    checkpoint: Path


def make_starter(setting: Setting, say: Say) -> Findings:
    """Train, judge and export; `setting.out` then holds a bundle that was loaded and replayed.

    Raises:
        ConfigError: the manifest or the genres do not allow it.
        BadFile, TryLater: a recording or the teacher cannot be read.
        BundleError: the exported graph does not say what torch says.
    """
    tracks = read_manifest(setting.manifest)
    labels = _labels(setting, tracks)
    folds = [track.fold for track in tracks]
    recipes = write_recipes(folds, setting.speeds, setting.mixes, setting.seed)
    teacher = load_mobilenet(setting.teacher) if setting.teacher else None
    say(f"{len(tracks)} tracks, {len(recipes)} rows of 30 s; cached ones are not computed again")
    folder = prepare_clips(tracks, recipes, teacher, setting.cache, _milestones(say, "rows"))
    served = Served([serve(track.path, WINDOW_S, SEGMENTS) for track in tracks])
    jobs = _jobs(setting, folder, labels, sorted(set(folds)))
    _train_all(setting, folder, jobs, labels, folds, say)
    clips = open_clips(folder, recipes)
    committees = {fold: _committee(setting, [job for job in jobs if job.fold == fold]) for fold in {*folds, ALL}}
    final = committees.pop(ALL)
    genres = len(setting.genres)
    logits = out_of_fold(committees, served, clips, labels, folds, genres)
    findings = _judge(setting, logits, tracks, labels, _probe(teacher, clips, labels, folds, genres))
    head, _ = fit_on(final, served, clips, labels, genres, [True] * len(tracks))
    thresholds = dict.fromkeys(setting.genres, findings.threshold)
    told = description(findings)
    contents = Contents(
        id=setting.id,
        members=(Part("compact", final, head, WINDOW_S),),
        labels=setting.genres,
        segments=SEGMENTS,
        temperature=findings.temperature,
        thresholds=thresholds,
        description=told,
        card=card(findings),
    )
    export(contents, setting.out)
    return findings


def _labels(setting: Setting, tracks: Sequence[Track]) -> list[int]:
    """Each track's genre as an index, -1 for a genre that the bundle will not know."""
    place = {genre: index for index, genre in enumerate(setting.genres)}
    problems = []
    for genre in setting.genres:
        folds = {track.fold for track in tracks if track.genre == genre}
        if len(folds) < 2:
            problems.append(f"genre {genre!r} needs tracks in at least two folds, it has them in {len(folds)}")
    if problems:
        raise ConfigError(str(setting.manifest), problems)
    return [place.get(track.genre, -1) for track in tracks]


def _jobs(setting: Setting, folder: Path, labels: Sequence[int], folds: Sequence[int]) -> list[Job]:
    identity = f"{setting.plan}|{labels}|{setting.genres}|{folder.name}|{setting.teacher is None}"
    key = hashlib.sha256(identity.encode()).hexdigest()[:12]
    students = setting.cache / "students"
    return [
        Job(fold, setting.seed + member, students / f"{key}-fold{fold}-{setting.seed + member}.pt")
        for member in range(setting.committee)
        for fold in [*folds, ALL]
    ]


def _train_all(
    setting: Setting, folder: Path, jobs: Sequence[Job], labels: list[int], folds: list[int], say: Say
) -> None:
    """Train what has no checkpoint yet, so that an interrupted run goes on where it stopped."""
    missing = [job for job in jobs if not job.checkpoint.exists()]
    say(f"{len(jobs)} students, {len(missing)} of them to train")
    if setting.workers == 1:
        for job in missing:
            run_job(setting, folder, job, labels, folds)
        return
    # Forking a process that has used torch's threads can hang it.
    with ProcessPoolExecutor(setting.workers, multiprocessing.get_context("spawn")) as pool:
        for future in [pool.submit(run_job, setting, folder, job, labels, folds) for job in missing]:
            future.result()


def run_job(setting: Setting, folder: Path, job: Job, labels: list[int], folds: list[int]) -> None:
    """Train the student of `job` on one thread and keep its weights; may run in a process of its own."""
    torch.set_num_threads(1)
    teacher = load_mobilenet(setting.teacher) if setting.teacher else None
    clips = open_clips(folder, write_recipes(folds, setting.speeds, setting.mixes, setting.seed))
    name = "all folds" if job.fold == ALL else f"without fold {job.fold}"

    def report(step: int, of: int, loss: float) -> None:
        if step % 250 == 0 or step == of:
            click.echo(f"student {job.seed}, {name}: step {step} of {of}, loss {loss:.3f}", err=True)

    student = train(
        clips,
        labels,
        len(setting.genres),
        [fold != job.fold for fold in folds],
        teacher,
        setting.plan,
        job.seed,
        report,
    )
    job.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    draft = job.checkpoint.with_suffix(".part")
    torch.save(student.state_dict(), draft)
    draft.rename(job.checkpoint)


def _committee(setting: Setting, jobs: Sequence[Job]) -> Committee:
    students = []
    for job in jobs:
        student = Compact(setting.plan.width, setting.plan.embedding_dim)
        student.load_state_dict(torch.load(job.checkpoint, map_location="cpu", weights_only=True))
        students.append(student)
    return Committee(students).eval()


def _probe(
    teacher: MobileNet | None, clips: Clips, labels: Sequence[int], folds: Sequence[int], genres: int
) -> Array | None:
    """Out-of-fold logits of a head on the teacher's own hidden layer: what the student is measured against."""
    if teacher is None:
        return None
    with torch.inference_mode():
        hidden = teacher.hide(torch.from_numpy(clips.steps[: len(labels)].astype(np.float32)).mean(1)).numpy()
    fold, known = np.asarray(folds), np.asarray(labels)
    logits = np.zeros((len(labels), genres), np.float32)
    for held_out in sorted(set(folds)):
        seen = (fold != held_out) & (known >= 0)
        head = fit_head(hidden[seen], known[seen].tolist(), genres, [1.0] * int(seen.sum()))
        logits[fold == held_out] = head.logits(hidden[fold == held_out])
    return logits


def _judge(
    setting: Setting, logits: Array, tracks: Sequence[Track], labels: Sequence[int], probe: Array | None
) -> Findings:
    truth = np.asarray(labels)
    known = truth >= 0
    weights = artist_weights([track.artist for track in tracks])
    temperature = fit_temperature(logits[known], truth[known], weights[known])
    probabilities = softmax(logits, temperature)
    threshold = choose_threshold(probabilities[known], truth[known], setting.precision, weights[known])
    return Findings(
        genres=setting.genres,
        tracks=tuple(tracks),
        labels=truth,
        probabilities=probabilities,
        weights=weights,
        temperature=temperature,
        threshold=threshold,
        target_precision=setting.precision,
        probe=None if probe is None else softmax(probe, 1.0),
        plan=setting.plan,
        committee=setting.committee,
        seed=setting.seed,
        rows=len(tracks) * (1 + setting.speeds + setting.mixes),
        teacher=None if setting.teacher is None else setting.teacher.name,
        window_s=WINDOW_S,
        segments=SEGMENTS,
        sample_rate_hz=COMPACT_MEL.sample_rate_hz,
    )


def _milestones(say: Say, what: str) -> Callable[[int, int], None]:
    def advance(done: int, of: int) -> None:
        if done % 250 == 0 or done == of:
            say(f"{done} of {of} {what}")

    return advance
