-- Queries in SQLite's own words.

-- `claim` follows one of the two lists of candidates.

-- name: candidates
WITH candidates AS (
    SELECT t.id, t.target, t.target_path, t.rescues + (t.owner IS NOT NULL) AS deaths FROM transfers AS t
    WHERE t.ready_at <= :now
      AND t.target NOT IN (SELECT value FROM json_each(:without))
      AND t.source NOT IN (SELECT value FROM json_each(:without))
      AND (t.state <> 'pending' OR NOT EXISTS (
        SELECT 1 FROM transfers AS o
        WHERE o.target = t.target AND o.target_path = t.target_path AND o.state = 'running'))
    ORDER BY t.ready_at, t.id LIMIT :limit)

-- name: candidates of flows
WITH candidates AS (
    SELECT t.id, t.target, t.target_path, t.rescues + (t.owner IS NOT NULL) AS deaths
    FROM json_each(:flows) AS f JOIN transfers AS t ON t.id IN (
        SELECT c.id FROM transfers AS c
        WHERE c.flow = f.value AND c.ready_at <= :now
          AND c.target NOT IN (SELECT value FROM json_each(:without))
          AND c.source NOT IN (SELECT value FROM json_each(:without))
          AND (c.state <> 'pending' OR NOT EXISTS (
            SELECT 1 FROM transfers AS o
            WHERE o.target = c.target AND o.target_path = c.target_path AND o.state = 'running'))
        ORDER BY c.ready_at, c.id LIMIT :limit)
    ORDER BY t.ready_at, t.id LIMIT :limit)

-- name: claim
-- What has ended two workers is given alone: what else is at a worker that it ends would be suspected too.
, chosen AS (SELECT id, deaths FROM candidates WHERE id IN (SELECT min(id) FROM candidates GROUP BY target, target_path))
UPDATE transfers SET
    state = CASE WHEN state = 'delivered' THEN state
                 WHEN owner IS NULL OR rescues < :max_rescues THEN 'running'
                 WHEN replaced = 1 THEN 'skipped' ELSE 'failed' END,
    fence = fence + 1,
    attempts = attempts + (state <> 'delivered' AND (owner IS NULL OR rescues < :max_rescues)),
    owed_attempts = owed_attempts + (state = 'delivered' AND (owner IS NULL OR rescues < :max_rescues)),
    rescues = CASE WHEN owner IS NULL THEN rescues
                   WHEN state = 'delivered' AND rescues >= :max_rescues THEN 0 ELSE rescues + 1 END,
    error = CASE WHEN owner IS NOT NULL AND rescues >= :max_rescues THEN :poison ELSE error END,
    why = CASE WHEN owner IS NULL THEN 'claimed' WHEN rescues >= :max_rescues THEN :poison
               ELSE 'rescued: the lease of ' || owner || ' ended' END,
    ready_at = CASE WHEN owner IS NULL OR rescues < :max_rescues THEN :now + :lease
                    WHEN state = 'delivered' THEN :now + :parked ELSE NULL END,
    owner = CASE WHEN owner IS NULL OR rescues < :max_rescues THEN :owner ELSE NULL END,
    changed_at = :now,
    changed_by = :owner
WHERE id IN (SELECT id FROM chosen)
  AND id = coalesce((SELECT min(id) FROM chosen WHERE deaths BETWEEN 2 AND :max_rescues), id)
RETURNING *

-- name: put off
UPDATE transfers SET ready_at = :now + :seconds, why = :why
WHERE id IN (
    SELECT t.id FROM transfers AS t
    WHERE t.flow = :flow AND t.target = :target AND t.state = 'pending' AND t.ready_at <= :now
    ORDER BY t.ready_at, t.id LIMIT :limit)
RETURNING id

-- name: known file
SELECT max(id) AS id, min(seen_at) AS seen_at FROM transfers
WHERE flow = :flow AND source = :source AND path = :path AND fingerprint = :fingerprint AND gone = 0

-- name: seen
UPDATE transfers SET seen_at = :now
WHERE flow = :flow AND source = :source AND path = :path AND fingerprint = :fingerprint AND gone = 0

-- name: overwriting
UPDATE transfers SET gone = (id <> :id)
WHERE id IN (
    SELECT o.id FROM transfers AS t JOIN transfers AS o
        ON o.flow = t.flow AND o.source = t.source AND o.path = t.path AND o.gone = 0
    WHERE t.id = :id AND t.fence = :fence AND t.state = 'running'
      AND (o.id = t.id OR (o.target = t.target AND o.target_path = t.target_path
        AND o.fingerprint <> t.fingerprint AND +o.state IN ('delivered', 'done'))))
RETURNING id

-- name: done and gone
UPDATE transfers
SET state = 'done', gone = 1, owner = NULL, ready_at = NULL, error = NULL, changed_at = :now, changed_by = owner,
    why = :why
WHERE id = :id AND fence = :fence AND state = 'delivered' AND owner IS NOT NULL
RETURNING id
