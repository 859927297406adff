//! Announces that the schema is about to change, and that it has: until it has, statements are prepared for each use, so that
//! none is known by name that a change makes worthless, and afterwards once more. An announcement that its process does not end
//! ceases to be in force by itself. Written by `run`, read by each server's monitor, replicas' too: it comes to them in the log,
//! before the change.

use std::time::Duration;

use postgres_types::Type;
use tokio_postgres::{Client, Error};

/// What a server was last seen to say of its schema: odd while it is about to change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SchemaState(u64);

/// Longer than one migration takes that readers should not notice. After that statements are known by name again, and those that
/// become worthless are found out by who uses them.
const IN_FORCE_MAX: Duration = Duration::from_secs(15 * 60);
/// A hundred years: the server adds no more than it has years for.
const IN_FORCE_MS_MAX: u128 = 100 * 365 * 24 * 60 * 60 * 1000;

/// Readers may have another role than migrations.
const CREATE_TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_announcements ( \
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only), \
    number bigint NOT NULL, \
    in_force_until timestamptz); \
    GRANT SELECT ON schema_announcements TO PUBLIC";
const IS_KNOWN: &str = "SELECT to_regclass('schema_announcements') IS NOT NULL";
const BEGIN: &str = "INSERT INTO schema_announcements AS last (number, in_force_until) \
    VALUES (1, clock_timestamp() + $1 * interval '1 ms') \
    ON CONFLICT (is_only) DO UPDATE SET number = last.number + 1, in_force_until = EXCLUDED.in_force_until";
const RENEW: &str = "UPDATE schema_announcements SET in_force_until = clock_timestamp() + $1 * interval '1 ms' \
    WHERE in_force_until > clock_timestamp()";
/// Another number: if it had lapsed meanwhile, statements were prepared that the rest of the change has made worthless.
const END: &str = "UPDATE schema_announcements SET number = number + 1, in_force_until = NULL \
    WHERE in_force_until IS NOT NULL";
/// The state as a number.
pub(crate) const STATE_SQL: &str = "SELECT coalesce(max( \
        2 * number - coalesce(in_force_until > clock_timestamp(), false)::int), 0)::bigint \
    FROM schema_announcements";

impl SchemaState {
    pub(crate) const fn new(number: u64) -> Self {
        Self(number)
    }

    pub(crate) const fn number(self) -> u64 {
        self.0
    }

    /// Nobody has announced a change that is still to come.
    pub(crate) const fn is_settled(self) -> bool {
        self.0.is_multiple_of(2)
    }
}

/// Returns once everybody has had `ahead` to hear of it.
pub(super) async fn begin(client: &Client, ahead: Duration) -> Result<(), Error> {
    client.batch_execute(CREATE_TABLE).await?;
    let in_force_ms = in_force_ms(ahead);
    client.execute_typed(BEGIN, &[(&in_force_ms, Type::INT8)]).await?;
    tokio::time::sleep(ahead).await;
    Ok(())
}

/// Keeps it in force for one more migration. If it has lapsed, everybody has to hear of it once more.
pub(super) async fn renew(client: &Client, ahead: Duration) -> Result<(), Error> {
    let in_force_ms = in_force_ms(Duration::ZERO);
    let renewed = client.execute_typed(RENEW, &[(&in_force_ms, Type::INT8)]).await?;
    if renewed == 0 { begin(client, ahead).await } else { Ok(()) }
}

pub(super) async fn end(client: &Client) -> Result<(), Error> {
    client.batch_execute(END).await
}

/// Ends what a process that is gone has announced, if anything.
pub(super) async fn end_left(client: &Client) -> Result<(), Error> {
    let known = client.query_typed_one(IS_KNOWN, &[]).await?;
    if known.try_get(0)? { end(client).await } else { Ok(()) }
}

fn in_force_ms(ahead: Duration) -> i64 {
    let in_force_ms = ahead.saturating_add(IN_FORCE_MAX).as_millis().min(IN_FORCE_MS_MAX);
    i64::try_from(in_force_ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_long_ahead_it_is_announced_the_server_can_add_it() {
        assert_eq!(in_force_ms(Duration::from_secs(2)), 902_000);
        assert_eq!(in_force_ms(Duration::MAX), 3_153_600_000_000);
    }
}
