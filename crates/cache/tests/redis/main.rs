//! Redis as a tier and as a line, on real servers, each started by its test on free ports and killed with it.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test, in shared functions too")]

mod clusters;
mod crowds;
mod fixture;
mod lines;
#[cfg(feature = "memcached")]
#[path = "../memcached/server.rs"]
#[expect(dead_code, reason = "the tests of memcached alone use more of it")]
mod memcached;
mod model;
mod outages;
mod proxy;
mod records;
mod server;
#[cfg(feature = "redis-tls")]
mod tls;
#[cfg(feature = "memcached")]
mod two_tiers;
#[path = "../memcached/whole.rs"]
mod whole;
mod wholes;
