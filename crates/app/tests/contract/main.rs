//! What the service promises to its callers, proven over HTTP and against the real engine: each area of the contract has
//! a file, each promise a test named by a sentence. Refuses to run without the services of `cargo xtask test`.

#[path = "../stage/mod.rs"]
mod stage;

mod scene;

mod accounts;
mod amounts;
mod authorize_net;
mod batches;
mod book;
mod caches;
mod cut_batches;
mod edge;
mod fences;
mod fields;
mod fraud;
mod hot_keys;
mod idempotency;
mod lists;
mod model;
mod overdraft;
mod plans;
mod raced_batches;
mod replies;
mod resolver;
mod results;
mod secrecy;
mod splits;
mod statements;
mod states;
mod tokens;
mod unknown;
mod velocity_pay;
