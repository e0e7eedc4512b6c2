"""The command line for review, the ledger's copies and the comparison of record and disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from console import Command, write_settings
from make_bundle import make_track

from daemon import __main__ as door
from daemon.effects import tags


def damage(ledger: Path) -> None:
    with open(ledger, "r+b") as file:
        size = file.seek(0, 2)
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))


def test_the_ledger_is_copied_listed_and_put_back(command: Command, music: Path) -> None:
    path = make_track(music / "song.flac", "jazz")
    assert command("apply", path).code == 0
    assert command("ledger", "list").out == "no backup yet\n"
    assert command("ledger", "backup").code == 0
    (copy,) = command("ledger", "list", "--json").objects
    assert copy["sound"]
    damage(music.parent / "state" / "ledger.db")
    for verb in (("history", path), ("status",), ("undo", path)):
        refused = command(*verb)
        assert refused.code == 1 and "music-reclass ledger restore" in refused.err
    told = command("doctor")
    assert told.code == 1 and "music-reclass ledger restore" in told.out
    assert command("ledger", "restore").code == 0
    assert command("history", path).code == 0
    assert command("undo", path).code == 0
    assert tags.read(path).genres == ()


def test_a_lost_ledger_is_refused_and_a_copy_can_be_named(command: Command, music: Path) -> None:
    command("apply", make_track(music / "song.flac", "jazz"))
    command("ledger", "backup")
    (copy,) = command("ledger", "list", "--json").objects
    for part in (music.parent / "state").glob("ledger.db*"):
        part.unlink()
    assert "the ledger is gone" in command("status").err
    assert command("ledger", "restore", copy["path"]).code == 0
    assert command("history", music / "song.flac").code == 0


def test_what_is_no_ledger_is_not_put_in_its_place(command: Command, music: Path) -> None:
    command("apply", make_track(music / "song.flac", "jazz"))
    foreign = music.parent / "foreign.db"
    foreign.write_text("no database")
    refused = command("ledger", "restore", foreign)
    assert refused.code == 1 and "nothing was changed" in refused.err
    assert command("history", music / "song.flac").code == 0


def test_review_lists_what_could_not_be_used_and_tries_it_again(command: Command, music: Path) -> None:
    write_settings(music.parent, "apply", "tagging: {read_only: park}\n")
    path = make_track(music / "song.flac", "jazz")
    path.chmod(0o444)
    command("apply", path)
    listed = command("review", "--parked")
    assert "protected" in listed.out and str(path) in listed.out
    path.chmod(0o644)
    assert command("review", "--parked", "--retry", music).code == 0
    assert tags.read(path).genres == ("jazz",)
    assert command("review", "--parked", "--json").objects == []


def test_review_accepts_and_declines(command: Command, music: Path) -> None:
    write_settings(music.parent, "suggest")
    one, two = make_track(music / "one.flac", "jazz"), make_track(music / "two.flac", "rock")
    process_all(music)
    command("status")  # takes what was logged
    listed = command("review", "--json").objects
    assert {Path(row["path"]).name: row["suggestion"] for row in listed} == {"one.flac": ["jazz"], "two.flac": ["rock"]}
    assert command("review", "--accept", one).code == 0
    assert command("review", "--decline", two).code == 0
    assert (tags.read(one).genres, tags.read(two).genres) == (("jazz",), ())
    assert command("review").out == "0 files\n"
    assert command("review", "--accept", one).code == 1
    assert command("review", "--accept").code == 2


def process_all(music: Path) -> None:
    """Have every file processed in the mode of its root, as the daemon would."""
    with door.Workshop(music.parent / "config.yaml").pipeline() as pipeline:
        for path in sorted(music.iterdir()):
            pipeline.process(path, pipeline.mode_of(path))


def test_undo_by_model_takes_back_what_it_decided_and_says_where_there_is_nothing(
    command: Command, music: Path
) -> None:
    paths = [make_track(music / f"{genre}.flac", genre) for genre in ("jazz", "rock")]
    command("apply", music)
    told = command("undo", "--model", "nonsense")
    assert (told.code, told.err) == (0, "there is nothing to undo\n")
    assert command("undo", "--model", "tones-1").code == 0
    assert [tags.read(path).genres for path in paths] == [(), ()]


def test_a_file_named_relatively_is_recorded_where_it_is(
    command: Command, music: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (music.parent / "config.yaml").write_text(
        f"state_directory: {music.parent}/state\nmodels: {{bundle: {music.parent}/bundle}}\n"
    )
    make_track(music / "song.flac", "jazz")
    monkeypatch.chdir(music)
    assert command("apply", "song.flac").code == 0
    assert command("history", "song.flac").code == 0
    monkeypatch.chdir(music.parent)
    assert command("undo", music / "song.flac").code == 0
    assert tags.read(music / "song.flac").genres == ()


def test_the_doctor_compares_record_and_disk(command: Command, music: Path) -> None:
    path = make_track(music / "song.flac", "jazz")
    command("apply", path)
    command("ledger", "backup")
    agreed = command("doctor", "--verify", "--deep")
    assert "record, disk and queue agree" in agreed.out
    path.unlink()
    make_track(music / "other.flac", "rock")
    found = command("doctor", "--verify", "--json")
    assert found.code == 1
    kinds = {row["kind"] for row in found.objects if "kind" in row}
    assert {"file_missing", "file_unknown"} <= kinds


def test_apply_moves_nothing_that_was_not_named(command: Command, music: Path) -> None:
    write_settings(music.parent, "apply", "organise: {enabled: true, wait_s: 600}\n")
    first, second = make_track(music / "one.flac", "jazz"), make_track(music / "two.flac", "rock")
    command("apply", first)
    write_settings(music.parent, "apply", "organise: {enabled: true, wait_s: 0}\n")
    command("apply", "--dry-run", second)
    command("apply", second)
    assert first.exists() and not second.exists()


def test_apply_files_at_once_where_nothing_is_to_be_waited_for(command: Command, music: Path) -> None:
    write_settings(music.parent, "apply", "organise: {enabled: true, wait_s: 0}\n")
    path = make_track(music / "song.flac", "jazz")
    assert command("apply", path).out == "1 applied, 1 moved\n"
    assert tags.read(music / "jazz" / "song.flac").genres == ("jazz",)
    told = command("undo", music / "jazz" / "song.flac").out
    assert "is back in its place" in told and "genre is empty again" in told
    assert tags.read(path).genres == ()
