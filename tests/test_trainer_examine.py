"""Looking into files: what is found, and that no file, however bad, ends more than its own look."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
from make_audio import SAMPLE_RATE_HZ, encode, make, tag

from daemon.core.audio import audio_id
from daemon.core.tagtext import Tags
from trainer.tracks.examine import Examined, examine
from trainer.tracks.seen import NAME, Seen, known_states


def unruly(path: str) -> dict[str, Any]:
    """What a library may do to the process that looks into the wrong file."""
    match Path(path).stem:
        case "segfault":
            ctypes.string_at(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "leave":
            os._exit(3)
        case "hang":
            while True:
                signal.pause()
        case "eat":
            eaten = bytearray(8 << 30)
            return {"trouble": f"nobody stopped it from taking {len(eaten)} bytes"}
        case "lie":
            return {"audio_id": "f" * 64, "duration_s": float("nan")}
    return {"audio_id": Path(path).stem, "duration_s": 4.0}


def files(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / f"{name}.mp3").touch()
    return [folder / f"{name}.mp3" for name in names]


def by_name(examined: list[Examined]) -> dict[str, Examined]:
    return {one.path.stem: one for one in examined}


def test_a_file_is_known_by_sound_length_and_tags(tmp_path: Path) -> None:
    path = make(tmp_path / "a.flac", 2.0, genres=None)
    tag(path, genres=["Jazz"], artist="Nina", title="One", album="Two")
    (found,) = examine([path])
    assert found == Examined(
        path, path.stat().st_size, path.stat().st_mtime_ns, audio_id(path), 2.0, Tags("Jazz", "Nina", "Two", "One")
    )
    assert list(examine([path], workers=0)) == [found]


def test_bad_files_are_told_apart_from_good_ones(tmp_path: Path) -> None:
    (tmp_path / "empty.mp3").touch()
    (tmp_path / "text.mp3").write_text("not music\n" * 400)
    encode(tmp_path / "silent.wav", np.zeros((2, 4 * SAMPLE_RATE_HZ), np.float32))
    whole = make(tmp_path / "whole.flac", 1.0, genres=None).read_bytes()
    (tmp_path / "head.flac").write_bytes(whole[:200])
    found = by_name(list(examine(sorted(tmp_path.iterdir()), workers=0)))
    assert found["empty"].trouble == "broken: is empty"
    assert found["text"].trouble.startswith("broken: ")
    assert found["head"].trouble.startswith("broken: ")
    assert found["silent"].trouble == "silent: nothing can be heard in it"
    assert found["whole"].trouble == ""


def test_a_track_that_is_silent_in_the_middle_is_heard(tmp_path: Path) -> None:
    sound = np.zeros((2, 20 * 8000), np.float32)
    sound[:, :24000] = np.sin(np.arange(24000) / 8)
    encode(tmp_path / "a.wav", sound, 8000)
    (found,) = examine([tmp_path / "a.wav"], workers=0)
    assert found.trouble == ""


def test_a_file_that_ends_its_process_is_left_and_all_others_are_looked_into(tmp_path: Path) -> None:
    paths = files(tmp_path, "a", "segfault", "b", "leave", "c", "eat", "kill", "lie", "d")
    found = by_name(list(examine(paths, workers=2, look=unruly)))
    assert len(found) == len(paths)
    assert [found[name].trouble for name in "abcd"] == [""] * 4
    assert found["segfault"].trouble == "broken: the decoder crashed on it (segmentation fault)"
    assert found["leave"].trouble == "broken: the decoder crashed on it (exit code 3)"
    assert found["eat"].trouble == "broken: the decoder crashed on it (exit code 1)"
    assert found["lie"].trouble.startswith("broken: ")
    assert found["kill"].trouble == "not readable now: the process that read it was killed"
    assert not found["kill"].lasting
    assert found["segfault"].lasting
    assert multiprocessing.active_children() == []


def test_a_file_that_hangs_its_process_is_left_in_time(tmp_path: Path) -> None:
    found = by_name(list(examine(files(tmp_path, "hang", "a"), patience_s=3.0, look=unruly)))
    assert found["hang"].trouble == "stuck: the decoder was still busy after 3 s"
    assert found["a"].trouble == ""
    assert multiprocessing.active_children() == []


def test_whoever_stops_asking_leaves_no_process_behind(tmp_path: Path) -> None:
    looked = examine(files(tmp_path, "a", "b", "c"), look=unruly)
    next(looked)
    looked.close()
    assert multiprocessing.active_children() == []


# What is remembered


def remembered(folder: Path, path: Path) -> Examined | None:
    with Seen(folder) as seen:
        return seen.get(path, os.stat(path))


def test_what_was_found_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9\n.mp3")
    path.write_bytes(b"12345")
    status = path.stat()
    found = Examined(path, 5, status.st_mtime_ns, "ab", 4.5, Tags("ジャズ", "A\u2028B"))
    with Seen(tmp_path) as seen:
        seen.add(found)
    assert remembered(tmp_path, path) == found
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns + 1))
    assert remembered(tmp_path, path) is None


def test_what_the_moment_was_to_blame_for_is_not_remembered(tmp_path: Path) -> None:
    (path,) = files(tmp_path, "a")
    with Seen(tmp_path) as seen:
        seen.add(Examined(path, 0, path.stat().st_mtime_ns, trouble="not readable now: i/o error", lasting=False))
    assert remembered(tmp_path, path) is None


def test_half_a_line_costs_only_itself(tmp_path: Path) -> None:
    one, two = files(tmp_path, "a", "b")
    with Seen(tmp_path) as seen:
        for path in (one, two):
            seen.add(Examined(path, 0, path.stat().st_mtime_ns, "ab", 4.5))
    record = tmp_path / NAME
    record.write_bytes(record.read_bytes()[:-20])
    assert remembered(tmp_path, two) is None
    with Seen(tmp_path) as seen:
        seen.add(Examined(two, 0, two.stat().st_mtime_ns, "cd", 4.5))
    assert remembered(tmp_path, one) is not None
    assert remembered(tmp_path, two) is not None


def test_what_another_ffmpeg_found_counts_for_nothing(tmp_path: Path) -> None:
    (path,) = files(tmp_path, "a")
    with Seen(tmp_path) as seen:
        seen.add(Examined(path, 0, path.stat().st_mtime_ns, "ab", 4.5))
    record = tmp_path / NAME
    head, *rest = record.read_text().splitlines()
    record.write_text("\n".join([json.dumps(json.loads(head) | {"av": "1.0"}), *rest]) + "\n")
    assert remembered(tmp_path, path) is None


def test_the_record_does_not_grow_for_ever(tmp_path: Path) -> None:
    (path,) = files(tmp_path, "a")
    for _ in range(20):
        with Seen(tmp_path) as seen:
            seen.add(Examined(path, 0, path.stat().st_mtime_ns, "ab", 4.5))
    assert len((tmp_path / NAME).read_text().splitlines()) < 6


def test_only_regular_files_have_a_state(tmp_path: Path) -> None:
    (path,) = files(tmp_path, "a")
    os.mkfifo(tmp_path / "pipe.mp3")
    assert set(known_states([path, tmp_path, tmp_path / "pipe.mp3", tmp_path / "gone.mp3"])) == {path}
