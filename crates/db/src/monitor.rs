//! One task per server with a connection of its own: asks for role, timeline and position, at every interval or when poked.
//! It never borrows from a pool, so that a full pool cannot blind it, and it alone dials a server that is down.
//! Spawned by `Db::connect`; stopped by its token.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_postgres::{Client, Row, Statement};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::{info, warn};

use crate::config::{PROBE_TIMEOUT, REDIAL_PAUSE_MAX};
use crate::dial::{DialSettings, Dialled, Purpose, dial};
use crate::error::Error;
use crate::forks::Forks;
use crate::incarnation::incarnation_sql;
use crate::lag::PrimaryClock;
use crate::migrate::{STATE_SQL, SchemaState};
use crate::node::{Change, Facts, Node, NodeState, Role};
use crate::observe::Observer;
use crate::pool::{self, Pool};
use crate::pooler::straight_sql;
use crate::token::parse_lsn;
use crate::url::ConnectionUrl;

/// Everything one monitor works with.
#[derive(Debug)]
pub(crate) struct Monitor {
    pub(crate) node: Arc<Node>,
    pub(crate) url: ConnectionUrl,
    pub(crate) settings: DialSettings,
    pub(crate) interval: Duration,
    pub(crate) pool: Pool,
    pub(crate) warm_size: usize,
    pub(crate) warm_wait: Duration,
    pub(crate) clock: Arc<PrimaryClock>,
    pub(crate) forks: Arc<Forks>,
    /// Counts probes of all servers; whoever waits for a change listens here.
    pub(crate) rounds: Arc<watch::Sender<u64>>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) tasks: TaskTracker,
}

/// The cluster's identity, asked once per connection, and whether our settings have reached the server.
const IDENTITY_SQL: &str =
    concat!("SELECT system_identifier, ", straight_sql!(), " FROM pg_control_system()");

/// Role, position, timeline, incarnation, where a primary stopped replaying, and whether migrations announce themselves. A
/// replica's timeline is that of the log it receives; while it receives none, that of its control file, which may lag after a
/// failover but is never ahead.
const PROBE_SQL: &str = concat!(
    "SELECT recovering, \
    CASE WHEN recovering THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END::text, \
    CASE WHEN recovering THEN coalesce( \
        (SELECT received_tli FROM pg_stat_wal_receiver), \
        greatest((SELECT timeline_id FROM pg_control_checkpoint()), \
                 (SELECT min_recovery_end_timeline FROM pg_control_recovery())))::bigint \
    ELSE ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::bigint END, ",
    incarnation_sql!(),
    ", CASE WHEN NOT recovering THEN pg_last_wal_replay_lsn() END::text, \
    coalesce(has_table_privilege(to_regclass('schema_announcements')::oid, 'SELECT'), false) \
    FROM pg_is_in_recovery() AS recovering"
);

struct Link {
    client: Client,
    probe: Statement,
    system_id: u64,
    // Ends the socket's task with the link.
    _task: AbortOnDropHandle<()>,
}

impl Monitor {
    /// Runs until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let stopped = stop.cancelled();
        tokio::select! {
            () = stopped => {}
            () = self.watch() => {}
        }
    }

    async fn watch(&self) {
        let mut pause = self.interval;
        loop {
            let link = match self.link().await {
                Ok(link) => link,
                Err(error) => {
                    self.went_down(&describe(&error));
                    self.rest(pause).await;
                    pause = (pause * 2).min(REDIAL_PAUSE_MAX.max(self.interval));
                    continue;
                }
            };
            pause = self.interval;
            let error = self.probe_until_failure(&link).await;
            self.went_down(&error);
        }
    }

    // A failed caller's poke ends the rest early: the server may be back, or gone, before the interval is over.
    async fn rest(&self, pause: Duration) {
        let _early = timeout(pause, self.node.poke.notified()).await;
    }

    async fn link(&self) -> Result<Link, Error> {
        let Dialled { client, task } =
            dial(&self.node.id, &self.url, &self.settings, Purpose::Monitor).await?;
        let task = AbortOnDropHandle::new(task);
        let node = || self.node.id.clone();
        let asked = async {
            let identity = client.query_typed_one(IDENTITY_SQL, &[]).await?;
            Ok((identity, client.prepare(PROBE_SQL).await?))
        };
        let answered = timeout(PROBE_TIMEOUT, asked).await;
        let (identity, probe) = answered
            .map_err(|_| Error::Deadline { node: node(), after: PROBE_TIMEOUT })?
            .map_err(|source| Error::Query { node: node(), source })?;
        let unknown = || Error::UnknownForm { node: node(), what: "the server's identity" };
        let system_id: i64 = identity.try_get(0).map_err(|_| unknown())?;
        if !identity.try_get(1).map_err(|_| unknown())? {
            return Err(Error::PoolerInTheWay { node: node() });
        }
        Ok(Link { client, probe, system_id: system_id.cast_unsigned(), _task: task })
    }

    async fn probe_until_failure(&self, link: &Link) -> String {
        let mut is_first = true;
        loop {
            let (mark, probed) = (self.node.suspicion_mark(), Instant::now());
            let row = match timeout(PROBE_TIMEOUT, link.client.query_one(&link.probe, &[])).await {
                Err(_) => return format!("no answer to a probe within {PROBE_TIMEOUT:?}"),
                Ok(Err(error)) => return describe(&error),
                Ok(Ok(row)) => row,
            };
            let Some(facts) = read_facts(&row, link) else {
                return "the answer to a probe has an unknown form".to_owned();
            };
            let is_announcing = row.try_get(5).unwrap_or(false);
            // Before anybody is served by it, and afterwards not in the way of what it is asked for.
            if is_first && let Err(error) = self.hear(link, is_announcing).await {
                return error;
            }
            self.answered(facts, mark, probed);
            if !is_first && let Err(error) = self.hear(link, is_announcing).await {
                return error;
            }
            is_first = false;
            self.rest(self.interval).await;
        }
    }

    /// What migrations have announced. Who is refused goes by what was heard last, as one who hears too late.
    async fn hear(&self, link: &Link, is_announcing: bool) -> Result<(), String> {
        if !is_announcing {
            // Where nobody has ever announced anything, and where that may no longer be read.
            self.node.record_schema(SchemaState::default());
            return Ok(());
        }
        let asked = timeout(PROBE_TIMEOUT, link.client.query_typed_one(STATE_SQL, &[])).await;
        // The next probe would wait behind it.
        let asked = asked.map_err(|_| format!("no word on its schema within {PROBE_TIMEOUT:?}"))?;
        if let Some(number) = asked.ok().and_then(|row| row.try_get::<_, i64>(0).ok()) {
            self.node.record_schema(SchemaState::new(number.cast_unsigned()));
        }
        Ok(())
    }

    fn answered(&self, facts: Facts, mark: u64, probed: Instant) {
        let now = Instant::now();
        let lag = match facts.role {
            Role::Primary => {
                self.clock.note(&facts, now);
                self.forks.note(&facts);
                None
            }
            Role::Replica => self.clock.lag(&facts, now),
        };
        let change = self.node.record_facts(facts, lag, probed, now);
        self.node.clear_suspicions(mark);
        if change == Change::Entered(NodeState::Up) {
            info!(node = %self.node.id, role = ?facts.role, timeline = facts.timeline, "server answers");
            pool::drop_outdated(&self.pool);
            self.spawn_warming();
        }
        self.tell(change);
    }

    fn went_down(&self, error: &str) {
        let change = self.node.record_failure(error, Instant::now());
        if change == Change::Entered(NodeState::Down) {
            warn!(node = %self.node.id, error, "server does not answer");
            pool::drop_outdated(&self.pool);
        }
        self.tell(change);
    }

    fn tell(&self, change: Change) {
        if let Change::Entered(state) = change {
            self.observer.node_changed(&self.node.id, state);
        }
        self.rounds.send_modify(|rounds| *rounds += 1);
    }

    // Beside the probes, because dialling may be slow. It ends by itself: every acquire has its limits.
    fn spawn_warming(&self) {
        let (pool, size, wait) = (self.pool.clone(), self.warm_size, self.warm_wait);
        let node = Arc::clone(&self.node);
        self.tasks.spawn(async move {
            if let Err(error) = pool::warm(&pool, size, wait).await {
                info!(node = %node.id, %error, "pool not warmed");
            }
        });
    }
}

fn read_facts(row: &Row, link: &Link) -> Option<Facts> {
    let recovering: bool = row.try_get(0).ok()?;
    // A replica that has replayed nothing since its start has no position yet.
    let lsn: Option<&str> = row.try_get(1).ok()?;
    let timeline: i64 = row.try_get(2).ok()?;
    let left_at: Option<&str> = row.try_get(4).ok()?;
    Some(Facts {
        role: if recovering { Role::Replica } else { Role::Primary },
        timeline: u32::try_from(timeline).ok()?,
        lsn: lsn.map_or(Some(0), parse_lsn)?,
        incarnation: row.try_get(3).ok()?,
        system_id: link.system_id,
        left_at: left_at.and_then(parse_lsn),
    })
}

/// An error with its causes on one line; the driver keeps the useful part in the cause.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
