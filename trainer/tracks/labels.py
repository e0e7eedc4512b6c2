"""From what sources claim to one label per sound: names resolved, claims weighed, copies told apart. Opens no file."""

from __future__ import annotations

import enum
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from daemon.core.ledger_view import Unconfirmed
from daemon.core.tagtext import genre_names
from daemon.core.taxonomy import Taxonomy, holds_control, normal_form
from trainer.tracks.examine import Examined
from trainer.tracks.importers.claim import Claim, Source
from trainer.tracks.manifest import LeftOut


class Why(enum.StrEnum):
    """Why a file is not in a set: what stands before the colon of its reason. Files in trouble bring their own."""

    NO_GENRE = "no genre"
    UNKNOWN = "unknown genre"
    MISSING = "missing"
    OTHER_SOUND = "another sound"
    SHORT = "too short"
    COPY = "same sound"
    CONFLICT = "conflicting labels"
    UNCONFIRMED = "never confirmed"
    RARE = "too few tracks"

    def because(self, detail: str) -> str:
        """The reason as it stands in left_out.csv."""
        return f"{self.value}: {detail}"


class Names:
    """What genre names become: the taxonomy's names; without one themselves, with spelling variants made one.

    A key stands for a label until all names have been seen, since the commonest spelling becomes the label.
    """

    def __init__(self, taxonomy: Taxonomy | None, earlier: Collection[str] = ()) -> None:
        """Resolve in `taxonomy`; without one a label of `earlier` keeps its spelling."""
        self._taxonomy = taxonomy
        self._earlier = {normal_form(label): label for label in earlier}
        self._spellings: dict[str, Counter[str]] = defaultdict(Counter)
        self._keys: dict[str, str | None] = {}

    def key(self, texts: Sequence[str]) -> str | None:
        """The key of the first of `texts` that names a genre, whole or in part; None where none does."""
        for text in texts:
            for name in genre_names(text, self._is_known):
                if (key := self._key(name)) is not None:
                    self._spellings[key][name] += 1
                    self._keys.setdefault(texts[0], key)
                    return key
        for text in texts:
            self._keys.setdefault(text, None)
        return None

    def known(self, text: str) -> str | None:
        """As `key` for one text that nobody claimed; without a taxonomy only what somebody claimed is known."""
        names = (self._key(name) for name in genre_names(text, self._is_known))
        return next((key for key in names if key is not None and (self._taxonomy or key in self._spellings)), None)

    def label(self, key: str) -> str:
        """The label that `key` stands for."""
        if self._taxonomy is not None:
            return key
        common = self._spellings[key]
        return self._earlier.get(key) or min(common, key=lambda name: (-common[name], name))

    def mapping(self, labels: Collection[str]) -> dict[str, str | None]:
        """Every name that was asked for, with the one of `labels` that it became, None where it became none."""
        became = {name: self.label(key) if key is not None else None for name, key in sorted(self._keys.items())}
        return {name: label if label in labels else None for name, label in became.items()}

    def in_order(self, keys: Iterable[str]) -> tuple[str, ...]:
        """The labels of `keys`: in the order of the taxonomy, or sorted without one."""
        labels = {self.label(key) for key in keys}
        return tuple(n for n in self._taxonomy.names if n in labels) if self._taxonomy else tuple(sorted(labels))

    def _is_known(self, name: str) -> bool:
        return self._taxonomy is not None and self._taxonomy.resolve(name) is not None

    def _key(self, name: str) -> str | None:
        if self._taxonomy is not None:
            return self._taxonomy.resolve(name)
        # Bytes of a folder name that are no UTF-8 are no label that anything else could write.
        return None if holds_control(name) else normal_form(name) or None


@dataclass(frozen=True, slots=True)
class Told:
    """One claim on a file that was looked into, with the key of its genre."""

    claim: Claim
    examined: Examined
    key: str


@dataclass(frozen=True, slots=True)
class Labelled:
    """One sound with its label's key, the file that stands for it, and every claim on it, the weightiest first."""

    key: str
    examined: Examined
    told: tuple[Told, ...]


@dataclass(frozen=True, slots=True)
class Doubt:
    """A label that the owner should look at; the track stays in the set."""

    path: Path
    reason: str


def tell(
    claims: Iterable[Claim],
    files: Mapping[Path, Examined],
    names: Names,
    models_words: Mapping[str, Unconfirmed],
) -> tuple[list[Told], list[LeftOut]]:
    """What each claim comes to, once its file has been looked into; what a model wrote or filed tells nothing.

    `files` holds the sound files alone. A claim of the ledger on a sound whose file is elsewhere by now goes to where
    it is; one of a genre that is not known says at least that whatever else is claimed is wrong.
    """
    homes = {examined.audio_id: examined for examined in reversed(list(files.values()))}
    told: list[Told] = []
    left: list[LeftOut] = []
    refused: dict[str, str] = {}
    for claim in claims:
        here = files.get(claim.path)
        examined = here
        if claim.audio_id and (here is None or here.audio_id != claim.audio_id):
            examined = homes.get(claim.audio_id)
        key, reason = _weigh(claim, examined, names, models_words)
        if reason:
            left.append(LeftOut(claim.path, reason))
            if claim.kind is Source.LEDGER:
                refused[claim.audio_id] = reason
        elif key is not None and examined is not None:
            told.append(Told(claim, examined, key))
        elif examined is None and here is not None:
            left.append(LeftOut(claim.path, Why.OTHER_SOUND.because("the file has changed since it was labelled")))
    left += [LeftOut(t.examined.path, refused[t.examined.audio_id]) for t in told if t.examined.audio_id in refused]
    return [one for one in told if one.examined.audio_id not in refused], left


def _weigh(
    claim: Claim, examined: Examined | None, names: Names, models_words: Mapping[str, Unconfirmed]
) -> tuple[str | None, str]:
    """The key that is claimed, or why none is; neither where that takes the tags of a file that is of no use."""
    texts = claim.names
    if claim.kind is Source.TAGS and not texts:
        if examined is None:
            return None, ""
        texts = (examined.tags.genre,) if examined.tags.genre else ()
    key = names.key(texts)
    if key is None:
        return None, _unnamed(texts, claim.kind)
    if examined is not None and _is_models(claim, key, names, models_words.get(examined.audio_id)):
        return None, Why.UNCONFIRMED.because(f"{names.label(key)}, which a model decided")
    return key, ""


def _unnamed(texts: Sequence[str], kind: Source) -> str:
    if texts:
        return Why.UNKNOWN.because(texts[0])
    return Why.NO_GENRE.because("its tags name none" if kind is Source.TAGS else "none is told")


def _is_models(claim: Claim, key: str, names: Names, word: Unconfirmed | None) -> bool:
    if word is None:
        return False
    if claim.kind is Source.FOLDERS:
        return claim.path in word.places
    return claim.kind is Source.TAGS and _wrote(word, key, names)


def _wrote(word: Unconfirmed, key: str, names: Names) -> bool:
    return any(names.known(genre) == key for genre in word.genres)


def choose(
    told: Iterable[Told], earlier: Collection[Path], names: Names, models_words: Mapping[str, Unconfirmed]
) -> tuple[list[Labelled], list[LeftOut], list[Doubt]]:
    """One label for each sound, or none where claims of equal weight contradict each other.

    Of several copies one stands for the sound: one of `earlier` if there is one, else one of the best claim's.
    """
    sounds: dict[str, list[Told]] = defaultdict(list)
    for one in told:
        sounds[one.examined.audio_id].append(one)
    chosen: list[Labelled] = []
    left: list[LeftOut] = []
    doubts: list[Doubt] = []
    for sound, claims in sounds.items():
        claims.sort(key=lambda one: (one.claim.kind.rank, str(one.examined.path)))
        best = [one for one in claims if one.claim.kind is claims[0].claim.kind]
        paths = dict.fromkeys(one.examined.path for one in claims)
        if len({one.key for one in best}) > 1:
            reason = Why.CONFLICT.because(_contradiction(best, names))
            left += [LeftOut(path, reason) for path in paths]
            continue
        stands = next((one for one in claims if one.examined.path in earlier), best[0])
        path = stands.examined.path
        left += [LeftOut(other, Why.COPY.because(f"as {path}")) for other in paths if other != path]
        others = {(one.claim.kind, one.key) for one in claims} | _tags_words(claims, names, models_words.get(sound))
        doubts += _disagreements(path, others, best[0], names)
        chosen.append(Labelled(best[0].key, stands.examined, tuple(claims)))
    return chosen, left, doubts


def _contradiction(best: Sequence[Told], names: Names) -> str:
    places = {
        one.key: f"{names.label(one.key)} ({one.claim.kind.value}, {one.examined.path})" for one in reversed(best)
    }
    return " or ".join(sorted(places.values()))


def _tags_words(claims: Sequence[Told], names: Names, word: Unconfirmed | None) -> set[tuple[Source, str]]:
    """What the tags of the files say, also where nobody asked them; not what a model wrote there."""
    keys = {names.known(one.examined.tags.genre) for one in claims} - {None}
    return {(Source.TAGS, key) for key in keys if key is not None and not (word and _wrote(word, key, names))}


def _disagreements(path: Path, others: Collection[tuple[Source, str]], best: Told, names: Names) -> list[Doubt]:
    """Where folder, table and tag say different things; what the owner said of the very track settles it."""
    if best.claim.kind is Source.LEDGER:
        return []
    mine = f"{best.claim.kind.value} say {names.label(best.key)}"
    differing = sorted((kind.rank, kind, key) for kind, key in others if key != best.key)
    return [Doubt(path, f"disagreement: {mine}, {kind.value} {names.label(key)}") for _, kind, key in differing]
