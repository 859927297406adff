//! The Redis tier: entries with leases and tombstones, and the backplane over pub/sub.
//! Connects lazily and on its own tasks: a Redis that is down, or slow, or comes back with old data
//! costs speed and nothing else. Handed to `CacheBuilder::redis`.

use std::{
    fmt,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use redis::IntoConnectionInfo;
use tokio::task::JoinHandle;

use crate::{
    flight::lock,
    remote::{Remote, Tier, backplane::Listener, courier::Timing},
};

mod link;
mod remote;
mod scripts;
mod subscription;

/// How a Redis tier behaves, over all caches attached to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisOptions {
    /// Goes before every key and channel. Nodes that share entries share it. Default `paystrata`.
    pub namespace: String,
    /// What one command may take before the loader is asked instead. Default 100 ms.
    pub command_timeout: Duration,
    /// What connecting may take. Default 1 s.
    pub connect_timeout: Duration,
    /// Between two signs of life on the backplane. Must be well below `Policy::max_stale`, which
    /// they keep from running out. Default 500 ms.
    pub heartbeat: Duration,
    /// How many invalidated keys a cache remembers while Redis cannot be told. Over it, all of the
    /// cache is voided in Redis once it is back. Default 10,000.
    pub pending_keys_max: usize,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            namespace: "paystrata".to_owned(),
            command_timeout: Duration::from_millis(100),
            connect_timeout: Duration::from_secs(1),
            heartbeat: Duration::from_millis(500),
            pending_keys_max: 10_000,
        }
    }
}

/// The Redis tier cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisTierError {
    /// The URL is none that names a Redis server. It is not repeated here: it may hold a password.
    #[error("the Redis URL cannot be used: expected redis://[user:password@]host[:port][/database]")]
    InvalidUrl,
}

/// A Redis server (6.0 or later) that caches share. Cloning gives another handle to the same connections.
///
/// Two connections per tier, however many caches: one for commands, one for the backplane.
#[derive(Clone)]
pub struct RedisTier {
    owner: Arc<TierOwner>,
}

impl fmt::Debug for RedisTier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.owner.fmt(formatter)
    }
}

/// What the tasks of the tier share; it does not keep them running.
struct Shared {
    namespace: String,
    channel: String,
    link: Arc<link::Link>,
    subscription: Arc<subscription::Subscription>,
    scripts: scripts::Scripts,
    options: RedisOptions,
}

/// Owns the tier's tasks: they end with the last cache and handle.
struct TierOwner {
    shared: Shared,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for TierOwner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RedisTier")
            .field("namespace", &self.shared.namespace)
            .field("is_up", &self.shared.link.is_up())
            .finish_non_exhaustive()
    }
}

impl Drop for TierOwner {
    fn drop(&mut self) {
        lock(&self.tasks).iter().for_each(JoinHandle::abort);
    }
}

impl RedisTier {
    /// A tier on the server that `url` names. Does not connect: that begins with the first cache
    /// that is built on it, and a server that is down then is tried again until it is up.
    ///
    /// # Errors
    ///
    /// If the URL cannot be parsed.
    pub fn connect(url: &str, options: RedisOptions) -> Result<Self, RedisTierError> {
        let invalid = |_| RedisTierError::InvalidUrl;
        let info = url.into_connection_info().map_err(invalid)?;
        let namespace = escaped(&options.namespace);
        let channel = format!("{namespace}:");
        let link = Arc::new(link::Link::new(info.clone(), &options).map_err(invalid)?);
        let subscription =
            subscription::Subscription::new(info, channel.clone(), Arc::clone(&link), &options)
                .map_err(invalid)?;
        let shared = Shared {
            namespace,
            channel,
            link,
            subscription: Arc::new(subscription),
            scripts: scripts::Scripts::new(),
            options,
        };
        Ok(Self { owner: Arc::new(TierOwner { shared, tasks: Mutex::default() }) })
    }

    /// True while commands are sent to Redis; false while loads go straight to their source.
    pub fn is_up(&self) -> bool {
        self.owner.shared.link.is_up()
    }

    pub(crate) fn attachable(&self) -> Arc<dyn Tier> {
        Arc::new(self.clone())
    }
}

impl Tier for RedisTier {
    fn remote(&self, cache: &str) -> Arc<dyn Remote> {
        Arc::new(remote::RedisRemote::new(Arc::clone(&self.owner), cache))
    }

    fn listen(&self, listener: Weak<dyn Listener>) {
        let shared = &self.owner.shared;
        shared.subscription.add(listener);
        let mut tasks = lock(&self.owner.tasks);
        if tasks.is_empty() {
            tasks.push(tokio::spawn(Arc::clone(&shared.link).supervise()));
            tasks.push(tokio::spawn(Arc::clone(&shared.subscription).supervise()));
        }
    }

    fn timing(&self) -> Timing {
        let options = &self.owner.shared.options;
        Timing {
            heartbeat: options.heartbeat,
            // A batch may be under way when the change is made, and then its own goes.
            confirmation: options.command_timeout * 3,
            command: options.command_timeout,
        }
    }

    fn pending_keys_max(&self) -> usize {
        self.owner.shared.options.pending_keys_max
    }
}

/// A name as part of a key, such that no two names can run into one another at the colons.
fn escaped(name: &str) -> String {
    name.replace('%', "%25").replace(':', "%3A")
}
