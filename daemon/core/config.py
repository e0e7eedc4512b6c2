"""The config: every key with its meaning, unit, bounds and default, and the one way in from a file.

Owns the schema; `config_checks` owns the checks of values, `config_file` the reading of YAML. A config is whole or
refused: every wrong, missing or unknown key is listed at once with its line. Must never touch anything but the config
file: folders are not looked at, and the environment comes in as a parameter (only a leading `~` in a path is expanded
here).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from daemon.core import config_file
from daemon.core.config_checks import (
    AUTO_OR_PROBABILITY,
    DEFAULT_TEMPLATE,
    NO_CONTROL,
    OFF_IS_A_WORD,
    PATIENCE_S,
    QUIET_S,
    TEMPLATE,
    WEEK_S,
    AbsolutePath,
    Flag,
    Probability,
    Seconds,
    disagreements,
    not_yet,
    refusal,
)
from daemon.core.config_choices import (
    ForeignOwner,
    HardLinks,
    Inside,
    LogLevel,
    Missing,
    Mode,
    Outside,
    ReadOnly,
    Watch,
)
from daemon.core.config_models import Models
from daemon.core.config_training import Training
from daemon.core.errors import ConfigError
from daemon.core.records import LogFormat
from daemon.core.taxonomy import STARTER_GENRES, Genre, Taxonomy

__all__ = [
    "FILE_VARIABLE",
    "SYSTEM_FILE",
    "Config",
    "ForeignOwner",
    "GenreEntry",
    "HardLinks",
    "Inside",
    "LogLevel",
    "Logging",
    "Missing",
    "Mode",
    "Models",
    "Night",
    "Organise",
    "Outside",
    "Queue",
    "ReadOnly",
    "Rescan",
    "Root",
    "Settle",
    "Tagging",
    "Thresholds",
    "Training",
    "Watch",
    "Web",
    "default",
    "find",
    "json_schema",
    "load",
    "models_directory",
    "parse",
    "state_directory",
]

FILE_VARIABLE = "MUSIC_RECLASS_CONFIG"
SYSTEM_FILE = Path("/etc/music-reclass/config.yaml")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Root(_Section):
    """A watched folder with everything below it."""

    path: AbsolutePath = Field(description="Folder to watch; absolute, or starting with ~.")
    watch: Annotated[Watch, OFF_IS_A_WORD] = Field(
        Watch.AUTO,
        description="auto: inotify on local disks, polling on network mounts. inotify or poll: always that. "
        "off: only the rescans look here.",
    )
    poll_interval_s: Seconds = Field(60.0, description="Seconds between two looks where the folder is polled.")
    mode: Mode = Field(
        Mode.APPLY,
        description="apply: write genres. suggest: classify and record, write only what is accepted. "
        "dry-run: classify and log, write nothing.",
    )
    organise: Flag | None = Field(
        None, description="Move files of this folder into genre folders; default: what organise.enabled says."
    )
    ignore: tuple[Annotated[str, Field(min_length=1), NO_CONTROL], ...] = Field(
        (), description="Shell patterns (*.part, Podcasts/*) of files to leave out, besides the built-in ones."
    )


class Settle(_Section):
    """When a file counts as completely written."""

    quiet_s: Seconds = Field(QUIET_S, description="Seconds for which size and modification time must not change.")
    patience_s: Seconds = Field(
        PATIENCE_S, description="Longest wait in seconds; a file that never falls quiet is taken after this anyway."
    )


class Rescan(_Section):
    """Looking through the roots for what the watcher missed."""

    interval_s: Seconds = Field(600.0, description="Seconds between two rescans; one more runs at every start.")


class GenreEntry(_Section):
    """One genre of the owner's taxonomy."""

    name: str = Field(description="What is written into tags, in any language; in quotes if it looks like a number.")
    aliases: tuple[str, ...] = Field(
        (), description="Other names for it; case, hyphens, slashes and blanks make no difference."
    )
    parent: str | None = Field(None, description="The wider genre that this one belongs to.")
    folder: str | None = Field(None, description="Folder name; default: the name, made safe for every file system.")
    threshold: Probability | None = Field(
        None, description="Probability from 0 to 1 that this genre must reach; default: what `thresholds` says."
    )


class Tagging(_Section):
    """What is written into which files, and how."""

    missing: Missing = Field(Missing.WRITE, description="A file without a genre: write it, or leave the file alone.")
    outside: Outside = Field(
        Outside.KEEP,
        description="A file whose genres are all outside the taxonomy: keep it as it is, append ours after theirs, "
        "or replace them.",
    )
    inside: Inside = Field(
        Inside.KEEP,
        description="A file that already carries a genre of the taxonomy: keep it (an owner's label outranks the "
        "model) or replace it.",
    )
    id3_v23_separator: Annotated[str, NO_CONTROL] = Field(
        "/",
        min_length=1,
        max_length=3,
        description="What joins several genres in ID3v2.3 tags, which hold one text; no genre's name may contain it.",
    )
    keep_mtime: Flag = Field(
        True,
        description="Keep a file's modification time. A media server that skips files whose time and size are "
        "unchanged may then miss the new genre: set false if yours does.",
    )
    hard_links: HardLinks = Field(
        HardLinks.PARK,
        description="A file with several names on disk (a seeding torrent): park it untouched, or rewrite it, which "
        "cuts the link.",
    )
    read_only: ReadOnly = Field(
        ReadOnly.WRITE,
        description="A file that its mode protects from writing, as copies from read-only media are: write it and keep "
        "the mode, or park it untouched.",
    )
    foreign_owner: ForeignOwner = Field(
        ForeignOwner.PARK,
        description="A file of another user, which only root could give back: park it untouched, or take it over.",
    )


class Organise(_Section):
    """Moving files into genre folders within their root."""

    enabled: Flag = Field(False, description="Move files into genre folders.")
    template: Annotated[str, TEMPLATE] = Field(
        DEFAULT_TEMPLATE,
        description="The place below the root, the file's suffix left out. Fields: {genre} {parent} {artist} {album} "
        "{title} {folder} {name}.",
    )
    unknown: Annotated[str, NO_CONTROL] = Field(
        "Unknown",
        min_length=1,
        max_length=64,
        description="What stands for an artist, album or title that a file lacks.",
    )
    wait_s: Annotated[float, Strict(), Field(ge=0, le=WEEK_S, allow_inf_nan=False)] = Field(
        900.0,
        description="Seconds between the writing of a genre and the move, so that a media server sees one after the "
        "other and keeps plays and ratings. 0: at once.",
    )
    companions: Flag = Field(
        True,
        description="Take .lrc, .cue and pictures of the same name along, and the folder's cover with the last file.",
    )
    remove_emptied: Flag = Field(True, description="Remove folders that a move has emptied, never the root itself.")


class Night(_Section):
    """Training at night: not in this version yet."""

    enabled: Annotated[Literal[False], not_yet("training at night")] = Field(
        False, description="Not in this version yet."
    )


class Web(_Section):
    """The review page: not in this version yet."""

    enabled: Annotated[Literal[False], not_yet("the web page")] = Field(False, description="Not in this version yet.")


class Thresholds(_Section):
    """How sure the model must be; below it abstains."""

    default: Annotated[Literal["auto"] | Probability, AUTO_OR_PROBABILITY] = Field(
        "auto",
        description="auto: the bundle's calibrated threshold of each genre. A number from 0 to 1: that probability "
        "for every genre. A genre's own `threshold` outranks both.",
    )


class Logging(_Section):
    """What is logged."""

    level: LogLevel = Field(LogLevel.INFO, description="The least important events that are still logged.")
    format: LogFormat = Field(LogFormat.AUTO, description="auto: colours on a terminal, JSON elsewhere.")


class Queue(_Section):
    """Trying again after trouble that may pass (a full disk, a file in use)."""

    retry_s: Seconds = Field(60.0, description="Seconds until the first retry.")
    max_attempts: Annotated[int, Strict(), Field(ge=1, le=1000)] = Field(
        5, description="Attempts after which a file is parked with its reason."
    )
    lease_s: Seconds = Field(
        300.0, description="Seconds for which a file that is being worked on is not handed out again."
    )


class Config(_Section):
    """Music Reclass reads this file at start, on every edit and on SIGHUP; a broken edit is refused as a whole."""

    roots: tuple[Root, ...] = Field((), description="Watched folders; none: the default inbox is used.")
    settle: Settle = Settle()
    rescan: Rescan = Rescan()
    taxonomy: tuple[GenreEntry, ...] = Field(
        tuple(GenreEntry(name=genre.name, aliases=genre.aliases) for genre in STARTER_GENRES),
        min_length=1,
        description="The owner's genres.",
    )
    tagging: Tagging = Tagging()
    organise: Organise = Organise()
    models: Models = Models()
    thresholds: Thresholds = Thresholds()
    training: Training = Training()
    night: Night = Night()
    web: Web = Web()
    logging: Logging = Logging()
    queue: Queue = Queue()
    state_directory: AbsolutePath | None = Field(
        None,
        description="Where the ledger, the queue and bundles live; default: $STATE_DIRECTORY, else "
        "$XDG_STATE_HOME/music-reclass, else ~/.local/state/music-reclass.",
    )

    @model_validator(mode="after")
    def _keys_agree(self) -> Self:
        found = list(disagreements(self.model_dump(mode="json")))
        if found:
            lines = [InitErrorDetails(type=refusal(reason), loc=loc, input=None) for loc, reason in found]
            raise ValidationError.from_exception_data("Config", lines)
        return self

    def build_taxonomy(self) -> Taxonomy:
        """The owner's genres as one object; never raises, since a config with a broken taxonomy does not exist."""
        return Taxonomy(Genre(**entry.model_dump()) for entry in self.taxonomy)


def load(path: Path) -> Config:
    """The config in the file at `path`; ConfigError lists everything that is wrong with it, each with its line."""
    return parse(config_file.read(path), str(path))


def parse(text: str, source: str) -> Config:
    """The config in a YAML text; an empty text, or an empty section, means the defaults.

    Raises ConfigError naming `source`, with every problem in order of its line: `line 12: settle.quiet_s: must be > 0
    (got -1)`.
    """
    document = config_file.compose(text, source)
    data = {} if document.data is None else document.data
    if isinstance(data, dict):
        data = {key: value for key, value in data.items() if value is not None or key not in Config.model_fields}
    problems = list(document.problems)
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        # Pydantic looks between keys only once each is right by itself; the owner wants to hear of everything now.
        between = dict.fromkeys(disagreements(data))
        told = {reason for _, reason in between}
        errors = [each for each in error.errors(include_url=False) if each["msg"] not in told]
        problems += config_file.explain(document, errors, Config)
        problems += [document.problem(loc, reason) for loc, reason in between]
    if problems:
        raise ConfigError(source, [str(problem) for problem in sorted(set(problems))])
    return config


def default() -> Config:
    """The config of an empty file."""
    return Config()


def json_schema() -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) of the config file, for editors."""
    schema = Config.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema | {"title": "Music Reclass config"}


def find(
    explicit: Path | None, env: Mapping[str, str], home: Path, checkout: Path, system: Path = SYSTEM_FILE
) -> Path | None:
    """The config file to use, None where there is none and the defaults apply.

    In this order: `explicit`, $MUSIC_RECLASS_CONFIG, $XDG_CONFIG_HOME (or ~/.config) /music-reclass/config.yaml, the
    system's, the checkout's own. One that was asked for by name and is not there is a ConfigError.
    """
    named = explicit or (Path(env[FILE_VARIABLE]) if env.get(FILE_VARIABLE) else None)
    if named is not None:
        if not os.path.exists(named):
            asked = "named on the command line" if explicit else f"named by ${FILE_VARIABLE}"
            raise ConfigError(str(named), [f"there is no such file ({asked})"])
        return named
    user = _xdg(env, "XDG_CONFIG_HOME", home / ".config") / "music-reclass" / "config.yaml"
    return next((path for path in (user, system, checkout / "config.yaml") if os.path.isfile(path)), None)


def state_directory(config: Config, env: Mapping[str, str], home: Path) -> Path:
    """Where the ledger, the queue and bundles live; the folder is not made here.

    systemd gives $STATE_DIRECTORY as a list with colons where a unit names several: the first one counts.
    """
    if config.state_directory is not None:
        return config.state_directory
    given = env.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(given) if given else _xdg(env, "XDG_STATE_HOME", home / ".local" / "state") / "music-reclass"


def models_directory(config: Config, state: Path) -> Path:
    """Where bundles live, given the state directory."""
    return config.models.directory or state / "models"


def _xdg(env: Mapping[str, str], variable: str, fallback: Path) -> Path:
    """The XDG base directory specification has relative paths ignored."""
    given = env.get(variable, "")
    return Path(given) if given.startswith("/") else fallback
