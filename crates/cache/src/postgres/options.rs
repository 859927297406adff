//! How a Postgres tier is asked to behave, and what of that is refused: limits that could not do what they
//! are there for. Refuses to judge whether one is wise, or goes together with those of the caches; the schema's name is looked
//! at where it is used. Asked by `PostgresTier::connect_with`, before anything is made.

use std::{fmt::Debug, time::Duration};

use super::PostgresTierError;

/// Rounds that follow one another more closely would be one that never ends.
const PRUNE_EVERY_MIN: Duration = Duration::from_millis(10);

/// How a Postgres tier behaves, over all caches attached to it. No time and no number may be zero: the tier is not made then
/// ([`PostgresTierError::InvalidOption`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresOptions {
    /// The schema that holds the tables, and the channel of the same name. Letters, digits, underscores.
    /// Nodes that share entries share it. Default `paystrata_cache`.
    pub schema: String,
    /// What one statement may take, of the table, of the line, or to prune, longer than zero: the server ends it then (after
    /// 1 ms at the earliest), and a connection on which calls have waited for so long without an answer is given up. The caches'
    /// own limits hold beside it, and whichever is shorter ends the call: [`TierOptions::timeout`](crate::TierOptions::timeout),
    /// by default 100 ms, for the table, and [`LineOptions::timeout`](crate::LineOptions::timeout), by default 500 ms, for the
    /// line. Longer than the table's, so that a statement nobody waits for any more still ends by itself, and announcements can
    /// queue behind each other. Default 250 ms.
    pub command_timeout: Duration,
    /// What connecting and preparing may take: longer than zero. Default 2 s.
    pub connect_timeout: Duration,
    /// Sessions for the table, at least 1; all calls share them. One more announces, and one listens. Default 2.
    pub sessions: usize,
    /// Calls to the table at once, over all caches, at least 1; more wait, within their timeout. Default 1,024.
    pub calls_max: usize,
    /// The largest value to store, encoded, in bytes: at least 1. Default 1 MiB.
    pub value_bytes_max: usize,
    /// Silence on the listening connection after which it is asked whether it lives: longer than zero. Default 2 s.
    pub silence_max: Duration,
    /// Between two prunings by this node: at least 10 ms, and a year at most, whatever is set, so that `Duration::MAX` leaves it
    /// to other nodes. Each takes a bounded number of dead rows. Default 10 s.
    pub prune_every: Duration,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            schema: "paystrata_cache".to_owned(),
            command_timeout: Duration::from_millis(250),
            connect_timeout: Duration::from_secs(2),
            sessions: 2,
            calls_max: 1_024,
            value_bytes_max: 1_024 * 1_024,
            silence_max: Duration::from_secs(2),
            prune_every: Duration::from_secs(10),
        }
    }
}

impl PostgresOptions {
    /// Names the first option that could not do what it is there for.
    pub(super) fn check(&self) -> Result<(), PostgresTierError> {
        let times = [
            ("PostgresOptions::command_timeout", self.command_timeout),
            ("PostgresOptions::connect_timeout", self.connect_timeout),
            ("PostgresOptions::silence_max", self.silence_max),
        ];
        if let Some((field, time)) = times.into_iter().find(|(_, time)| time.is_zero()) {
            return Err(invalid(field, &time, "longer than zero"));
        }
        let bounds = [
            ("PostgresOptions::sessions", self.sessions),
            ("PostgresOptions::calls_max", self.calls_max),
            ("PostgresOptions::value_bytes_max", self.value_bytes_max),
        ];
        if let Some((field, bound)) = bounds.into_iter().find(|(_, bound)| *bound == 0) {
            return Err(invalid(field, &bound, "at least 1"));
        }
        // Who says zero may mean "never", and would have it all the time.
        if self.prune_every < PRUNE_EVERY_MIN {
            let expected = "at least 10 ms, or `Duration::MAX` to leave it to other nodes";
            return Err(invalid("PostgresOptions::prune_every", &self.prune_every, expected));
        }
        Ok(())
    }
}

fn invalid(field: &'static str, value: &dyn Debug, expected: &'static str) -> PostgresTierError {
    PostgresTierError::InvalidOption { field, value: format!("{value:?}"), expected }
}

#[cfg(test)]
mod tests {
    use tokio_postgres::Config;

    use super::*;
    use crate::postgres::PostgresTier;

    const LEAST: Duration = Duration::from_nanos(1);

    /// By way of the tier, so that the check is seen to be made.
    #[track_caller]
    fn check(change: impl FnOnce(&mut PostgresOptions), expected: Option<&str>) {
        let mut options = PostgresOptions::default();
        change(&mut options);
        let refused = PostgresTier::connect(Config::new(), options).err();
        assert_eq!(refused.map(|error| error.to_string()).as_deref(), expected);
    }

    #[test]
    fn time_of_zero_is_refused_by_its_name() {
        check(
            |options| options.command_timeout = Duration::ZERO,
            Some("`PostgresOptions::command_timeout` is 0ns: expected longer than zero"),
        );
        check(
            |options| options.connect_timeout = Duration::ZERO,
            Some("`PostgresOptions::connect_timeout` is 0ns: expected longer than zero"),
        );
        check(
            |options| options.silence_max = Duration::ZERO,
            Some("`PostgresOptions::silence_max` is 0ns: expected longer than zero"),
        );
    }

    #[test]
    fn bound_that_lets_nothing_through_is_refused_by_its_name() {
        check(|options| options.sessions = 0, Some("`PostgresOptions::sessions` is 0: expected at least 1"));
        check(
            |options| options.calls_max = 0,
            Some("`PostgresOptions::calls_max` is 0: expected at least 1"),
        );
        check(
            |options| options.value_bytes_max = 0,
            Some("`PostgresOptions::value_bytes_max` is 0: expected at least 1"),
        );
    }

    #[test]
    fn pruning_without_rest_is_refused() {
        check(
            |options| options.prune_every = Duration::from_millis(9),
            Some(
                "`PostgresOptions::prune_every` is 9ms: expected at least 10 ms, or `Duration::MAX` to leave it to other nodes",
            ),
        );
    }

    #[test]
    fn option_at_the_edge_is_taken() {
        check(|_| {}, None);
        for time in [LEAST, Duration::MAX] {
            check(|options| options.command_timeout = time, None);
            check(|options| options.connect_timeout = time, None);
            check(|options| options.silence_max = time, None);
        }
        check(|options| options.sessions = 1, None);
        for bound in [1, usize::MAX] {
            check(|options| options.calls_max = bound, None);
            check(|options| options.value_bytes_max = bound, None);
        }
        for period in [PRUNE_EVERY_MIN, Duration::MAX] {
            check(|options| options.prune_every = period, None);
        }
    }
}
