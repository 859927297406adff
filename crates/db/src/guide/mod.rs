//! The guide: one page per question, each with code that is compiled as a test. Holds no code of its own.
//!
//! | you want | page |
//! |---|---|
//! | to know what is behind a [`Db`](crate::Db): servers, roles, pools, lanes, tokens, TLS | [`model`] |
//! | to know what is promised when a future is dropped, a commit is not answered, a server goes away | [`guarantees`] |
//! | to know what each call costs, in round trips and otherwise | [`costs`] |
//! | a reader who sees its own writes, over HTTP or a queue, on whichever server | [`tokens`] |
//! | many callers' reads in one statement, many callers' writes in one commit | [`batching`] |
//! | to load or read many rows, with the bad one named, and go on where a run was cut | [`bulk`] |
//! | results that are kept for a while and void with the write | [`results`] |
//! | materialized views that are fresh, and known to be | [`views`] |
//! | a partition for each month, made ahead and detached by age | [`partitions`] |
//! | a schema that several processes bring up to date at once | [`migrations`] |
//! | to work behind PgBouncer | [`poolers`] |
//! | to watch it: figures, who holds what, look-ups per row, slow statements | [`operating`] |
//! | to know what bounds it has, what it refuses, and what it does not do | [`limits`] |

#[doc = include_str!("model.md")]
pub mod model {}

#[doc = include_str!("guarantees.md")]
pub mod guarantees {}

#[doc = include_str!("costs.md")]
pub mod costs {}

#[doc = include_str!("tokens.md")]
pub mod tokens {}

#[doc = include_str!("batching.md")]
pub mod batching {}

#[doc = include_str!("bulk.md")]
pub mod bulk {}

#[doc = include_str!("results.md")]
pub mod results {}

#[doc = include_str!("views.md")]
pub mod views {}

#[doc = include_str!("partitions.md")]
pub mod partitions {}

#[doc = include_str!("migrations.md")]
pub mod migrations {}

#[doc = include_str!("poolers.md")]
pub mod poolers {}

#[doc = include_str!("operating.md")]
pub mod operating {}

#[doc = include_str!("limits.md")]
pub mod limits {}
