"""YAML text as plain values that remember their lines, and complaints about them in plain words.

Owns the reading of one YAML file and the wording of what is wrong with it. Must never build anything but plain values
from a file (no tags, anchors or merge keys: a config needs none, and they are how a small file becomes a huge one)
and knows nothing of what the keys mean.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel
from pydantic_core import ErrorDetails

from daemon.core.errors import ConfigError
from daemon.core.taxonomy import holds_control

SIZE_LIMIT_BYTES = 256 * 1024
DEPTH_LIMIT = 20

Loc = tuple[str | int, ...]

_TAG = "tag:yaml.org,2002:"
_TYPED_TAGS = frozenset(_TAG + kind for kind in ("bool", "float", "int", "null"))
_TEXT_TAGS = frozenset(_TAG + kind for kind in ("merge", "str", "timestamp", "value"))
_SCALAR_LIMIT_CHARS = 40  # no number or truth value that anyone means is longer


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands: its line, counted from 1, and the text of a single value as written."""

    line: int
    text: str | None = None


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong; its text is fit for the owner, the line is left out where there is none."""

    line: int
    text: str

    def __str__(self) -> str:
        clean = "".join(char if not holds_control(char) else ascii(char)[1:-1] for char in self.text)
        return f"line {self.line}: {clean}"


@dataclass(slots=True)
class Document:
    """The plain values of a YAML file, the place of each, and what is wrong with the YAML itself."""

    data: object = None
    places: dict[Loc, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def place(self, loc: Loc) -> Place:
        """The place of the value at `loc`; of the nearest thing around it where it is not in the file."""
        for length in range(len(loc), 0, -1):
            if loc[:length] in self.places:
                found = self.places[loc[:length]]
                return found if length == len(loc) else Place(found.line)
        return Place(1)

    def problem(self, loc: Loc, reason: str) -> Problem:
        """`reason` as a problem of the key at `loc`, with its line and its name."""
        return Problem(self.place(loc).line, f"{key_name(loc)}: {reason}" if loc else reason)


def read(path: Path) -> str:
    """The text of the file; ConfigError where it is missing, unreadable, too large or not UTF-8."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(SIZE_LIMIT_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(str(path), [f"cannot be read: {reason.lower()}"]) from error
    if len(raw) > SIZE_LIMIT_BYTES:
        raise ConfigError(str(path), [f"larger than {SIZE_LIMIT_BYTES // 1024} KiB: this is not a config"])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(str(path), [f"line {line}: not UTF-8 text: save the file as UTF-8"]) from error


def compose(text: str, source: str) -> Document:
    """The values in `text` with their lines; duplicate keys and the like are noted in the document's problems.

    Raises ConfigError, naming `source`, where the text is not YAML at all.
    """
    try:
        root = _Loader(text).get_single_node()
    except yaml.YAMLError as error:
        raise ConfigError(source, [_syntax_problem(error, text)]) from error
    document = Document()
    document.data = _value(document, (), root) if root is not None else None
    return document


def explain(document: Document, errors: Iterable[ErrorDetails], model: type[BaseModel]) -> list[Problem]:
    """Pydantic's `errors` about the document's data in plain words, each at its line."""
    return [document.problem(error["loc"], _reason(document, error, model)) for error in errors]


def key_name(loc: Loc) -> str:
    """The key as the owner would say it: `roots[0].path`."""
    name = ""
    for part in loc:
        name += f"[{part}]" if isinstance(part, int) else f".{part}"
    return name.removeprefix(".")


class _Loader(yaml.SafeLoader):
    """The safe loader without anchors and deep nesting."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            reason = "anchors (&) and aliases (*) are not used here: put text that holds these signs in quotes"
            raise yaml.MarkedYAMLError(problem=reason, problem_mark=event.start_mark)
        if self.depth >= DEPTH_LIMIT:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=event.start_mark)
        self.depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(node, yaml.ScalarNode):
            node.value = _whole_characters(node)
        return node


def _whole_characters(node: yaml.ScalarNode) -> str:
    """The text with its surrogate pairs joined, as JSON escapes them; half a pair fits no file name, tag or log."""
    try:
        return str(node.value).encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError as error:
        reason = "an escape (\\ud800 to \\udfff) that is half a character"
        raise yaml.MarkedYAMLError(problem=reason, problem_mark=node.start_mark) from error


def _syntax_problem(error: yaml.YAMLError, text: str) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f"line {line}: not YAML: a character that text files do not hold"
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        return f"line {mark.line + 1}: {reason}" if mark else reason
    return f"not YAML: {error}"


def _value(document: Document, loc: Loc, node: yaml.Node) -> object:
    """The plain value of `node`; every value below it leaves its place, every flaw its problem in `document`."""
    plain = _TYPED_TAGS | _TEXT_TAGS if isinstance(node, yaml.ScalarNode) else {f"{_TAG}map", f"{_TAG}seq"}
    if node.tag not in plain:
        document.problems.append(Problem(node.start_mark.line + 1, f"tags ({node.tag}) are not used here"))
    if isinstance(node, yaml.MappingNode):
        return _mapping(document, loc, node)
    if isinstance(node, yaml.SequenceNode):
        return [_item(document, (*loc, index), item, item) for index, item in enumerate(node.value)]
    return _scalar(node)


def _mapping(document: Document, loc: Loc, node: yaml.MappingNode) -> dict[str, object]:
    values: dict[str, object] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            document.problems.append(Problem(line, "a key must be a single word"))
        elif key.value in values:
            here = (*loc, key.value)
            reason = f"{key_name(here)}: given twice (first on line {document.places[here].line})"
            document.problems.append(Problem(line, reason))
        else:
            values[key.value] = _item(document, (*loc, key.value), key, value)
    return values


def _item(document: Document, loc: Loc, start: yaml.Node, node: yaml.Node) -> object:
    text = node.value if isinstance(node, yaml.ScalarNode) else None
    document.places[loc] = Place(start.start_mark.line + 1, text)
    return _value(document, loc, node)


def _scalar(node: yaml.Node) -> object:
    text: str = node.value
    if node.tag not in _TYPED_TAGS or len(text) > _SCALAR_LIMIT_CHARS:
        return text
    try:
        return yaml.constructor.SafeConstructor().construct_object(node)
    except (ValueError, LookupError, yaml.YAMLError):
        return text  # "0x_" looks like a number to YAML's own rules and is none


def _reason(document: Document, error: ErrorDetails, model: type[BaseModel]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    written = document.place(error["loc"]).text
    got = f" (got {_shown(written, error['input'])})"
    if kind == "extra_forbidden":
        return "unknown key" + _did_you_mean(str(error["loc"][-1]), _keys_at(model, error["loc"][:-1]))
    if kind in {"string_type", "path_type"}:
        return _not_text(written, error["input"])
    if kind in {"enum", "literal_error"}:
        return f"must be {str(context['expected']).replace(chr(39), '').replace('False', 'false')}{got}"
    if kind in _PLAIN_WORDS:
        return _PLAIN_WORDS[kind].format_map(context) + ("" if kind in {"missing", "too_short"} else got)
    return error["msg"]


_PLAIN_WORDS = {
    "missing": "is missing",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "greater_than": "must be > {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be < {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "string_too_short": "must have at least {min_length} character(s)",
    "string_too_long": "must have at most {max_length} character(s)",
    "string_unicode": "must be text that UTF-8 can hold",
    "tuple_type": "must be a list, each item on a line of its own that starts with '- '",
    "too_short": "must hold at least {min_length} item(s)",
    "model_type": "must be a group of keys",
}


def _not_text(written: str | None, value: object) -> str:
    kinds: Mapping[type, str] = {bool: "true or false", int: "a number", float: "a number", type(None): "nothing"}
    kind = kinds.get(type(value))
    if kind is None or written is None:
        return f"must be text (got {_shown(written, value)})"
    if not written:
        return "must be text (got nothing)"
    return f'must be text, but YAML reads {written} as {kind}: write it in quotes: "{written}"'


def _shown(written: str | None, value: object) -> str:
    """A value for a message: as the owner wrote it, never a whole file."""
    if isinstance(value, dict):
        return "a group of keys"
    if isinstance(value, list):
        return "a list"
    text = written if written is not None else str(value)
    return (text if len(text) <= 60 else text[:57] + "...") or ("nothing" if value is None else "empty text")


def _did_you_mean(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    if close:
        return f", did you mean {close[0]!r}?"
    return f" (known: {', '.join(known)})" if known else ""


def _keys_at(model: type[BaseModel], loc: Loc) -> list[str]:
    """The keys that the group at `loc` may hold."""
    current: Any = model
    for part in loc:
        current = current.model_fields[part].annotation if isinstance(part, str) else get_args(current)[0]
    return list(current.model_fields)
