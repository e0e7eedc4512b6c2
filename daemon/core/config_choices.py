"""The words among which a config chooses. Owns nothing but them; `config` says what each key means."""

from __future__ import annotations

import enum


class Watch(enum.StrEnum):
    """How a root is watched."""

    AUTO = "auto"
    INOTIFY = "inotify"
    POLL = "poll"
    OFF = "off"


class Mode(enum.StrEnum):
    """What may be done to the files of a root."""

    APPLY = "apply"
    SUGGEST = "suggest"
    DRY_RUN = "dry-run"


class Missing(enum.StrEnum):
    """What happens to a file without a genre."""

    WRITE = "write"
    LEAVE = "leave"


class Outside(enum.StrEnum):
    """What happens to a file whose genres are all outside the taxonomy."""

    KEEP = "keep"
    APPEND = "append"
    REPLACE = "replace"


class Inside(enum.StrEnum):
    """What happens to a file that already carries a genre of the taxonomy."""

    KEEP = "keep"
    REPLACE = "replace"


class HardLinks(enum.StrEnum):
    """What happens to a file that has other names on disk."""

    PARK = "park"
    REWRITE = "rewrite"


class ReadOnly(enum.StrEnum):
    """What happens to a file that its owner may not write to."""

    PARK = "park"
    WRITE = "write"


class ForeignOwner(enum.StrEnum):
    """What happens to a file that belongs to another user and cannot be given back to them."""

    PARK = "park"
    TAKE = "take"


class LogLevel(enum.StrEnum):
    """The least important events that are still logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
