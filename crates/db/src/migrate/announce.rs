//! Announces that the schema is about to change, and that it has: until it has, statements go to the server by their texts, which no
//! change makes worthless, and afterwards those known by name are prepared anew. An announcement that its process does not end
//! ceases to be in force by itself. Written by `run`, read by each server's monitor, replicas' too: it comes to them in the log,
//! before the change.

use std::time::Duration;

use postgres_types::Type;
use tokio_postgres::{Client, Error};

/// What a server was last seen to say of its schema: odd while it is about to change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SchemaState(u64);

/// Longer than migrations take that readers should not notice. After that statements are known by name again, and those that
/// become worthless are found out by who uses them.
const IN_FORCE_MAX: Duration = Duration::from_secs(15 * 60);

const CREATE_TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_announcements ( \
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only), \
    number bigint NOT NULL, \
    in_force_until timestamptz)";
const BEGIN: &str = "INSERT INTO schema_announcements AS last (number, in_force_until) \
    VALUES (1, clock_timestamp() + $1 * interval '1 ms') \
    ON CONFLICT (is_only) DO UPDATE SET number = last.number + 1, in_force_until = EXCLUDED.in_force_until";
const END: &str = "UPDATE schema_announcements SET in_force_until = NULL";
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
    let in_force_ms = (ahead + IN_FORCE_MAX).as_millis();
    let in_force_ms = i64::try_from(in_force_ms).unwrap_or(i64::MAX);
    client.execute_typed(BEGIN, &[(&in_force_ms, Type::INT8)]).await?;
    tokio::time::sleep(ahead).await;
    Ok(())
}

pub(super) async fn end(client: &Client) -> Result<(), Error> {
    client.batch_execute(END).await
}
