"""The averaged weights of a run, and the BatchNorm statistics that belong to them. Must never choose between epochs.

Averaging is torch's (`torch.optim.swa_utils`). Averaged weights see other activations than any of the weights that
they are the mean of, so the running statistics of BatchNorm are counted anew before they are judged or kept
(Izmailov et al., UAI 2018, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from trainer.learning.classifier import Classifier
from trainer.plan import Averaging, Plan


class Average:
    """The average of a classifier's weights as `plan.averaging` says. Frozen weights stay exactly as they are."""

    def __init__(self, classifier: Classifier, plan: Plan) -> None:
        self._kind = plan.averaging
        self._decay = plan.ema_decay
        # At least one epoch's end, or there would be nothing to keep.
        self._from_epoch = plan.epochs - max(1, round(plan.swa_share * plan.epochs)) + 1
        self._model: AveragedModel | None = None
        if plan.averaging is not Averaging.NONE:
            follow = self._follow if plan.averaging is Averaging.EMA else get_swa_multi_avg_fn()  # type: ignore[no-untyped-call]
            self._model = AveragedModel(classifier, multi_avg_fn=follow).eval().requires_grad_(False)

    def _follow(self, averaged: Any, current: Any, count: Tensor | int) -> None:
        # While few steps are done the average must not hang on where it began.
        warm = (1.0 + float(count)) / (10.0 + float(count))
        get_ema_multi_avg_fn(min(self._decay, warm))(averaged, current, count)  # type: ignore[no-untyped-call]

    def after_step(self, classifier: Classifier) -> None:
        """Take in the weights after an optimiser step (EMA)."""
        if self._model is not None and self._kind is Averaging.EMA:
            self._model.update_parameters(classifier)

    def after_epoch(self, classifier: Classifier, epoch: int) -> None:
        """Take in the weights at the end of `epoch` (from 1), if it is one of the last `swa_share` (SWA)."""
        if self._model is not None and self._kind is Averaging.SWA and epoch >= self._from_epoch:
            self._model.update_parameters(classifier)

    def chosen(self, classifier: Classifier) -> Classifier:
        """What would be kept now: the average, or `classifier` itself as long as nothing has been averaged."""
        if self._model is None or not self._model.n_averaged:
            return classifier
        return cast(Classifier, self._model.module)

    def state_dict(self) -> dict[str, Tensor]:
        """Its weights and their count; empty where nothing is averaged."""
        return {} if self._model is None else self._model.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        if self._model is not None:
            self._model.load_state_dict(dict(state))


class Statistics:
    """The BatchNorm layers that are in training mode in `classifier` now, and so keep running statistics."""

    def __init__(self, classifier: nn.Module) -> None:
        self.names = [name for name, part in classifier.named_modules() if _counts(part)]
        self._buffers = [buffer for name in self.names for buffer in classifier.get_submodule(name).buffers()]
        self._kept: list[Tensor] = []

    def keep(self) -> None:
        """Remember the statistics as they are."""
        self._kept = [buffer.clone() for buffer in self._buffers]

    def put_back(self) -> None:
        """Take back what came since `keep`: one infinite activation would stay in a running mean forever."""
        for buffer, kept in zip(self._buffers, self._kept, strict=True):
            buffer.copy_(kept)


def _counts(part: nn.Module) -> bool:
    return isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training and part.track_running_stats


@torch.no_grad()
def renew(classifier: Classifier, names: Sequence[str], waveforms: Iterable[Tensor]) -> None:
    """Count the statistics of the BatchNorm layers `names` anew, as the mean over batches `waveforms`
    [batch, samples] on the classifier's device; everything else is in evaluation mode, then and afterwards."""
    classifier.eval()
    layers = [cast(nn.BatchNorm2d, classifier.get_submodule(name)) for name in names]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    try:
        for waveform in waveforms if layers else ():
            classifier.backbone(waveform)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
            layer.eval()
