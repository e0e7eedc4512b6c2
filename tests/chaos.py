"""A small library of every container, work on it, and the proof that nothing in it was harmed; for kills and faults.

`work` runs in a process that is killed or whose system calls fail; `Library.settle` is what the next start of the
program does, and finds out what is wrong afterwards. Everything is the product's own code on real files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import make_more_audio
from make_audio import SUFFIXES, make

from daemon.change import Changer, WriterLock
from daemon.core import audio
from daemon.core.config import Tagging
from daemon.core.errors import MusicReclassError
from daemon.core.ledger import FileStatus, KnownFile, Ledger
from daemon.core.records import FileState
from daemon.effects import files, scan, tags
from daemon.moving import Mover
from daemon.reading import Reader
from daemon.undoing import Undoer

# Every container that can be made here; Monkey's Audio, Musepack and the like share the tags of WavPack.
CONTAINERS = (*SUFFIXES, ".wv", ".tta", *make_more_audio.SUFFIXES)
Parts = tuple[Changer, Mover, Reader]

# The last one outgrows most paddings.
GENRES = ("rock", "klassisk", "日本語ポップ", " ".join(["a long genre"] * 60))


@dataclass(frozen=True, slots=True)
class Content:
    """What must never change in a file, and its genres."""

    sound: str
    others: str
    genres: tuple[str, ...]


@dataclass(slots=True)
class Harm:
    """What is wrong with a library, counted; all zero is the promise."""

    damaged_sound: int = 0
    lost_tags: int = 0
    lost_files: int = 0
    doubled_files: int = 0
    left_over: int = 0
    wrong_record: int = 0
    lines: list[str] = field(default_factory=list)

    def add(self, what: str, line: str) -> None:
        setattr(self, what, getattr(self, what) + 1)
        self.lines.append(f"{what}: {line}")

    @property
    def counts(self) -> dict[str, int]:
        names = ("damaged_sound", "lost_tags", "lost_files", "doubled_files", "left_over", "wrong_record")
        return {name: getattr(self, name) for name in names}


def make_one(path: Path, seed: int) -> Path:
    """One tagged file of half a second."""
    if path.suffix in make_more_audio.SUFFIXES:
        return make_more_audio.make_more(path)
    return make(path, seconds=0.5, seed=seed)


class Library:
    """Files below `root`, the state that belongs to them, and what they held at the beginning."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "music"
        self.state = folder / "state"
        self._sheet = folder / "originals.json"
        self._contents: dict[str, Content] = {}

    def make(self, suffixes: tuple[str, ...] = CONTAINERS, genres: tuple[str, ...] = ("Old Genre",)) -> None:
        """Put one tagged file of every container there, each with lyrics beside it."""
        inbox = self.root / "in"
        inbox.mkdir(parents=True)
        sounds = {}
        for number, suffix in enumerate(suffixes):
            path = make_one(inbox / f"track{suffix}", number)
            path.with_suffix(f"{suffix}.lrc").write_text(f"words of {suffix}")
            content = self.content_of(path)
            sounds[content.sound] = [suffix, content.others]
        self._sheet.write_text(json.dumps(sounds))

    def paths(self) -> Iterator[Path]:
        """Every music file, wherever it is now."""
        for parent, _, names in os.walk(self.root):
            yield from (Path(parent, name) for name in sorted(names) if not name.endswith(".lrc"))

    def content_of(self, path: Path) -> Content:
        """What is in a file; equal bytes are looked at once."""
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest not in self._contents:
            found = tags.read(path)
            others = hashlib.sha256(repr(found.others).encode()).hexdigest()
            self._contents[digest] = Content(audio.audio_id(path), others, found.genres)
        return self._contents[digest]

    def settle(self) -> Harm:
        """Start anew after a crash, and look at everything."""
        with desk(self) as (ledger, _, _):
            harm = self.examine()
            self._compare(ledger, harm)
            return harm

    def examine(self) -> Harm:
        """What is wrong on the disk."""
        harm = Harm()
        sounds: dict[str, list[str]] = json.loads(self._sheet.read_text())
        seen: dict[str, Path] = {}
        for path in self.paths():
            if files.is_temporary(path):
                harm.add("left_over", str(path))
                continue
            try:
                content = self.content_of(path)
            except MusicReclassError as error:
                harm.add("damaged_sound", str(error))
                continue
            if content.sound not in sounds:
                harm.add("damaged_sound", str(path))
            elif content.others != sounds[content.sound][1]:
                harm.add("lost_tags", str(path))
            elif content.sound in seen:
                harm.add("doubled_files", f"{path} and {seen[content.sound]}")
            seen[content.sound] = path
        # Lyrics that could not come along stay where they were, which is said in the log.
        lyrics = [path.name for path in self.root.rglob("*.lrc")]
        for sound, (suffix, _) in sounds.items():
            if sound not in seen:
                harm.add("lost_files", suffix)
            if (found := lyrics.count(f"track{suffix}.lrc")) != 1:
                harm.add("lost_files" if not found else "doubled_files", f"lyrics of {suffix}")
        return harm

    def _compare(self, ledger: Ledger, harm: Harm) -> None:
        """What is wrong in the record: an open change, or a file that is not as it says."""
        for change in ledger.open_changes():
            harm.add("wrong_record", f"change {change.number} of {change.path} is open")
        known = ledger.states_under(self.root)
        for path, state in known.items():
            found = scan.state_of(path)
            if found is None or not found.same_content(state):
                harm.add("wrong_record", f"{path} is {found}, not {state}")
                continue
            record = ledger.known(path)
            if record is not None and record.genres != self.content_of(path).genres:
                harm.add("wrong_record", f"{path}: the record says {record.genres}")


@contextlib.contextmanager
def desk(library: Library) -> Iterator[tuple[Ledger, Undoer, Parts]]:
    """The parts that change files, after what a crash left open is settled."""
    library.state.mkdir(exist_ok=True)
    ledger = Ledger(library.state / "ledger.db")
    lock = WriterLock(library.state)
    with Reader() as reader:
        changer, mover = Changer(ledger, Tagging(), reader), Mover(ledger)
        undoer = Undoer(ledger, changer, mover)
        try:
            assert lock.alone(), "another writer is at work"
            undoer.recover()
            yield ledger, undoer, (changer, mover, reader)
        finally:
            lock.close()
            ledger.close()


def tag(library: Library, parts: Parts, path: Path, genre: str) -> None:
    """Write a genre into a file, as the pipeline does."""
    changer, _, reader = parts
    with reader.sound(path) as sound:
        sound_id = sound.packet_digest()
    changer.write_genres(path, sound_id, reader.tags(path).genres, (genre,), "bundle")


def move(library: Library, ledger: Ledger, parts: Parts, path: Path, folder: str) -> None:
    """Move a file and its lyrics into a folder, as the filer does."""
    _, mover, reader = parts
    known = ledger.known(path)
    if known is None:
        sound_id, genres = reader.audio_id(path), reader.tags(path).genres
        known = KnownFile(path, sound_id, FileState.of(os.lstat(path)), genres, FileStatus.UNCHANGED, "")
    target = library.root / folder / path.name
    lyrics = path.with_suffix(f"{path.suffix}.lrc")
    mover.move(known, target, library.root, [(lyrics, target.with_name(lyrics.name))], None)
    files.remove_emptied(path.parent, library.root)


def work(library: Library, seed: int, folders: tuple[str, ...], ready: int) -> None:
    """Tag, move and undo at random until killed; a byte goes to `ready` when it begins."""
    choose = random.Random(seed)
    with desk(library) as (ledger, undoer, parts):
        tag_one(library, parts, choose)
        os.write(ready, b"r")
        while True:
            act(library, ledger, undoer, parts, choose, folders)


def tag_one(library: Library, parts: Parts, choose: random.Random) -> None:
    tag(library, parts, choose.choice(list(library.paths())), choose.choice(GENRES))


def act(
    library: Library, ledger: Ledger, undoer: Undoer, parts: Parts, choose: random.Random, folders: tuple[str, ...]
) -> None:
    """One random piece of work."""
    path = choose.choice(list(library.paths()))
    kind = choose.random()
    if kind < 0.45:
        tag(library, parts, path, choose.choice(GENRES))
        return
    if kind < 0.75:
        folder = choose.choice([name for name in folders if library.root / name != path.parent])
        move(library, ledger, parts, path, folder)
        return
    known = ledger.known(path)
    changes = ledger.changes_of(known.audio_id) if known and known.audio_id else []
    done = [change for change in changes if change.undoable]
    if done:
        undoer.undo(done[-1].number)
