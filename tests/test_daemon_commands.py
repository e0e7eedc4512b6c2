"""The command line: what each verb prints, what it writes, and how it exits."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import jsonschema
import mutagen
import yaml
from console import Command
from make_bundle import make_bundle, make_track

from daemon.effects import tags


def fingerprint(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_classify_prints_one_object_a_line_and_writes_nothing(command: Command, music: Path) -> None:
    make_track(music / "a.flac", "jazz")
    make_track(music / "b.mp3", "jazz", mixed_with="rock")
    (music / "c.mp3").write_text("no music")
    before = fingerprint(music.parent)
    result = command("classify", music, "--json")
    assert result.code == 1
    sure, unsure, failed = result.objects
    assert (sure["path"], sure["genre"]) == (str(music / "a.flac"), "jazz")
    assert sure["candidates"][0] == ["jazz", sure["confidence"]]
    assert [p for _, p in sure["candidates"]] == sorted((p for _, p in sure["candidates"]), reverse=True)
    assert unsure["genre"] is None and unsure["abstention"] == "unsure"
    assert failed["error"] and "genre" not in failed
    assert fingerprint(music.parent) == before


def test_classify_shows_a_table_with_genre_confidence_and_runner_up(command: Command, music: Path) -> None:
    make_track(music / "a.flac", "jazz")
    result = command("classify", music)
    assert result.code == 0
    assert "runner-up" in result.out.splitlines()[0]
    assert "jazz" in result.out and "a.flac" in result.out and "1 named" in result.out


def test_classify_takes_files_outside_every_root_and_names_missing_ones(command: Command, tmp_path: Path) -> None:
    track = make_track(tmp_path / "elsewhere.opus", "rock")
    result = command("classify", track, tmp_path / "missing.mp3", "--json")
    assert result.code == 1
    assert result.objects[0]["genre"] == "rock"
    assert "no such file" in result.objects[1]["error"]


def test_apply_tags_history_tells_and_undo_gives_back(command: Command, music: Path) -> None:
    track = make_track(music / "a.flac", "jazz")
    before = track.read_bytes()
    applied = command("apply", music)
    assert applied.code == 0 and "1 applied" in applied.out
    assert tags.read(track).genres == ("jazz",)
    story = json.loads(command("history", track, "--json").out)
    assert [event["event"] for event in story["events"]] == ["decided", "tag"]
    assert story["events"][0]["candidates"][0][0] == "jazz"
    told = command("history", track).out
    assert "heard by tones-1: jazz" in told and "empty -> jazz (done)" in told
    undone = command("undo", track)
    assert undone.code == 0 and "empty again" in undone.out
    assert track.read_bytes() == before


def test_undo_since_takes_back_everything_after_a_time_and_refusals_are_said(command: Command, music: Path) -> None:
    tracks = [make_track(music / f"{n}.flac", "jazz") for n in range(3)]
    before = [track.read_bytes() for track in tracks]
    command("apply", music)
    touched = mutagen.File(tracks[1])
    touched["title"] = "mine"
    touched.save()
    result = command("undo", "--since", "2020-01-01 20:00")
    assert result.code == 1
    assert "refused" in result.err and "changed since" in result.err
    assert [track.read_bytes() == bytes_ for track, bytes_ in zip(tracks, before, strict=True)] == [True, False, True]


def test_undo_of_one_of_two_copies_leaves_the_other_and_one_refusal_does_not_keep_back_the_rest(
    command: Command, music: Path
) -> None:
    first = make_track(music / "a.flac", "jazz")
    second = music / "b.flac"
    second.write_bytes(first.read_bytes())
    before = first.read_bytes()
    command("apply", music)
    result = command("undo", music / "unknown.flac", first)
    assert result.code == 1 and "no change of ours" in result.err
    assert first.read_bytes() == before
    assert tags.read(second).genres == ("jazz",)


def test_apply_leaves_what_a_root_ignores_and_sees_links_as_the_daemon_does(command: Command, music: Path) -> None:
    settings = music.parent / "config.yaml"
    settings.write_text(settings.read_text().replace("/music}", "/music, ignore: ['Audiobooks/*']}"))
    (music / "Audiobooks").mkdir()
    ignored = make_track(music / "Audiobooks" / "book.flac", "jazz")
    track = make_track(music / "song.flac", "jazz")
    (music.parent / "link").symlink_to(music)
    assert command("apply", music.parent / "link").code == 0
    assert tags.read(ignored).genres == ()
    assert json.loads(command("history", track, "--json").out)["path"] == str(track)


def test_undo_of_a_file_without_changes_is_refused(command: Command, music: Path) -> None:
    track = make_track(music / "a.flac", "jazz", mixed_with="rock")
    command("apply", track)
    assert command("undo", track).code == 1
    assert command("history", music / "unknown.mp3").code == 1


def test_apply_dry_run_writes_no_file(command: Command, music: Path) -> None:
    make_track(music / "a.flac", "jazz")
    before = fingerprint(music)
    assert command("apply", music, "--dry-run").code == 0
    assert fingerprint(music) == before


def test_status_says_that_no_daemon_runs(command: Command) -> None:
    result = command("status", "--json")
    assert result.code == 1
    assert json.loads(result.out)["running"] is False
    assert command("status").out.startswith("not running")


def test_doctor_finds_nothing_wrong_on_a_sound_machine_and_names_what_is(command: Command, music: Path) -> None:
    sound = command("doctor")
    assert sound.code == 0, sound.out
    assert "tones-1 serves" in sound.out
    assert "cannot hear these genres of yours: electronic, pop" in sound.out
    (music.parent / "bundle" / "tones.onnx").write_bytes(b"damaged")
    music.rmdir()
    ill = command("doctor", "--json")
    assert ill.code == 1
    problems = [finding["what"] for finding in ill.objects if finding["level"] == "problem"]
    assert any("does not match its hash" in what for what in problems)
    assert any("is not there" in what for what in problems)


def test_a_broken_config_stops_every_command_with_all_its_reasons(command: Command, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("settle:\n  quiet: 1\nrescan:\n  interval_s: -1\n")
    for arguments in (("classify", tmp_path), ("run",), ("config", "check")):
        result = command(*arguments, config=broken)
        assert result.code == 2, arguments
        assert "line 2" in result.err and "line 4" in result.err
    told = command("doctor", config=broken)
    assert told.code == 1 and "line 2" in told.out
    assert command("status", config=tmp_path / "missing.yaml").code == 2


def test_config_check_and_schema(command: Command, music: Path) -> None:
    assert "good" in command("config", "check").out
    schema = json.loads(command("config", "schema").out)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load((music.parent / "config.yaml").read_text()), schema)


def test_models_list_show_check_and_use(command: Command, music: Path) -> None:
    directory = music.parent / "models"
    make_bundle(directory / "second", name="second")
    settings = music.parent / "config.yaml"
    settings.write_text(settings.read_text().replace(f"bundle: {music.parent}/bundle, ", ""))
    assert command("models", "use", "second").code == 0
    rows = {row["id"]: row for row in command("models", "list", "--json").objects}
    assert rows["second"]["serves"] is True
    assert json.loads(command("models", "show", "second", "--json").out)["id"] == "second"
    assert "good" in command("models", "check", "second").out
    (directory / "second" / "golden.npz").write_bytes(b"damaged")
    refused = command("models", "check", "second")
    assert refused.code == 1 and "golden.npz" in refused.err
    assert command("models", "use", "absent").code == 1


def test_wrong_usage_exits_with_2(command: Command) -> None:
    assert command("classify").code == 2
    assert command("undo").code == 2
    assert command("no-such-verb").code == 2
    assert command("run", "/no/such/folder").code == 2


def test_names_from_files_cannot_command_the_terminal(command: Command, music: Path) -> None:
    make_track(music / "plain.flac", "jazz").rename(music / "evil\x1b[31m\nname.flac")
    out = command("classify", music).out
    assert "\x1b" not in out and "\\x1b[31m\\x0aname" in out
