//! What the cache does in the situations that users of other caches know, each as a test that says so. The numbers in
//! comments are those of the project's list of scenarios. On the paused clock, with tiers and a line in memory.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test, in shared functions too")]

mod ages;
mod batch;
mod behind;
mod cases_changes;
mod cases_edges;
mod cases_loads;
mod claims;
mod counted;
mod dropped;
mod expiry;
mod explained;
mod extend;
mod failsafe;
mod figures;
mod fleet;
mod invalidation;
mod kit;
mod maintain;
mod misread;
mod observed;
mod parts;
mod peculiar;
mod ready;
mod reflecting;
mod reflecting_many;
mod refresh;
mod reload;
mod replaced;
mod revised;
mod schedule;
mod strangers;
mod sweeps;
mod tiers;
mod unconfirmed;
mod untold;
mod warmed;
mod writes;
