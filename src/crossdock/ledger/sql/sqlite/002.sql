-- Which ledger this is, for what is told to others.
CREATE TABLE ledger (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    id TEXT NOT NULL CHECK (length(id) = 16)
);

INSERT INTO ledger VALUES (1, lower(hex(randomblob(8))));

-- Our own action took the file away: its identity is free.
ALTER TABLE transfers ADD COLUMN gone INTEGER NOT NULL DEFAULT 0
    CONSTRAINT gone_is_delivered_or_ended CHECK (gone = 0 OR (gone = 1 AND state NOT IN ('pending', 'running')));

DROP INDEX transfers_identity;
CREATE UNIQUE INDEX transfers_identity ON transfers (flow, source, path, fingerprint, target, target_path)
WHERE gone = 0;

-- A file is gone for all its destinations at once.
CREATE TRIGGER transfers_gone AFTER UPDATE OF gone ON transfers WHEN NEW.gone = 1 AND OLD.gone = 0
BEGIN
    UPDATE transfers SET gone = 1
    WHERE flow = NEW.flow AND source = NEW.source AND path = NEW.path AND fingerprint = NEW.fingerprint
      AND gone = 0 AND state NOT IN ('pending', 'running');
END;

CREATE TABLE marks (
    flow TEXT NOT NULL,
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    at REAL NOT NULL,
    due REAL,
    value TEXT NOT NULL,
    PRIMARY KEY (flow, kind, key)
) WITHOUT ROWID;

CREATE INDEX marks_due ON marks (flow, kind, due) WHERE due IS NOT NULL;
