-- What is under way when a later file of its path is delivered is known no more once it has ended, as what had ended
-- before: else it would keep its file, if that is put back, from being new to the destinations that have the later one.
ALTER TABLE transfers ADD COLUMN replaced BIGINT NOT NULL DEFAULT 0;

CREATE FUNCTION ledger_outdone() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- What another worker changes just now is passed over: neither waits for the other.
    WITH earlier AS MATERIALIZED (
        SELECT id FROM transfers
        WHERE flow = NEW.flow AND source = NEW.source AND path = NEW.path AND fingerprint <> NEW.fingerprint
          AND gone = 0 AND id < NEW.id
        FOR UPDATE SKIP LOCKED)
    UPDATE transfers AS t SET replaced = 1 FROM earlier WHERE t.id = earlier.id;
    RETURN NULL;
END
$$;

CREATE TRIGGER transfers_outdone AFTER UPDATE OF state ON transfers FOR EACH ROW
WHEN (OLD.state = 'running' AND NEW.state IN ('delivered', 'done') AND NEW.version IS NULL)
EXECUTE FUNCTION ledger_outdone();

CREATE FUNCTION ledger_outlived() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE transfers SET gone = 1 WHERE id = NEW.id;
    RETURN NULL;
END
$$;

CREATE TRIGGER transfers_outlived AFTER UPDATE OF state ON transfers FOR EACH ROW
WHEN (NEW.replaced = 1 AND NEW.gone = 0 AND NEW.state NOT IN ('pending', 'running'))
EXECUTE FUNCTION ledger_outlived();
