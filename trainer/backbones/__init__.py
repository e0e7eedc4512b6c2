"""The networks that the trainer knows, one per file, by name. Must never train one or know a genre."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from daemon.core.errors import ConfigError
from trainer.backbones.compact import Compact, load_compact
from trainer.backbones.contract import Backbone
from trainer.backbones.mobilenet import MobileNet, load_mobilenet

Start = Path | str | None


def build(name: str, checkpoint: Start = None) -> Backbone:
    """The backbone called `name`, with the weights of `checkpoint` or, for None, a random start.

    Raises:
        ConfigError: there is no such backbone; the message lists those that there are.
        BadFile: `checkpoint` is missing or of another network.
        MusicReclassError: `checkpoint` names a model that is neither here nor can be fetched.
    """
    if name not in BACKBONES:
        raise ConfigError("training", [f"backbone: there is no {name!r}; there are {', '.join(BACKBONES)}"])
    return BACKBONES[name](checkpoint)


def _ast(checkpoint: Start, stride: int | None = None) -> Backbone:
    # Importing transformers takes seconds, which nobody who trains another network should wait for.
    from trainer.backbones.ast import Ast

    if checkpoint is None:
        strides = {} if stride is None else {"frequency_stride": stride, "time_stride": stride}
        return Ast.random(**strides)
    return Ast.from_pretrained(checkpoint, frequency_stride=stride, time_stride=stride)


def _compact(checkpoint: Start) -> Backbone:
    return Compact() if checkpoint is None else load_compact(Path(checkpoint))


def _mobilenet(checkpoint: Start) -> Backbone:
    return MobileNet() if checkpoint is None else load_mobilenet(Path(checkpoint))


# `ast-fast` lays its patches side by side instead of overlapping them: 514 tokens in place of 1,214.
BACKBONES: dict[str, Callable[[Start], Backbone]] = {
    "ast": _ast,
    "ast-fast": lambda checkpoint: _ast(checkpoint, stride=16),
    "compact": _compact,
    "mobilenet": _mobilenet,
}
