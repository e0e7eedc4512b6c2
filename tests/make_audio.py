"""Makes small real audio files for tests, in every container that the program writes; needs no program installed.

The same arguments always give the same bytes. `make` encodes with PyAV and tags with mutagen, so that the files are
written by neither our tag code nor our file code. Nothing here is part of the product.
"""

from __future__ import annotations

import fractions
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import mutagen
import numpy as np
from mutagen import flac, id3, mp4
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 44_100

SUFFIXES = (".mp3", ".flac", ".ogg", ".opus", ".m4a", ".wav")
"""One suffix per container that the program can write."""

_CODECS = {
    ".mp3": ("mp3", "libmp3lame", SAMPLE_RATE_HZ),
    ".flac": ("flac", "flac", SAMPLE_RATE_HZ),
    ".ogg": ("ogg", "vorbis", SAMPLE_RATE_HZ),
    ".opus": ("ogg", "libopus", 48_000),
    ".m4a": ("ipod", "aac", SAMPLE_RATE_HZ),
    ".wav": ("wav", "pcm_s16le", SAMPLE_RATE_HZ),
    ".tta": ("tta", "tta", SAMPLE_RATE_HZ),
    ".wv": ("wv", "wavpack", SAMPLE_RATE_HZ),
    ".aiff": ("aiff", "pcm_s16be", SAMPLE_RATE_HZ),
    ".wma": ("asf", "wmav2", SAMPLE_RATE_HZ),
    ".oggflac": ("ogg", "flac", SAMPLE_RATE_HZ),
    ".aac": ("adts", "aac", SAMPLE_RATE_HZ),
    ".ac3": ("ac3", "ac3", SAMPLE_RATE_HZ),
    ".eac3": ("eac3", "eac3", SAMPLE_RATE_HZ),
    ".au": ("au", "pcm_s16be", SAMPLE_RATE_HZ),
    ".caf": ("caf", "pcm_s16be", SAMPLE_RATE_HZ),
    ".w64": ("w64", "pcm_s16le", SAMPLE_RATE_HZ),
    ".mka": ("matroska", "libopus", 48_000),
}

# The other containers with an ID3v2 tag.
_MORE_ID3 = (".aiff", ".dsf", ".dff", ".tta")

# The smallest valid PNG: one grey pixel.
PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c6360000000020001e221bc330000000049454e44ae426082"
)


def waveform(seconds: float, seed: int = 0, sample_rate_hz: int = SAMPLE_RATE_HZ) -> NDArray[np.float32]:
    """A chord with a beat and a little noise, shape [2, samples], within [-1, 1]; another seed, another tune."""
    random = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * sample_rate_hz)) / sample_rate_hz
    tones = sum(np.sin(2 * np.pi * hz * time_s) for hz in random.uniform(110.0, 880.0, size=3))
    beat = 0.6 + 0.4 * np.sin(2 * np.pi * random.uniform(1.0, 3.0) * time_s)
    noise = random.normal(0.0, 0.02, size=(2, time_s.size))
    return np.clip(0.2 * tones * beat + noise, -1.0, 1.0).astype(np.float32)


def encode(path: Path, sound: NDArray[np.float32], sample_rate_hz: int = SAMPLE_RATE_HZ) -> None:
    """Encode `sound` (shape [2, samples]) into `path`, untagged; the suffix says the container."""
    container_format, codec, rate_hz = _CODECS[path.suffix.lower()]
    # bitexact: no encoder version, no random Ogg serial number. strict: FFmpeg calls its own Vorbis encoder unfinished.
    # id3v2_version: no empty tag in front of a bare mp3.
    options = {"fflags": "+bitexact", "strict": "experimental"} | (
        {"id3v2_version": "0"} if codec == "libmp3lame" else {}
    )
    with av.open(str(path), "w", format=container_format, options=options) as output:
        stream: Any = output.add_stream(codec, rate=rate_hz, options={"flags": "+bitexact", "strict": "experimental"})
        stream.layout = "stereo"
        if codec == "wmav2":
            stream.bit_rate = 128_000
        resampler = av.AudioResampler(format=stream.format.name, layout="stereo", rate=rate_hz)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound), format="fltp", layout="stereo")
        frame.sample_rate = sample_rate_hz
        frame.time_base = fractions.Fraction(1, sample_rate_hz)
        frame.pts = 0
        fifo = av.AudioFifo()
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            fifo.write(piece)
        size = stream.codec_context.frame_size or 4096
        while (block := fifo.read(size, partial=True)) is not None:
            output.mux(stream.encode(block))
        output.mux(stream.encode(None))


def tag(
    path: Path,
    *,
    genres: Sequence[str] = ("Old Genre",),
    artist: str = "Sigur Rós",
    title: str = "Untitled 日本",
    album: str = "( )",
) -> None:
    """Give `path` a full set of tags, with a picture and values that only some programs know; old ID3 tags go."""
    suffix = path.suffix.lower()
    if suffix in (".mp3", ".wav", *_MORE_ID3):
        _tag_id3(path, genres, artist, title, album)
    elif suffix == ".m4a":
        _tag_mp4(path, genres, artist, title, album)
    else:
        _tag_vorbis(path, genres, artist, title, album)


def _tag_id3(path: Path, genres: Sequence[str], artist: str, title: str, album: str) -> None:
    frames = [
        id3.TPE1(encoding=3, text=[artist]),
        id3.TIT2(encoding=3, text=[title]),
        id3.TALB(encoding=3, text=[album]),
        id3.TRCK(encoding=0, text=["3/8"]),
        id3.TDRC(encoding=0, text=["2002-10-28"]),
        id3.COMM(encoding=3, lang="eng", desc="", text=["a comment"]),
        id3.TXXX(encoding=3, desc="MusicBrainz Album Id", text=["0a1b"]),
        id3.POPM(email="owner@example.org", rating=196, count=7),
        id3.APIC(encoding=0, mime="image/png", type=3, desc="front", data=PICTURE),
        id3.PRIV(owner="org.example", data=b"\x00\xff\x01"),
    ]
    if genres:
        frames.append(id3.TCON(encoding=3, text=list(genres)))
    if path.suffix.lower() in (".wav", *_MORE_ID3):
        holder: Any = mutagen.File(path)
        if holder.tags is None:
            holder.add_tags()
        tags = holder.tags
        tags.clear()
    else:
        tags = id3.ID3()
    for frame in frames:
        tags.add(frame)
    tags.save(path)


def _tag_vorbis(path: Path, genres: Sequence[str], artist: str, title: str, album: str) -> None:
    audio: Any = mutagen.File(path)
    if audio.tags is None:
        audio.add_tags()
    audio["ARTIST"], audio["TITLE"], audio["ALBUM"] = artist, title, album
    audio["TRACKNUMBER"], audio["REPLAYGAIN_TRACK_GAIN"], audio["COMMENT"] = "3", "-7.2 dB", ["one", "two"]
    if genres:
        audio["GENRE"] = list(genres)
    if isinstance(audio, flac.FLAC):
        picture = flac.Picture()
        picture.data, picture.type, picture.mime = PICTURE, 3, "image/png"
        audio.add_picture(picture)
    audio.save()


def _tag_mp4(path: Path, genres: Sequence[str], artist: str, title: str, album: str) -> None:
    audio: Any = mp4.MP4(path)
    if audio.tags is None:
        audio.add_tags()
    audio["\xa9ART"], audio["\xa9nam"], audio["\xa9alb"] = [artist], [title], [album]
    audio["trkn"], audio["tmpo"], audio["cpil"] = [(3, 8)], [120], True
    audio["covr"] = [mp4.MP4Cover(PICTURE, mp4.MP4Cover.FORMAT_PNG)]
    audio["----:com.apple.iTunes:MusicBrainz Album Id"] = [mp4.MP4FreeForm(b"0a1b")]
    if genres:
        audio["\xa9gen"] = list(genres)
    audio.save()


def make(
    path: Path,
    seconds: float = 1.0,
    seed: int = 0,
    *,
    genres: Sequence[str] | None = ("Old Genre",),
) -> Path:
    """Write a small real audio file to `path` and return it; `genres=None` leaves it without any tag."""
    encode(path, waveform(seconds, seed))
    if genres is not None:
        tag(path, genres=genres)
    return path
