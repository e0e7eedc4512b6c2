"""Replaces a stretch of an open file by bytes of another length, in place. Knows nothing of tags."""

from __future__ import annotations

import os
from typing import BinaryIO

_BLOCK = 1 << 20


def splice(file: BinaryIO, offset: int, length: int, new: bytes) -> None:
    """Put `new` where `length` bytes stood at `offset`; everything after keeps its bytes and moves by the difference.

    Not atomic: only ever run it on a copy.

    Raises:
        OSError: as the operating system says; the copy is then worthless.
    """
    size = file.seek(0, os.SEEK_END)
    if len(new) > length:
        _move_up(file, offset + length, size, len(new) - length)
    elif len(new) < length:
        _move_down(file, offset + length, size, length - len(new))
    file.seek(offset)
    file.write(new)
    file.flush()


def _move_up(file: BinaryIO, start: int, end: int, distance: int) -> None:
    while end > start:
        begin = max(start, end - _BLOCK)
        file.seek(begin)
        block = file.read(end - begin)
        file.seek(begin + distance)
        file.write(block)
        end = begin


def _move_down(file: BinaryIO, start: int, end: int, distance: int) -> None:
    while start < end:
        file.seek(start)
        block = file.read(min(_BLOCK, end - start))
        file.seek(start - distance)
        file.write(block)
        start += len(block)
    file.truncate(end - distance)
