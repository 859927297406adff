-- What is known of each view: one row, written by whoever refreshes it.
CREATE TABLE IF NOT EXISTS view_refreshes (
    view         text PRIMARY KEY,
    -- Everything committed before this is in the view. NULL while it was never refreshed.
    refreshed_at timestamptz,
    -- The end of the last refresh that succeeded, and how long it took.
    finished_at  timestamptz,
    took_ms      bigint,
    -- Written by it, where that is known without counting.
    rows_written bigint,
    -- Refreshes that succeeded and changed something or may have.
    refreshes    bigint NOT NULL DEFAULT 0,
    -- What the sources looked like before it, so that an unchanged one can be told.
    changes_seen text,
    -- When the sources were last found unchanged.
    checked_at   timestamptz,
    -- The last failure since the last success.
    failed_at    timestamptz,
    error        text
);
