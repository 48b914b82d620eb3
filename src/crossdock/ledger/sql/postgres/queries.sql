-- Queries in PostgreSQL's own words. `ledger_now()` stands for `:now` here.

-- `claim` follows one of the two lists of candidates; what another claim has locked is passed over.

-- name: candidates
WITH candidates AS MATERIALIZED (
    SELECT t.id, t.target, t.target_path, t.rescues + CAST(t.owner IS NOT NULL AS int) AS deaths FROM transfers AS t
    WHERE t.ready_at <= :now
      AND t.target <> ALL (CAST(:without AS text[])) AND t.source <> ALL (CAST(:without AS text[]))
      AND (t.state <> 'pending' OR NOT EXISTS (
        SELECT 1 FROM transfers AS o
        WHERE o.target = t.target AND o.target_path = t.target_path AND o.state = 'running'))
    ORDER BY t.ready_at, t.id LIMIT :limit FOR UPDATE OF t SKIP LOCKED)

-- name: candidates of flows
WITH candidates AS MATERIALIZED (
    SELECT c.id, c.target, c.target_path, c.deaths
    FROM unnest(CAST(:flows AS text[])) AS f (flow) CROSS JOIN LATERAL (
        SELECT t.id, t.target, t.target_path, t.ready_at, t.rescues + CAST(t.owner IS NOT NULL AS int) AS deaths
        FROM transfers AS t
        WHERE t.flow = f.flow AND t.ready_at <= :now
          AND t.target <> ALL (CAST(:without AS text[])) AND t.source <> ALL (CAST(:without AS text[]))
          AND (t.state <> 'pending' OR NOT EXISTS (
            SELECT 1 FROM transfers AS o
            WHERE o.target = t.target AND o.target_path = t.target_path AND o.state = 'running'))
        ORDER BY t.ready_at, t.id LIMIT :limit FOR UPDATE OF t SKIP LOCKED) AS c
    ORDER BY c.ready_at, c.id LIMIT :limit)

-- name: claim
-- What has ended two workers is given alone: what else is at a worker that it ends would be suspected too.
, chosen AS (SELECT id, deaths FROM candidates WHERE id IN (SELECT min(id) FROM candidates GROUP BY target, target_path))
UPDATE transfers SET
    state = CASE WHEN state = 'delivered' THEN state
                 WHEN owner IS NULL OR rescues < :max_rescues THEN 'running'
                 WHEN replaced = 1 THEN 'skipped' ELSE 'failed' END,
    fence = fence + 1,
    attempts = attempts
        + CASE WHEN state <> 'delivered' AND (owner IS NULL OR rescues < :max_rescues) THEN 1 ELSE 0 END,
    owed_attempts = owed_attempts
        + CASE WHEN state = 'delivered' AND (owner IS NULL OR rescues < :max_rescues) THEN 1 ELSE 0 END,
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
WITH others AS MATERIALIZED (
    SELECT t.id FROM transfers AS t
    WHERE t.flow = :flow AND t.target = :target AND t.state = 'pending' AND t.ready_at <= :now
    ORDER BY t.ready_at, t.id LIMIT :limit FOR UPDATE OF t SKIP LOCKED)
UPDATE transfers SET ready_at = :now + :seconds, why = :why
WHERE id IN (SELECT id FROM others)
RETURNING id

-- name: known files
SELECT f.number, min(t.seen_at) < :now - :fresh AS stale
FROM unnest(CAST(:paths AS text[]), CAST(:fingerprints AS text[])) WITH ORDINALITY AS f (path, fingerprint, number)
JOIN transfers AS t
    ON t.flow = :flow AND t.source = :source AND t.path = f.path AND t.fingerprint = f.fingerprint AND t.gone = 0
GROUP BY f.number

-- name: seen
UPDATE transfers AS t SET seen_at = :now
FROM unnest(CAST(:paths AS text[]), CAST(:fingerprints AS text[])) AS f (path, fingerprint)
WHERE t.flow = :flow AND t.source = :source AND t.path = f.path AND t.fingerprint = f.fingerprint
  AND t.gone = 0 AND t.seen_at < :now - :fresh

-- Rows of one file are locked in one order, the latest first: of two that change them, neither waits for ever.

-- name: overwriting
WITH file AS MATERIALIZED (
    SELECT o.id, o.target = t.target AND o.target_path = t.target_path AS there
    FROM transfers AS t JOIN transfers AS o
        ON o.flow = t.flow AND o.source = t.source AND o.path = t.path AND o.gone = 0
    WHERE t.id = :id AND t.fence = :fence AND t.state = 'running'
      AND (o.id = t.id OR (o.fingerprint <> t.fingerprint AND o.state NOT IN ('pending', 'running')))
    ORDER BY o.id DESC FOR UPDATE OF o)
UPDATE transfers SET gone = CASE WHEN id = :id THEN 0 ELSE 1 END
WHERE id IN (SELECT id FROM file WHERE there) AND (id = :id OR state IN ('delivered', 'done'))
RETURNING id

-- name: done and gone
WITH file AS MATERIALIZED (
    SELECT o.id FROM transfers AS t JOIN transfers AS o
        ON o.flow = t.flow AND o.source = t.source AND o.path = t.path AND o.fingerprint = t.fingerprint AND o.gone = 0
    WHERE t.id = :id ORDER BY o.id DESC FOR UPDATE OF o)
UPDATE transfers
SET state = 'done', gone = 1, owner = NULL, ready_at = NULL, error = NULL, changed_at = :now, changed_by = owner,
    why = :why
WHERE id = :id AND fence = :fence AND state = 'delivered' AND owner IS NOT NULL
  AND (SELECT count(*) FROM file) >= 0
RETURNING id
