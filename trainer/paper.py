"""What a finished run or an evaluation is told by: the report and the last lines on the terminal. Measures nothing."""

from __future__ import annotations

from pathlib import Path

from daemon.core.errors import ConfigError
from trainer import rounds
from trainer.fit import BUNDLE, EVALUATION, Job, Result, load_result, read_job, rivals
from trainer.judging.crosswise import crosswise
from trainer.judging.evaluate import evaluate
from trainer.judging.findings import find
from trainer.judging.suspects import suspects
from trainer.progress import Outcome, Stopped, Telling
from trainer.telling.chapters import Extras
from trainer.telling.report import write_report
from trainer.telling.sentences import headline, standfirst
from trainer.tracks import manifest
from trainer.tracks.manifest import Split

REPORT = "report"


def write_fit_report(job: Job, result: Result) -> Path:
    """The report of a finished run in RUN/report; returns the page.

    Raises:
        BadFile, TryLater: the folder cannot be written.
    """
    extras = Extras(
        measured_on=result.origin.judged_on,
        aim=job.aim,
        facts=_facts(job, result),
        suspects=suspects(result.judged),
        rivals=rivals(result.origin),
        learning=_learning(job.run),
        calibration=result.origin.calibration,
    )
    return write_report(crosswise(result.judged, job.aim), job.run / REPORT, title=job.id, extras=extras)


def tell_result(job: Job, result: Result, page: Path) -> list[str]:
    """The last lines of a run."""
    found = find(crosswise(result.judged, job.aim), rivals(result.origin))
    low, high = found.accuracy.interval
    lines = [
        f"accuracy {found.accuracy.value:.1%} (95 % interval {low:.1%} to {high:.1%}) of {found.accuracy.of} "
        f"{result.origin.judged_on}"
    ]
    lines += [f"{one.name}: {one.rival:.1%} of the same tracks" for one in found.rivals]
    if result.holdout is not None:
        kept = find(result.holdout)
        low, high = kept.accuracy.interval
        lines.append(
            f"frozen holdout: {kept.accuracy.value:.1%} ({low:.1%} to {high:.1%}) of {kept.accuracy.of} tracks"
        )
    lines += [headline(found), *standfirst(found)]
    return [*lines, f"bundle: {job.run / BUNDLE}", f"report: {page}"]


def rewrite_report(run: Path) -> Path:
    """Write the report of the finished run in `run` again.

    Raises:
        ConfigError: the run has not finished.
    """
    job = read_job(run)
    return write_fit_report(job, load_result(job))


def judge_bundle(bundle: Path, data: Path, split: str, segments: int | None, out: Path, telling: Telling) -> list[str]:
    """Judge a bundle on a part of a data set; `out` then holds figures and report. Returns what to tell.

    Raises:
        BundleError: the bundle is refused.
        ConfigError: the part is empty, or the bundle knows none of its genres.
    """
    found = manifest.read(data)
    parts = tuple(part for part in Split if part is not Split.RESERVED) if split == "all" else (Split(split),)
    tracks = found.of(*parts)
    if not tracks:
        raise ConfigError(str(data), [f"has no tracks in split {split!r}; `--split all` takes every one"])
    judged = evaluate(bundle, tracks, segments=segments, advance=telling.advance("judging"))
    judged.save(out / EVALUATION)
    told = f"the {split} tracks of {data.name}" if split != "all" else f"all tracks of {data.name}"
    # A model that learnt a track cannot doubt its label.
    doubtful = suspects(judged) if split in {"holdout", "valid"} else None
    page = write_report(judged, out, title=bundle.name, extras=Extras(measured_on=told, suspects=doubtful))
    numbers = find(judged)
    low, high = numbers.accuracy.interval
    first = f"accuracy {numbers.accuracy.value:.1%} ({low:.1%} to {high:.1%}) of {numbers.accuracy.of} tracks"
    failed = [f"could not be heard: {left.path}: {left.reason}" for left in judged.failures]
    return [first, headline(numbers), *standfirst(numbers), *failed, f"report: {page}"]


def _facts(job: Job, result: Result) -> dict[str, str]:
    tracks = result.data.of(Split.TRAIN, Split.VALID)
    return {
        "network": job.plan.backbone,
        "started from": result.origin.began_with or "random weights",
        "learnt": {"head": "the head only", "partial": f"the last {job.plan.unfrozen} stages and the head"}.get(
            job.plan.depth.value, "everything"
        ),
        "tracks": str(len(tracks)),
        "hours": f"{sum(track.duration_s for track in tracks) / 3600:.1f}",
        "genres": str(len(result.data.labels)),
        "left out": str(len(result.left_out)),
    }


def _learning(run: Path) -> dict[str, Outcome]:
    runs = {}
    for folder in sorted(run.iterdir()):
        told = rounds.read_outcome(folder) if folder.is_dir() else None
        if told is not None and told["train_losses"]:
            runs[folder.name] = Outcome(
                stopped=Stopped(told["stopped"]),
                epochs=told["epochs"],
                best_epoch=told["best_epoch"],
                steps=told["steps"],
                train_losses=tuple(told["train_losses"]),
                valid_losses=tuple(told["valid_losses"]),
                accuracies=tuple(told["accuracies"]),
            )
    return runs
