-- What was added lately, and what has a name at its target, is found without reading all of the ledger.
CREATE INDEX transfers_added ON transfers (added_at);
CREATE INDEX transfers_target_name ON transfers (substring(target_path FROM '[^/]*$'));
