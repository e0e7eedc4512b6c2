"""Gradient checkpointing for networks with batch normalisation. Must never change what a network computes.

Chen et al., "Training Deep Nets with Sublinear Memory Cost" (2016): activations inside a part are dropped after the
forward pass and computed again in the backward pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def computed_again(part: nn.Module, image: Tensor) -> Tensor:
    """`part(image)`, whose inner activations are not kept for the backward pass; running statistics of batch
    normalisation move once, as without checkpointing."""
    if not (part.training and torch.is_grad_enabled()):
        return torch.as_tensor(part(image))
    result: Tensor = checkpoint(
        part, image, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), _still_statistics(part))
    )
    return result


@contextlib.contextmanager
def _still_statistics(part: nn.Module) -> Iterator[None]:
    """The second forward pass sees the same batch: counting it again would double the momentum."""
    norms = [module for module in part.modules() if isinstance(module, _BatchNorm)]
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
            norm.num_batches_tracked = None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
        yield
    finally:
        for norm, momentum, batches in before:
            norm.momentum = momentum
            norm.num_batches_tracked = batches
