"""True Audio: how it is recognised. Reading and writing are those of `id3first`, as the format's authors ask for ID3.

The seek table counts from the stream's own header, so that the tag in front may change its size.
"""

from __future__ import annotations

from typing import BinaryIO

from daemon.core.trailer import leading_tags_end
from daemon.effects.tags.id3first import format_of


def _recognises(file: BinaryIO) -> bool:
    file.seek(leading_tags_end(file))
    return file.read(4) == b"TTA1"


FORMAT = format_of("tta", (".tta",), _recognises)
