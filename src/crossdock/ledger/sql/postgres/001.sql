-- Times are seconds since 1970.

CREATE FUNCTION ledger_now() RETURNS DOUBLE PRECISION LANGUAGE sql STABLE
AS $$ SELECT CAST(extract(epoch FROM now()) AS DOUBLE PRECISION) $$;

CREATE TABLE transfers (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    flow TEXT COLLATE "C" NOT NULL,
    source TEXT COLLATE "C" NOT NULL,
    path TEXT COLLATE "C" NOT NULL,
    fingerprint TEXT COLLATE "C" NOT NULL,
    target TEXT COLLATE "C" NOT NULL,
    target_path TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    size BIGINT,
    modified TEXT COLLATE "C",
    etag TEXT COLLATE "C",
    version TEXT COLLATE "C",
    state TEXT COLLATE "C" NOT NULL
        CHECK (state IN ('pending', 'running', 'delivered', 'done', 'failed', 'cancelled', 'skipped')),
    attempts BIGINT NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    owed_attempts BIGINT NOT NULL DEFAULT 0 CHECK (owed_attempts >= 0),
    rescues BIGINT NOT NULL DEFAULT 0 CHECK (rescues >= 0),
    fence BIGINT NOT NULL DEFAULT 0 CHECK (fence >= 0),
    owner TEXT COLLATE "C",
    ready_at DOUBLE PRECISION,
    checkpoint BYTEA,
    receipt TEXT COLLATE "C",
    error TEXT COLLATE "C",
    why TEXT COLLATE "C" NOT NULL,
    changed_by TEXT COLLATE "C" NOT NULL,
    changed_at DOUBLE PRECISION NOT NULL,
    added_at DOUBLE PRECISION NOT NULL,
    seen_at DOUBLE PRECISION NOT NULL,
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
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transfer BIGINT NOT NULL REFERENCES transfers (id) ON DELETE CASCADE,
    at DOUBLE PRECISION NOT NULL,
    who TEXT COLLATE "C" NOT NULL,
    was TEXT COLLATE "C",
    state TEXT COLLATE "C" NOT NULL,
    why TEXT COLLATE "C" NOT NULL
);

CREATE INDEX events_transfer ON events (transfer);

CREATE FUNCTION ledger_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO events (transfer, at, who, was, state, why)
    VALUES (NEW.id, NEW.changed_at, NEW.changed_by, CASE WHEN TG_OP = 'UPDATE' THEN OLD.state END, NEW.state, NEW.why);
    RETURN NULL;
END
$$;

CREATE TRIGGER transfers_added AFTER INSERT ON transfers FOR EACH ROW EXECUTE FUNCTION ledger_note();

-- A new fence or the loss of an owner is a change too: claimed again, released, waiting for another try.
CREATE TRIGGER transfers_changed AFTER UPDATE ON transfers FOR EACH ROW
WHEN (OLD.state <> NEW.state OR OLD.fence <> NEW.fence OR OLD.owner IS DISTINCT FROM NEW.owner)
EXECUTE FUNCTION ledger_note();

CREATE TABLE sightings (
    flow TEXT COLLATE "C" NOT NULL,
    source TEXT COLLATE "C" NOT NULL,
    path TEXT COLLATE "C" NOT NULL,
    fingerprint TEXT COLLATE "C" NOT NULL,
    first_seen DOUBLE PRECISION NOT NULL,
    last_seen DOUBLE PRECISION NOT NULL,
    times BIGINT NOT NULL CHECK (times > 0),
    PRIMARY KEY (flow, source, path)
);

-- When a source was last listed to its end.
CREATE TABLE looks (
    flow TEXT COLLATE "C" NOT NULL,
    source TEXT COLLATE "C" NOT NULL,
    completed_at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (flow, source)
);
