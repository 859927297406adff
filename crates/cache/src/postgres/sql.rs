//! Every statement of the tier and of the line, each complete in one round trip.
//! Refuses to build anything from keys or values: those are parameters. Only the names of the schema and
//! of its channel stand in the text. Called by `session`, which prepares them, and by `PostgresTier`.

use crate::FLOOR_LIFE;

/// Announcements that are kept for replay, per cache: minutes of a busy one.
pub(super) const LOG_MAX: u32 = 4_096;

/// Sweeps by tag that are kept per cache. The oldest eighth goes when there are more, and what is
/// older is void for entries with any tag.
const TAGS_MAX: u32 = 16_384;

/// Sweeps by prefix that are kept per cache; the oldest becomes a sweep of everything with its number.
const PREFIXES_MAX: u32 = 64;

/// What makes the schema, or completes it.
pub(super) fn schema_sql(schema: &str) -> String {
    let floor_life_ms = u32::try_from(FLOOR_LIFE.as_millis()).unwrap_or(u32::MAX);
    let numbers = [
        ("{log_max}", LOG_MAX),
        ("{tags_max}", TAGS_MAX),
        ("{prefixes_max}", PREFIXES_MAX),
        ("{floor_life_ms}", floor_life_ms),
    ];
    let mut sql = include_str!("schema.sql").replace("{channel}", schema);
    for (name, number) in numbers {
        sql = sql.replace(name, &number.to_string());
    }
    fill(&sql, schema)
}

/// The statement about this schema, whose name is a plain word.
pub(super) fn fill(sql: &str, schema: &str) -> String {
    sql.replace("{schema}", &format!("\"{schema}\"")).replace("{refused}", REFUSED).replace("{kept}", KEPT)
}

/// The channel has the name of the schema.
pub(super) fn listen(schema: &str) -> String {
    format!("LISTEN \"{schema}\"")
}

/// Values. Parameters: cache, keys.
pub(super) const READ: &str = "\
SELECT w.ord, r.payload, floor(extract(epoch FROM r.expires_at - now()) * 1000)::bigint \
FROM unnest($2::bytea[]) WITH ORDINALITY AS w (key, ord) \
JOIN {schema}.records r ON r.cache = $1 AND r.key = w.key \
WHERE r.is_value AND r.expires_at > now()";

/// What there is of a key that has no value: floor, whether it is claimed, payload, ms left of it. Parameters: cache, key.
pub(super) const INSPECT: &str = "\
SELECT CASE WHEN r.floor_until > now() THEN r.floor END, coalesce(r.lease_until > now(), false), \
  CASE WHEN r.expires_at > now() THEN r.payload END, \
  floor(extract(epoch FROM r.expires_at - now()) * 1000)::bigint \
FROM {schema}.records r \
WHERE r.cache = $1 AND r.key = $2 AND NOT coalesce(r.is_value AND r.expires_at > now(), false)";

/// Values, and claims of what is none. Parameters: cache, keys, token, lease in ms, over (0 nothing, 1 value,
/// 2 poison, 3 ahead). Answers for each key: what was found (0 value, 1 claimed, 2 held, 3 changed meanwhile), floor,
/// payload, ms left of it. Rows are touched only where a claim is possible, in the order of their keys.
pub(super) const CLAIM: &str = "\
WITH seen AS MATERIALIZED (\
  SELECT w.ord, w.key, r.payload, r.expires_at, \
    coalesce(r.is_value AND r.expires_at > now(), false) AS is_value, \
    coalesce(r.lease_until > now(), false) AS is_claimed, \
    coalesce(r.lease_until > now() AND r.token = $3, false) AS is_own, \
    CASE WHEN r.floor_until > now() THEN r.floor END AS floor \
  FROM unnest($2::bytea[]) WITH ORDINALITY AS w (key, ord) \
  LEFT JOIN {schema}.records r ON r.cache = $1 AND r.key = w.key\
), claimed AS (\
  INSERT INTO {schema}.records AS r (cache, key, floor, floor_until, token, lease_until, is_value, dead_at) \
  SELECT $1, key, (-9223372036854775808)::bigint, now(), $3::bigint, \
    now() + $4::bigint * interval '1 ms', false, now() + $4::bigint * interval '1 ms' \
  FROM seen WHERE NOT is_claimed AND (NOT is_value OR $5::smallint > 0) ORDER BY key \
  ON CONFLICT (cache, key) DO UPDATE SET \
    token = excluded.token, lease_until = excluded.lease_until, \
    is_value = $5::smallint = 3 AND coalesce(r.is_value AND r.expires_at > now(), false), \
    payload = CASE WHEN $5::smallint <> 2 AND r.expires_at > now() THEN r.payload END, \
    expires_at = CASE WHEN $5::smallint <> 2 AND r.expires_at > now() THEN r.expires_at END, \
    dead_at = greatest(r.dead_at, excluded.lease_until) \
  WHERE coalesce(r.lease_until <= now(), true) \
    AND ($5::smallint > 0 OR NOT coalesce(r.is_value AND r.expires_at > now(), false)) \
  RETURNING r.key, CASE WHEN r.floor_until > now() THEN r.floor END AS floor, r.payload, r.expires_at\
), memory AS MATERIALIZED (\
  SELECT {schema}.is_forgetful() AS is_forgetful\
) \
SELECT s.ord, \
  (CASE WHEN c.key IS NOT NULL THEN 1 WHEN s.is_value AND $5::smallint = 0 THEN 0 \
        WHEN s.is_own THEN 1 WHEN s.is_claimed THEN 2 ELSE 3 END)::smallint, \
  CASE WHEN m.is_forgetful THEN 9223372036854775807 WHEN c.key IS NULL THEN s.floor ELSE c.floor END, \
  CASE WHEN c.key IS NOT NULL THEN c.payload WHEN s.expires_at > now() THEN s.payload END, \
  floor(extract(epoch FROM CASE WHEN c.key IS NULL THEN s.expires_at ELSE c.expires_at END - now()) * 1000)::bigint \
FROM seen s CROSS JOIN memory m LEFT JOIN claimed c ON c.key = s.key";

/// Exchanges claims. Parameters: cache, keys, tokens, kinds (0 value, 1 extend, 2 release, 3 outdate), payloads,
/// lives in ms. Gives the places of those that stood.
pub(super) const SETTLE: &str = "\
WITH locked AS MATERIALIZED (\
  SELECT r.key FROM {schema}.records r WHERE r.cache = $1 AND r.key = ANY ($2::bytea[]) ORDER BY r.key FOR UPDATE\
), settled AS (\
  UPDATE {schema}.records r SET \
    token = NULL, lease_until = NULL, \
    is_value = a.kind = 0 OR (a.kind = 1 AND coalesce(r.expires_at > now(), false)) \
      OR (a.kind = 2 AND coalesce(r.is_value AND r.expires_at > now(), false)), \
    payload = CASE WHEN a.kind = 0 THEN a.payload ELSE r.payload END, \
    expires_at = CASE WHEN a.kind = 0 OR (a.kind = 1 AND r.expires_at > now()) \
      THEN now() + a.life_ms * interval '1 ms' ELSE r.expires_at END, \
    dead_at = greatest(r.floor_until, CASE WHEN a.kind >= 2 THEN r.expires_at \
      ELSE now() + a.life_ms * interval '1 ms' END) \
  FROM locked l JOIN unnest($2::bytea[], $3::bigint[], $4::smallint[], $5::bytea[], $6::bigint[]) \
    WITH ORDINALITY AS a (key, token, kind, payload, life_ms, ord) ON a.key = l.key \
  WHERE r.cache = $1 AND r.key = l.key AND r.token = a.token AND r.lease_until > now() \
  RETURNING a.ord, r.is_value OR a.kind >= 2 AS stood\
) \
SELECT ord FROM settled WHERE stood";

/// Voids. Parameters: cache, keys, versions, marks (NULL removes, 0 expires), life of floors in ms. The mark
/// travels as a token: without a lease that means nothing, and a row to be updated sees it.
pub(super) const VOID: &str = "\
INSERT INTO {schema}.records AS r (cache, key, floor, floor_until, token, is_value, dead_at) \
SELECT $1, v.key, v.version, now() + $5::bigint * interval '1 ms', v.mark, false, \
  now() + $5::bigint * interval '1 ms' \
FROM unnest($2::bytea[], $3::bigint[], $4::bigint[]) AS v (key, version, mark) ORDER BY v.key \
ON CONFLICT (cache, key) DO UPDATE SET \
  floor = CASE WHEN r.floor_until > now() THEN greatest(r.floor, excluded.floor) ELSE excluded.floor END, \
  floor_until = excluded.floor_until, token = NULL, lease_until = NULL, is_value = false, \
  payload = CASE WHEN excluded.token = 0 AND r.expires_at > now() THEN r.payload END, \
  expires_at = CASE WHEN excluded.token = 0 AND r.expires_at > now() THEN r.expires_at END, \
  dead_at = greatest(excluded.dead_at, CASE WHEN excluded.token = 0 THEN r.expires_at END)";

/// Puts. Parameters: cache, keys, versions, payloads, lives in ms, life of floors in ms. Gives the places of
/// those that were not too old. A row that is no value tells one to be updated that floors may have been
/// forgotten: it is voided. What is refused (the floor of the row is above its own) takes a fallback away.
pub(super) const PUT: &str = "\
WITH asked AS (\
  SELECT * FROM unnest($2::bytea[], $3::bigint[], $4::bytea[], $5::bigint[]) \
    WITH ORDINALITY AS a (key, version, payload, life_ms, ord)\
), memory AS MATERIALIZED (\
  SELECT NOT {schema}.is_forgetful() AS is_sound\
), put AS (\
  INSERT INTO {schema}.records AS r (cache, key, floor, floor_until, is_value, payload, expires_at, dead_at) \
  SELECT $1, a.key, a.version, now() + f.floor_ms * interval '1 ms', m.is_sound, \
    CASE WHEN m.is_sound THEN a.payload END, \
    CASE WHEN m.is_sound THEN now() + a.life_ms * interval '1 ms' END, \
    now() + greatest(f.floor_ms, a.life_ms) * interval '1 ms' \
  FROM asked a CROSS JOIN memory m CROSS JOIN LATERAL (SELECT CASE \
    WHEN a.version = 9223372036854775807 THEN $6::bigint ELSE greatest($6::bigint, a.life_ms) END AS floor_ms) f \
  ORDER BY a.key \
  ON CONFLICT (cache, key) DO UPDATE SET \
    floor = CASE WHEN r.floor_until > now() THEN greatest(r.floor, excluded.floor) ELSE excluded.floor END, \
    floor_until = CASE WHEN {refused} THEN r.floor_until ELSE excluded.floor_until END, \
    token = CASE WHEN {kept} THEN r.token END, \
    lease_until = CASE WHEN {kept} THEN r.lease_until END, \
    is_value = CASE WHEN {kept} THEN r.is_value WHEN {refused} THEN false ELSE excluded.is_value END, \
    payload = CASE WHEN {kept} THEN r.payload WHEN NOT {refused} THEN excluded.payload END, \
    expires_at = CASE WHEN {kept} THEN r.expires_at WHEN NOT {refused} THEN excluded.expires_at END, \
    dead_at = CASE WHEN {refused} THEN r.dead_at ELSE excluded.dead_at END \
  RETURNING r.key, r.floor, r.is_value\
) \
SELECT a.ord FROM asked a JOIN put p ON p.key = a.key AND p.floor = a.version AND p.is_value";

/// A put is refused: something newer is known, and floors are.
const REFUSED: &str = "(excluded.is_value AND r.floor_until > now() AND r.floor > excluded.floor)";

/// It is refused, and there is nothing that it would have to take away: no fallback, and no value that came after a change
/// without a number, of which it cannot be told which of the two is newer.
const KEPT: &str = "(excluded.is_value AND r.floor_until > now() AND r.floor > excluded.floor \
  AND r.floor < 9223372036854775807 AND (r.is_value OR NOT coalesce(r.expires_at > now(), false)))";

/// Takes away rows of which nothing counts any more. Parameter: how many at most. Rows that somebody else
/// is at are left to the next time.
pub(super) const PRUNE: &str = "\
DELETE FROM {schema}.records WHERE ctid = ANY (ARRAY(\
  SELECT ctid FROM {schema}.records WHERE dead_at < now() ORDER BY dead_at LIMIT $1 FOR UPDATE SKIP LOCKED))";

/// Parameter: cache.
pub(super) const ATTACH: &str = "SELECT * FROM {schema}.attach($1)";

/// Parameters: cache, body, kinds, names and ways of its sweeps.
pub(super) const ANNOUNCE: &str = "SELECT * FROM {schema}.announce($1, $2, $3, $4, $5)";

/// As `ANNOUNCE`.
pub(super) const ANNOUNCE_AT_COMMIT: &str = "SELECT {schema}.announce_at_commit($1, $2, $3, $4, $5)";

/// Parameters: cache, body.
pub(super) const PULSE: &str = "SELECT * FROM {schema}.pulse($1, $2)";

/// Parameters: cache, incarnation, sequence, most rows. Where the order stands, and what came after; no row if
/// the incarnation is over. One snapshot shows both.
pub(super) const REPLAY: &str = "\
SELECT m.sequence, l.sequence, l.body FROM {schema}.marks m \
JOIN {schema}.witness w ON w.cache = m.cache AND w.incarnation = m.incarnation AND w.life = {schema}.life() \
LEFT JOIN {schema}.log l ON l.cache = m.cache AND l.sequence > $3 \
WHERE m.cache = $1 AND m.incarnation = $2 ORDER BY l.sequence LIMIT $4";

/// Parameters: cache, incarnation, sequence.
pub(super) const BODY: &str = "\
SELECT l.body FROM {schema}.log l JOIN {schema}.marks m ON m.cache = l.cache \
WHERE l.cache = $1 AND m.incarnation = $2 AND l.sequence = $3";
