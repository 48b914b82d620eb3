-- Queries that both databases understand. `:now` is the ledger's clock. One statement each; names start a query.

-- name: identity
SELECT id FROM ledger

-- name: add
INSERT INTO transfers (flow, source, path, fingerprint, target, target_path, name, size, modified, etag, version,
                       state, ready_at, why, changed_by, changed_at, added_at, seen_at)
VALUES (:flow, :source, :path, :fingerprint, :target, :target_path, :name, :size, :modified, :etag, :version,
        'pending', :now + :delay, :why, :who, :now, :now, :now)
ON CONFLICT (flow, source, path, fingerprint, target, target_path) WHERE gone = 0 DO NOTHING
RETURNING id

-- name: known
SELECT id FROM transfers
WHERE flow = :flow AND source = :source AND path = :path AND fingerprint = :fingerprint
  AND target = :target AND target_path = :target_path AND gone = 0

-- name: see
INSERT INTO sightings AS s (flow, source, path, fingerprint, first_seen, last_seen, times)
VALUES (:flow, :source, :path, :fingerprint, :now, :now, 1)
ON CONFLICT (flow, source, path) DO UPDATE SET
    -- A first sighting in the future: the clock was set back since.
    first_seen = CASE WHEN s.fingerprint = excluded.fingerprint AND s.first_seen <= excluded.first_seen
        THEN s.first_seen ELSE excluded.first_seen END,
    times = CASE WHEN s.fingerprint = excluded.fingerprint THEN s.times + 1 ELSE 1 END,
    last_seen = excluded.last_seen,
    fingerprint = excluded.fingerprint
RETURNING path, fingerprint, first_seen, last_seen, times

-- name: forget
DELETE FROM sightings WHERE flow = :flow AND source = :source AND path = :path

-- name: looked
INSERT INTO looks (flow, source, completed_at) VALUES (:flow, :source, :now)
ON CONFLICT (flow, source) DO UPDATE SET completed_at = excluded.completed_at

-- name: heartbeat
UPDATE transfers SET ready_at = CASE WHEN ready_at > :now + :seconds THEN ready_at ELSE :now + :seconds END
WHERE id = :id AND fence = :fence AND owner IS NOT NULL
RETURNING ready_at

-- name: staged
UPDATE transfers SET checkpoint = :checkpoint
WHERE id = :id AND fence = :fence AND state = 'running'
RETURNING id

-- name: delivered
UPDATE transfers
SET state = 'delivered', receipt = :receipt, checkpoint = NULL, error = NULL, owed_attempts = 1, rescues = 0,
    changed_at = :now, changed_by = owner, why = ''
WHERE id = :id AND fence = :fence AND state = 'running'
RETURNING id

-- name: delivered and done
UPDATE transfers
SET state = 'done', receipt = :receipt, checkpoint = NULL, error = NULL, owner = NULL, ready_at = NULL,
    changed_at = :now, changed_by = owner, why = 'nothing owed'
WHERE id = :id AND fence = :fence AND state = 'running'
RETURNING id

-- name: done
UPDATE transfers
SET state = 'done', owner = NULL, ready_at = NULL, error = NULL, changed_at = :now, changed_by = owner, why = :why
WHERE id = :id AND fence = :fence AND state = 'delivered' AND owner IS NOT NULL
RETURNING id

-- name: retry
UPDATE transfers
SET state = CASE WHEN state = 'running' THEN 'pending' ELSE state END, owner = NULL, ready_at = :now + :seconds,
    error = :error, rescues = 0, changed_at = :now, changed_by = owner, why = :error
WHERE id = :id AND fence = :fence AND owner IS NOT NULL
RETURNING id

-- name: released
UPDATE transfers
SET attempts = CASE WHEN state = 'running' THEN attempts - 1 ELSE attempts END,
    owed_attempts = CASE WHEN state = 'running' THEN owed_attempts ELSE owed_attempts - 1 END,
    state = CASE WHEN state = 'running' THEN 'pending' ELSE state END, owner = NULL, ready_at = :now + :seconds,
    changed_at = :now, changed_by = owner, why = :why
WHERE id = :id AND fence = :fence AND owner IS NOT NULL
RETURNING id

-- name: failed
UPDATE transfers
-- Nobody could try again what a later file of its path has replaced.
SET state = CASE WHEN replaced = 1 THEN 'skipped' ELSE 'failed' END, owner = NULL, ready_at = NULL, error = :error,
    changed_at = :now, changed_by = owner, why = :error
WHERE id = :id AND fence = :fence AND state = 'running'
RETURNING id

-- name: skipped
UPDATE transfers
SET state = 'skipped', owner = NULL, ready_at = NULL, changed_at = :now, changed_by = owner, why = :why
WHERE id = :id AND fence = :fence AND state = 'running'
RETURNING id

-- name: cancel
UPDATE transfers
SET state = 'cancelled', owner = NULL, ready_at = NULL, fence = fence + 1,
    changed_at = :now, changed_by = :who, why = :why
WHERE id = :id AND state IN ('pending', 'running', 'failed')
RETURNING id

-- name: requeue
UPDATE transfers
SET state = CASE WHEN state = 'delivered' THEN state ELSE 'pending' END, ready_at = :now, attempts = 0,
    owed_attempts = 0, rescues = 0, fence = fence + 1, changed_at = :now, changed_by = :who, why = :why
WHERE id = :id AND owner IS NULL AND state <> 'done' AND (gone = 0 OR state = 'delivered')
RETURNING id

-- name: skip
UPDATE transfers
SET state = 'skipped', ready_at = NULL, changed_at = :now, changed_by = :who, why = :why
WHERE id = :id AND state = 'pending'
RETURNING id

-- name: supersede
-- Who asks sweeps what was staged: were it still told of, its being gone would look as if it had been published.
UPDATE transfers
SET state = 'skipped', ready_at = NULL, checkpoint = NULL, changed_at = :now, changed_by = :who, why = :why
WHERE state = 'pending' AND id IN (
    SELECT o.id FROM transfers AS t JOIN transfers AS o
        ON o.flow = t.flow AND o.source = t.source AND o.path = t.path
        AND o.target = t.target AND o.target_path = t.target_path AND o.id < t.id AND o.gone = 0
    WHERE t.id = :id)
RETURNING id

-- name: get
SELECT * FROM transfers WHERE id = :id

-- name: siblings
SELECT * FROM transfers WHERE id IN (
    SELECT id FROM transfers WHERE id = :id
    UNION SELECT o.id FROM transfers AS t JOIN transfers AS o
        ON o.flow = t.flow AND o.source = t.source AND o.path = t.path AND o.fingerprint = t.fingerprint AND o.gone = 0
    WHERE t.id = :id)
ORDER BY id

-- name: history
SELECT transfer, at, who, was, state, why FROM events WHERE transfer = :id ORDER BY id

-- name: page
SELECT * FROM transfers WHERE id > :after ORDER BY id LIMIT :limit

-- name: counts
SELECT flow, state, count(*) AS number FROM transfers GROUP BY flow, state

-- name: prune
DELETE FROM transfers WHERE id IN (
    SELECT t.id FROM transfers AS t LEFT JOIN looks AS l ON l.flow = t.flow AND l.source = t.source
    WHERE t.id > :after AND t.ready_at IS NULL AND t.state <> 'failed' AND t.changed_at < :now - :seconds
      AND (l.completed_at IS NULL OR t.gone = 1 OR t.seen_at < l.completed_at - :seconds)
    ORDER BY t.id LIMIT :limit)
RETURNING id

-- name: prune sightings
DELETE FROM sightings WHERE last_seen < :now - :seconds RETURNING path

-- name: mark
INSERT INTO marks (flow, kind, key, at, due, value) VALUES (:flow, :kind, :key, :now, :due, :value)
ON CONFLICT (flow, kind, key) DO NOTHING
RETURNING key

-- name: marks
SELECT key, at, due, value FROM marks
WHERE flow = :flow AND kind = :kind AND key > :after
ORDER BY key LIMIT :limit

-- What is due is looked for by its time, not among all keys in their order.

-- name: due marks
WITH due AS MATERIALIZED (
    SELECT key, at, due, value FROM marks WHERE flow = :flow AND kind = :kind AND due < :due_before)
SELECT key, at, due, value FROM due WHERE key > :after ORDER BY key LIMIT :limit

-- name: unmark
DELETE FROM marks WHERE flow = :flow AND kind = :kind AND key = :key

-- The last of its kind stays: it tells that the flow has done this before, and when.

-- name: prune marks
DELETE FROM marks WHERE at < :now - :seconds AND due IS NULL
  AND (flow, kind, at) NOT IN (SELECT flow, kind, max(at) FROM marks GROUP BY flow, kind)
RETURNING key
