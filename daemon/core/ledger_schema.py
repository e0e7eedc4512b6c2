"""The ledger's schema, one script per version. A published script never changes: a new version appends one.

History:
    1  files, decisions, embeddings, changes, corrections, models.
    2  moves (changes.target, companions, folders, filings), suggestions, acts (changes that are taken back together),
       the change time of files, and facts about the ledger itself.
"""

from __future__ import annotations

# Paths have no declared type: a name that is not UTF-8 is kept as its bytes, every other one as text.
_VERSION_1 = """
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

# A change time of 0 is one that version 1 did not record: such files are looked at once more, which is cheap.
# An act is the number of the first of the changes that belong together, as a tag and the move that follows it.
_VERSION_2 = """
ALTER TABLE files ADD COLUMN ctime_ns INTEGER NOT NULL DEFAULT 0;
ALTER TABLE files ADD COLUMN suggestion TEXT NOT NULL DEFAULT '[]';
ALTER TABLE changes ADD COLUMN target;
ALTER TABLE changes ADD COLUMN act INTEGER;
UPDATE changes SET act = id;
CREATE INDEX changes_by_act ON changes (act);
CREATE INDEX changes_by_time ON changes (at);
CREATE TABLE companions (
    id INTEGER PRIMARY KEY,
    change INTEGER NOT NULL REFERENCES changes (id),
    source NOT NULL,
    target NOT NULL
);
CREATE INDEX companions_by_change ON companions (change);
CREATE TABLE folders (
    id INTEGER PRIMARY KEY,
    change INTEGER NOT NULL REFERENCES changes (id),
    path NOT NULL
);
CREATE INDEX folders_by_change ON folders (change);
CREATE INDEX folders_by_path ON folders (path);
CREATE TABLE filings (
    path PRIMARY KEY NOT NULL,
    audio_id TEXT NOT NULL,
    genre TEXT NOT NULL,
    act INTEGER,
    asked_at REAL NOT NULL,
    due_at REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX filings_by_due ON filings (due_at, path);
CREATE TABLE facts (
    name TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL
) WITHOUT ROWID;
"""

MIGRATIONS = (_VERSION_1, _VERSION_2)
