//! Which servers a tier is on, as a configuration says it.
//! Refuses to show what may hold a password: its Debug names the kind, and its error repeats nothing.

use std::fmt;

use redis::{ConnectionInfo, IntoConnectionInfo};

use super::{
    RedisOptions,
    origin::{Origin, Sentinels},
    router::Router,
};

/// The servers of a Redis tier. Addresses are URLs: `redis://[user:password@]host[:port][/database]`.
#[derive(Clone, PartialEq, Eq)]
pub enum RedisServers {
    /// One server.
    Single {
        /// Where it is.
        url: String,
    },
    /// A primary and its replicas, under the watch of sentinels. The primary is the one that most of
    /// the sentinels name; it is followed within about a second of a failover.
    Sentinel {
        /// Where the sentinels are.
        sentinels: Vec<String>,
        /// What they call the primary.
        service: String,
        /// How to log in there, and which database to use. The host and port in it are not used.
        login: String,
    },
    /// A cluster.
    Cluster {
        /// Where some of its nodes are; the others are found out. All are logged in to alike.
        seeds: Vec<String>,
    },
}

impl fmt::Debug for RedisServers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Single { .. } => formatter.write_str("Single"),
            Self::Sentinel { sentinels, service, .. } => formatter
                .debug_struct("Sentinel")
                .field("sentinels", &sentinels.len())
                .field("service", service)
                .finish_non_exhaustive(),
            Self::Cluster { seeds } => {
                formatter.debug_struct("Cluster").field("seeds", &seeds.len()).finish_non_exhaustive()
            }
        }
    }
}

/// The Redis tier cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisTierError {
    /// A URL is none that names a Redis server. It is not repeated here: it may hold a password.
    #[error("the Redis URL cannot be used: expected redis://[user:password@]host[:port][/database]")]
    InvalidUrl,
    /// There is no URL of a sentinel or of a cluster's node.
    #[error("no Redis server is named")]
    NoServers,
}

impl RedisServers {
    pub(super) fn router(&self, options: &RedisOptions) -> Result<Router, RedisTierError> {
        Ok(match self {
            Self::Single { url } => Router::one(Origin::Fixed(parsed(url)?), options),
            Self::Sentinel { sentinels, service, login } => {
                let sentinels = Sentinels {
                    sentinels: all_parsed(sentinels)?,
                    service: service.clone(),
                    primary: parsed(login)?,
                };
                Router::one(Origin::Sentinel(sentinels), options)
            }
            Self::Cluster { seeds } => Router::cluster(all_parsed(seeds)?, options),
        })
    }

    /// The number of the database that is used.
    pub(super) fn database(&self) -> i64 {
        let url = match self {
            Self::Single { url } => url,
            Self::Sentinel { login, .. } => login,
            Self::Cluster { .. } => return 0,
        };
        parsed(url).map_or(0, |info| info.redis_settings().db())
    }
}

fn all_parsed(urls: &[String]) -> Result<Vec<ConnectionInfo>, RedisTierError> {
    if urls.is_empty() {
        return Err(RedisTierError::NoServers);
    }
    urls.iter().map(|url| parsed(url)).collect()
}

fn parsed(url: &str) -> Result<ConnectionInfo, RedisTierError> {
    url.into_connection_info().map_err(|_may_repeat_it| RedisTierError::InvalidUrl)
}
