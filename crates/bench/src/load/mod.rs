//! `paystrata-load`: feeds a running service through its HTTP API and checks its answers against the contract. Knows the
//! service by its API alone: nothing here touches a database or a type of the service.
//!
//! ```text
//! seed    a seeded, realistic mix, with duplicates, bad rows, overdraws and refunds, each with the answer it must get
//! hot     closed loop on few accounts, surviving kills of the service; writes down what was acknowledged
//! check   reads back what `hot` wrote down, and with `--alone` that there is nothing else
//! open    open loop at a fixed rate
//! ```

pub mod arguments;

pub mod check;
pub mod hot;
pub mod open;
pub mod seed;

pub mod accounts;
pub mod acknowledged;
pub mod judge;
pub mod plan;
pub mod zipf;

pub mod client;
pub mod progress;
pub mod tally;
