//! One connection to one server, over which all its commands travel, multiplexed, and the breaker that
//! is nothing but its absence: while there is none, commands fail at once and a supervisor tries to
//! make one and to have it answer.
//! Refuses to trust a server that is not the one it was. Called by `exec`; supervised by `router`.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use redis::{AsyncConnectionConfig, Cmd, Pipeline, Value, aio::ConnectionLike};
use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    RedisOptions,
    dial::{Dialed, Endpoint},
    failure::{Failure, is_unfit},
    keys::Slots,
    lane::{Lane, Wish},
    lock,
    origin::Origin,
    witness::{Claiming, ServerId, Witness, local_ms},
};
use crate::{FLOOR_LIFE, YoungServer, complaint::Complaint, tier::TierError};

/// Commands that may time out in a row before the connection is given up: one may be bad luck, and
/// each costs its caller a whole timeout.
const TIMEOUTS_IN_A_ROW_MAX: u32 = 3;

/// First pause before another attempt to connect.
const RECONNECT_MIN: Duration = Duration::from_millis(25);

/// Longest pause between attempts: how late the tier is used again after it is back.
const RECONNECT_MAX: Duration = Duration::from_secs(1);

/// Between two looks at the server's identity and its clock. Two failovers within it, there and
/// back again, would go unnoticed; clocks drift by less than 0.1 ms in it.
const VERIFY_EVERY: Duration = Duration::from_secs(1);

/// Calls on their way per server before others wait for their turn, within their timeout.
const PIPELINE_MAX: usize = 1_024;

/// Pipelines of single commands on their way at once: while the server works on one, the answers of the
/// other are handed out and the next is made.
const PIPELINES_IN_FLIGHT: usize = 2;

/// Calls on their way from which on a read does not bring its claim along.
const CROWD: usize = 8;

/// A connection to a server that is known.
pub(super) struct Live {
    dialed: Dialed,
    pub(super) server: ServerId,
    pub(super) claiming: Claiming,
    /// Where it is, for the subscription that belongs to it.
    pub(super) endpoint: Endpoint,
    offset_ms: AtomicU64,
    blind_until: Option<Instant>,
    lane: Lane,
}

impl Live {
    /// The server's time in milliseconds, or a little later.
    pub(super) fn now_ms(&self) -> u64 {
        local_ms().saturating_add(self.offset_ms.load(Ordering::Relaxed))
    }

    /// The host it is at.
    pub(super) fn host(&self) -> &str {
        self.endpoint.host()
    }

    /// True while floors that should be here may have been lost with the server before this one.
    pub(super) fn is_blind(&self) -> bool {
        self.blind_until.is_some_and(|until| Instant::now() < until)
    }
}

/// The server seen last, and until when its floors are doubted.
#[derive(Clone, Copy)]
struct Known {
    server: ServerId,
    blind_until: Option<Instant>,
}

pub(super) struct Link {
    origin: Origin,
    slots: Slots,
    live: ArcSwapOption<Live>,
    known: Mutex<Option<Known>>,
    timeouts_in_a_row: AtomicU32,
    lost: Notify,
    /// Told when the connection has come or gone.
    changed: Arc<Notify>,
    turns: Semaphore,
    command_timeout: Duration,
    connect_timeout: Duration,
    young_server: YoungServer,
}

impl Link {
    /// Prepares the link; nothing is connected yet.
    pub(super) fn new(origin: Origin, slots: Slots, options: &RedisOptions, changed: Arc<Notify>) -> Self {
        Self {
            origin,
            slots,
            live: ArcSwapOption::empty(),
            known: Mutex::default(),
            timeouts_in_a_row: AtomicU32::new(0),
            lost: Notify::new(),
            changed,
            turns: Semaphore::new(PIPELINE_MAX),
            command_timeout: options.command_timeout,
            connect_timeout: options.connect_timeout,
            young_server: options.young_server,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.live.load().is_some()
    }

    pub(super) fn live(&self) -> Option<Arc<Live>> {
        self.live.load_full()
    }

    /// One command, together with those of other callers.
    pub(super) async fn one(&self, live: &Live, wish: Wish) -> Result<Value, TierError> {
        let _turn = self.turn().await?;
        live.lane.call(wish).await
    }

    /// So many calls are on their way that one more trip for some of them is less than a command of its own for each.
    pub(super) fn is_crowded(&self) -> bool {
        self.turns.available_permits() + CROWD <= PIPELINE_MAX
    }

    /// Several commands, as a pipeline of their own. Errors of single commands are among the values.
    pub(super) async fn many(
        &self,
        live: &Arc<Live>,
        mut commands: Vec<Cmd>,
    ) -> Result<Vec<Value>, TierError> {
        let _turn = self.turn().await?;
        let mut connection = live.dialed.connection.clone();
        let answers = if let [command] = &commands[..] {
            connection.req_packed_command(command).await.map(|value| vec![value])
        } else {
            let mut pipeline = Pipeline::with_capacity(commands.len());
            commands.drain(..).for_each(|command| {
                pipeline.add_command(command);
            });
            connection.req_packed_commands(&pipeline, 0, pipeline.len()).await
        };
        match answers.map_err(Failure::from) {
            Ok(values) => {
                self.judge(live, Ok(()));
                Ok(values)
            }
            Err(failure) => {
                self.judge(live, Err(&failure));
                Err(failure.told())
            }
        }
    }

    async fn turn(&self) -> Result<SemaphorePermit<'_>, TierError> {
        if let Ok(turn) = self.turns.try_acquire() {
            return Ok(turn);
        }
        let turn = timeout(self.command_timeout, self.turns.acquire()).await;
        turn.map_err(|_elapsed| TierError::TimedOut)?.map_err(|_closed| TierError::Down)
    }

    /// Draws the consequence from how commands on `live` ended.
    fn judge(&self, live: &Arc<Live>, result: Result<(), &Failure>) {
        match result {
            Ok(()) => self.timeouts_in_a_row.store(0, Ordering::Relaxed),
            Err(failure) if failure.is_timeout() => {
                if self.timeouts_in_a_row.fetch_add(1, Ordering::Relaxed) + 1 >= TIMEOUTS_IN_A_ROW_MAX {
                    self.give_up(live, failure);
                }
            }
            Err(failure) if failure.is_fatal() => self.give_up(live, failure),
            Err(failure) => tracing::debug!(%failure, "redis command failed"),
        }
    }

    /// Gives the connection up if an error that came as an answer says that the server is unfit.
    pub(super) fn heed(&self, live: &Arc<Live>, code: &str) {
        if is_unfit(code) {
            self.give_up(live, &Failure::NotPrimary);
        }
    }

    /// Opens the breaker, unless another command has done so and a new connection is up already.
    fn give_up(&self, live: &Arc<Live>, failure: &Failure) {
        let previous = self.live.compare_and_swap(live, None);
        if previous.as_ref().is_some_and(|previous| Arc::ptr_eq(previous, live)) {
            tracing::warn!(%failure, "redis is down, loads go straight to their source");
            live.lane.close();
            self.lost.notify_one();
            self.changed.notify_one();
        }
    }

    /// Keeps a connection up. Never returns; dropped with its tier.
    pub(super) async fn supervise(self: Arc<Self>) {
        let (mut pause, mut complaint) = (RECONNECT_MIN, Complaint::of("redis"));
        loop {
            match timeout(self.connect_timeout.saturating_mul(2), self.establish())
                .await
                .unwrap_or(Err(Failure::Slow))
            {
                Ok(live) => {
                    tracing::info!("redis is up");
                    pause = RECONNECT_MIN;
                    complaint.connected();
                    self.use_until_lost(Arc::new(live)).await;
                }
                Err(failure) => complaint.tell(&failure, failure.outlook()),
            }
            sleep(pause.mul_f64(0.5 + 0.5 * rand::random::<f64>())).await;
            pause = (pause * 2).min(RECONNECT_MAX);
        }
    }

    async fn use_until_lost(self: &Arc<Self>, live: Arc<Live>) {
        /// Leaves nobody waiting when the supervisor is dropped.
        struct CloseOnDrop<'a>(&'a Live);
        impl Drop for CloseOnDrop<'_> {
            fn drop(&mut self) {
                self.0.lane.close();
            }
        }
        let _close = CloseOnDrop(&live);
        self.timeouts_in_a_row.store(0, Ordering::Relaxed);
        self.live.store(Some(Arc::clone(&live)));
        self.changed.notify_one();
        // On tasks of their own: they wake once per pipeline, and nothing else should be looked at then.
        let mut lanes = JoinSet::new();
        for _ in 0..PIPELINES_IN_FLIGHT {
            let (link, live) = (Arc::clone(self), Arc::clone(&live));
            lanes.spawn(async move {
                let judge = |result: Result<(), &Failure>| link.judge(&live, result);
                live.lane.drive(live.dialed.connection.clone(), judge).await;
            });
        }
        tokio::select! {
            () = self.lost.notified() => {}
            () = self.verify(&live) => {}
        }
    }

    /// Looks at the server every second, and returns when it is no longer the one it was.
    async fn verify(&self, live: &Arc<Live>) {
        let mut connection = live.dialed.connection.clone();
        loop {
            sleep(VERIFY_EVERY).await;
            let seen = match Witness::ask(&mut connection).await {
                Ok(witness) if witness.id == live.server => {
                    live.offset_ms.store(witness.offset_ms, Ordering::Relaxed);
                    self.origin.confirm(&live.endpoint).await
                }
                Ok(_other) => Err(Failure::NotPrimary),
                Err(failure) => Err(failure),
            };
            match seen {
                Ok(()) => self.judge(live, Ok(())),
                Err(failure) => self.judge(live, Err(&failure)),
            }
        }
    }

    /// A new connection, proven by an answer, and the identity of the server at its other end.
    async fn establish(&self) -> Result<Live, Failure> {
        // A signal left over from the connection before.
        let _stale = timeout(Duration::ZERO, self.lost.notified()).await;
        let endpoint = self.origin.resolve(self.connect_timeout).await?;
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(Some(self.command_timeout))
            .set_pipeline_buffer_size(PIPELINE_MAX);
        let mut dialed = endpoint.connect(config, self.connect_timeout).await?;
        let witness = Witness::ask(&mut dialed.connection).await?;
        Ok(Live {
            dialed,
            server: witness.id,
            claiming: witness.claiming,
            endpoint,
            offset_ms: AtomicU64::new(witness.offset_ms),
            blind_until: self.blind_until(&witness),
            lane: Lane::new(self.slots),
        })
    }

    /// Until when floors may be missing: they lived on the server that this one has taken the place of.
    fn blind_until(&self, witness: &Witness) -> Option<Instant> {
        let mut known = lock(&self.known);
        let life = match *known {
            Some(known) if known.server == witness.id => return known.blind_until,
            Some(_another) => FLOOR_LIFE,
            // It does not tell since when it is the primary.
            None if witness.was_promoted => FLOOR_LIFE,
            None if self.young_server == YoungServer::Trusted => Duration::ZERO,
            None => FLOOR_LIFE.saturating_sub(witness.uptime),
        };
        let blind_until = (!life.is_zero()).then(|| Instant::now() + life);
        *known = Some(Known { server: witness.id, blind_until });
        blind_until
    }
}
