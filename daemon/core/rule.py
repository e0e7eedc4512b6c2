"""How a bundle's outputs become decisions in the owner's taxonomy: the daemon's, and the trainer's who judges it."""

from __future__ import annotations

from daemon.core.bundle import Manifest
from daemon.core.config import Thresholds
from daemon.core.decide import Rule
from daemon.core.taxonomy import Taxonomy


def decision_rule(manifest: Manifest, taxonomy: Taxonomy | None, thresholds: Thresholds) -> Rule:
    """The rule of this bundle in this taxonomy; without one the bundle's labels are the genres.

    A genre's own threshold outranks the config's, which outranks the bundle's calibrated one. Where several of the
    bundle's labels are one genre to the owner, the strictest of their thresholds holds.
    """
    labels = manifest.labels
    genres = dict(zip(labels, labels, strict=True)) if taxonomy is None else taxonomy.mapping(labels)
    calibrated: dict[str, float] = {}
    for label, genre in genres.items():
        if genre is not None:
            calibrated[genre] = max(calibrated.get(genre, 0.0), manifest.decision.thresholds[label])
    chosen = {}
    for name, threshold in calibrated.items():
        general = threshold if thresholds.default == "auto" else thresholds.default
        own = None if taxonomy is None else taxonomy.genre(name).threshold
        chosen[name] = general if own is None else own
    return Rule(manifest.id, tuple(labels), genres, manifest.decision.temperature, chosen)
