//! The pool of one server: bounded size, first come first served, and tests that keep dead, outdated or unclean
//! connections from being handed out. It dials no server that the monitor calls down.
//! Called by `acquire`, and by those who clean and renew connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use deadpool::Runtime;
use deadpool::managed::{self, Metrics, QueueMode, RecycleError, RecycleResult, Timeouts};
use deadpool_postgres::ClientWrapper;
use futures_util::future::{join, join_all, join3};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::debug;

use crate::acquire::{acquire, is_server_full, note_served};
use crate::bench::Bench;
use crate::config::{
    CLEANINGS_MAX, Config, DIALS_MAX, IDLE_TEST_AFTER, IDLE_TEST_TIMEOUT, LIFETIME_JITTER_PART, RENEW_PART,
    STATEMENTS_AHEAD_MAX, STATEMENTS_MAX,
};
use crate::dial::{DialSettings, DialledTapped, Path, dial_tapped};
use crate::error::Error;
use crate::holders::{Presence, Roster};
use crate::incarnation::incarnation_sql;
use crate::node::{Node, NodeId};
use crate::pooler::preload_types;
use crate::statement::Statement;
use crate::statement_cache::StatementCache;
use crate::status::PoolStatus;
use crate::sweep::Left;
use crate::tap::TransactionStatus;
use crate::url::ConnectionUrl;

pub(crate) type Pool = managed::Pool<ServerManager>;
pub(crate) type PoolObject = managed::Object<ServerManager>;

/// A connection that belongs to a pool.
#[derive(Debug)]
pub(crate) struct Pooled {
    pub(crate) client: ClientWrapper,
    /// What others may know of it, its status on the wire and its statements among it.
    pub(crate) presence: Arc<Presence>,
    pub(crate) path: Path,
    /// Where a cancel has to go.
    pub(crate) url: Arc<ConnectionUrl>,
    /// Of the server process behind it; 0 behind a pooler, where it may change with every transaction.
    pub(crate) incarnation: i64,
    pub(crate) generation: u64,
    expires_at: Instant,
    /// How often it was left with a statement on it.
    cleanings: u32,
}

/// Makes and tests the connections of one pool.
#[derive(Debug)]
pub(crate) struct ServerManager {
    pub(crate) node: Arc<Node>,
    pub(crate) settings: DialSettings,
    pub(crate) roster: Arc<Roster>,
    pub(crate) bench: Bench,
    pub(crate) size_max: usize,
    pub(crate) lifetime_max: Duration,
    pub(crate) url: Arc<ConnectionUrl>,
    path: Path,
    statements_ahead: Vec<Statement>,
    dials: Semaphore,
    warming: Semaphore,
    making: AtomicUsize,
    /// Fresh connections on the bench for which no old one was closed yet.
    ahead: AtomicUsize,
    renewed: AtomicU64,
}

/// At most for the lock of a table whose statement is prepared ahead.
const PATIENCE_AHEAD_MAX: Duration = Duration::from_millis(10);

const INCARNATION_SQL: &str = concat!("SELECT ", incarnation_sql!());

impl ServerManager {
    pub(crate) fn new(node: Arc<Node>, url: ConnectionUrl, config: &Config, path: Path) -> Self {
        Self {
            node,
            settings: DialSettings::new(config),
            roster: Arc::default(),
            bench: Bench::default(),
            size_max: config.pool_size_max,
            lifetime_max: config.connection_lifetime_max,
            url: Arc::new(url),
            path,
            statements_ahead: config.statements_ahead.iter().copied().take(STATEMENTS_AHEAD_MAX).collect(),
            dials: Semaphore::new(DIALS_MAX),
            warming: Semaphore::new(1),
            making: AtomicUsize::new(0),
            ahead: AtomicUsize::new(0),
            renewed: AtomicU64::new(0),
        }
    }

    /// Makes a connection, statements prepared.
    pub(crate) async fn connect(&self) -> Result<Box<Pooled>, Error> {
        if self.node.is_down() {
            return Err(Error::NodeDown { node: self.node.id.clone() });
        }
        let _permit = self.dials.acquire().await.map_err(|_| Error::Closed)?;
        let dialling = Dialling::begin(&self.node);
        // Read before dialling: a restart in between makes the connection look too old, never too new.
        let generation = self.node.generation();
        // Named by what was dialled: behind a pooler that is not the server.
        let endpoint = NodeId::new(self.url.endpoint());
        let dialled = dial_tapped(&endpoint, &self.url, &self.settings, self.path).await;
        dialling.end();
        let DialledTapped { client, task, tap } = dialled?;
        let cancel = client.cancel_token();
        let client = ClientWrapper::new(client, task);
        let statements = StatementCache::new(STATEMENTS_MAX);
        let incarnation = match self.path {
            Path::Direct => {
                // All of it in one flight.
                let (incarnation, prepared) =
                    join(self.incarnation(&client), self.prepare_ahead(&client, &statements)).await;
                prepared.map_err(|source| Error::Dial { node: self.node.id.clone(), source })?;
                incarnation?
            }
            Path::Pooler => {
                let done = preload_types(&client).await;
                done.map_err(|source| Error::Dial { node: self.node.id.clone(), source })?;
                0
            }
        };
        let expires_at = Instant::now() + lifetime(self.lifetime_max, rand::random());
        let replace_at = expires_at - self.lifetime_max.mul_f64(RENEW_PART);
        let presence = Presence::enter(&self.roster, tap, statements, replace_at, cancel);
        let (path, url) = (self.path, Arc::clone(&self.url));
        let cleanings = 0;
        Ok(Box::new(Pooled { client, presence, path, url, incarnation, generation, expires_at, cleanings }))
    }

    async fn incarnation(&self, client: &ClientWrapper) -> Result<i64, Error> {
        let node = || self.node.id.clone();
        let row = client.query_typed(INCARNATION_SQL, &[]).await;
        let row = row.map_err(|source| Error::Dial { node: node(), source })?;
        let value = row.first().and_then(|row| row.try_get(0).ok());
        value.ok_or_else(|| Error::UnknownForm { node: node(), what: "the server's start time" })
    }

    /// A statement that would have to wait for a lock on its table is left to the caller who needs it.
    async fn prepare_ahead(
        &self,
        client: &ClientWrapper,
        statements: &StatementCache,
    ) -> Result<(), tokio_postgres::Error> {
        // Read first: should it change meanwhile, what is prepared here is forgotten and prepared once more.
        let schema = self.node.schema();
        // What is about to change would be prepared for nobody.
        if self.statements_ahead.is_empty() || !schema.is_settled() {
            return Ok(());
        }
        let preparing = self.statements_ahead.iter().map(|statement| async move {
            match client.prepare_typed(statement.sql(), statement.types()).await {
                Ok(prepared) => statements.insert(statement.sql(), prepared, schema),
                // Its table may come with a later migration; the caller who needs it then prepares it or is told.
                Err(error) => debug!(sql = statement.sql(), %error, "not prepared ahead"),
            }
        });
        // All of them together stay below the limit of a dial.
        let number = u32::try_from(self.statements_ahead.len()).unwrap_or(u32::MAX);
        let patience = (self.settings.connect_timeout / 2 / number).min(PATIENCE_AHEAD_MAX);
        let set = format!("SET lock_timeout = {}", patience.as_millis().max(1));
        // Sent in this order, all at once.
        let (set, _prepared, reset) = join3(
            client.batch_execute(&set),
            join_all(preparing),
            client.batch_execute("RESET lock_timeout"),
        )
        .await;
        set.and(reset)
    }

    /// Why a connection must not be handed out, as far as that is known without asking.
    fn fault(&self, pooled: &Pooled, now: Instant) -> Option<&'static str> {
        if pooled.client.is_closed() {
            Some("closed")
        } else if pooled.generation != self.node.generation() {
            Some("made before its server went down or restarted")
        } else if now >= pooled.expires_at {
            Some("older than its lifetime")
        } else if pooled.presence.tap.status() != TransactionStatus::Idle {
            Some("in a transaction")
        } else {
            None
        }
    }

    /// Whether its server answers. Not asked if it was heard of a moment ago and owes no answer.
    async fn answers(&self, pooled: &Pooled, now: Instant) -> bool {
        let tap = &pooled.presence.tap;
        let is_quiet = tap.outstanding() == 0 && tap.silence(now) < IDLE_TEST_AFTER;
        if is_quiet && !self.node.is_suspect() {
            return true;
        }
        let asked = Box::pin(pooled.client.check_connection());
        let is_alive = matches!(timeout(IDLE_TEST_TIMEOUT, asked).await, Ok(Ok(())));
        if !is_alive {
            // The monitor looks at once: if the server is gone, all other connections go with it, untested.
            self.node.suspect();
        }
        is_alive
    }

    /// Exchanges a connection near its end for a fresh one that was made for that.
    fn exchange(&self, pooled: &mut Box<Pooled>, now: Instant) {
        if !self.claim_ahead() {
            return;
        }
        let is_fresh = |fresh: &Pooled| now < fresh.presence.replace_at && self.fault(fresh, now).is_none();
        match self.bench.take_if(is_fresh) {
            Some(fresh) => {
                drop(std::mem::replace(pooled, fresh));
                self.note_renewed();
            }
            None => self.note_ahead(),
        }
    }

    /// Fresh connections that wait for an old one to come back.
    pub(crate) fn ahead(&self) -> usize {
        // One may have been taken to fill the pool instead.
        let seated = self.bench.len();
        self.ahead.fetch_min(seated, Ordering::AcqRel).min(seated)
    }

    /// One fresh connection more than old ones closed for it.
    pub(crate) fn note_ahead(&self) {
        self.ahead.fetch_add(1, Ordering::AcqRel);
    }

    /// To be had before an old connection is closed for a fresh one, or two would go for the same.
    pub(crate) fn claim_ahead(&self) -> bool {
        let one_less = |ahead: usize| ahead.checked_sub(1);
        self.ahead.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less).is_ok()
    }

    /// An old connection went for which a fresh one had been made.
    pub(crate) fn note_renewed(&self) {
        self.renewed.fetch_add(1, Ordering::Relaxed);
    }
}

/// A connection that is being made for the pool, which counts it when it is there.
struct Making<'a>(&'a AtomicUsize);

impl<'a> Making<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A dial that its caller may give up before its own limit: if that is late, it speaks of the server.
struct Dialling<'a> {
    node: &'a Node,
    begun: Instant,
    is_over: bool,
}

/// As long as no server takes to answer that is well.
const DIAL_LATE: Duration = Duration::from_millis(250);

impl<'a> Dialling<'a> {
    fn begin(node: &'a Node) -> Self {
        Self { node, begun: Instant::now(), is_over: false }
    }

    /// However it ended, its caller hears of it.
    fn end(mut self) {
        self.is_over = true;
    }
}

impl Drop for Dialling<'_> {
    fn drop(&mut self) {
        if !self.is_over && self.begun.elapsed() >= DIAL_LATE {
            self.node.breaker().failed(Instant::now());
            self.node.suspect();
        }
    }
}

/// The longest life, less up to a fifth at random, so that connections opened together do not end together.
fn lifetime(longest: Duration, random: f64) -> Duration {
    longest - longest.mul_f64(LIFETIME_JITTER_PART * random)
}

impl managed::Manager for ServerManager {
    /// In a box: it is moved several times at every checkout.
    type Type = Box<Pooled>;
    type Error = Error;

    async fn create(&self) -> Result<Box<Pooled>, Error> {
        note_served();
        let _making = Making::begin(&self.making);
        while let Some(pooled) = self.bench.take() {
            let now = Instant::now();
            if self.fault(&pooled, now).is_none() && self.answers(&pooled, now).await {
                return Ok(pooled);
            }
        }
        // Seldom, and large: who finds a connection does not carry it.
        Box::pin(self.connect()).await.inspect_err(|error| {
            if error.class().is_node_fault() && !is_server_full(error) {
                self.node.breaker().failed(Instant::now());
                self.node.suspect();
            }
        })
    }

    async fn recycle(&self, pooled: &mut Box<Pooled>, _: &Metrics) -> RecycleResult<Error> {
        note_served();
        let now = Instant::now();
        if now >= pooled.presence.replace_at {
            self.exchange(pooled, now);
        }
        match self.fault(pooled, now) {
            Some(fault) => Err(RecycleError::message(fault)),
            None if self.answers(pooled, now).await => Ok(()),
            None => Err(RecycleError::message("no answer to an empty round trip")),
        }
    }
}

/// Makes an empty pool; nothing is dialled yet.
pub(crate) fn build(manager: ServerManager, config: &Config) -> Pool {
    Pool::builder(manager)
        .max_size(config.pool_size_max)
        // The one given back last, whose server process still has everything at hand. Callers wait in the order they came.
        .queue_mode(QueueMode::Lifo)
        .timeouts(Timeouts {
            wait: Some(config.acquire_timeout),
            create: Some(config.connect_timeout),
            // The test limits itself, and `acquire` all phases together.
            recycle: None,
        })
        .runtime(Runtime::Tokio1)
        .build()
        .expect("a runtime is given, which is all that building can miss")
}

/// Takes back a connection that left the pool and was cleaned, unless the pool has no room for it any more.
pub(crate) fn readmit(pool: &Pool, mut pooled: Box<Pooled>, left: Left) -> bool {
    let maker = pool.manager();
    pooled.cleanings += u32::from(left.statement);
    if left.lost_its_way
        || pooled.cleanings >= CLEANINGS_MAX
        || maker.fault(&pooled, Instant::now()).is_some()
    {
        return false;
    }
    maker.bench.seat(pooled, |seated| open_with(pool, seated) < maker.size_max).is_ok()
}

/// How many are open or soon will be, with `seated` ones on the bench.
fn open_with(pool: &Pool, seated: usize) -> usize {
    pool.manager().making.load(Ordering::Acquire) + pool.status().size + seated
}

/// Opens connections side by side until there are `size`.
pub(crate) async fn warm(pool: &Pool, size: usize, wait: Duration) -> Result<(), Error> {
    // One at a time, or two who both find it empty would open twice as many.
    let _turn = pool.manager().warming.acquire().await.map_err(|_| Error::Closed)?;
    let missing = size.saturating_sub(status(pool).size);
    // Held together until all are made, or the pool would hand the first one out again.
    let until = Instant::now() + wait;
    let made = join_all((0..missing).map(|_| acquire(pool, Instant::now(), until))).await;
    made.into_iter().try_for_each(|result| result.map(drop))
}

/// Closes idle connections that a restart or a loss of the server made worthless, without waiting for their turn.
pub(crate) fn drop_outdated(pool: &Pool) {
    let generation = pool.manager().node.generation();
    let outdated = pool.retain(|pooled, _| pooled.generation == generation);
    // Dropped here and not under the pool's lock.
    drop(outdated.removed);
    while let Some(seated) = pool.manager().bench.take_if(|pooled| pooled.generation != generation) {
        drop(seated);
    }
}

/// Hands nothing out any more; idle connections close.
pub(crate) fn close(pool: &Pool) {
    pool.close();
    drop(pool.manager().bench.close());
}

pub(crate) fn status(pool: &Pool) -> PoolStatus {
    let status = pool.status();
    let maker = pool.manager();
    PoolStatus {
        size_max: status.max_size,
        size: status.size + maker.bench.len(),
        in_use: status.size.saturating_sub(status.available),
        waiting: status.waiting,
        renewed: maker.renewed.load(Ordering::Relaxed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_begun_together_end_over_more_than_a_tenth_of_the_longest() {
        let longest = Duration::from_secs(10);
        let lives: Vec<Duration> = (0..50).map(|_| lifetime(longest, rand::random())).collect();
        let (shortest, last) = (lives.iter().min().expect("fifty"), lives.iter().max().expect("fifty"));
        assert!(*last <= longest && *shortest >= longest * 4 / 5, "{lives:?}");
        // All fifty draws in one half of the range: 1 in 10^14.
        assert!(*last - *shortest >= longest / 10, "{lives:?}");
    }
}
