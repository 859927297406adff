//! The memcached tier: records with leases, floors and fallbacks on one or several memcached servers,
//! through the meta commands (`mg`, `ms`, `md`; memcached 1.6.12 or later).
//!
//! - A read that finds nothing claims the key in the same round trip (`mg` with `N`, which makes an empty
//!   item and tells one client that it has won it). Writes are fenced by CAS numbers.
//! - Lives are counted by the server in whole seconds. What is told to remain of a value is never more
//!   than what does and may be a second less (two for a fallback): a value that lives for
//!   a second or less is of no use in this tier. memcached keeps nothing for longer than 30 days: a value that
//!   is given more is as good as it says until then, and gone after.
//! - A server that cannot be reached is left out at once: its keys are absent to reads, and voids of them
//!   fail until it is back and has been told. It keeps its keys (`ring` says why). What it evicts is forgotten with
//!   its floor: give it room. After a restart it is taken to have forgotten floors (`young_server`).
//! - Values over the item limit of the server (1 MiB unless `-I` says otherwise) are refused.
//! - Each connection must lead to one server for its whole life: proxies that spread the commands of one
//!   connection over servers make CAS numbers meaningless.
//!
//! Plain TCP, no authentication: memcached belongs into a private network.
//! Connects lazily and on its own tasks. Handed to `CacheBuilder::tier`.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{sync::Semaphore, task::JoinHandle};

use crate::tier::{Tier, TierShare};

mod claims;
mod connection;
mod key;
mod options;
mod read;
mod record;
mod ring;
mod server;
mod settle;
mod share;
mod wire;
mod write;

pub use options::MemcachedOptions;

/// Memcached's own port.
const PORT_DEFAULT: u16 = 11_211;

/// The memcached tier cannot be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemcachedTierError {
    /// Nobody is named.
    #[error("no memcached server is named")]
    NoHosts,
    /// A part of the list is no address.
    #[error("`{host}` names no memcached server: expected host or host:port")]
    InvalidHost {
        /// The part.
        host: String,
    },
    /// With this value an option could not do what it is there for.
    #[error("`{field}` is {value}: expected {expected}")]
    InvalidOption {
        /// The option, named with its type: `MemcachedOptions::connections`.
        field: &'static str,
        /// As it was given.
        value: String,
        /// What would be taken.
        expected: &'static str,
    },
}

/// Memcached servers that caches share. Cloning gives another handle to the same connections.
#[derive(Clone)]
pub struct MemcachedTier {
    owner: Arc<Owner>,
}

/// Owns the tier's tasks: they end with the last cache and handle.
struct Owner {
    servers: Vec<Arc<server::Server>>,
    ring: ring::Ring,
    options: MemcachedOptions,
    permits: Semaphore,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl MemcachedTier {
    /// A tier on the servers of a list such as `cache-1:11211,cache-2`. All nodes must name the same
    /// servers by the same names; their order is of no importance. Does not connect: that begins with
    /// the first cache that is built on it, and servers that are down then are tried until they are up.
    ///
    /// # Errors
    ///
    /// If the list is empty, or a part of it is no address; if an option could not do what it is there for.
    pub fn connect(hosts: &str, options: MemcachedOptions) -> Result<Self, MemcachedTierError> {
        options.check()?;
        let mut addresses = HashSet::new();
        let mut servers = Vec::new();
        for host in hosts.split(',').map(str::trim).filter(|host| !host.is_empty()) {
            let address =
                address(host).ok_or_else(|| MemcachedTierError::InvalidHost { host: host.to_owned() })?;
            if addresses.insert(address.clone()) {
                servers.push(Arc::new(server::Server::new(address, &options)));
            }
        }
        if servers.is_empty() {
            return Err(MemcachedTierError::NoHosts);
        }
        let ring = ring::Ring::new(servers.iter().map(|server| server.address.as_str()));
        let permits = Semaphore::new(options.calls_max.min(Semaphore::MAX_PERMITS));
        Ok(Self { owner: Arc::new(Owner { servers, ring, options, permits, tasks: Mutex::default() }) })
    }

    /// True while any of the servers can be reached.
    pub fn is_up(&self) -> bool {
        self.owner.is_up()
    }

    /// Each server, as it was named, and whether it can be reached.
    pub fn servers(&self) -> Vec<(String, bool)> {
        self.owner.servers.iter().map(|server| (server.address.clone(), server.is_up())).collect()
    }
}

impl Tier for MemcachedTier {
    /// Must be called within a Tokio runtime: the first call begins to connect.
    fn share(&self, cache: &str) -> Arc<dyn TierShare> {
        self.owner.start();
        Arc::new(share::MemcachedShare::new(Arc::clone(&self.owner), cache))
    }
}

impl Owner {
    fn is_up(&self) -> bool {
        self.servers.iter().any(|server| server.is_up())
    }

    fn start(&self) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if tasks.is_empty() {
            for server in &self.servers {
                tasks
                    .extend((0..server.slots()).map(|slot| tokio::spawn(Arc::clone(server).supervise(slot))));
            }
        }
    }
}

impl fmt::Debug for MemcachedTier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.owner.fmt(formatter)
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers = self.servers.iter().map(|server| (&server.address, server.is_up()));
        formatter.debug_map().entries(servers).finish()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let tasks = self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner);
        tasks.iter().for_each(JoinHandle::abort);
    }
}

/// `host:port` of `host`, `host:port`, `[v6]` or `[v6]:port`.
fn address(host: &str) -> Option<String> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !name.ends_with(':') && (!name.contains(':') || name.ends_with(']')) => {
            (name, port.parse().ok().filter(|port| *port > 0)?)
        }
        _ => (host, PORT_DEFAULT),
    };
    let is_bare_v6 = name.contains(':') && !(name.starts_with('[') && name.ends_with(']'));
    let is_fit = !name.is_empty()
        && !is_bare_v6
        && !name.contains(|letter: char| letter.is_whitespace() || letter == '/');
    is_fit.then(|| format!("{name}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_and_what_is_none_is_named() {
        let check = |hosts: &str, expected: Result<Vec<&str>, MemcachedTierError>| {
            let tier = MemcachedTier::connect(hosts, MemcachedOptions::default());
            let names = tier.map(|tier| tier.servers().into_iter().map(|(name, _)| name).collect::<Vec<_>>());
            let expected = expected.map(|names| names.into_iter().map(str::to_owned).collect());
            assert_eq!(names, expected, "{hosts}");
        };
        let invalid = |host: &str| Err(MemcachedTierError::InvalidHost { host: host.to_owned() });
        check("a", Ok(vec!["a:11211"]));
        check(" a:1 , b,,a:1", Ok(vec!["a:1", "b:11211"]));
        check("[::1]:5,[::1]", Ok(vec!["[::1]:5", "[::1]:11211"]));
        check("", Err(MemcachedTierError::NoHosts));
        check(" , ", Err(MemcachedTierError::NoHosts));
        check("a:b", invalid("a:b"));
        check("a:0", invalid("a:0"));
        check("::1", invalid("::1"));
        check("a/b", invalid("a/b"));
        check("memcached://a", invalid("memcached://a"));
    }
}
