"""A trained model as one file of plain tensors and values, for those who want torch and not the daemon.

`load` gives the model back; whoever has torch alone reads the same with

    saved = torch.load("music_classifier.pth", weights_only=True)

which holds `labels` in output order, `backbone`, `sample_rate_hz`, `window_s`, `embedding_dim`, `temperature` and
`state_dict`, whose names begin with `backbone.` and `head.`. A transformer has its `config` (the fields of
transformers' `ASTConfig`) and `scale` (mean and standard deviation of its picture) too. Must never unpickle an object.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from daemon.core.errors import BadFile
from trainer.backbones.compact import Committee, Compact
from trainer.backbones.contract import Backbone
from trainer.backbones.mobilenet import HIDDEN, MobileNet
from trainer.head import Head
from trainer.learning.classifier import Classifier
from trainer.writing import told_plainly

_NOT_OURS = "is no model that this program wrote for torch"


def save(
    path: Path, name: str, encoder: Backbone, head: Head, labels: Sequence[str], window_s: float, temperature: float
) -> None:
    """Write `encoder` with its `head` to `path`.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    state = {f"backbone.{key}": tensor.detach().cpu().contiguous() for key, tensor in encoder.state_dict().items()}
    state |= {"head.weight": torch.from_numpy(head.weights), "head.bias": torch.from_numpy(head.bias)}
    saved: dict[str, Any] = {
        "backbone": name,
        "labels": list(labels),
        "sample_rate_hz": encoder.sample_rate_hz,
        "window_s": window_s,
        "embedding_dim": encoder.embedding_dim,
        "temperature": temperature,
        "state_dict": state,
    }
    config = getattr(getattr(encoder, "model", None), "config", None)
    if config is not None:
        saved |= {"config": config.to_dict(), "scale": list(getattr(encoder, "scale", ()))}
    with open(path, "wb", buffering=0) as file, told_plainly(file) as plain:
        torch.save(saved, plain)


def load(path: Path) -> Classifier:
    """The model that `save` wrote, in evaluation mode: `model(model.backbone.front(waveform))` gives the logits
    [batch, labels] of sound [batch, samples] at `model.backbone.sample_rate_hz`.

    Raises:
        BadFile: missing, or not such a file.
    """
    saved = _read(path)
    try:
        state: dict[str, Tensor] = saved["state_dict"]
        own = {key.removeprefix("backbone."): state[key] for key in state if key.startswith("backbone.")}
        classifier = Classifier(_network(saved, own), saved["labels"])
        classifier.load_state_dict(state)
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise BadFile(path, f"{_NOT_OURS}: {_brief(error)}") from error
    return classifier.eval()


def _read(path: Path) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch's reader raises whatever damaged input leads it to, IndexError and struct.error among them.
        raise BadFile(path, f"{_NOT_OURS}: {_brief(error)}") from error
    return saved


def _brief(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _network(saved: dict[str, Any], state: dict[str, Tensor]) -> Backbone:
    """The network that `state` belongs to; whatever its name, its weights say what it is."""
    if "config" in saved:
        # Importing transformers takes seconds, which nobody who loads another network should wait for.
        from transformers import ASTConfig, ASTForAudioClassification

        from trainer.backbones.ast import Ast, Scale

        return Ast(ASTForAudioClassification(ASTConfig(**saved["config"])), Scale(*saved["scale"]))
    if "classifier.2.weight" in state:
        return MobileNet(len(state["classifier.2.weight"]) / HIDDEN, len(state["classifier.5.weight"]))
    if "neck.weight" in state:
        return _compact(state)
    students = {key.split(".")[1] for key in state if key.startswith("students.")}
    if not students:
        raise ValueError(f"{saved['backbone']} is no network of this program")
    return Committee(
        [_compact({key: state[f"students.{one}.{key}"] for key in _SIZES}) for one in sorted(students, key=int)]
    )


_SIZES = ("trunk.1.0.weight", "neck.weight")


def _compact(state: dict[str, Tensor]) -> Compact:
    width, embedding_dim = (len(state[key]) for key in _SIZES)
    return Compact(width, embedding_dim)
