"""Reads the weights of a network from one file, as plain tensors. Must never unpickle an object or build a network."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from daemon.core.errors import BadFile

# What `Classifier` calls its backbone: weights that this suite trained can start another training.
OWN = "backbone."

_UNREADABLE = (
    *(OSError, RuntimeError, EOFError, AttributeError, TypeError, ValueError, LookupError),
    safetensors.SafetensorError,
)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Every tensor of a `.safetensors` file, or of a torch checkpoint that holds tensors and nothing else, by name.

    Of a whole classifier that this suite trained only the backbone is taken, under its own names.

    Raises:
        BadFile: missing, or not such a file.
    """
    try:
        found = _stored(path)
    except pickle.UnpicklingError as error:
        # torch's own text would have the owner run whatever code the file holds.
        raise BadFile(path, "is no file of weights: it holds other things than tensors, or is damaged") from error
    except _UNREADABLE as error:
        raise BadFile(path, f"is no file of weights: {_first_line(error)}") from error
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        # A `music_classifier.pth` of ours.
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise BadFile(path, "is no file of weights: it holds other things than named tensors")
    own = {name.removeprefix(OWN): tensor for name, tensor in found.items() if name.startswith(OWN)}
    return own or found


def _stored(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def shape_of(weights: Mapping[str, Tensor], name: str, dimensions: int, path: Path, what: str) -> tuple[int, ...]:
    """The shape of one tensor, from which a network's size is read.

    Raises:
        BadFile: it is missing or has another number of dimensions, so `path` is not `what`.
    """
    if name not in weights or weights[name].ndim != dimensions:
        raise BadFile(path, f"is not {what}: it has no {name} of {dimensions} dimensions")
    return tuple(weights[name].shape)


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], path: Path, what: str) -> None:
    """Put `weights` into `model`: all of them, and nothing but them.

    Raises:
        BadFile: names or shapes differ, so `path` is not `what`.
    """
    try:
        model.load_state_dict(dict(weights), strict=True)
    except RuntimeError as error:
        raise BadFile(path, f"is not {what}: {_first_line(error, skip=1)}") from error


def _first_line(error: BaseException, skip: int = 0) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[min(skip, len(lines) - 1)] if lines else type(error).__name__
