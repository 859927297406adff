//! Builds the service from its configuration, runs it, and drains it. Components that do not need each other start side
//! by side; shutdown undoes them in the order of a request's path, so that nothing acknowledged is lost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use paystrata_cache::memcached::{MemcachedOptions, MemcachedTier};
use paystrata_cache::{RedisOptions, RedisServers, RedisTier};
use paystrata_db::plans::{SlowLog, SlowLogOptions};
use paystrata_db::{ConnectionUrl, Db, Observer};
use paystrata_gateway::{
    AuthorizeNet, AuthorizeNetConfig, Gateway, GatewayObserver, ResilienceSettings, VelocityPay,
    VelocityPayConfig,
};
use paystrata_monitor::Monitor;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::app::App;
use crate::bodies::Budget;
use crate::config::{CacheConfig, Config, DatabaseConfig, SecretUrl};
use crate::descriptors::Descriptors;
use crate::documents::{Documents, DocumentsConfig, SharedTiers};
use crate::engine::{Engine, EngineConfig, EngineObserver, Notices, Render};
use crate::fraud::{Fraud, FraudConfig, Switch};
use crate::gateways::Gateways;
use crate::http::limits::too_many_connections;
use crate::listen::{ConnectionLimits, listen};
use crate::merchants::keys::Keys;
use crate::merchants::store::add_merchant;
use crate::migrations::{MIGRATOR, ensure_partitions};
use crate::observe::{CacheFigures, CacheObserver, CommitObserver, DatabaseObserver, ExchangeObserver};
use crate::replies::Replies;
use crate::supervise::{HOUSEKEEPING, RELAY, RESOLVER, SLOW_LOG, STATS_REFRESH, Watch};
use crate::{accounts, hot_keys, housekeeping, merchants, observe, operator, payments, relay, router};

/// The merchant that the development key belongs to: a fixed id, so that every start finds it again.
const DEVELOPMENT_MERCHANT: Uuid = Uuid::from_u128(0x0193_0000_0000_7000_8000_0000_0000_0001);
/// Everything that is not a request gets this long to end after the drain timeout: 25 s and this are 30 s by default,
/// which must be less than what the service manager waits (35 s in `deploy/`).
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Of which the last is for the operator listener,
const OPERATORS_SHARE: Duration = Duration::from_secs(1);
/// and what comes before that for background tasks and tiers.
const TIERS_SHARE: Duration = Duration::from_secs(2);

/// One part in so many of the caches' memory is for replies: most are never asked for again.
const REPLIES_SHARE: u64 = 4;

/// A running service.
#[derive(Debug)]
pub struct Service {
    /// What it is made of.
    pub app: Arc<App>,
    /// Where the public listener is bound.
    pub address: SocketAddr,
    /// Where the operator listener is bound.
    pub operator_address: SocketAddr,
    public: JoinHandle<()>,
    operators: JoinHandle<()>,
    tasks: Vec<JoinHandle<()>>,
    /// Closes the operator listener, which outlives the public one so that draining can be watched.
    closed: CancellationToken,
}

impl Service {
    /// Starts everything; when this returns, the listeners answer.
    ///
    /// # Errors
    /// A listener cannot be bound, the primary does not answer, or its schema cannot be brought up to date.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let monitor = observe::monitor(&config.targets);
        let slow_log = slow_log(&config.db, &monitor);
        let (public, operators, db) = tokio::try_join!(
            bind("http.listen", config.http.listen),
            bind("http.operator_listen", config.http.operator_listen),
            connect(&config.db, Arc::clone(&slow_log) as Arc<dyn Observer>),
        )?;
        prepare(&db, &config).await?;
        let app = Arc::new(compose(config, db, monitor, slow_log)?);
        // Who is blocked must not be let in by a service that does not know it yet.
        housekeeping::read_blocklist(&app).await;
        let closed = CancellationToken::new();
        let (address, operator_address) = (public.local_addr()?, operators.local_addr()?);
        let http = &app.config.http;
        let limits =
            ConnectionLimits::new(http.in_flight_max.get(), http.request_timeout, too_many_connections);
        let shares = Descriptors::raised(&app.config).for_listeners(limits.connections_max);
        let to_public = ConnectionLimits { connections_max: shares.0, ..limits };
        let to_operators = ConnectionLimits { connections_max: shares.1, ..limits };
        let public = listen(public, router::router(&app), to_public, app.draining.clone());
        let operators = listen(operators, operator::router(Arc::clone(&app)), to_operators, closed.clone());
        let (public, operators) = (tokio::spawn(public), tokio::spawn(operators));
        let tasks = background_tasks(&app);
        tracing::info!(%address, %operator_address, "paystrata serves");
        Ok(Self { app, address, operator_address, public, operators, tasks, closed })
    }

    /// Drains and stops, within the drain timeout and `CLOSE_TIMEOUT`: no new requests, those in flight end, their charges are settled, the engine commits what it
    /// has taken, and the tiers are told the rest.
    pub async fn stop(mut self) {
        let app = &self.app;
        tracing::info!("draining");
        app.draining.cancel();
        app.charges.close();
        let limit = app.config.http.drain_timeout;
        // One deadline for all that follows: whoever asked for the stop waits so long and then kills.
        let end = Instant::now() + limit + CLOSE_TIMEOUT;
        let drained = tokio::time::timeout(limit, async {
            if let Err(error) = (&mut self.public).await {
                tracing::error!(%error, "await public listener");
            }
            app.charges.wait().await;
        });
        if drained.await.is_err() {
            // Open operations are committed; the resolver of the next start settles them.
            tracing::warn!(?limit, charges = app.charges.len(), "requests did not drain in time");
            self.public.abort();
        }
        // Its callers have their answers; if not, a batch hangs on the database, and its keys lead to what became of it.
        if timeout_at(end - OPERATORS_SHARE - TIERS_SHARE, app.engine.close()).await.is_err() {
            tracing::warn!("the engine did not end in time");
        }
        let closing = async {
            for task in self.tasks {
                let _ = task.await;
            }
            relay::last_round(app).await;
            app.documents.close().await;
            app.db.close().await;
            // Last: without it the next start is slower, and nothing else.
            hot_keys::keep(app).await;
        };
        if timeout_at(end - OPERATORS_SHARE, closing).await.is_err() {
            tracing::warn!("background tasks did not end in time");
        }
        self.closed.cancel();
        if timeout_at(end, &mut self.operators).await.is_err() {
            self.operators.abort();
        }
        tracing::info!("stopped");
    }
}

/// Each but the first is started again when it breaks.
fn background_tasks(app: &Arc<App>) -> Vec<JoinHandle<()>> {
    let resolver = Arc::clone(app);
    let chores = Arc::clone(app);
    let refresher = Arc::clone(app);
    let relayed = Arc::clone(app);
    let logged = Arc::clone(app);
    let warmed = Arc::clone(app);
    vec![
        tokio::spawn(async move {
            // Once, and not watched: nothing depends on it.
            let _ended = warmed.draining.run_until_cancelled(Box::pin(hot_keys::refill(&warmed))).await;
        }),
        tokio::spawn(async move {
            let app = &logged;
            let start = || {
                let app = Arc::clone(app);
                async move {
                    let windows = app.slow_log.run(&app.db);
                    app.draining.run_until_cancelled(windows).await.unwrap_or_default();
                }
            };
            app.watch.keep(SLOW_LOG, &app.draining, start).await;
        }),
        tokio::spawn(async move {
            let start = || relay::run(Arc::clone(&relayed));
            relayed.watch.keep(RELAY, &relayed.draining, start).await;
        }),
        tokio::spawn(async move {
            let start = || payments::resolver::run(Arc::clone(&resolver));
            resolver.watch.keep(RESOLVER, &resolver.draining, start).await;
        }),
        tokio::spawn(async move {
            let start = || housekeeping::run(Arc::clone(&chores));
            chores.watch.keep(HOUSEKEEPING, &chores.draining, start).await;
        }),
        tokio::spawn(async move {
            let app = &refresher;
            let start = || {
                let (views, draining) = (app.views.clone(), app.draining.clone());
                // Dropped in the middle of a refresh, it leaves nothing behind.
                async move { draining.run_until_cancelled(Box::pin(views.run())).await.unwrap_or_default() }
            };
            app.watch.keep(STATS_REFRESH, &app.draining, start).await;
        }),
    ]
}

async fn bind(setting: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listen on {address} ({setting})"))
}

/// Connects, trying once: whoever starts the service also starts it again (`Restart=on-failure`).
///
/// # Errors
/// No server answered as primary within the connect timeout; at once when every server refused.
pub async fn connect(config: &DatabaseConfig, observer: Arc<dyn Observer>) -> anyhow::Result<Db> {
    Db::connect_observed(database_config(config)?, observer)
        .await
        .context("connect to the primary (db.primary_url)")
}

/// Counts every statement for the log of slow ones, and then for the metrics.
fn slow_log(config: &DatabaseConfig, monitor: &Monitor) -> Arc<SlowLog> {
    let options = SlowLogOptions { threshold: config.slow_query, ..SlowLogOptions::default() };
    SlowLog::before(options, Arc::new(DatabaseObserver::new(monitor)))
}

fn database_config(config: &DatabaseConfig) -> anyhow::Result<paystrata_db::Config> {
    let url = |setting: &str, url: &SecretUrl| -> anyhow::Result<ConnectionUrl> {
        let url: ConnectionUrl = url.expose().parse().with_context(|| format!("read {setting}"))?;
        if url.prefers_tls_over_a_network() {
            let server = url.endpoint();
            tracing::warn!(
                setting,
                server,
                "no TLS to PostgreSQL: rows cross the network in clear; let the URL say sslmode=verify-full, or \
                 sslmode=disable if this is known"
            );
        }
        Ok(url)
    };
    let mut target = paystrata_db::Config::new(url("db.primary_url", &config.primary_url)?);
    target.replica_urls = config
        .replica_urls
        .iter()
        .map(|replica| url("db.replica_urls", replica))
        .collect::<anyhow::Result<_>>()?;
    target.pooler_url = config.pooler_url.as_ref().map(|pooler| url("db.pooler_url", pooler)).transpose()?;
    target.pool_size_min = config.pool_size_min;
    target.pool_size_max = config.pool_size_max.get();
    target.acquire_timeout = config.acquire_timeout;
    target.connect_timeout = config.connect_timeout;
    target.statement_timeout = config.statement_timeout;
    target.replica_lag_max = config.replica_lag_max;
    target.monitor_interval = config.monitor_interval;
    "paystrata".clone_into(&mut target.application_name);
    // Every statement of a request has its index. A table that was analyzed while it was empty, as next month's partitions
    // are by a nightly `vacuumdb`, looks cheaper to read whole until the next analyze.
    target.server_settings = vec![("enable_seqscan".to_owned(), "off".to_owned())];
    Ok(target)
}

/// Schema, partitions, and in development the merchant that everybody knows.
async fn prepare(db: &Db, config: &Config) -> anyhow::Result<()> {
    let session = db.session("migrate").await.context("open session to migrate")?;
    MIGRATOR.up(&session).await.context("migrate")?;
    ensure_partitions(&session, config.partitions.months_ahead.get()).await.context("make partitions")?;
    if let Some(key) = config.profile.known_api_key() {
        let connection = db.write().await?;
        add_merchant(&connection, DEVELOPMENT_MERCHANT, "Development", key, "development").await?;
    }
    Ok(())
}

/// What nodes share in front of the database, if they share anything.
fn shared_tiers(config: &CacheConfig) -> anyhow::Result<Option<SharedTiers>> {
    let Some(url) = config.redis_url.as_ref().filter(|_| config.enabled) else { return Ok(None) };
    let command_timeout = config.command_timeout;
    let options = RedisOptions { command_timeout, ..RedisOptions::default() };
    let redis = redis_tier(config, url, options)?;
    let memcached = match &config.memcached_hosts[..] {
        [] => None,
        hosts => {
            let options = MemcachedOptions { command_timeout, ..MemcachedOptions::default() };
            let tier = MemcachedTier::connect(&hosts.join(","), options);
            Some(tier.context("read cache.memcached_hosts")?)
        }
    };
    Ok(Some(SharedTiers { redis, memcached, timeout: command_timeout * 2 }))
}

/// Redis where the URL says, trusted by the authorities of the configuration if it names any.
fn redis_tier(config: &CacheConfig, url: &SecretUrl, options: RedisOptions) -> anyhow::Result<RedisTier> {
    let Some(path) = &config.redis_ca_path else {
        return RedisTier::connect(url.expose(), options).context("read cache.redis_url");
    };
    let reading = || format!("read cache.redis_ca_path {}", path.display());
    let servers = RedisServers::Tls {
        servers: Box::new(RedisServers::Single { url: url.expose().to_owned() }),
        root_certificates: Some(std::fs::read(path).with_context(reading)?),
        client_certificate: None,
        client_key: None,
    };
    RedisTier::open(&servers, options).with_context(reading)
}

fn compose(config: Config, db: Db, monitor: Monitor, slow_log: Arc<SlowLog>) -> anyhow::Result<App> {
    let tiers = shared_tiers(&config.cache)?;
    let ttl = if config.cache.enabled { config.cache.ttl } else { Duration::ZERO };
    let replies_bytes_max = config.cache.memory_bytes_max / REPLIES_SHARE;
    let documents_config = DocumentsConfig {
        memory_bytes_max: config.cache.memory_bytes_max - replies_bytes_max,
        ttl,
        max_stale: config.cache.max_stale,
    };
    let observed = |cache: &str| CacheObserver::of(&monitor, cache);
    let documents = Arc::new(Documents::new(&documents_config, &db, tiers.as_ref(), observed));
    let replies = Replies::new(replies_bytes_max, ttl, &db, observed("replies"));
    let observer: Arc<dyn EngineObserver> = Arc::new(CommitObserver::new(Arc::clone(&documents), &monitor));
    let notices = if documents.are_shared() { Notices::Kept } else { Notices::Without };
    let engine = Engine::start(&db, &engine_config(&config, notices), RENDER, &observer);
    let gateways = gateways(&config, &monitor)?;
    let fraud = Fraud::new(fraud_config(&config), std::time::Instant::now);
    let views = merchants::refresh::views(&db, config.stats.refresh).context("read stats")?;
    Ok(App {
        engine,
        gateways,
        fraud,
        documents,
        replies,
        keys: Keys::new(config.profile, CacheObserver::of(&monitor, "api-keys")),
        cache_figures: CacheFigures::default(),
        charges: TaskTracker::new(),
        watch: Watch::default(),
        in_flight: Arc::new(Semaphore::new(config.http.in_flight_max.get())),
        bodies: Budget::new(config.http.bodies_bytes_max, config.http.batch_body_bytes_max),
        draining: CancellationToken::new(),
        views,
        db,
        slow_log,
        monitor,
        config,
    })
}

/// How answers are written and kept.
pub const RENDER: Render = Render { payment: payments::wire::render, account: accounts::wire::render };

fn engine_config(config: &Config, notices: Notices) -> EngineConfig {
    EngineConfig {
        lanes: config.engine.lanes.get(),
        batch_max: config.engine.batch_max.get(),
        batch_accounts_max: config.engine.batch_accounts_max.get(),
        queue_max: config.engine.queue_max.get(),
        queue_timeout: config.engine.queue_timeout,
        batch_timeout: config.db.statement_timeout,
        notices,
    }
}

fn fraud_config(config: &Config) -> FraudConfig {
    let fraud = &config.fraud;
    FraudConfig {
        enabled: if fraud.enabled { Switch::On } else { Switch::Off },
        budget: fraud.budget,
        amount_max: fraud.amount_max,
        velocity_count_max: u64::from(fraud.velocity_count_max.get()),
        velocity_window: fraud.velocity_window,
        blocklist: fraud.blocklist.iter().map(ToString::to_string).collect(),
    }
}

fn gateways(config: &Config, monitor: &Monitor) -> anyhow::Result<Gateways> {
    let observer: Arc<dyn GatewayObserver> = Arc::new(ExchangeObserver::new(monitor));
    let resilience = |timeout: Duration, in_flight_max: usize| ResilienceSettings {
        attempt_timeout: timeout,
        in_flight_max,
        ..ResilienceSettings::default()
    };
    let secret = |secret: &crate::config::Secret| paystrata_gateway::Secret::new(secret.expose());
    let mut gateways = Gateways::default();
    if let Some(settings) = &config.gateways.authorize_net {
        let mut target = AuthorizeNetConfig::new(
            settings.endpoint.as_str(),
            secret(&settings.login),
            secret(&settings.transaction_key),
        );
        target.resilience = resilience(settings.timeout, settings.in_flight_max.get());
        let gateway =
            AuthorizeNet::new(target, Arc::clone(&observer)).context("build gateways.authorize_net")?;
        gateways.authorize_net = Some(Arc::new(gateway) as Arc<dyn Gateway>);
    }
    if let Some(settings) = &config.gateways.velocity_pay {
        let mut target = VelocityPayConfig::new(settings.endpoint.as_str(), secret(&settings.api_key));
        target.resilience = resilience(settings.timeout, settings.in_flight_max.get());
        let gateway = VelocityPay::new(target, observer).context("build gateways.velocity_pay")?;
        gateways.velocity_pay = Some(Arc::new(gateway) as Arc<dyn Gateway>);
    }
    Ok(gateways)
}
