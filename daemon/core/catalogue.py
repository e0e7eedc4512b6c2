"""The pretrained networks that `models pull` knows: their files, hashes and licences. Plain data; fetches nothing.

A hash is here only where it is known: that of `mn04` was taken from the file itself, the others are those that several
projects, independent of each other, have published for the same release or revision. An address names a revision
that cannot change, where the publisher offers one.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

from daemon.core.errors import BundleError

CHECKPOINTS = "checkpoints"

_EFFICIENTAT = "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1/"
_AST = (
    "https://huggingface.co/MIT/ast-finetuned-audioset-10-10-0.4593/resolve/f826b80d28226b62986cc218e5cec390b1096902/"
)


class Network(enum.StrEnum):
    """Which of the trainer's backbones a checkpoint fits."""

    MOBILENET = "mobilenet"
    AST = "ast"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One published file. `sha256` and `size_bytes` are None where they are not known."""

    name: str
    url: str
    sha256: str | None = None
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A published checkpoint. `files` begins with the weights."""

    name: str
    aliases: tuple[str, ...]
    network: Network
    files: tuple[RemoteFile, ...]
    licence: str
    what_for: str
    origin: str

    @property
    def weights(self) -> RemoteFile:
        """The file that holds the weights."""
        return self.files[0]

    @property
    def size_bytes(self) -> int | None:
        """What there is to fetch; None where the weights' size is not known."""
        if self.weights.size_bytes is None:
            return None
        return sum(file.size_bytes or 0 for file in self.files)

    @property
    def bundle_id(self) -> str:
        """The id of the bundle that it is turned into."""
        return f"{self.name}-audioset"


def _efficientat(
    name: str, file: str, what_for: str, sha256: str | None = None, size_bytes: int | None = None
) -> Pretrained:
    return Pretrained(
        name=f"efficientat-{name}",
        aliases=(name, f"{name}_as"),
        network=Network.MOBILENET,
        files=(RemoteFile(file, _EFFICIENTAT + file, sha256, size_bytes),),
        licence="MIT",
        what_for=what_for,
        origin="Schmid et al., Efficient Large-Scale Audio Tagging via Transformer-to-CNN Knowledge Distillation, "
        "ICASSP 2023",
    )


CATALOGUE: tuple[Pretrained, ...] = (
    _efficientat(
        "mn04",
        "mn04_as_mAP_432.pt",
        "training on a CPU; fast everywhere",
        "899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c",
        4_066_513,
    ),
    _efficientat(
        "mn10",
        "mn10_as_mAP_471.pt",
        "training on a small GPU",
        "0bd7dc2443af498c289a2e739f02ebb515d6aa3fd3ab9db539c86123ae368a4e",
        19_708_753,
    ),
    _efficientat("mn20", "mn20_as_mAP_478.pt", "training on a GPU"),
    Pretrained(
        name="ast",
        aliases=("MIT/ast-finetuned-audioset-10-10-0.4593",),
        network=Network.AST,
        files=(
            RemoteFile(
                "model.safetensors",
                _AST + "model.safetensors",
                "ae0c1e2ad4e1381d851fa9bf298ba13ebc9c5a914cdee2dbe427a6583869924d",
                346_404_948,
            ),
            RemoteFile(
                "config.json",
                _AST + "config.json",
                "a93d525511d77e8ecc933d09674b85099815bbbb417c228a4edd655e252fb9ff",
                26_763,
            ),
            RemoteFile(
                "preprocessor_config.json",
                _AST + "preprocessor_config.json",
                "8d04ba5a9c6fca5d39d0de2b1fd05ecf79deb589fbba279728bbebac39934231",
                297,
            ),
        ),
        licence="BSD-3-Clause",
        what_for="training on a GPU; by far the slowest",
        origin="Gong et al., AST: Audio Spectrogram Transformer, Interspeech 2021, as converted by Hugging Face",
    ),
)


def find(name: str) -> Pretrained:
    """The network called `name`, by its name or an alias.

    Raises:
        BundleError: there is none; the message lists those there are.
    """
    for entry in CATALOGUE:
        if name == entry.name or name in entry.aliases:
            return entry
    known = ", ".join(entry.name for entry in CATALOGUE)
    raise BundleError(f"{name}: no pretrained network of that name; there are {known}")


def folder_of(entry: Pretrained, models_directory: Path) -> Path:
    """Where the files of `entry` are kept once they are pulled."""
    return models_directory / CHECKPOINTS / entry.name
