//! The data layer against a real primary and replica, with faults made by a proxy in front of them.
//! One binary, so that the support code is compiled once; every test works in a database of its own.

mod announced;
mod balance;
mod batcher;
mod bouncer;
mod bulk;
mod cases_bulk;
mod cases_queries;
mod cases_sessions;
mod cluster;
mod cut_migrations;
mod dials;
mod drops;
mod drops_migrations;
mod drops_partitions;
mod examples;
mod failover;
mod holders;
mod hygiene;
mod lifetimes;
mod loader;
mod migrations;
mod outages;
mod partitions;
#[cfg(feature = "plans")]
mod plans;
mod plans_gone;
mod pool;
mod pooled_copies;
mod pooled_mixture;
mod pooler;
mod proxy;
mod repeats;
mod reruns;
mod routing;
#[cfg(feature = "tls")]
mod secured;
mod sessions;
mod shared;
mod support;
mod switchovers;
#[cfg(feature = "tls")]
mod tls;
mod transactions;
mod two_processes;
mod two_replicas;
mod view_reads;
mod view_rounds;
mod views;
