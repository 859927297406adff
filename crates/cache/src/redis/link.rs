//! The one connection over which all commands of a tier travel, multiplexed, and the breaker that
//! is nothing but its absence: while there is none, commands fail at once and a supervisor tries
//! to make one. Measured, a pooled connection per command is five times slower.
//! Called by `redis::remote`; supervised by a task that `RedisTier` owns.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use deadpool_redis::{Connection, Manager, Pool, Runtime};
use redis::{AsyncConnectionConfig, ConnectionInfo, RedisError, RedisResult, aio::MultiplexedConnection};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::RedisOptions;
use crate::remote::RemoteError;

/// Commands that may time out in a row before the connection is given up: one may be bad luck, and
/// each costs its caller a whole timeout.
const TIMEOUTS_IN_A_ROW_MAX: u32 = 3;

/// First pause before another attempt to connect.
const RECONNECT_MIN: Duration = Duration::from_millis(25);

/// Longest pause between attempts: how late the tier is used again after it is back.
const RECONNECT_MAX: Duration = Duration::from_secs(1);

/// Commands queued inside of the client before callers wait for room, within their timeout.
const PIPELINE_MAX: usize = 1_024;

/// Stands in for a run id that a server (or a proxy) does not tell; restarts then go unnoticed.
const RUN_ID_UNKNOWN: &str = "0000000000000000000000000000000000000000";

/// A connection to a server that is known by its run id.
pub(super) struct Live {
    pub(super) connection: MultiplexedConnection,
    pub(super) run_id: String,
}

pub(super) struct Link {
    pool: Pool,
    live: ArcSwapOption<Live>,
    timeouts_in_a_row: AtomicU32,
    lost: Notify,
    connect_timeout: Duration,
}

impl Link {
    /// Prepares the link; nothing is connected yet.
    pub(super) fn new(info: ConnectionInfo, options: &RedisOptions) -> RedisResult<Self> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(options.connect_timeout))
            .set_response_timeout(Some(options.command_timeout))
            .set_pipeline_buffer_size(PIPELINE_MAX);
        let manager = Manager::new_with_config(info, config)?;
        let pool = Pool::builder(manager)
            .max_size(1)
            .create_timeout(Some(options.connect_timeout))
            .wait_timeout(Some(options.connect_timeout))
            .recycle_timeout(Some(options.connect_timeout))
            .runtime(Runtime::Tokio1)
            .build()
            .expect("a runtime is given for the timeouts");
        Ok(Self {
            pool,
            live: ArcSwapOption::empty(),
            timeouts_in_a_row: AtomicU32::new(0),
            lost: Notify::new(),
            connect_timeout: options.connect_timeout,
        })
    }

    pub(super) fn is_up(&self) -> bool {
        self.live.load().is_some()
    }

    pub(super) fn live(&self) -> Result<Arc<Live>, RemoteError> {
        self.live.load_full().ok_or(RemoteError::Down)
    }

    /// Draws the consequence from how a command on `live` ended.
    pub(super) fn judge<T>(&self, live: &Arc<Live>, result: RedisResult<T>) -> Result<T, RemoteError> {
        let error = match result {
            Ok(value) => {
                self.timeouts_in_a_row.store(0, Ordering::Relaxed);
                return Ok(value);
            }
            Err(error) => error,
        };
        if error.is_timeout() {
            if self.timeouts_in_a_row.fetch_add(1, Ordering::Relaxed) + 1 >= TIMEOUTS_IN_A_ROW_MAX {
                self.give_up(live, "no answers");
            }
            return Err(RemoteError::TimedOut);
        }
        if is_fatal(&error) {
            self.give_up(live, "connection lost");
        }
        tracing::debug!(%error, "redis command failed");
        Err(RemoteError::Failed)
    }

    /// Opens the breaker, unless another command has done so and a new connection is up already.
    fn give_up(&self, live: &Arc<Live>, cause: &str) {
        let previous = self.live.compare_and_swap(live, None);
        if previous.as_ref().is_some_and(|previous| Arc::ptr_eq(previous, live)) {
            tracing::warn!(cause, "redis is down, loads go straight to their source");
            self.lost.notify_one();
        }
    }

    /// Keeps a connection up. Never returns; dropped with the tier.
    pub(super) async fn supervise(self: Arc<Self>) {
        let mut pause = RECONNECT_MIN;
        loop {
            match timeout(self.connect_timeout * 2, self.establish()).await {
                Ok(Ok(live)) => {
                    tracing::info!("redis is up");
                    self.timeouts_in_a_row.store(0, Ordering::Relaxed);
                    self.live.store(Some(Arc::new(live)));
                    pause = RECONNECT_MIN;
                    self.lost.notified().await;
                }
                Ok(Err(cause)) => tracing::debug!(%cause, "connect to redis"),
                Err(_elapsed) => tracing::debug!("connecting to redis took too long"),
            }
            sleep(pause.mul_f64(0.5 + 0.5 * rand::random::<f64>())).await;
            pause = (pause * 2).min(RECONNECT_MAX);
        }
    }

    /// A new connection, proven by an answer, and the identity of the server at its other end.
    async fn establish(&self) -> Result<Live, deadpool_redis::PoolError> {
        let mut connection = Connection::take(self.pool.get().await?);
        let facts: String = redis::cmd("INFO").arg("server").query_async(&mut connection).await?;
        let run_id = facts.lines().find_map(|line| line.strip_prefix("run_id:")).map(str::trim);
        let run_id = run_id.filter(|id| id.len() == RUN_ID_UNKNOWN.len()).unwrap_or_else(|| {
            tracing::warn!("redis does not tell its run id, a restart with old data would go unnoticed");
            RUN_ID_UNKNOWN
        });
        Ok(Live { connection, run_id: run_id.to_owned() })
    }
}

/// True if no later command on the same connection can do better.
fn is_fatal(error: &RedisError) -> bool {
    // READONLY: the server was demoted; LOADING, MASTERDOWN: it is not ready to serve.
    let unfit = matches!(error.code(), Some("READONLY" | "LOADING" | "MASTERDOWN"));
    unfit || error.is_io_error() || error.is_connection_dropped() || error.is_unrecoverable_error()
}
