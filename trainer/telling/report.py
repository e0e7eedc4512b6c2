"""Writes the report of an evaluation: one HTML page that needs nothing beside it, the same in Markdown, and pictures.

Owns the files and how text gets safely into them; `chapters` says what stands where, and the templates in `pages` lay
it out. Must never embed sound, load anything from elsewhere, or trust a name: file names and genres are other people's
text.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from trainer.judging.evaluate import Evaluation
from trainer.judging.findings import find
from trainer.judging.suspects import Suspect
from trainer.telling import chapters, sentences
from trainer.telling.chapters import Extras
from trainer.writing import write_whole

PAGE, TEXT, SUSPECTS, PICTURES = "report.html", "report.md", "suspects.csv", "plots"

NOTHING_MORE = Extras()

# Marks that turn the direction of what follows: with them a file name can pass for another one.
_TURNING = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

# What has a meaning in Markdown, in HTML within it, or in the formulas of GitHub's.
_MARKS = re.compile(r"([\\`*_\[\]<>|~$#&])")


def write_report(evaluation: Evaluation, folder: Path, *, title: str, extras: Extras = NOTHING_MORE) -> Path:
    """Write report.html, report.md, plots/*.png and, where suspects were looked for, suspects.csv into `folder`.

    Returns the HTML page, which needs none of the other files. The same input gives the same bytes.

    Raises:
        ConfigError: the evaluation holds no track of a known genre that could be heard.
        BadFile, TryLater: the folder cannot be written to, or the disk is full; each file is whole or as it was.
    """
    found = find(evaluation, extras.rivals)
    sections = chapters.sections(found, extras)
    about = {
        "title": title,
        "headline": sentences.headline(found),
        "standfirst": sentences.standfirst(found),
        "base": sentences.base(found, extras.measured_on),
        "key_numbers": chapters.key_numbers(found),
        "sections": sections,
        "pictures": PICTURES,
    }
    for section in sections:
        if section.picture is not None:
            write_whole(folder / PICTURES / f"{section.anchor}.png", section.picture.png)
    if extras.suspects is not None:
        write_whole(folder / SUSPECTS, _suspects_file(extras.suspects))
    text = _environment(markdown).get_template("report.md.j2").render(about)
    write_whole(folder / TEXT, text.encode("utf-8"))
    write_whole(folder / PAGE, _page(about).encode("utf-8"))
    return folder / PAGE


def _page(about: Mapping[str, object]) -> str:
    pages = _environment(legible)
    style = Markup(pages.get_template("report.css.j2").render())  # noqa: S704 - our own file, without any variable
    # The hash allows this style and no other: a name that slipped through as code could still do nothing.
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return pages.get_template("report.html.j2").render(about, style=style, style_hash=digest)


def _environment(finalize: Callable[[object], object]) -> Environment:
    pages = Environment(
        loader=PackageLoader("trainer.telling", "pages"),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    pages.filters["embedded"] = _embedded
    return pages


def legible(value: object) -> object:
    """`value` as text in which every character can be seen and written, for HTML that escapes it afterwards.

    File names are bytes on Linux: what is no UTF-8 in them, control characters, and marks that turn the direction of
    the text show as their numbers.
    """
    if isinstance(value, Markup):
        return value
    return "".join(letter if _shows(letter) else _number(letter) for letter in str(value))


def markdown(value: object) -> object:
    """As `legible`, with everything escaped that Markdown would take for more than text."""
    if isinstance(value, Markup):
        return value
    return Markup(_MARKS.sub(r"\\\1", str(legible(value))))  # noqa: S704 - escaped here, for Markdown


def _shows(letter: str) -> bool:
    return unicodedata.category(letter) not in {"Cc", "Cs", "Zl", "Zp"} and letter not in _TURNING


def _number(letter: str) -> str:
    code = ord(letter)
    # A byte that is no UTF-8 comes as half a surrogate pair (PEP 383).
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def _embedded(picture: bytes) -> Markup:
    return Markup("data:image/svg+xml;base64,") + base64.b64encode(picture).decode("ascii")


def _suspects_file(suspects: Sequence[Suspect]) -> bytes:
    """All suspects as CSV; paths in their own bytes, so that scripts find the files."""
    out = io.StringIO(newline="")
    rows = csv.writer(out)
    rows.writerow(("path", "given", "suggested", "given_probability", "suggested_probability"))
    for row in suspects:
        probabilities = f"{row.given_probability:.4f}", f"{row.suggested_probability:.4f}"
        rows.writerow((os.fspath(row.path), row.given, row.suggested, *probabilities))
    return out.getvalue().encode("utf-8", errors="surrogateescape")
