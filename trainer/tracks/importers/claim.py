"""What a source says of a file, unjudged, and which kinds of source there are. Opens no file and knows no taxonomy."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

from trainer.tracks.manifest import NO_FOLD


class Source(enum.StrEnum):
    """Who may tell a genre, the weightiest first: the owner's own word on one track comes before a table that somebody
    made, that before the folder in which a file lies, and that before a tag, which any shop may have written."""

    LEDGER = "ledger"
    TABLE = "table"
    FOLDERS = "folders"
    TAGS = "tags"

    @property
    def rank(self) -> int:
        """0 for the weightiest."""
        return list(Source).index(self)


@dataclass(frozen=True, slots=True)
class Claim:
    """The file at `path` is of the first genre in `names` that is known; without names, its own tags say of which.

    Texts are empty and `fold` is -1 where the source does not tell. `label_source` is what stands as the track's
    source where that is not the kind, as a data set's name. `audio_id` is the sound that is meant, where the source
    knows it. `trouble` is why nothing can be made of it, where that is plain already; then `path` may be a folder.
    """

    path: Path
    names: tuple[str, ...]
    kind: Source
    artist: str = ""
    album: str = ""
    fold: int = NO_FOLD
    label_source: str = ""
    audio_id: str = ""
    trouble: str = ""

    @property
    def source(self) -> str:
        """What the manifest says of where the label is from."""
        return self.label_source or self.kind.value
