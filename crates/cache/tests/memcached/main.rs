//! The memcached tier on real servers, and on ones that lie.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test, in shared functions too")]
#![expect(clippy::print_stdout, reason = "a failing seed is printed")]

mod liars;
mod outages;
mod record_model;
mod records;
mod server;
mod whole;
mod wholes;
