"""Brings a pretrained network here, on command: fetched, checked against its hash, and turned into a bundle.

Owns where its files come from and which hash each must have. Must never begin by itself: nothing else in this program
opens a connection. The turning is done by the trainer in a process of its own; without the trainer the checkpoint is
what there is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from pathlib import Path

from daemon.core import bundle as bundles
from daemon.core import catalogue
from daemon.core.catalogue import Pretrained, RemoteFile
from daemon.core.errors import BadFile, BundleError, MusicReclassError
from daemon.effects import checkpoints, child_program, fetch
from daemon.effects.fetch import Advance, Plain, Terms

TRAINERS_LIBRARIES = ("torch", "torchaudio", "onnx", "onnxscript", "sklearn", "safetensors", "transformers")
CONVERTED_FROM = "converted_from"


class PullRefused(MusicReclassError):
    """Raised when what was asked for is not pulled; says why and what to do."""


class Trust(Enum):
    """What is believed of a file whose hash nobody has told: nothing, or that it is right the first time it is seen."""

    KNOWN_HASH = "known hash"
    FIRST_USE = "first use"


class How(StrEnum):
    """How a file came to be here."""

    FETCHED = "fetched"
    CONTINUED = "continued"
    COPIED = "copied"
    THERE = "already there"


class Known(StrEnum):
    """Who told the hash that a file was checked against."""

    CATALOGUE = "the catalogue"
    OWNER = "--sha256"
    RECORD = "the first pull"
    NOBODY = "nobody: trusted at first use"


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be pulled, and whence: `given` is an address, a folder or a file, `mirror` a host with the same paths.

    With neither, the publisher's own addresses serve.
    """

    entry: Pretrained
    models_directory: Path
    given: str | None = None
    mirror: str | None = None
    sha256: str | None = None
    trust: Trust = Trust.KNOWN_HASH
    terms: Terms = field(default_factory=Terms)

    @property
    def folder(self) -> Path:
        """Where its files are kept."""
        return catalogue.folder_of(self.entry, self.models_directory)

    @property
    def bundle_folder(self) -> Path:
        """Where the bundle belongs that is made of it."""
        return self.models_directory / self.entry.bundle_id


@dataclass(frozen=True, slots=True)
class Arrival:
    """One file that is here now, with the right hash."""

    file: RemoteFile
    path: Path
    sha256: str
    how: How
    known: Known


Watch = Callable[[RemoteFile], AbstractContextManager[Advance]]
"""Shows how one file comes along."""


def pull(order: Order, watch: Watch) -> tuple[Arrival, ...]:
    """Every file of `order.entry`, in its folder and with the right hash; what is there already is not fetched again.

    Raises:
        PullRefused: it cannot be checked, or its source does not fit.
        FetchRefused, BadFile, TryLater: a file did not come, or was not the right one; what was there stays.
    """
    sources = {file: _source(order, file) for file in order.entry.files}
    with checkpoints.alone(order.folder):
        known = checkpoints.recorded(order.folder)
        wanted = {file: _wanted(order, file, known.get(file.name)) for file in order.entry.files}
        return tuple(_bring(order, file, sources[file], *wanted[file], watch) for file in order.entry.files)


def _bring(
    order: Order, file: RemoteFile, source: str | Path, sha256: str | None, known: Known, watch: Watch
) -> Arrival:
    target = order.folder / file.name
    if sha256 is not None and checkpoints.hash_of(target) == sha256:
        return Arrival(file, target, sha256, How.THERE, known)
    part = target.with_name(f"{target.name}.part")
    if isinstance(source, Path):
        with watch(file) as advance:
            checkpoints.copy(source, part, advance)
        return Arrival(file, target, checkpoints.take_in(part, target, sha256), How.COPIED, known)
    size_bytes = file.size_bytes if sha256 == file.sha256 else None
    for again in (True, False):
        with watch(file) as advance:
            continued = fetch.download(source, part, size_bytes, advance, order.terms)
        try:
            found = checkpoints.take_in(part, target, sha256)
        except BadFile:
            # What an earlier try left may be at fault (a disk, another server): once more, from the beginning.
            if not (continued and again):
                raise
            continue
        return Arrival(file, target, found, How.CONTINUED if continued else How.FETCHED, known)
    raise AssertionError("the second try returns or raises")


def _wanted(order: Order, file: RemoteFile, recorded: str | None) -> tuple[str | None, Known]:
    """The hash that `file` must have, and who says so."""
    if order.sha256 is not None and file is order.entry.weights:
        return order.sha256, Known.OWNER
    if file.sha256 is not None:
        return file.sha256, Known.CATALOGUE
    if recorded is not None:
        return recorded, Known.RECORD
    if order.trust is Trust.FIRST_USE:
        return None, Known.NOBODY
    raise PullRefused(
        f"{order.entry.name}: this program does not know the hash of {file.name}, so it could not tell a wrong file "
        "from the right one. Give it with --sha256 HEX if the publisher states it, or take --trust-first-use: the hash "
        "of what comes is then recorded, and any other is refused from there on"
    )


def _source(order: Order, file: RemoteFile) -> str | Path:
    """The address or the local path of `file`."""
    given = order.given
    if given is None:
        return file.url if order.mirror is None else fetch.mirrored(file.url, order.mirror)
    several = len(order.entry.files) > 1
    if fetch.is_address(given):
        return f"{given.rstrip('/')}/{file.name}" if several or given.endswith("/") else given
    place = Path(given).expanduser()
    if place.is_dir():
        place = place / file.name
    elif several:
        names = ", ".join(each.name for each in order.entry.files)
        raise PullRefused(f"{given}: is not a folder; {order.entry.name} needs one with {names}")
    if not place.is_file():
        raise PullRefused(f"{place}: there is no such file")
    return place


def terms_for(given: str | None) -> Terms:
    """An address that the owner typed out may be unencrypted: the hash tells whether its bytes were changed."""
    typed = given is not None and given.lower().startswith("http://")
    return Terms(plain=Plain.ANYWHERE if typed else Plain.THIS_MACHINE)


# The bundle


def lacking() -> tuple[str, ...]:
    """The libraries of the trainer that are not installed; without any one of them no bundle can be made."""
    return child_program.missing(TRAINERS_LIBRARIES)


def is_made(order: Order, weights_sha256: str, taxonomy_hash: str) -> bool:
    """Whether the bundle of this very checkpoint is there, made for the owner's present genres.

    Raises:
        PullRefused: something else has its place, which is not ours to replace.
    """
    folder = order.bundle_folder
    if not folder.exists():
        return False
    try:
        provenance = bundles.load(folder).manifest.provenance
    except BundleError as error:
        raise PullRefused(f"{error}; remove that folder and pull again") from error
    if provenance.get(CONVERTED_FROM) != order.entry.name:
        raise PullRefused(f"{folder}: is a bundle of yours and is not replaced; rename it and pull again")
    made_of = (provenance.get("checkpoint_sha256"), provenance.get("taxonomy_hash"))
    return made_of == (weights_sha256, taxonomy_hash)


def convert(order: Order, config: Path | None, say: Callable[[str], None]) -> None:
    """Have the trainer make the bundle; it is at `order.bundle_folder` then.

    Raises:
        PullRefused: the trainer failed; what it said was passed to `say`.
    """
    source = order.folder / order.entry.weights.name if len(order.entry.files) == 1 else order.folder
    verb = ["convert", str(source), "--name", order.entry.name, "--out", str(order.bundle_folder)]
    options = ["--config", str(config)] if config is not None else []
    code = child_program.run("trainer", [*options, *verb], say)
    if code:
        raise PullRefused(
            f"{order.folder}: the checkpoint is there, but no bundle could be made of it (exit code {code})"
        )
