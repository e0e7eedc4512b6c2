"""Genres from the tags of the files themselves. Opens none: the builder reads them when it looks into each file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from trainer.tracks.importers.claim import Claim, Source
from trainer.tracks.importers.walk import music_below


def claims(root: Path) -> Iterator[Claim]:
    """That every music file below `root` is of the genre which its tags name.

    Raises:
        ConfigError: `root` cannot be read.
    """
    for found in music_below(root):
        trouble = f"folder cannot be read: {found.trouble}" if found.trouble else ""
        yield Claim(found.path, (), Source.TAGS, trouble=trouble)
