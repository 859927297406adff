//! A multi-tier cache in which invalidation wins: this process first, then a tier that all nodes share
//! (Redis), then the loader. Typed by key and value; works with the first tier alone.
//!
//! ```
//! use std::{convert::Infallible, time::Duration};
//!
//! use paystrata_cache::{Cache, Policy, Version};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let names: Cache<u64, String> = Cache::builder("names")
//!     .policy(Policy { ttl: Duration::from_secs(30), ..Policy::default() })
//!     .weigher(|_id, name: &String| name.len())
//!     .build();
//!
//! // However many ask at once, one load runs. It is told how new its answer must be.
//! let load = |context: paystrata_cache::LoadContext<String>| async move {
//!     Ok::<_, Infallible>(Some(format!("read at or after {:?}", context.floor())))
//! };
//! assert!(names.get_or_load(&7, load).await.unwrap().is_some());
//! assert!(names.get(&7).is_some());
//!
//! // Commit, then invalidate with the version the store gave the commit. What is needed on this
//! // node is done when the call returns; awaiting it tells how far the others are.
//! names.invalidate_many([&7], Version(42)).await;
//! assert_eq!(names.get(&7), None);
//! assert_eq!(names.get_or_load(&7, load).await.unwrap().as_deref(), Some("read at or after Version(42)"));
//! # }
//! ```
//!
//! With shared tiers and a line to the other nodes, `.tier(..)` (as often as there are tiers) and `.backplane(..)`
//! before `.build()`; `testkit` has both in memory.
//!
//! # Guarantees
//!
//! - **Invalidate wins, here.** Once a verb that voids (by key, [`tag`](Cache::tag), [`prefix`](Cache::prefix) or
//!   [`clear`](Cache::clear)) has returned (not: has been awaited), no read that starts later on this node sees a value
//!   loaded before. Loads under way may answer those who came before; they store nothing that is read, here or in a tier.
//! - **And elsewhere, once told.** A write to a shared tier needs a claim, and an invalidation ends the claim before it is
//!   announced. Sweeps are numbered by the store behind the line and outlive every entry, node and restart. A loader is
//!   told the version it must reflect, so that a replica that lags cannot bring an old value back.
//! - **Staleness has a bound.** Announcements are numbered without gaps: a node that missed one asks for it, and drops
//!   what it holds if it is no longer to be had. While it hears nothing, it serves an entry for at most
//!   [`Policy::max_stale`] after its load or after the last pulse that went round, and trusts no shared tier.
//! - **Losing a helper costs speed only.** Calls have time limits, and each tier a breaker. What is changed meanwhile is
//!   remembered (within a bound, beyond which everything shared becomes void), and this node does not trust the shared
//!   tiers with it until they are told.
//! - **One load per key and node**, single or in a batch, and one in the fleet where a tier gives claims. Its error is
//!   shared by those who waited. It runs on its own task; its number has a bound, and one more is refused at once.
//! - **Dropped futures are safe**, all of them, at any point.
//!
//! # Costs
//!
//! - A hit reads a coarse clock once, takes the read lock of one shard and clones the value. It allocates nothing, so use
//!   values that are cheap to clone (`Arc<T>`). Tags, versions and validators add one more reference count.
//! - An entry costs its key, its value, 64 bytes and quick_cache's 21, and what the weigher says.
//! - A miss costs a task; with tiers, one round trip to read and claim, and one to store, which nobody waits for.
//! - An invalidation costs a share of one call per tier and of one announcement: all that are pending go together.
//! - A sweep costs the same however many entries it goes over.
//!
//! # What it does not do
//!
//! - It is not the store: nothing in it outlives what it was loaded from, and a tier may forget anything at any time.
//! - Without a line, nodes do not hear of each other's changes, and a sweep makes all that lies in shared tiers void for
//!   the node that made it, and for that node only.
//! - A node that is cut off can tell nobody of its changes, and neither can one that dies before it tells; the others
//!   notice its silence and drop what they hold once.
//! - While a shared tier that this node has a change for is down, the change is not announced either.
//!
//! # Features
//!
//! `testkit` adds tiers and a line in memory whose faults are at the test's command, and a simulator of many nodes that
//! checks these guarantees against your loader.

mod answer;
pub mod backplane;
mod batch;
mod builder;
mod cache;
mod clock;
pub mod codec;
mod consult;
mod context;
mod courier;
mod epoch;
mod error;
mod explain;
mod fleet;
mod flight;
mod floors;
mod hash;
mod hearing;
mod horizon;
mod invalidate;
mod invalidation;
mod key;
mod lead;
mod life;
mod load;
mod local;
#[cfg(feature = "memcached")]
pub mod memcached;
mod observer;
mod outbox;
mod policy;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(all(test, feature = "shuttle"))]
mod races;
mod read;
#[cfg(feature = "redis")]
mod redis;
mod stats;
mod store;
mod sweeps;
mod sync;
mod tags;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
pub mod tier;
mod tier_side;
mod version;
mod warm;
mod wire;
mod wrap;
mod write_back;
mod write_behind;

pub use answer::{Loaded, Origin};
pub use builder::CacheBuilder;
pub use cache::Cache;
pub use clock::Clock;
pub use context::{Load, LoadContext, Stale};
pub use error::CacheError;
pub use explain::{Explanation, LastInvalidation, LocalState, TierState};
pub use fleet::LineOptions;
pub use floors::FLOOR_LIFE;
pub use invalidate::{Confirmation, Covered, Reach};
pub use invalidation::Invalidation;
pub use key::CacheKey;
pub use local::Lookup;
pub use observer::{GapCause, LoadEnd, Observer};
pub use policy::{Policy, Silence, Write};
pub use quick_cache::Equivalent;
#[cfg(feature = "redis")]
pub use redis::{RedisOptions, RedisServers, RedisTier, RedisTierError, YoungServer};
pub use stats::{ServedAge, Stats, TierStats};
pub use store::KeyForm;
pub use tier_side::TierOptions;
pub use version::Version;
pub use warm::{Pace, Progress};
pub use wire::Unreadable;
pub use wrap::Cached;
pub use write_behind::{WriteFailed, Writer};
