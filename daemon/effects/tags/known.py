"""Says what a file seems to be that this program cannot tag, for the reason shown to the owner. Decides nothing."""

from __future__ import annotations

from typing import Final

_MAGIC: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"RF64", "RF64 (WAVE over 4 GiB)"),
    (0, b"OggS", "an Ogg file with no sound that this program knows"),
    (0, b"\x0b\x77", "AC-3, which can hold no tags"),
    (0, b"\xff\xf1", "raw AAC, which can hold no tags"),
    (0, b"\xff\xf9", "raw AAC, which can hold no tags"),
    (0, b"ADIF", "raw AAC, which can hold no tags"),
    (0, b"MThd", "MIDI, which is no sound"),
    (0, b"APETAGEX", "a tag without sound"),
)


def name_of(start: bytes) -> str:
    """A reason for the owner, from the first 64 bytes of the file."""
    if not start:
        return "is empty"
    for offset, magic, name in _MAGIC:
        if start[offset:].startswith(magic):
            return f"holds {name}: no container that this program can tag"
    if start.startswith(b"ID3"):
        return "has an ID3 tag, but no MPEG audio follows it"
    return "is not audio that this program can tag"
