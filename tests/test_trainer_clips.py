"""Prepared clips: which seconds are kept, that they are what the daemon hears, that no accident tears a file."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PosixPath

import numpy as np
import psutil
import pytest
from make_audio import encode, make, waveform

from daemon.core import audio, segments
from daemon.core.audio import Sound
from daemon.core.errors import BadFile, TryLater
from trainer.tracks.clips import ClipStore, as_float
from trainer.tracks.crew import in_processes
from trainer.tracks.manifest import LeftOut, Track

DATA = os.environ.get("MUSIC_RECLASS_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="MUSIC_RECLASS_DATA is unset: no tracks to hear")
RATE = 8000
# Rounding to 16 bits, a half of the last bit.
ROUNDING = 0.51 / 32767.0


def track(path: Path, duration_s: float = 0.0) -> Track:
    return Track(path, "rock", audio_id=audio.audio_id(path), duration_s=duration_s)


def quiet(done: int, of: int) -> None:
    """Nobody listens."""


def store(folder: Path) -> ClipStore:
    return ClipStore(folder / "clips", RATE, stretch_s=2.0, most=3)


def files(folder: Path) -> list[Path]:
    return [path for path in (folder / "clips").rglob("*") if path.is_file()]


class TestWhatIsKept:
    def test_a_short_track_is_kept_whole(self, tmp_path: Path) -> None:
        short = track(make(tmp_path / "short.flac", 4.5))
        assert store(tmp_path).prepare([short], workers=0, advance=quiet) == []
        pieces = store(tmp_path).pieces(short)
        with Sound(short.path) as sound:
            heard = sound.read(0.0, 10.0, RATE)
        assert (pieces.dtype, pieces.shape) == (np.int16, (1, heard.size))
        assert np.abs(as_float(pieces[0]) - heard).max() < ROUNDING

    def test_of_a_long_track_stretches_are_kept_in_their_order(self, tmp_path: Path) -> None:
        long = track(make(tmp_path / "long.flac", 30.0))
        store(tmp_path).prepare([long], workers=0, advance=quiet)
        pieces = store(tmp_path).pieces(long)
        assert pieces.shape == (3, 2 * RATE)
        starts = sorted(window.start_s for window in segments.spread(30.0, 2.0, 3))
        with Sound(long.path) as sound:
            for piece, start_s in zip(pieces, starts, strict=True):
                assert np.abs(as_float(piece) - sound.read(start_s, 2.0, RATE)).max() < ROUNDING

    def test_a_silent_stretch_gives_way_to_one_that_sounds(self, tmp_path: Path) -> None:
        sound = waveform(30.0)
        sound[:, : 5 * 44100] = 0.0
        encode(tmp_path / "late.flac", sound)
        late = track(tmp_path / "late.flac")
        store(tmp_path).prepare([late], workers=0, advance=quiet)
        levels = [segments.level_dbfs(as_float(piece)) for piece in store(tmp_path).pieces(late)]
        assert levels
        assert min(levels) > segments.SILENCE_DBFS

    def test_a_file_that_claims_to_be_longer_is_kept_as_far_as_it_goes(self, tmp_path: Path) -> None:
        whole = make(tmp_path / "whole.flac", 30.0, genres=None)
        cut = tmp_path / "cut.flac"
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 20])
        with Sound(cut) as sound:
            assert sound.duration_s == 30.0
        short = track(cut)
        assert store(tmp_path).prepare([short], workers=0, advance=quiet) == []
        assert 0.5 * RATE < store(tmp_path).pieces(short).size < 2.0 * RATE

    def test_each_rate_and_shape_has_a_folder_of_its_own(self, tmp_path: Path) -> None:
        one = track(make(tmp_path / "one.wav", 1.0))
        for rate, stretch_s in ((8000, 2.0), (16000, 2.0), (8000, 2.5)):
            ClipStore(tmp_path / "clips", rate, stretch_s=stretch_s).prepare([one], workers=0, advance=quiet)
        assert {path.parent.parent.name for path in files(tmp_path)} == {"8000-2-4", "16000-2-4", "8000-2.5-4"}

    def test_bytes_on_disk_are_two_per_sample_and_a_header(self, tmp_path: Path) -> None:
        made = [track(make(tmp_path / f"{seed}.flac", 20.0, seed)) for seed in range(2)]
        store(tmp_path).prepare(made, workers=0, advance=quiet)
        assert store(tmp_path).bytes_on_disk() == 2 * (128 + 2 * 3 * 2 * RATE)


class TestWindows:
    @pytest.mark.parametrize("seconds", [1.5, 2.5, 5.9])
    def test_are_those_of_the_daemon(self, tmp_path: Path, seconds: float) -> None:
        short = track(make(tmp_path / "short.flac", seconds))
        windows = store(tmp_path).windows(short, 2.0, 5)
        with Sound(short.path) as sound:
            chosen = segments.spread(sound.duration_s, 2.0, 5)
            heard = [segments.tiled(sound.read(each.start_s, 2.0, RATE), 2 * RATE) for each in chosen]
        assert windows.shape == (len(heard), 2 * RATE)
        assert windows.dtype == np.float32
        # The stored sound was resampled from its start, the daemon's from each window's: apart by part of a sample.
        for ours, theirs in zip(windows, heard, strict=True):
            assert np.corrcoef(ours, theirs)[0, 1] > 0.98

    def test_of_a_long_track_lie_within_one_stretch_each(self, tmp_path: Path) -> None:
        long = track(make(tmp_path / "long.flac", 60.0))
        windows = store(tmp_path).windows(long, 1.5, 5)
        pieces = as_float(store(tmp_path).pieces(long))
        assert len(windows) == 5
        found = []
        for window in windows:
            offsets = [
                (piece, start)
                for piece in range(len(pieces))
                for start in np.flatnonzero(pieces[piece, : -len(window) + 1] == window[0])
                if np.array_equal(pieces[piece, start : start + len(window)], window)
            ]
            assert len(offsets) == 1
            found += offsets
        assert len(set(found)) == 5
        # Each in the stretch where its middle lies.
        assert [piece for piece, _ in found] == [
            int((each.start_s + 0.75) / 2.0) for each in segments.spread(6.0, 1.5, 5)
        ]

    def test_longer_than_the_stretches_repeat_one(self, tmp_path: Path) -> None:
        long = track(make(tmp_path / "long.flac", 20.0))
        windows = store(tmp_path).windows(long, 3.0, 2)
        assert windows.shape[1] == 3 * RATE
        assert np.array_equal(windows[:, :RATE], windows[:, 2 * RATE :])

    def test_pass_over_silence(self, tmp_path: Path) -> None:
        sound = waveform(6.0)
        sound[:, 88200:176400] = 0.0
        encode(tmp_path / "pause.flac", sound)
        windows = store(tmp_path).windows(track(tmp_path / "pause.flac"), 1.0, 5)
        assert len(windows)
        assert min(segments.level_dbfs(window) for window in windows) > segments.SILENCE_DBFS

    @needs_data
    def test_of_real_tracks_are_those_of_the_daemon(self, tmp_path: Path) -> None:
        paths = sorted((Path(DATA or "") / "tracks").rglob("*.opus"))[::80]
        whole = ClipStore(tmp_path, 32000)
        for path in paths:
            kept_s = whole.pieces(track(path)).size / 32000
            with Sound(path) as sound:
                # An Opus header counts the 6.5 ms that players skip.
                assert abs(sound.duration_s - kept_s) < 0.007
                chosen = segments.spread(kept_s, 10.0, 5)
                heard = np.stack([segments.tiled(sound.read(one.start_s, 10.0, 32000), 320000) for one in chosen])
            windows = whole.windows(track(path), 10.0, 5)
            assert np.sqrt(np.square(windows - heard).mean()) < 0.05 * np.sqrt(np.square(heard).mean())


class TestPreparing:
    def test_decodes_only_what_is_not_there_yet(self, tmp_path: Path) -> None:
        first, second = (track(make(tmp_path / f"{seed}.flac", 1.0, seed)) for seed in range(2))
        told: list[tuple[int, int]] = []
        store(tmp_path).prepare([first], workers=0, advance=lambda *at: told.append(at))
        before = store(tmp_path).pieces(first).copy()
        first.path.unlink()
        moved = replace(first, path=tmp_path / "elsewhere.flac")
        assert store(tmp_path).prepare([moved, second], workers=0, advance=lambda *at: told.append(at)) == []
        assert told == [(1, 1), (1, 1)]
        assert np.array_equal(store(tmp_path).pieces(moved), before)

    def test_a_recording_that_is_there_twice_is_decoded_once(self, tmp_path: Path) -> None:
        one = track(make(tmp_path / "one.flac", 1.0))
        copy = replace(one, path=Path(shutil.copy(one.path, tmp_path / "copy.flac")))
        told: list[tuple[int, int]] = []
        store(tmp_path).prepare([one, copy], workers=0, advance=lambda *at: told.append(at))
        assert told == [(1, 1)]

    def test_processes_make_the_same_clips(self, tmp_path: Path) -> None:
        tracks = [track(make(tmp_path / f"{seed}.flac", 1.0, seed)) for seed in range(5)]
        store(tmp_path / "a").prepare(tracks, workers=0, advance=quiet)
        told: list[tuple[int, int]] = []
        store(tmp_path / "b").prepare(tracks, workers=2, advance=lambda *at: told.append(at))
        assert told == [(done, 5) for done in range(1, 6)]
        for each in tracks:
            assert np.array_equal(store(tmp_path / "a").pieces(each), store(tmp_path / "b").pieces(each))

    def test_what_cannot_be_heard_is_left_out_with_its_reason(self, tmp_path: Path) -> None:
        encode(tmp_path / "silent.flac", np.zeros((2, 44100), np.float32))
        (tmp_path / "text.mp3").write_text("not music")
        (tmp_path / "empty.mp3").touch()
        good = track(make(tmp_path / "good.flac", 1.0))
        bad = [
            Track(tmp_path / name, "rock", audio_id=f"{number:064x}")
            for number, name in enumerate(("silent.flac", "text.mp3", "empty.mp3", "gone.mp3"))
        ]
        left = store(tmp_path).prepare([*bad, good], workers=0, advance=quiet)
        assert [each.path for each in left] == [each.path for each in bad]
        assert left[0] == LeftOut(tmp_path / "silent.flac", "is silent")
        assert "not audio" in left[1].reason
        assert [left[2].reason, left[3].reason] == ["is empty", "no such file or directory"]
        assert len(files(tmp_path)) == 1

    def test_a_track_without_identity_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BadFile, match=r"one\.flac: has no audio_id"):
            store(tmp_path).prepare([Track(tmp_path / "one.flac", "rock")], workers=0, advance=quiet)


class TestDamage:
    @pytest.mark.parametrize("harm", ["cut", "longer", "header", "empty"])
    def test_damaged_clips_are_made_again(self, tmp_path: Path, harm: str) -> None:
        one = track(make(tmp_path / "one.flac", 1.0))
        store(tmp_path).prepare([one], workers=0, advance=quiet)
        (kept,) = files(tmp_path)
        sound = kept.read_bytes()
        harmed = {"cut": sound[:-2], "longer": sound + b"xx", "header": b"\x94" + sound[1:], "empty": b""}[harm]
        kept.write_bytes(harmed)
        assert store(tmp_path).pieces(one).shape == (1, RATE)
        assert kept.read_bytes() == sound
        kept.write_bytes(harmed)
        told: list[tuple[int, int]] = []
        store(tmp_path).prepare([one], workers=0, advance=lambda *at: told.append(at))
        assert (kept.read_bytes(), told) == (sound, [(1, 1)])

    def test_clips_that_cannot_be_made_again_are_an_error_of_their_file(self, tmp_path: Path) -> None:
        with pytest.raises(BadFile, match=r"gone\.flac: no such file"):
            store(tmp_path).pieces(Track(tmp_path / "gone.flac", "rock", audio_id="0" * 64))

    def test_leavings_of_a_killed_run_are_swept_and_those_of_a_living_one_kept(self, tmp_path: Path) -> None:
        one = track(make(tmp_path / "one.flac", 1.0))
        store(tmp_path).prepare([one], workers=0, advance=quiet)
        (kept,) = files(tmp_path)
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        dead, alive = (kept.with_name(f".{kept.name}.{pid}.part") for pid in (ended.pid, os.getpid()))
        dead.touch()
        alive.touch()
        store(tmp_path).prepare([one], workers=0, advance=quiet)
        assert (dead.exists(), alive.exists()) == (False, True)

    def test_a_killed_run_is_gone_on_with_and_leaves_no_process(self, tmp_path: Path) -> None:
        paths = [make(tmp_path / f"{seed}.flac", 6.0, seed) for seed in range(40)]
        script = tmp_path / "run.py"
        script.write_text(
            "import sys\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[2])\n"
            "from daemon.core import audio\nfrom trainer.tracks.clips import ClipStore\n"
            "from trainer.tracks.manifest import Track\n"
            "if __name__ == '__main__':\n"
            "    folder = Path(sys.argv[1])\n"
            "    tracks = [Track(p, 'rock', audio_id=audio.audio_id(p)) for p in sorted(folder.glob('*.flac'))]\n"
            "    tell = lambda done, of: print(done, flush=True)\n"
            "    ClipStore(folder / 'clips', 8000, stretch_s=2.0, most=3).prepare(tracks, workers=2, advance=tell)\n"
        )
        root = str(Path(__file__).parents[1])
        run = subprocess.Popen([sys.executable, str(script), str(tmp_path), root], stdout=subprocess.PIPE, text=True)
        assert run.stdout is not None
        with run.stdout as told:
            assert told.readline() == "1\n"
            workers = psutil.Process(run.pid).children(recursive=True)
            run.kill()
            run.wait()
        assert workers
        assert psutil.wait_procs(workers, timeout=20)[1] == []
        tracks = [track(path) for path in paths]
        done: list[tuple[int, int]] = []
        assert store(tmp_path).prepare(tracks, workers=0, advance=lambda *at: done.append(at)) == []
        assert len(done) < 40
        assert all(store(tmp_path).pieces(each).shape == (1, 6 * RATE) for each in tracks)
        assert len(files(tmp_path)) == 40


def mount(*command: str | Path) -> None:
    if subprocess.run(["mount", *command], capture_output=True, check=False).returncode:
        pytest.skip("this container may not mount")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB: room for two tracks of six seconds."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=256k", "tmpfs", disk)
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
class TestFullDisk:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_stops_with_one_error_and_goes_on_when_there_is_room(
        self, tmp_path: Path, small_disk: Path, workers: int
    ) -> None:
        tracks = [track(make(tmp_path / f"{seed}.flac", 6.0, seed)) for seed in range(5)]
        with pytest.raises(
            TryLater, match=r"[34] more tracks need about 0\.[34] MB and 0\.[012] MB are free"
        ) as caught:
            store(small_disk).prepare(tracks, workers=workers, advance=quiet)
        assert caught.value.path == store(small_disk).folder
        kept = files(small_disk)
        assert 1 <= len(kept) <= 2
        assert not [path for path in kept if path.name.endswith(".part")]
        mount("-o", "remount,size=4m", small_disk)
        told: list[tuple[int, int]] = []
        assert store(small_disk).prepare(tracks, workers=workers, advance=lambda *at: told.append(at)) == []
        assert len(told) == 5 - len(kept)
        assert len(files(small_disk)) == 5

    def test_is_foreseen_where_the_lengths_are_known(self, tmp_path: Path, small_disk: Path) -> None:
        tracks = [track(make(tmp_path / f"{seed}.flac", 6.0, seed), 6.0) for seed in range(5)]
        with pytest.raises(TryLater, match="5 more tracks need"):
            store(small_disk).prepare(tracks, workers=0, advance=quiet)
        assert files(small_disk) == []

    def test_a_read_only_disk_is_named(self, tmp_path: Path, small_disk: Path) -> None:
        store(small_disk).prepare([], workers=0, advance=quiet)
        mount("-o", "remount,ro", small_disk)
        with pytest.raises(TryLater, match="8000-2-3: cannot be written: read-only file system"):
            store(small_disk).prepare([track(make(tmp_path / "one.flac", 1.0))], workers=0, advance=quiet)


class Fatal(PosixPath):
    """A path that kills every process but the test's own that opens it, as a file that crashes its decoder does."""

    def __fspath__(self) -> str:
        if os.getpid() != int(os.environ["TEST_PARENT"]):
            os.kill(os.getpid(), signal.SIGKILL)
        return str(self)


def halve(number: int) -> float:
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return number / 2


class TestCrashes:
    def test_a_worker_that_dies_costs_only_the_guilty_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TEST_PARENT", str(os.getpid()))
        tracks = [track(make(tmp_path / f"{seed}.flac", 1.0, seed)) for seed in range(6)]
        tracks[2] = replace(tracks[2], path=Fatal(tracks[2].path))
        left = store(tmp_path).prepare(tracks, workers=2, advance=quiet)
        assert [each.path.name for each in left] == ["2.flac"]
        assert "the process that decoded it died" in left[0].reason
        assert len(files(tmp_path)) == 5

    def test_every_other_job_is_done_once(self) -> None:
        jobs = [(str(number), number) for number in range(10)]
        results = list(in_processes(jobs, halve, workers=2))
        assert sorted(results, key=lambda pair: int(pair[0])) == [
            (name, None if number == 7 else number / 2) for name, number in jobs
        ]

    def test_stopping_early_ends_the_workers(self) -> None:
        before = set(psutil.Process().children())
        with contextlib.closing(in_processes([(str(n), n) for n in range(6)], halve, workers=1)) as results:
            # Two jobs are under way, and both may have ended when it is looked.
            assert next(results) in {("0", 0.0), ("1", 0.5)}
        started = [child for child in psutil.Process().children() if child not in before]
        # Python keeps one process of its own to clean up after others.
        assert not [child for child in started if "resource_tracker" not in "".join(child.cmdline())]
