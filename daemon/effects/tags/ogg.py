"""Ogg Vorbis and Opus: genres in the comment packet. Owns that packet and, where its pages have to move, their layout.

Pages are read, cut and numbered by mutagen. Where it can be done the file keeps its number of pages, because each one
carries its number and a checksum: one page more rewrites every page of the file, and the record for undo grows with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from mutagen.ogg import OggPage

from daemon.effects.tags import vorbis
from daemon.effects.tags.value import Format, Tags, Unusable, as_others, fingerprint, joined

# mutagen's Ogg pages carry no types.
_Page: Any = OggPage

# Sizes to try for new pages; the first is mutagen's own. A page cannot hold more than 65,025 bytes.
_PAGE_SIZES = (4096, 8192, 16384, 28000)
# More pages than this before the sound starts is no Ogg file that a player would open.
_MAX_HEADER_PAGES = 10_000


@dataclass(frozen=True, slots=True)
class _Codec:
    """How a codec marks its first packet and its comment packet."""

    name: str
    head: bytes
    comment: bytes
    framing: bytes


_VORBIS = _Codec("ogg", b"\x01vorbis", b"\x03vorbis", b"\x01")
_OPUS = _Codec("opus", b"OpusHead", b"OpusTags", b"")


@dataclass(frozen=True, slots=True)
class _Header:
    """The first stream of the codec: its first packet, the pages of its comment packet, and all packets on them."""

    head: bytes
    pages: list[OggPage]
    packets: list[bytes]


def _first_packet(page: OggPage) -> bytes:
    packets: list[bytes] = page.packets
    return packets[0] if packets else b""


def _serial(file: BinaryIO, codec: _Codec) -> tuple[int, bytes] | None:
    """The serial number and first packet of the first stream of `codec`; streams are announced before any content."""
    file.seek(0)
    if file.read(4) != b"OggS":
        return None
    file.seek(0)
    page = _Page(file)
    while page.first:
        packet = _first_packet(page)
        if packet.startswith(codec.head):
            return int(page.serial), packet
        page = _Page(file)
    return None


def _header(file: BinaryIO, codec: _Codec) -> _Header:
    found = _serial(file, codec)
    if found is None:
        raise Unusable(f"it holds no {codec.name} stream")
    serial, head = found
    pages: list[OggPage] = []
    for _ in range(_MAX_HEADER_PAGES):
        page = _Page(file)
        if page.serial != serial:
            continue
        if not pages and not _first_packet(page).startswith(codec.comment):
            raise Unusable("its comment packet is not where it belongs")
        pages.append(page)
        if page.complete or len(page.packets) > 1:
            return _Header(head, pages, _Page.to_packets(pages))
    raise Unusable("its comment packet does not end")


def _comments(header: _Header, codec: _Codec) -> vorbis.Comments:
    return vorbis.parse(header.packets[0][len(codec.comment) :])


def _extra(comments: vorbis.Comments, codec: _Codec) -> bytes:
    """What stands behind the comments and is no padding: Vorbis' framing bit; in Opus data, if its first bit is set."""
    rest = comments.rest
    if not rest or not rest[0] & 1:
        return b""
    return rest.rstrip(b"\0") if codec.framing else rest


def _read(file: BinaryIO, codec: _Codec) -> Tags:
    header = _header(file, codec)
    comments = _comments(header, codec)
    return Tags(
        container=codec.name,
        genres=vorbis.genres(comments),
        artist=joined(vorbis.text(comments, "artist")),
        title=joined(vorbis.text(comments, "title")),
        album=joined(vorbis.text(comments, "album")),
        others=as_others(_others(header, comments, codec)),
    )


def _others(header: _Header, comments: vorbis.Comments, codec: _Codec) -> Iterator[tuple[str, str]]:
    yield from vorbis.others(comments)
    yield "Ogg first packet", fingerprint(header.head)
    extra = _extra(comments, codec)
    if extra != codec.framing:
        yield "Ogg data behind the comments", fingerprint(extra)


def _write_genres(file: BinaryIO, genres: tuple[str, ...], codec: _Codec) -> None:
    header = _header(file, codec)
    old = _comments(header, codec)
    extra = _extra(old, codec)
    if codec.framing and not extra:
        raise Unusable("its Vorbis comment lacks the framing bit")
    new = dataclasses.replace(vorbis.with_genres(old, genres), rest=extra)
    packet = codec.comment + vorbis.render(new)
    if codec.framing or not extra:
        packet = packet.ljust(len(header.packets[0]), b"\0")
    packets = [packet, *header.packets[1:]]
    pages = _laid_out(packets, header.pages)
    if len(pages) != len(header.pages):
        _check_pages(file)
    _Page.replace(file, header.pages, pages)
    file.flush()


def _laid_out(packets: list[bytes], old: list[OggPage]) -> list[OggPage]:
    """Pages for `packets`: as the old ones where nothing changed its length, else as many as before if possible."""
    if [len(packet) for packet in packets] == [len(packet) for packet in _Page.to_packets(old)]:
        return _refilled(b"".join(packets), old)
    layouts = [_Page.from_packets(packets, old[0].sequence, default_size=size) for size in _PAGE_SIZES]
    same = [pages for pages in layouts if len(pages) == len(old)]
    return list((same or layouts)[0])


def _refilled(content: bytes, old: list[OggPage]) -> list[OggPage]:
    pages: list[OggPage] = []
    at = 0
    for page in old:
        new = _Page()
        new.sequence, new.position = page.sequence, page.position
        new.complete, new.continued = page.complete, page.continued
        for packet in page.packets:
            new.packets.append(content[at : at + len(packet)])
            at += len(packet)
        pages.append(new)
    return pages


def _check_pages(file: BinaryIO) -> None:
    """Renumbering stops without a word at the first damaged page, which would leave a gap: refuse such a file."""
    file.seek(0)
    while True:
        header = file.read(27)
        if not header.strip(b"\0"):
            return
        if len(header) < 27 or header[:4] != b"OggS":
            raise Unusable("its Ogg pages are damaged")
        lacing = file.read(header[26])
        file.seek(sum(lacing), 1)


def _format(codec: _Codec, suffixes: frozenset[str]) -> Format:
    return Format(
        name=codec.name,
        suffixes=suffixes,
        recognises=lambda file: _serial(file, codec) is not None,
        read=lambda file, separator: _read(file, codec),
        write_genres=lambda file, genres, options: _write_genres(file, genres, codec),
    )


VORBIS = _format(_VORBIS, frozenset({".ogg", ".oga"}))
OPUS = _format(_OPUS, frozenset({".opus"}))
