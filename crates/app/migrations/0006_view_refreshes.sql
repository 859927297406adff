-- The table of refreshes as the registry of views keeps it. A node of an older release goes on writing the first two columns.
ALTER TABLE view_refreshes
    ALTER COLUMN refreshed_at DROP NOT NULL,
    ADD COLUMN finished_at  timestamptz,
    ADD COLUMN took_ms      bigint,
    ADD COLUMN rows_written bigint,
    ADD COLUMN refreshes    bigint NOT NULL DEFAULT 0,
    ADD COLUMN changes_seen text,
    ADD COLUMN checked_at   timestamptz,
    ADD COLUMN failed_at    timestamptz,
    ADD COLUMN error        text;
