"""What a training run does, as plain numbers, and the recommended numbers for each kind of machine.

Owns the recipes. Must never train, and must never look at the machine: the caller says what it has.
"""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from daemon.core.config_training import TrainingPrecision as Precision
from daemon.core.errors import ConfigError


class Depth(enum.StrEnum):
    """How much of a pretrained backbone learns. HEAD: nothing of it; PARTIAL: the last `unfrozen` stages."""

    HEAD = "head"
    PARTIAL = "partial"
    FULL = "full"


class Averaging(enum.StrEnum):
    """Which weights are kept: the last ones, their exponential moving average (Tarvainen & Valpola, NeurIPS 2017), or
    the mean of those at the ends of the last epochs (SWA, Izmailov et al., UAI 2018)."""

    NONE = "none"
    EMA = "ema"
    SWA = "swa"


__all__ = ["CPU", "GPU", "RECIPES", "Averaging", "Depth", "Plan", "Precision"]


@dataclass(frozen=True, slots=True)
class Plan:
    """One training run. Rates are AdamW's; `*_s` are seconds; shares are from 0 to 1.

    `batch` crops are in memory at once on each device and `accumulate` of them make one optimiser step.
    `layer_decay` multiplies the rate once per stage from the head down. `balance` 0 draws tracks as they come, 1 draws
    every genre equally often, 0.5 lies between by the root of the genres' sizes; `artist_balance` does the same between
    the artists of a genre. `crop_s` 0 is the backbone's window. `refit_head` replaces the trained head by a logistic
    regression on the trained backbone's embeddings.
    """

    backbone: str
    checkpoint: str | None = None
    depth: Depth = Depth.FULL
    unfrozen: int = 4
    epochs: int = 10
    batch: int = 16
    accumulate: int = 1
    precision: Precision = Precision.FP32
    gradient_checkpointing: bool = False
    rate: float = 5e-4
    head_rate: float = 3e-3
    layer_decay: float = 0.8
    weight_decay: float = 0.02
    warmup: float = 0.1
    clip_norm: float = 5.0
    smoothing: float = 0.1
    dropout: float = 0.2
    balance: float = 0.5
    artist_balance: float = 0.5
    mixup: float = 0.5
    frequency_mask: float = 0.12
    time_mask: float = 0.05
    masks: int = 2
    gain_db: float = 6.0
    noise_share: float = 0.2
    averaging: Averaging = Averaging.EMA
    ema_decay: float = 0.995
    swa_share: float = 0.3
    patience: int = 5
    crop_s: float = 0.0
    segments: int = 7
    refit_head: bool = True
    workers: int = 0
    seed: int = 0

    def with_changes(self, changes: dict[str, Any]) -> Plan:
        """The plan with `changes` made; texts are read as their field's type (`batch="8"`, `precision="bf16"`).

        Raises:
            ConfigError: with every unknown field and every value that does not fit.
        """
        kinds = {field.name: type(getattr(self, field.name)) for field in fields(self)} | {"checkpoint": str}
        problems, read = [], {}
        for name, value in changes.items():
            if name not in kinds:
                problems.append(f"{name}: there is no such setting; there are {', '.join(kinds)}")
                continue
            try:
                read[name] = _read(value, kinds[name])
            except ValueError:
                problems.append(f"{name}: {value!r} is not {_wanted(kinds[name])}")
        if not problems:
            changed = replace(self, **read)
            problems = list(_flaws(changed))
        if problems:
            raise ConfigError("training", problems)
        return changed

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {name: str(value) if isinstance(value, enum.StrEnum) else value for name, value in asdict(self).items()}


def _read(value: Any, kind: type) -> Any:
    if value is None:
        return None
    if kind is bool:
        if str(value).lower() in {"true", "yes", "on", "1"}:
            return True
        if str(value).lower() in {"false", "no", "off", "0"}:
            return False
        raise ValueError(value)
    return kind(value)


def _wanted(kind: type) -> str:
    if issubclass(kind, enum.StrEnum):
        return f"one of {', '.join(kind)}"
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "a text")


def _flaws(plan: Plan) -> list[str]:
    positive = ("unfrozen", "epochs", "batch", "accumulate", "rate", "head_rate", "segments", "clip_norm")
    shares = (
        "warmup",
        "smoothing",
        "dropout",
        "balance",
        "artist_balance",
        "frequency_mask",
        "time_mask",
        "noise_share",
        "swa_share",
    )
    found = [f"{name}: must be more than 0" for name in positive if not getattr(plan, name) > 0]
    found += [f"{name}: must be from 0 to 1" for name in shares if not 0 <= getattr(plan, name) <= 1]
    found += [
        f"{name}: must not be negative"
        for name in ("weight_decay", "mixup", "masks", "gain_db", "patience", "crop_s", "workers", "seed")
        if not getattr(plan, name) >= 0
    ]
    found += [f"{name}: must be more than 0, at most 1" for name in ("layer_decay",) if not 0 < plan.layer_decay <= 1]
    if not 0 < plan.ema_decay < 1:
        found.append("ema_decay: must be between 0 and 1")
    return found


# What is recommended where nobody says otherwise. The README says what was measured with each.
# On a few hundred tracks fine-tuning the small network learnt artists by heart and lost to a head alone.
CPU = Plan("mobilenet", checkpoint="efficientat-mn04", depth=Depth.HEAD, epochs=8, rate=1e-3, mixup=0.3, unfrozen=10)
GPU = Plan(
    "ast",
    checkpoint="ast",
    batch=16,
    accumulate=3,
    precision=Precision.BF16,
    rate=5e-5,
    head_rate=1e-3,
    layer_decay=0.75,
    weight_decay=0.01,
    workers=4,
)
RECIPES = {"cpu": CPU, "gpu": GPU}
