-- What a commit changed that nodes may hold in their caches: one row per commit, written in it and deleted once every
-- node has been told. A row that is still there after some seconds is of a process that ended before it could tell:
-- any other node tells then.
-- Rows live for a second. A wide one (256 accounts are 4 KiB) stays whole, so that it costs no second table; dead ones are
-- taken away often, so that the second's rows are all that is read.
CREATE TABLE change_notices (
    id         uuid        PRIMARY KEY,
    -- By the server's clock, so that it is not whoever looks that decides how old a row is.
    written_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    accounts   uuid[],     -- NULL: anything may have changed.
    merchants  uuid[],     -- One per payment.
    payments   uuid[]
) WITH (toast_tuple_target = 8160, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 10000);
