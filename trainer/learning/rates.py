"""Which parameters learn, and how fast at each step. Must never run a network or change a weight."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from trainer.learning.classifier import Classifier
from trainer.plan import Depth, Plan


def learning(classifier: Classifier, plan: Plan) -> list[nn.Module]:
    """The parts that `plan.depth` lets learn: stages of the backbone from the input on, the head last."""
    stages = list(classifier.backbone.stages())
    taken = {Depth.HEAD: [], Depth.PARTIAL: stages[-plan.unfrozen :], Depth.FULL: stages}[plan.depth]
    return [*taken, classifier.head]


def freeze(classifier: Classifier, plan: Plan) -> None:
    """Afterwards only what learns asks for gradients. A parameter in no stage never learns: the embedding does not
    hang on it, and several processes would wait for its gradient forever."""
    classifier.requires_grad_(False)
    for part in learning(classifier, plan):
        part.requires_grad_(True)


def to_training_mode(classifier: Classifier, plan: Plan) -> None:
    """Put what learns into training mode and the rest into evaluation mode: a frozen BatchNorm keeps its statistics,
    and a frozen stage drops nothing out."""
    classifier.train(plan.depth is Depth.FULL)
    classifier.dropout.train()
    for part in learning(classifier, plan):
        part.train()


def parameter_groups(classifier: Classifier, plan: Plan) -> list[dict[str, Any]]:
    """AdamW's groups; each remembers its highest rate as `peak`.

    The last stage learns at `plan.rate` and each one before it at `plan.layer_decay` times the next one's (layer-wise
    decay, Howard & Ruder, ACL 2018); the head at `plan.head_rate`. Biases, normalisations and other vectors are not
    decayed.
    """
    *stages, head = learning(classifier, plan)
    groups = []
    for distance, stage in enumerate(reversed(stages)):
        groups += _groups(stage, plan.rate * plan.layer_decay**distance, plan.weight_decay)
    return groups + _groups(head, plan.head_rate, plan.weight_decay)


def _groups(part: nn.Module, peak: float, decay: float) -> list[dict[str, Any]]:
    matrices = [weight for weight in part.parameters() if weight.ndim > 1]
    vectors = [weight for weight in part.parameters() if weight.ndim <= 1]
    halves = [(matrices, decay), (vectors, 0.0)]
    return [{"params": half, "lr": peak, "peak": peak, "weight_decay": its} for half, its in halves if half]


def share_of_peak(step: int, steps: int, warmup: float) -> float:
    """The factor of every peak rate at `step` (from 0) of `steps`: a straight rise over the first `warmup` share, then
    half a cosine that reaches 0 after the last step (Loshchilov & Hutter, ICLR 2017, without restarts)."""
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1.0 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
