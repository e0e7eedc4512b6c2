"""Where the sound of a file begins and ends between its tags."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_audio import make
from mutagen import apev2, id3

from daemon.core.trailer import TrailerKind, leading_tags_end, trailing_tags, trailing_tags_start

SOUND = b"\xff\xfb\x90\x64" + bytes(range(256)) * 3

HAS_HEADER, IS_HEADER = 1 << 31, 1 << 29


def ape_edge(size: int, count: int, flags: int) -> bytes:
    return struct.pack("<8sIIII8x", b"APETAGEX", 2000, size, count, flags)


def ape(value: bytes, *, header: bool = True) -> bytes:
    items = struct.pack("<II", len(value), 0) + b"Genre\0" + value
    size, flags = len(items) + 32, HAS_HEADER if header else 0
    front = ape_edge(size, 1, flags | IS_HEADER) if header else b""
    return front + items + ape_edge(size, 1, flags)


def lyrics(text: bytes) -> bytes:
    body = b"LYRICSBEGIN" + text
    return body + b"%06dLYRICS200" % len(body)


def id3v2(frames: bytes, *, footer: bool = False) -> bytes:
    size = bytes((len(frames) >> shift) & 0x7F for shift in (21, 14, 7, 0))
    rest = bytes([4, 0, 0x10 if footer else 0]) + size
    return b"ID3" + rest + frames + (b"3DI" + rest if footer else b"")


PIECES = {
    TrailerKind.ID3V1: b"TAG" + bytes(124) + b"\x11",
    TrailerKind.ID3V1_EXTENSION: b"TAG+" + bytes(223),
    TrailerKind.APE: ape(b"Rock"),
    TrailerKind.LYRICS3: lyrics(b"IND0000210LYR00003la la"),
    TrailerKind.ID3V2: id3v2(b"TCON\0\0\0\x05\0\0\0Rock", footer=True),
}
VARIANTS = [*PIECES.items(), (TrailerKind.APE, ape(b"", header=False)), (TrailerKind.APE, ape(b"x" * 70_000))]
VARIANTS.append((TrailerKind.LYRICS3, b"LYRICSBEGIN[00:01]la la\r\nLYRICSEND"))


@given(st.lists(st.sampled_from(VARIANTS), max_size=6), st.binary(max_size=300))
def test_tags_in_any_number_and_order_are_found_in_full(pieces: list[tuple[TrailerKind, bytes]], junk: bytes) -> None:
    sound = SOUND + junk + b"the end"
    file = io.BytesIO(sound + b"".join(data for _, data in pieces))
    found = trailing_tags(file)
    assert [(trailer.kind, trailer.end - trailer.start) for trailer in found] == [
        (kind, len(data)) for kind, data in pieces
    ]
    assert trailing_tags_start(file) == len(sound)


@pytest.mark.parametrize("content", [b"", b"T", b"TAG", bytes(127), SOUND, b"APETAGEX", b"LYRICS200", b"LYRICSEND"])
def test_a_file_without_tags_is_sound_to_its_end(content: bytes) -> None:
    assert trailing_tags_start(io.BytesIO(content)) == len(content)


@pytest.mark.parametrize(
    "lie",
    [
        ape_edge(31, 0, 0),
        ape_edge(0, 0, 0),
        ape_edge(10_000_000, 1, 0),
        ape_edge(32, 0, IS_HEADER),
        b"LYRICSBEGIN la la 999999LYRICS200",
        b"LYRICSBEGIN la la 00001xLYRICS200",
        b"no beginning LYRICSEND",
        b"3DI\x04\0\x10\0\0\x7f\x7f",
        b"3DI\x04\0\x10\xff\xff\xff\xff",
    ],
)
def test_a_tag_whose_size_cannot_be_right_is_none(lie: bytes) -> None:
    content = SOUND + lie
    assert trailing_tags_start(io.BytesIO(content)) == len(content)


def test_an_apev2_header_131_bytes_before_the_end_is_no_id3v1_tag() -> None:
    tag = ape(b"x" * (131 - 64 - 14))
    assert tag[-128:].startswith(b"TAG")
    assert [trailer.kind for trailer in trailing_tags(io.BytesIO(SOUND + tag))] == [TrailerKind.APE]


def test_a_header_counts_where_it_stands_and_not_where_a_flag_announces_it() -> None:
    headless = ape(b"Rock")[32:]
    assert trailing_tags_start(io.BytesIO(SOUND + headless)) == len(SOUND)


def test_what_looks_like_a_tag_inside_the_tag_in_front_belongs_to_that_one() -> None:
    inside = b"PRIV" + struct.pack(">IH", 100 + 128, 0) + bytes(100) + PIECES[TrailerKind.ID3V1]
    content = id3v2(inside)
    assert trailing_tags_start(io.BytesIO(content)) == len(content)
    assert trailing_tags_start(io.BytesIO(content + SOUND + ape(b"x"))) == len(content + SOUND)


@pytest.mark.parametrize("front", [b"", id3v2(b"frames"), id3v2(b"frames", footer=True)])
@pytest.mark.parametrize("second", [b"", ape(b"Rock")])
def test_tags_in_front_are_passed_over(front: bytes, second: bytes) -> None:
    assert leading_tags_end(io.BytesIO(front + second + SOUND)) == len(front + second)


@pytest.mark.parametrize(
    "front", [b"ID3\x04\0\0\x7f\x7f\x7f\x7f", b"ID3\x04\0\0\xff\0\0\0", ape_edge(99_999, 1, HAS_HEADER | IS_HEADER)]
)
def test_a_tag_in_front_that_reaches_beyond_the_file_is_none(front: bytes) -> None:
    assert leading_tags_end(io.BytesIO(front + SOUND)) == 0


def test_tags_that_other_programs_write_are_found(tmp_path: Path) -> None:
    path = make(tmp_path / "song.mp3", genres=None)
    sound = path.stat().st_size
    tag = apev2.APEv2()
    tag["Genre"], tag["Cover"] = ["Rock", "日本"], "c" * 3000
    tag.save(path)
    frames = id3.ID3()
    frames.add(id3.TIT2(encoding=3, text=["Untitled"]))
    frames.save(path, v1=2)
    front = path.stat().st_size - tag_size(path) - 128 - sound
    with path.open("rb") as file:
        assert trailing_tags_start(file) == front + sound
        assert [trailer.kind for trailer in trailing_tags(file)] == [TrailerKind.APE, TrailerKind.ID3V1]
        assert leading_tags_end(file) == front


def tag_size(path: Path) -> int:
    content = path.read_bytes()
    return len(content) - 128 - content.index(b"APETAGEX")
