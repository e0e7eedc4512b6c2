"""The `export` verb: a finished run as a bundle with all that belongs to it. Must never train or judge anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from daemon.core import bundle
from daemon.core.errors import ConfigError
from trainer import rounds
from trainer.backbones import build
from trainer.fit import BUNDLE, FINAL, STRETCH_S, Job, Result, load_result, read_job
from trainer.learning import checkpoint
from trainer.learning.classifier import Classifier
from trainer.paper import REPORT
from trainer.progress import Telling
from trainer.rounds import HEAD
from trainer.shipping.export import Contents, Extra, Part, export
from trainer.shipping.variants import Made, Trial
from trainer.tracks.clips import ClipStore
from trainer.tracks.manifest import Split, Track

# Tracks on which variants are calibrated and compared: enough that one in a hundred is seen, few enough for minutes.
TRIAL_TRACKS = 200


def ship(run: Path, folder: Path, install: bool, fp16: bool, int8: bool, telling: Telling) -> list[str]:
    """Write the bundle of the finished run to `folder` (below it under its own name where it is to be installed) with
    `music_classifier.pth`, the report and the variants asked for. Returns what to tell.

    Raises:
        ConfigError: the run has not finished.
        BundleError: the exported graph does not say what torch says.
        BadFile, TryLater: the folder cannot be written; what was there is as it was.
    """
    job = read_job(run)
    result = load_result(job)
    target = folder / job.id if install else folder
    extras = {Extra.TORCH} | ({Extra.FP16} if fp16 else set()) | ({Extra.INT8} if int8 else set())
    classifier = Classifier(build(job.plan.backbone, job.start), result.data.labels)
    classifier.load_state_dict(checkpoint.load_best(run / FINAL))
    classifier.eval()
    store = ClipStore(job.clips, classifier.backbone.sample_rate_hz, stretch_s=max(STRETCH_S, job.plan.crop_s))
    tracks = _trial_tracks(result)
    trial = Trial(
        len(tracks),
        lambda place: rounds.windows(store, tracks[place], classifier.backbone, job.plan),
        # No targets: the model learnt these tracks, so its accuracy on them would flatter every variant.
    )
    telling.say(f"exporting; variants are tried on {len(tracks)} tracks")
    contents = _contents(job, result, classifier, run)
    sound = rounds.some_windows(store, tracks, classifier.backbone, job.plan)
    made = export(contents, target, sound=sound, trial=trial, extras=extras, sharing=run / BUNDLE)
    lines = [_told(one) for one in made]
    lines.append(f"bundle: {target}")
    if install:
        lines.append(f"serve it: music-reclass models use {job.id}")
    return lines


def _contents(job: Job, result: Result, classifier: Classifier, run: Path) -> Contents:
    manifest = bundle.load(run / BUNDLE).manifest
    backbone = classifier.backbone
    part = Part(job.plan.backbone, backbone, rounds.read_head(run / FINAL / HEAD), job.plan.crop_s or backbone.window_s)
    return Contents(
        id=job.id,
        members=(part,),
        labels=manifest.labels,
        segments=manifest.decision.segments,
        temperature=manifest.decision.temperature,
        thresholds=manifest.decision.thresholds,
        description={
            "metrics": manifest.metrics,
            "training_data": manifest.training_data,
            "provenance": manifest.provenance,
        },
        card=_card(run),
        taxonomy_hash=manifest.taxonomy_hash,
        report=run / REPORT if (run / REPORT).is_dir() else None,
    )


def _card(run: Path) -> str:
    return (run / BUNDLE / "MODEL_CARD.md").read_text(encoding="utf-8")


def _trial_tracks(result: Result) -> list[Track]:
    lost = {left.path for left in result.left_out}
    tracks = [track for track in result.data.of(Split.TRAIN, Split.VALID) if track.path not in lost]
    if not tracks:
        raise ConfigError("data set", ["has no track to try the variants on"])
    return [tracks[place] for place in np.linspace(0, len(tracks) - 1, min(TRIAL_TRACKS, len(tracks)), dtype=int)]


def _told(made: Made) -> str:
    if made.left_out:
        return f"{made.precision}: left out: {made.left_out}"
    found = made.measured
    line = (
        f"{made.precision}: {found['bytes'] / 1e6:.1f} MB (fp32 {found['bytes_fp32'] / 1e6:.1f}), decides "
        f"{found['tracks_changed']:.1%} of {found['tracks']} tracks otherwise, {found['ms_per_window']:.0f} ms a window"
        f" (fp32 {found['ms_per_window_fp32']:.0f}) on {found['measured_on']}"
    )
    return line + ("; serves by default where it can" if made.recommended else "; serves only where it is asked for")
