"""Genre tags in Windows Media and in MP4 files of every kind; and sound that can hold no tags, which is still read."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from make_audio import encode, make, waveform
from make_more_audio import ASF_PICTURE, film, make_more
from mutagen import apev2, asf
from mutagen.asf import _objects
from mutagen.asf._util import guid2bytes
from test_daemon_tags import AWKWARD, frame, raw_id3, v1_tag, write_and_check
from test_daemon_tags_more import refused_untouched

from daemon.core.audio import audio_id
from daemon.core.errors import BadFile
from daemon.effects import tags

EXTENDED = _objects.ExtendedContentDescriptionObject.GUID
LIBRARY = _objects.MetadataLibraryObject.GUID
METADATA = _objects.MetadataObject.GUID
EXTENSION = _objects.HeaderExtensionObject.GUID
PADDING = _objects.PaddingObject.GUID
FILE = _objects.FilePropertiesObject.GUID
ENCRYPTION = _objects.ContentEncryptionObject.GUID


def text(value: str) -> bytes:
    return (value + "\0").encode("utf-16-le")


def short(name: str, value: bytes, kind: int = 0) -> bytes:
    """An attribute as the extended content description has it."""
    return struct.pack("<H", len(text(name))) + text(name) + struct.pack("<HH", kind, len(value)) + value


def long(name: str, value: bytes, kind: int = 0, language: int = 0, stream: int = 0) -> bytes:
    """An attribute as the metadata objects have it."""
    return struct.pack("<HHHHI", language, stream, len(text(name)), kind, len(value)) + text(name) + value


def attributes(*stored: bytes) -> bytes:
    return struct.pack("<H", len(stored)) + b"".join(stored)


def asf_object(guid: bytes, content: bytes) -> bytes:
    return guid + struct.pack("<Q", 24 + len(content)) + content


def parts(content: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The objects of the header, and all that follows it."""
    size = struct.unpack_from("<Q", content, 16)[0]
    found, at = [], 30
    while at < size:
        length = struct.unpack_from("<Q", content, at + 16)[0]
        found.append((content[at : at + 16], content[at + 24 : at + length]))
        at += length
    return found, content[size:]


def whole(objects: Sequence[tuple[bytes, bytes]], rest: bytes, *, true_size: bool = True) -> bytes:
    """A file with these objects in its header; its own statement of its size is right if `true_size`."""
    body = b"".join(asf_object(guid, content) for guid, content in objects)
    size = 30 + len(body) + len(rest)
    if true_size:
        objects = [(g, c[:16] + struct.pack("<Q", size) + c[24:] if g == FILE else c) for g, c in objects]
        body = b"".join(asf_object(guid, content) for guid, content in objects)
    start = guid2bytes("75B22630-668E-11CF-A6D9-00AA0062CE6C")
    return start + struct.pack("<QIBB", 30 + len(body), len(objects), 1, 2) + body + rest


def extension(*objects: bytes) -> tuple[bytes, bytes]:
    reserved = guid2bytes("ABD3D211-A9BA-11CF-8EE6-00C00C205365") + b"\6\0"
    inside = b"".join(objects)
    return EXTENSION, reserved + struct.pack("<I", len(inside)) + inside


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The objects of an untagged file but those with attributes, and what follows its header."""
    path = make_more(tmp_path_factory.mktemp("wma") / "a.wma", genres=None)
    objects, rest = parts(path.read_bytes())
    return [(guid, content) for guid, content in objects if guid not in (EXTENDED, EXTENSION, PADDING)], rest


class TestWindowsMedia:
    def test_attributes_of_every_type_and_place_keep_their_bytes(self, tmp_path: Path, bare: Any) -> None:
        objects, rest = bare
        path = tmp_path / "a.wma"
        kept = [
            short("WM/Picture", ASF_PICTURE, 1),
            short("Odd", b"abc", 1),
            short("WM/Genre", b"\1\0\0\0", 3),
            short("WM/Genre/Sub", text("no genre")),
            short("IsVBR", b"\1\0\0\0", 2),
            short("", b""),
        ]
        index = asf_object(guid2bytes("33000890-E5B1-11CF-89F4-00A0C90349CB"), bytes(range(32)))
        content = attributes(*kept[:3], short("WM/Genre", text("Old")), *kept[3:], short("wm/genre", text("Older")))
        sized = [struct.pack("<I", len(value)) + value for value in (b"data", b"DRM\0", b"key\0", b"http://x\0")]
        foreign = (ENCRYPTION, b"".join(sized))
        stated = [*objects, (EXTENDED, content + b"rest"), foreign]
        path.write_bytes(whole(stated, rest + index))
        assert tags.read(path).genres == ("Old", "Older")
        write_and_check(path, ("Jazz", "日本"))
        new = dict(parts(path.read_bytes())[0])
        genres = [short("WM/Genre", text("Jazz")), short("WM/Genre", text("日本"))]
        assert new[EXTENDED] == attributes(*kept[:3], *genres, *kept[3:]) + b"rest"
        assert new[ENCRYPTION] == foreign[1]
        assert parts(path.read_bytes())[1] == rest + index

    def test_genres_in_other_places_are_gathered_in_the_first(self, tmp_path: Path, bare: Any) -> None:
        objects, rest = bare
        path = tmp_path / "a.wma"
        cover = long("WM/Picture", ASF_PICTURE, 1, language=1)
        held = [
            asf_object(METADATA, attributes(long("WM/Genre", text("B")), long("Rate", b"\1\0", 5, stream=1))),
            asf_object(LIBRARY, attributes(cover, long("WM/Genre", text("C"), language=1), long("X", b"", 1))),
        ]
        first = (EXTENDED, attributes(short("WM/Genre", text("A"))))
        path.write_bytes(whole([*objects, extension(*held), first], rest))
        assert tags.read(path).genres == ("A", "B", "C")
        write_and_check(path, ("Rock", "Pop"))
        audio: Any = asf.ASF(path)
        assert [str(value) for value in audio["WM/Genre"]] == ["Rock", "Pop"]
        assert cover + long("X", b"", 1) in path.read_bytes()
        write_and_check(path, ())
        assert "WM/Genre" not in asf.ASF(path)

    def test_a_list_as_other_programs_store_it_is_read_in_order(self, tmp_path: Path) -> None:
        path = make_more(tmp_path / "a.wma", genres=("A", "B", "C"))
        assert tags.read(path).genres == ("A", "B", "C")

    @pytest.mark.parametrize("place", ["header", "extension"])
    def test_padding_is_used_wherever_it_stands(self, tmp_path: Path, bare: Any, place: str) -> None:
        objects, rest = bare
        path = tmp_path / "a.wma"
        padding = asf_object(PADDING, bytes(300))
        inside = [padding] if place == "extension" else []
        outside = [(PADDING, bytes(300))] if place == "header" else []
        path.write_bytes(whole([*objects, extension(*inside), *outside, (EXTENDED, attributes())], rest))
        size = path.stat().st_size
        for genres in (("Jazz", "Soul", "80"), ("Rock",), ()):
            write_and_check(path, genres)
            assert path.stat().st_size == size
        write_and_check(path, ("g" * 1000,))
        assert path.stat().st_size > size
        assert parts(path.read_bytes())[1] == rest

    def test_a_file_without_any_attributes_gets_them(self, tmp_path: Path, bare: Any) -> None:
        path = tmp_path / "a.asf"
        path.write_bytes(whole(*bare))
        write_and_check(path, AWKWARD)
        assert [str(value) for value in asf.ASF(path)["WM/Genre"]] == list(AWKWARD)
        with pytest.raises(BadFile, match="no place for a genre that long"):
            tags.write_genres(path, ("g" * 40_000,))

    @pytest.mark.parametrize("right", [True, False])
    def test_the_size_it_states_is_kept_right_where_it_was_right(self, tmp_path: Path, bare: Any, right: bool) -> None:
        path = tmp_path / "a.wma"
        path.write_bytes(whole(*bare, true_size=right))
        stated = dict(parts(path.read_bytes())[0])[FILE][16:24]
        assert (struct.unpack("<Q", stated)[0] == path.stat().st_size) is right
        write_and_check(path, ("Jazz",))
        now = dict(parts(path.read_bytes())[0])[FILE][16:24]
        assert now == (struct.pack("<Q", path.stat().st_size) if right else stated)

    def test_sizes_that_contradict_the_file_are_left_alone(self, tmp_path: Path, bare: Any) -> None:
        objects, rest = bare
        path, good = tmp_path / "a.wma", whole(objects, rest)
        many = good[:24] + struct.pack("<I", len(objects) + 1) + good[28:]
        refused_untouched(path, many, "other objects than it says")
        refused_untouched(path, good[:16] + struct.pack("<Q", 1 << 40) + good[24:], "impossible size")
        refused_untouched(path, good[:16] + struct.pack("<Q", len(good) - len(rest) - 1) + good[24:], "fit into")
        refused_untouched(path, whole(objects, rest[:-1]), "contradict")
        refused_untouched(path, whole(objects, b"no sound object" * 3), "contradict")
        refused_untouched(path, whole([*objects, (EXTENDED, b"\2\0" + short("A", b"b"))], rest), "tags|damaged")
        broken = (EXTENDED, attributes(short("WM/Genre", text("Old"))[:-1]))
        refused_untouched(path, whole([*objects, broken], rest), "damaged")
        guid, content = extension()
        refused_untouched(path, whole([*objects, (guid, content + b"x")], rest), "impossible size")
        refused_untouched(path, whole([*objects, extension(), extension()], rest), "more than one extension")

    def test_a_film_is_left_alone(self, tmp_path: Path) -> None:
        path = film(tmp_path / "a.wma", "asf", "wmv2", "wmav2")
        refused_untouched(path, path.read_bytes(), "holds a film")
        with pytest.raises(BadFile, match="holds a film"):
            tags.read(path)

    def test_a_film_that_is_described_in_the_extension_alone_is_left_alone(self, tmp_path: Path, bare: Any) -> None:
        objects, rest = bare
        stream = _objects.StreamPropertiesObject.GUID
        video = asf_object(stream, guid2bytes("BC19EFC0-5B4D-11CF-A8FD-00805F5C442B") + bytes(62))
        extended = asf_object(guid2bytes("14E6A5CB-C672-4332-8399-A96952065B5A"), bytes(64) + video)
        refused_untouched(tmp_path / "a.wma", whole([*objects, extension(extended)], rest), "holds a film")


class TestMp4Kinds:
    @pytest.mark.parametrize("suffix", [".mp4", ".m4b", ".m4p", ".m4r", ".3gp", ".3g2", ".aac"])
    def test_every_suffix_is_watched_and_content_decides(self, tmp_path: Path, suffix: str) -> None:
        path = make(tmp_path / "a.m4a").rename(tmp_path / f"a{suffix}")
        assert suffix in tags.AUDIO_SUFFIXES
        assert tags.container_of(path) == "m4a"
        write_and_check(path, AWKWARD)

    @pytest.mark.parametrize("container", ["mp4", "mov", "3gp"])
    def test_a_film_is_neither_read_nor_written(self, tmp_path: Path, container: str) -> None:
        path = film(tmp_path / f"a.{container}", container)
        refused_untouched(path, path.read_bytes(), "holds a film")
        with pytest.raises(BadFile, match="holds a film"):
            tags.read(path)

    def test_pictures_that_go_with_chapters_are_no_film(self, tmp_path: Path) -> None:
        path = film(tmp_path / "a.m4b", "mp4")
        content = path.read_bytes()
        sound = content.index(b"soun")
        # In place of the sound track's edit list: a reference to track 1, the pictures, of the same length.
        at = content.rindex(b"edts", 0, sound) - 4
        assert int.from_bytes(content[at : at + 4], "big") == 36
        chapters = struct.pack(">I4s5I", 28, b"chap", 1, 1, 1, 1, 1)
        path.write_bytes(content[:at] + struct.pack(">I4s", 36, b"tref") + chapters + content[at + 36 :])
        write_and_check(path, ("Audiobook", "日本"))

    def test_a_cover_is_no_film(self, tmp_path: Path) -> None:
        path = make(tmp_path / "a.m4a")
        assert b"covr" in path.read_bytes()
        write_and_check(path, ("Jazz",))


UNTAGGABLE = {
    ".aac": "raw AAC can hold no tags",
    ".ac3": "AC-3 can hold no tags",
    ".eac3": "E-AC-3 can hold no tags",
    ".au": "an AU file can hold no tags",
    ".caf": "this program writes no tags into CAF files",
    ".w64": "a Wave64 file has no place for a genre that programs agree on",
    ".mka": "this program writes no tags into Matroska files",
}


class TestUntaggable:
    @pytest.mark.parametrize("suffix", UNTAGGABLE)
    def test_is_read_with_its_reason_and_never_written(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"a{suffix}"
        encode(path, waveform(0.5))
        found = tags.read(path)
        assert (found.genres, found.cannot) == ((), UNTAGGABLE[suffix])
        assert len(audio_id(path)) == 64
        assert suffix in tags.AUDIO_SUFFIXES
        for genres in (("Rock",), ()):
            with pytest.raises(BadFile, match=UNTAGGABLE[suffix]):
                tags.write_genres(path, genres)
        refused_untouched(path, path.read_bytes(), UNTAGGABLE[suffix])

    @pytest.mark.parametrize("suffix", [".mp3", ".flac", ".m4a", ".wav"])
    def test_every_other_file_can_be_written(self, tmp_path: Path, suffix: str) -> None:
        assert tags.read(make(tmp_path / f"a{suffix}")).cannot == ""

    @pytest.mark.parametrize(
        "start",
        [b"\x7f\xfe\x80\x01", b"\xfe\x7f\x01\x80", b"\x1f\xff\xe8\x00", b"\xff\x1f\x00\xe8", b"DTSHDHDR"],
    )
    def test_dts_in_every_byte_order_is_known(self, tmp_path: Path, start: bytes) -> None:
        path = tmp_path / "a.dts"
        path.write_bytes(start + bytes(100))
        assert (tags.read(path).container, tags.read(path).cannot) == ("dts", "DTS can hold no tags")

    def test_adif_is_known(self, tmp_path: Path) -> None:
        path = tmp_path / "a.aac"
        path.write_bytes(b"ADIF" + bytes(100))
        assert tags.read(path).container == "aac"

    def test_foreign_tags_on_raw_aac_are_named_read_in_front_and_left(self, tmp_path: Path) -> None:
        path = tmp_path / "a.aac"
        encode(path, waveform(0.5))
        ape: Any = apev2.APEv2()
        ape["Genre"] = "Pop"
        ape.save(path)
        head = raw_id3(3, frame(b"TIT2", b"\0So What") + frame(b"TCON", b"\0(8)"))
        content = head + path.read_bytes() + v1_tag(17)
        path.write_bytes(content)
        found = tags.read(path)
        assert (found.container, found.genres, found.title) == ("aac", ("Jazz",), "So What")
        assert "raw AAC can hold no tags; what it carries (ID3v2, APEv2, ID3v1) is no part" in found.cannot
        refused_untouched(path, content, "no part of the format")

    @pytest.mark.parametrize("suffix", [".aac", ".ac3", ".eac3"])
    def test_a_sync_word_alone_is_no_sound(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"a{suffix}"
        encode(path, waveform(0.5))
        content = path.read_bytes()
        path.write_bytes(content[:40] + b"Dear diary. " * 500)
        with pytest.raises(BadFile):
            tags.read(path)

    def test_a_film_in_matroska_is_neither_read_nor_written(self, tmp_path: Path) -> None:
        path = film(tmp_path / "a.mka", "matroska")
        refused_untouched(path, path.read_bytes(), "holds a film")
        with pytest.raises(BadFile, match="holds a film"):
            tags.read(path)

    def test_matroska_cut_anywhere_is_read_or_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "a.mka"
        encode(path, waveform(0.1))
        content = path.read_bytes()
        for size in range(0, len(content), 11):
            path.write_bytes(content[:size])
            try:
                assert tags.read(path).container == "matroska"
            except BadFile as trouble:
                assert trouble.reason
