//! The pool of one server: bounded size, first come first served, a limit on every phase, and tests that keep dead or
//! outdated connections from being handed out. It dials no server that the monitor calls down.
//! Called by `Db` when it has chosen a server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool::Runtime;
use deadpool::managed::{
    self, Metrics, PoolError, QueueMode, RecycleError, RecycleResult, TimeoutType, Timeouts,
};
use deadpool_postgres::ClientWrapper;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::config::{
    Config, DIALS_MAX, IDLE_TEST_AFTER, IDLE_TEST_TIMEOUT, LIFETIME_JITTER_MAX, LIFETIME_MAX, STATEMENTS_MAX,
};
use crate::dial::{DialSettings, Dialled, Purpose, dial};
use crate::error::{AcquirePhase, Error};
use crate::incarnation::incarnation_sql;
use crate::node::{Node, NodeId};
use crate::statement_cache::StatementCache;
use crate::status::PoolStatus;
use crate::url::ConnectionUrl;

pub(crate) type Pool = managed::Pool<ServerManager>;
pub(crate) type PoolObject = managed::Object<ServerManager>;

/// How pooled connections reach their server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// Straight: statements are prepared and cached.
    Direct,
    /// Through a pooler in transaction mode: statements are unnamed, nothing is cached.
    Pooler,
}

/// A connection that belongs to a pool.
#[derive(Debug)]
pub(crate) struct Pooled {
    pub(crate) client: ClientWrapper,
    pub(crate) statements: StatementCache,
    pub(crate) path: Path,
    /// Where a cancel has to go.
    pub(crate) url: Arc<ConnectionUrl>,
    /// Of the server process behind it; 0 behind a pooler, where it may change with every transaction.
    pub(crate) incarnation: i64,
    generation: u64,
    expires_at: Instant,
    /// When it was last given back; the pool's own clock only knows when it was last taken.
    pub(crate) idle_since: Instant,
}

/// Makes and tests the connections of one pool.
#[derive(Debug)]
pub(crate) struct ServerManager {
    node: Arc<Node>,
    url: Arc<ConnectionUrl>,
    settings: DialSettings,
    path: Path,
    dials: Semaphore,
    warming: Semaphore,
}

const INCARNATION_SQL: &str = concat!("SELECT ", incarnation_sql!());

impl ServerManager {
    pub(crate) fn new(node: Arc<Node>, url: ConnectionUrl, config: &Config, path: Path) -> Self {
        Self {
            node,
            url: Arc::new(url),
            settings: DialSettings::new(config),
            path,
            dials: Semaphore::new(DIALS_MAX),
            warming: Semaphore::new(1),
        }
    }

    async fn connect(&self) -> Result<Pooled, Error> {
        if self.node.is_down() {
            return Err(Error::NodeDown { node: self.node.id.clone() });
        }
        let _permit = self.dials.acquire().await.map_err(|_| Error::Closed)?;
        // Read before dialling: a restart in between makes the connection look too old, never too new.
        let generation = self.node.generation();
        let purpose = match self.path {
            Path::Direct => Purpose::Pooled,
            Path::Pooler => Purpose::BehindPooler,
        };
        // Named by what was dialled: behind a pooler that is not the server.
        let dialled = dial(&NodeId::new(self.url.endpoint()), &self.url, &self.settings, purpose).await?;
        let Dialled { client, task } = dialled;
        let client = ClientWrapper::new(client, task);
        let incarnation = match self.path {
            Path::Direct => self.incarnation(&client).await?,
            Path::Pooler => 0,
        };
        let now = Instant::now();
        Ok(Pooled {
            client,
            statements: StatementCache::new(STATEMENTS_MAX),
            path: self.path,
            url: Arc::clone(&self.url),
            incarnation,
            generation,
            expires_at: now + LIFETIME_MAX - LIFETIME_JITTER_MAX.mul_f64(rand::random()),
            idle_since: now,
        })
    }

    async fn incarnation(&self, client: &ClientWrapper) -> Result<i64, Error> {
        let node = || self.node.id.clone();
        let row = client.query_typed(INCARNATION_SQL, &[]).await;
        let row = row.map_err(|source| Error::Dial { node: node(), source })?;
        let value = row.first().and_then(|row| row.try_get(0).ok());
        value.ok_or_else(|| Error::UnknownForm { node: node(), what: "the server's start time" })
    }
}

impl managed::Manager for ServerManager {
    type Type = Pooled;
    type Error = Error;

    async fn create(&self) -> Result<Pooled, Error> {
        self.connect().await.inspect_err(|error| {
            if error.class().is_node_fault() {
                self.node.suspect();
            }
        })
    }

    async fn recycle(&self, pooled: &mut Pooled, _: &Metrics) -> RecycleResult<Error> {
        if pooled.client.is_closed() {
            return Err(RecycleError::message("closed"));
        }
        if pooled.generation != self.node.generation() {
            return Err(RecycleError::message("made before its server went down or restarted"));
        }
        let now = Instant::now();
        if now >= pooled.expires_at {
            return Err(RecycleError::message("older than its lifetime"));
        }
        let idle = now.saturating_duration_since(pooled.idle_since);
        if idle < IDLE_TEST_AFTER && !self.node.is_suspect() {
            return Ok(());
        }
        match timeout(IDLE_TEST_TIMEOUT, pooled.client.check_connection()).await {
            Ok(Ok(())) => Ok(()),
            // The monitor looks at once: if the server is gone, all other connections go with it, untested.
            _ => {
                self.node.suspect();
                Err(RecycleError::message("no answer to an empty round trip"))
            }
        }
    }
}

/// Makes an empty pool; nothing is dialled yet.
pub(crate) fn build(manager: ServerManager, config: &Config) -> Pool {
    Pool::builder(manager)
        .max_size(config.pool_size_max)
        .queue_mode(QueueMode::Fifo)
        .timeouts(Timeouts {
            wait: Some(config.acquire_timeout),
            create: Some(config.connect_timeout),
            // The test limits itself; this only catches what it does not foresee.
            recycle: Some(IDLE_TEST_TIMEOUT * 2),
        })
        .runtime(Runtime::Tokio1)
        .build()
        .expect("a runtime is given, which is all that building can miss")
}

/// Takes a connection, waiting for a free one no longer than `wait`, and for all tests and dials together no
/// longer than the connect timeout after that.
pub(crate) async fn acquire(pool: &Pool, wait: Duration) -> Result<PoolObject, Error> {
    let timeouts = Timeouts { wait: Some(wait), ..pool.timeouts() };
    let started = Instant::now();
    let timed_out = |phase| Error::AcquireTimeout {
        node: pool.manager().node.id.clone(),
        phase,
        waited: started.elapsed(),
        pool: status(pool),
    };
    // Several dead connections in a row may have to be tested before one is good.
    let all_phases = wait + pool.manager().settings.connect_timeout;
    match timeout(all_phases, pool.timeout_get(&timeouts)).await {
        Err(_) => Err(timed_out(AcquirePhase::Testing)),
        Ok(taken) => taken.map_err(|error| match error {
            PoolError::Backend(error) => error,
            PoolError::Timeout(TimeoutType::Wait) => timed_out(AcquirePhase::Waiting),
            PoolError::Timeout(TimeoutType::Create) => timed_out(AcquirePhase::Connecting),
            PoolError::Timeout(TimeoutType::Recycle) => timed_out(AcquirePhase::Testing),
            PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => Error::Closed,
        }),
    }
}

/// Opens `size` connections side by side, unless as many are open already.
pub(crate) async fn warm(pool: &Pool, size: usize, wait: Duration) -> Result<(), Error> {
    // One at a time, or two who both find it empty would open twice as many.
    let _turn = pool.manager().warming.acquire().await.map_err(|_| Error::Closed)?;
    let missing = size.saturating_sub(pool.status().size);
    // Held together until all are made, or the pool would hand the first one out again.
    let made = futures_util::future::join_all((0..missing).map(|_| acquire(pool, wait))).await;
    made.into_iter().try_for_each(|result| result.map(drop))
}

/// Closes idle connections that a restart or a loss of the server made worthless, without waiting for their turn.
pub(crate) fn drop_outdated(pool: &Pool) {
    let generation = pool.manager().node.generation();
    let outdated = pool.retain(|pooled, _| pooled.generation == generation);
    // Dropped here and not under the pool's lock.
    drop(outdated.removed);
}

pub(crate) fn status(pool: &Pool) -> PoolStatus {
    let status = pool.status();
    PoolStatus {
        size_max: status.max_size,
        size: status.size,
        in_use: status.size.saturating_sub(status.available),
        waiting: status.waiting,
    }
}
