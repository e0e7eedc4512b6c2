"""Finds the music files below a folder. Never opens one, and never tells what genre it is of."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from daemon.core.errors import ConfigError

MUSIC_SUFFIXES = frozenset(
    (
        *(".3g2", ".3gp", ".aac", ".ac3", ".adts", ".afc", ".aif", ".aifc", ".aiff", ".ape", ".asf", ".au"),
        *(".bwf", ".caf", ".dff", ".dsf", ".dts", ".dtshd", ".eac3", ".ec3", ".fla", ".flac", ".m4a", ".m4b"),
        *(".m4p", ".m4r", ".mka", ".mp+", ".mp2", ".mp3", ".mp4", ".mpc", ".mpga", ".mpp", ".ofr", ".ofs", ".oga"),
        *(".ogg", ".oggflac", ".opus", ".rf64", ".shn", ".snd", ".spx", ".tak", ".tta", ".w64", ".wav", ".wave"),
        *(".weba", ".wma", ".wv"),
    )
)
"""Lower-case suffixes of files that may be music."""

# Hidden (with them what macOS, Syncthing and bins leave behind; titles begin with two dots, or a dot and a digit),
# the program's own copies, and the folders of storage boxes.
_JUNK = re.compile(
    r"\.[^.0-9].*|.*\.reclass-tmp(\..*)?|@eaDir|@tmp|@Recycle|@Recently-Snapshot|#recycle|#snapshot|lost\+found|"
    r"\$RECYCLE\.BIN|System Volume Information",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Found:
    """A music file, or a folder that cannot be listed (then `trouble` says why)."""

    path: Path
    trouble: str = ""


def music_below(root: Path) -> Iterator[Found]:
    """Every music file below `root`, in the order of their paths; linked folders are entered, each once.

    Raises:
        ConfigError: `root` is no folder, or cannot be listed.
    """
    paths = _entered(root)
    yield from _below(paths, frozenset({_identity(root)}))


def folders_in(root: Path) -> list[Path]:
    """The folders in `root` that may hold music, in order.

    Raises:
        ConfigError: as `music_below`.
    """
    return [path for path in _entered(root) if os.path.isdir(path)]


def _entered(root: Path) -> list[Path]:
    try:
        return _listed(root)
    except OSError as error:
        raise ConfigError(str(root), [f"cannot be read as a folder of music: {_reason(error)}"]) from error


def _below(paths: list[Path], above: frozenset[tuple[int, int]]) -> Iterator[Found]:
    for path in paths:
        if not os.path.isdir(path):
            if path.suffix.lower() in MUSIC_SUFFIXES:
                yield Found(path)
            continue
        try:
            identity = _identity(path)
            inside = [] if identity in above else _listed(path)
        except OSError as error:
            yield Found(path, _reason(error))
            continue
        # A link to a folder above it would go on for ever.
        yield from _below(inside, above | {identity})


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _listed(folder: Path) -> list[Path]:
    return sorted(folder / name for name in os.listdir(folder) if not _JUNK.fullmatch(name))


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
