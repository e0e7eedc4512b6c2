"""Sound in files that hold no genre, or in which this program writes none: read so that they can be heard and filed.

Reading gives `Tags.cannot`, the reason in words; writing raises it. Nothing here ever writes. Tags of other formats
that some programs hang onto such files are left as they are: what stands in an ID3v2 tag in front is read, since it may
be the owner's label, but a program that follows the file's own format would not look there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import BinaryIO

from daemon.effects.tags import id3, matroska
from daemon.effects.tags.value import Format, Tags, Unusable, WriteOptions, joined

_W64 = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_DTS = (b"\x7f\xfe\x80\x01", b"\xfe\x7f\x01\x80", b"\x1f\xff\xe8\x00", b"\xff\x1f\x00\xe8", b"DTSHDHDR")
# AC-3 (ETSI TS 102 366, table 4.13): kbit/s by half the frame size code.
_AC3_KBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
_AC3_RATES_HZ = (48_000, 44_100, 32_000)
_AC3_SAMPLES = 1536
_AC3_LAST_STREAM_ID, _EAC3_LAST_STREAM_ID = 10, 16
_V1_SIZE, _APE_FOOTER_SIZE = 128, 32


def _start(file: BinaryIO) -> int:
    """Where the sound begins: behind an ID3v2 tag, if there is one."""
    file.seek(0)
    return id3.size_of(file.read(id3.HEADER_SIZE)) or 0


def _read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _begins(*magic: bytes) -> Callable[[BinaryIO], bool]:
    return lambda file: _read_at(file, 0, 16).startswith(magic)


def _is_aac(file: BinaryIO) -> bool:
    """ADIF, or an ADTS frame (ISO/IEC 13818-7) with another behind it: its sync word alone is too little to go by."""
    start = _start(file)
    head = _read_at(file, start, 7)
    if head.startswith(b"ADIF"):
        return True
    if len(head) < 7 or not _is_adts(head) or (head[2] >> 2) & 0xF > 12:
        return False
    size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return size >= 7 and _followed(file, start + size, _is_adts)


def _is_adts(head: bytes) -> bool:
    return len(head) >= 2 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0


def _is_ac3(file: BinaryIO) -> bool:
    head = _read_at(file, _start(file), 6)
    if not _is_ac3_sync(head) or len(head) < 6 or head[5] >> 3 > _AC3_LAST_STREAM_ID:
        return False
    rate, code = head[4] >> 6, head[4] & 0x3F
    if rate >= len(_AC3_RATES_HZ) or code // 2 >= len(_AC3_KBITS):
        return False
    words = _AC3_SAMPLES * _AC3_KBITS[code // 2] * 1000 // (16 * _AC3_RATES_HZ[rate])
    # At 44.1 kHz a frame is no whole number of words: the odd codes have one word more.
    return _followed(file, _start(file) + 2 * (words + (code & 1 if rate == 1 else 0)), _is_ac3_sync)


def _is_eac3(file: BinaryIO) -> bool:
    start = _start(file)
    head = _read_at(file, start, 6)
    if not _is_ac3_sync(head) or len(head) < 6 or not _AC3_LAST_STREAM_ID < head[5] >> 3 <= _EAC3_LAST_STREAM_ID:
        return False
    return _followed(file, start + 2 * ((head[2] & 7) << 8 | head[3]) + 2, _is_ac3_sync)


def _is_ac3_sync(head: bytes) -> bool:
    return head.startswith(b"\x0b\x77")


def _followed(file: BinaryIO, offset: int, is_frame: Callable[[bytes], bool]) -> bool:
    """Whether a frame, a foreign tag or the end of the file comes at `offset`."""
    head = _read_at(file, offset, 8)
    return is_frame(head) or head.startswith((b"TAG", b"APETAGEX")) or offset == file.seek(0, os.SEEK_END)


def _foreign_tags(file: BinaryIO) -> list[str]:
    """The kinds of tags that some program hung onto the file."""
    size = file.seek(0, os.SEEK_END)
    found = ["ID3v2"] if _start(file) else []
    v1 = _read_at(file, max(0, size - _V1_SIZE), 3) == b"TAG"
    ape_end = size - (_V1_SIZE if v1 else 0)
    if _read_at(file, max(0, ape_end - _APE_FOOTER_SIZE), 8) == b"APETAGEX":
        found.append("APEv2")
    return [*found, "ID3v1"] if v1 else found


def _read_stream(name: str, reason: str, file: BinaryIO, separator: str) -> Tags:
    """A stream of frames, which may have foreign tags around it."""
    foreign = _foreign_tags(file)
    tag = id3.parse(_read_at(file, 0, _start(file))) if "ID3v2" in foreign else id3.Tag(4)
    if foreign:
        reason = f"{reason}; what it carries ({', '.join(foreign)}) is no part of the format, and is left as it is"
    return Tags(
        container=name,
        genres=id3.genres(tag, separator),
        artist=joined(id3.text(tag, "artist")),
        title=joined(id3.text(tag, "title")),
        album=joined(id3.text(tag, "album")),
        others=(),
        cannot=reason,
    )


def _read_file(name: str, reason: str, file: BinaryIO, separator: str) -> Tags:
    if matroska.is_matroska(file) and matroska.holds_film(file):
        raise Unusable("it holds a film, which this program leaves alone")
    return Tags(container=name, genres=(), artist=None, title=None, album=None, others=(), cannot=reason)


def _format(
    name: str,
    suffixes: Iterable[str],
    recognises: Callable[[BinaryIO], bool],
    reason: str,
    read: Callable[[str, str, BinaryIO, str], Tags] = _read_file,
) -> Format:
    def refuse(file: BinaryIO, genres: tuple[str, ...], options: WriteOptions) -> None:
        raise Unusable(read(name, reason, file, options.id3_v23_separator).cannot)

    return Format(name, frozenset(suffixes), recognises, lambda file, sep: read(name, reason, file, sep), refuse)


FORMATS = (
    _format("au", (".au", ".snd"), _begins(b".snd"), "an AU file can hold no tags"),
    _format("caf", (".caf",), _begins(b"caff"), "this program writes no tags into CAF files"),
    _format("w64", (".w64",), _begins(_W64), "a Wave64 file has no place for a genre that programs agree on"),
    _format("matroska", (".mka", ".weba"), matroska.is_matroska, "this program writes no tags into Matroska files"),
    _format("aac", (".aac", ".adts"), _is_aac, "raw AAC can hold no tags", _read_stream),
    _format("ac3", (".ac3",), _is_ac3, "AC-3 can hold no tags", _read_stream),
    _format("eac3", (".eac3", ".ec3"), _is_eac3, "E-AC-3 can hold no tags", _read_stream),
    _format("dts", (".dts", ".dtshd"), _begins(*_DTS), "DTS can hold no tags", _read_stream),
)
"""To be tried before MPEG audio, whose sync word begins like that of raw AAC."""
