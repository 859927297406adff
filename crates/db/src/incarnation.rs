//! The name of a server's present life, and of the primary's. As a piece of SQL it is when it last started or recovered from a crash, in microseconds.
//! After a crash of one of its processes the server recovers under its old start time, but its statistics begin anew; a
//! reset of the statistics by hand looks the same and costs no more than some new connections. It is an integer,
//! because a float would round. Used wherever an older state or a reused id must not be taken for the present one.

use crate::node::Facts;

/// One life of the server that takes writes: another one after it was replaced, restarted or recovered. What was true
/// of commits in the one may not be true in the next: a server that lost commits, or was restored, began a new life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrimaryLife {
    system_id: u64,
    timeline: u32,
    incarnation: i64,
}

impl PrimaryLife {
    pub(crate) fn of(facts: &Facts) -> Self {
        Self { system_id: facts.system_id, timeline: facts.timeline, incarnation: facts.incarnation }
    }
}

/// A scalar subquery of type `bigint`.
macro_rules! incarnation_sql {
    () => {
        "(SELECT (extract(epoch FROM greatest(stats_reset, pg_postmaster_start_time())) * 1000000)::bigint \
         FROM pg_stat_wal)"
    };
}

pub(crate) use incarnation_sql;
