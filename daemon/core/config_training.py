"""The config's `training` section: how models are made from the owner's labels. Must never look at the machine."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict

from daemon.core.config_checks import NO_CONTROL, AbsolutePath, Flag, Probability


class Recipe(enum.StrEnum):
    """Which set of recommended numbers applies. AUTO takes GPU where CUDA answers, else CPU."""

    AUTO = "auto"
    GPU = "gpu"
    CPU = "cpu"


class TrainingPrecision(enum.StrEnum):
    """Arithmetic of training; bf16 and fp16 are mixed with float32."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


def _float(value: object) -> object:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


_Count = Annotated[int, Strict(), Field(ge=1, le=100_000)]
_Rate = Annotated[float, BeforeValidator(_float), Strict(), Field(gt=0, le=1, allow_inf_nan=False)]


class Training(BaseModel):
    """How models are trained from the owner's labels. What is null is as the recipe says."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    recipe: Recipe = Field(Recipe.AUTO, description="auto: gpu where CUDA answers, else cpu. Or always one of them.")
    backbone: Annotated[str, NO_CONTROL] | None = Field(
        None, description="The network that is trained: ast, ast-fast, mobilenet or compact."
    )
    start: Annotated[str, NO_CONTROL] | None = Field(
        None,
        description="The pretrained weights to start from: a name that `models pull` knows, a file or a folder; "
        "random: none.",
    )
    epochs: _Count | None = Field(None, description="Passes over the tracks, at most.")
    batch: _Count | None = Field(None, description="Windows in memory at once; halve it where the GPU runs out.")
    accumulate: _Count | None = Field(None, description="Batches per step of the optimiser; double it then.")
    precision: TrainingPrecision | None = Field(None, description="fp32, bf16 or fp16.")
    gradient_checkpointing: Flag | None = Field(
        None, description="Compute activations twice instead of keeping them: less memory, a third slower."
    )
    rate: _Rate | None = Field(None, description="Peak learning rate of the network's last stage.")
    head_rate: _Rate | None = Field(None, description="Peak learning rate of the head.")
    target_precision: Probability = Field(
        0.9, description="Share of its tags that a model is to have right; its thresholds are chosen for it."
    )
    holdout: Annotated[float, BeforeValidator(_float), Strict(), Field(ge=0, le=0.5, allow_inf_nan=False)] = Field(
        0.15, description="Share of the tracks that no model ever trains on, to judge by; frozen once drawn."
    )
    clips: AbsolutePath | None = Field(
        None, description="Where decoded clips are kept; default: clips in the state directory. May be deleted."
    )

    def changes(self) -> dict[str, object]:
        """The fields of a plan that this section sets."""
        names = ("epochs", "batch", "accumulate", "precision", "gradient_checkpointing", "rate", "head_rate")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def clips_folder(self, state: Path) -> Path:
        """Where decoded clips are kept, given the state directory."""
        return self.clips or state / "clips"
