"""Where a run stands, and its best weights, on disk. Owns the files of a run folder; must never train.

`last.pt` is written whole or not at all and the one before it is kept as `previous.pt`: whatever kills the run, one of
the two can be read. Nothing is unpickled: `torch.load` with `weights_only=True` reads tensors and plain values only.

Format versions of last.pt:
    1  facts, weights, optimiser, scaler, average, counters.
"""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
import structlog
import torch
from torch import Tensor

from daemon.core.errors import BadFile, ConfigError, from_os_error
from trainer.writing import told_plainly

FORMAT_VERSION = 1
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.safetensors"

log = structlog.get_logger()


def clear(run: Path) -> None:
    """A run begins: nothing of an earlier one in this folder may be taken for its own.

    Raises:
        TryLater, BadFile: the folder cannot be written.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        for name in (LAST, PREVIOUS, BEST):
            (run / name).unlink(missing_ok=True)
    except OSError as error:
        raise from_os_error(run, error) from error


def save(run: Path, facts: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write `state` (tensors and plain values, nested) as the last checkpoint. `facts` say whose it is.

    Raises:
        TryLater, BadFile: the disk is full or not writable; the last checkpoint is as it was.
    """

    def write(out: BinaryIO) -> None:
        torch.save({"format_version": FORMAT_VERSION, "facts": dict(facts), **state}, out)

    _write(run / LAST, write, keep_as=run / PREVIOUS)


def load(run: Path, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, on the CPU; None where none was ever written.

    A damaged `last.pt` is reported as an event and `previous.pt` taken.

    Raises:
        ConfigError: it is of another plan, other labels or other tracks; every difference is named.
        BadFile: there are checkpoints and none can be read.
    """
    damaged: BadFile | None = None
    for path in (run / LAST, run / PREVIOUS):
        if not path.exists():
            continue
        try:
            state = _read(path)
        except BadFile as error:
            log.warning("checkpoint_damaged", path=str(error.path), reason=error.reason)
            damaged = damaged or error
            continue
        differences = _differences(state["facts"], facts)
        if differences:
            raise ConfigError(str(path), differences)
        return state
    if damaged is not None:
        raise damaged
    return None


def save_best(run: Path, weights: Mapping[str, Tensor], labels: tuple[str, ...]) -> None:
    """Write the weights that would be kept if the run ended now.

    Raises:
        TryLater, BadFile: the disk is full or not writable; the best weights are as they were.
    """
    plain = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    content = safetensors.torch.save(plain, metadata={"labels": json.dumps(labels, ensure_ascii=False)})
    _write(run / BEST, lambda out: _pour(content, out))


def load_best(run: Path) -> dict[str, Tensor]:
    """The weights that `save_best` wrote, on the CPU.

    Raises:
        BadFile: missing or damaged.
    """
    path = run / BEST
    try:
        return safetensors.torch.load(path.read_bytes())
    except OSError as error:
        raise from_os_error(path, error) from error
    except safetensors.SafetensorError as error:
        raise BadFile(path, f"damaged: {error}") from error


def _pour(content: bytes, out: BinaryIO) -> None:
    out.write(content)


def _write(path: Path, write: Any, keep_as: Path | None = None) -> None:
    partial = path.with_name(f".{path.name}.part")
    try:
        with open(partial, "wb", buffering=0) as out:
            with told_plainly(out) as plain:
                write(plain)
            os.fsync(out.fileno())
        if keep_as is not None and path.exists():
            os.replace(path, keep_as)
        os.replace(partial, path)
        _settle(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise from_os_error(path, error) from error


def _settle(folder: Path) -> None:
    """Make the renames in `folder` outlast a power cut."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _read(path: Path) -> dict[str, Any]:
    try:
        # torch does not look at the checksums that it writes: a flipped bit would go on training.
        with zipfile.ZipFile(path) as archive:
            flawed = archive.testzip()
        if flawed is not None:
            raise BadFile(path, f"damaged: {flawed} does not match its checksum")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise from_os_error(path, error) from error
    except (RuntimeError, EOFError, ValueError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise BadFile(path, f"damaged: {str(error).splitlines()[0] if str(error) else 'empty'}") from error
    version = state.get("format_version") if isinstance(state, dict) else None
    if version != FORMAT_VERSION:
        raise BadFile(path, f"format version {version!r}, this program reads {FORMAT_VERSION}")
    return dict(state)


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any], inside: str = "") -> list[str]:
    lines = []
    for name in [*wanted, *(name for name in found if name not in wanted)]:
        there, here = found.get(name), wanted.get(name)
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            lines += _differences(there, here, f"{inside}{name}.")
        elif there != here:
            lines.append(f"{inside}{name}: the checkpoint has {there!r}, this run {here!r}")
    return lines
