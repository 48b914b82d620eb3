-- What is under way when a later file of its path is delivered is known no more once it has ended, as what had ended
-- before: else it would keep its file, if that is put back, from being new to the destinations that have the later one.
ALTER TABLE transfers ADD COLUMN replaced INTEGER NOT NULL DEFAULT 0;

CREATE TRIGGER transfers_outdone AFTER UPDATE OF state ON transfers
WHEN OLD.state = 'running' AND NEW.state IN ('delivered', 'done') AND NEW.version IS NULL
BEGIN
    UPDATE transfers SET replaced = 1
    WHERE flow = NEW.flow AND source = NEW.source AND path = NEW.path AND fingerprint <> NEW.fingerprint
      AND gone = 0 AND id < NEW.id;
END;

CREATE TRIGGER transfers_outlived AFTER UPDATE OF state ON transfers
WHEN NEW.replaced = 1 AND NEW.gone = 0 AND NEW.state NOT IN ('pending', 'running')
BEGIN
    UPDATE transfers SET gone = 1 WHERE id = NEW.id;
END;
