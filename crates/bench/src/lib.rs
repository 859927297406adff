//! Peers, benchmark suites and the load generator of Paystrata: what the two programs of this package share.
//!
//! `paystrata-bench` measures our side and its peers in turn and judges the ratios; `paystrata-load` feeds a running
//! service through its HTTP API and checks what comes back. Neither is built by default, and nothing in the service
//! depends on this package.

// The frame of `paystrata-bench`.
pub mod cli;
pub mod json;
pub mod machine;
pub mod measure;
pub mod report;
pub mod suite;
pub mod suites;
pub mod table;

// Shared by suites.
mod closed_loop;
mod database;
mod pgbench;
mod psql;

// Shared by suites and load.
pub mod latency;
pub mod open_loop;

// `paystrata-load`.
pub mod load;
