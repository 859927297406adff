//! The Postgres tier: records in an unlogged table, and a backplane over LISTEN and NOTIFY whose
//! announcements can be part of the caller's own transaction.
//!
//! - Every verb of the table is one statement for a whole batch. All times are the server's.
//! - Announcements of a cache queue at one row, which is held until their transaction ends: numbers have no
//!   gaps, and commits have the order of the numbers. NOTIFY serialises the commits of a database anyway, so
//!   announce once per transaction, and not from transactions that cannot bear that.
//! - [`PostgresTier::announce_in`] writes the announcement in the caller's transaction. It is numbered and told when that
//!   commits: a rollback announces nothing, and a crash after the commit forgets nothing. Under repeatable
//!   read or serializable the commit fails with a serialization failure if another announcement
//!   came in between; the transaction is to be run again, like any other of its kind.
//! - The server starts anew, crashes, is restored or fails over: there is a new incarnation, which is
//!   recognised by an unlogged table (empty after a crash or a promotion) and the server's start time.
//! - One cache costs at most 4,096 log rows and 16,384 tags. Bodies over some 3,900 bytes are fetched by
//!   each listener from the log.
//!
//! Sessions must reach the primary directly: LISTEN and prepared statements do not go through a pooler of
//! transactions. With several hosts in the configuration, ask for `target_session_attrs = read-write`.
//! Connects lazily and on its own tasks. Handed to `CacheBuilder::tier` and `CacheBuilder::backplane`.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_postgres::{
    Config, GenericClient, NoTls, Socket,
    tls::{MakeTlsConnect, TlsConnect},
    types::Type,
};

use crate::{
    TransactionOutbox,
    backplane::{Announcement, Backplane, Line},
    tier::{Tier, TierError, TierShare},
};

mod dial;
mod line;
mod link;
mod listen;
mod options;
mod session;
mod share;
mod sql;

pub use options::PostgresOptions;

/// Rounds are no further apart, whatever is set: the arithmetic of time must not overflow.
const PRUNE_EVERY_MAX: Duration = Duration::from_secs(86_400 * 365);

/// Dead rows that one pruning statement takes: some milliseconds of work.
const PRUNE_ROWS: i64 = 1_000;

/// Pruning statements in a row, so that a table that was long left alone is not cleared in one go.
const PRUNES_MAX: u32 = 20;

/// What Postgres takes as the name of a schema or channel.
const NAME_BYTES_MAX: usize = 63;

/// The Postgres tier cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresTierError {
    /// The schema's name is not a plain word of at most 63 letters, digits and underscores.
    #[error("`{name}` cannot be the name of the cache's schema")]
    InvalidSchema {
        /// The name.
        name: String,
    },
    /// With this value an option could not do what it is there for.
    #[error("`{field}` is {value}: expected {expected}")]
    InvalidOption {
        /// The option, named with its type: `PostgresOptions::prune_every`.
        field: &'static str,
        /// As it was given.
        value: String,
        /// What would be taken.
        expected: &'static str,
    },
    /// The server refused.
    #[error("postgres: {0}")]
    Postgres(#[from] tokio_postgres::Error),
}

/// A Postgres primary that caches share. Cloning gives another handle to the same connections.
#[derive(Clone)]
pub struct PostgresTier {
    owner: Arc<Owner>,
}

/// Owns the tier's tasks: they end with the last cache and handle.
struct Owner {
    options: PostgresOptions,
    table: Arc<link::Link>,
    line: Arc<link::Link>,
    ear: Arc<listen::Ear>,
    permits: Semaphore,
    tasks: Mutex<Tasks>,
}

#[derive(Default)]
struct Tasks {
    table: Vec<JoinHandle<()>>,
    line: Vec<JoinHandle<()>>,
}

/// One call in progress.
struct Turn<'a> {
    session: Arc<session::Session>,
    _permit: SemaphorePermit<'a>,
}

impl PostgresTier {
    /// A tier without TLS. Does not connect: that begins with the first cache that is built on it, and a
    /// server that is down then is tried until it is up. The schema must have been made:
    /// by [`create_schema`](Self::create_schema), or by a migration with [`schema_sql`](Self::schema_sql).
    ///
    /// # Errors
    ///
    /// If the schema's name cannot be used, or an option could not do what it is there for.
    pub fn connect(config: Config, options: PostgresOptions) -> Result<Self, PostgresTierError> {
        Self::connect_with(config, NoTls, options)
    }

    /// As [`connect`](Self::connect), with TLS as the connector makes it.
    ///
    /// # Errors
    ///
    /// If the schema's name cannot be used, or an option could not do what it is there for.
    pub fn connect_with<T>(
        config: Config,
        tls: T,
        options: PostgresOptions,
    ) -> Result<Self, PostgresTierError>
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::TlsConnect: Send + Sync,
        T::Stream: Send + Sync,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        check_schema(&options.schema)?;
        options.check()?;
        let dial = dial::Dial::new(config, tls);
        let owner = Owner {
            table: Arc::new(link::Link::new(dial.clone(), &options, options.sessions)),
            line: Arc::new(link::Link::new(dial.clone(), &options, 1)),
            ear: Arc::new(listen::Ear::new(dial, &options)),
            permits: Semaphore::new(options.calls_max.min(Semaphore::MAX_PERMITS)),
            tasks: Mutex::default(),
            options,
        };
        Ok(Self { owner: Arc::new(owner) })
    }

    /// The statements that make the schema of this name, for a migration. They can be run again, and later
    /// releases add to them.
    ///
    /// # Errors
    ///
    /// If the name cannot be used.
    pub fn schema_sql(schema: &str) -> Result<String, PostgresTierError> {
        check_schema(schema)?;
        Ok(sql::schema_sql(schema))
    }

    /// Makes the schema, or completes it, in one transaction of this connection. Several nodes may do so at once.
    ///
    /// # Errors
    ///
    /// If the name cannot be used, or the server refuses: the role needs CREATE on the database.
    pub async fn create_schema(
        client: &tokio_postgres::Client,
        schema: &str,
    ) -> Result<(), PostgresTierError> {
        let sql = Self::schema_sql(schema)?;
        // One at a time: CREATE OR REPLACE fails if two do it at once.
        let lock = "SELECT pg_advisory_xact_lock(hashtextextended('paystrata_cache', 0))";
        client.batch_execute(&format!("BEGIN; {lock}; {sql} COMMIT")).await?;
        Ok(())
    }

    /// True while the table can be asked.
    pub fn is_up(&self) -> bool {
        self.owner.table.is_up()
    }

    /// Announces within the caller's transaction ([`Cache::invalidate_in`](crate::Cache::invalidate_in) does so for a
    /// cache that is at hand; otherwise the announcement is [`Invalidation::announcement`](crate::Invalidation::announcement),
    /// which nodes do not take to have voided any shared tier): when it commits, every node hears of it, with a number in
    /// the order of commits; if it does not, nobody does. One round trip. `client` is a transaction on the
    /// same database; without one, the announcement is made at once.
    ///
    /// Announce last: from its commit's beginning to its end, the transaction keeps others that announce to the
    /// same cache waiting.
    ///
    /// # Errors
    ///
    /// Those of Postgres. The transaction is broken then.
    pub async fn announce_in(
        &self,
        client: &impl GenericClient,
        cache: &str,
        announcement: &Announcement,
    ) -> Result<(), tokio_postgres::Error> {
        let swept = line::Swept::of(announcement);
        let body = &announcement.body[..];
        let sql = sql::fill(sql::ANNOUNCE_AT_COMMIT, &self.owner.options.schema);
        client
            .execute_typed(
                &sql,
                &[
                    (&cache, Type::TEXT),
                    (&body, Type::BYTEA),
                    (&swept.kinds, Type::INT2_ARRAY),
                    (&swept.names, Type::BYTEA_ARRAY),
                    (&swept.hows, Type::INT2_ARRAY),
                ],
            )
            .await
            .map(|_rows| ())
    }

    /// Takes up to `PRUNE_ROWS` rows away that nothing can come of any more, and says how many. The tier does
    /// this by itself every `prune_every`.
    ///
    /// # Errors
    ///
    /// If the table cannot be asked, or does not answer in time.
    pub async fn prune(&self) -> Result<u64, TierError> {
        self.owner.prune().await
    }
}

/// NOTIFY at the commit: [`PostgresTier::announce_in`]. The transaction is one on the database that the nodes listen to.
impl<C: GenericClient + Sync> TransactionOutbox<&C> for PostgresTier {
    type Error = tokio_postgres::Error;

    async fn keep(&self, client: &C, cache: &str, announcement: &Announcement) -> Result<(), Self::Error> {
        self.announce_in(client, cache, announcement).await
    }
}

fn check_schema(name: &str) -> Result<(), PostgresTierError> {
    let is_word = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if is_word && (1..=NAME_BYTES_MAX).contains(&name.len()) {
        return Ok(());
    }
    Err(PostgresTierError::InvalidSchema { name: name.to_owned() })
}

impl Tier for PostgresTier {
    /// Must be called within a Tokio runtime: the first call begins to connect.
    fn share(&self, cache: &str) -> Arc<dyn TierShare> {
        Owner::start_table(&self.owner);
        Arc::new(share::PostgresShare::new(Arc::clone(&self.owner), cache))
    }
}

impl Backplane for PostgresTier {
    /// Must be called within a Tokio runtime: the first call begins to connect.
    fn line(&self, cache: &str) -> Arc<dyn Line> {
        self.owner.start_line();
        Arc::new(line::PostgresLine::new(Arc::clone(&self.owner), cache))
    }
}

impl Owner {
    /// Begins a call to the table, as soon as it is let in.
    async fn turn(&self) -> Result<Turn<'_>, TierError> {
        let permit = timeout(self.options.command_timeout, self.permits.acquire()).await;
        let permit = permit.map_err(|_| TierError::TimedOut)?.map_err(|_| TierError::Down)?;
        Ok(Turn { session: self.table.session()?, _permit: permit })
    }

    async fn prune(&self) -> Result<u64, TierError> {
        let turn = self.turn().await?;
        let prune = &turn.session.statements.prune;
        turn.session.execute(self.options.command_timeout, prune, &[&PRUNE_ROWS]).await
    }

    fn start_table(owner: &Arc<Self>) {
        let mut tasks = owner.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if tasks.table.is_empty() {
            let slots = 0..owner.table.slots();
            tasks.table.extend(slots.map(|slot| tokio::spawn(Arc::clone(&owner.table).supervise(slot))));
            // It must not keep the tier alive.
            let pause = owner.options.prune_every.min(PRUNE_EVERY_MAX);
            let weak = Arc::downgrade(owner);
            tasks.table.push(tokio::spawn(async move {
                loop {
                    sleep(pause.mul_f64(0.5 + rand::random::<f64>())).await;
                    let Some(owner) = weak.upgrade() else { return };
                    owner.prune_some().await;
                }
            }));
        }
    }

    fn start_line(&self) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if tasks.line.is_empty() {
            tasks.line.push(tokio::spawn(Arc::clone(&self.line).supervise(0)));
            tasks.line.push(tokio::spawn(Arc::clone(&self.ear).supervise()));
        }
    }

    /// Prunes while there is much to prune, up to a bound.
    async fn prune_some(&self) {
        for _batch in 0..PRUNES_MAX {
            match self.prune().await {
                Ok(rows) if rows == PRUNE_ROWS.cast_unsigned() => {}
                Ok(_) => return,
                Err(error) => {
                    tracing::debug!(%error, "prune the cache's table");
                    return;
                }
            }
        }
    }
}

impl fmt::Debug for PostgresTier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.owner.fmt(formatter)
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PostgresTier")
            .field("schema", &self.options.schema)
            .field("is_up", &self.table.is_up())
            .finish_non_exhaustive()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let tasks = self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner);
        tasks.table.iter().chain(&tasks.line).for_each(JoinHandle::abort);
    }
}
