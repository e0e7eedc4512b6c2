"""Reading in another process: the same results and errors as in this one, and no more than that, whatever files do."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from make_audio import SUFFIXES, make
from make_bundle import make_track

from daemon.core import bundle
from daemon.core.audio import Sound, audio_id
from daemon.core.errors import BadFile, FileTrouble, TryLater
from daemon.core.inference import Ensemble
from daemon.effects import tags
from daemon.reading import Reader

RATE_HZ = 16_000

every_container = pytest.mark.parametrize("suffix", SUFFIXES)


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with Reader() as reader:
        yield reader


@pytest.fixture
def unruly() -> Iterator[Reader]:
    """A reader whose child does what the name of a file says."""
    with Reader(module="unruly", patience_s=2.0) as reader:
        yield reader


@pytest.fixture(scope="module")
def masters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tunes")
    for suffix in SUFFIXES:
        make(folder / f"tune{suffix}", 3.0, genres=["Jazz", "日本語"])
    return folder


def outcome(work: Callable[[], Any]) -> Any:
    """What comes of it: a value, or which trouble with which file and why."""
    try:
        return work()
    except FileTrouble as trouble:
        return type(trouble), trouble.path, trouble.reason


def until_gone(pid: int) -> None:
    """Wait until a killed process can be seen to be dead."""
    deadline = time.monotonic() + 10.0
    with contextlib.suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.01)


# The same as in this process


@every_container
def test_sound_is_the_same_bit_for_bit(reader: Reader, masters: Path, suffix: str) -> None:
    path = masters / f"tune{suffix}"
    with reader.sound(path) as distant, Sound(path) as near:
        assert distant.info == near.info
        assert distant.duration_s == near.duration_s
        for start_s, length_s, rate_hz in [
            (0.0, 1.0, RATE_HZ),
            (1.5, 0.5, 32_000),
            (0.2, 9.0, 8_000),
            (50.0, 1.0, 8_000),
        ]:
            ours, theirs = near.read(start_s, length_s, rate_hz), distant.read(start_s, length_s, rate_hz)
            assert (theirs.dtype, theirs.shape) == (ours.dtype, ours.shape)
            assert theirs.tobytes() == ours.tobytes()
            assert theirs.flags.writeable


@every_container
def test_identity_and_tags_are_the_same(reader: Reader, masters: Path, suffix: str) -> None:
    path = masters / f"tune{suffix}"
    assert reader.audio_id(path) == audio_id(path)
    assert reader.tags(path) == tags.read(path)
    assert reader.tags(path, ";") == tags.read(path, id3_v23_separator=";")


@every_container
def test_written_file_is_the_same_byte_for_byte(reader: Reader, masters: Path, tmp_path: Path, suffix: str) -> None:
    ours = Path(shutil.copy(masters / f"tune{suffix}", tmp_path / f"ours{suffix}"))
    theirs = Path(shutil.copy(ours, tmp_path / f"theirs{suffix}"))
    tags.write_genres(ours, ["Folk, World, & Country", "80"], id3_v23_separator=";")
    reader.write_genres(theirs, ["Folk, World, & Country", "80"], ";")
    assert theirs.read_bytes() == ours.read_bytes()
    assert reader.tags(theirs).genres == ("Folk, World, & Country", "80")


def test_digest_may_be_asked_at_any_time(reader: Reader, masters: Path) -> None:
    path = masters / "tune.flac"
    with reader.sound(path) as sound:
        sound.read(1.0, 1.0, RATE_HZ)
        assert sound.packet_digest() == sound.packet_digest() == audio_id(path)
        assert sound.read(1.0, 1.0, RATE_HZ).size == RATE_HZ


def test_two_sounds_may_be_open(reader: Reader, masters: Path) -> None:
    first, second = masters / "tune.ogg", masters / "tune.mp3"
    with reader.sound(first) as one, reader.sound(second) as two:
        assert two.packet_digest() == audio_id(second)
        assert one.packet_digest() == audio_id(first)


def test_ensemble_hears_the_same(reader: Reader, tone_bundle: Path, tmp_path: Path) -> None:
    ensemble = Ensemble(bundle.load(tone_bundle))
    path = make_track(tmp_path / "track.flac", "jazz")
    with reader.sound(path) as distant, Sound(path) as near:
        theirs, ours = ensemble.hear(distant), ensemble.hear(near)
    assert theirs.windows == ours.windows
    np.testing.assert_array_equal(theirs.logits, ours.logits)


def in_the_way(folder: Path, masters: Path) -> dict[str, Path]:
    """Files that cannot be read, by what is wrong with them."""
    made = {
        name: folder / name
        for name in ("missing.mp3", "empty.ogg", "folder.flac", "letter.mp3", "cut.m4a", "deep/x.wav")
    }
    made["empty.ogg"].touch()
    made["folder.flac"].mkdir()
    made["letter.mp3"].write_text("Dear reader,\n" * 100)
    made["cut.m4a"].write_bytes((masters / "tune.m4a").read_bytes()[:9000])
    return made


def test_troubles_are_the_same(reader: Reader, masters: Path, tmp_path: Path) -> None:
    reader.tags(masters / "tune.mp3")
    before = reader.pid

    def hear(of: Any) -> Any:
        with of as sound:
            return sound.packet_digest()

    for path in in_the_way(tmp_path, masters).values():
        assert outcome(lambda at=path: hear(reader.sound(at))) == outcome(lambda at=path: hear(Sound(at)))
        assert outcome(lambda at=path: reader.tags(at)) == outcome(lambda at=path: tags.read(at))
    assert reader.pid == before


@pytest.mark.data
def test_files_of_the_tagging_libraries_come_out_the_same(reader: Reader, data_dir: Path) -> None:
    def heard(sounds: Callable[[Path], Any], path: Path) -> Any:
        with sounds(path) as sound:
            return sound.packet_digest(), sound.info, sound.read(0.5, 5.0, RATE_HZ).tobytes()

    paths = sorted(path for path in (data_dir / "corpora").rglob("*") if path.is_file())
    for path in paths:
        assert outcome(lambda at=path: heard(reader.sound, at)) == outcome(lambda at=path: heard(Sound, at))
        assert outcome(lambda at=path: reader.tags(at)) == outcome(lambda at=path: tags.read(at))
    assert len(paths) > 100


def test_name_that_is_not_utf8_is_read(reader: Reader, masters: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp3"))
    shutil.copy(masters / "tune.mp3", odd)
    assert reader.tags(odd).genres == ("Jazz", "日本語")
    assert reader.audio_id(odd) == audio_id(odd)
    os.unlink(odd)
    with pytest.raises(BadFile) as caught:
        reader.tags(odd)
    assert caught.value.path == odd


def test_relative_name_is_read_where_we_are(
    reader: Reader, masters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child was started somewhere else."""
    reader.tags(masters / "tune.mp3")
    shutil.copy(masters / "tune.wav", tmp_path / "here.wav")
    monkeypatch.chdir(tmp_path)
    assert reader.tags(Path("here.wav")).container == "wav"


def test_file_is_held_open_inside_the_with_alone(reader: Reader, masters: Path) -> None:
    path = masters / "tune.opus"

    def held() -> bool:
        return str(path) in {file.path for file in psutil.Process(reader.pid).open_files()}

    with reader.sound(path) as sound:
        sound.read(0.0, 1.0, RATE_HZ)
        assert held()
    assert not held()


def test_sound_goes_on_in_a_new_child(reader: Reader, masters: Path) -> None:
    with reader.sound(masters / "tune.mp3") as sound:
        before, samples = reader.pid, sound.read(1.0, 1.0, RATE_HZ)
        assert before is not None
        os.kill(before, signal.SIGKILL)
        until_gone(before)
        np.testing.assert_array_equal(sound.read(1.0, 1.0, RATE_HZ), samples)
    assert reader.pid != before


# Files that get the better of their reader


@pytest.mark.parametrize(
    ("name", "trouble", "reason"),
    [
        ("segfault", BadFile, "the decoder crashed on it (signal 11, segmentation fault)"),
        ("abort", BadFile, "the decoder crashed on it (signal 6, aborted)"),
        ("leave", BadFile, "the decoder crashed on it (exit code 3)"),
        ("fail", BadFile, "the decoder failed on it (LookupError: no such atom)"),
        ("recurse", BadFile, "the decoder failed on it (RecursionError: maximum recursion depth exceeded)"),
        ("babble", BadFile, "the decoder crashed on it (it sent a reply of"),
        ("kill", TryLater, "the process that read it was killed (signal 9, killed): memory ran short?"),
        ("doze", TryLater, "the disk did not answer for 2 s"),
        ("hold", BadFile, "takes longer than 2 s to read"),
        ("lies", BadFile, "the decoder was led astray by it (its answer makes no sense)"),
    ],
)
def test_what_happens_to_the_child_is_trouble_with_the_file(
    unruly: Reader, masters: Path, tmp_path: Path, events: list[Any], name: str, trouble: type[FileTrouble], reason: str
) -> None:
    path = Path(shutil.copy(masters / "tune.mp3", tmp_path / f"{name}.mp3"))
    with pytest.raises(trouble) as caught:
        unruly.tags(path)
    assert caught.value.path == path
    assert caught.value.reason.startswith(reason)
    assert name == "lies" or events[0]["event"] in ("reader_died", "reader_stuck")
    assert unruly.audio_id(masters / "tune.mp3") == audio_id(masters / "tune.mp3")


def test_log_tells_where_it_crashed(unruly: Reader, tmp_path: Path, events: list[Any]) -> None:
    with pytest.raises(BadFile):
        unruly.tags(tmp_path / "segfault.mp3")
    (event,) = events
    assert (event["event"], event["path"]) == ("reader_died", tmp_path / "segfault.mp3")
    assert "in segfault" in event["told"]
    assert "Extension modules" not in event["told"]


def test_answers_that_make_no_sense_are_not_believed(unruly: Reader, masters: Path, tmp_path: Path) -> None:
    liar = Path(shutil.copy(masters / "tune.mp3", tmp_path / "lies.mp3"))
    with pytest.raises(BadFile, match="makes no sense"):
        unruly.audio_id(liar)
    loud = Path(shutil.copy(masters / "tune.mp3", tmp_path / "loud.mp3"))
    with unruly.sound(loud) as sound:
        for length_s in (1.0, 0.001):
            with pytest.raises(BadFile, match="makes no sense"):
                sound.read(0.0, length_s, RATE_HZ)


def test_file_that_makes_us_wait_for_ever_is_left_for_later(tmp_path: Path) -> None:
    """A pipe is the nearest thing to a disk that does not answer."""
    path = tmp_path / "pipe.mp3"
    os.mkfifo(path)
    beats: list[float] = []
    with Reader(patience_s=2.5, beat=lambda: beats.append(time.monotonic())) as reader:
        with pytest.raises(TryLater, match="the disk did not answer for 2 s"):
            reader.tags(path)
        assert reader.pid is None
    assert len(beats) >= 2


def test_large_file_has_more_time(tmp_path: Path) -> None:
    """By its size, at the rate of a slow disk."""
    path = tmp_path / "doze.mp3"
    path.touch()
    os.truncate(path, 2_000_000)
    with Reader(module="unruly", patience_s=2.0) as reader, pytest.raises(TryLater, match="for 3 s"):
        reader.tags(path)


def test_file_that_wants_too_much_memory_is_bad(tmp_path: Path) -> None:
    path = make(tmp_path / "long.wav", 60.0)
    with Reader(memory_bytes=8 << 20) as reader:
        pid = reader.pid
        with (
            pytest.raises(BadFile, match=r"needs more than 0\.00781 GiB of memory to read"),
            reader.sound(path) as sound,
        ):
            sound.read(0.0, 60.0, 44_100)
        assert reader.pid is None
        assert reader.tags(path).container == "wav"
        assert reader.pid != pid


def test_child_that_cannot_start_is_no_fault_of_the_file(masters: Path) -> None:
    with Reader(module="no_such_module") as reader, pytest.raises(TryLater, match="no process can be started"):
        reader.tags(masters / "tune.mp3")


def test_200_tracks_leave_nothing_behind(masters: Path) -> None:
    def held(reader: Reader) -> tuple[int, int, int, int]:
        us = psutil.Process()
        return us.num_fds(), us.num_threads(), len(us.children()), psutil.Process(reader.pid).num_fds()

    def carry(reader: Reader, path: Path) -> None:
        reader.audio_id(path)
        reader.tags(path)
        with reader.sound(path) as sound:
            sound.read(0.5, 1.0, RATE_HZ)

    paths = [masters / f"tune{suffix}" for suffix in SUFFIXES]
    with Reader() as reader:
        for path in paths * 3:
            carry(reader, path)
        pid, before = reader.pid, held(reader)
        ours, theirs = (psutil.Process(each).memory_info().rss for each in (None, pid))
        for number in range(200):
            carry(reader, paths[number % len(paths)])
        assert (reader.pid, held(reader)) == (pid, before)
        assert psutil.Process().memory_info().rss < ours + (20 << 20)
        assert psutil.Process(pid).memory_info().rss < theirs + (20 << 20)


# Damage


def damaged(whole: bytes, random: np.random.Generator) -> bytes:
    """The file with some bytes changed, most of them in its head; or with a stretch cut out, doubled or blotted."""
    content = bytearray(whole)
    head = min(len(content), 600)
    for _ in range(int(random.integers(1, 12))):
        within = head if random.random() < 0.7 else len(content)
        place = int(random.integers(within))
        content[place] = int(random.choice([0, 1, 0x7F, 0x80, 0xFF, int(random.integers(256))]))
    if random.random() < 0.4:
        start, length = int(random.integers(len(content))), int(random.integers(1, 3000))
        stretch = bytes(content[start : start + length])
        content[start : start + length] = random.choice([b"", stretch * 2, bytes(len(stretch)), b"\xff" * len(stretch)])
    return bytes(content)


@pytest.mark.slow
@every_container
def test_damaged_file_is_read_or_refused_in_time(masters: Path, tmp_path: Path, suffix: str) -> None:
    """Within the limits, with the sound in range; nothing else comes of it."""
    random = np.random.default_rng(SUFFIXES.index(suffix))
    whole = (masters / f"tune{suffix}").read_bytes()
    path = tmp_path / f"damaged{suffix}"
    endings: dict[str, int] = {"read": 0, "refused": 0}

    def use(reader: Reader) -> None:
        with reader.sound(path) as sound:
            assert len(sound.packet_digest()) == 64
            assert 0 <= sound.duration_s < float("inf")
            for start_s in (0.0, 1.0, 1000.0):
                assert np.abs(sound.read(start_s, 1.0, RATE_HZ)).max(initial=0.0) <= 1.0

    def retag(reader: Reader) -> None:
        separator = "/" if reader.tags(path).genres else ";"
        reader.write_genres(path, ["Polka"], separator)

    with Reader(patience_s=20.0, memory_bytes=512 << 20) as reader:
        for _ in range(80):
            path.write_bytes(damaged(whole, random))
            for work in (use, retag):
                try:
                    work(reader)
                except FileTrouble as trouble:
                    assert trouble.path == path
                    assert "did not answer" not in trouble.reason
                    endings["refused"] += 1
                else:
                    endings["read"] += 1
    assert min(endings.values()) > 0
