"""A backbone with a linear head: what is trained. Must never read files or choose how to train."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.backbones.contract import Backbone
from trainer.head import Head

Array = NDArray[np.float32]


class Classifier(nn.Module):
    """picture [batch, bands, frames] (of `backbone.front`) → logits [batch, labels]; `labels` in output order."""

    def __init__(self, backbone: Backbone, labels: Sequence[str], dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.labels = tuple(labels)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(backbone.embedding_dim, len(self.labels))

    def forward(self, picture: Tensor) -> Tensor:
        """The logits of pictures, which the caller has masked or not."""
        logits: Tensor = self.head(self.dropout(self.backbone.embed(picture)))
        return logits

    def take_head(self, head: Head) -> None:
        """Start from (or end with) a head that was fitted elsewhere."""
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(head.weights))
            self.head.bias.copy_(torch.from_numpy(head.bias))

    def linear(self) -> Head:
        """The head as arrays."""
        weight, bias = self.head.weight.detach().cpu().numpy(), self.head.bias.detach().cpu().numpy()
        return Head(weight.astype(np.float32), bias.astype(np.float32))


def embed(backbone: Backbone, tracks: Iterable[Array], device: torch.device | None = None) -> Iterable[Array]:
    """The mean embedding [dim] of each track's windows [n, samples], in evaluation mode and float32: what the daemon
    computes. The module is put back into the mode that it was in."""
    was_training = backbone.training
    backbone.eval()
    try:
        for windows in tracks:
            with torch.inference_mode():
                parts = [
                    backbone(torch.from_numpy(np.ascontiguousarray(part)).to(device)).float().cpu()
                    for part in np.array_split(windows, max(1, -(-len(windows) // backbone.embed_batch)))
                ]
            yield torch.cat(parts).mean(0).numpy()
    finally:
        backbone.train(was_training)
