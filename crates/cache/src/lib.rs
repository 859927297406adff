//! A multi-tier cache in which invalidation wins: this process first, then tiers that all nodes share (Redis, memcached,
//! a Postgres table), then the loader. Typed by key and value; works with the first tier alone.
//!
//! `cargo add paystrata-cache` (with `--path crates/cache`, as long as it is in no registry), `cargo add tokio --features full`, and
//!
//! ```
//! use paystrata_cache::Cache;
//!
//! async fn read_user(id: u64) -> std::io::Result<Option<String>> {
//!     Ok(Some(format!("user {id}"))) // your database
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let users: Cache<u64, String> = Cache::builder("users").build();
//!
//!     // However many ask at once, one load runs, and everyone gets its answer.
//!     let user = users.get_or_load(&7, |_context| read_user(7)).await?;
//!     assert_eq!(user.as_deref(), Some("user 7"));
//!
//!     // After the write: nobody reads the old value again, not even from a load that is under way.
//!     users.invalidate(&7).await;
//!     assert_eq!(users.get(&7), None);
//!     Ok(())
//! }
//! ```
//!
//! Three more lines, and all nodes share what one of them has loaded, and hear what one of them voids:
//!
//! ```no_run
//! # use paystrata_cache::Cache;
//! # #[cfg(feature = "redis")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use paystrata_cache::{RedisOptions, RedisTier};
//! let redis = RedisTier::connect("redis://127.0.0.1", RedisOptions::default())?;
//! let users: Cache<u64, String> = Cache::builder("users").redis(&redis).build();
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "redis"))]
//! # fn main() {}
//! ```
//!
//! The **[guide]** has a page for each question: policies, loaders, writing, invalidation and commits, writers of other
//! languages, batches, absent keys, stale answers, tiers, codecs, many nodes, testing with faults and with the simulator,
//! operating, limits, and coming from moka.
//!
//! # The model
//!
//! ```text
//! get ──▶ L1 ──▶ a load under way ──▶ shared tiers, in order ──▶ loader ──▶ those who wait, L1, then the tiers
//!                                     (read and claim in one trip)          (in exchange for the claim)
//! invalidate ──▶ floor, load, L1 of this node ──▶ tiers ──▶ line ──▶ L1 of the other nodes
//! ```
//!
//! - A key's own invalidation voids the load that is under way, the entry in L1, and the record and the claim in every tier.
//! - Tags, prefixes, patterns and "everything" are *sweeps*: numbers that outlive every entry. A value is good if no sweep that covers
//!   it is younger than the load it came from.
//! - The loader is told a *floor*: the version of the write that it must reflect, so that a replica that lags cannot bring an
//!   old value back.
//! - The store behind the line numbers all announcements. Whoever misses one knows it.
//!
//! # Guarantees
//!
//! - **Invalidate wins, here.** Once a verb that voids (by key, [`tag`](Cache::tag), [`prefix`](Cache::prefix) or
//!   [`clear`](Cache::clear)) has returned (not: has been awaited), no read that starts later on this node sees a value
//!   loaded before. Loads under way may answer those who came before; they store nothing that is read, here or in a tier.
//! - **And elsewhere, once told.** A write to a shared tier needs a claim, and an invalidation ends the claim before it is
//!   announced. Sweeps are numbered by the store behind the line and outlive every entry, node and restart. A loader is
//!   told the version it must reflect, so that a replica that lags cannot bring an old value back. Where a tier could not
//!   be told, the announcement says so, and what lies there from before it is not believed by anybody.
//! - **Staleness has a bound.** Announcements are numbered without gaps: a node that missed one asks for it, and drops
//!   what it holds if it is no longer to be had. While it hears nothing, it serves an entry for at most
//!   [`Policy::max_stale`] after its load or after the last pulse that went round, and trusts no shared tier.
//! - **Losing a helper costs speed only.** Calls have time limits, and each tier a breaker. What is changed meanwhile is
//!   remembered (within a bound, beyond which everything shared becomes void), and this node does not trust the shared
//!   tiers with it until they are told.
//! - **One load per key and node**, single or in a batch, and one in the fleet where a tier gives claims and the load takes no
//!   longer than other nodes wait for it ([`Policy::lease_wait`], 30 ms by default). Its error is
//!   shared by those who waited. It runs on its own task; its number has a bound, and one more is refused at once.
//! - **Dropped futures are safe**, all of them, at any point.
//!
//! # Costs
//!
//! - A hit reads a coarse clock once and clones the value. A thread that has read the key before has a copy of its own and
//!   takes no lock; others take the read lock of one shard. It allocates nothing, so use values that are cheap to clone
//!   (`Arc<T>`); [`get_with`](Cache::get_with) lends the value of a copy. Only the hit with which a thread makes its copy
//!   clones the key, and the thread's first one makes the places: at most 2,048 hits, and where more keys than that are
//!   read again and again, less than one in 16 of the others.
//! - An entry costs its key, its value, 40 bytes and quick_cache's 21, and what the weigher says. With the room that growing
//!   tables keep free, 105 bytes beyond key and value were measured, where bare quick_cache takes 49.
//! - Copies cost each thread that reads (31 of them at most) 154 KiB for their places (2,048 of 64 bytes, and 26 KiB of
//!   marks) where key and value are short by themselves (24 bytes together; 32 if one is a `String`, an `Arc` or the
//!   like), up to 538 KiB where they are longer, and only the marks where they are longer than 224 bytes: those are not
//!   copied. And at most a sixty-fourth of [`l1_bytes_max`](Policy::l1_bytes_max), or 1 MiB if that is more (but half of
//!   it in any case), in what they hold beyond their entries' time in L1.
//! - A miss costs a task; with tiers, one round trip to read and claim, and one to store, which nobody waits for. Of a batch the
//!   round trip only reads, and what the tier does not have is claimed with another.
//! - An invalidation costs a share of one call per tier and of one announcement: all that are pending go together.
//! - A sweep costs the same however many entries it goes over.
//!
//! # What it does not do
//!
//! - It is not the store: nothing in it outlives what it was loaded from, and a tier may forget anything at any time.
//! - Without a line, nodes do not hear of each other's changes, and a sweep makes all that lies in shared tiers void for
//!   the node that made it, for that node only, and only until it is started anew: what was stored before is believed again
//!   then, for what is left of its lifetime. So it is with keys that were given up because too many changes were pending.
//! - A node that is cut off can tell nobody of its changes, and neither can one that dies before it tells; the others
//!   notice its silence and drop what they hold once.
//!
//! # Features
//!
//! | feature | adds | costs |
//! |---|---|---|
//! | `redis` (default) | the Redis tier and line: one server, Sentinel, Cluster | the `redis` and `deadpool-redis` crates |
//! | `redis-tls` | TLS to Redis (`rediss://`), always verified, with authorities and a client certificate of your own | `rustls` with `ring`; a handshake per connection |
//! | `messagepack` (default) | `Codec::messagepack`, how values lie in tiers unless you name another | `rmp-serde` |
//! | `memcached` | the memcached tier | `sha2` |
//! | `postgres` | a table as a tier, LISTEN/NOTIFY as a line, and announcements inside your transactions | `tokio-postgres`, `sha2` |
//! | `json` | `Codec::json` | `serde_json` |
//! | `lz4`, `zstd` | compression above a size | `lz4_flex`; `zstd` builds C |
//! | `testkit` | tiers and a line in memory whose faults are at the test's command, and a simulator of many nodes that checks these guarantees against your loader | nothing in production |

mod answer;
pub mod backplane;
mod batch;
mod builder;
mod cache;
mod clock;
pub mod codec;
#[cfg(any(feature = "memcached", feature = "postgres", feature = "redis"))]
mod complaint;
mod consult;
mod context;
mod coupling;
mod courier;
mod cutoffs;
#[cfg(any(feature = "redis", feature = "postgres"))]
mod echo;
mod epoch;
mod error;
mod explain;
mod extend;
mod fleet;
mod flight;
mod floors;
mod front;
pub mod guide;
mod hash;
mod hearing;
mod histogram;
mod horizon;
mod invalidate;
mod invalidation;
mod judge;
mod keeper;
mod kept;
mod key;
mod lane;
mod lead;
mod life;
mod load;
mod local;
mod maintain;
#[cfg(feature = "memcached")]
pub mod memcached;
mod observer;
mod outbox;
mod packed;
mod patience;
mod patterns;
mod peek;
mod places;
mod policy;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(all(test, feature = "shuttle"))]
mod races;
mod read;
mod ready;
mod recent;
#[cfg(feature = "redis")]
mod redis;
mod reflect;
mod reflect_many;
mod reload;
mod rounds;
mod scout;
mod set;
mod settings;
#[cfg(any(feature = "memcached", feature = "postgres"))]
mod silence;
mod spans;
mod stats;
mod store;
mod sweeps;
mod sync;
mod tags;
mod tell;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
pub mod tier;
mod tier_side;
mod version;
mod warm;
mod wire;
mod wishes;
mod wrap;
mod write_back;
mod write_behind;

pub use answer::{Loaded, Origin};
pub use builder::CacheBuilder;
#[doc(no_inline)]
pub use bytes::Bytes;
pub use cache::Cache;
pub use clock::Clock;
pub use context::{Load, LoadContext, Stale};
pub use coupling::{Coupled, TransactionOutbox};
pub use error::{CacheError, SetRefused};
pub use explain::{Explanation, LastInvalidation, LastSweep, LocalState, TierState, Unusable};
pub use fleet::LineOptions;
pub use floors::FLOOR_LIFE;
pub use histogram::Histogram;
pub use invalidate::{Confirmation, Covered, Reach};
pub use invalidation::{Invalidation, KeyedInvalidation};
pub use key::CacheKey;
pub use local::Lookup;
pub use observer::{GapCause, LoadEnd, Maintenance, Observer, TierCall};
pub use policy::{Policy, Silence, Write};
pub use quick_cache::Equivalent;
pub use ready::{NotReady, Readiness, RemotePart};
#[cfg(feature = "redis")]
pub use redis::{RedisOptions, RedisServers, RedisTier, RedisTierError};
pub use settings::BuildError;
pub use stats::{Stats, TierStats};
pub use store::KeyForm;
pub use tier_side::{TierOptions, YoungServer};
pub use version::Version;
pub use warm::{Pace, Progress};
pub use wire::Unreadable;
pub use wrap::{Cached, cached};
pub use write_behind::{WriteFailed, Writer, WriterOptions};
