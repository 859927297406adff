//! The suites: one module each, listed in `suite::SUITES`.

#[cfg(feature = "peers")]
pub mod cache;
pub mod db;
pub mod engine;
pub mod failover;
