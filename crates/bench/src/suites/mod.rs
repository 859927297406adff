//! The suites: one module each, listed in `suite::SUITES`.

pub mod cache;
pub mod engine;
