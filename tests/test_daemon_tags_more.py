"""Genre tags in AIFF, RF64, Windows Media, DSF, DSDIFF, Speex and Ogg FLAC: written, with everything else as it was."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from make_audio import PICTURE, encode, tag, waveform
from make_more_audio import SUFFIXES, as_mutagen_reads, chunks, dff, dsf, make_more, ogg_pages, rf64, speex
from mutagen import asf, flac, id3
from test_daemon_tags import AWKWARD, frame, needs, output_of, pages_of, raw_id3, write_and_check

from daemon.core.errors import BadFile, FileTrouble
from daemon.effects import tags

NAMES = {".aiff": "aiff", ".wma": "wma", ".dsf": "dsf", ".dff": "dff", ".spx": "speex", ".oggflac": "oggflac"}

every_container = pytest.mark.parametrize("suffix", SUFFIXES)

Copy = Callable[[str], Path]


@pytest.fixture(scope="module")
def masters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One tagged file per suffix, and one untagged ("bare" before the suffix); encoding takes longer than copying."""
    folder = tmp_path_factory.mktemp("masters")
    made = {suffix: make_more(folder / f"tagged{suffix}").read_bytes() for suffix in SUFFIXES}
    return made | {f"bare{s}": make_more(folder / f"bare{s}", genres=None).read_bytes() for s in SUFFIXES}


@pytest.fixture
def track(tmp_path: Path, masters: dict[str, bytes]) -> Copy:
    def copy(name: str) -> Path:
        path = tmp_path / f"track{name[name.index('.') :]}"
        path.write_bytes(masters[name])
        return path

    return copy


def refused_untouched(path: Path, content: bytes, reason: str) -> None:
    """The file with `content` is not written, for `reason`."""
    path.write_bytes(content)
    with pytest.raises(BadFile, match=reason) as caught:
        tags.write_genres(path, ("Rock",))
    assert caught.value.path == path
    assert path.read_bytes() == content


class TestEveryContainer:
    @every_container
    def test_a_tagged_file_reads_back_what_was_put_in(self, track: Copy, suffix: str) -> None:
        found = tags.read(track(suffix))
        assert (found.container, found.cannot) == (NAMES[suffix], "")
        assert (found.genres, found.artist, found.title) == (("Old Genre",), "Sigur Rós", "Untitled 日本")
        assert found.album == "( )"

    @every_container
    @pytest.mark.parametrize("kind", ["", "bare"])
    def test_awkward_genres_survive_and_nothing_else_changes(self, track: Copy, suffix: str, kind: str) -> None:
        path = track(kind + suffix)
        for genres in (AWKWARD, ("Rock",), (), ("A", "B")):
            write_and_check(path, genres)

    @every_container
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(genres=st.lists(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1), max_size=6, unique=True))
    def test_any_text_survives(self, track: Copy, suffix: str, genres: list[str]) -> None:
        write_and_check(track(suffix), genres)

    @every_container
    def test_another_tagger_sees_true_multi_values(self, track: Copy, suffix: str) -> None:
        path = track(suffix)
        tags.write_genres(path, ("Jazz", "日本"))
        assert as_mutagen_reads(path) == ["Jazz", "日本"]

    @every_container
    def test_what_another_tagger_wrote_as_multi_values_is_read(self, track: Copy, suffix: str) -> None:
        path = make_more(track(suffix), genres=("Jazz", "日本", "2"))
        assert tags.read(path).genres == ("Jazz", "日本", "2")

    @every_container
    def test_a_genre_longer_than_any_padding_fits(self, track: Copy, suffix: str) -> None:
        path = track(suffix)
        write_and_check(path, ("Short", "long " * 20_000 + "end", "Last"))
        assert as_mutagen_reads(path)[::2] == ["Short", "Last"]
        write_and_check(path, ("Rock",))

    @every_container
    def test_writing_the_same_genres_twice_changes_no_byte(self, track: Copy, suffix: str) -> None:
        path = track(suffix)
        tags.write_genres(path, ("Jazz", "Soul"))
        once = path.read_bytes()
        tags.write_genres(path, ("Jazz", "Soul"))
        assert path.read_bytes() == once

    @every_container
    def test_removing_a_genre_that_is_not_there_changes_no_byte(
        self, track: Copy, masters: dict[str, bytes], suffix: str
    ) -> None:
        path = track("bare" + suffix)
        tags.write_genres(path, ())
        assert path.read_bytes() == masters["bare" + suffix]

    @every_container
    def test_the_padding_is_used_before_the_file_grows(self, track: Copy, suffix: str) -> None:
        path = track(suffix)
        tags.write_genres(path, ("A genre that is long enough to make room for some others",))
        size = path.stat().st_size
        for genres in (("Jazz",), ("Jazz", "Soul"), ()):
            tags.write_genres(path, genres)
            assert path.stat().st_size == size

    @every_container
    def test_a_changed_title_or_picture_shows_in_others(self, track: Copy, suffix: str) -> None:
        path = track(suffix)
        before = tags.read(path)
        if suffix == ".wma":
            audio: Any = asf.ASF(path)
            audio["WM/Picture"] = [asf.ASFByteArrayAttribute(b"another")]
            audio.save()
        else:
            tag(path, title="Another")
        assert len(before.changed_beside(tags.read(path))) >= 1

    @every_container
    def test_the_suffix_does_not_decide_and_every_suffix_is_watched(self, track: Copy, suffix: str) -> None:
        assert tags.container_of(track(suffix).rename(track(suffix).with_suffix(".mp3"))) == NAMES[suffix]
        assert suffix in tags.AUDIO_SUFFIXES

    @every_container
    def test_a_file_cut_anywhere_is_read_or_refused(self, track: Copy, masters: dict[str, bytes], suffix: str) -> None:
        path, whole = track(suffix), masters[suffix]
        for size in {*range(0, 128, 7), *range(128, len(whole), max(1, len(whole) // 40))}:
            path.write_bytes(whole[:size])
            try:
                tags.write_genres(path, ("Rock",))
            except BadFile:
                continue
            assert tags.read(path).genres == ("Rock",)

    @every_container
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_damage_is_refused_or_harmless(
        self, tmp_path: Path, masters: dict[str, bytes], suffix: str, data: st.DataObject
    ) -> None:
        content = bytearray(masters[suffix])
        for _ in range(data.draw(st.integers(1, 6))):
            start = data.draw(st.sampled_from([0, max(0, len(content) - 2000)]))
            at = data.draw(st.integers(start, min(len(content), start + 2000) - 1))
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


PCM = (waveform(0.05)[0] * 32_000).astype(">i2").tobytes()
COMM = (b"COMM", struct.pack(">hIh", 1, len(PCM) // 2, 16) + bytes.fromhex("400eac44000000000000"))
SSND = (b"SSND", bytes(8) + PCM)


def aiff(*named: tuple[bytes, bytes], kind: bytes = b"AIFF", size: int | None = None) -> bytes:
    body = kind + chunks(">4sI", *named)
    return struct.pack(">4sI", b"FORM", len(body) if size is None else size) + body


def v23(*frames: bytes, padding: int = 100) -> bytes:
    return raw_id3(3, b"".join(frames), padding)


class TestAiff:
    def test_every_other_chunk_keeps_its_bytes_and_place(self, tmp_path: Path) -> None:
        path = tmp_path / "a.aiff"
        old = [COMM, (b"NAME", b"So What"), (b"APPL", b"test\xff\0"), SSND, (b"ANNO", b"odd"), (b"(c) ", b"1959")]
        path.write_bytes(aiff(*old))
        assert tags.read(path).title == "So What"
        write_and_check(path, ("Jazz", "80"))
        content = path.read_bytes()
        assert content[12:].startswith(aiff(*old)[12:])
        assert struct.unpack(">I", content[4:8])[0] == len(content) - 8

    @pytest.mark.parametrize("name", [b"ID3 ", b"id3 "])
    def test_v23_in_the_middle_stays_v23_and_its_chunk_keeps_its_name(self, tmp_path: Path, name: bytes) -> None:
        path = tmp_path / "a.aif"
        head = v23(frame(b"TIT2", b"\0So What"), frame(b"XUNK", b"\xff\xfe\0"), frame(b"TCON", b"\0(8)"))
        path.write_bytes(aiff(COMM, (name, head), SSND, (b"AUTH", b"Miles Davis")))
        found = tags.read(path)
        assert (found.genres, found.title, found.artist) == (("Jazz",), "So What", "Miles Davis")
        write_and_check(path, ("Jazz", "日本", "a genre that is longer than all of the padding" * 4))
        content = path.read_bytes()
        at = content.index(name)
        assert content[at + 8 : at + 12] == b"ID3\x03"
        assert frame(b"XUNK", b"\xff\xfe\0") in content
        assert content.endswith(chunks(">4sI", SSND, (b"AUTH", b"Miles Davis")))

    def test_a_second_tag_and_bytes_behind_the_tag_and_the_file_are_kept_and_counted(self, tmp_path: Path) -> None:
        path = tmp_path / "a.aiff"
        head, second = v23(frame(b"TCON", b"\0Old")) + b"left behind", v23(frame(b"TIT2", b"\0Twice"))
        path.write_bytes(aiff(COMM, SSND, (b"ID3 ", head), (b"ID3 ", second)) + b"TAG and more")
        names = {name for name, _ in tags.read(path).others}
        assert {"ID3 chunk after its tag", "AIFF ID3 ", "AIFF bytes behind the end"} <= names
        write_and_check(path, ("New", "g" * 2000))
        assert path.read_bytes().endswith(second + b"TAG and more")
        assert b"left behind" in path.read_bytes()

    def test_aifc_and_an_empty_tag_chunk_are_written(self, tmp_path: Path) -> None:
        path = tmp_path / "a.aifc"
        common = (b"COMM", COMM[1] + b"NONE\x0enot compressed\0")
        path.write_bytes(aiff((b"FVER", b"\xa2\x80\x51\x40"), common, SSND, (b"ID3 ", bytes(600)), kind=b"AIFC"))
        size = path.stat().st_size
        write_and_check(path, AWKWARD)
        assert path.stat().st_size == size

    def test_an_odd_last_chunk_without_its_padding_gets_it(self, tmp_path: Path) -> None:
        path = tmp_path / "a.aiff"
        whole = aiff(COMM, SSND, (b"ANNO", b"odd"))
        path.write_bytes(whole[:4] + struct.pack(">I", len(whole) - 9) + whole[8:-1])
        write_and_check(path, ("Jazz",))
        assert as_mutagen_reads(path) == ["Jazz"]

    @pytest.mark.parametrize("size", [0xFFFF_FFFF, 0, 100, 1_000_000])
    def test_sizes_that_contradict_the_file_are_left_alone(self, tmp_path: Path, size: int) -> None:
        refused_untouched(tmp_path / "a.aiff", aiff(COMM, SSND, size=size), "contradict|without sound")

    def test_a_chunk_out_of_step_is_left_alone(self, tmp_path: Path) -> None:
        odd = aiff(COMM, SSND, (b"ANNO", b"odd"), (b"NAME", b"x" * 12)).replace(b"odd\0", b"odd")
        path = tmp_path / "a.aiff"
        refused_untouched(path, odd[:4] + struct.pack(">I", len(odd) - 8) + odd[8:], "contradict|damaged|fill")

    def test_bytes_that_are_no_chunk_are_left_alone(self, tmp_path: Path) -> None:
        path, good = tmp_path / "a.aiff", aiff(COMM, SSND)
        longer = good[:4] + struct.pack(">I", len(good) - 8 + 6) + good[8:] + b"stray!"
        refused_untouched(path, longer, "do not fill")
        refused_untouched(path, aiff(COMM, SSND, (b"\0\xff\1\2", b"no chunk")), "chunks are damaged")

    def test_a_chunk_that_holds_no_tag_is_left_alone(self, tmp_path: Path) -> None:
        refused_untouched(tmp_path / "a.aiff", aiff(COMM, SSND, (b"ID3 ", b"something else")), "no ID3v2 tag")


class TestRf64:
    def test_the_table_of_sizes_is_kept_right(self, tmp_path: Path) -> None:
        path = rf64(tmp_path / "a.wav")
        assert path.read_bytes().startswith(b"RF64\xff\xff\xff\xffWAVEds64")
        for genres in (AWKWARD, (), ("Jazz", "g" * 5000)):
            write_and_check(path, genres)
            content = path.read_bytes()
            assert struct.unpack("<Q", content[20:28])[0] == len(content) - 8
        assert content.startswith(b"RF64\xff\xff\xff\xff")

    def test_sound_beyond_4_gib_is_passed_over(self, tmp_path: Path) -> None:
        path = rf64(tmp_path / "a.rf64")
        content = bytearray(path.read_bytes())
        at, size = content.index(b"data") + 8, (5 << 30) + 2
        content[20:36] = struct.pack("<QQ", at + size - 8, size)
        content[at - 4 : at] = b"\xff" * 4
        with path.open("wb") as file:
            file.write(content[:at])
            file.truncate(at + size)
        before = tags.read(path)
        tags.write_genres(path, ("Jazz", "日本"))
        after = tags.read(path)
        assert (after.genres, before.changed_beside(after)) == (("Jazz", "日本"), ())
        with path.open("rb") as file:
            assert struct.unpack("<Q", file.read(28)[20:])[0] == path.stat().st_size - 8
            file.seek(at + size)
            assert file.read(4) == b"id3 "

    def test_bw64_is_the_same(self, tmp_path: Path) -> None:
        path = rf64(tmp_path / "a.wav")
        path.write_bytes(b"BW64" + path.read_bytes()[4:])
        tags.write_genres(path, ("Jazz",))
        assert tags.read(path).genres == ("Jazz",)

    @pytest.mark.parametrize(
        ("at", "field", "reason"),
        [
            (20, struct.pack("<Q", 1 << 40), "contradict"),
            (28, struct.pack("<Q", 4), "contradict|damaged|fill"),
            (44, struct.pack("<I", 1 << 20), "table"),
            (12, b"JUNK", "table"),
            (4, struct.pack("<I", 1000), "contradict"),
        ],
    )
    def test_sizes_that_contradict_the_file_are_left_alone(
        self, tmp_path: Path, at: int, field: bytes, reason: str
    ) -> None:
        path = rf64(tmp_path / "a.wav")
        content = bytearray(path.read_bytes())
        content[at : at + len(field)] = field
        refused_untouched(path, bytes(content), reason)


class TestDsf:
    def numbers(self, path: Path) -> tuple[int, int]:
        size, pointer = struct.unpack("<QQ", path.read_bytes()[12:28])
        return size, pointer

    def test_the_tag_goes_to_the_end_and_the_header_says_so(self, tmp_path: Path) -> None:
        path = tmp_path / "a.dsf"
        path.write_bytes(dsf())
        write_and_check(path, ("Jazz",))
        content = path.read_bytes()
        assert self.numbers(path) == (len(content), len(dsf()))
        assert content[28 : len(dsf())] == dsf()[28:]

    def test_v23_stays_v23_and_grows_with_what_follows_it(self, tmp_path: Path) -> None:
        path, sound = tmp_path / "a.dsf", dsf()
        tail = v23(frame(b"TIT2", b"\0So What"), frame(b"TCON", b"\0Old")) + b"left behind"
        size = struct.pack("<QQ", len(sound) + len(tail), len(sound))
        path.write_bytes(sound[:12] + size + sound[28:] + tail)
        write_and_check(path, ("Jazz", "g" * 500))
        content = path.read_bytes()
        assert content[len(sound) :].startswith(b"ID3\x03")
        assert content.endswith(b"left behind")
        assert self.numbers(path) == (len(content), len(sound))

    @pytest.mark.parametrize(
        ("size", "pointer", "reason"),
        [(1, 0, "size in its DSF header"), (0, 1 << 40, "where none can be"), (0, -100, "where none can be")],
    )
    def test_numbers_that_contradict_the_file_are_left_alone(
        self, tmp_path: Path, size: int, pointer: int, reason: str
    ) -> None:
        sound = dsf()
        at = len(sound) + pointer if pointer < 0 else pointer
        content = sound[:12] + struct.pack("<QQ", len(sound) + size, at) + sound[28:]
        refused_untouched(tmp_path / "a.dsf", content, reason)

    def test_a_pointer_to_something_else_or_cut_sound_is_left_alone(self, tmp_path: Path) -> None:
        sound = dsf()
        foreign = sound[:12] + struct.pack("<QQ", len(sound) + 9, len(sound)) + sound[28:] + b"no tag at"
        refused_untouched(tmp_path / "a.dsf", foreign, "no ID3v2 tag")
        refused_untouched(tmp_path / "a.dsf", sound[:-1], "cut short")


class TestDsdiff:
    def test_the_tag_is_the_last_chunk_and_the_form_says_so(self, tmp_path: Path) -> None:
        path = tmp_path / "a.dff"
        path.write_bytes(dff((b"COMT", b"\0\0")))
        write_and_check(path, ("Jazz", "日本"))
        content = path.read_bytes()
        assert content[12:].startswith(dff((b"COMT", b"\0\0"))[12:] + b"ID3 ")
        assert struct.unpack(">Q", content[4:12])[0] == len(content) - 12

    def test_names_in_the_master_information_are_read_and_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "a.dff"
        master = chunks(">4sQ", (b"DIAR", b"\0\0\0\x05Miles"), (b"DITI", b"\0\0\0\x07So What"))
        head = v23(frame(b"TCON", b"\0Old"), frame(b"APIC", b"\0image/png\0\3\0" + PICTURE))
        path.write_bytes(dff((b"ID3 ", head), (b"DIIN", master)))
        assert (tags.read(path).artist, tags.read(path).title) == ("Miles", "So What")
        write_and_check(path, ("Jazz", "g" * 300))
        assert path.read_bytes().endswith(chunks(">4sQ", (b"DIIN", master)))
        assert id3.ID3(fileobj=_after(path, b"ID3 ", 12)).version == (2, 3, 0)

    @pytest.mark.parametrize("size", [(1 << 64) - 1, 0, 100, 1_000_000])
    def test_sizes_that_contradict_the_file_are_left_alone(self, tmp_path: Path, size: int) -> None:
        refused_untouched(tmp_path / "a.dff", dff(size=size), "contradict|without sound")


def _after(path: Path, name: bytes, header: int) -> Any:
    """The file from the content of its chunk `name` on."""
    content = path.read_bytes()
    return io.BytesIO(content[content.index(name) + header :])


class TestOgg:
    def test_extra_headers_of_speex_are_kept_and_counted(self, tmp_path: Path) -> None:
        path = tmp_path / "a.spx"
        path.write_bytes(speex(b"an extra header", b"another"))
        assert [name for name, _ in tags.read(path).others].count("Ogg header packet") == 2
        write_and_check(path, ("Jazz", "g" * 90_000))
        pages = pages_of(path)
        assert [page.sequence for page in pages] == list(range(len(pages)))

    @pytest.mark.parametrize("serial", [6, 8])
    def test_a_stream_beside_it_keeps_its_pages(self, tmp_path: Path, serial: int) -> None:
        path = tmp_path / "a.spx"
        path.write_bytes(speex())
        mine, other = [page.write() for page in pages_of(path)], tmp_path / "other"
        other.write_bytes(ogg_pages(serial, [b"unknown\0" * 9], [b"content"], [b"more"]))
        theirs = [page.write() for page in pages_of(other)]
        path.write_bytes(b"".join([theirs[0], mine[0], theirs[1], *mine[1:], theirs[2]]))
        write_and_check(path, ("Jazz", "g" * 90_000))
        assert [page.write() for page in pages_of(path) if page.serial == serial] == theirs

    def test_ogg_flac_keeps_its_other_blocks_and_states_the_length_of_its_comments(self, tmp_path: Path) -> None:
        path = tmp_path / "a.oggflac"
        encode(path, waveform(0.2))
        pages = pages_of(path)
        block = flac.Picture()
        block.data, block.type, block.mime = PICTURE, 3, "image/png"
        picture = block.write()
        pages[1].packets[0] = b"\x04" + pages[1].packets[0][1:]
        pages[1].packets.insert(1, b"\x86" + len(picture).to_bytes(3, "big") + picture)
        path.write_bytes(b"".join(page.write() for page in pages))
        assert "Ogg header packet" in {name for name, _ in tags.read(path).others}
        for genres in (AWKWARD, ("g" * 90_000,), ("Rock",)):
            write_and_check(path, genres)
        comments = next(page for page in pages_of(path) if page.sequence == 1).packets[0]
        assert comments[:1] == b"\x04"
        assert picture in path.read_bytes()

    def test_ogg_flac_that_lies_about_its_comments_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "a.oga"
        encode(path.with_suffix(".oggflac"), waveform(0.2))
        pages = pages_of(path.with_suffix(".oggflac"))
        packet = pages[1].packets[0]
        pages[1].packets[0] = packet[:3] + bytes([packet[3] - 1]) + packet[4:]
        refused_untouched(path, b"".join(page.write() for page in pages), "not as long as it says")

    def test_a_film_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "a.ogg"
        other = ogg_pages(5, [b"\x80theora\3\2\1"], [b"\x81theora"])
        first = len(pages_of_bytes(tmp_path, other)[0].write())
        content = other[:first] + speex() + other[first:]
        refused_untouched(path, content, "holds a film")
        with pytest.raises(BadFile, match="holds a film"):
            tags.read(path)


def pages_of_bytes(folder: Path, content: bytes) -> list[Any]:
    (folder / "pages").write_bytes(content)
    return pages_of(folder / "pages")


class TestOtherPrograms:
    @needs("ffprobe")
    @pytest.mark.parametrize("suffix", [".aiff", ".wma", ".dsf", ".spx", ".oggflac", ".rf64"])
    def test_ffprobe_reads_the_genre(self, track: Copy, tmp_path: Path, suffix: str) -> None:
        path = rf64(tmp_path / "a.rf64") if suffix == ".rf64" else track(suffix)
        tags.write_genres(path, ("日本の音楽",))
        told = json.loads(output_of("ffprobe", "-v", "error", "-of", "json", "-show_format", "-show_streams", path))
        places = [told["format"], *told["streams"]]
        found = [value for place in places for key, value in place.get("tags", {}).items() if key.lower() == "genre"]
        assert found == ["日本の音楽"]

    @needs("metaflac")
    def test_metaflac_reads_the_genres_in_ogg(self, track: Copy) -> None:
        path = track(".oggflac")
        path = path.rename(path.with_suffix(".oga"))  # it goes by the suffix
        tags.write_genres(path, ("Dub Techno", "日本" + "x" * 90_000))
        told = output_of("metaflac", "--no-utf8-convert", "--list", "--block-type=VORBIS_COMMENT", path)
        found = [line.partition(": ")[2] for line in told.splitlines() if "]: GENRE=" in line]
        assert found == ["GENRE=Dub Techno", "GENRE=日本" + "x" * 90_000]

    @needs("flac")
    def test_flac_still_decodes_ogg(self, track: Copy) -> None:
        path = track(".oggflac")
        tags.write_genres(path, ("Dub Techno", "日本" + "x" * 90_000))
        output_of("flac", "--silent", "--ogg", "--test", path)

    @needs("ogginfo")
    def test_ogginfo_finds_nothing_wrong_and_the_genres(self, track: Copy) -> None:
        path = track(".oggflac")
        tags.write_genres(path, ("Dub Techno", "日本"))
        told = output_of("ogginfo", path)
        assert "WARNING" not in told
        assert "GENRE=Dub Techno\n\tGENRE=日本\n" in told

    @needs("kid3-cli")
    @every_container
    def test_kid3_reads_the_genre_and_the_title(self, track: Copy, suffix: str) -> None:
        path = track(suffix)
        tags.write_genres(path, ("Dub Techno",))
        told = output_of("kid3-cli", "-c", "get genre", "-c", "get title", path)
        assert told.split("\n")[:2] == ["Dub Techno", "Untitled 日本"]

    @needs("kid3-cli")
    @every_container
    def test_what_kid3_writes_is_read_and_can_be_written(self, track: Copy, suffix: str) -> None:
        path = track(suffix)
        output_of("kid3-cli", "-c", "set genre 'Dub Techno'", "-c", "set title Another", path)
        assert (tags.read(path).genres, tags.read(path).title) == (("Dub Techno",), "Another")
        write_and_check(path, AWKWARD)
