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
//! With Redis, `.redis(&RedisTier::connect(url, RedisOptions::default())?)` before `.build()`.
//!
//! # Guarantees
//!
//! - **Invalidate wins, here.** Once [`invalidate`](Cache::invalidate), [`invalidate_many`](Cache::invalidate_many),
//!   [`set`](Cache::set) or [`clear`](Cache::clear) has returned (not: has been awaited), no read that
//!   starts later on this node sees a value loaded before. Loads under way may answer those who wait
//!   for them; they store nothing, here or remotely.
//! - **And elsewhere, once told.** A write to the remote tier needs a lease, and an invalidation voids
//!   the lease in the same step in which it tells the other nodes. A loader is told the version it must
//!   reflect, so that a replica that lags cannot bring an old value back.
//! - **Staleness has a bound.** A node that may have missed a message drops its L1. While it hears
//!   nothing, it serves an entry for at most [`Policy::max_stale`] after its load or after the last
//!   message that went round. The bound counts from when the remote tier has the invalidation: a
//!   node that is cut off from it can tell nobody, and neither can one that dies before it tells.
//! - **Losing Redis costs speed only.** Commands time out; after a few the tier is left alone until it
//!   answers again. What is invalidated meanwhile is remembered (within a bound, beyond which the whole
//!   cache is voided remotely), and this node does not trust the remote tier with it until it is told.
//!   A Redis that restarts with old data, or another that takes over, is recognised by its run id, and
//!   everything that it remembers is void.
//! - **One load per key and node.** Its error is shared by those who waited. It runs on its own task:
//!   a caller who goes away takes nothing from the others. The number of loads has a bound; one more is
//!   refused at once.
//! - **Dropped futures are safe**, all of them, at any point.
//!
//! # Costs
//!
//! - A hit reads the clock once, takes the read lock of one shard and clones the value. It allocates
//!   nothing, so use values that are cheap to clone (`Arc<T>`).
//! - An entry costs its key, its value, 32 bytes and quick_cache's 21, and what the weigher says. A
//!   cache costs about 30 KiB when empty.
//! - A miss costs a task; with Redis, one round trip to read and claim, and one to store, which nobody waits for.
//! - An invalidation costs a share of a script call: all that are pending go together, up to 512 keys.
//!   In Redis it leaves a record of some 80 bytes for [`FLOOR_LIFE`].
//! - Redis: two connections per node and tier, and two heartbeats per second, cache and node.
//!
//! # What it does not do
//!
//! - It is not the store: nothing in it outlives what it was loaded from, and Redis may forget
//!   anything at any time. If Redis evicts for want of memory, it may evict a tombstone, and then a
//!   replica that lags behind could be read; give it room.
//! - After first contact with a Redis server that does not know the cache, loaders are told
//!   [`Version::LATEST`] for [`FLOOR_LIFE`]: tombstones may have been lost with the one before it.
//! - Redis Cluster is not supported: scripts touch the key's record and the cache's.
//! - Values in Redis are JSON.
//!
//! # Features
//!
//! `redis` (default) adds [`RedisTier`]. Redis 6.0 or later.

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
mod observer;
mod outbox;
mod policy;
mod read;
#[cfg(feature = "redis")]
mod redis;
mod stats;
mod store;
mod sweeps;
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
