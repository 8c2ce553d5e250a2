"""Tables of a store. Every change of them raises SCHEMA_VERSION."""

from __future__ import annotations

__all__ = ["APPLICATION_ID", "SCHEMA", "SCHEMA_VERSION"]

#: "dspx" in the header of the file: other SQLite files are refused.
APPLICATION_ID = 0x64737078
SCHEMA_VERSION = 1

# `totals` follows `traces` by triggers, so that counting does not read a million rows. What was spent is
# never taken back: a trace that is dropped has been paid for.
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE traces (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  fingerprint BLOB NOT NULL,
  role INTEGER NOT NULL,
  source TEXT NOT NULL,
  at REAL NOT NULL,
  count INTEGER NOT NULL,
  used_by INTEGER,
  usd REAL, tokens INTEGER, seconds REAL,
  inputs BLOB NOT NULL,
  answer BLOB NOT NULL,
  extra BLOB
);
CREATE INDEX traces_fingerprint ON traces (fingerprint);
CREATE INDEX traces_at ON traces (at);
CREATE INDEX traces_calibrate ON traces (used_by, id) WHERE role = 1;

CREATE TABLE totals (
  source TEXT PRIMARY KEY,
  rows INTEGER NOT NULL, calibrate INTEGER NOT NULL, fresh INTEGER NOT NULL, answers INTEGER NOT NULL,
  usd REAL NOT NULL, tokens INTEGER NOT NULL, pruned INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TRIGGER traces_added AFTER INSERT ON traces BEGIN
  INSERT INTO totals VALUES (new.source, 1, new.role, new.role AND new.used_by IS NULL, new.count,
                             coalesce(new.usd, 0), coalesce(new.tokens, 0), 0)
  ON CONFLICT (source) DO UPDATE SET
    rows = rows + 1, calibrate = calibrate + excluded.calibrate, fresh = fresh + excluded.fresh,
    answers = answers + excluded.answers, usd = usd + excluded.usd, tokens = tokens + excluded.tokens;
END;
CREATE TRIGGER traces_merged AFTER UPDATE OF count, usd, tokens ON traces BEGIN
  UPDATE totals SET answers = answers + new.count - old.count,
    usd = usd + coalesce(new.usd, 0) - coalesce(old.usd, 0),
    tokens = tokens + coalesce(new.tokens, 0) - coalesce(old.tokens, 0)
  WHERE source = old.source;
END;
CREATE TRIGGER traces_used AFTER UPDATE OF used_by ON traces WHEN old.role = 1 BEGIN
  UPDATE totals SET fresh = fresh + (new.used_by IS NULL) - (old.used_by IS NULL) WHERE source = old.source;
END;
CREATE TRIGGER traces_dropped AFTER DELETE ON traces BEGIN
  UPDATE totals SET rows = rows - 1, calibrate = calibrate - old.role,
    fresh = fresh - (old.role AND old.used_by IS NULL), answers = answers - old.count, pruned = pruned + 1
  WHERE source = old.source;
END;

CREATE TABLE versions (
  number INTEGER PRIMARY KEY,
  created REAL NOT NULL, file TEXT NOT NULL, status TEXT NOT NULL, parent INTEGER,
  certificate TEXT NOT NULL, figures TEXT NOT NULL,
  rows_fit INTEGER NOT NULL, rows_calibrate INTEGER NOT NULL, delta REAL, seconds REAL NOT NULL
);

CREATE TABLE state (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  stage TEXT NOT NULL, version INTEGER REFERENCES versions, previous INTEGER REFERENCES versions,
  revision INTEGER NOT NULL, since REAL NOT NULL, reason TEXT NOT NULL, held INTEGER NOT NULL,
  watch TEXT NOT NULL
);

CREATE TABLE events (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at REAL NOT NULL, kind TEXT NOT NULL, by TEXT NOT NULL, reason TEXT NOT NULL,
  before TEXT NOT NULL, after TEXT NOT NULL
);

CREATE TABLE audits (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at REAL NOT NULL, version INTEGER NOT NULL, stage TEXT NOT NULL, score REAL, wrong INTEGER NOT NULL,
  trace INTEGER, native BLOB NOT NULL, teacher BLOB NOT NULL
);
CREATE INDEX audits_version ON audits (version, id);

CREATE TABLE usage (
  hour INTEGER NOT NULL, version INTEGER NOT NULL, stage TEXT NOT NULL, name TEXT NOT NULL,
  value REAL NOT NULL,
  PRIMARY KEY (hour, version, stage, name)
) WITHOUT ROWID;
"""
