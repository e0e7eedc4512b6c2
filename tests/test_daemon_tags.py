"""Genre tags: read and written in every container, with everything else left as it was."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import mutagen
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from make_audio import PICTURE, SUFFIXES, make, tag, waveform
from mutagen import flac, id3, mp4, ogg, oggvorbis

from daemon.core.audio import audio_id
from daemon.core.errors import BadFile, FileTrouble, TryLater
from daemon.effects import tags
from daemon.effects.tags.foreign import translated
from daemon.effects.tags.splice import splice

AWKWARD = (
    "Rock",
    "Ambiënt",
    "日本語ポップ",
    "2",
    "80",
    "(17)",
    "((x",
    "Hip-Hop/Rap",
    "Folk, World, & Country",
    "R&B;Soul",
)
NAMES = {".mp3": "mp3", ".flac": "flac", ".ogg": "ogg", ".opus": "opus", ".m4a": "m4a", ".wav": "wav"}

every_container = pytest.mark.parametrize("suffix", SUFFIXES)


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


@pytest.fixture(scope="session")
def masters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One tagged file per suffix, and one untagged ("bare" before the suffix); encoding takes longer than copying."""
    folder = tmp_path_factory.mktemp("masters")
    made = {suffix: make(folder / f"tagged{suffix}").read_bytes() for suffix in SUFFIXES}
    return made | {f"bare{s}": make(folder / f"bare{s}", genres=None).read_bytes() for s in SUFFIXES}


@pytest.fixture
def track(tmp_path: Path, masters: dict[str, bytes]) -> Callable[[str], Path]:
    def copy(name: str) -> Path:
        path = tmp_path / f"track{name[name.index('.') :]}"
        path.write_bytes(masters[name])
        return path

    return copy


def write_and_check(path: Path, genres: Sequence[str], separator: str = "/") -> tags.Tags:
    """Write, and prove what every write promises: the genres read back, everything else and the sound as before."""
    before, sound = tags.read(path, id3_v23_separator=separator), audio_id(path)
    tags.write_genres(path, genres, id3_v23_separator=separator)
    after = tags.read(path, id3_v23_separator=separator)
    assert after.genres == tuple(genres)
    assert before.changed_beside(after) == ()
    assert sorted(after.others) == sorted(before.others)
    assert (after.artist, after.title, after.album) == (before.artist, before.title, before.album)
    assert audio_id(path) == sound
    return after


def as_mutagen_reads(path: Path) -> list[str]:
    audio: Any = mutagen.File(path)
    if path.suffix in (".mp3", ".wav"):
        return list(audio.tags["TCON"].text)
    return list(audio.tags["\xa9gen" if path.suffix == ".m4a" else "genre"])


class TestEveryContainer:
    @every_container
    def test_a_tagged_file_reads_back_what_was_put_in(self, track: Callable[[str], Path], suffix: str) -> None:
        found = tags.read(track(suffix))
        assert found.container == NAMES[suffix]
        assert (found.genres, found.artist, found.title) == (("Old Genre",), "Sigur Rós", "Untitled 日本")
        assert found.album == "( )"

    @every_container
    @pytest.mark.parametrize("kind", ["", "bare"])
    def test_awkward_genres_survive_and_nothing_else_changes(
        self, track: Callable[[str], Path], suffix: str, kind: str
    ) -> None:
        path = track(kind + suffix)
        write_and_check(path, AWKWARD)
        write_and_check(path, ("Rock",))
        write_and_check(path, ())
        write_and_check(path, ("A", "B"))

    @every_container
    def test_another_tagger_sees_true_multi_values(self, track: Callable[[str], Path], suffix: str) -> None:
        path = track(suffix)
        tags.write_genres(path, ("Jazz", "日本"))
        assert as_mutagen_reads(path) == ["Jazz", "日本"]

    @every_container
    def test_a_genre_longer_than_any_padding_fits(self, track: Callable[[str], Path], suffix: str) -> None:
        write_and_check(track(suffix), ("long " * 20_000 + "end",))

    @every_container
    def test_writing_the_same_genres_twice_changes_no_byte(self, track: Callable[[str], Path], suffix: str) -> None:
        path = track(suffix)
        tags.write_genres(path, ("Jazz", "Soul"))
        once = path.read_bytes()
        tags.write_genres(path, ("Jazz", "Soul"))
        assert path.read_bytes() == once

    @every_container
    def test_values_are_stripped_and_repeated_ones_dropped(self, track: Callable[[str], Path], suffix: str) -> None:
        path = track(suffix)
        tags.write_genres(path, (" Jazz", "", "Jazz", "  "))
        assert tags.read(path).genres == ("Jazz",)

    @every_container
    def test_a_changed_title_or_picture_shows_in_others(self, track: Callable[[str], Path], suffix: str) -> None:
        path = track(suffix)
        before = tags.read(path)
        tag(path, title="Another")
        changed = before.changed_beside(tags.read(path))
        assert len(changed) >= 1
        assert before.others != tags.read(path).others

    @every_container
    def test_the_suffix_does_not_decide(self, track: Callable[[str], Path], suffix: str) -> None:
        path = track(suffix)
        lying = path.rename(path.with_suffix(".mp3" if suffix != ".mp3" else ".flac"))
        assert tags.container_of(lying) == NAMES[suffix]

    @every_container
    def test_every_suffix_is_watched(self, suffix: str) -> None:
        assert suffix in tags.AUDIO_SUFFIXES

    def test_a_null_in_a_genre_is_a_bug_of_the_caller(self, track: Callable[[str], Path]) -> None:
        with pytest.raises(ValueError, match="null"):
            tags.write_genres(track(".mp3"), ("a\0b",))


class TestNotMusic:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "empty"),
            (b"Dear diary, today I named a text file .mp3. " * 500, "not audio"),
            ("\ufeffDear diary. ".encode("utf-16") * 500, "not audio"),
            (bytes(100_000), "not audio"),
            (PICTURE, "not audio"),
            (b"FORM\0\0\1\0AIFFCOMM", "AIFF"),
            (b"ID3\x04\0\0\0\0\0\0" + b"no sound here " * 900, "no MPEG audio"),
            (b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0" + bytes(16), "without sound"),
            (b"\0\0\0\x18ftypM4A \0\0\0\0M4A mp42", "index"),
            (b"fLaC\x80\0\0\x22" + bytes(10), "cut short"),
            (b"ID3\x04\0\0\xff\xff\xff\xff" + bytes(100), "impossible size"),
        ],
    )
    def test_is_refused_with_a_reason(self, tmp_path: Path, content: bytes, reason: str) -> None:
        path = tmp_path / "track.mp3"
        path.write_bytes(content)
        with pytest.raises(BadFile, match=reason) as caught:
            tags.read(path)
        assert caught.value.path == path
        with pytest.raises(BadFile):
            tags.write_genres(path, ("Rock",))
        assert path.read_bytes() == content

    def test_a_missing_file_and_a_folder_are_bad_files(self, tmp_path: Path) -> None:
        for path in (tmp_path / "gone.mp3", tmp_path):
            with pytest.raises(BadFile):
                tags.read(path)

    @every_container
    def test_a_file_cut_anywhere_is_read_or_refused(
        self, track: Callable[[str], Path], masters: dict[str, bytes], suffix: str
    ) -> None:
        path = track(suffix)
        whole = masters[suffix]
        for size in {*range(0, 64, 7), *range(64, len(whole), max(1, len(whole) // 40))}:
            path.write_bytes(whole[:size])
            try:
                tags.write_genres(path, ("Rock",))
            except BadFile:
                continue
            assert tags.read(path).genres == ("Rock",)

    @pytest.mark.parametrize("suffix", SUFFIXES)
    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_damage_is_refused_or_harmless(
        self, tmp_path: Path, masters: dict[str, bytes], suffix: str, data: st.DataObject
    ) -> None:
        content = bytearray(masters[suffix])
        for _ in range(data.draw(st.integers(1, 6))):
            at = data.draw(st.integers(0, min(len(content), 6000) - 1))
            content[at] = data.draw(st.integers(0, 255))
        path = tmp_path / f"damaged{suffix}"
        path.write_bytes(content)
        try:
            before = tags.read(path)
            tags.write_genres(path, ("Rock", "日本"))
            after = tags.read(path)
        except FileTrouble as trouble:
            assert trouble.path == path
        else:
            assert after.genres == ("Rock", "日本")
            assert before.changed_beside(after) == ()

    @pytest.mark.parametrize(
        "foreign", [ZeroDivisionError, IndexError, MemoryError, EOFError, KeyError, RecursionError]
    )
    def test_foreign_exceptions_become_bad_files(self, foreign: type[Exception]) -> None:
        with pytest.raises(BadFile, match=foreign.__name__) as caught, translated("/music/a.mp3"):
            raise foreign
        assert isinstance(caught.value.__cause__, foreign)

    def test_a_failing_disk_inside_mutagen_is_no_fault_of_the_file(self) -> None:
        with pytest.raises(TryLater), translated("/music/a.mp3"):
            try:
                raise OSError(errno.EIO, "Input/output error")
            except OSError as error:
                raise mutagen.MutagenError(error) from error
        with pytest.raises(TryLater), translated("/music/a.mp3"):
            raise OSError(errno.ENOSPC, "No space left on device")


def frames_of(path: Path) -> Any:
    return id3.ID3(path, translate=False, load_v1=False)


def raw_id3(version: int, frames: bytes, padding: int = 100, flags: int = 0) -> bytes:
    size = len(frames) + padding
    field = bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3" + bytes([version, 0, flags]) + field + frames + bytes(padding)


def frame(name: bytes, body: bytes, flags: int = 0) -> bytes:
    """A frame of v2.3, or of v2.4 if it is short."""
    return name + struct.pack(">IH", len(body), flags) + body


def v1_tag(genre: int) -> bytes:
    fields = (b"An old title", b"An old artist", b"An old album")
    return (
        b"TAG"
        + b"".join(field.ljust(30, b"\0") for field in fields)
        + b"1997"
        + b"hm".ljust(30, b"\0")
        + bytes([genre])
    )


class TestId3:
    @pytest.fixture
    def bare(self, masters: dict[str, bytes]) -> bytes:
        """An mp3 without any tag."""
        return masters["bare.mp3"]

    def make_v23(self, path: Path, genre: str) -> None:
        made = frames_of(path)
        made.update_to_v23()
        made["TCON"] = id3.TCON(encoding=1, text=[genre])
        made["TPE1"] = id3.TPE1(encoding=1, text=["Simon", "Garfunkel"])
        made.save(path, v2_version=3, v23_sep=None)

    def test_v23_stays_v23_and_joins_genres(self, track: Callable[[str], Path]) -> None:
        path = track(".mp3")
        self.make_v23(path, "Old")
        write_and_check(path, ("Rock", "Pop"))
        assert frames_of(path).version == (2, 3, 0)
        assert frames_of(path)["TCON"].text == ["Rock/Pop"]
        assert frames_of(path)["TPE1"].text == ["Simon", "Garfunkel"]

    @pytest.mark.parametrize("separator", ["/", "; ", ";", ", ", ""])
    def test_any_separator_gives_back_the_values(self, track: Callable[[str], Path], separator: str) -> None:
        path = track(".mp3")
        self.make_v23(path, "Old")
        write_and_check(path, ("Rock", "Pop"), separator)
        write_and_check(path, AWKWARD, separator)
        write_and_check(path, ("Hip-Hop/Rap",), separator)

    def test_a_foreign_v23_genre_with_commas_stays_one(self, track: Callable[[str], Path]) -> None:
        path = track(".mp3")
        self.make_v23(path, "Folk, World, & Country")
        assert tags.read(path).genres == ("Folk, World, & Country",)

    @pytest.mark.parametrize(
        ("stored", "read"),
        [
            ("(17)", ("Rock",)),
            ("(17)(2)", ("Rock", "Country")),
            ("(4)Eurodisco", ("Eurodisco",)),
            ("(RX)", ("Remix",)),
            ("(255)", ("(255)",)),
            ("17", ("17",)),
            ("(Live)", ("(Live)",)),
        ],
    )
    def test_references_to_the_id3v1_list_are_resolved(
        self, track: Callable[[str], Path], stored: str, read: tuple[str, ...]
    ) -> None:
        path = track(".mp3")
        self.make_v23(path, stored)
        assert tags.read(path).genres == read

    def test_v22_stays_v22(self, tmp_path: Path, bare: bytes) -> None:
        path = tmp_path / "old.mp3"
        frames = b"".join(name + len(body).to_bytes(3, "big") + body for name, body in [
            (b"TT2", b"\0Title"), (b"TCO", b"\0(17)"), (b"PIC", b"\0PNG\3\0" + PICTURE), (b"XYZ", b"whatever"),
        ])  # fmt: skip
        path.write_bytes(raw_id3(2, frames) + bare)
        assert (tags.read(path).genres, tags.read(path).title) == (("Rock",), "Title")
        write_and_check(path, ("Jazz", "日本"))
        assert frames_of(path).version == (2, 2, 0)
        assert frames_of(path)["TCON"].text == ["Jazz/日本"]
        assert frames_of(path).getall("APIC")[0].data == PICTURE

    def test_unknown_double_empty_and_broken_frames_keep_their_bytes(self, tmp_path: Path, bare: bytes) -> None:
        path = tmp_path / "odd.mp3"
        odd = [frame(b"XUNK", b"\1\2\3"), frame(b"TIT2", b"\0One"), frame(b"TIT2", b"\0Two"), frame(b"TALB", b"")]
        odd += [frame(b"TENC", b"\x09broken"), frame(b"TSSE", b"\0\0\0\1secret", flags=0x0080)]
        path.write_bytes(raw_id3(3, b"".join([*odd[:3], frame(b"TCON", b"\0Old"), *odd[3:]])) + bare)
        write_and_check(path, ("New",))
        content = path.read_bytes()
        assert b"".join([*odd[:3], frame(b"TCON", b"\0New"), *odd[3:]]) in content

    def test_a_rest_that_is_no_frame_is_kept(self, tmp_path: Path, bare: bytes) -> None:
        path = tmp_path / "rest.mp3"
        path.write_bytes(raw_id3(3, frame(b"TIT2", b"\0One") + b"\x01\x02 left by some program") + bare)
        write_and_check(path, ("New",))
        assert b"left by some program" in path.read_bytes()

    def test_whole_tag_unsynchronisation_and_extended_header_are_undone(self, tmp_path: Path, bare: bytes) -> None:
        path = tmp_path / "unsynchronised.mp3"
        private = frame(b"PRIV", b"owner\0\xff\xe0\xff\x00\xff")
        extended = b"\0\0\0\x06\0\0\0\0\0\x64"
        body = (extended + private + frame(b"TCON", b"\1\xff\xfeO\0")).replace(b"\xff", b"\xff\0")
        path.write_bytes(raw_id3(3, body, flags=0xC0) + bare)
        assert tags.read(path).genres == ("O",)
        write_and_check(path, ("New",))
        assert private in path.read_bytes()
        assert frames_of(path).getall("PRIV")[0].data == b"\xff\xe0\xff\x00\xff"

    def test_old_itunes_sizes_in_v24_are_understood(self, tmp_path: Path, bare: bytes) -> None:
        path = tmp_path / "itunes.mp3"
        path.write_bytes(
            raw_id3(4, frame(b"PRIV", bytes(300)) + frame(b"TCON", b"\0Old") + frame(b"TIT2", b"\0x")) + bare
        )
        assert (tags.read(path).genres, tags.read(path).title) == (("Old",), "x")
        write_and_check(path, ("g" * 200,))

    def test_a_footer_is_dropped_with_its_flag(self, tmp_path: Path, bare: bytes) -> None:
        path = tmp_path / "footer.mp3"
        head = raw_id3(4, frame(b"TCON", b"\0Old"), padding=0, flags=0x10)
        path.write_bytes(head + b"3DI" + head[3:10] + bare)
        write_and_check(path, ("New",))
        assert path.read_bytes().endswith(bare)

    def test_v1_gets_its_genre_byte_and_no_other(self, track: Callable[[str], Path]) -> None:
        path = track(".mp3")
        with path.open("ab") as file:
            file.write(v1_tag(17))
        write_and_check(path, ("Krautrock", "jazz"))
        assert path.read_bytes()[-128:] == v1_tag(id3.TCON.GENRES.index("Krautrock"))
        write_and_check(path, ("No such thing",))
        assert path.read_bytes()[-128:] == v1_tag(255)

    def test_v1_is_not_added(self, track: Callable[[str], Path]) -> None:
        path = track(".mp3")
        write_and_check(path, ("Rock",))
        assert path.read_bytes()[-128:-125] != b"TAG"

    def test_a_file_with_v1_alone_keeps_its_title_for_players_that_stop_at_v2(
        self, tmp_path: Path, bare: bytes
    ) -> None:
        path = tmp_path / "v1.mp3"
        path.write_bytes(bare + v1_tag(17))
        assert (tags.read(path).genres, tags.read(path).title) == (("Rock",), "An old title")
        write_and_check(path, ("Jazz",))
        assert frames_of(path)["TIT2"].text == ["An old title"]
        assert frames_of(path).version == (2, 4, 0)

    def test_a_new_tag_can_be_v23(self, tmp_path: Path, bare: bytes) -> None:
        path = tmp_path / "new.mp3"
        path.write_bytes(bare)
        tags.write_genres(path, ("日本", "Jazz"), new_id3=tags.Id3Version.V23)
        assert frames_of(path).version == (2, 3, 0)
        assert tags.read(path).genres == ("日本", "Jazz")

    def test_apev2_and_lyrics_stay_and_count_as_others(self, track: Callable[[str], Path]) -> None:
        path = track(".mp3")
        ape = mutagen.apev2.APEv2()
        ape["REPLAYGAIN_TRACK_GAIN"], ape["Cover"] = "-3 dB", "c" * 5000
        ape.save(path)
        before = tags.read(path)
        assert "APEv2 Cover" in {name for name, _ in before.others}
        write_and_check(path, ("Rock",))
        ape["REPLAYGAIN_TRACK_GAIN"] = "-4 dB"
        ape.save(path)
        assert before.changed_beside(tags.read(path)) == ("APEv2 REPLAYGAIN_TRACK_GAIN",)


class TestWave:
    def riff(self, *chunks: tuple[bytes, bytes], size: int | None = None) -> bytes:
        body = b"WAVE"
        for name, content in chunks:
            body += name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
        return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body

    @property
    def sound(self) -> list[tuple[bytes, bytes]]:
        pcm = (waveform(0.05)[0] * 32_000).astype("<i2").tobytes()
        return [(b"fmt ", struct.pack("<HHIIHH", 1, 1, 44_100, 88_200, 2, 16)), (b"data", pcm)]

    def info(self, *items: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
        return (b"LIST", b"INFO" + self.riff(*items)[12:])

    def test_info_genre_is_read_where_there_is_no_id3(self, tmp_path: Path) -> None:
        path = tmp_path / "a.wav"
        path.write_bytes(self.riff(*self.sound, self.info((b"IGNR", b"Jazz; Soul\0"), (b"INAM", b"So What\0"))))
        assert (tags.read(path).genres, tags.read(path).title) == (("Jazz", "Soul"), "So What")

    def test_info_genre_is_kept_in_step_with_id3(self, tmp_path: Path) -> None:
        path = tmp_path / "a.wav"
        before, after = (b"bext", b"b" * 605), (b"iXML", b"<x/>")
        info = self.info((b"INAM", b"So What\0"), (b"IGNR", b"Pop\0"), (b"ICMT", b"hm"))
        path.write_bytes(self.riff(before, *self.sound, info, after))
        write_and_check(path, ("Jazz", "Söul"))
        content = path.read_bytes()
        assert "IGNR\x0c\0\0\0Jazz; Söul\0".encode() in content
        assert struct.unpack("<I", content[4:8])[0] == len(content) - 8
        write_and_check(path, ())
        assert b"IGNR" not in path.read_bytes()

    def test_a_damaged_info_list_is_left_as_it_is(self, tmp_path: Path) -> None:
        path = tmp_path / "a.wav"
        damaged = b"INFOINAM\x03\0\0\0oddISFT\x02\0\0\0ab"
        path.write_bytes(self.riff(*self.sound, (b"LIST", damaged)))
        write_and_check(path, ("Jazz",))
        assert damaged in path.read_bytes()
        content = self.riff(*self.sound, (b"LIST", damaged.replace(b"ISFT", b"IGNR")))
        path.write_bytes(content)
        with pytest.raises(BadFile, match="INFO"):
            tags.write_genres(path, ("Jazz",))
        assert path.read_bytes() == content

    def test_a_plain_file_gets_both_kinds(self, tmp_path: Path) -> None:
        path = tmp_path / "a.wav"
        path.write_bytes(self.riff(*self.sound))
        write_and_check(path, ("Jazz",))
        assert b"LIST\x12\0\0\0INFOIGNR\x05\0\0\0Jazz\0" in path.read_bytes()
        assert as_mutagen_reads(path) == ["Jazz"]

    def test_an_odd_last_chunk_without_its_padding_gets_it(self, tmp_path: Path) -> None:
        path = tmp_path / "a.wav"
        whole = self.riff(*self.sound, (b"note", b"odd"))
        path.write_bytes(whole[:4] + struct.pack("<I", len(whole) - 9) + whole[8:-1])
        write_and_check(path, ("Jazz",))
        assert as_mutagen_reads(path) == ["Jazz"]

    @pytest.mark.parametrize("size", [0xFFFF_FFFF, 0, 100, 1_000_000])
    def test_sizes_that_contradict_the_file_are_left_alone(self, tmp_path: Path, size: int) -> None:
        path = tmp_path / "stream.wav"
        content = self.riff(*self.sound, size=size)
        path.write_bytes(content)
        with pytest.raises(BadFile):
            tags.write_genres(path, ("Jazz",))
        assert path.read_bytes() == content


class TestVorbisComments:
    def test_the_key_keeps_its_case_and_place(self, track: Callable[[str], Path]) -> None:
        path = track(".flac")
        audio = flac.FLAC(path)
        assert audio.tags is not None
        audio.tags[:] = [("TITLE", "x"), ("Genre", "Old"), ("GENRE", "Older"), ("MOOD", "y")]
        audio.save()
        write_and_check(path, ("A", "B"))
        assert list(flac.FLAC(path).tags or ()) == [("TITLE", "x"), ("Genre", "A"), ("Genre", "B"), ("MOOD", "y")]

    @pytest.mark.parametrize("suffix", [".flac", ".ogg", ".opus"])
    def test_fields_that_break_the_standard_keep_their_bytes(self, track: Callable[[str], Path], suffix: str) -> None:
        path = track(suffix)
        audio: Any = mutagen.File(path)
        audio.tags.append(("BROKEN", "MARK-MARK-MARK"))
        audio.tags.append(("NOEQUALS", "xyz"))
        audio.save()
        content = path.read_bytes().replace(b"BROKEN=MARK-MARK-MARK", b"BROKEN=\xe9\xff\xfe" + b"\xc0" * 11)
        path.write_bytes(content.replace(b"NOEQUALS=xyz", b"NOEQUALS:xyz"))
        if suffix != ".flac":
            renew_checksums(path)
        write_and_check(path, ("New",))
        assert b"BROKEN=\xe9\xff\xfe" in path.read_bytes()
        assert b"NOEQUALS:xyz" in path.read_bytes()

    def test_flac_without_comment_block_or_padding_gets_them(self, track: Callable[[str], Path]) -> None:
        path = track("bare.flac")
        audio = flac.FLAC(path)
        audio.delete()
        write_and_check(path, ("Rock",))
        assert as_mutagen_reads(path) == ["Rock"]

    def test_flac_blocks_of_every_kind_survive(self, track: Callable[[str], Path]) -> None:
        path = track(".flac")
        content = path.read_bytes()
        extra = b"".join(bytes([kind]) + len(body).to_bytes(3, "big") + body for kind, body in [
            (2, b"testapplication"), (3, bytes(range(18))), (77, b"from the future"),
        ])  # fmt: skip
        path.write_bytes(content[:42] + extra + content[42:])
        with path.open("ab") as file:
            file.write(v1_tag(3))
        names = {name for name, _ in tags.read(path).others}
        assert {"FLAC block 2", "FLAC block 3", "FLAC block 77", "FLAC block 6", "ID3v1 after FLAC"} <= names
        write_and_check(path, AWKWARD)
        assert extra in path.read_bytes()

    def test_flac_with_wrong_block_sizes_is_refused(self, track: Callable[[str], Path]) -> None:
        path = track("bare.flac")
        content = bytearray(path.read_bytes())
        content[7] -= 1
        path.write_bytes(content)
        with pytest.raises(BadFile, match=r"wrong sizes|cut short"):
            tags.write_genres(path, ("Rock",))


def pages_of(path: Path) -> list[Any]:
    found: list[Any] = []
    with path.open("rb") as file:
        while True:
            try:
                found.append(ogg.OggPage(file))
            except EOFError:
                return found


def renew_checksums(path: Path) -> None:
    pages = [page.write() for page in pages_of(path)]
    path.write_bytes(b"".join(pages))


class TestOgg:
    @pytest.mark.parametrize("suffix", [".ogg", ".opus"])
    def test_a_short_genre_leaves_every_other_page_as_it_was(self, track: Callable[[str], Path], suffix: str) -> None:
        path = track(suffix)
        before = pages_of(path)
        write_and_check(path, ("Jazz", "Soul", "Funk and a few words more"))
        after = pages_of(path)
        assert len(after) == len(before)
        assert [page.write() for page in after[3:]] == [page.write() for page in before[3:]]

    @pytest.mark.parametrize("suffix", [".ogg", ".opus"])
    def test_new_pages_are_numbered_without_a_gap(self, track: Callable[[str], Path], suffix: str) -> None:
        path = track(suffix)
        before = len(pages_of(path))
        write_and_check(path, ("g" * 200_000,))
        pages = pages_of(path)
        assert len(pages) > before
        assert [page.sequence for page in pages] == list(range(len(pages)))

    def test_damaged_pages_are_refused_where_they_would_have_to_be_renumbered(
        self, track: Callable[[str], Path]
    ) -> None:
        path = track(".ogg")
        content = path.read_bytes()
        at = content.rindex(b"OggS")
        path.write_bytes(content[:at] + b"OgXS" + content[at + 4 :])
        with pytest.raises(BadFile, match="damaged"):
            tags.write_genres(path, ("g" * 200_000,))

    def test_opus_data_behind_the_comments_is_kept(self, track: Callable[[str], Path]) -> None:
        path = track("bare.opus")
        pages = pages_of(path)
        pages[1].packets[0] += b"\x01kept for a later standard"
        path.write_bytes(b"".join(page.write() for page in pages))
        write_and_check(path, ("Rock", "Pop"))
        assert b"\x01kept for a later standard" in path.read_bytes()


class TestMp4:
    def test_a_genre_number_becomes_text(self, track: Callable[[str], Path]) -> None:
        path = track(".m4a")
        tags.write_genres(path, ("Room for another item",))
        content = path.read_bytes()
        at = content.index(b"\xa9gen") - 4
        size = int.from_bytes(content[at : at + 4], "big")
        number = struct.pack(">I4sI4sIIH", 26, b"gnre", 18, b"data", 0, 0, 18)
        filler = struct.pack(">I4s", size - len(number), b"xxxx").ljust(size - len(number), b"x")
        path.write_bytes(content[:at] + number + filler + content[at + size :])
        assert tags.read(path).genres == ("Rock",)
        write_and_check(path, ("Rock", "New"))
        assert b"gnre" not in path.read_bytes()

    def test_items_that_mutagen_would_change_keep_their_bytes(self, track: Callable[[str], Path]) -> None:
        path = track(".m4a")
        audio: Any = mp4.MP4(path)
        audio["tmpo"] = [300]
        audio["desc"] = ["MARKED"]
        audio.save()
        content = path.read_bytes()
        wide = content.replace(b"\0\0\0\x01\0\0\0\0MARKED", b"\0\0\0\x01\x12\x34\x56\x78MARKED")  # a locale
        assert wide != content
        path.write_bytes(wide)
        write_and_check(path, ("New", "Newer"))
        assert b"\0\0\0\x01\x12\x34\x56\x78MARKED" in path.read_bytes()

    def remux(self, folder: Path, movflags: str) -> Path:
        """The same packets, with the boxes laid out as `movflags` say; fragments of a quarter of a second."""
        source, path = make(folder / "source.m4a"), folder / "remuxed.m4a"
        options = {"movflags": movflags} | ({"frag_duration": "250000"} if "frag" in movflags else {})
        with av.open(str(source)) as reader, av.open(str(path), "w", format="ipod", options=options) as writer:
            stream = writer.add_stream_from_template(reader.streams.audio[0])
            for packet in reader.demux(reader.streams.audio[0]):
                if packet.size:
                    packet.stream = stream
                    writer.mux(packet)
        return path

    def test_the_index_may_stand_before_the_sound(self, tmp_path: Path) -> None:
        path = self.remux(tmp_path, "+faststart")
        content = path.read_bytes()
        assert content.index(b"moov") < content.index(b"mdat")
        write_and_check(path, ("g" * 50_000,))

    def test_fragments_that_count_from_themselves_can_be_moved(self, tmp_path: Path) -> None:
        path = self.remux(tmp_path, "+frag_keyframe+empty_moov+default_base_moof+skip_trailer")
        assert path.read_bytes().count(b"moof") > 2
        write_and_check(path, ("g" * 50_000,))

    @pytest.mark.parametrize("movflags", ["+frag_keyframe", "+frag_keyframe+empty_moov+default_base_moof"])
    def test_fragments_that_count_from_the_start_of_the_file_are_left_alone(
        self, tmp_path: Path, movflags: str
    ) -> None:
        path = self.remux(tmp_path, movflags)
        content = path.read_bytes()
        with pytest.raises(BadFile, match="fragmented"):
            tags.write_genres(path, ("Rock",))
        assert path.read_bytes() == content

    def test_a_file_cut_inside_a_box_is_refused_untouched(self, track: Callable[[str], Path]) -> None:
        path = track(".m4a")
        content = path.read_bytes()[:-10]
        path.write_bytes(content)
        with pytest.raises(BadFile, match="cut short"):
            tags.write_genres(path, ("Rock",))
        assert path.read_bytes() == content


def output_of(*command: str | Path) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True, timeout=30)
    return done.stdout


class TestOtherPrograms:
    @needs("ffprobe")
    @pytest.mark.parametrize("suffix", [".mp3", ".flac", ".ogg", ".opus", ".m4a", ".wav"])
    def test_ffprobe_reads_the_genre(self, track: Callable[[str], Path], suffix: str) -> None:
        path = track(suffix)
        tags.write_genres(path, ("日本の音楽",))
        told = json.loads(output_of("ffprobe", "-v", "error", "-of", "json", "-show_format", "-show_streams", path))
        places = [told["format"], *told["streams"]]
        found = [value for place in places for key, value in place.get("tags", {}).items() if key.lower() == "genre"]
        assert found == ["日本の音楽"]

    @needs("kid3-cli")
    @every_container
    def test_kid3_reads_the_genre_and_the_title(self, track: Callable[[str], Path], suffix: str) -> None:
        path = track(suffix)
        tags.write_genres(path, ("Dub Techno",))
        told = output_of("kid3-cli", "-c", "get genre", "-c", "get title", path)
        assert told.split("\n")[:2] == ["Dub Techno", "Untitled 日本"]

    @needs("id3v2")
    def test_id3v2_reads_the_genre(self, track: Callable[[str], Path]) -> None:
        path = track("bare.mp3")
        tags.write_genres(path, ("Dub Techno",), new_id3=tags.Id3Version.V23)  # it knows no v2.4
        assert "Dub Techno" in output_of("id3v2", "-l", path)

    @needs("vorbiscomment")
    @pytest.mark.parametrize("long", ["", "x" * 100_000])
    def test_vorbiscomment_reads_the_genres(self, track: Callable[[str], Path], long: str) -> None:
        path = track(".ogg")
        tags.write_genres(path, ("Dub Techno", "日本" + long))
        lines = output_of("vorbiscomment", "-R", "-l", path).splitlines()
        assert [line for line in lines if line.startswith("GENRE=")] == ["GENRE=Dub Techno", "GENRE=日本" + long]

    @needs("metaflac")
    def test_metaflac_reads_the_genres(self, track: Callable[[str], Path]) -> None:
        path = track(".flac")
        tags.write_genres(path, ("Dub Techno", "日本"))
        told = output_of("metaflac", "--no-utf8-convert", "--show-tag=GENRE", path)
        assert told.splitlines() == ["GENRE=Dub Techno", "GENRE=日本"]


class TestSplice:
    @given(
        content=st.binary(max_size=200),
        new=st.binary(max_size=200),
        at=st.integers(0, 200),
        length=st.integers(0, 200),
    )
    def test_everything_around_keeps_its_bytes(
        self, tmp_path_factory: Any, content: bytes, new: bytes, at: int, length: int
    ) -> None:
        at = min(at, len(content))
        length = min(length, len(content) - at)
        path = tmp_path_factory.getbasetemp() / "spliced"
        path.write_bytes(content)
        with path.open("r+b") as file:
            splice(file, at, length, new)
        assert path.read_bytes() == content[:at] + new + content[at + length :]

    @pytest.mark.parametrize("change", [-700_001, 1, 2_000_003])
    def test_files_longer_than_one_block(self, tmp_path: Path, change: int) -> None:
        content = os.urandom(3_500_000)
        path = tmp_path / "long"
        path.write_bytes(content)
        new = bytes(1_000_000 + change)
        with path.open("r+b") as file:
            splice(file, 1000, 1_000_000, new)
        assert path.read_bytes() == content[:1000] + new + content[1_001_000:]


def corpus() -> list[Path]:
    data = os.environ.get("MUSIC_RECLASS_DATA")
    folder = Path(data, "corpora") if data else None
    if folder is None or not folder.is_dir():
        return []
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size < 4_000_000)


@pytest.mark.data
@pytest.mark.skipif(not corpus(), reason="MUSIC_RECLASS_DATA names no corpora")
@pytest.mark.parametrize("source", corpus(), ids=lambda path: path.name)
def test_files_that_broke_other_taggers_are_written_faithfully_or_refused(tmp_path: Path, source: Path) -> None:
    path = tmp_path / source.name
    shutil.copyfile(source, path)
    try:
        before = tags.read(path)
        tags.write_genres(path, ("Rock", "日本", "80"))
    except BadFile as trouble:
        assert trouble.path == path
        assert trouble.reason
        return
    after = tags.read(path)
    assert after.genres == ("Rock", "日本", "80")
    assert before.changed_beside(after) == ()
    try:
        sound = audio_id(source)
    except BadFile:
        return
    assert audio_id(path) == sound


def test_vorbis_comment_without_framing_bit_is_refused(track: Callable[[str], Path]) -> None:
    path = track("bare.ogg")
    audio = oggvorbis.OggVorbis(path)
    assert audio.tags is not None
    pages = pages_of(path)
    packet = pages[1].packets[0]
    pages[1].packets[0] = packet.rstrip(b"\0")[:-1] + bytes(len(packet) - len(packet.rstrip(b"\0")) + 1)
    path.write_bytes(b"".join(page.write() for page in pages))
    with pytest.raises(BadFile, match="framing"):
        tags.write_genres(path, ("Rock",))
