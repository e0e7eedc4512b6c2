"""MPEG audio (mp3, mp2): how it is recognised. Reading and writing are those of `id3first`."""

from __future__ import annotations

from typing import BinaryIO

from mutagen.mp3 import HeaderNotFoundError, MPEGInfo

from daemon.effects.tags import id3
from daemon.effects.tags.id3first import format_of


def _recognises(file: BinaryIO) -> bool:
    file.seek(0)
    offset = id3.size_of(file.read(id3.HEADER_SIZE)) or 0
    file.seek(offset)
    start = file.read(2)
    if len(start) == 2 and start[0] == 0xFF and start[1] & 0xF6 == 0xF0:
        return False  # ADTS: raw AAC has the same sync word and "layer 0"
    try:
        info = MPEGInfo(file, offset)
    except HeaderNotFoundError:
        return False
    return not info.sketchy


FORMAT = format_of("mp3", (".mp3", ".mp2", ".mpga"), _recognises)
