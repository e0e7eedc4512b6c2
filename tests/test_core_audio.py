"""Sound: the asked seconds of any container, and an identity that only the sound decides."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import mutagen
import numpy as np
import pytest
from make_audio import PICTURE, SUFFIXES, encode, make, tag, waveform
from mutagen import apev2, id3
from numpy.typing import NDArray

from daemon.core.audio import Sound, audio_id
from daemon.core.errors import BadFile, FileTrouble
from daemon.core.segments import level_dbfs

CHECKOUT = Path(__file__).resolve().parents[1]
RATE_HZ = 16_000
SECONDS = 8.0

every_container = pytest.mark.parametrize("suffix", SUFFIXES)


def sweep(sample_rate_hz: int) -> NDArray[np.float64]:
    """A tone that rises all the time, so that a stretch of it occurs at one place only."""
    time_s = np.arange(round(SECONDS * sample_rate_hz)) / sample_rate_hz
    return 0.4 * np.sin(2 * np.pi * (300 * time_s + 100 * time_s**2))


def place_s(samples: NDArray[np.float32]) -> float:
    """Where in the sweep `samples` at `RATE_HZ` were taken from, by cross-correlation."""
    whole = sweep(RATE_HZ)
    size = 2 * whole.size
    spectrum = np.fft.rfft(whole, size) * np.conj(np.fft.rfft(samples, size))
    return int(np.argmax(np.fft.irfft(spectrum, size)[: whole.size])) / RATE_HZ


@pytest.fixture(scope="session")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweeps")
    sound = sweep(44_100)
    for suffix in SUFFIXES:
        encode(folder / f"sweep{suffix}", np.stack([sound, sound]).astype(np.float32))
    return folder


@pytest.fixture(scope="session")
def masters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tunes")
    for suffix in SUFFIXES:
        make(folder / f"tune{suffix}")
    return folder


@pytest.fixture
def tune(masters: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A tagged second of music of one's own to change."""

    def copy(suffix: str) -> Path:
        return Path(shutil.copy(masters / f"tune{suffix}", tmp_path))

    return copy


def float_wav(path: Path, samples: NDArray[np.float64], channels: int = 1) -> Path:
    """A WAV of 32-bit floating-point samples (interleaved) at `RATE_HZ`."""
    data = samples.astype("<f4").tobytes()
    form = struct.pack("<HHIIHH", 3, channels, RATE_HZ, RATE_HZ * 4 * channels, 4 * channels, 32)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


def trouble_of(path: Path) -> BadFile:
    with pytest.raises(BadFile) as caught, Sound(path) as sound:
        sound.read(0.0, 1.0, RATE_HZ)
    assert caught.value.path == path
    assert str(path) in str(caught.value)
    return caught.value


# The asked seconds


@every_container
@pytest.mark.parametrize("start_s", [0.0, 3.0, 5.5])
def test_a_window_holds_the_sound_of_its_place(sweeps: Path, suffix: str, start_s: float) -> None:
    with Sound(sweeps / f"sweep{suffix}") as sound:
        samples = sound.read(start_s, 1.0, RATE_HZ)
    assert samples.shape == (RATE_HZ,)
    assert samples.dtype == np.float32
    assert place_s(samples) == pytest.approx(start_s, abs=0.03)


@every_container
def test_windows_may_be_read_in_any_order(sweeps: Path, suffix: str) -> None:
    with Sound(sweeps / f"sweep{suffix}") as sound:
        places = [place_s(sound.read(start_s, 0.5, RATE_HZ)) for start_s in (6.0, 1.0, 4.0, 1.0)]
    assert places == pytest.approx([6.0, 1.0, 4.0, 1.0], abs=0.03)


@every_container
def test_reading_after_the_end_was_reached_starts_anew(sweeps: Path, suffix: str) -> None:
    with Sound(sweeps / f"sweep{suffix}") as sound:
        whole = sound.read(0.0, 1000.0, RATE_HZ)
        assert whole.size / RATE_HZ == pytest.approx(SECONDS, abs=0.06)
        assert place_s(sound.read(2.0, 1.0, RATE_HZ)) == pytest.approx(2.0, abs=0.03)


@every_container
def test_a_window_over_the_end_is_shorter(sweeps: Path, suffix: str) -> None:
    with Sound(sweeps / f"sweep{suffix}") as sound:
        samples = sound.read(SECONDS - 1.0, 5.0, RATE_HZ)
    assert samples.size / RATE_HZ == pytest.approx(1.0, abs=0.15)


@every_container
def test_a_window_past_the_end_is_empty(sweeps: Path, suffix: str) -> None:
    with Sound(sweeps / f"sweep{suffix}") as sound:
        samples = sound.read(SECONDS + 10.0, 1.0, RATE_HZ)
    assert samples.shape == (0,)
    assert samples.dtype == np.float32


@every_container
@pytest.mark.parametrize("sample_rate_hz", [8_000, 32_000, 44_100, 48_000])
def test_resampling_keeps_length_and_level(sweeps: Path, suffix: str, sample_rate_hz: int) -> None:
    with Sound(sweeps / f"sweep{suffix}") as sound:
        samples = sound.read(1.0, 2.0, sample_rate_hz)
    assert samples.shape == (2 * sample_rate_hz,)
    # A sine of amplitude 0.4 has this level, whatever its sample rate; lossy codecs come within half a decibel.
    assert level_dbfs(samples) == pytest.approx(20 * np.log10(0.4) - 10 * np.log10(2), abs=0.5)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left = np.full(RATE_HZ, 0.5)
    right = np.full(RATE_HZ, -0.1)
    stereo = float_wav(tmp_path / "stereo.wav", np.stack([left, right], axis=1).ravel(), channels=2)
    with Sound(stereo) as sound:
        samples = sound.read(0.2, 0.2, RATE_HZ)
    assert samples == pytest.approx(np.full(3200, 0.2), abs=1e-6)


def test_mono_and_stereo_copies_have_the_same_level(tmp_path: Path) -> None:
    tone = 0.3 * np.sin(np.arange(RATE_HZ) / 5)
    mono = float_wav(tmp_path / "mono.wav", tone)
    stereo = float_wav(tmp_path / "stereo.wav", np.repeat(tone, 2), channels=2)
    with Sound(mono) as one, Sound(stereo) as two:
        np.testing.assert_array_equal(one.read(0, 1, RATE_HZ), two.read(0, 1, RATE_HZ))


def test_what_is_beyond_full_scale_is_clipped(tmp_path: Path) -> None:
    loud = float_wav(tmp_path / "loud.wav", np.array([0.5, 3.0, -1e30, 0.25] * 4000))
    with Sound(loud) as sound:
        assert sound.read(0, 1, RATE_HZ)[:4].tolist() == [0.5, 1.0, -1.0, 0.25]


def test_samples_that_are_no_numbers_are_silence(tmp_path: Path) -> None:
    broken = float_wav(tmp_path / "broken.wav", np.array([0.5, np.nan, np.inf, -np.inf] * 4000))
    with Sound(broken) as sound:
        assert sound.read(0, 1, RATE_HZ)[:4].tolist() == [0.5, 0.0, 0.0, 0.0]


def test_a_file_that_changes_its_rate_on_the_way_is_read_through(tmp_path: Path) -> None:
    """Two MP3s stuck together, as by a streaming recorder: players go on, and so do we."""
    first, second = tmp_path / "first.mp3", tmp_path / "second.mp3"
    encode(first, np.zeros((2, 44_100), np.float32))
    encode(second, waveform(1.0, sample_rate_hz=22_050), sample_rate_hz=22_050)
    other = tmp_path / "other.mp3"
    with av.open(str(second)) as source, av.open(str(other), "w") as out:
        stream: Any = out.add_stream("libmp3lame", rate=22_050)
        stream.layout = "mono"
        resampler = av.AudioResampler(format=stream.format.name, layout="mono", rate=22_050, frame_size=576)
        frames = [piece for frame in source.decode(audio=0) for piece in resampler.resample(frame)]
        for piece in [*frames, *resampler.resample(None)]:
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    spliced = tmp_path / "spliced.mp3"
    spliced.write_bytes(first.read_bytes() + other.read_bytes())
    with Sound(spliced) as sound:
        samples = sound.read(0.0, 10.0, RATE_HZ)
    assert samples.size / RATE_HZ == pytest.approx(2.0, abs=0.2)
    assert level_dbfs(samples[: RATE_HZ // 2]) < -55 < -40 < level_dbfs(samples[-RATE_HZ // 2 :])


# What the container says


@every_container
def test_the_container_tells_length_rate_and_channels(sweeps: Path, suffix: str) -> None:
    with Sound(sweeps / f"sweep{suffix}") as sound:
        info = sound.info
    assert info.duration_s == pytest.approx(SECONDS, abs=0.06)
    assert info.sample_rate_hz == (48_000 if suffix == ".opus" else 44_100)
    assert info.channels == 2
    assert (info.codec, info.container) != ("", "")


def without_length(path: Path, target: Path) -> Path:
    """A FLAC as it is written to a pipe: its head does not say how many samples there are."""
    content = bytearray(path.read_bytes())
    # STREAMINFO after "fLaC" and the block's head; from its byte 13 on, the lower 4 bits and 4 bytes (RFC 9639, 8.2).
    content[4 + 4 + 13] &= 0xF0
    content[4 + 4 + 14 : 4 + 4 + 18] = bytes(4)
    target.write_bytes(content)
    return target


def test_length_that_the_container_does_not_state_is_found(sweeps: Path, tmp_path: Path) -> None:
    path = without_length(sweeps / "sweep.flac", tmp_path / "piped.flac")
    with Sound(path) as sound:
        assert sound.duration_s == sound.info.duration_s == pytest.approx(SECONDS, abs=0.01)
        assert sound.packet_digest() == audio_id(sweeps / "sweep.flac")
        assert place_s(sound.read(5.5, 1.0, RATE_HZ)) == pytest.approx(5.5, abs=0.03)


def test_length_of_a_damaged_stream_is_that_of_what_can_be_read(sweeps: Path, tmp_path: Path) -> None:
    path = without_length(sweeps / "sweep.flac", tmp_path / "piped.flac")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with Sound(path) as sound:
        assert 2.0 < sound.duration_s < 6.0


def test_lying_sample_rate_does_not_multiply_the_samples(tmp_path: Path) -> None:
    """Read at 1 Hz, a packet of this file is an hour long: at 48 kHz it would take 750 MB."""
    path = float_wav(tmp_path / "slow.wav", 0.1 * np.sin(np.arange(RATE_HZ)))
    content = bytearray(path.read_bytes())
    content[24:28] = struct.pack("<I", 1)
    path.write_bytes(content)
    script = "import resource, sys; from daemon.core.audio import Sound; sound = Sound(sys.argv[1]);"
    script += "resource.setrlimit(resource.RLIMIT_DATA, (400 << 20, 400 << 20)); print(sound.read(0, 2, 48000).size)"
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert 0 <= int(done.stdout) <= 96_000


def test_want_of_memory_is_the_files_fault(tmp_path: Path) -> None:
    """And not the moment's: what is asked for follows from the file, and it would be tried again and again."""
    path = float_wav(tmp_path / "long.wav", np.zeros(RATE_HZ * 600))
    script = "import resource, sys; from daemon.core.audio import Sound; from daemon.core.errors import BadFile\n"
    script += "sound = Sound(sys.argv[1]); resource.setrlimit(resource.RLIMIT_DATA, (60 << 20, 60 << 20))\n"
    script += "try: sound.read(0, 600, 48000)\nexcept BadFile as trouble: print(trouble.reason)"
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("needs more memory to read than there is", "")


# Identity


@every_container
def test_retagging_in_place_keeps_the_identity(tune: Callable[[str], Path], suffix: str) -> None:
    path = tune(suffix)
    before = audio_id(path)
    tag(path, genres=["A", "日本語", "x" * 3000], artist="Somebody Else", title="y" * 20_000)
    assert audio_id(path) == before


@every_container
def test_taking_all_tags_away_keeps_the_identity(tune: Callable[[str], Path], suffix: str) -> None:
    path = tune(suffix)
    before = audio_id(path)
    audio: Any = mutagen.File(path)  # type: ignore[attr-defined]
    audio.delete()
    assert audio_id(path) == before


@every_container
def test_the_identity_is_of_the_sound_and_not_of_the_name(tune: Callable[[str], Path], suffix: str) -> None:
    path = tune(suffix)
    before = audio_id(path)
    assert len(before) == 64
    elsewhere = path.with_name(f"other{suffix}")
    path.rename(elsewhere)
    assert audio_id(elsewhere) == before


@every_container
def test_another_sound_has_another_identity(tune: Callable[[str], Path], tmp_path: Path, suffix: str) -> None:
    assert audio_id(tune(suffix)) != audio_id(make(tmp_path / f"other{suffix}", seed=1))


def test_old_tags_at_the_end_of_an_mp3_are_not_sound(tune: Callable[[str], Path]) -> None:
    path = tune(".mp3")
    before = audio_id(path)
    id3.ID3(path).save(path, v1=2)
    assert path.read_bytes()[-128:-125] == b"TAG"
    assert audio_id(path) == before
    ape = apev2.APEv2()
    ape["Genre"] = "Polka"
    ape.save(path)
    assert audio_id(path) == before


@every_container
def test_identity_is_the_hash_of_codec_and_packets(tune: Callable[[str], Path], suffix: str) -> None:
    """Ledgers hold these: whatever changes them for an ordinary file loses its owner's history."""
    path = tune(suffix)
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        expected = hashlib.sha256(stream.codec_context.codec.canonical_name.encode())
        for packet in container.demux(stream):
            expected.update(bytes(packet))
    assert audio_id(path) == expected.hexdigest()


def test_identity_of_a_known_file_never_changes(tmp_path: Path) -> None:
    path = float_wav(tmp_path / "known.wav", np.arange(16_000) % 100 / 100)
    assert audio_id(path) == "650017c754622c6568334c4388c9471a62c7323fc1198dd766934e6c8114b646"


_ID3V1 = b"TAG" + b"Title".ljust(125, b"\0")


def ape_tag() -> bytes:
    item = b"Polka"
    body = len(item).to_bytes(4, "little") + bytes(4) + b"Genre\0" + item
    edge = b"APETAGEX" + struct.pack("<III", 2000, len(body) + 32, 1)
    return edge + struct.pack("<I", 0xA0000000) + bytes(8) + body + edge + struct.pack("<I", 0x80000000) + bytes(8)


@pytest.mark.parametrize("suffix", [".mp3", ".flac"])
@pytest.mark.parametrize("missing", [0, 1, 37, 300, 400])
@pytest.mark.parametrize("trailer", [_ID3V1, ape_tag(), ape_tag() + _ID3V1], ids=["id3v1", "ape", "both"])
def test_tags_behind_a_last_frame_that_was_cut_short_are_not_sound(
    sweeps: Path, tmp_path: Path, suffix: str, missing: int, trailer: bytes
) -> None:
    """The demuxer fills up the frame from the tag; a change of the tag would change the track."""
    whole = (sweeps / f"sweep{suffix}").read_bytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole[: len(whole) - missing] + trailer)
    before = audio_id(path)
    for other in (trailer.replace(b"Title", b"Other").replace(b"Polka", b"Waltz"), trailer + _ID3V1, b""):
        path.write_bytes(whole[: len(whole) - missing] + other)
        assert audio_id(path) == before, (other, missing)


def test_one_tune_in_several_codecs_is_several_sounds(tmp_path: Path) -> None:
    assert len({audio_id(make(tmp_path / f"tune{suffix}")) for suffix in SUFFIXES}) == len(SUFFIXES)


# Names


def test_a_name_that_is_not_utf8_is_read(tune: Callable[[str], Path], tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/caf\xe9.mp3"
    os.rename(tune(".mp3"), odd)
    with Sound(Path(os.fsdecode(odd))) as sound:
        assert sound.read(0, 0.5, RATE_HZ).size == RATE_HZ // 2


@pytest.mark.parametrize(
    "name", ["http:song.mp3", "concat:a|b.mp3", "C: song.mp3", "-i.mp3", "%03d.mp3", "subfile,,.mp3"]
)
def test_a_name_is_never_taken_for_an_address(
    tune: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    tune(".mp3").rename(name)
    assert audio_id(Path(name))


# Files that are no sound


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("letter.mp3", b"Dear reader,\n" * 100),
        ("page.flac", b"<!doctype html><html></html>"),
        ("zeros.wav", bytes(5000)),
        ("header.wav", b"RIFF\xff\xff\xff\xffWAVE"),
        ("tag.mp3", b"ID3\x04\x00\x00\x00\x00\x00\x00"),
    ],
)
def test_a_file_that_is_no_sound_is_bad(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert trouble_of(path).reason


@pytest.mark.parametrize("text", ["#EXTM3U\n#EXT-X-TARGETDURATION:9\n{}\n", "ffconcat version 1.0\nfile {}\n"])
def test_a_playlist_called_song_does_not_open_other_files(tune: Callable[[str], Path], text: str) -> None:
    path = tune(".mp3").with_name("list.mp3")
    path.write_text(text.format("tune.mp3"))
    assert "not audio" in trouble_of(path).reason


def test_a_codec_that_ffmpeg_does_not_know_is_bad(tune: Callable[[str], Path]) -> None:
    """As in music sold with copy protection."""
    path = tune(".m4a")
    content = path.read_bytes().replace(b"mp4a", b"xxxx", 1)
    object_type = content.index(b"\x40\x15", content.index(b"esds"))
    path.write_bytes(content[:object_type] + b"\x77" + content[object_type + 1 :])
    assert trouble_of(path).reason == "holds sound in a codec that cannot be decoded"


def test_an_empty_file_is_bad(tmp_path: Path) -> None:
    path = tmp_path / "empty.ogg"
    path.touch()
    assert trouble_of(path).reason == "is empty"


def test_a_missing_file_is_bad(tmp_path: Path) -> None:
    assert trouble_of(tmp_path / "gone.flac").reason == "no such file or directory"


def test_a_folder_is_bad(tmp_path: Path) -> None:
    path = tmp_path / "folder.mp3"
    path.mkdir()
    assert "directory" in trouble_of(path).reason


def test_a_pipe_is_bad_and_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe.mp3"
    os.mkfifo(path)
    assert trouble_of(path).reason


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_bad(tune: Callable[[str], Path]) -> None:
    path = tune(".mp3")
    path.chmod(0)
    assert trouble_of(path).reason == "permission denied"


def test_a_picture_without_sound_is_bad(tmp_path: Path) -> None:
    path = tmp_path / "cover.mp3"
    path.write_bytes(PICTURE)
    assert trouble_of(path).reason


@every_container
def test_a_truncated_file_gives_what_it_holds_or_is_bad(sweeps: Path, tmp_path: Path, suffix: str) -> None:
    """A copy that broke off is never a crash, and what can be heard of it stands where it belongs."""
    whole = (sweeps / f"sweep{suffix}").read_bytes()
    for share in (0.01, 0.3, 0.6, 0.95):
        path = tmp_path / f"part{share}{suffix}"
        path.write_bytes(whole[: int(len(whole) * share)])
        try:
            with Sound(path) as sound:
                samples = sound.read(1.0, 1.0, RATE_HZ)
                sound.read(7.5, 1.0, RATE_HZ)
        except FileTrouble as trouble:
            assert trouble.path == path
            assert trouble.reason
            continue
        if samples.size == RATE_HZ:
            assert place_s(samples) == pytest.approx(1.0, abs=0.03)


@every_container
def test_damage_in_the_middle_is_passed_over_or_bad(sweeps: Path, tmp_path: Path, suffix: str) -> None:
    random = np.random.default_rng(5)
    whole = bytearray((sweeps / f"sweep{suffix}").read_bytes())
    start = len(whole) // 2
    whole[start : start + 2000] = random.bytes(2000)
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(whole)
    try:
        with Sound(path) as sound:
            assert place_s(sound.read(1.0, 1.0, RATE_HZ)) == pytest.approx(1.0, abs=0.03)
            assert np.isfinite(sound.read(3.0, 4.0, RATE_HZ)).all()
        assert len(audio_id(path)) == 64
    except FileTrouble as trouble:
        assert trouble.path == path


@pytest.mark.data
def test_no_file_of_the_tagging_libraries_makes_anything_but_file_trouble(data_dir: Path) -> None:
    heard = 0
    for path in sorted(path for path in (data_dir / "corpora").rglob("*") if path.is_file()):
        try:
            with Sound(path) as sound:
                assert sound.info.codec
                assert np.abs(sound.read(0.5, 5.0, RATE_HZ)).max(initial=0.0) <= 1.0
            audio_id(path)
        except FileTrouble as trouble:
            assert trouble.path == path
            assert trouble.reason
        else:
            heard += 1
    assert heard > 100


@pytest.mark.data
def test_a_real_track_is_read_at_every_place(data_dir: Path) -> None:
    path = min((data_dir / "tracks").rglob("*.opus"))
    with Sound(path) as sound:
        whole = sound.read(0.0, 60.0, RATE_HZ)
        for start_s in (1.0, 7.0, 12.0):
            samples = sound.read(start_s, 2.0, RATE_HZ)
            start = round(start_s * RATE_HZ)
            np.testing.assert_allclose(samples, whole[start : start + samples.size], atol=5e-3)
