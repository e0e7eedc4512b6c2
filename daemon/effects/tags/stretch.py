"""Hashes a stretch of an open file without holding it in memory. Knows nothing of tags."""

from __future__ import annotations

import hashlib
from typing import BinaryIO

_BLOCK = 1 << 20


def fingerprint_of(file: BinaryIO, start: int, end: int) -> str:
    """SHA-256 (hex) over the bytes from `start` to `end`, or to the end of the file where that comes first."""
    digest = hashlib.sha256()
    file.seek(start)
    while start < end and (block := file.read(min(_BLOCK, end - start))):
        digest.update(block)
        start += len(block)
    return digest.hexdigest()
