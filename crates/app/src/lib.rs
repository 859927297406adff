//! The payment service composed of the Paystrata crates. The binary is `paystrata`; this library is what it and the
//! benchmarks are made of.
//!
//! A request walks down this list, and nothing in it points back up:
//! `main` -> [`router`] -> [`http`] -> `*/handler` -> use case -> [`engine`] or a `store`.

pub mod cli;
pub mod http;
pub mod listen;
pub mod router;
pub mod serve;
pub mod supervise;

pub mod accounts;
pub mod fraud;
pub mod ledger;
pub mod merchants;
pub mod payments;

pub mod descriptors;
pub mod documents;
pub mod engine;
pub mod gateways;

pub mod app;
pub mod bodies;
pub mod config;
pub mod hot_keys;
pub mod housekeeping;
pub mod migrations;
pub mod observe;
pub mod operator;
pub mod relay;
pub mod replies;
pub mod results;
pub mod telemetry;

pub mod clock;
pub mod ids;
pub mod money;
