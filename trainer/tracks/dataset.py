"""Builds a data set from claims: looks into the files, settles labels and split, writes the manifest whole.

Building again into the same folder goes on from what is there: unchanged files are not opened again, and what was held
out once stays held out. Must never hear more of a file than `examine` does, nor write below any folder but the set's.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from daemon.core.errors import ConfigError, from_os_error
from daemon.core.ledger_view import Unconfirmed
from daemon.core.taxonomy import Taxonomy
from trainer.tracks import manifest
from trainer.tracks.examine import PATIENCE_S, Examined, examine
from trainer.tracks.importers.claim import Claim, Source
from trainer.tracks.labels import Doubt, Labelled, Names, Why, choose, tell
from trainer.tracks.manifest import NO_FOLD, DataSet, LeftOut, Split, Track
from trainer.tracks.seen import Seen, known_states
from trainer.tracks.split import Member, Place, Shares, deal, keys_of, main_artist

Advance = Callable[[int, int], None]

HOLDOUT_SHARE = 0.15

_DRAFT = ".building"
# An artist of whom so many tracks and one more are known is one of whose tracks a stray label shows.
_STEADY = 4


@dataclass(frozen=True, slots=True)
class Settings:
    """How a set is made. `holdout` None is `HOLDOUT_SHARE`, or nothing where a table brings its own folds.

    Files shorter than `least_s` and genres with fewer than `least` tracks are left out. `renew_holdout` deals
    everything out afresh: only for a model that has never been judged on the old holdout, or never will be compared.
    `workers` are the processes that open files, none of which a bad file can bring down; 0 opens them here.
    """

    least_s: float = 3.0
    least: int = 2
    valid: float = 0.15
    holdout: float | None = None
    folds: int = 5
    seed: int = 0
    renew_holdout: bool = False
    workers: int = 1
    patience_s: float = PATIENCE_S

    def check(self) -> None:
        """Raises ConfigError, with every setting that makes no sense."""
        holdout = self.holdout or 0.0
        flaws = {
            "least_s: must not be negative": self.least_s < 0,
            "least: must be at least 1": self.least < 1,
            "valid: must be from 0 to less than 1": not 0 <= self.valid < 1,
            "holdout: must be from 0 to less than 1": not 0 <= holdout < 1,
            "valid, holdout: must leave something to train on": self.valid + holdout >= 1,
            "folds: must be 0 or at least 2": self.folds < 0 or self.folds == 1,
            "workers: must not be negative": self.workers < 0,
            "patience_s: must be more than 0": self.patience_s <= 0,
        }
        if problems := [text for text, wrong in flaws.items() if wrong]:
            raise ConfigError("data set", problems)


DEFAULTS = Settings()


def build(
    claims: Iterable[Claim],
    taxonomy: Taxonomy | None,
    folder: Path,
    settings: Settings = DEFAULTS,
    advance: Advance = lambda done, of: None,
    *,
    models_words: Mapping[str, Unconfirmed] | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> DataSet:
    """The set that `claims` make, also written into `folder`, where a set that is there is gone on from.

    Names become the taxonomy's; without a taxonomy they are taken as they are. `models_words` (by audio_id) is what
    models wrote and filed: no claim by tag or folder is made of it. `advance(done, of)` is told of the files that
    have to be opened.

    Raises:
        ConfigError: fewer than two genres are left, the settings make no sense, or the earlier set is damaged.
        TryLater, BadFile: `folder` cannot be written; the set in it is as it was.
    """
    settings.check()
    whole = [replace(claim, path=Path(os.path.abspath(claim.path))) for claim in claims]
    with _writing(folder):
        earlier = _earlier(folder)
        left = [LeftOut(claim.path, claim.trouble) for claim in whole if claim.trouble]
        usable = [claim for claim in whole if not claim.trouble]
        names = Names(taxonomy, earlier.labels if earlier else ())
        found = _look(usable, taxonomy, folder, settings, advance)
        sounds, useless = _sift(usable, found, settings)
        words = models_words or {}
        told, untold = tell(usable, sounds, names, words)
        chosen, undecided, doubts = choose(told, {t.path for t in earlier.tracks} if earlier else (), names, words)
        chosen, rare = _common(chosen, names, settings.least)
        left += [*useless, *untold, *undecided, *rare]
        labels = names.in_order(one.key for one in chosen)
        left = _once(left, {one.examined.path for one in chosen})
        if len(labels) < 2:
            raise ConfigError(str(folder), _too_few(chosen, names, left))
        tracks, holdout = _placed(chosen, names, earlier, settings, clock())
        record = _record(settings, taxonomy, labels, tracks, holdout, [*doubts, *_strays(tracks)])
        data = DataSet(labels, tuple(tracks), tuple(left), names.mapping(labels), record)
        _write(data, folder)
    return data


def doubts(data: DataSet) -> list[Doubt]:
    """The tracks of the set whose label the owner should look at, with the reason."""
    return [Doubt(Path(path), reason) for path, reason in data.settings.get("doubts", [])]


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise from_os_error(folder, error) from error


def _earlier(folder: Path) -> DataSet | None:
    """The set that is in the folder; a damaged one is no licence to thaw its holdout."""
    return manifest.read(folder) if (folder / manifest.FACTS).exists() else None


# Looking into files


def _look(
    claims: Sequence[Claim], taxonomy: Taxonomy | None, folder: Path, settings: Settings, advance: Advance
) -> dict[Path, Examined]:
    """What is in each claimed file, in order of paths; files whose claims name no genre at all stay closed."""
    names = Names(taxonomy)
    asked = [claim.path for claim in claims if claim.kind is Source.TAGS or names.key(claim.names) is not None]
    states = known_states(sorted(set(asked)))
    found: dict[Path, Examined] = {}
    folder.mkdir(parents=True, exist_ok=True)
    with Seen(folder) as seen:
        for path, status in states.items():
            if (known := seen.get(path, status)) is not None:
                found[path] = known
        new = [path for path in states if path not in found]
        advance(0, len(new))
        looked = examine(new, workers=settings.workers, patience_s=settings.patience_s)
        try:
            for done, examined in enumerate(looked, start=1):
                seen.add(examined)
                found[examined.path] = examined
                advance(done, len(new))
        finally:
            looked.close()
    return {path: found[path] for path in states}


def _sift(
    claims: Iterable[Claim], found: Mapping[Path, Examined], settings: Settings
) -> tuple[dict[Path, Examined], list[LeftOut]]:
    """The files that hold usable sound, and why the other claimed ones are of no use."""
    sounds: dict[Path, Examined] = {}
    left: list[LeftOut] = []
    for path, examined in found.items():
        if examined.trouble:
            left.append(LeftOut(path, examined.trouble))
        elif examined.duration_s < settings.least_s:
            detail = f"{examined.duration_s:.1f} s, at least {settings.least_s:g} s are wanted"
            left.append(LeftOut(path, Why.SHORT.because(detail)))
        else:
            sounds[path] = examined
    for path in dict.fromkeys(claim.path for claim in claims if claim.path not in found):
        if not os.path.isfile(path):
            left.append(LeftOut(path, Why.MISSING.because("is not there, or no regular file")))
    return sounds, left


# Settling labels


def _common(chosen: Sequence[Labelled], names: Names, least: int) -> tuple[list[Labelled], list[LeftOut]]:
    counts = Counter(one.key for one in chosen)
    rare = [one for one in chosen if counts[one.key] < least]
    left = [
        LeftOut(
            one.examined.path,
            Why.RARE.because(f"genre {names.label(one.key)!r} has {counts[one.key]}, at least {least} are wanted"),
        )
        for one in rare
    ]
    return [one for one in chosen if counts[one.key] >= least], left


def _once(left: Iterable[LeftOut], kept: set[Path]) -> list[LeftOut]:
    """One reason for each file that is not kept, by the order of the reasons; sorted by path."""
    first: dict[Path, LeftOut] = {}
    for one in left:
        if one.path not in kept:
            first.setdefault(one.path, one)
    return [first[path] for path in sorted(first)]


def _too_few(chosen: Sequence[Labelled], names: Names, left: Sequence[LeftOut]) -> list[str]:
    counts = Counter(names.label(one.key) for one in chosen)
    there = ", ".join(f"{label} ({count} tracks)" for label, count in counts.items()) or "none"
    reasons = Counter(one.reason.partition(":")[0] for one in left)
    return [
        f"a set needs at least two genres with tracks; there is {there}",
        *(f"left out, {reason}: {count} files" for reason, count in reasons.most_common()),
        *(f"for instance {one.path}: {one.reason}" for one in left[:3]),
    ]


def _strays(tracks: Iterable[Track]) -> list[Doubt]:
    """Lone tracks of an artist all of whose others, four at least, are of one other genre."""
    by_artist: dict[str, list[Track]] = defaultdict(list)
    for track in tracks:
        if artist := main_artist(track.artist):
            by_artist[artist].append(track)
    found = []
    for theirs in by_artist.values():
        (usual, many), *rest = Counter(track.genre for track in theirs).most_common()
        if many >= _STEADY and len(rest) == 1 and rest[0][1] == 1:
            lone = next(track for track in theirs if track.genre != usual)
            found.append(Doubt(lone.path, f"stray: {lone.genre}, the other {many} of {lone.artist} are {usual}"))
    return found


# Placing


def _placed(
    chosen: Sequence[Labelled], names: Names, earlier: DataSet | None, settings: Settings, now: datetime
) -> tuple[list[Track], dict[str, Any]]:
    """The tracks with their split and fold, sorted by path, and what is to be remembered of the holdout."""
    drafts = sorted((_track(one, names) for one in chosen), key=lambda track: str(track.path))
    albums = {one.examined.audio_id: one.examined.tags.album_artist for one in chosen}
    keys = {track.audio_id: keys_of(track.artist, track.album, albums[track.audio_id]) for track in drafts}
    members = [Member(track.audio_id, track.genre, keys[track.audio_id], track.fold) for track in drafts]
    old = None if settings.renew_holdout else earlier
    frozen, since = _frozen(old, drafts, keys)
    brought = any(track.fold != NO_FOLD for track in drafts)
    share = (0.0 if brought else HOLDOUT_SHARE) if settings.holdout is None else settings.holdout
    shares = Shares(settings.valid, share, settings.folds, settings.seed)
    places = deal(members, shares, _before(old, settings.folds), frozen)
    tracks = [replace(t, split=place.split, fold=place.fold) for t, place in zip(drafts, places, strict=True)]
    held = {track.audio_id: list(keys[track.audio_id]) for track in tracks if track.split is Split.HOLDOUT}
    sounds = {audio_id: list(theirs) for audio_id, theirs in frozen.items()} | held
    return tracks, {"since": since or now.isoformat(timespec="seconds"), "sounds": sounds} if sounds else {}


def _frozen(
    earlier: DataSet | None, tracks: Sequence[Track], keys: Mapping[str, Sequence[str]]
) -> tuple[dict[str, Sequence[str]], str]:
    """The sounds that were ever held out, and since when; a new rip that stands in the place of one is held out too."""
    holdout = earlier.settings.get("holdout", {}) if earlier else {}
    frozen: dict[str, Sequence[str]] = dict(holdout.get("sounds", {}))
    places = {track.path for track in earlier.of(Split.HOLDOUT)} if earlier else set()
    frozen |= {track.audio_id: keys[track.audio_id] for track in tracks if track.path in places}
    return frozen, holdout.get("since", "")


def _before(earlier: DataSet | None, folds: int) -> dict[str, Place]:
    if earlier is None:
        return {}
    same = earlier.settings.get("folds") == folds
    return {track.audio_id: Place(track.split, track.fold if same else NO_FOLD) for track in earlier.tracks}


def _track(one: Labelled, names: Names) -> Track:
    """The track without its place. A table's artist counts before the file's tags, and these before its folders."""
    tables = [told.claim for told in one.told if told.claim.kind is Source.TABLE]
    others = [told.claim for told in one.told if told.claim.kind is not Source.TABLE]
    tags, first = one.examined.tags, one.told[0].claim
    artists = [*(claim.artist for claim in tables), tags.artist, *(claim.artist for claim in others)]
    albums = [*(claim.album for claim in tables), tags.album, *(claim.album for claim in others)]
    folds = [claim.fold for claim in tables if claim.fold != NO_FOLD]
    return Track(
        path=one.examined.path,
        genre=names.label(one.key),
        fold=folds[0] if folds else NO_FOLD,
        artist=next(filter(None, artists), ""),
        source=first.source,
        audio_id=one.examined.audio_id,
        album=next(filter(None, albums), ""),
        duration_s=one.examined.duration_s,
    )


# Writing


def _record(
    settings: Settings,
    taxonomy: Taxonomy | None,
    labels: Sequence[str],
    tracks: Sequence[Track],
    holdout: dict[str, Any],
    doubts: Sequence[Doubt],
) -> dict[str, Any]:
    made = asdict(settings)
    for passing in ("renew_holdout", "workers", "patience_s"):
        del made[passing]
    return made | {
        "taxonomy": taxonomy.hash() if taxonomy is not None else None,
        "without_tracks": [name for name in taxonomy.names if name not in labels] if taxonomy is not None else [],
        "sources": dict(sorted(Counter(track.source for track in tracks).items())),
        "holdout_share": settings.holdout,
        "holdout": holdout,
        "doubts": [[str(doubt.path), doubt.reason] for doubt in doubts],
    }


def _write(data: DataSet, folder: Path) -> None:
    """Write the set beside the one that is there before anything of that is replaced: a full disk costs nothing."""
    draft = folder / _DRAFT
    parts = (manifest.TRACKS, manifest.LEFT_OUT, manifest.FACTS)
    try:
        manifest.write(data, draft)
        for part in parts:
            os.replace(draft / part, folder / part)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
