//! Redis as a tier and as a line between nodes: one server, one that sentinels watch over, or a cluster.
//! Connects lazily and on its own tasks: a Redis that is down, or slow, or comes back with old data, or
//! is replaced by another, costs speed and nothing else.
//!
//! What it cannot see: a primary that is cut off from its replicas serves its side of the partition for as
//! long as it takes itself for the primary, announcements included. Set `min-replicas-to-write` where
//! that matters; under sentinels the node leaves it as soon as it can reach most of them. And if Redis
//! evicts, it may evict a floor before its time: give it room.
//!
//! ```text
//! share   one cache's records       reads, writes, record, lua/{record,claim,settle,void,put}
//! line    one cache's announcements frame, subscription, lua/{line,attach,announce,pulse,replay}
//! exec    groups, sends, redirects  keys, scripts
//! router  which server has a key    slots
//! link    one connection, breaker   lane, origin, witness, failure
//! dial    how one is made           tls
//! servers where, as it is said      tls
//! options how it is to behave
//! ```

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::task::JoinHandle;

mod dial;
mod exec;
mod failure;
mod frame;
mod keys;
mod lane;
mod line;
mod link;
mod options;
mod origin;
mod reads;
mod record;
mod router;
mod scripts;
mod servers;
mod share;
mod slots;
mod subscription;
#[cfg(feature = "redis-tls")]
mod tls;
#[cfg(not(feature = "redis-tls"))]
#[path = "no_tls.rs"]
mod tls;
mod witness;
mod writes;

pub use options::RedisOptions;
pub use servers::{RedisServers, RedisTierError};

use crate::{
    backplane::{Backplane, Line},
    tier::{Tier, TierShare},
};

/// The longest life handed to Redis, which refuses one that overflows its clock.
const LIFETIME_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3_600);

/// Redis (6.2 or later), shared by caches as a [`Tier`], as a [`Backplane`], or both. Cloning gives
/// another handle to the same connections: one per server for commands, and one for the backplane.
#[derive(Clone)]
pub struct RedisTier {
    tasks: Arc<Tasks>,
}

/// What everything attached shares. It keeps the tasks running.
struct Owner {
    router: Arc<router::Router>,
    subscription: Arc<subscription::Subscription>,
    scripts: scripts::Scripts,
    /// The tasks end with the last handle, share and line.
    _tasks: Arc<Tasks>,
}

/// The tasks of a tier, begun with the first cache, and what they keep up.
struct Tasks {
    namespace: String,
    database: i64,
    router: Arc<router::Router>,
    subscription: Arc<subscription::Subscription>,
    running: Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for RedisTier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RedisTier")
            .field("namespace", &self.tasks.namespace)
            .field("is_up", &self.is_up())
            .finish_non_exhaustive()
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        lock(&self.running).iter().for_each(JoinHandle::abort);
    }
}

impl RedisTier {
    /// A tier on the one server that `url` names. See [`open`](Self::open).
    ///
    /// # Errors
    ///
    /// If the URL cannot be parsed, or asks for TLS that cannot be had; if an option could not do what it is there for.
    pub fn connect(url: &str, options: RedisOptions) -> Result<Self, RedisTierError> {
        Self::open(&RedisServers::Single { url: url.to_owned() }, options)
    }

    /// A tier on these servers. Does not connect: that begins with the first cache that is built on it,
    /// within a Tokio runtime, and servers that are down then are tried again until they are up.
    ///
    /// # Errors
    ///
    /// If a URL cannot be parsed, or if there is none; if TLS is asked for by some URLs only, without a check, or in a build
    /// without it; if a certificate cannot be used; if an option could not do what it is there for.
    pub fn open(servers: &RedisServers, options: RedisOptions) -> Result<Self, RedisTierError> {
        options.check()?;
        let (router, database) = (Arc::new(servers.router(&options)?), servers.database());
        let subscription = Arc::new(subscription::Subscription::new(Arc::clone(&router), &options));
        let RedisOptions { namespace, .. } = options;
        let namespace = escaped(&namespace);
        Ok(Self {
            tasks: Arc::new(Tasks { namespace, database, router, subscription, running: Mutex::default() }),
        })
    }

    /// True while commands are sent to Redis; false while loads go straight to their source.
    pub fn is_up(&self) -> bool {
        self.tasks.router.is_up()
    }

    /// Begins the tasks, if they have not begun.
    fn owner(&self) -> Arc<Owner> {
        let tasks = &self.tasks;
        let mut running = lock(&tasks.running);
        if running.is_empty() {
            running.push(tokio::spawn(Arc::clone(&tasks.router).supervise()));
            running.push(tokio::spawn(Arc::clone(&tasks.subscription).supervise()));
        }
        drop(running);
        Arc::new(Owner {
            router: Arc::clone(&tasks.router),
            subscription: Arc::clone(&tasks.subscription),
            scripts: scripts::Scripts::new(),
            _tasks: Arc::clone(tasks),
        })
    }

    fn name(&self, cache: &str) -> String {
        format!("{}:{}", self.tasks.namespace, escaped(cache))
    }
}

impl Tier for RedisTier {
    fn share(&self, cache: &str) -> Arc<dyn TierShare> {
        Arc::new(share::RedisShare::new(self.owner(), &self.name(cache)))
    }
}

impl Backplane for RedisTier {
    fn line(&self, cache: &str) -> Arc<dyn Line> {
        Arc::new(line::RedisLine::new(self.owner(), &self.name(cache), self.tasks.database))
    }
}

/// A name as part of a key, such that no two names can run into one another at the colons, and none
/// chooses a slot.
fn escaped(name: &str) -> String {
    name.replace('%', "%25").replace(':', "%3A").replace('{', "%7B").replace('}', "%7D")
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.min(LIFETIME_MAX).as_millis()).unwrap_or(u64::MAX)
}

/// What a lock guards here is whole between any two statements, so a panic elsewhere spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
