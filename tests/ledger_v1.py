"""A ledger and a queue of schema version 1, as the first release left them behind. Nothing here follows the program.

The scripts are those that were published; the rows are what a few days of use write, with a name that is not UTF-8, a
change that a crash left open, one that was undone, one that was rolled back, and a retag by the owner.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

LEDGER_SCRIPT = """
CREATE TABLE files (
    path PRIMARY KEY NOT NULL,
    audio_id TEXT,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    genres TEXT NOT NULL,
    status TEXT NOT NULL,
    reason TEXT NOT NULL,
    seen_at TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX files_by_sound ON files (audio_id);
CREATE INDEX files_by_status ON files (status);
CREATE TABLE decisions (
    id INTEGER PRIMARY KEY,
    audio_id TEXT NOT NULL,
    path NOT NULL,
    bundle TEXT NOT NULL,
    genre TEXT,
    confidence REAL NOT NULL,
    threshold REAL NOT NULL,
    abstention TEXT,
    candidates TEXT NOT NULL,
    votes TEXT NOT NULL,
    at TEXT NOT NULL
);
CREATE INDEX decisions_by_sound ON decisions (audio_id);
CREATE TABLE embeddings (
    audio_id TEXT NOT NULL,
    encoder TEXT NOT NULL,
    segments INTEGER NOT NULL,
    vector BLOB NOT NULL,
    at TEXT NOT NULL,
    PRIMARY KEY (audio_id, encoder)
) WITHOUT ROWID;
CREATE TABLE changes (
    id INTEGER PRIMARY KEY,
    audio_id TEXT NOT NULL,
    path NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    genres_before TEXT NOT NULL,
    genres_after TEXT NOT NULL,
    bundle TEXT,
    undoes INTEGER REFERENCES changes (id),
    temporary,
    sha256_before TEXT,
    sha256_after TEXT,
    mtime_ns_before INTEGER,
    patch BLOB,
    at TEXT NOT NULL,
    finished_at TEXT
);
CREATE INDEX changes_by_sound ON changes (audio_id);
CREATE INDEX changes_by_state ON changes (state);
CREATE TABLE corrections (
    id INTEGER PRIMARY KEY,
    audio_id TEXT NOT NULL,
    path NOT NULL,
    genres TEXT NOT NULL,
    genre TEXT,
    how TEXT NOT NULL,
    at TEXT NOT NULL
);
CREATE INDEX corrections_by_sound ON corrections (audio_id);
CREATE TABLE models (
    id INTEGER PRIMARY KEY,
    bundle TEXT NOT NULL,
    path NOT NULL,
    taxonomy_hash TEXT NOT NULL,
    at TEXT NOT NULL
);
"""

QUEUE_SCRIPT = """
CREATE TABLE jobs (
    path PRIMARY KEY NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    settled_at REAL NOT NULL,
    not_before REAL NOT NULL,
    leased_until REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE INDEX jobs_by_time ON jobs (not_before);
"""

SONG = "/music/Sigur Rós/日本語 👩‍🎤.ogg"
NOT_UTF8 = b"/music/caf\xe9.mp3"
BROKEN = "/music/broken.flac"
SOUND, OTHER_SOUND = "a1" * 32, "b2" * 32
ENCODER = "e5" * 32
AT = "2026-11-22T12:00:00.123+00:00"
# Undo data is bytes that no text could hold.
PATCH = bytes(range(256)) * 40

ROWS: dict[str, list[tuple[object, ...]]] = {
    "files": [
        (SONG, SOUND, 5_000_000_000, 1_700_000_000_123_456_789, 2**63 - 1, '["R&B/Soul", "ポップ"]', "tagged", "", AT),
        (NOT_UTF8, OTHER_SOUND, 7, -1, 9, "[]", "abstained", "unsure", AT),
        (BROKEN, None, 0, 0, 1, "[]", "parked", "ends in the middle: 'x'; \"y\"", AT),
    ],
    "decisions": [
        (
            1,
            SOUND,
            SONG,
            "starter-1",
            "ポップ",
            0.8125,
            0.7,
            None,
            '[["ポップ", 0.8125]]',
            '[[12.5, "ポップ", 0.9]]',
            AT,
        ),
        (7, OTHER_SOUND, NOT_UTF8, "starter-1", None, 0.31, 0.7, "unsure", '[["jazz", 0.31]]', "[]", AT),
    ],
    "embeddings": [
        (SOUND, ENCODER, 2, bytes(range(256)) * 3, AT),
        (OTHER_SOUND, ENCODER, 3, b"\x00\x3c" * 384, AT),
    ],
    "changes": [
        *[
            (
                1,
                SOUND,
                SONG,
                "tag",
                "undone",
                "[]",
                '["ポップ"]',
                "starter-1",
                None,
                None,
                "0" * 64,
                "1" * 64,
                7,
                PATCH,
                AT,
                AT,
            )
        ],
        *[
            (
                2,
                SOUND,
                SONG,
                "undo",
                "done",
                '["ポップ"]',
                "[]",
                None,
                1,
                None,
                "1" * 64,
                "0" * 64,
                8,
                PATCH[::-1],
                AT,
                AT,
            )
        ],
        *[
            (
                3,
                SOUND,
                SONG,
                "tag",
                "done",
                "[]",
                '["R&B/Soul"]',
                "b-2",
                None,
                None,
                "0" * 64,
                "2" * 64,
                9,
                PATCH,
                AT,
                AT,
            )
        ],
        *[
            (
                4,
                OTHER_SOUND,
                NOT_UTF8,
                "tag",
                "rolled_back",
                "[]",
                '["jazz"]',
                "b-2",
                None,
                None,
                None,
                None,
                None,
                None,
                AT,
                AT,
            )
        ],
        (
            *(5, OTHER_SOUND, NOT_UTF8, "tag", "staged", "[]", '["jazz"]', "b-2", None),
            *(b"/music/.caf\xe9.x.reclass-tmp.mp3", "3" * 64, "4" * 64, -2, b"\x00", AT, None),
        ),
        (9, SOUND, SONG, "tag", "intent", "[]", '["jazz"]', "b-2", None, None, None, None, None, None, AT, None),
    ],
    "corrections": [
        (1, SOUND, SONG, '["R&B/Soul", "live"]', "R&B/Soul", "retagged", AT),
        (2, OTHER_SOUND, NOT_UTF8, "[]", None, "command", AT),
    ],
    "models": [(1, "starter-1", "/var/lib/music-reclass/models/starter-1", "f6" * 32, AT)],
}

# Path, size, mtime_ns, inode, settled_at, not_before, leased_until, attempts, reason.
JOBS: list[tuple[object, ...]] = [
    (SONG, 5, 1_700_000_000_123_456_789, 2**63 - 1, 1000.0, 1000.0, None, 0, ""),
    (NOT_UTF8, 7, -1, 9, 1001.5, 4000.0, None, 3, "disk full"),
    (BROKEN, 0, 0, 1, 999.0, 999.0, 1299.0, 1, ""),
]


def make_ledger(path: Path) -> None:
    """Put the ledger at `path`; its folder is made too."""
    _make(path, LEDGER_SCRIPT, ROWS)


def make_queue(path: Path) -> None:
    """Put the queue at `path`; its folder is made too."""
    _make(path, QUEUE_SCRIPT, {"jobs": JOBS})


def dump(path: Path) -> list[str]:
    """Everything that stands in a database, and its version, as SQL text."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [str(connection.execute("PRAGMA user_version").fetchone()[0]), *connection.iterdump()]


def _make(path: Path, script: str, tables: dict[str, list[tuple[object, ...]]]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(script)
        connection.execute("PRAGMA user_version = 1")
        for table, rows in tables.items():
            marks = ", ".join("?" * len(rows[0]))
            connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
