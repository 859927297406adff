//! The name of a server's present life, of the primary's, and of the history of commits that it stands on. As a piece of SQL it is when it last started or recovered from a crash, in microseconds.
//! After a crash of one of its processes the server recovers under its old start time, but its statistics begin anew; a
//! reset of the statistics by hand looks the same: it costs some new connections, and certainty about the commits whose answers
//! are missing at that moment. It is an integer, because a float would round. Used wherever an older state or a reused id must not be taken for the present one.

use crate::node::Facts;

/// One history of commits. A promotion or a restore begins another, which may lack commits of the one before: what was read
/// under the old one may be nowhere any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct History {
    /// Of the database cluster.
    pub system_id: u64,
    /// Grows with every promotion and restore.
    pub timeline: u32,
}

/// One life of the server that takes writes: another one after it was replaced, restarted or recovered. What was true
/// of commits in the one may not be true in the next: a server that lost commits, or was restored, began a new life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrimaryLife {
    history: History,
    incarnation: i64,
}

impl PrimaryLife {
    pub(crate) fn of(facts: &Facts) -> Self {
        let history = History { system_id: facts.system_id, timeline: facts.timeline };
        Self { history, incarnation: facts.incarnation }
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
