"""Makes small real files in the containers that FFmpeg reads and cannot write, and films that hold sound, for tests.

`make_more` is for these what `make_audio.make` is for the others, which it falls back on. The sound in DSF and DSDIFF
is the silence of 1-bit sound (0x69), that in Speex an endless vowel. Nothing here is part of the product.
"""

from __future__ import annotations

import fractions
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import mutagen
import numpy as np
from make_audio import PICTURE, SAMPLE_RATE_HZ, encode, tag, waveform
from mutagen import asf, ogg

SUFFIXES = (".aiff", ".wma", ".dsf", ".dff", ".spx", ".oggflac")
"""One suffix per further container that the program can write."""

ASF_PICTURE = struct.pack("<bI", 3, len(PICTURE)) + "image/png\0front\0".encode("utf-16-le") + PICTURE
"""The value of a WM/Picture attribute: kind, length, type and description come first."""

_SILENCE, _DSD_RATE_HZ, _DSF_BLOCK = b"\x69", 2_822_400, 4096


def make_more(path: Path, *, genres: Sequence[str] | None = ("Old Genre",)) -> Path:
    """Write a small real audio file to `path` and return it; `genres=None` leaves it without any tag."""
    suffix = path.suffix.lower()
    if suffix in (".dsf", ".dff", ".spx"):
        path.write_bytes({".dsf": dsf, ".dff": dff, ".spx": speex}[suffix]())
    else:
        encode(path, waveform(0.5))
    if suffix == ".wma" and genres is not None:
        _tag_wma(path, genres)
    elif genres is not None:
        tag(path, genres=genres)
    return path


def dsf() -> bytes:
    """Stereo, two blocks a channel, without a tag."""
    samples = 2 * _DSF_BLOCK * 8
    form = struct.pack("<4sQIIIIIIQII", b"fmt ", 52, 1, 0, 2, 2, _DSD_RATE_HZ, 1, samples, _DSF_BLOCK, 0)
    sound = _SILENCE * (4 * _DSF_BLOCK)
    size = 28 + 52 + 12 + len(sound)
    return struct.pack("<4sQQQ", b"DSD ", 28, size, 0) + form + struct.pack("<4sQ", b"data", 12 + len(sound)) + sound


def dff(*extra: tuple[bytes, bytes], size: int | None = None) -> bytes:
    """Mono and uncompressed, with `extra` chunks behind the sound; `size` is what it says of its own."""
    properties = b"SND " + chunks(
        ">4sQ",
        (b"FS  ", _DSD_RATE_HZ.to_bytes(4, "big")),
        (b"CHNL", b"\0\1C000"),
        (b"CMPR", b"DSD \x0enot compressed\0"),
    )
    sound = (b"DSD ", _SILENCE * 4096)
    body = b"DSD " + chunks(">4sQ", (b"FVER", b"\1\5\0\0"), (b"PROP", properties), sound, *extra)
    return struct.pack(">4sQ", b"FRM8", len(body) if size is None else size) + body


def chunks(header: str, *named: tuple[bytes, bytes]) -> bytes:
    """Chunks with headers of the form `header`, each padded to an even length."""
    return b"".join(struct.pack(header, name, len(body)) + body + b"\0" * (len(body) % 2) for name, body in named)


def speex(*extra_headers: bytes) -> bytes:
    """One stream of narrow band, with `extra_headers` behind its comments."""
    numbers = struct.pack("<13i", 1, 80, 8000, 0, 4, 1, -1, 160, 0, 1, len(extra_headers), 0, 0)
    head = b"Speex   " + b"1.2".ljust(20, b"\0") + numbers
    comments = b"\x04\0\0\0test\0\0\0\0"
    # Submode 3 of narrow band takes 160 bits a frame.
    sound = [bytes([0b0001_1000]) + bytes([number]) * 19 for number in range(1, 50)]
    return ogg_pages(7, [head], [comments, *extra_headers], sound)


def ogg_pages(serial: int, *pages: list[bytes]) -> bytes:
    """One logical stream with these packets on its pages."""
    made: list[bytes] = []
    for number, packets in enumerate(pages):
        page: Any = ogg.OggPage()
        page.serial, page.sequence, page.packets = serial, number, packets
        page.first, page.last = number == 0, number == len(pages) - 1
        page.position = 160 * len(packets) if number > 1 else 0
        made.append(page.write())
    return b"".join(made)


def _tag_wma(path: Path, genres: Sequence[str]) -> None:
    audio: Any = asf.ASF(path)
    audio["Author"], audio["Title"], audio["WM/AlbumTitle"] = ["Sigur Rós"], ["Untitled 日本"], ["( )"]
    audio["WM/TrackNumber"] = [asf.ASFDWordAttribute(3)]
    audio["WM/IsCompilation"] = [asf.ASFBoolAttribute(True)]
    audio["REPLAYGAIN_TRACK_GAIN"], audio["WM/GenreID"] = ["-7.2 dB"], ["(17)"]
    audio["WM/Picture"] = [asf.ASFByteArrayAttribute(ASF_PICTURE)]
    audio["Big"] = [asf.ASFByteArrayAttribute(bytes(70_000))]
    if genres:
        audio["WM/Genre"] = list(genres)
    audio.save()


def film(path: Path, container: str, video: str = "mpeg4", audio: str = "aac") -> Path:
    """A quarter of a second of a grey moving picture with sound, in the FFmpeg format `container`."""
    with av.open(str(path), "w", format=container, options={"fflags": "+bitexact"}) as output:
        picture: Any = output.add_stream(video, rate=25, width=16, height=16, pix_fmt="yuv420p")
        sound: Any = output.add_stream(audio, rate=SAMPLE_RATE_HZ, layout="stereo", bit_rate=128_000)
        for number in range(6):
            frame: Any = av.VideoFrame.from_ndarray(np.full((24, 16), 20 * number, np.uint8), format="yuv420p")
            frame.pts = number
            output.mux(picture.encode(frame))
        wave = waveform(0.25)
        for at in range(0, wave.shape[1] - sound.codec_context.frame_size + 1, sound.codec_context.frame_size):
            block = np.ascontiguousarray(wave[:, at : at + sound.codec_context.frame_size])
            piece = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
            piece.sample_rate, piece.pts = SAMPLE_RATE_HZ, at
            piece.time_base = fractions.Fraction(1, SAMPLE_RATE_HZ)
            output.mux(sound.encode(piece))
        output.mux(picture.encode(None))
        output.mux(sound.encode(None))
    return path


def rf64(path: Path) -> Path:
    """A short WAVE file in the form for very long ones."""
    sound = (waveform(0.1)[0] * 32_000).astype(np.int16)
    with av.open(str(path), "w", format="wav", options={"rf64": "always", "fflags": "+bitexact"}) as output:
        stream: Any = output.add_stream("pcm_s16le", rate=SAMPLE_RATE_HZ, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound[None, :], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE_HZ
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def as_mutagen_reads(path: Path) -> list[str]:
    """The genres as that program has them."""
    audio: Any = mutagen.File(path)
    if path.suffix in (".aiff", ".dsf", ".dff"):
        return list(audio.tags["TCON"].text)
    return [str(value) for value in audio.tags["WM/Genre" if path.suffix == ".wma" else "genre"]]
