"""Turns a published AudioSet network into a bundle that hears AudioSet's own music genres. Must never train.

The head's rows are the network's own last layer for those classes, so that the bundle's logits are the network's. The
network answers for each class by itself (a sigmoid each); here the classes compete (softmax), and nothing was fitted to
anybody's music. So the temperature is 1 and the threshold high. Measured with mn04, served, on 483 tracks of 11 genres
against the five genres that the program starts with: 0.6 tagged 40 % of the 453 tracks of those genres, 97 % of them
rightly, and 1 of the 30 others; 0.4 tagged 50 %, 94 % of them rightly, and 5 of the 30.
"""

from __future__ import annotations

import hashlib
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from daemon.core import bundle, catalogue
from daemon.core.catalogue import Pretrained
from daemon.core.errors import BadFile, BundleError, ConfigError
from daemon.core.taxonomy import Taxonomy
from trainer.backbones import build
from trainer.backbones.contract import Backbone
from trainer.backbones.mobilenet import MobileNet
from trainer.head import Head
from trainer.shipping import checkpoints
from trainer.shipping.audioset import CLASSES, AudioSetGenre, labels_for
from trainer.shipping.export import Contents, Part, export

TEMPERATURE, THRESHOLD, SEGMENTS = 1.0, 0.6, 7

# `music-reclass models pull` reads these to tell a bundle that it made from one of the owner's.
CONVERTED_FROM, CHECKPOINT_SHA256, TAXONOMY_HASH = "converted_from", "checkpoint_sha256", "taxonomy_hash"


def convert(entry: Pretrained, checkpoint: Path, out: Path, taxonomy: Taxonomy | None = None) -> None:
    """Write to `out` a bundle of the network `entry` with the weights in `checkpoint`: a file, or a folder of several.

    Labels are AudioSet's music genres, and those of its subgenres that `taxonomy` has a name for. A bundle that this
    function made earlier is replaced.

    Raises:
        BadFile: the checkpoint is missing, damaged or of another network.
        BundleError: `out` holds something else, or the exported graph does not say what torch says.
        TryLater: the disk is full or failed.
    """
    _check_place(entry, out)
    network = build(entry.network, checkpoint).eval()
    labels = labels_for(taxonomy)
    head = own_head(network, checkpoint, list(labels.values()))
    export(
        Contents(
            id=entry.bundle_id,
            members=(Part(entry.network.value, network, head, network.window_s),),
            labels=tuple(labels),
            segments=SEGMENTS,
            temperature=TEMPERATURE,
            thresholds=dict.fromkeys(labels, THRESHOLD),
            description=_description(entry, checkpoint, labels, taxonomy),
            card=_card(entry, labels),
            licence=entry.licence,
            taxonomy_hash=taxonomy.hash() if taxonomy is not None else "",
        ),
        out,
    )


def convert_named(checkpoint: str, name: str | None, out: Path, models_directory: Path, taxonomy: Taxonomy) -> None:
    """`convert` for the command line: `checkpoint` is a name of the catalogue, or a path.

    With a path `name` says which network it is, where neither its file's name nor its folder's does.

    Raises:
        ConfigError: there is no such checkpoint, or nothing says which network it is.
        BadFile, BundleError: as `convert`.
    """
    entry = catalogue.find(name) if name is not None else checkpoints.name_of(checkpoint)
    if entry is None:
        known = ", ".join(each.name for each in catalogue.CATALOGUE)
        raise ConfigError(checkpoint, [f"cannot be told to be of any network; say of which with --name ({known})"])
    convert(entry, checkpoints.find(checkpoint, models_directory), out, taxonomy)


def own_head(network: Backbone, checkpoint: Path, genres: list[AudioSetGenre]) -> Head:
    """The rows of the network's own last layer for `genres`, in their order: weights [genres, embedding_dim].

    Raises:
        BadFile: it has no such layer, or its classes are not AudioSet's.
    """
    layer = _last_layer(network)
    if layer is None or layer.out_features != CLASSES:
        raise BadFile(checkpoint, f"does not end in AudioSet's {CLASSES} classes, so it hears no genres by itself")
    names = getattr(network, "source_labels", None)
    if names is not None:
        strange = [genre for genre in genres if names[genre.index] != genre.name]
        if strange:
            told = names[strange[0].index]
            raise BadFile(checkpoint, f"calls its class {strange[0].index} {told!r}, AudioSet {strange[0].name!r}")
    rows = [genre.index for genre in genres]
    weights, bias = layer.weight.detach().numpy()[rows], layer.bias.detach().numpy()[rows]
    return Head(weights.astype(np.float32), bias.astype(np.float32))


def _last_layer(network: Backbone) -> nn.Linear | None:
    if isinstance(network, MobileNet):
        found: object = network.classifier["5"]
    else:
        # The AST's class is not named: that would import transformers, which takes seconds, for every network.
        body = getattr(network, "model", None)
        found = getattr(getattr(body, "classifier", None), "dense", None)
    return found if isinstance(found, nn.Linear) else None


def _check_place(entry: Pretrained, out: Path) -> None:
    if not out.exists():
        return
    try:
        made_of = bundle.load(out).manifest.provenance.get(CONVERTED_FROM)
    except BundleError as error:
        raise BundleError(f"{error}; it is not replaced") from error
    if made_of != entry.name:
        raise BundleError(f"{out}: is another bundle, and is not replaced")


def _description(
    entry: Pretrained, checkpoint: Path, labels: dict[str, AudioSetGenre], taxonomy: Taxonomy | None
) -> dict[str, Any]:
    with open(checkpoint / entry.weights.name if checkpoint.is_dir() else checkpoint, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "metrics": {},
        "training_data": {"datasets": {"audioset": "by the network's authors"}, "shipped": False},
        "provenance": {
            "trainer": "music-reclass-train convert",
            CONVERTED_FROM: entry.name,
            CHECKPOINT_SHA256: digest,
            TAXONOMY_HASH: taxonomy.hash() if taxonomy is not None else "",
            "source": entry.weights.url,
            "origin": entry.origin,
            "classes": {label: {"index": genre.index, "name": genre.name} for label, genre in labels.items()},
        },
    }


def _card(entry: Pretrained, labels: dict[str, AudioSetGenre]) -> str:
    text = f"""
        Hears {len(labels)} music genres of AudioSet: {", ".join(labels)}.

        The network is `{entry.weights.name}`, unchanged: {entry.origin}. Its authors trained it on AudioSet (10 s of
        each of two million videos, labelled by people); its licence is {entry.licence}.

        ## What to expect

        Nothing in it knows your music or your genres. A label counts as one of your genres where your taxonomy has it
        as a name or an alias; what your taxonomy has no genre for keeps its share, and such a track is left open. The
        network was made to answer for each class by itself, so its outputs, made to compete here, are no calibrated
        probabilities: the threshold of {THRESHOLD:g} is high on purpose, and many tracks are left open, most of all
        those of broad genres (pop, rock). No figure is given here because none was measured on this machine.

        ## To make it yours

            music-reclass-train dataset --folders ~/Music/by-genre --out data
            music-reclass-train fit --data data --run runs/first --start {entry.name}

        learns your genres from your tracks, calibrates what it says, and measures how good it is.
        """
    paragraphs = textwrap.dedent(text).strip().split("\n\n")
    wrapped = [part if part.startswith(("#", "    ")) else textwrap.fill(part, 120) for part in paragraphs]
    return f"# {entry.name}, hearing AudioSet's genres\n\n" + "\n\n".join(wrapped) + "\n"
