-- Times are seconds since 1970.

CREATE TABLE transfers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    flow TEXT NOT NULL,
    source TEXT NOT NULL,
    path TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    target TEXT NOT NULL,
    target_path TEXT NOT NULL,
    name TEXT NOT NULL,
    size INTEGER,
    modified TEXT,
    etag TEXT,
    version TEXT,
    state TEXT NOT NULL
        CHECK (state IN ('pending', 'running', 'delivered', 'done', 'failed', 'cancelled', 'skipped')),
    attempts INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    owed_attempts INTEGER NOT NULL DEFAULT 0 CHECK (owed_attempts >= 0),
    rescues INTEGER NOT NULL DEFAULT 0 CHECK (rescues >= 0),
    fence INTEGER NOT NULL DEFAULT 0 CHECK (fence >= 0),
    owner TEXT,
    ready_at REAL,
    checkpoint BLOB,
    receipt TEXT,
    error TEXT,
    why TEXT NOT NULL,
    changed_by TEXT NOT NULL,
    changed_at REAL NOT NULL,
    added_at REAL NOT NULL,
    seen_at REAL NOT NULL,
    CONSTRAINT open_is_ready_some_time
        CHECK ((ready_at IS NOT NULL) = (state IN ('pending', 'running', 'delivered'))),
    CONSTRAINT running_has_an_owner CHECK (state <> 'running' OR owner IS NOT NULL),
    CONSTRAINT owned_is_under_way CHECK (owner IS NULL OR state IN ('running', 'delivered')),
    CONSTRAINT delivered_has_a_receipt CHECK (state NOT IN ('delivered', 'done') OR receipt IS NOT NULL),
    CONSTRAINT failed_has_an_error CHECK (state <> 'failed' OR error IS NOT NULL)
);

CREATE UNIQUE INDEX transfers_identity ON transfers (flow, source, path, fingerprint, target, target_path);
CREATE UNIQUE INDEX transfers_one_per_place ON transfers (target, target_path) WHERE state = 'running';
CREATE INDEX transfers_ready ON transfers (ready_at, id) WHERE ready_at IS NOT NULL;
CREATE INDEX transfers_ready_by_flow ON transfers (flow, ready_at, id) WHERE ready_at IS NOT NULL;
CREATE INDEX transfers_state ON transfers (state, flow);
CREATE INDEX transfers_name ON transfers (name);

CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    transfer INTEGER NOT NULL REFERENCES transfers (id) ON DELETE CASCADE,
    at REAL NOT NULL,
    who TEXT NOT NULL,
    was TEXT,
    state TEXT NOT NULL,
    why TEXT NOT NULL
);

CREATE INDEX events_transfer ON events (transfer);

CREATE TRIGGER transfers_added AFTER INSERT ON transfers
BEGIN
    INSERT INTO events (transfer, at, who, was, state, why)
    VALUES (NEW.id, NEW.changed_at, NEW.changed_by, NULL, NEW.state, NEW.why);
END;

-- A new fence or the loss of an owner is a change too: claimed again, released, waiting for another try.
CREATE TRIGGER transfers_changed AFTER UPDATE OF state, fence, owner ON transfers
WHEN OLD.state <> NEW.state OR OLD.fence <> NEW.fence OR OLD.owner IS NOT NEW.owner
BEGIN
    INSERT INTO events (transfer, at, who, was, state, why)
    VALUES (NEW.id, NEW.changed_at, NEW.changed_by, OLD.state, NEW.state, NEW.why);
END;

CREATE TABLE sightings (
    flow TEXT NOT NULL,
    source TEXT NOT NULL,
    path TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    first_seen REAL NOT NULL,
    last_seen REAL NOT NULL,
    times INTEGER NOT NULL CHECK (times > 0),
    PRIMARY KEY (flow, source, path)
) WITHOUT ROWID;

-- When a source was last listed to its end.
CREATE TABLE looks (
    flow TEXT NOT NULL,
    source TEXT NOT NULL,
    completed_at REAL NOT NULL,
    PRIMARY KEY (flow, source)
) WITHOUT ROWID;
