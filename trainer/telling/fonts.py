"""Finds installed fonts that can draw names of any script. Must never warn, nor open more fonts than it takes.

matplotlib draws an empty box, with a warning, for a letter that its fonts lack. Here that is known beforehand: a name
that no installed font can draw is to be replaced by something that can be drawn.
"""

from __future__ import annotations

import contextlib
import functools
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib import font_manager

BASIC = "DejaVu Sans"

# Wide families first, so that one of them does for most scripts. Those with colour pictures cannot be drawn, and those
# that matplotlib ships for formulas, or as boxes for the lost, are no letters.
_PREFERRED = ("Noto Sans CJK", "Source Han Sans", "WenQuanYi", "Noto Sans", "Liberation Sans", "Droid Sans", "FreeSans")
_NORMAL = frozenset({400, "normal", "regular", "book"})
_UNFIT = ("Last Resort", "Emoji", "STIX", "cm")


def families_for(texts: Iterable[str]) -> tuple[list[str], frozenset[str]]:
    """The font families that draw `texts` together, in order of use, and the letters that none of them has."""
    wanted = frozenset(letter for text in texts for letter in text if _visible(letter))
    return _families_for(wanted)


@functools.lru_cache(maxsize=16)
def _families_for(wanted: frozenset[str]) -> tuple[list[str], frozenset[str]]:
    families = [BASIC]
    missing = _search(families, wanted - _letters(BASIC, wanted))
    if missing and _add_new_fonts():
        missing = _search(families, missing)
    return families, missing


def _search(families: list[str], missing: frozenset[str]) -> frozenset[str]:
    """Add to `families` what has letters of `missing`; returns those that nothing has."""
    for family in _installed() if missing else ():
        has = _letters(family, missing)
        if has:
            families.append(family)
            missing -= has
        if not missing:
            break
    return missing


def _add_new_fonts() -> int:
    """Make fonts known that were installed after matplotlib made its list of them; returns how many there were."""
    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    added = 0
    for path in sorted(set(font_manager.findSystemFonts()) - known):
        # What cannot be read as a font is none; those with colour pictures raise as well.
        with contextlib.suppress(OSError, RuntimeError):
            font_manager.fontManager.addfont(path)
            added += 1
    return added


def _visible(letter: str) -> bool:
    return not letter.isspace() and unicodedata.category(letter) not in {"Cc", "Cf", "Cs"}


def _installed() -> Sequence[str]:
    # Upright and of normal weight: asked for what a family lacks, matplotlib says so on the terminal.
    names = {
        entry.name
        for entry in font_manager.fontManager.ttflist
        if entry.style == "normal" and entry.weight in _NORMAL and entry.stretch in {"normal", 100}
    }
    fit = [name for name in names if name != BASIC and not any(unfit in name for unfit in _UNFIT)]

    def rank(name: str) -> tuple[int, str]:
        first = next((place for place, start in enumerate(_PREFERRED) if name.startswith(start)), len(_PREFERRED))
        return first, name

    return sorted(fit, key=rank)


def _letters(family: str, wanted: frozenset[str]) -> frozenset[str]:
    """Those of `wanted` that the family has; none where its file is gone or cannot be drawn from."""
    try:
        path = font_manager.findfont(font_manager.FontProperties(family=[family]), fallback_to_default=False)
        font = font_manager.get_font(path)
        if not font.scalable:
            return frozenset()
        return frozenset(letter for letter in wanted if font.get_char_index(ord(letter)))
    except (OSError, RuntimeError, ValueError):
        return frozenset()


@dataclass(frozen=True, slots=True)
class Lettering:
    """How names are drawn: by which font families, and as which text; `numbered` are those that only a number can
    stand for."""

    families: Sequence[str]
    texts: Mapping[str, str]
    numbered: Mapping[str, str]


def lettering(names: Sequence[str], longest: int = 24) -> Lettering:
    """How `names` are drawn: cut to `longest` columns, or, where a letter has no font, "No. 3" for the third one."""
    families, missing = families_for([*names, "…"])
    numbered = {name: f"No. {number}" for number, name in enumerate(names, 1) if missing & set(name)}
    texts = {name: numbered.get(name) or _cut(_tidy(name), longest) for name in names}
    return Lettering(families, texts, numbered)


def _tidy(name: str) -> str:
    """The name in one line, without what has no shape of its own."""
    return " ".join("".join(letter if _visible(letter) else " " for letter in name).split())


def _cut(name: str, longest: int) -> str:
    columns = 0
    for place, letter in enumerate(name):
        columns += 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if columns > longest:
            return name[:place].rstrip() + "…"
    return name
