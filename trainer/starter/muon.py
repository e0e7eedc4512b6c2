"""The Muon optimiser for convolutions: momentum whose update is made orthogonal. Must never see data.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024); the size of a step follows Liu et al.,
"Muon is Scalable for LLM Training" (arXiv 2502.16982), so that AdamW's rates and decay fit. `torch.optim.Muon` takes
matrices only; most weights here are convolutions, which count as matrices of one row per output channel.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

# Coefficients of the quintic iteration, from Jordan et al.
_A, _B, _C = 3.4445, -4.7750, 2.0315


class Muon(torch.optim.Optimizer):
    """Takes parameters of two or more dimensions. `lr` and `weight_decay` as for AdamW."""

    def __init__(self, weights: Iterable[Tensor], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(list(weights), {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                speed = state.setdefault("speed", torch.zeros_like(weight))
                speed.lerp_(weight.grad, 1.0 - group["momentum"])
                ahead = weight.grad.lerp(speed, group["momentum"])
                update = orthogonal(ahead.reshape(len(weight), -1)).reshape(weight.shape)
                size = 0.2 * max(len(weight), weight[0].numel()) ** 0.5
                weight.mul_(1.0 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"] * size)


def orthogonal(matrix: Tensor) -> Tensor:
    """`matrix` [rows, columns] with its singular values brought near 1 by five Newton-Schulz steps."""
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    current: Tensor = wide / (wide.norm() + 1e-7)
    for _ in range(5):
        square = current @ current.T
        current = _A * current + (_B * square + _C * square @ square) @ current
    return current.T if matrix.shape[0] > matrix.shape[1] else current
