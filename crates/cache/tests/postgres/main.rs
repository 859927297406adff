//! The Postgres tier and line on a real server.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test, in shared functions too")]
#![expect(clippy::print_stdout, reason = "a failing seed is printed")]

mod astray;
mod coupling;
mod crashes;
mod ear;
mod line;
mod races;
#[path = "../memcached/record_model.rs"]
mod record_model;
mod records;
mod server;
mod stopped;
#[path = "../memcached/whole.rs"]
mod whole;
mod wholes;
