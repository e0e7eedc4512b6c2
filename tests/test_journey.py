"""The owner's day, end to end: the real daemon as a process, real files, tags read by programs that are not ours."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import live
import mutagen
import pytest
from make_audio import SUFFIXES
from make_bundle import TONES_HZ, make_bundle, make_track

from daemon.core.audio import audio_id
from daemon.core.records import FileState
from daemon.effects.queue import Queue

pytestmark = pytest.mark.slow

LABELS = list(TONES_HZ)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with an inbox as root, a config and a bundle that hears tones."""
    (tmp_path / "music").mkdir()
    make_bundle(tmp_path / "bundle")
    write_config(tmp_path)
    return tmp_path


def write_config(home: Path, extra: str = "") -> Path:
    path = home / "config.yaml"
    partial = home / "config.partial"
    partial.write_text(
        f"roots: [{{path: {home}/music}}]\n"
        f"state_directory: {home}/state\n"
        f"models: {{bundle: {home}/bundle}}\n"
        "settle: {quiet_s: 0.3, patience_s: 60}\n"
        f"{extra}\n"
    )
    os.replace(partial, path)
    return path


def serving(home: Path, **environment: str):
    return live.daemon(["--config", home / "config.yaml", "run"], home, **environment)


def command(home: Path, *arguments: str | Path):
    return live.run(["--config", home / "config.yaml", *arguments], home)


def genre_by_mutagen(path: Path) -> list[str]:
    file = mutagen.File(path, easy=True)
    if path.suffix == ".wav":
        return [str(text) for text in file.tags.getall("TCON")[0].text]
    return list(file["genre"])


def genre_by_ffprobe(path: Path) -> str:
    if shutil.which("ffprobe") is None:
        pytest.skip("ffprobe is not installed")
    entries = "format_tags=genre:stream_tags=genre"
    printed = subprocess.run(
        ["ffprobe", "-v", "error", "-of", "json", "-show_entries", entries, str(path)], capture_output=True, check=True
    ).stdout
    found = json.loads(printed)
    places = [found.get("format", {}), *found.get("streams", [])]
    tags = {key.lower(): value for place in places for key, value in place.get("tags", {}).items()}
    return tags["genre"]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_files_dropped_one_by_one_and_as_a_tree_come_out_tagged_and_undo_gives_back_every_byte(home: Path) -> None:
    outside = home / "outside"
    (outside / "tree" / "deep").mkdir(parents=True)
    sources = [make_track(outside / f"one{n}{suffix}", LABELS[n % 3]) for n, suffix in enumerate(SUFFIXES)]
    sources += [make_track(outside / "tree" / "deep" / f"two{suffix}", "rock") for suffix in SUFFIXES]
    with serving(home) as daemon:
        daemon.wait_for("ready")
        for source in sources[: len(SUFFIXES)]:
            shutil.copy(source, home / "music")
        shutil.copytree(outside / "tree", home / "music" / "tree")
        copies = {home / "music" / s.relative_to(outside): s for s in sources}
        for copy in copies:
            daemon.wait_for("tagged", path=copy)
        assert daemon.stop() == 0
    for copy, source in copies.items():
        label = LABELS[SUFFIXES.index(copy.suffix) % 3] if copy.parent == home / "music" else "rock"
        assert genre_by_mutagen(copy) == [label], copy
        assert genre_by_ffprobe(copy) == label, copy
        assert audio_id(copy) == audio_id(source)
        assert copy.stat().st_mode == source.stat().st_mode
    undone = command(home, "undo", *copies)
    assert undone.returncode == 0, undone.stderr
    assert {copy: sha256(copy) for copy in copies} == {copy: sha256(source) for copy, source in copies.items()}


def test_bad_files_each_get_their_reason_and_disturb_nothing(home: Path) -> None:
    music = home / "music"
    whole = make_track(home / "whole.flac", "jazz")
    (music / "text.mp3").write_text("this is a shopping list\n")
    (music / "empty.flac").touch()
    (music / "cut.m4a").write_bytes(make_track(home / "whole.m4a", "jazz").read_bytes()[:3000])
    (music / "notes.txt").write_text("not music at all")
    shutil.copy(whole, music / "good.flac")
    before = {path: sha256(path) for path in music.iterdir() if path.name != "good.flac"}
    with serving(home) as daemon:
        for name in ("text.mp3", "empty.flac", "cut.m4a"):
            assert daemon.wait_for("parked", path=music / name)["reason"]
        daemon.wait_for("tagged", path=music / "good.flac")
        assert daemon.stop() == 0
        assert not any("notes.txt" in line for line in daemon.lines)
    assert {path: sha256(path) for path in before} == before
    assert sorted(path.name for path in music.iterdir()) == sorted([*(path.name for path in before), "good.flac"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_file_is_parked_with_its_reason(home: Path) -> None:
    locked = make_track(home / "music" / "locked.flac", "jazz")
    locked.chmod(0)
    with serving(home) as daemon:
        assert "permission" in daemon.wait_for("parked", path=locked)["reason"]
        assert daemon.stop() == 0


def test_half_copied_file_is_not_touched_until_its_writer_closes_it(home: Path) -> None:
    whole = make_track(home / "whole.wav", "jazz").read_bytes()
    target = home / "music" / "slow.wav"
    with serving(home) as daemon:
        daemon.wait_for("ready")
        with open(target, "wb") as copying:
            copying.write(whole[: len(whole) // 2])
            copying.flush()
            # Another file goes all the way meanwhile: settling had its time, and the half copy was passed over.
            other = make_track(home / "music" / "other.flac", "rock")
            daemon.wait_for("tagged", path=other)
            assert target.stat().st_size == len(whole) // 2
            copying.write(whole[len(whole) // 2 :])
        daemon.wait_for("tagged", path=target)
        assert daemon.stop() == 0
    assert genre_by_mutagen(target) == ["jazz"]


def test_a_file_deleted_before_its_turn_is_told_and_forgotten(home: Path) -> None:
    with serving(home) as daemon:
        daemon.wait_for("ready")
        target = make_track(home / "music" / "brief.flac", "jazz")
        target.unlink()
        daemon.wait_for("vanished", path=target)
        other = make_track(home / "music" / "other.flac", "rock")
        daemon.wait_for("tagged", path=other)
        assert daemon.stop() == 0


def test_a_genre_changed_in_another_program_is_understood_and_kept(home: Path) -> None:
    target = make_track(home / "music" / "song.mp3", "jazz")
    with serving(home) as daemon:
        daemon.wait_for("tagged", path=target)
        file = mutagen.File(target)
        file.tags["TCON"].text = ["Rock"]
        file.save()
        corrected = daemon.wait_for("corrected", path=target)
        assert (corrected["before"], corrected["genres"], corrected["genre"]) == (["jazz"], ["Rock"], "rock")
        assert daemon.stop() == 0
    assert genre_by_mutagen(target) == ["Rock"]
    story = json.loads(command(home, "history", target, "--json").stdout)
    assert [event["event"] for event in story["events"]] == ["decided", "tag", "corrected"]


def test_after_a_kill_the_next_start_finishes_the_job_and_answers_nothing_twice(home: Path) -> None:
    tracks = [make_track(home / "music" / f"t{n}.flac", LABELS[n % 3]) for n in range(8)]
    with serving(home) as daemon:
        daemon.wait_for("tagged")
        daemon.kill()
    with serving(home) as daemon:
        daemon.wait_for("ready")
        fresh = make_track(home / "music" / "fresh.flac", "rock")
        daemon.wait_for("tagged", path=fresh)
        assert daemon.stop() == 0
    for number, track in enumerate(tracks):
        assert genre_by_mutagen(track) == [LABELS[number % 3]]
        story = json.loads(command(home, "history", track, "--json").stdout)
        assert [e["state"] for e in story["events"] if e["event"] == "tag"].count("done") == 1
    assert [path.name for path in (home / "music").iterdir() if "reclass-tmp" in path.name] == []


def test_an_edited_config_serves_at_once_and_a_broken_one_is_refused_with_its_lines(home: Path) -> None:
    with serving(home) as daemon:
        daemon.wait_for("ready")
        write_config(home, "settle: {quiet: 1}\ntagging: {missing: leaves}")
        refused = daemon.wait_for("config_refused")
        assert len(refused["problems"]) >= 2
        assert all("line" in problem for problem in refused["problems"])
        kept = make_track(home / "music" / "kept.flac", "jazz")
        daemon.wait_for("tagged", path=kept)
        write_config(home, "tagging: {missing: leave}")
        daemon.wait_for("config_reloaded")
        left = make_track(home / "music" / "left.flac", "jazz")
        daemon.wait_for("left", path=left)
        assert daemon.stop() == 0


def test_a_config_that_is_empty_or_gone_for_a_moment_never_means_the_defaults(home: Path) -> None:
    config = home / "config.yaml"
    text = config.read_text()
    with serving(home) as daemon:
        daemon.wait_for("ready")
        config.write_text("")
        assert daemon.wait_for("config_refused")["problems"] == ["is empty"]
        config.unlink()
        daemon.wait_for("config_refused")
        config.write_text(text.replace(f"{home}/state", f"{home}/other"))
        assert "restart" in daemon.wait_for("config_refused")["problems"][0]
        config.write_text(text + "logging: {level: debug}\n")
        daemon.wait_for("config_reloaded")
        track = make_track(home / "music" / "song.flac", "jazz")
        daemon.wait_for("settled", path=track, level="debug")
        daemon.wait_for("tagged", path=track)
        assert daemon.stop() == 0
    assert not (home / "other").exists()
    assert not (home / "Music").exists()


def test_a_better_bundle_is_swapped_in_without_a_restart_and_a_broken_one_never_serves(home: Path) -> None:
    config = home / "config.yaml"
    config.write_text(config.read_text().replace(f"bundle: {home}/bundle", f"directory: {home}/models"))
    make_bundle(home / "models" / "first", name="first")
    make_bundle(home / "models" / "second", name="second")
    broken = make_bundle(home / "models" / "broken", name="broken")
    (broken / "tones.onnx").write_bytes(b"not a graph")
    assert command(home, "models", "use", "first").returncode == 0
    with serving(home) as daemon:
        assert daemon.wait_for("ready")["bundle"] == "first"
        assert command(home, "models", "use", "second").returncode == 0
        assert daemon.wait_for("bundle_serves")["bundle"] == "second"
        refused = command(home, "models", "use", "broken")
        assert refused.returncode == 1
        assert "does not match its hash" in refused.stderr
        (home / "models" / "current.new").symlink_to("broken")
        os.replace(home / "models" / "current.new", home / "models" / "current")
        daemon.wait_for("bundle_refused")
        track = make_track(home / "music" / "song.flac", "jazz")
        assert daemon.wait_for("tagged", path=track)["bundle"] == "second"
        assert daemon.stop() == 0


def test_a_second_daemon_on_the_same_state_refuses(home: Path) -> None:
    with serving(home) as daemon:
        daemon.wait_for("ready")
        second = command(home, "run")
        assert second.returncode == 1
        assert "another daemon" in second.stderr
        state = json.loads(command(home, "status", "--json").stdout)
        assert state["running"] and state["healthy"] and state["bundle"] == "tones-1"
        assert daemon.stop() == 0
    assert command(home, "status").returncode == 1


def test_without_a_config_the_inbox_is_made_and_announced_in_one_line(home: Path) -> None:
    (home / "config.yaml").write_text(
        f"models: {{bundle: {home}/bundle}}\nsettle: {{quiet_s: 0.3}}\nstate_directory: {home}/state\n"
    )
    with serving(home) as daemon:
        daemon.wait_for("ready")
        inbox = home / "Music" / "reclass-inbox"
        track = make_track(inbox / "song.opus", "classical")
        daemon.wait_for("tagged", path=track)
        assert daemon.stop() == 0
        assert daemon.printed == [f"drop music here: {inbox}\n"]


def test_folders_on_the_command_line_outrank_the_config(home: Path) -> None:
    elsewhere = home / "elsewhere"
    elsewhere.mkdir()
    with live.daemon(["--config", home / "config.yaml", "run", elsewhere], home) as daemon:
        daemon.wait_for("ready", roots=[str(elsewhere)])
        track = make_track(elsewhere / "song.mp3", "rock")
        daemon.wait_for("tagged", path=track)
        assert daemon.stop() == 0


def test_a_root_that_appears_later_is_watched_then(home: Path) -> None:
    (home / "music").rmdir()
    with serving(home) as daemon:
        daemon.wait_for("root_unavailable")
        (home / "music").mkdir()
        track = make_track(home / "music" / "late.flac", "jazz")
        daemon.wait_for("tagged", path=track)
        assert daemon.stop() == 0


def test_undo_while_the_daemon_runs_is_not_taken_for_a_correction(home: Path) -> None:
    target = make_track(home / "music" / "song.flac", "jazz")
    before = sha256(target)
    with serving(home) as daemon:
        daemon.wait_for("tagged", path=target)
        assert command(home, "undo", target).returncode == 0
        assert sha256(target) == before
        other = make_track(home / "music" / "other.flac", "rock")
        daemon.wait_for("tagged", path=other)
        assert daemon.stop() == 0
        assert not any(json.loads(line)["event"] == "corrected" for line in daemon.lines)
    assert sha256(target) == before
    again = command(home, "undo", target)
    assert again.returncode == 0, again.stderr
    assert genre_by_mutagen(target) == ["jazz"]


def test_a_damaged_queue_is_begun_anew_and_a_damaged_ledger_is_refused(home: Path) -> None:
    state = home / "state"
    state.mkdir()
    (state / "queue.db").write_bytes(b"not a database" * 1000)
    track = make_track(home / "music" / "song.flac", "jazz")
    with serving(home) as daemon:
        daemon.wait_for("tagged", path=track)
        assert daemon.stop() == 0
    assert (state / "queue.db.damaged").read_bytes().startswith(b"not a database")
    for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
        (state / name).unlink(missing_ok=True)
    (state / "ledger.db").write_bytes(b"not a database" * 1000)
    refused = command(home, "run")
    assert refused.returncode == 1
    assert "ledger.db" in refused.stderr
    assert (state / "ledger.db").read_bytes().startswith(b"not a database")


def test_a_file_that_took_the_program_down_each_time_is_parked_in_the_end(home: Path) -> None:
    track = make_track(home / "music" / "poison.flac", "jazz")
    (home / "state").mkdir()
    queue = Queue(home / "state" / "queue.db")
    queue.put(track, FileState.of(track.stat()))
    for _ in range(5):
        assert queue.lease(300) is not None
        queue.release_all()  # as every start does: no worker of an earlier run can be alive
    queue.close()
    with serving(home) as daemon:
        assert "died 5 times" in daemon.wait_for("parked", path=track)["reason"]
        assert daemon.stop() == 0


def test_while_the_disk_takes_nothing_no_file_is_touched_and_afterwards_the_work_goes_on(home: Path) -> None:
    source = make_track(home / "source.flac", "jazz")
    with serving(home) as daemon:
        daemon.wait_for("ready")
        # The kernel refuses the process every byte, as a full disk would.
        unlimited = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        track = Path(shutil.copy(source, home / "music" / "song.flac"))
        daemon.wait_for("record_failed")
        assert track.read_bytes() == source.read_bytes()
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, unlimited)
        daemon.wait_for("tagged", path=track)
        assert daemon.stop() == 0
    assert [path.name for path in (home / "music").iterdir()] == ["song.flac"]


def test_classify_leaves_no_trace_anywhere_in_the_home(home: Path) -> None:
    track = make_track(home / "music" / "song.flac", "jazz")
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    assert command(home, "classify", track).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


def test_sighup_reloads_and_sigterm_stops_cleanly(home: Path) -> None:
    with serving(home) as daemon:
        daemon.wait_for("ready")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for("config_reloaded")
        assert daemon.stop() == 0
        assert daemon.wait_for("stopped")
