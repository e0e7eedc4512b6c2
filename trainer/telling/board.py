"""Writes what training tells into TensorBoard's event files. Must never compute what training or reports hang on.

One folder per run. A run that goes on after a crash goes on in the same folder: what it will tell a second time is
hidden from there on (`purge_step`), so no step is drawn twice.
"""

from __future__ import annotations

import atexit
import io
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from trainer.progress import Epoch, Outcome, Start, Step
from trainer.telling.fonts import Lettering, lettering

Array = NDArray[np.float32]

# Points in the projector: more than its layouts manage in a browser in good time.
POINTS = 1000
# Up to so many genres a matrix has room for numbers in its cells.
_NUMBERED = 16
_DPI = 100
_GIB = float(1 << 30)


class Board:
    """An `Observer` that draws a run of training in TensorBoard's files below `folder`; `labels` in output order.

    Scalars of every step (loss, learning rate, gradient norm, examples per second, share of waiting, GPU memory), the
    measures of every epoch, the confusion matrix as a picture, and the validation tracks' embeddings for the projector,
    of the best epoch and of the last.
    """

    def __init__(self, folder: Path, labels: Sequence[str]) -> None:
        self._folder, self._labels, self._lettering = folder, tuple(labels), lettering(labels)
        self._open: SummaryWriter | None = None
        self._last: Epoch | None = None

    def started(self, start: Start) -> None:
        """Open the files; what an earlier try told beyond `start.step` is hidden. A fresh run takes the place of
        whatever run was told here before."""
        self.close()
        if not start.step:
            self._forget()
        self._open = SummaryWriter(str(self._folder), purge_step=start.step + 1 if start.step else None)
        # Otherwise what was told in the last minutes before an error, the most interesting, would be lost.
        atexit.register(self.close)
        if not start.step:
            rows = (f"| No. {number} | {_cell(label)} |" for number, label in enumerate(self._labels, start=1))
            self._writer.add_text("genres", "\n".join(["| | genre |", "|---|---|", *rows]), 0)

    def stepped(self, step: Step) -> None:
        """Draw the scalars of a step."""
        scalars = {
            "loss/train": step.loss,
            "optimiser/learning_rate": step.rate,
            "optimiser/gradient_norm": step.gradient_norm,
            "speed/examples_per_s": step.examples_per_s,
            "speed/wait_share": step.wait_share,
        }
        if step.gpu_memory_bytes:
            scalars["speed/gpu_memory_gib"] = step.gpu_memory_bytes / _GIB
        self._draw(scalars, step.step)

    def epoch_ended(self, epoch: Epoch) -> None:
        """Draw an epoch's measures (those there are) and its confusion matrix; keep the best one's embeddings."""
        self._last = epoch
        scalars = {
            "loss/train_epoch": epoch.train_loss,
            "loss/valid": epoch.valid_loss,
            "measures/accuracy": epoch.accuracy,
            "measures/macro_f1": epoch.macro_f1,
            "speed/epoch_s": epoch.seconds,
            "speed/epoch_wait_share": epoch.wait_share,
        }
        self._draw({name: value for name, value in scalars.items() if not math.isnan(value)}, epoch.step)
        if len(epoch.logits):
            figure = confusion_figure(_confusion(epoch, len(self._labels)), self._labels, self._lettering)
            self._show("confusion", figure, epoch.step)
        if epoch.best:
            self._project("best", epoch)
        self._writer.flush()

    def ended(self, outcome: Outcome) -> None:
        """Keep the last epoch's embeddings, too, and close the files."""
        if self._last is not None:
            self._project("last", self._last)
        self.close()

    def show_pictures(self, pictures: Array, names: Sequence[str], step: int) -> None:
        """Show spectrograms [n, bands, frames] side by side, each under its name; two to a row."""
        self._show("examples", pictures_figure(pictures, names), step)

    def close(self) -> None:
        """Write what is not written yet; safe to call at any time."""
        if self._open is not None:
            self._open.close()
            self._open = None
            atexit.unregister(self.close)

    @property
    def _writer(self) -> SummaryWriter:
        if self._open is None:
            raise ValueError("this board was not told that a run has started")
        return self._open

    def _forget(self) -> None:
        for path in self._folder.glob("events.out.tfevents.*"):
            path.unlink()
        for path in self._folder.glob("*/*/tensors.tsv"):
            shutil.rmtree(path.parent)

    def _draw(self, scalars: dict[str, float], step: int) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def _show(self, name: str, figure: Figure, step: int) -> None:
        self._writer.add_image(name, _pixels(figure), step, dataformats="HWC")

    def _project(self, tag: str, epoch: Epoch) -> None:
        """Put an epoch's embeddings in the place of an earlier one's under the same tag."""
        if not len(epoch.embeddings):
            return
        for earlier in self._folder.glob(f"*/{tag}"):
            shutil.rmtree(earlier)
        few = np.linspace(0, len(epoch.targets) - 1, min(POINTS, len(epoch.targets)), dtype=int)
        heard = epoch.logits.argmax(1)
        # Four digits do for a picture; all of them would take three times the room.
        points = np.round(epoch.embeddings[few].astype(np.float64), 4)
        named = [[self._plain(epoch.targets[track]), self._plain(heard[track])] for track in few]
        self._writer.add_embedding(points, named, None, epoch.step, tag, ["genre", "heard as"])
        self._list_projections()

    def _plain(self, label: int) -> str:
        return " ".join(self._labels[label].split())

    def _list_projections(self) -> None:
        """List every tag's embeddings for the projector: the writer knows only of those that it wrote itself, and not
        that some were replaced."""
        entries = [
            f'embeddings {{\n  tensor_name: "{path.parent.name}, step {int(path.parent.parent.name)}"\n'
            f'  tensor_path: "{path.relative_to(self._folder)}"\n'
            f'  metadata_path: "{path.relative_to(self._folder).with_name("metadata.tsv")}"\n}}\n'
            for path in sorted(self._folder.glob("*/*/tensors.tsv"))
        ]
        (self._folder / "projector_config.pbtxt").write_text("".join(entries), encoding="ascii")


def confusion_figure(counts: NDArray[np.int64], labels: Sequence[str], letters: Lettering) -> Figure:
    """The matrix `counts` [truth, heard] as a figure, shaded by the share of each true genre."""
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    names = [letters.texts[label] for label in labels]
    side = 1.5 + 0.08 * max(map(len, names)) + len(labels) * (0.45 if len(labels) <= _NUMBERED else 0.2)
    figure = Figure(figsize=(max(4.0, side), max(4.0, side)), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    # A name is no formula, even with two dollar signs in it. (Any: each setting has a type of its own.)
    style: dict[str, Any] = {
        "fontfamily": list(letters.families),
        "parse_math": False,
        "fontsize": 9 if side < 10 else 7,
    }
    axes.set_xticks(range(len(names)), names, rotation=90, **style)
    axes.set_yticks(range(len(names)), names, **style)
    axes.set(xlabel="heard as", ylabel="really is")
    if len(labels) <= _NUMBERED:
        for (truth, heard), count in np.ndenumerate(counts):
            colour = "white" if shares[truth, heard] > 0.5 else "black"
            axes.text(heard, truth, str(count) if count else "", ha="center", va="center", fontsize=8, color=colour)
    return figure


def pictures_figure(pictures: Array, names: Sequence[str]) -> Figure:
    """Spectrograms [n, bands, frames] as a figure, low bands at the bottom, all on one scale of shades."""
    letters = lettering(names, longest=40)
    rows = -(-len(names) // 2)
    figure = Figure(figsize=(10.0, 0.4 + 2.0 * rows), dpi=_DPI, layout="constrained")
    low, high = np.percentile(pictures, [1.0, 99.0])
    for axes, picture, name in zip(figure.subplots(rows, 2, squeeze=False).flat, pictures, names, strict=False):
        axes.imshow(picture, origin="lower", aspect="auto", cmap="magma", vmin=low, vmax=high, interpolation="nearest")
        axes.set_title(letters.texts[name], fontfamily=list(letters.families), parse_math=False, fontsize=9)
    for axes in figure.axes:
        axes.set_axis_off()
    return figure


def _confusion(epoch: Epoch, labels: int) -> NDArray[np.int64]:
    truth = np.asarray(epoch.targets, np.int64)
    return np.bincount(truth * labels + epoch.logits.argmax(1), minlength=labels * labels).reshape(labels, labels)


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    """The figure drawn, uint8 [height, width, 3]; without pyplot, which would keep it in memory."""
    raw = io.BytesIO()
    figure.savefig(raw, format="rgba", dpi=_DPI)
    width, height = figure.canvas.get_width_height()
    return np.frombuffer(raw.getvalue(), np.uint8).reshape(height, width, 4)[:, :, :3].copy()


def _cell(text: str) -> str:
    """`text` for a cell of a Markdown table, with nothing in it read as markup."""
    return re.sub(r"([^\w\s])", r"\\\1", " ".join(text.split()))
