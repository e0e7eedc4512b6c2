"""The ledger's schema, one script per version. A published script never changes: a new version appends one.

History:
    1  files, decisions, embeddings, changes, corrections, models.
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

MIGRATIONS = (_VERSION_1,)
