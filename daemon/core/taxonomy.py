"""The owner's genres: their names, what else they are called, how they nest and which folder is theirs.

Owns the comparison of genre texts (`normal_form`) and the making of safe folder names (`safe_folder`). Must never
guess: a text that is neither a name nor an alias belongs to no genre. Opens no file and knows nothing of models.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from daemon.core.errors import ConfigError

# eCryptfs, which is what encrypted shares of common NAS boxes are, takes no longer names than this.
FOLDER_LIMIT_BYTES = 143

_SEPARATORS = frozenset("/\\_\u2044\u2215\u2212\u00b7\u30fb")  # slashes, low line, minus, middle dots
_FOLDER_HOSTILE = frozenset('<>:"/\\|?*')
_DEVICE_NAME = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)
# ID3 readers turn these into the names of the ID3v1 list (a text "2" reads back as "Country"), "Remix" or "Cover".
_ID3_CODE = re.compile(r"(?:RX|CR|\((?:[0-9]+|RX|CR)\).*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Genre:
    """One genre. `name` is what is written into tags; `parent` names another genre; `folder` and `threshold` (0 to 1)
    are None where the default applies.
    """

    name: str
    aliases: tuple[str, ...] = ()
    parent: str | None = None
    folder: str | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Flaw:
    """What is wrong with the genre at `index` of a list; `where` is the way to it inside: `("aliases", 2)`."""

    index: int
    where: tuple[str | int, ...]
    reason: str


class Taxonomy:
    """The owner's genres as a whole, without contradictions.

    Raises ConfigError, listing every flaw at once, where names or aliases collide, a parent is unknown, parents go in
    a circle, or a name cannot survive in a tag.
    """

    def __init__(self, genres: Iterable[Genre]) -> None:
        given = tuple(genres)
        flaws = find_flaws(given)
        if flaws:
            raise ConfigError("taxonomy", [f"{given[flaw.index].name!r}: {flaw.reason}" for flaw in flaws])
        self._name_of = {normal_form(text): genre.name for genre in given for text in (genre.name, *genre.aliases)}
        self._genres = {genre.name: replace(genre, parent=self.resolve(genre.parent or "")) for genre in given}

    @property
    def genres(self) -> tuple[Genre, ...]:
        """All genres in the owner's order, each parent under its genre's exact name."""
        return tuple(self._genres.values())

    @property
    def names(self) -> tuple[str, ...]:
        """The genres' names in the owner's order."""
        return tuple(self._genres)

    def genre(self, name: str) -> Genre:
        """The genre of exactly this name; KeyError where there is none (use `resolve` on foreign text first)."""
        return self._genres[name]

    def resolve(self, text: str) -> str | None:
        """The name of the genre that `text` names, by name or alias, or None; see `normal_form` for what is alike."""
        return self._name_of.get(normal_form(text))

    def folder_of(self, name: str) -> str:
        """The folder name of the genre of exactly this name, safe as one path component; KeyError where unknown."""
        genre = self._genres[name]
        return genre.folder or safe_folder(genre.name)

    def mapping(self, labels: Iterable[str]) -> dict[str, str | None]:
        """Each of a model's labels with the owner's genre for it, None where the owner has no such genre."""
        return {label: self.resolve(label) for label in labels}

    def unmapped(self, labels: Iterable[str]) -> tuple[str, ...]:
        """Those of a model's labels for which the owner has no genre."""
        return tuple(label for label in labels if self.resolve(label) is None)

    def hash(self) -> str:
        """SHA-256, in hexadecimal, over names, parents and aliases.

        Order, spelling variants of an alias, folders and thresholds do not count: none of them changes what a label
        means.
        """
        rows = [
            [genre.name, genre.parent, sorted({normal_form(alias) for alias in genre.aliases})]
            for genre in sorted(self._genres.values(), key=lambda genre: genre.name)
        ]
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode("ascii")).hexdigest()

    def __eq__(self, other: object) -> bool:
        return self.genres == other.genres if isinstance(other, Taxonomy) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.genres)

    def __repr__(self) -> str:
        return f"Taxonomy({', '.join(self._genres)})"


def normal_form(text: str) -> str:
    """The form in which two genre texts are compared; applying it again changes nothing.

    Compatibility caseless matching of the Unicode Standard (section 3.13, D146: full-width, ligatures and case are
    alike), then invisible format characters are dropped, and every run of white space, hyphens and dashes, low lines,
    slashes and middle dots becomes one space, with none at the ends. So "Hip-Hop", "HIP_HOP", and their
    full-width forms, are alike; "hiphop", "R&B" beside "R and B", and letters with and without accents are not.
    """
    visible = "".join(char for char in text if unicodedata.category(char) != "Cf")
    form = unicodedata.normalize("NFKD", unicodedata.normalize("NFD", visible).casefold())
    form = unicodedata.normalize("NFKC", form.casefold())
    return " ".join("".join(" " if _separates(char) else char for char in form).split())


def safe_folder(name: str) -> str:
    """`name` as one path component that Linux, Samba and Windows clients all take; applying it again changes nothing.

    Control characters and `<>:"/\\|?*` become low lines, as does a leading dot; blanks at the ends and trailing dots
    go; a device name (CON, NUL) gets a low line; at most `FOLDER_LIMIT_BYTES` bytes of UTF-8 remain.
    """
    text = unicodedata.normalize("NFC", name)
    text = "".join("_" if char in _FOLDER_HOSTILE or holds_control(char) else char for char in text)
    text = text.strip().rstrip(". ")
    if text.startswith("."):
        text = "_" + text[1:]
    if _DEVICE_NAME.fullmatch(text):
        text = "_" + text
    cut = text.encode("utf-8")[:FOLDER_LIMIT_BYTES].decode("utf-8", errors="ignore")
    return cut.rstrip().rstrip(". ") or "_"


def find_flaws(genres: Sequence[Genre]) -> list[Flaw]:
    """Everything that keeps `genres` from being a taxonomy, in the order of the list; empty where nothing does."""
    flaws = [*_name_flaws(genres), *_collisions(genres), *_parent_flaws(genres), *_folder_flaws(genres)]
    return sorted(flaws, key=lambda flaw: flaw.index)


def holds_control(text: str) -> bool:
    """Whether control characters, line breaks or halves of a surrogate pair are in `text`: never right in a name."""
    return any(unicodedata.category(char) in {"Cc", "Cs"} for char in text)


def _separates(char: str) -> bool:
    return char in _SEPARATORS or unicodedata.category(char) == "Pd"


def _name_flaws(genres: Sequence[Genre]) -> Iterator[Flaw]:
    for index, genre in enumerate(genres):
        reason = _why_not_a_name(genre.name)
        if reason:
            yield Flaw(index, ("name",), reason)
        for number, alias in enumerate(genre.aliases):
            if not normal_form(alias):
                yield Flaw(index, ("aliases", number), "must hold at least one letter, digit or sign")


def _why_not_a_name(name: str) -> str | None:
    if not normal_form(name):
        return "must hold at least one letter, digit or sign"
    if name != name.strip():
        return "must not begin or end with a blank"
    if holds_control(name):
        return "must not hold control characters or line breaks"
    if name.isdigit() or _ID3_CODE.fullmatch(name):
        return (
            f"{name!r} cannot be a genre's name: MP3 readers take it for a code of the old ID3v1 genre list; choose "
            "another, such as '80s' for '80' (as an alias it may stay)"
        )
    return None


def _collisions(genres: Sequence[Genre]) -> Iterator[Flaw]:
    taken: dict[str, tuple[int, str]] = {}
    for index, genre in enumerate(genres):
        form = normal_form(genre.name)
        if form in taken:
            yield Flaw(index, ("name",), f"{genre.name!r} is the name of two genres")
        elif form:
            taken[form] = (index, f"the name of {genre.name!r}")
    for index, genre in enumerate(genres):
        for number, alias in enumerate(genre.aliases):
            form = normal_form(alias)
            owner, use = taken.setdefault(form, (index, f"an alias of {genre.name!r}"))
            if form and owner != index:
                yield Flaw(index, ("aliases", number), f"{alias!r} is already {use}, so it would be ambiguous")


def _parent_flaws(genres: Sequence[Genre]) -> Iterator[Flaw]:
    index_of: dict[str, int] = {}
    texts = [(index, genre.name) for index, genre in enumerate(genres)]
    texts += [(index, alias) for index, genre in enumerate(genres) for alias in genre.aliases]
    for index, text in texts:
        index_of.setdefault(normal_form(text), index)
    parents: dict[int, int] = {}
    for index, genre in enumerate(genres):
        if genre.parent is None:
            continue
        parent = index_of.get(normal_form(genre.parent))
        if parent is None:
            yield Flaw(index, ("parent",), f"there is no genre {genre.parent!r}")
        else:
            parents[index] = parent
    for circle in _circles(parents):
        chain = " > ".join(genres[index].name for index in [*circle, circle[0]])
        yield Flaw(circle[0], ("parent",), f"parents go in a circle: {chain}")


def _circles(parents: dict[int, int]) -> Iterator[list[int]]:
    """Each circle in `parents` once, from its smallest member on."""
    done: set[int] = set()
    for start in sorted(parents):
        path: list[int] = []
        at: int | None = start
        while at is not None and at not in done:
            done.add(at)
            path.append(at)
            at = parents.get(at)
        if at is not None and at in path:
            circle = path[path.index(at) :]
            turn = circle.index(min(circle))
            yield circle[turn:] + circle[:turn]


def _folder_flaws(genres: Sequence[Genre]) -> Iterator[Flaw]:
    owner_of: dict[str, str] = {}
    for index, genre in enumerate(genres):
        if genre.folder is not None and genre.folder != safe_folder(genre.folder):
            reason = f"{genre.folder!r} is not a safe folder name (try {safe_folder(genre.folder)!r})"
            yield Flaw(index, ("folder",), reason)
            continue
        folder = genre.folder or safe_folder(genre.name)
        owner = owner_of.setdefault(folder.casefold(), genre.name)
        if normal_form(owner) != normal_form(genre.name):
            yield Flaw(index, ("folder",), f"{folder!r} is already the folder of {owner!r}")


def _listed(words: str) -> tuple[str, ...]:
    return tuple(words.split(", "))


STARTER_GENRES: tuple[Genre, ...] = (
    Genre(
        "classical",
        _listed(
            "classical music, classica, clásica, clássica, música clásica, música clássica, musica classica, "
            "classique, musique classique, Klassik, klassische Musik, klassiek, классика, классическая, "
            "классическая музыка, κλασική, κλασική μουσική, クラシック, クラシック音楽, 古典, 古典音樂, 古典音乐, "
            "클래식"
        ),
    ),
    Genre(
        "electronic",
        _listed(
            "electronic music, electronica, electrónica, música electrónica, eletrônica, música eletrônica, "
            "elettronica, musica elettronica, électronique, musique électronique, elektronisch, elektronische Musik, "
            "электронная, электронная музыка, ηλεκτρονική, ηλεκτρονική μουσική, エレクトロニック, エレクトロニカ, "
            "電子音楽, 電子, 電子音樂, 电子, 电子音乐, 일렉트로닉"
        ),
    ),
    Genre("jazz", _listed("jazz music, Jazzmusik, джаз, τζαζ, ジャズ, 爵士, 爵士樂, 爵士乐, 재즈")),
    Genre(
        "pop",
        _listed(
            "pop music, Popmusik, música pop, musica pop, musique pop, поп, поп-музыка, ποπ, ポップ, ポップス, 流行, "
            "流行樂, 流行乐, 流行音樂, 流行音乐, 팝"
        ),
    ),
    Genre(
        "rock",
        _listed(
            "rock music, Rockmusik, música rock, musica rock, musique rock, рок, рок-музыка, ροκ, ロック, 搖滾, "
            "搖滾樂, 摇滚, 摇滚乐, 록"
        ),
    ),
)
"""The genres of a config that names none: those that the bundle shipped with the program can hear."""
