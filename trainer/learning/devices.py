"""Sets `accelerate` up: the device, the precision and the processes that a plan runs on. Must never train."""

from __future__ import annotations

from datetime import timedelta

import accelerate
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DataLoaderConfiguration, GradientAccumulationPlugin, parse_flag_from_env

from daemon.core.errors import ConfigError
from trainer.plan import Plan, Precision

_PRECISIONS = {Precision.FP32: "no", Precision.BF16: "bf16", Precision.FP16: "fp16"}
# How long processes wait for each other: the main one judges and writes while the others do nothing.
PATIENCE = timedelta(hours=2)


def processes() -> PartialState:
    """Who this process is among those that train together (one by itself, mostly), and its device. Ask this rather than
    `PartialState()`: whoever asks first decides, and left alone accelerate makes of each of several processes without a
    GPU one that trains by itself."""
    cpu = not torch.cuda.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")
    return PartialState(cpu=cpu, timeout=PATIENCE)


def end_together() -> None:
    """Take leave of the other processes; nothing is asked of them afterwards."""
    if processes().num_processes > 1:
        torch.distributed.destroy_process_group()


def accelerator_for(plan: Plan) -> accelerate.Accelerator:
    """The device, or this process's share of several, for the plan's precision and accumulation. A CPU is used where
    there is no GPU, or where `ACCELERATE_USE_CPU=1` asks for it.

    Raises:
        ConfigError: fp16 without a GPU.
    """
    cpu = processes().device.type == "cpu"
    if cpu and plan.precision is Precision.FP16:
        raise ConfigError("training", ["precision: fp16 needs a GPU; a CPU computes in fp32 or bf16"])
    # accelerate remembers its first precision for as long as a process lives; a second run may want another.
    AcceleratorState._reset_state()
    GradientState._reset_state()
    return accelerate.Accelerator(
        cpu=cpu,
        mixed_precision=_PRECISIONS[plan.precision],
        # As an object: a bare number is overruled by the launcher's environment.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=plan.accumulate, sync_with_dataloader=False),
        dataloader_config=DataLoaderConfiguration(non_blocking=True),
    )
