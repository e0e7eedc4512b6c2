"""EfficientAT's MobileNetV3 (`mn04_as` and its wider sisters), to start from their published checkpoints.

The architecture is that of Howard et al., "Searching for MobileNetV3" (ICCV 2019, tables 1 and 2), as adapted to
AudioSet by Schmid et al., "Efficient Large-Scale Audio Tagging via Transformer-to-CNN Knowledge Distillation" (ICASSP
2023). Module names follow the checkpoint, so that it loads strictly. Weights are read without unpickling and are never
shipped. Must never know a genre: labels live in heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.backbones.contract import Backbone
from trainer.backbones.memory import computed_again
from trainer.backbones.weights import load_strictly, read_weights, shape_of
from trainer.frontends import EFFICIENTAT_MEL, LogMel

# The checkpoint's own normalisation of log-mel.
LOG_MEL_MEAN, LOG_MEL_STD = -4.5, 5.0

# Of the hidden layer at width 1; the others are multiples of it.
HIDDEN = 1280


class Stage(NamedTuple):
    """One row of the MobileNetV3-large table, in channels at width 1."""

    kernel: int
    expanded: int
    out: int
    squeeze: bool
    hard_swish: bool
    stride: int


LARGE = (
    Stage(3, 16, 16, False, False, 1),
    Stage(3, 64, 24, False, False, 2),
    Stage(3, 72, 24, False, False, 1),
    Stage(5, 72, 40, True, False, 2),
    Stage(5, 120, 40, True, False, 1),
    Stage(5, 120, 40, True, False, 1),
    Stage(3, 240, 80, False, True, 2),
    Stage(3, 200, 80, False, True, 1),
    Stage(3, 184, 80, False, True, 1),
    Stage(3, 184, 80, False, True, 1),
    Stage(3, 480, 112, True, True, 1),
    Stage(3, 672, 112, True, True, 1),
    Stage(5, 672, 160, True, True, 2),
    Stage(5, 960, 160, True, True, 1),
    Stage(5, 960, 160, True, True, 1),
)


class Heard(NamedTuple):
    """What a teacher says of a batch: `steps` [batch, time, pooled_dim] before pooling in time, `pooled` [batch,
    pooled_dim] after it, `source_logits` [batch, 527] in AudioSet's class order."""

    steps: Tensor
    pooled: Tensor
    source_logits: Tensor


class MobileNet(Backbone):
    """waveform float32 [batch, samples] at 32 kHz, at least 0.1 s → embedding float32 [batch, embedding_dim].

    `width` multiplies all channels; 0.4 wide it has 0.98 M parameters, `pooled_dim` 384 and `embedding_dim` 512.
    The embedding is the hidden layer of the checkpoint's classifier, because a linear probe on it is better than one
    on the pooled features: 82.8 % against 78.1 % on the starter's five genres (artist-disjoint folds, the penalty that
    suits each best).
    """

    sample_rate_hz = EFFICIENTAT_MEL.sample_rate_hz
    window_s = 10.0
    frames_per_s = EFFICIENTAT_MEL.sample_rate_hz / EFFICIENTAT_MEL.hop

    def __init__(self, width: float = 0.4, classes: int = 527) -> None:
        super().__init__()
        self.log_mel = LogMel(EFFICIENTAT_MEL)
        entry = _scaled(16, width)
        layers: list[nn.Module] = [_convolve(1, entry, 3, 2, 1, nn.Hardswish())]
        inward = entry
        for stage in LARGE:
            layers.append(_Residual(inward, stage, width))
            inward = _scaled(stage.out, width)
        self.pooled_dim = 6 * inward
        layers.append(_convolve(inward, self.pooled_dim, 1, 1, 1, nn.Hardswish()))
        self.features = nn.Sequential(*layers)
        self.embedding_dim = _scaled(HIDDEN, width)
        # Indices 2 and 5 carry the weights; the checkpoint's 0, 1, 3, 4 are pooling, flattening, hard-swish, dropout.
        self.classifier = nn.ModuleDict(
            {"2": nn.Linear(self.pooled_dim, self.embedding_dim), "5": nn.Linear(self.embedding_dim, classes)}
        )
        # The source's own head is no part of the embedding: it has no gradient to learn from.
        self.classifier["5"].requires_grad_(False)
        self.saves_memory = False

    def front(self, waveform: Tensor) -> Tensor:
        """The normalised log-mel [batch, 128, frames], 100 frames a second."""
        picture: Tensor = (self.log_mel(waveform) - LOG_MEL_MEAN) / LOG_MEL_STD
        return picture

    def embed(self, picture: Tensor) -> Tensor:
        """The embedding [batch, embedding_dim] of a picture [batch, 128, frames]."""
        return self.hide(self.steps(picture).mean(1))

    def steps(self, picture: Tensor) -> Tensor:
        """What is heard in each stretch of 32 frames, [batch, time, pooled_dim]."""
        image = picture[:, None]
        for part in self.features:
            image = computed_again(part, image) if self.saves_memory else part(image)
            # Channels side by side in memory: once the entry has made some, all that follows keeps them so. A training
            # step on one CPU core took 0.32 s instead of 0.52 s. Weights stay as they are, as safetensors wants them.
            image = image.contiguous(memory_format=torch.channels_last)
        # A mean over hundreds of cells in half precision would lose what the network gained.
        return image.float().mean(2).transpose(1, 2)

    def hide(self, pooled: Tensor) -> Tensor:
        """The classifier's hidden layer [..., embedding_dim] of pooled features [..., pooled_dim]."""
        return functional.hardswish(self.classifier["2"](pooled))

    def source_logits(self, embedding: Tensor) -> Tensor:
        """AudioSet logits [..., classes] of embeddings [..., embedding_dim], by the checkpoint's own head; they mean
        something only while the rest is as it was loaded."""
        logits: Tensor = self.source_head(embedding)
        return logits

    def tag(self, pooled: Tensor) -> Tensor:
        """AudioSet logits [..., classes] of pooled features [..., pooled_dim]."""
        return self.source_logits(self.hide(pooled))

    def hear(self, waveform: Tensor) -> Heard:
        """All that the network hears in a batch of sound."""
        steps = self.steps(self.front(waveform))
        pooled = steps.mean(1)
        return Heard(steps, pooled, self.tag(pooled))

    @property
    def source_head(self) -> nn.Linear:
        """The layer of `source_logits`."""
        layer = self.classifier["5"]
        assert isinstance(layer, nn.Linear)
        return layer

    def stages(self) -> Sequence[nn.Module]:
        """The entry, the 15 blocks, the last convolution and the hidden layer."""
        return [*self.features, self.classifier["2"]]

    def save_memory(self) -> None:
        """Keep only what passes from one stage to the next."""
        self.saves_memory = True


def load_mobilenet(checkpoint: Path) -> MobileNet:
    """The network with the weights of `checkpoint`, as wide as they are, in evaluation mode.

    Any of the published checkpoints with the standard front end (128 mel bands, hop 320) is right: `mn04_as`,
    `mn05_as`, `mn10_as`, `mn20_as`, `mn30_as`, `mn40_as`, `mn40_as_ext` and their `_no_im_pre` forms. Those for another
    hop, other mel bands or other strides have the same shapes, so they cannot be told apart and would hear wrongly.

    Raises:
        BadFile: missing, not a plain tensor checkpoint, or of another architecture.
    """
    what = "an EfficientAT checkpoint"
    weights = read_weights(checkpoint)
    hidden, _ = shape_of(weights, "classifier.2.weight", 2, checkpoint, what)
    classes, _ = shape_of(weights, "classifier.5.weight", 2, checkpoint, what)
    width = hidden / HIDDEN
    model = MobileNet(width, classes)
    load_strictly(model, weights, checkpoint, f"{what} of width {width:g}")
    return model.eval()


class _Residual(nn.Module):
    """Expand, filter each channel, weigh the channels, project; with a shortcut where the shapes allow one."""

    def __init__(self, inward: int, stage: Stage, width: float) -> None:
        super().__init__()
        expanded, out = _scaled(stage.expanded, width), _scaled(stage.out, width)
        activation = nn.Hardswish() if stage.hard_swish else nn.ReLU()
        layers: list[nn.Module] = []
        if expanded != inward:
            layers.append(_convolve(inward, expanded, 1, 1, 1, activation))
        layers.append(_convolve(expanded, expanded, stage.kernel, stage.stride, expanded, activation))
        if stage.squeeze:
            layers.append(_Squeeze(expanded))
        layers.append(_convolve(expanded, out, 1, 1, 1, None))
        self.block = nn.Sequential(*layers)
        self.shortcut = stage.stride == 1 and inward == out

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.block(image)
        return result + image if self.shortcut else result


class _Squeeze(nn.Module):
    """Squeeze-and-excitation over channels (Hu et al., CVPR 2018), named as the checkpoint names it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        gate = nn.Module()
        squeezed = _scaled(channels // 4, 1.0)
        gate.add_module("fc1", nn.Linear(channels, squeezed))
        gate.add_module("fc2", nn.Linear(squeezed, channels))
        self.conc_se_layers = nn.ModuleList([gate])

    def forward(self, image: Tensor) -> Tensor:
        gate = self.conc_se_layers[0]
        hidden = functional.relu(gate.get_submodule("fc1")(image.mean((2, 3))))
        weight = torch.sigmoid(gate.get_submodule("fc2")(hidden))
        return image * weight[:, :, None, None]


def _convolve(
    inward: int, out: int, kernel: int, stride: int, groups: int, activation: nn.Module | None
) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inward, out, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out, eps=0.001, momentum=0.01),
    ]
    return nn.Sequential(*layers, *([activation] if activation is not None else []))


def _scaled(channels: int, width: float) -> int:
    """`channels * width` rounded to a multiple of 8, never more than a tenth below it (the MobileNet rule)."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded
