"""The template that says where a track belongs below its root, and the making of safe names out of any text.

Owns the fields, what is wrong with a template (`flaws`) and its rendering (`render`). Whatever the fields hold, the
place lies below the root, and every name in it is one that Linux, Samba and Windows clients all take. Must never look
at the disk.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from daemon.core.taxonomy import FOLDER_LIMIT_BYTES, holds_control

FIELDS = ("genre", "parent", "artist", "album", "title", "folder", "name")
"""`genre` and `parent` are folders of the taxonomy; `folder` and `name` come from the file's present place."""

# What ext4, XFS, Btrfs and NTFS allow, in bytes (NTFS: in UTF-16 units, of which there are never more).
NAME_LIMIT_BYTES = 255

_HOSTILE = frozenset('<>:"/\\|?*')
# Invisible: they turn the direction of what follows (a name can pretend to have another suffix), or are blanks of no
# width. The joiners U+200C and U+200D stay: Persian and emoji are spelt with them.
_INVISIBLE = re.compile("[\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u206f\ufeff\ufff9-\ufffb]")
_JOINERS = "\u200c\u200d"
_LINE_ENDS = frozenset("\u2028\u2029")
_TAIL = re.compile(r"[\s.]+\Z")
# "Naming Files, Paths, and Namespaces" (Microsoft): reserved with any suffix, and with blanks before it.
_DEVICE_NAME = re.compile(
    r"(?:con|prn|aux|nul|conin\$|conout\$|clock\$|(?:com|lpt)[0-9\u00b9\u00b2\u00b3])\s*(?:\..*)?",
    re.IGNORECASE | re.DOTALL,
)
_SUFFIX = re.compile(r"(?:\.[A-Za-z0-9+_-]{1,16})?")


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of literal text, or one field."""

    text: str
    is_field: bool


Component = tuple[Piece, ...]


def flaws(template: str) -> list[str]:
    """Everything that is wrong with `template`, fit for the owner; empty where it can be rendered."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        return [f"cannot be read: {error} (a brace of its own is written twice)"]
    found = [*_text_flaws(template), *_field_flaws(parsed)]
    return list(dict.fromkeys(found or _component_flaws(components(template))))


def components(template: str) -> tuple[Component, ...]:
    """A template without flaws, taken apart at its slashes."""
    found: list[list[Piece]] = [[]]
    for literal, field, _, _ in string.Formatter().parse(template):
        first, *others = literal.split("/")
        if first:
            found[-1].append(Piece(first, is_field=False))
        for text in others:
            found.append([Piece(text, is_field=False)] if text else [])
        if field is not None:
            found[-1].append(Piece(field, is_field=True))
    return tuple(tuple(pieces) for pieces in found)


def render(template: str, fields: Mapping[str, str], suffix: str, *, unknown: str = "Unknown") -> PurePosixPath:
    """The place that a template without flaws gives to a file with these fields, relative to its root.

    An absent or empty field reads `unknown`, except that an empty `folder` leaves nothing behind. `suffix` is kept as
    it is; ValueError if it is none (".mp3", or empty).
    """
    *folders, last = components(template)
    parts = [part for component in folders for part in render_folder(component, fields, unknown=unknown)]
    return PurePosixPath(*parts, safe_name(_joined(last, fields, unknown), suffix, unknown=unknown))


def render_folder(component: Component, fields: Mapping[str, str], *, unknown: str = "Unknown") -> tuple[str, ...]:
    """The folders that one component of a template gives: one, or as many as the field `folder` has."""
    if is_folder(component):
        return tuple(safe_folder_name(part) for part in split_folder(fields.get("folder", "")))
    return (safe_folder_name(_joined(component, fields, unknown), unknown=unknown),)


def names_by_title(template: str) -> bool:
    """Whether the file's name is made of the track's title."""
    return Piece("title", is_field=True) in components(template)[-1]


def is_folder(component: Component) -> bool:
    """Whether a component is the field `folder`."""
    return component == (Piece("folder", is_field=True),)


def split_folder(folder: str) -> list[str]:
    """The names in a relative folder; what would lead elsewhere, or nowhere, is left out."""
    return [part for part in folder.split("/") if part not in ("", ".", "..")]


def safe_folder_name(text: str, *, unknown: str = "_") -> str:
    """`text` as the name of a folder; `unknown` where nothing of it can stay. Applying it again changes nothing."""
    return _safe(text, "", FOLDER_LIMIT_BYTES, unknown)


def safe_name(text: str, suffix: str, *, unknown: str = "_") -> str:
    """`text` and `suffix` as the name of a file; `unknown` where nothing of `text` can stay.

    Taken apart and applied again it changes nothing. ValueError where `suffix` is none.
    """
    if not _SUFFIX.fullmatch(suffix):
        raise ValueError(f"{suffix!r} is no suffix")
    return _safe(text, suffix, NAME_LIMIT_BYTES, unknown)


def cut(text: str, limit_bytes: int) -> str:
    """As much of the start of `text` as fits, in UTF-8, between two characters as a reader sees them.

    A letter does not lose its accents, nor an emoji its second half, unless that alone is longer than the limit.
    """
    kept = text.encode("utf-8")[:limit_bytes].decode("utf-8", errors="ignore")
    end = len(kept)
    while 0 < end < len(text) and _continues(text, end):
        end -= 1
    return text[:end] or kept


def is_blank(text: str) -> bool:
    """Whether a reader would see nothing in `text`: no more than blanks, dots and joiners."""
    return not any(char not in _JOINERS and char != "." and not char.isspace() for char in _INVISIBLE.sub("", text))


def _continues(text: str, at: int) -> bool:
    """Whether the character at `at` belongs to the one before it: marks, joiners, skin tones."""
    char = text[at]
    joined = char in _JOINERS or text[at - 1] == "\u200d"
    return joined or unicodedata.category(char)[0] == "M" or "\U0001f3fb" <= char <= "\U0001f3ff"


def _joined(component: Component, fields: Mapping[str, str], unknown: str) -> str:
    return "".join(_value(piece.text, fields, unknown) if piece.is_field else piece.text for piece in component)


def _value(field: str, fields: Mapping[str, str], unknown: str) -> str:
    text = _clean(fields.get(field, ""))
    return unknown if is_blank(text) else text


def _safe(text: str, suffix: str, limit_bytes: int, unknown: str) -> str:
    found = _clean(text)
    if is_blank(found):
        found = _clean(unknown)
    found = _tail_cut(found, suffix)
    if found.startswith("."):
        found = "_" + found[1:]
    found = _no_device(found)
    found = _tail_cut(cut(found, limit_bytes - len(suffix)), suffix)
    # A cut among blanks can leave a device's name, and then also room for one more byte.
    found = _no_device(found)
    return (found or "_") + suffix


def _tail_cut(text: str, suffix: str) -> str:
    """Without blanks at the end, and without dots there if no suffix follows: Windows drops them."""
    return text.rstrip() if suffix else _TAIL.sub("", text)


def _no_device(text: str) -> str:
    return "_" + text if _DEVICE_NAME.fullmatch(text) else text


def _clean(text: str) -> str:
    """`text` with no character left that some file system refuses or some program trips over."""
    text = unicodedata.normalize("NFC", _INVISIBLE.sub("", text))
    return "".join("_" if _is_hostile(char) else char for char in text).strip()


def _is_hostile(char: str) -> bool:
    return char in _HOSTILE or char in _LINE_ENDS or holds_control(char)


def _text_flaws(template: str) -> Iterator[str]:
    if not template.strip():
        yield "must not be empty"
    if any(_is_hostile(char) for char in template if char not in _HOSTILE) or _INVISIBLE.search(template):
        yield "must not hold control characters, line breaks or characters that turn the direction of writing"
    if template.startswith(("/", "~")):
        yield "must be a place below the root: it begins with neither / nor ~"


def _field_flaws(parsed: list[tuple[str, str | None, str | None, str | None]]) -> Iterator[str]:
    for literal, field, spec, conversion in parsed:
        hostile = sorted(set(literal) & (_HOSTILE - {"/"}))
        if hostile:
            yield f"holds {' '.join(hostile)}, which Windows and Samba do not take in names"
        if field is None:
            continue
        if spec or conversion:
            yield f"{{{field}}} must stand alone in its braces, without '!' or ':'"
        if field not in FIELDS:
            yield f"there is no field {{{field}}}: use {', '.join(f'{{{name}}}' for name in FIELDS)}"


def _component_flaws(found: tuple[Component, ...]) -> Iterator[str]:
    for component in found:
        fields = [piece.text for piece in component if piece.is_field]
        literal = "".join(piece.text for piece in component if not piece.is_field)
        if not component:
            yield "has an empty component: two slashes in a row, or one at the end"
        elif not fields and literal in (".", ".."):
            yield f"must not hold the component {literal}"
        elif not fields and component != found[-1] and literal != safe_folder_name(literal):
            yield f"{literal!r} is not a safe folder name (try {safe_folder_name(literal)!r})"
        elif literal.startswith(".") and not component[0].is_field:
            yield f"a name must not begin with a dot ({literal!r}): it would be hidden"
        if "folder" in fields and not is_folder(component):
            yield "{folder} must stand alone between two slashes: it may be several folders"
    if any(is_folder(component) for component in found[:-1] if found.count(component) > 1):
        yield "must hold {folder} once at most"
    last = {piece.text for piece in found[-1] if piece.is_field}
    if "name" in last and len(found[-1]) > 1:
        yield "{name} must be the whole last component: it is the present name, and would grow with every move"
    if not last & {"name", "title"}:
        yield "must end in a name that holds {name} or {title}, or one track would take another's place"
