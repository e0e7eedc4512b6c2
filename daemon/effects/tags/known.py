"""Says what a file seems to be that this program cannot tag, for the reason shown to the owner. Decides nothing."""

from __future__ import annotations

from typing import Final

_MAGIC: Final[tuple[tuple[int, bytes, str], ...]] = (
    (8, b"AIFF", "AIFF"),
    (8, b"AIFC", "AIFF-C"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"wvpk", "WavPack"),
    (0, b"MPCK", "Musepack"),
    (0, b"MP+", "Musepack"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media"),
    (0, b"DSD ", "DSF"),
    (0, b"FRM8", "DSDIFF"),
    (0, b"TTA1", "True Audio"),
    (0, b"OFR ", "OptimFROG"),
    (0, b"tBaK", "TAK"),
    (0, b"RF64", "RF64 (WAVE over 4 GiB)"),
    (0, b"OggS", "an Ogg file with neither Vorbis nor Opus in it"),
    (0, b"\x0b\x77", "AC-3, which can hold no tags"),
    (0, b"\xff\xf1", "raw AAC, which can hold no tags"),
    (0, b"\xff\xf9", "raw AAC, which can hold no tags"),
    (0, b"ADIF", "raw AAC, which can hold no tags"),
    (0, b"\x1aE\xdf\xa3", "Matroska"),
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
