"""The config's `models` section: what listens. Must never look at the disk or open a model."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, Strict

from daemon.core.config_checks import BUNDLE_NAME, AbsolutePath
from daemon.core.records import Device, Precision


class Models(BaseModel):
    """What listens, and with which means."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    directory: AbsolutePath | None = Field(
        None, description="Where bundles live; default: models in the state directory."
    )
    bundle: Annotated[str, BUNDLE_NAME] = Field(
        "auto",
        description="auto: the directory's `current`, or the starter that ships with the program where there is none. "
        "Else: starter, a bundle's id, or the absolute path of one.",
    )
    segments: Annotated[int, Strict(), Field(ge=1, le=64)] | None = Field(
        None, description="How many stretches of a track are heard, 1 to 64; default: what the bundle says."
    )
    threads: Annotated[int, Strict(), Field(ge=1, le=1024)] | None = Field(
        None, description="Processor threads for inference; default: all cores."
    )
    device: Device = Field(
        Device.AUTO, description="auto: the GPU where there is a usable one. cpu or cuda: only that."
    )
    precision: Precision = Field(
        Precision.AUTO,
        description="auto: fp16 on a GPU and int8 on a processor where the bundle has such a variant and lost nothing "
        "that matters by it, else fp32. fp32, fp16, int8: only that.",
    )
