"""The learning-rate search as a verb: data, classifier, sweep, plot. Owns no arithmetic."""

from __future__ import annotations

import os
from pathlib import Path

from daemon.core.errors import ConfigError
from trainer.backbones import build
from trainer.fit import STRETCH_S
from trainer.learning.batches import Crops
from trainer.learning.classifier import Classifier
from trainer.learning.lr_finder import find_rate, plot
from trainer.plan import Plan
from trainer.progress import Telling
from trainer.tracks import manifest
from trainer.tracks.clips import ClipStore
from trainer.tracks.manifest import Split


def seek_rate(data: Path, out: Path, clips: Path, plan: Plan, start: str | None, telling: Telling) -> list[str]:
    """Sweep the learning rate over the set's tracks; `out` then holds a plot and a table. Returns what to tell.

    Raises:
        ConfigError: the data set cannot be used.
    """
    found = manifest.read(data)
    backbone = build(plan.backbone, start)
    store = ClipStore(clips, backbone.sample_rate_hz, stretch_s=max(STRETCH_S, plan.crop_s))
    tracks = found.of(Split.TRAIN, Split.VALID)
    workers = plan.workers or os.cpu_count() or 1
    left = {file.path for file in store.prepare(tracks, workers=workers, advance=telling.advance("decoding"))}
    usable = [track for track in tracks if track.path not in left]
    if not usable:
        raise ConfigError(str(data), ["has no track that can be used"])
    classifier = Classifier(backbone, found.labels, plan.dropout)
    samples = round((plan.crop_s or backbone.window_s) * backbone.sample_rate_hz)
    sweep = find_rate(classifier, Crops(store, usable, found.targets(usable), samples), plan)
    out.mkdir(parents=True, exist_ok=True)
    plot(sweep, out / "learning-rates.png")
    return [f"suggested: --set rate={sweep.suggested:.2g}", f"plot: {out / 'learning-rates.png'}"]
