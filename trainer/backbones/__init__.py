"""The networks that the trainer knows, one per file, by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from trainer.backbones.compact import Compact
from trainer.backbones.mobilenet import MobileNet

BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "compact": Compact,
    "mobilenet": MobileNet,
}
