//! Caches on real Redis servers, each started by its test on a free port and killed with it.
//! Two caches in one test are two nodes: each has its own tier, connections and L1.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test, in shared functions too")]

mod backplane;
mod leases;
mod node;
mod outages;
mod proxy;
mod random;
mod server;
mod wire;
