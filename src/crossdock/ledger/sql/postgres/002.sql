-- Which ledger this is, for what is told to others.
CREATE TABLE ledger (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    id TEXT COLLATE "C" NOT NULL CHECK (length(id) = 16)
);

INSERT INTO ledger VALUES (1, substr(encode(sha256(CAST(
    CAST(random() AS TEXT) || CAST(clock_timestamp() AS TEXT) || CAST(txid_current() AS TEXT) || current_schema()
    AS BYTEA)), 'hex'), 1, 16));

-- Our own action took the file away: its identity is free.
ALTER TABLE transfers ADD COLUMN gone BIGINT NOT NULL DEFAULT 0
    CONSTRAINT gone_is_delivered_or_ended CHECK (gone = 0 OR (gone = 1 AND state NOT IN ('pending', 'running')));

DROP INDEX transfers_identity;
CREATE UNIQUE INDEX transfers_identity ON transfers (flow, source, path, fingerprint, target, target_path)
WHERE gone = 0;

-- A file is gone for all its destinations at once.
CREATE FUNCTION ledger_gone() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE transfers SET gone = 1
    WHERE flow = NEW.flow AND source = NEW.source AND path = NEW.path AND fingerprint = NEW.fingerprint
      AND gone = 0 AND state NOT IN ('pending', 'running');
    RETURN NULL;
END
$$;

-- What the update above changes needs no further one.
CREATE TRIGGER transfers_gone AFTER UPDATE OF gone ON transfers FOR EACH ROW
WHEN (NEW.gone = 1 AND OLD.gone = 0 AND pg_trigger_depth() = 0)
EXECUTE FUNCTION ledger_gone();

CREATE TABLE marks (
    flow TEXT COLLATE "C" NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    at DOUBLE PRECISION NOT NULL,
    due DOUBLE PRECISION,
    value TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (flow, kind, key)
);

CREATE INDEX marks_due ON marks (flow, kind, due) WHERE due IS NOT NULL;
