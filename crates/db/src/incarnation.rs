//! The name of a server's present life, as a piece of SQL: when it last started or recovered from a crash, in microseconds.
//! After a crash of one of its processes the server recovers under its old start time, but its statistics begin anew; a
//! reset of the statistics by hand looks the same and costs no more than some new connections. It is an integer,
//! because a float would round. Used wherever an older state or a reused id must not be taken for the present one.

/// A scalar subquery of type `bigint`.
macro_rules! incarnation_sql {
    () => {
        "(SELECT (extract(epoch FROM greatest(stats_reset, pg_postmaster_start_time())) * 1000000)::bigint \
         FROM pg_stat_wal)"
    };
}

pub(crate) use incarnation_sql;
