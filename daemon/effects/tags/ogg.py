"""Ogg with Vorbis, Opus, Speex or FLAC: genres in the comment packet. Owns that packet and its pages, nothing else.

Pages are read, cut and numbered by mutagen. Where it can be done the file keeps its number of pages, because each one
carries its number and a checksum: one page more rewrites every page of the file, and the record for undo grows with it.
A file that holds a film beside the sound is refused, to be read as well as to be written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
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
_MAX_HEADER_PACKETS = 1_000
# How streams of moving pictures begin: Theora, Dirac, VP8, Ogg Media.
_FILMS = (b"\x80theora", b"BBCD\0", b"OVP80", b"\x01video\0")
_FLAC_LAST, _FLAC_MAX_BLOCK = 0x80, (1 << 24) - 1


@dataclass(frozen=True, slots=True)
class _Codec:
    """How a codec marks its first packet and its comment packet."""

    name: str
    head: bytes
    comment: re.Pattern[bytes]
    framing: bytes = b""


_VORBIS = _Codec("ogg", b"\x01vorbis", re.compile(rb"\x03vorbis"), b"\x01")
_OPUS = _Codec("opus", b"OpusHead", re.compile(rb"OpusTags"))
# Speex's comment packet is known by its place alone; that of FLAC is a metadata block of type 4 with its length.
_SPEEX = _Codec("speex", b"Speex   ", re.compile(b""))
_FLAC = _Codec("oggflac", b"\x7fFLAC", re.compile(rb"[\x04\x84].{3}", re.DOTALL))


@dataclass(frozen=True, slots=True)
class _Header:
    """The first stream of the codec: its first packet, the pages of its comment packet, and all packets on them.

    The comment packet is `prefix` and `body`. `further` are those that codecs want to see before the sound.
    """

    head: bytes
    pages: list[OggPage]
    packets: list[bytes]
    prefix: bytes
    body: bytes
    further: list[bytes]


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
    if _holds_film(file):
        raise Unusable("it holds a film, which this program leaves alone")
    found = _serial(file, codec)
    if found is None:
        raise Unusable(f"it holds no {codec.name} stream")
    serial, head = found
    pages = _comment_pages(file, serial)
    packets: list[bytes] = _Page.to_packets(pages)
    match = codec.comment.match(packets[0])
    if match is None:
        raise Unusable("its comment packet is not where it belongs")
    body = packets[0][match.end() :]
    if codec is _FLAC and int.from_bytes(match[0][1:], "big") != len(body):
        raise Unusable("its comment packet is not as long as it says")
    return _Header(head, pages, packets, match[0], body, list(_further(file, serial, codec)))


def _holds_film(file: BinaryIO) -> bool:
    """Whether one of the streams, which are all announced before any content, is a film."""
    file.seek(0)
    for _ in range(_MAX_HEADER_PAGES):
        page = _Page(file)
        if not page.first:
            return False
        if _first_packet(page).startswith(_FILMS):
            return True
    return False


def _comment_pages(file: BinaryIO, serial: int) -> list[OggPage]:
    """The pages with the second packet of the stream `serial`; the file stands behind its first page."""
    pages: list[OggPage] = []
    for _ in range(_MAX_HEADER_PAGES):
        page = _Page(file)
        if page.serial != serial:
            continue
        pages.append(page)
        if page.complete or len(page.packets) > 1:
            return pages
    raise Unusable("its comment packet does not end")


def _further(file: BinaryIO, serial: int, codec: _Codec) -> Iterator[bytes]:
    """The header packets behind the comment packet: set-up of Vorbis, extra ones of Speex, other blocks of FLAC."""
    packets = _packets(file, serial)
    # A file that ends here is no file to be refused: whether it has sound is not for us to say.
    with contextlib.suppress(EOFError, StopIteration):
        head, comment = next(packets), next(packets)
        left = {_VORBIS: 1, _SPEEX: int.from_bytes(head[68:72], "little")}.get(codec, 0)
        last = codec is not _FLAC or bool(comment[0] & _FLAC_LAST)
        for _ in range(_MAX_HEADER_PACKETS if not last else min(left, _MAX_HEADER_PACKETS)):
            packet = next(packets)
            yield packet
            if not last and packet[:1] and packet[0] & _FLAC_LAST:
                return


def _packets(file: BinaryIO, serial: int) -> Iterator[bytes]:
    file.seek(0)
    begun: list[bytes] = []
    while True:
        page = _Page(file)
        if page.serial != serial:
            continue
        for number, packet in enumerate(page.packets):
            begun.append(packet)
            if page.complete or number < len(page.packets) - 1:
                yield b"".join(begun)
                begun = []


def _extra(comments: vorbis.Comments, codec: _Codec) -> bytes:
    """What stands behind the comments and is no padding: Vorbis' framing bit; in Opus data, if its first bit is set."""
    rest = comments.rest
    if codec in (_SPEEX, _FLAC):
        return rest if rest.strip(b"\0") else b""
    if not rest or not rest[0] & 1:
        return b""
    return rest.rstrip(b"\0") if codec.framing else rest


def _read(file: BinaryIO, codec: _Codec) -> Tags:
    header = _header(file, codec)
    comments = vorbis.parse(header.body)
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
    yield from (("Ogg header packet", fingerprint(packet)) for packet in header.further)


def _write_genres(file: BinaryIO, genres: tuple[str, ...], codec: _Codec) -> None:
    header = _header(file, codec)
    old = vorbis.parse(header.body)
    extra = _extra(old, codec)
    if codec.framing and not extra:
        raise Unusable("its Vorbis comment lacks the framing bit")
    body = vorbis.render(dataclasses.replace(vorbis.with_genres(old, genres), rest=extra))
    if codec.framing or not extra:
        body = body.ljust(len(header.body), b"\0")
    packet = _prefix(header, body, codec) + body
    packets = [packet, *header.packets[1:]]
    pages = _laid_out(packets, header.pages)
    if len(pages) != len(header.pages):
        _check_pages(file)
    _Page.replace(file, header.pages, pages)
    file.flush()


def _prefix(header: _Header, body: bytes, codec: _Codec) -> bytes:
    if codec is not _FLAC:
        return header.prefix
    if len(body) > _FLAC_MAX_BLOCK:
        raise Unusable("its FLAC comment block would grow beyond 16 MiB")
    return header.prefix[:1] + len(body).to_bytes(3, "big")


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
SPEEX = _format(_SPEEX, frozenset({".spx"}))
FLAC = _format(_FLAC, frozenset({".oggflac"}))
