-- Another file has its name, and was delivered: one that comes back as it was, is new. A version has its name to itself.
CREATE TRIGGER transfers_replaced AFTER UPDATE OF state ON transfers
WHEN OLD.state = 'running' AND NEW.state IN ('delivered', 'done') AND NEW.version IS NULL
BEGIN
    -- What an attempt has left somewhere is tried once more, to be swept.
    UPDATE transfers
    SET state = 'skipped', ready_at = NULL, changed_at = NEW.changed_at, changed_by = NEW.changed_by,
        why = 'superseded by transfer ' || NEW.id
    WHERE flow = NEW.flow AND source = NEW.source AND path = NEW.path AND fingerprint <> NEW.fingerprint
      -- With a plus, or the index over states would be read: all that the flow has pending.
      AND gone = 0 AND id < NEW.id AND +state IN ('pending', 'failed') AND checkpoint IS NULL AND rescues = 0;
    UPDATE transfers SET gone = 1
    WHERE flow = NEW.flow AND source = NEW.source AND path = NEW.path AND fingerprint <> NEW.fingerprint
      AND gone = 0 AND id < NEW.id AND state NOT IN ('pending', 'running');
    -- If this is the earlier one, delivered late, another destination may hold the later one.
    UPDATE transfers SET gone = 1
    WHERE id = NEW.id AND EXISTS (
        SELECT 1 FROM transfers AS o
        WHERE o.flow = NEW.flow AND o.source = NEW.source AND o.path = NEW.path AND o.fingerprint <> NEW.fingerprint
          AND o.gone = 0 AND o.id > NEW.id AND +o.state IN ('delivered', 'done'));
END;
