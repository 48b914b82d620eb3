-- Another file has its name, and was delivered: one that comes back as it was, is new. A version has its name to itself.
CREATE FUNCTION ledger_replaced() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- What another worker changes just now is passed over: neither waits for the other. What an attempt has left
    -- somewhere is tried once more, to be swept.
    WITH earlier AS MATERIALIZED (
        SELECT id, state = 'pending' OR (state = 'failed' AND checkpoint IS NULL AND rescues = 0) AS skips
        FROM transfers
        WHERE flow = NEW.flow AND source = NEW.source AND path = NEW.path AND fingerprint <> NEW.fingerprint
          AND gone = 0 AND id < NEW.id AND state <> 'running'
          AND (state <> 'pending' OR (checkpoint IS NULL AND rescues = 0))
        FOR UPDATE SKIP LOCKED)
    UPDATE transfers AS t
    SET gone = 1, state = CASE WHEN skips THEN 'skipped' ELSE t.state END,
        ready_at = CASE WHEN skips THEN NULL ELSE t.ready_at END,
        changed_at = CASE WHEN skips THEN NEW.changed_at ELSE t.changed_at END,
        changed_by = CASE WHEN skips THEN NEW.changed_by ELSE t.changed_by END,
        why = CASE WHEN skips THEN 'superseded by transfer ' || NEW.id ELSE t.why END
    FROM earlier WHERE t.id = earlier.id;
    -- If this is the earlier one, delivered late, another destination may hold the later one.
    IF EXISTS (
        SELECT 1 FROM transfers
        WHERE flow = NEW.flow AND source = NEW.source AND path = NEW.path AND fingerprint <> NEW.fingerprint
          AND gone = 0 AND id > NEW.id AND state IN ('delivered', 'done'))
    THEN
        WITH same AS MATERIALIZED (
            SELECT id FROM transfers
            WHERE flow = NEW.flow AND source = NEW.source AND path = NEW.path AND fingerprint = NEW.fingerprint
              AND gone = 0 AND (id = NEW.id OR state NOT IN ('pending', 'running'))
            FOR UPDATE SKIP LOCKED)
        UPDATE transfers AS t SET gone = 1 FROM same WHERE t.id = same.id;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER transfers_replaced AFTER UPDATE OF state ON transfers FOR EACH ROW
WHEN (OLD.state = 'running' AND NEW.state IN ('delivered', 'done') AND NEW.version IS NULL)
EXECUTE FUNCTION ledger_replaced();
