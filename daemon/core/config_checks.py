"""The checks that a config's values must pass, each by itself and all together.

Owns what pydantic cannot say by itself: paths, words that stand for numbers, and disagreements between keys. Must
never look at the disk; a folder that is not there is the doctor's business, not the config's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, Strict
from pydantic_core import PydanticCustomError

from daemon.core import template
from daemon.core.config_file import Loc
from daemon.core.taxonomy import Genre, find_flaws, holds_control

QUIET_S = 3.0
PATIENCE_S = 900.0
WEEK_S = 7 * 24 * 3600
DEFAULT_TEMPLATE = "{genre}/{folder}/{name}"


def refusal(reason: str) -> PydanticCustomError:
    """The error with which a validator refuses a value; `reason` is fit for the owner."""
    return PydanticCustomError("refused", "{reason}", {"reason": reason})


def _absolute(value: object) -> object:
    """A path text with `~` expanded and doubled slashes gone; anything that is not text is left to pydantic."""
    if not isinstance(value, str):
        return value
    path = os.path.expanduser(value)
    if not path.startswith("/"):
        raise refusal(f"must be an absolute path, or one that starts with ~ (got {value or 'empty text'})")
    if holds_control(path) or ".." in Path(path).parts:
        raise refusal("must be a plain path, without '..' and control characters")
    return os.path.normpath("/" + path.lstrip("/"))


def _auto_or_probability(value: object) -> object:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value != "auto" and not (number and 0 <= value <= 1):  # type: ignore[operator]
        raise refusal(f"must be auto, or a number from 0 to 1 (got {value})")
    return value


def _bundle_name(value: object) -> object:
    """A bundle's id as it is, a path expanded."""
    if isinstance(value, str) and ("/" in value or value.startswith("~")):
        return _absolute(value)
    if isinstance(value, str) and (not value.strip() or value.startswith(".") or holds_control(value)):
        raise refusal("must be auto, starter, the name of a folder in the models directory, or an absolute path")
    return value


def _no_control(value: object) -> object:
    if isinstance(value, str) and holds_control(value):
        raise refusal("must not hold control characters or line breaks")
    return value


def _template(value: object) -> object:
    if isinstance(value, str) and (found := template.flaws(value)):
        raise refusal("; ".join(found))
    return value


def not_yet(feature: str) -> BeforeValidator:
    """Refuses true for a feature that this version does not have."""

    def refuse(value: object) -> object:
        if value is True:
            raise refusal(f"{feature} is not in this version yet: leave this false")
        return value

    return BeforeValidator(refuse)


def _off_is_a_word(value: object) -> object:
    """YAML reads a bare `off` as false; here it is the name of a method."""
    return "off" if value is False else value


AbsolutePath = Annotated[Path, BeforeValidator(_absolute)]
Flag = Annotated[bool, Strict()]
Seconds = Annotated[float, Strict(), Field(gt=0, le=WEEK_S, allow_inf_nan=False)]
Probability = Annotated[float, Strict(), Field(ge=0, le=1, allow_inf_nan=False)]
AUTO_OR_PROBABILITY = BeforeValidator(_auto_or_probability)
BUNDLE_NAME = BeforeValidator(_bundle_name)
TEMPLATE = BeforeValidator(_template)
NO_CONTROL = BeforeValidator(_no_control)
OFF_IS_A_WORD = BeforeValidator(_off_is_a_word)


def disagreements(data: object) -> Iterator[tuple[Loc, str]]:
    """What is wrong between keys, in a config's plain values, of which any may be wrong or absent itself."""
    if not isinstance(data, dict):
        return
    yield from _root_disagreements(data.get("roots"))
    yield from _settle_disagreements(data.get("settle"))
    yield from _genre_disagreements(data.get("taxonomy"), data.get("tagging"))


def _root_disagreements(roots: object) -> Iterator[tuple[Loc, str]]:
    seen: list[Path] = []
    for index, root in enumerate(roots if isinstance(roots, list) else []):
        given = root.get("path") if isinstance(root, dict) else None
        path = Path(os.path.normpath(os.path.expanduser(given))) if isinstance(given, str) else Path()
        if not path.is_absolute():
            continue
        here: Loc = ("roots", index, "path")
        if path == Path(path.anchor):
            yield here, "must be a folder of music, not the whole file system"
            continue
        for other in seen:
            if path == other:
                yield here, f"{path} is listed twice"
            elif path.is_relative_to(other) or other.is_relative_to(path):
                inner, outer = (path, other) if path.is_relative_to(other) else (other, path)
                yield here, f"{inner} lies within {outer}, which is listed too: a file must belong to one root"
        seen.append(path)


def _settle_disagreements(settle: object) -> Iterator[tuple[Loc, str]]:
    given = settle if isinstance(settle, dict) else {}
    quiet, patience = given.get("quiet_s", QUIET_S), given.get("patience_s", PATIENCE_S)
    if isinstance(quiet, (int, float)) and isinstance(patience, (int, float)) and patience < quiet:
        key = "patience_s" if "patience_s" in given else "quiet_s"
        yield ("settle", key), f"patience_s ({patience:g}) must be at least quiet_s ({quiet:g})"


def _genre_disagreements(taxonomy: object, tagging: object) -> Iterator[tuple[Loc, str]]:
    entries = {
        index: entry
        for index, entry in enumerate(taxonomy if isinstance(taxonomy, list) else [])
        if isinstance(entry, dict) and entry.get("name") is not None
    }
    indices, genres = list(entries), [_genre_as_meant(entry) for entry in entries.values()]
    for flaw in find_flaws(genres):
        yield ("taxonomy", indices[flaw.index], *flaw.where), flaw.reason
    given = tagging if isinstance(tagging, dict) else {}
    separator = given.get("id3_v23_separator", "/")
    for index, genre in zip(indices, genres, strict=True):
        if isinstance(separator, str) and separator and separator in genre.name:
            here: Loc = (
                ("tagging", "id3_v23_separator") if "id3_v23_separator" in given else ("taxonomy", index, "name")
            )
            reason = f"the genre {genre.name!r} contains tagging.id3_v23_separator ({separator!r}): set another"
            yield here, reason


def _genre_as_meant(entry: Mapping[str, object]) -> Genre:
    """The genre of an entry that may be wrong itself, so that the others can still be checked against it."""
    aliases, parent, folder = (entry.get(key) for key in ("aliases", "parent", "folder"))
    return Genre(
        name=str(entry["name"]),
        aliases=tuple(str(alias) for alias in aliases) if isinstance(aliases, list) else (),
        parent=None if parent is None else str(parent),
        folder=folder if isinstance(folder, str) else None,
    )
