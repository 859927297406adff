//! Settings of the data layer, and the fixed bounds that are not worth a setting.
//! It refuses combinations that could never serve (`Config::problem`). The composing application fills it in.

use std::time::Duration;

use crate::statement::Statement;
use crate::url::ConnectionUrl;

/// Everything a [`crate::Db`] needs to know. `Config::new` gives defaults fit for one service instance.
#[derive(Clone, Debug)]
pub struct Config {
    /// The server expected to be the primary. Roles are discovered, so after a failover another one may be.
    pub primary_url: ConnectionUrl,
    /// The other servers, in any order.
    pub replica_urls: Vec<ConnectionUrl>,
    /// A pooler in transaction mode in front of the server of `primary_url`. Pooled traffic to that server goes
    /// through it, as unnamed typed statements; sessions, probes and cancels of probes do not.
    pub pooler_url: Option<ConnectionUrl>,
    /// Connections per server opened before it is used.
    pub pool_size_min: usize,
    /// Connections per server at most.
    pub pool_size_max: usize,
    /// How long a caller may wait for a connection.
    pub acquire_timeout: Duration,
    /// How long making one connection may take, from the first packet to the server's readiness.
    pub connect_timeout: Duration,
    /// The longest life of a pooled connection. Each gets up to a fifth less at random, and is replaced during the tenth
    /// before its end.
    pub connection_lifetime_max: Duration,
    /// Statements that every new pooled connection prepares before it is handed out. None is prepared ahead behind a
    /// pooler, nor is one that the server refuses (its table may not be there yet); those beyond 128 are ignored.
    pub statements_ahead: Vec<Statement>,
    /// How long one statement may run. The server stops it then; should the server be silent as well, the
    /// client gives up one second later.
    pub statement_timeout: Duration,
    /// A replica further behind than this serves no reads, until it is no further behind than half of it.
    pub replica_lag_max: Duration,
    /// The pause between two probes of a healthy server.
    pub monitor_interval: Duration,
    /// Shown in `pg_stat_activity`.
    pub application_name: String,
    /// Server settings, by name and value, with which each connection straight to a server begins. Those of a URL's
    /// `options` win over them. A pooler takes none: there they belong to the role (`ALTER ROLE .. SET ..`).
    pub server_settings: Vec<(String, String)>,
}

impl Config {
    /// Defaults: 2 to 16 connections per server, 2 s to acquire, 5 s to connect, half an hour of life, 10 s per statement, 10 s of lag, 100 ms between probes,
    /// no server settings beyond the timeouts.
    #[must_use]
    pub fn new(primary_url: ConnectionUrl) -> Self {
        Self {
            primary_url,
            replica_urls: Vec::new(),
            pooler_url: None,
            pool_size_min: 2,
            pool_size_max: 16,
            acquire_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(5),
            connection_lifetime_max: Duration::from_secs(30 * 60),
            statements_ahead: Vec::new(),
            statement_timeout: Duration::from_secs(10),
            replica_lag_max: Duration::from_secs(10),
            monitor_interval: Duration::from_millis(100),
            application_name: "paystrata-db".to_owned(),
            server_settings: Vec::new(),
        }
    }

    /// Names the settings that contradict each other, or nothing when they agree.
    #[must_use]
    pub fn problem(&self) -> Option<&'static str> {
        if self.pool_size_max == 0 {
            return Some("pool_size_max must be at least 1");
        }
        if self.pool_size_min > self.pool_size_max {
            return Some("pool_size_min must not exceed pool_size_max");
        }
        let waits =
            [self.acquire_timeout, self.connect_timeout, self.statement_timeout, self.monitor_interval];
        // The server counts its timeouts in whole milliseconds and takes 0 for "none".
        if waits.iter().any(|wait| wait.as_millis() == 0) {
            return Some(
                "acquire_timeout, connect_timeout, statement_timeout and monitor_interval must be at least 1 ms",
            );
        }
        if waits.iter().any(|wait| wait.as_millis() > WAIT_MOST_MS) {
            return Some(
                "acquire_timeout, connect_timeout, statement_timeout and monitor_interval must be at most 24 days",
            );
        }
        if self.connection_lifetime_max > LIFETIME_MOST {
            return Some("connection_lifetime_max must be at most 10 years");
        }
        if self.connection_lifetime_max < LIFETIME_LEAST {
            return Some("connection_lifetime_max must be at least 1 s");
        }
        None
    }

    /// Reads that no replica can serve may take at most half of the primary's connections, so that losing the
    /// replicas cannot stop the writes.
    pub(crate) fn primary_read_permits(&self) -> usize {
        (self.pool_size_max / 2).max(1)
    }
}

/// What background work may take at most, so that callers who wait find something. Of one there is nothing to reserve.
pub(crate) fn three_of_four(all: usize) -> usize {
    (all - all.div_ceil(4)).max(1)
}

/// TCP keepalive: a silent peer is found after 10 s + 3 * 5 s = 25 s when idle.
pub(crate) const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// Pause between keepalive probes.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Unanswered probes before the peer counts as gone.
pub(crate) const KEEPALIVE_RETRIES: u32 = 3;
/// Unacknowledged data older than this closes the socket. Keepalive does not cover that case.
pub(crate) const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a busy server looks whether its client is still there; the second line of defence when a cancel is lost.
pub(crate) const CLIENT_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// A transaction left open without a statement for this long is ended by the server.
pub(crate) const IDLE_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(30);
/// The client outwaits the server's statement timeout by this much before it takes the server for dead.
pub(crate) const DEADLINE_GRACE: Duration = Duration::from_secs(1);

/// Shorter lives would be spent on dialling.
const LIFETIME_LEAST: Duration = Duration::from_secs(1);
/// What a moment can be reckoned with on every platform.
const LIFETIME_MOST: Duration = Duration::from_secs(10 * 365 * 86_400);
/// The server counts its own in 32 bits.
const WAIT_MOST_MS: u128 = i32::MAX as u128;
/// The random part of a lifetime: with half an hour, pools opened at one moment spread their renewals over six minutes.
pub(crate) const LIFETIME_JITTER_PART: f64 = 0.2;
/// The part of the longest lifetime before its end in which a connection is replaced.
pub(crate) const RENEW_PART: f64 = 0.1;
/// Fresh connections that wait for old ones in use to come back; so many more than allowed may be open meanwhile.
pub(crate) const RENEWED_AHEAD_MAX: usize = 2;
/// Bounds of the pause between two looks for connections near their end.
pub(crate) const RENEW_PAUSE_MIN: Duration = Duration::from_millis(5);
/// See [`RENEW_PAUSE_MIN`].
pub(crate) const RENEW_PAUSE_MAX: Duration = Duration::from_secs(5);
/// A connection idle for longer is tested with an empty round trip before it is handed out.
pub(crate) const IDLE_TEST_AFTER: Duration = Duration::from_secs(1);
/// The test's own limit: a live server answers an empty round trip in well under a millisecond.
pub(crate) const IDLE_TEST_TIMEOUT: Duration = Duration::from_millis(500);
/// Connections being made to one server at once; more would only slow each other's authentication.
pub(crate) const DIALS_MAX: usize = 4;
/// Prepared statements kept per connection. The server holds memory for each on every connection.
pub(crate) const STATEMENTS_MAX: usize = 256;

/// Of them, how many are prepared before the connection is handed out; the rest is left to what comes up.
pub(crate) const STATEMENTS_AHEAD_MAX: usize = STATEMENTS_MAX / 2;

/// Holders of connections named in an error.
pub(crate) const HOLDERS_MAX: usize = 5;
/// A caller whose own task keeps an idle connection of a full pool waits so long for another; then it is told that it may be
/// waiting for itself. A neighbour's point read is over by then.
pub(crate) const NESTED_PATIENCE: Duration = Duration::from_millis(20);
/// First pause of a caller whose new connection the server had no room for (53300); it doubles with each.
pub(crate) const SERVER_FULL_PAUSE: Duration = Duration::from_millis(10);
/// The longest.
pub(crate) const SERVER_FULL_PAUSE_MAX: Duration = Duration::from_millis(320);

/// One probe, answer included. Generous, because a probe that fails takes the server out of rotation.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest pause between attempts to reach a server that is down.
pub(crate) const REDIAL_PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long a causal read may wait for one fresh probe before it turns to the primary.
pub(crate) const FRESH_PROBE_TIMEOUT: Duration = Duration::from_millis(20);

/// An abandoned statement that ends within this by itself needs no cancel, which costs the server a process.
pub(crate) const ABANDONED_PATIENCE: Duration = Duration::from_millis(2);
/// Each step of cleaning a connection that was left with something on it, cancels apart.
pub(crate) const CLEAN_STEP_TIMEOUT: Duration = Duration::from_secs(1);
/// How often one connection is cleaned of an abandoned statement before it is closed instead. A call dropped while the server prepared its statement
/// leaves that statement behind, which nobody can name any more: so many at most.
pub(crate) const CLEANINGS_MAX: u32 = 16;
/// Abandoned queries cancelled at once. Beyond it the socket is simply closed, and the server notices
/// within [`CLIENT_CHECK_INTERVAL`].
pub(crate) const SWEEPS_MAX: usize = 64;
/// How often a cancel is repeated: each ends one statement, and several may be queued on a connection.
pub(crate) const CANCELS_MAX: usize = 8;
/// Sending one cancel.
pub(crate) const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);
/// Waiting for the effect of one cancel.
pub(crate) const CANCEL_EFFECT_TIMEOUT: Duration = Duration::from_millis(500);
/// How long `Db::close` waits for work under way before it cancels it.
pub(crate) const CLOSE_GRACE: Duration = Duration::from_secs(5);
/// How long `Db::close` waits for background tasks, and for what it has cancelled.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Asking for the outcome of a broken commit goes on for this long, then it is reported as unknown.
pub(crate) const OUTCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// A commit still in progress after this long is hanging on a lost connection: its server process is ended.
pub(crate) const OUTCOME_TERMINATE_AFTER: Duration = Duration::from_millis(500);
/// Pause between two questions for an outcome.
pub(crate) const OUTCOME_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl Fn(&mut Config), problem: Option<&str>) {
        let mut config = Config::new("postgres://pay@localhost/x".parse().expect("a valid URL"));
        change(&mut config);
        assert_eq!(config.problem(), problem);
    }

    #[test]
    fn contradictions_are_named() {
        check(|_| {}, None);
        let forever = Duration::MAX;
        check(
            |config| config.acquire_timeout = forever,
            Some(
                "acquire_timeout, connect_timeout, statement_timeout and monitor_interval must be at most 24 days",
            ),
        );
        check(
            |config| config.connection_lifetime_max = forever,
            Some("connection_lifetime_max must be at most 10 years"),
        );
        check(|config| config.pool_size_max = 0, Some("pool_size_max must be at least 1"));
        check(|config| config.pool_size_min = 17, Some("pool_size_min must not exceed pool_size_max"));
        check(
            |config| config.connection_lifetime_max = Duration::from_millis(999),
            Some("connection_lifetime_max must be at least 1 s"),
        );
        check(
            |config| config.statement_timeout = Duration::from_micros(900),
            Some(
                "acquire_timeout, connect_timeout, statement_timeout and monitor_interval must be at least 1 ms",
            ),
        );
    }
}
