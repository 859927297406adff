-- Tables and functions of the cache in one schema of their own. Can be run again at any time: it changes
-- nothing that is there. Versions are kept as bigint in their own order (version - 2^63), so that
-- the least bigint means "none" and comparing needs no casts. All times are the server's.

CREATE SCHEMA IF NOT EXISTS {schema};

-- The records of the table tier, one per key. Unlogged: it costs no WAL, and after a crash it is empty,
-- which a tier may be at any time. A claimed record that is a value is loaded ahead of time, and read meanwhile; what any
-- other claimed record holds is a fallback. Nothing of a row counts any more from `dead_at` on.
CREATE UNLOGGED TABLE IF NOT EXISTS {schema}.records (
    cache       text        NOT NULL,
    key         bytea       NOT NULL,
    floor       bigint      NOT NULL,
    floor_until timestamptz NOT NULL,
    token       bigint,
    lease_until timestamptz,
    is_value    boolean     NOT NULL,
    payload     bytea,
    expires_at  timestamptz,
    dead_at     timestamptz NOT NULL,
    PRIMARY KEY (cache, key)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.05);

-- What is worth compressing is compressed already.
ALTER TABLE {schema}.records ALTER COLUMN payload SET STORAGE EXTERNAL;

CREATE INDEX IF NOT EXISTS records_dead_at ON {schema}.records (dead_at);

-- Where the order of announcements stands, per cache. Announcers queue at its row, and hold it until
-- their commit: so numbers have no gaps and commits have the order of their numbers.
CREATE TABLE IF NOT EXISTS {schema}.marks (
    cache              text   PRIMARY KEY,
    incarnation        bigint NOT NULL,
    sequence           bigint NOT NULL,
    forgotten_sequence bigint NOT NULL,
    tags               bigint NOT NULL
) WITH (fillfactor = 20);

-- Proves that nothing was forgotten since the incarnation began. Unlogged on purpose: a server that has
-- crashed, was promoted, or was restored from a base backup has an empty one.
CREATE UNLOGGED TABLE IF NOT EXISTS {schema}.witness (
    cache       text   PRIMARY KEY,
    incarnation bigint NOT NULL,
    life        text   NOT NULL
);

-- The last announcements, for nodes that have missed some.
CREATE TABLE IF NOT EXISTS {schema}.log (
    cache    text   NOT NULL,
    sequence bigint NOT NULL,
    body     bytea  NOT NULL,
    PRIMARY KEY (cache, sequence)
);

-- What nodes still to come must know. Kind: 0 all, 1 prefix, 2 tag. How: 0 remove, 1 expire.
CREATE TABLE IF NOT EXISTS {schema}.sweeps (
    cache    text     NOT NULL,
    kind     smallint NOT NULL,
    name     bytea    NOT NULL,
    how      smallint NOT NULL,
    sequence bigint   NOT NULL,
    PRIMARY KEY (cache, kind, name, how)
);

-- Announcements of a transaction that has not come to its commit yet. Nobody else ever sees a row here.
CREATE TABLE IF NOT EXISTS {schema}.pending (
    id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cache text       NOT NULL,
    body  bytea      NOT NULL,
    kinds smallint[] NOT NULL,
    names bytea[]    NOT NULL,
    hows  smallint[] NOT NULL
);

-- The server's life as far as an unlogged table does not tell it: a cold copy of a server that was shut
-- down, and a dump that was restored, bring the witness along, but start at another time or as another table.
CREATE OR REPLACE FUNCTION {schema}.life() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT extract(epoch FROM pg_postmaster_start_time())::text || '/' || '{schema}.marks'::regclass::oid::text
$$;

-- Since when floors are known. Unlogged like the records, so that it is lost with them; made with the schema, when
-- there was nothing to forget.
DO $$
BEGIN
    IF to_regclass('{schema}.memory') IS NULL THEN
        CREATE UNLOGGED TABLE {schema}.memory (
            one   boolean     PRIMARY KEY CHECK (one),
            life  text        NOT NULL,
            since timestamptz NOT NULL
        );
        INSERT INTO {schema}.memory VALUES (true, {schema}.life(), '-infinity');
    END IF;
END $$;

-- True while a floor that is not there may have been forgotten: for as long as floors live, after the server
-- has started.
CREATE OR REPLACE FUNCTION {schema}.is_forgetful() RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    known timestamptz;
BEGIN
    SELECT m.since INTO known FROM {schema}.memory m WHERE m.one AND m.life = {schema}.life();
    IF NOT FOUND THEN
        INSERT INTO {schema}.memory AS m VALUES (true, {schema}.life(), now())
        ON CONFLICT (one) DO UPDATE SET life = excluded.life, since = excluded.since WHERE m.life <> excluded.life;
        RETURN true;
    END IF;
    RETURN known > now() - {floor_life_ms} * interval '1 ms';
END $$;

-- The mark of a cache, in the present incarnation; if that cannot be vouched for, in a new one.
CREATE OR REPLACE FUNCTION {schema}.open(the_cache text) RETURNS {schema}.marks LANGUAGE plpgsql AS $$
DECLARE
    mark {schema}.marks;
BEGIN
    SELECT m.* INTO mark FROM {schema}.marks m JOIN {schema}.witness w USING (cache, incarnation)
    WHERE m.cache = the_cache AND w.life = {schema}.life();
    IF FOUND THEN
        RETURN mark;
    END IF;
    INSERT INTO {schema}.marks VALUES (the_cache, 0, 0, 0, 0) ON CONFLICT DO NOTHING;
    SELECT m.* INTO mark FROM {schema}.marks m WHERE m.cache = the_cache FOR UPDATE;
    -- Whoever had the row before may have done what is needed.
    PERFORM FROM {schema}.witness w
    WHERE w.cache = the_cache AND w.incarnation = mark.incarnation AND w.life = {schema}.life();
    IF FOUND THEN
        RETURN mark;
    END IF;
    DELETE FROM {schema}.log WHERE cache = the_cache;
    DELETE FROM {schema}.sweeps WHERE cache = the_cache;
    UPDATE {schema}.marks
    SET incarnation = ('x' || left(replace(gen_random_uuid()::text, '-', ''), 16))::bit(64)::bigint,
        forgotten_sequence = 0, tags = 0
    WHERE cache = the_cache RETURNING * INTO mark;
    INSERT INTO {schema}.witness VALUES (the_cache, mark.incarnation, {schema}.life())
    ON CONFLICT (cache) DO UPDATE SET incarnation = excluded.incarnation, life = excluded.life;
    RETURN mark;
END $$;

-- Where the order stands, and the sweeps, read by one statement so that they belong together.
CREATE OR REPLACE FUNCTION {schema}.attach(the_cache text)
RETURNS TABLE (incarnation bigint, sequence bigint, forgotten_sequence bigint,
               kind smallint, name bytea, how smallint, sweep bigint)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM {schema}.open(the_cache);
    RETURN QUERY SELECT m.incarnation, m.sequence, m.forgotten_sequence, s.kind, s.name, s.how, s.sequence
    FROM {schema}.marks m LEFT JOIN {schema}.sweeps s USING (cache) WHERE m.cache = the_cache;
END $$;

-- Tells all who listen. What does not fit a notification is fetched from the log by those who want it.
CREATE OR REPLACE FUNCTION {schema}.tell(what text, mark {schema}.marks, body bytea) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    head text := '|' || to_hex(mark.incarnation) || '|' || to_hex(mark.sequence) || '|';
    message text := what || head || encode(body, 'hex') || '|' || mark.cache;
BEGIN
    IF octet_length(message) >= 7900 THEN
        message := 'R' || head || '|' || mark.cache;
    END IF;
    PERFORM pg_notify('{channel}', message);
END $$;

-- Says where the order stands.
CREATE OR REPLACE FUNCTION {schema}.pulse(the_cache text, body bytea)
RETURNS TABLE (incarnation bigint, sequence bigint) LANGUAGE plpgsql AS $$
DECLARE
    mark {schema}.marks := {schema}.open(the_cache);
BEGIN
    PERFORM {schema}.tell('P', mark, body);
    RETURN QUERY SELECT mark.incarnation, mark.sequence;
END $$;

-- Keeps one sweep, and all of them within bounds. Gives how many tags have come or gone.
CREATE OR REPLACE FUNCTION {schema}.keep(the_cache text, the_kind smallint, the_name bytea, the_how smallint,
                                         the_sequence bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    gained bigint := 0;
    oldest {schema}.sweeps;
BEGIN
    INSERT INTO {schema}.sweeps AS s VALUES (the_cache, the_kind, the_name, the_how, the_sequence)
    ON CONFLICT (cache, kind, name, how) DO UPDATE SET sequence = greatest(s.sequence, excluded.sequence)
    RETURNING (xmax = 0)::int INTO gained;
    IF the_kind = 0 THEN
        -- What was swept before is swept by this as well.
        WITH gone AS (
            DELETE FROM {schema}.sweeps s
            WHERE s.cache = the_cache AND s.kind > 0 AND s.sequence <= the_sequence AND s.how >= the_how
            RETURNING s.kind)
        SELECT -count(*) INTO gained FROM gone WHERE kind = 2;
        RETURN gained;
    END IF;
    IF the_kind = 2 THEN
        RETURN gained;
    END IF;
    IF (SELECT count(*) FROM {schema}.sweeps s WHERE s.cache = the_cache AND s.kind = 1) > {prefixes_max} THEN
        DELETE FROM {schema}.sweeps s USING (
            SELECT * FROM {schema}.sweeps WHERE cache = the_cache AND kind = 1 ORDER BY sequence LIMIT 1) o
        WHERE s.cache = o.cache AND s.kind = o.kind AND s.name = o.name AND s.how = o.how
        RETURNING s.* INTO oldest;
        RETURN {schema}.keep(the_cache, 0::smallint, ''::bytea, oldest.how, oldest.sequence);
    END IF;
    RETURN 0;
END $$;

-- Numbers an announcement, keeps what must be kept, and tells everybody when the transaction commits.
CREATE OR REPLACE FUNCTION {schema}.announce(the_cache text, body bytea, kinds smallint[], names bytea[],
                                             hows smallint[])
RETURNS TABLE (incarnation bigint, sequence bigint) LANGUAGE plpgsql AS $$
DECLARE
    mark {schema}.marks;
    gained bigint := 0;
    dropped bigint := 0;
    dropped_to bigint := 0;
BEGIN
    PERFORM {schema}.open(the_cache);
    UPDATE {schema}.marks m SET sequence = m.sequence + 1 WHERE m.cache = the_cache RETURNING m.* INTO mark;
    INSERT INTO {schema}.log VALUES (the_cache, mark.sequence, body);
    DELETE FROM {schema}.log l WHERE l.cache = the_cache AND l.sequence = mark.sequence - {log_max};
    FOR i IN 1 .. cardinality(kinds) LOOP
        gained := gained + {schema}.keep(the_cache, kinds[i], names[i], hows[i], mark.sequence);
    END LOOP;
    IF mark.tags + gained > {tags_max} THEN
        WITH gone AS (
            DELETE FROM {schema}.sweeps s USING (
                SELECT t.* FROM {schema}.sweeps t WHERE t.cache = the_cache AND t.kind = 2
                ORDER BY t.sequence LIMIT greatest({tags_max} / 8, mark.tags + gained - {tags_max})) o
            WHERE s.cache = o.cache AND s.kind = o.kind AND s.name = o.name AND s.how = o.how
            RETURNING s.sequence AS number)
        SELECT count(*), max(gone.number) INTO dropped, dropped_to FROM gone;
    END IF;
    IF gained <> 0 OR dropped > 0 THEN
        UPDATE {schema}.marks m SET tags = m.tags + gained - dropped,
            forgotten_sequence = greatest(m.forgotten_sequence, dropped_to)
        WHERE m.cache = the_cache;
    END IF;
    PERFORM {schema}.tell('A', mark, body);
    RETURN QUERY SELECT mark.incarnation, mark.sequence;
END $$;

-- Announces when the transaction commits, and not at all if it does not.
CREATE OR REPLACE FUNCTION {schema}.announce_at_commit(the_cache text, body bytea, kinds smallint[],
                                                       names bytea[], hows smallint[])
RETURNS void LANGUAGE sql AS $$
    INSERT INTO {schema}.pending (cache, body, kinds, names, hows) VALUES (the_cache, body, kinds, names, hows)
$$;

-- Runs at the commit: the row of the marks is held no longer than that takes. Rows are locked in the order of their
-- names, so that transactions that announce to several caches do not wait for one another in a circle.
CREATE OR REPLACE FUNCTION {schema}.announce_pending() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    waiting record;
BEGIN
    FOR waiting IN SELECT DISTINCT p.cache FROM {schema}.pending p ORDER BY p.cache LOOP
        PERFORM {schema}.open(waiting.cache);
        PERFORM FROM {schema}.marks m WHERE m.cache = waiting.cache FOR UPDATE;
    END LOOP;
    FOR waiting IN SELECT * FROM {schema}.pending p ORDER BY p.id LOOP
        PERFORM {schema}.announce(waiting.cache, waiting.body, waiting.kinds, waiting.names, waiting.hows);
        DELETE FROM {schema}.pending p WHERE p.id = waiting.id;
    END LOOP;
    RETURN NULL;
END $$;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger
                   WHERE tgrelid = '{schema}.pending'::regclass AND tgname = 'announce_pending') THEN
        CREATE CONSTRAINT TRIGGER announce_pending AFTER INSERT ON {schema}.pending
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {schema}.announce_pending();
    END IF;
END $$;
