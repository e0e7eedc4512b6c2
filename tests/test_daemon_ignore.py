"""Music that somebody put there, told from the junk of copying programs and storage boxes."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.effects.files import leftover
from daemon.rules.ignore import is_junk, wanted

ROOT = Path("/music")
SUFFIXES = {".mp3", ".flac"}


@pytest.mark.parametrize(
    "name",
    ["song.mp3", "Song.MP3", "deep/er/song.flac", "日本語.flac", "[2004] Album (Deluxe) #1/01 - song.mp3", "a~b.mp3"],
)
def test_music_is_wanted(name: str) -> None:
    assert wanted(ROOT / name, ROOT, SUFFIXES)


@pytest.mark.parametrize(
    "name", ["...And Justice for All/One.mp3", "...Baby One More Time.flac", "..Like Clockwork/x.mp3"]
)
def test_a_title_that_begins_with_dots_is_no_hidden_file(name: str) -> None:
    assert wanted(ROOT / name, ROOT, SUFFIXES)


@pytest.mark.parametrize(
    "name",
    [
        ".38 Special/Hold On Loosely.mp3",
        ".5 - The Gray Chapter/01 XIX.flac",
        "Mai/Best ~first things~/01.flac",
        "~ambient~ mix.flac",
        "song ~live~.mp3",
        "ZZ Top/RECYCLER/Concrete and Steel.mp3",
        "song.sync-conflict-20261101-120000-ABCDEFG.mp3",
        "song (conflicted copy 2026-11-01).mp3",
        "INCOMPLETE.mp3",
        "Incomplete/song.mp3",
        "F.140.flac",
        "Kraftwerk - f140.flac",
        "Vol. 2, Part/song.mp3",
        "@ the Opera/song.mp3",
        "#1's/song.mp3",
        "$ave/song.mp3",
        "!!!/song.mp3",
        "Temp/song.mp3",
        "download/song.mp3",
    ],
)
def test_titles_that_look_like_junk_are_music(name: str) -> None:
    assert wanted(ROOT / name, ROOT, SUFFIXES)


@pytest.mark.parametrize("name", ["cover.jpg", "song.mp3.txt", "song", "song.mp3 ", "playlist.m3u", "mp3"])
def test_other_files_are_not(name: str) -> None:
    assert not wanted(ROOT / name, ROOT, SUFFIXES)


@pytest.mark.parametrize(
    "name",
    [
        ".song.mp3",
        "._song.mp3",
        ".song.mp3.AbC123",
        ".syncthing.song.mp3.tmp",
        "~syncthing~song.mp3.tmp",
        "song.mp3.part",
        "song.mp3.crdownload",
        "song.mp3.!qB",
        "song.mp3~",
        "@eaDir/song.mp3/SYNOAUDIO.mp3",
        "#recycle/song.mp3",
        "$RECYCLE.BIN/song.mp3",
        ".Trash-1000/files/song.mp3",
        ".stversions/song.mp3",
        "lost+found/song.mp3",
        "System Volume Information/song.mp3",
        "album.part/song.mp3",
        ".song.mp3.Xa1b2C",
        ".~tmp~/song.mp3",
        ".rsync-partial/song.mp3",
        "song.mp3.~tmp~",
        ".sync/Archive/song.mp3",
        "song.mp3.!sync",
        "song.mp3.bts",
        "song.mp3.filepart",
        "song.mp3.lftp",
        ".in.song.mp3",
        ".unison.song.mp3.0a1b2c3d.unison.tmp",
        ".dropbox.cache/2026-11-01/song.mp3",
        ".song.mp3.~1a2b3c",
        ".@__thumb/song.mp3",
        "@Recycle/song.mp3",
        "@GMT-2026.11.01-00.00.00/song.mp3",
        "song.mp3@SynoResource",
        "$Recycle.Bin/S-1-5-21/song.mp3",
        ".Spotlight-V100/song.mp3",
        ".Trashes/501/song.mp3",
        ".AppleDouble/song.mp3",
        "Network Trash Folder/song.mp3",
        ".nfs000000000012d68700000001.mp3",
        ".fuse_hidden0000001200000001.mp3",
        ".smbdeleteAAA1.mp3",
        ".snapshots/1/snapshot/song.mp3",
        "INCOMPLETE0123456789abcdef0123456789abcdefsong.mp3",
        "_UNPACK_Artist - Album/song.mp3",
        "_FAILED_Artist - Album/song.mp3",
        "song.f140.flac",
        "song.f251-drc.mp3",
        "song.mp3.ytdl",
        "song.mp3.aria2",
        "song.mp3.bc!",
        "001.part.met",
        "Song.tmp/download.mp3",
        "song.mp3.download/song.mp3",
    ],
)
def test_junk_of_copying_programs_and_boxes_is_not(name: str) -> None:
    assert not wanted(ROOT / name, ROOT, SUFFIXES)


@pytest.mark.parametrize(
    "name", ["song.mp3", "...And Justice.mp3", ".hidden.mp3", "日本語" * 80 + ".flac", "no suffix"]
)
def test_our_own_copies_are_not(name: str) -> None:
    """Whatever the original is called: else a copy that a crash left would be taken for music."""
    copy = leftover.temporary_name(name, "0a1b2c")
    assert is_junk(copy)
    assert not wanted(ROOT / copy, ROOT, SUFFIXES)


def test_names_above_the_root_do_not_count() -> None:
    root = Path("/home/owner/.local/share/lost+found/music")
    assert wanted(root / "song.mp3", root, SUFFIXES)


def test_a_file_elsewhere_is_not_wanted() -> None:
    assert not wanted(Path("/musical/song.mp3"), ROOT, SUFFIXES)


@pytest.mark.parametrize(
    ("pattern", "name", "ignored"),
    [
        ("Podcasts/*", "Podcasts/1.mp3", True),
        ("Podcasts/*", "Podcasts/2026/1.mp3", True),
        ("Podcasts/*", "Music/Podcasts/1.mp3", False),
        ("Podcasts", "Music/Podcasts/1.mp3", True),
        ("*.live.mp3", "a/song.live.mp3", True),
        ("*.live.mp3", "a/song.mp3", False),
        ("*/Demos/*", "Artist/Demos/1.mp3", True),
        ("podcasts", "Podcasts/1.mp3", False),
        ("[Audiobook]*", "A story.mp3", True),
    ],
)
def test_the_owners_patterns_are_shell_globs_for_names_and_for_the_way_from_the_root(
    pattern: str, name: str, ignored: bool
) -> None:
    assert wanted(ROOT / name, ROOT, SUFFIXES, [pattern]) is not ignored


def test_a_folder_of_the_owners_patterns_is_not_entered() -> None:
    assert is_junk("Podcasts", ["Podcasts"])
    assert not is_junk("Podcasts")
