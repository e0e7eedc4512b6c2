"""What an owner fears, end to end with the real daemon: kills, damage, moves that cannot be taken back."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import live
import psutil
import pytest
from make_bundle import TONES_HZ, make_bundle, make_track

from daemon.effects import files, tags

pytestmark = pytest.mark.slow

LABELS = list(TONES_HZ)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "music").mkdir()
    make_bundle(tmp_path / "bundle")
    configure(tmp_path)
    return tmp_path


def configure(home: Path, *, mode: str = "apply", more: str = "") -> None:
    partial = home / "config.partial"
    partial.write_text(
        f"roots: [{{path: {home}/music, mode: {mode}}}]\nstate_directory: {home}/state\n"
        f"models: {{bundle: {home}/bundle}}\nsettle: {{quiet_s: 0.3}}\n{more}\n"
    )
    os.replace(partial, home / "config.yaml")


def serving(home: Path):
    return live.daemon(["--config", home / "config.yaml", "run"], home)


def command(home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return live.run(["--config", home / "config.yaml", *arguments], home)


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_an_album_is_filed_with_what_belongs_to_it_and_goes_back(home: Path) -> None:
    configure(home, more="organise: {enabled: true, wait_s: 0.5}")
    album = home / "incoming"
    album.mkdir()
    for number in range(3):
        make_track(album / f"{number}.flac", "jazz", seconds=2.0 + number)
        (album / f"{number}.lrc").write_text(f"words {number}")
    (album / "cover.jpg").write_bytes(b"cover")
    with serving(home) as daemon:
        daemon.wait_for("ready")
        shutil.copytree(album, home / "music" / "Artist" / "Album")
        before = contents(home / "music")
        for _ in range(3):
            daemon.wait_for("filed", genre="jazz")
        daemon.stop()
    assert contents(home / "music").keys() == {f"jazz/{name}" for name in before}
    assert not (home / "music" / "Artist").exists()
    assert command(home, "undo", "--model", "tones-1").returncode == 0
    assert contents(home / "music") == before
    assert not (home / "music" / "jazz").exists()
    agreed = command(home, "doctor", "--verify", "--deep")
    assert "record, disk and queue agree" in agreed.stdout, agreed.stdout


def test_a_root_that_turns_from_suggest_to_apply_is_written_to(home: Path) -> None:
    configure(home, mode="suggest")
    with serving(home) as daemon:
        daemon.wait_for("ready")
        path = make_track(home / "music" / "song.mp3", "rock")
        daemon.wait_for("suggested", path=path)
        configure(home)
        daemon.wait_for("tagged", path=path)
        daemon.stop()
    assert tags.read(path).genres == ("rock",)


def test_killed_in_the_middle_of_a_burst_again_and_again_every_file_is_tagged_once(home: Path) -> None:
    source = home / "source"
    source.mkdir()
    paths = [make_track(source / f"{number}.flac", LABELS[number % 3], seconds=1.0) for number in range(30)]
    for path in paths:
        shutil.copy(path, home / "music")
    tagged = 0
    for _ in range(4):
        with serving(home) as daemon:
            for _ in range(6):
                daemon.wait_for("tagged")
            daemon.kill()
    with serving(home) as daemon:
        daemon.wait_for("ready")
        while tagged < len(paths):
            done = [path for path in sorted((home / "music").iterdir()) if not files.is_temporary(path)]
            tagged = sum(bool(tags.read(path).genres) for path in done)
            time.sleep(0.1)
        daemon.stop()
    for path in paths:
        assert tags.read(home / "music" / path.name).genres == (LABELS[int(path.stem) % 3],)
    assert len(list((home / "music").iterdir())) == len(paths)
    assert "0 corrections" in command(home, "status").stdout


def test_a_reader_that_is_killed_is_started_anew(home: Path) -> None:
    with serving(home) as daemon:
        daemon.wait_for("ready")
        daemon.wait_for("tagged", path=make_track(home / "music" / "one.flac", "jazz"))
        (reader,) = psutil.Process(daemon.process.pid).children()
        reader.send_signal(signal.SIGKILL)
        daemon.wait_for("tagged", path=make_track(home / "music" / "two.flac", "rock"))
        daemon.stop()


def test_the_reader_dies_with_the_daemon(home: Path) -> None:
    with serving(home) as daemon:
        daemon.wait_for("ready")
        daemon.wait_for("tagged", path=make_track(home / "music" / "one.flac", "jazz"))
        (reader,) = psutil.Process(daemon.process.pid).children()
        reader.send_signal(signal.SIGSTOP)
        daemon.kill()
        assert psutil.wait_procs([reader], timeout=20)[0]


def test_a_damaged_ledger_is_refused_and_restored_without_false_corrections(home: Path) -> None:
    first, second = (home / "music" / name for name in ("one.flac", "two.flac"))
    with serving(home) as daemon:
        daemon.wait_for("ready")
        daemon.wait_for("tagged", path=make_track(first, "jazz"))
        assert command(home, "ledger", "backup").returncode == 0
        daemon.wait_for("tagged", path=make_track(second, "rock"))
        daemon.stop()
    ledger = home / "state" / "ledger.db"
    with open(ledger, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(4096)
        file.write(os.urandom(size - 4096))
    before = ledger.read_bytes()
    with serving(home) as daemon:
        assert daemon.ended() == 1
        assert "music-reclass ledger restore" in "".join(daemon.lines)
    assert ledger.read_bytes() == before
    assert command(home, "ledger", "restore").returncode == 0
    with serving(home) as daemon:
        daemon.wait_for("left", path=second)
        daemon.stop()
        assert not [line for line in daemon.lines if '"corrected"' in line]
    assert (tags.read(first).genres, tags.read(second).genres) == (("jazz",), ("rock",))
    assert list((home / "state").glob("ledger.db.damaged-*"))


def test_a_tree_that_is_renamed_is_recognised_and_a_whole_copy_is_not_heard(home: Path) -> None:
    tree = home / "music" / "a" / "b"
    with serving(home) as daemon:
        daemon.wait_for("ready")
        tree.mkdir(parents=True)
        for number in range(5):
            make_track(tree / f"{number}.mp3", "jazz", seconds=1.0)
        for _ in range(5):
            daemon.wait_for("tagged")
        (home / "music" / "a").rename(home / "music" / "z")
        for number in range(5):
            daemon.wait_for("moved", path=home / "music" / "z" / "b" / f"{number}.mp3")
        shutil.copytree(home / "music" / "z", home / "music" / "copy")
        for number in range(5):
            daemon.wait_for("copy", path=home / "music" / "copy" / "b" / f"{number}.mp3")
        daemon.stop()
        assert sum('"event": "tagged"' in line for line in daemon.lines) == 5
        assert not [line for line in daemon.lines if '"corrected"' in line]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_disk_that_is_full_keeps_files_waiting_and_an_unmounted_root_is_told(home: Path) -> None:
    music = home / "music"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(music)], check=False)
    if mounted.returncode != 0:
        pytest.skip("this machine may not mount")
    configure(home, more="queue: {retry_s: 1}")
    try:
        with serving(home) as daemon:
            daemon.wait_for("ready")
            filler = music / "filler"
            path = make_track(music / "song.flac", "jazz", seconds=10.0)
            before = path.read_bytes()
            free = os.statvfs(music)
            filler.write_bytes(bytes(free.f_bavail * free.f_frsize))
            event = daemon.wait_until(
                lambda e: e["event"] in ("postponed", "tagged") and e["path"] == str(path), "a try"
            )
            if event["event"] == "postponed":
                assert path.read_bytes() == before
                assert "space" in event["reason"]
                filler.unlink()
                daemon.wait_for("tagged", path=path)
            subprocess.run(["umount", "-l", str(music)], check=True)
            daemon.wait_until(
                lambda e: e["event"] == "root_unavailable" and "not mounted" in e["reason"], "an unavailable root"
            )
            told = command(home, "status", "--json")
            deadline = time.monotonic() + live.PATIENCE_S
            while "not mounted" not in told.stdout and time.monotonic() < deadline:
                time.sleep(0.5)
                told = command(home, "status", "--json")
            assert "not mounted" in told.stdout
            daemon.stop()
    finally:
        subprocess.run(["umount", "-l", str(music)], check=False, capture_output=True)
