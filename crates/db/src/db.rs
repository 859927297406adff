//! One `Db` over a primary and its replicas: knows the servers, hands out connections, ends everything on close.
//! It runs no SQL itself. Reading is in `read`, transactions in `transaction`.

use std::panic::Location;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::acquire;
use crate::cancel::cancel;
use crate::config::{CANCEL_TIMEOUT, CLOSE_GRACE, CLOSE_TIMEOUT, Config, three_of_four};
use crate::connection::{Connection, Context};
use crate::dial::{DialSettings, Path, Purpose, dial};
use crate::error::{AcquirePhase, Error};
use crate::forks::Forks;
use crate::incarnation::{History, PrimaryLife};
use crate::lag::PrimaryClock;
use crate::lanes::{Lanes, keep_tidy};
use crate::monitor::Monitor;
use crate::node::{Node, NodeId, NodeState, Observation, Role};
use crate::observe::{AcquireSeen, NoObserver, Observer};
use crate::pool::{self, Pool, ServerManager};
use crate::pooler::{self, PoolerSeen};
use crate::renew::keep_fresh;
use crate::route::Fence;
use crate::session::Session;
use crate::status::{NodeStatus, Status};
use crate::sweep::Sweeper;
use crate::url::ConnectionUrl;
use crate::usage::{Asker, Errand, Place, Usage};

/// A handle to the database; cloning it is cheap, and all clones share their pools.
#[derive(Clone, Debug)]
pub struct Db {
    pub(crate) shared: Arc<Shared>,
    errand: Errand,
}

/// What all clones share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) members: Vec<Member>,
    pub(crate) fence: Fence,
    pub(crate) forks: Arc<Forks>,
    /// Bounds the reads on the primary.
    pub(crate) primary_reads: Arc<Semaphore>,
    /// Of these, those of background work.
    pub(crate) background_reads: Arc<Semaphore>,
    pub(crate) observer: Arc<dyn Observer>,
    sweeper: Arc<Sweeper>,
    /// Counts probes; listened to by whoever waits for a change.
    pub(crate) rounds: Arc<watch::Sender<u64>>,
    pub(crate) tasks: TaskTracker,
    stop: CancellationToken,
}

/// One server and its pool.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) node: Arc<Node>,
    pub(crate) pool: Pool,
    pub(crate) lanes: Arc<Lanes>,
    /// Bounds what background work and lanes may have of the pool.
    pub(crate) background: Arc<Semaphore>,
    url: ConnectionUrl,
    context: Arc<Context>,
}

impl Db {
    /// Connects: returns once a primary answers and its pool is warm. Replicas may be down.
    /// It tries once; the caller owns the loop.
    ///
    /// # Errors
    /// [`Error::Settings`], [`Error::NoPrimary`] when no primary answers within the connect timeout, and the
    /// errors of making the first connections.
    pub async fn connect(config: Config) -> Result<Self, Error> {
        Self::connect_observed(config, Arc::new(NoObserver)).await
    }

    /// As [`Db::connect`], reporting to `observer`.
    ///
    /// # Errors
    /// As [`Db::connect`].
    pub async fn connect_observed(config: Config, observer: Arc<dyn Observer>) -> Result<Self, Error> {
        if let Some(problem) = config.problem() {
            return Err(Error::Settings { problem });
        }
        pooler::refuse_statement_mode(&config).await?;
        let db = Self { shared: Arc::new(Shared::new(config, observer)), errand: Errand::Caller };
        db.shared.spawn_monitors();
        let limit = db.shared.config.connect_timeout;
        let primary = match timeout(limit, db.shared.first_primary()).await {
            Ok(found) => found?,
            Err(_) => db.shared.primary()?,
        };
        let config = &db.shared.config;
        pool::warm(&primary.pool, config.pool_size_min, config.acquire_timeout).await?;
        Ok(db)
    }

    /// A connection to the primary.
    ///
    /// While a primary has been missing for less than the acquire timeout, this waits for one; later it refuses at once.
    ///
    /// # Errors
    /// [`Error::NoPrimary`], [`Error::AcquireTimeout`], [`Error::NestedAcquire`], or the error of making a connection.
    #[track_caller]
    pub fn write(&self) -> impl Future<Output = Result<Connection, Error>> {
        self.write_from(self.asker(Location::caller()))
    }

    /// A handle for work that nobody waits for: of each pool, and of the reads that a primary may serve, it gets three in
    /// four at most, shared connections ([`Db::query`]) included, so that callers who wait find one however much of it there
    /// is. Who asks for more waits as for any other; its reads never share a connection. Everything else is shared with the
    /// handle that it was made from. [`Db::session`] counts in no pool.
    #[must_use]
    pub fn background(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), errand: Errand::Background }
    }

    pub(crate) fn asker(&self, place: Place) -> Asker {
        Asker { place, errand: self.errand }
    }

    /// As [`Db::write`], for `asker`.
    pub(crate) async fn write_from(&self, asker: Asker) -> Result<Connection, Error> {
        let started = Instant::now();
        let primary = self.shared.await_primary(None, started).await?;
        let until = started + self.shared.config.acquire_timeout;
        self.shared.acquire(primary, Role::Primary, until, asker).await
    }

    /// A dedicated connection to the present primary; `name` appears in `pg_stat_activity`.
    ///
    /// # Errors
    /// [`Error::NoPrimary`], or the error of making the connection.
    pub async fn session(&self, name: &str) -> Result<Session, Error> {
        let primary = self.shared.await_primary(None, Instant::now()).await?;
        let settings = DialSettings::new(&self.shared.config);
        let dialled = dial(&primary.node.id, &primary.url, &settings, Purpose::Session(name)).await?;
        Ok(Session::new(dialled, Arc::clone(&primary.node)))
    }

    /// What stands at `pooler_url`, by its own word; `None` without one. Dials its console.
    ///
    /// # Errors
    /// The console is not to be reached, or does not let the URL's user in (PgBouncer: `stats_users`).
    pub async fn pooler(&self) -> Result<Option<PoolerSeen>, Error> {
        match &self.shared.config.pooler_url {
            Some(url) => pooler::ask_console(url, &self.shared.config).await.map(Some),
            None => Ok(None),
        }
    }

    /// What is known about every server now. Cheap: it asks nobody.
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// The newest timeline that this handle has seen a primary on, or a replica of it; 0 while it has seen none. With it, a bare position in
    /// the log becomes a [`Token`](crate::Token). Cheap: it asks nobody.
    #[must_use]
    pub fn timeline(&self) -> u32 {
        self.history().map_or(0, |history| history.timeline)
    }

    /// The newest history of commits that this handle has seen a primary on, or a replica of it; `None` while it has seen none. What was read
    /// under an older one may have been taken back. Cheap: it asks nobody.
    #[must_use]
    pub fn history(&self) -> Option<History> {
        // Whoever only reads may not have chosen one since the last failover: choosing raises the fence.
        let _seen_now = self.shared.chosen_primary();
        self.shared.fence.history()
    }

    /// The present life of the primary, as the last probe saw it: `None` while none answers, when that probe was sent longer
    /// ago than [`Config::monitor_interval`] (two seconds, if that is longer) and the second that its answer may take, and from
    /// when a connection or a session meets a failure that speaks of the server until it has been looked at again. Cheap: it
    /// asks nobody.
    #[must_use]
    pub fn primary_life(&self) -> Option<PrimaryLife> {
        let shared = &self.shared;
        let primary = &shared.members[shared.chosen_primary().ok()?.index].node;
        let seen = primary.observation();
        let is_primary =
            seen.state == NodeState::Up && seen.facts.is_some_and(|facts| facts.role == Role::Primary);
        if primary.is_suspect() || !is_primary {
            return None;
        }
        seen.life(Instant::now(), shared.config.monitor_interval)
    }

    /// Waits until `wanted` holds for the status, looking again after every probe; for readiness checks and tests.
    ///
    /// # Errors
    /// The last status, when `wanted` did not hold within `limit`.
    pub async fn status_when(
        &self,
        limit: Duration,
        wanted: impl Fn(&Status) -> bool,
    ) -> Result<Status, Status> {
        let mut rounds = self.shared.rounds.subscribe();
        let found = timeout(limit, async {
            loop {
                let status = self.status();
                if wanted(&status) {
                    return status;
                }
                // The sender lives as long as `self`.
                let _changed = rounds.changed().await;
            }
        });
        found.await.map_err(|_| self.status())
    }

    /// Refuses new work at once and stops the monitors. What is under way has five seconds to end and to give its
    /// connection back; then its statements are cancelled on the server, and it has as long again. Connections that are
    /// borrowed even then close when they are dropped.
    pub async fn close(&self) {
        self.shared.shut();
        if timeout(CLOSE_GRACE, self.shared.all_released()).await.is_err() {
            self.shared.cancel_held().await;
            let _all_released = timeout(CLOSE_TIMEOUT, self.shared.all_released()).await;
        }
        self.shared.tasks.close();
        let _all_ended = timeout(CLOSE_TIMEOUT, self.shared.tasks.wait()).await;
    }
}

impl Shared {
    fn new(config: Config, observer: Arc<dyn Observer>) -> Self {
        let now = Instant::now();
        let tasks = TaskTracker::new();
        let sweeper = Arc::new(Sweeper::new(tasks.clone(), Handle::current()));
        let context = |node: &Arc<Node>| {
            Arc::new(Context {
                node: Arc::clone(node),
                sweeper: Arc::clone(&sweeper),
                observer: Arc::clone(&observer),
                statement_timeout: config.statement_timeout,
            })
        };
        let members = members(&config, now, context);
        Self {
            members,
            fence: Fence::default(),
            forks: Arc::default(),
            primary_reads: Arc::new(Semaphore::new(config.primary_read_permits())),
            background_reads: Arc::new(Semaphore::new(three_of_four(config.primary_read_permits()))),
            observer,
            sweeper,
            rounds: Arc::new(watch::Sender::new(0)),
            tasks,
            stop: CancellationToken::new(),
            config,
        }
    }

    fn spawn_monitors(&self) {
        let clock = Arc::new(PrimaryClock::new(self.config.replica_lag_max));
        for member in &self.members {
            let monitor = Monitor {
                node: Arc::clone(&member.node),
                url: member.url.clone(),
                settings: DialSettings::new(&self.config),
                interval: self.config.monitor_interval,
                pool: member.pool.clone(),
                warm_size: self.config.pool_size_min,
                warm_wait: self.config.acquire_timeout,
                clock: Arc::clone(&clock),
                forks: Arc::clone(&self.forks),
                rounds: Arc::clone(&self.rounds),
                observer: Arc::clone(&self.observer),
                tasks: self.tasks.clone(),
            };
            self.tasks.spawn(monitor.run(self.stop.clone()));
            self.tasks.spawn(keep_fresh(member.pool.clone(), self.stop.clone()));
            self.tasks.spawn(keep_tidy(Arc::clone(&member.lanes), member.pool.clone(), self.stop.clone()));
        }
    }

    /// Nothing new is begun any more.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub(crate) fn observations(&self) -> Vec<Observation> {
        self.members.iter().map(|member| member.node.observation()).collect()
    }

    pub(crate) async fn acquire(
        &self,
        member: &Member,
        role: Role,
        until: Instant,
        asker: Asker,
    ) -> Result<Connection, Error> {
        let admitted = self.admit(member, until, asker).await?;
        self.acquire_admitted(member, role, until, asker, admitted).await
    }

    /// What must be held before a connection is asked for: a permit of each bound that holds for the errand.
    pub(crate) async fn admit(
        &self,
        member: &Member,
        until: Instant,
        asker: Asker,
    ) -> Result<Vec<OwnedSemaphorePermit>, Error> {
        if asker.errand == Errand::Caller {
            return Ok(Vec::new());
        }
        let started = Instant::now();
        let permit = timeout_at(until.into(), Arc::clone(&member.background).acquire_owned()).await;
        let permit = permit.map_err(|_| {
            let refused = member.refused(AcquirePhase::BackgroundPermit, started.elapsed());
            let failure = Some(refused.class());
            self.observer.acquire(&AcquireSeen { node: &member.node.id, waited: started.elapsed(), failure });
            refused
        })?;
        Ok(vec![permit.map_err(|_| Error::Closed)?])
    }

    /// As [`Shared::acquire`], for one who holds the permits already.
    pub(crate) async fn acquire_admitted(
        &self,
        member: &Member,
        role: Role,
        until: Instant,
        asker: Asker,
        permits: Vec<OwnedSemaphorePermit>,
    ) -> Result<Connection, Error> {
        let started = Instant::now();
        let taken = acquire::acquire(&member.pool, started, until).await;
        let failure = taken.as_ref().err().map(Error::class);
        let now = Instant::now();
        let waited = now.saturating_duration_since(started);
        self.observer.acquire(&AcquireSeen { node: &member.node.id, waited, failure });
        Ok(Connection::new(taken?, role, Usage::new(asker, now), Arc::clone(&member.context), permits))
    }

    async fn all_released(&self) {
        join_all(self.members.iter().map(|member| member.pool.manager().roster.all_released())).await;
    }

    /// Ends what is still running on the server for callers who do not end by themselves.
    async fn cancel_held(&self) {
        let cancels = self.members.iter().flat_map(|member| {
            let held = member.pool.manager().roster.held();
            held.into_iter().filter(|held| held.usage.may_be_cancelled()).map(move |held| async move {
                let url = &member.pool.manager().url;
                // One that is not delivered costs nothing but its limit: the caller's own deadline comes too.
                let _delivered = timeout(CANCEL_TIMEOUT, cancel(&held.presence.cancel, url)).await;
            })
        });
        join_all(cancels).await;
    }

    fn status(&self) -> Status {
        let now = Instant::now();
        let nodes = self.members.iter().map(|member| member.status(now)).collect();
        let primary = self.primary().ok().map(|member| member.node.id.clone());
        Status { nodes, primary, swept: self.sweeper.swept(), cleaned: self.sweeper.cleaned() }
    }

    fn shut(&self) {
        self.stop.cancel();
        for member in &self.members {
            pool::close(&member.pool);
            member.lanes.close();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.shut();
    }
}

impl Member {
    fn new(
        url: &ConnectionUrl,
        pooler: Option<&ConnectionUrl>,
        config: &Config,
        now: Instant,
        context: impl FnOnce(&Arc<Node>) -> Arc<Context>,
    ) -> Self {
        let node = Arc::new(Node::new(NodeId::new(url.endpoint()), config.replica_lag_max, now));
        let path = if pooler.is_some() { Path::Pooler } else { Path::Direct };
        let manager = ServerManager::new(Arc::clone(&node), pooler.unwrap_or(url).clone(), config, path);
        let lanes = Arc::new(Lanes::new(config, path));
        let background = Arc::new(Semaphore::new(three_of_four(config.pool_size_max)));
        let (pool, url, context) = (pool::build(manager, config), url.clone(), context(&node));
        Self { node, pool, lanes, background, url, context }
    }

    /// What is said to one who waited for it in vain.
    pub(crate) fn refused(&self, phase: AcquirePhase, waited: Duration) -> Error {
        Error::AcquireTimeout {
            node: self.node.id.clone(),
            phase,
            waited,
            pool: pool::status(&self.pool),
            holders: self.pool.manager().roster.holders(Instant::now()),
        }
    }

    fn status(&self, now: Instant) -> NodeStatus {
        let seen = self.node.observation();
        let facts = seen.facts.filter(|_| seen.state == NodeState::Up);
        NodeStatus {
            id: self.node.id.clone(),
            state: seen.state,
            suspect: self.node.is_suspect(),
            resting: facts.is_some_and(|facts| facts.role == Role::Replica)
                && self.node.breaker().is_resting(now),
            role: facts.map(|facts| facts.role),
            timeline: facts.map(|facts| facts.timeline),
            lsn: facts.map(|facts| facts.lsn),
            lag: seen.lag,
            in_flight: self.node.in_flight(),
            latency: Duration::from_secs_f64(self.node.latency_micros(now) / 1e6),
            pool: pool::status(&self.pool),
            last_error: seen.last_error.as_deref().map(str::to_owned),
        }
    }
}

fn members(
    config: &Config,
    now: Instant,
    context: impl Fn(&Arc<Node>) -> Arc<Context> + Copy,
) -> Vec<Member> {
    let primary = Member::new(&config.primary_url, config.pooler_url.as_ref(), config, now, context);
    let replicas = config.replica_urls.iter().map(|url| Member::new(url, None, config, now, context));
    std::iter::once(primary).chain(replicas).collect()
}
