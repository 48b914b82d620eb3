-- What another worker changes in this very moment is waited for: it would end without the mark, or be passed over by
-- `transfers_replaced`, which comes next, and keep its file, if that is put back, from being new. The latest goes first:
-- each holds its own already, and so two that wait for each other's are none.
CREATE OR REPLACE FUNCTION ledger_outdone() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    WITH earlier AS MATERIALIZED (
        SELECT id FROM transfers
        WHERE flow = NEW.flow AND source = NEW.source AND path = NEW.path AND fingerprint <> NEW.fingerprint
          AND gone = 0 AND id < NEW.id
        ORDER BY id DESC FOR UPDATE)
    UPDATE transfers AS t SET replaced = 1 FROM earlier WHERE t.id = earlier.id;
    RETURN NULL;
END
$$;
