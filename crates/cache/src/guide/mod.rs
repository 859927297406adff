//! The guide: one page per question, each with code that is compiled and run as a test. Holds no code of its own.
//!
//! | you want | page |
//! |---|---|
//! | to say how long values live, how much room they get, how long anyone waits | [`policies`] |
//! | to write a loader that is told what it must reflect, and says more than a value | [`loaders`] |
//! | to void one key, many, a tag, a prefix, or everything | [`invalidation`] |
//! | to void with the commit of a transaction, so that neither a rollback nor a crash makes it wrong | [`commits`] |
//! | to hear of what jobs, hands and services in other languages write | [`other_writers`] |
//! | to put what you have written in the place of the old value, or to write behind | [`writing`] |
//! | to read many keys at once, and to fill the cache before it is needed | [`batches`] |
//! | to remember that there is no such thing, and to survive who asks for made-up things | [`absence`] |
//! | answers while the source is slow or down, and none who ever waits for a refresh | [`staleness`] |
//! | Redis as one server, with sentinels or as a cluster; memcached; a table | [`tiers`] |
//! | another encoding, compression, values of an older release, an encoding of your own | [`codecs`] |
//! | several processes, with Redis, memcached or Postgres between them | [`nodes`] |
//! | to test what you build on it, faults and races included | [`testing`] |
//! | to watch it: figures, spans, alarms, and why a read gave what it gave | [`operating`] |
//! | to know what it costs, what bounds it has, and what it does not do | [`limits`] |
//! | to come from moka | [`from_moka`] |

#[doc = include_str!("policies.md")]
pub mod policies {}

#[doc = include_str!("loaders.md")]
pub mod loaders {}

#[doc = include_str!("invalidation.md")]
pub mod invalidation {}

#[doc = include_str!("commits.md")]
pub mod commits {}

#[doc = include_str!("other_writers.md")]
pub mod other_writers {}

#[doc = include_str!("writing.md")]
pub mod writing {}

#[doc = include_str!("batches.md")]
pub mod batches {}

#[doc = include_str!("absence.md")]
pub mod absence {}

#[doc = include_str!("staleness.md")]
pub mod staleness {}

#[doc = include_str!("tiers.md")]
pub mod tiers {}

#[doc = include_str!("codecs.md")]
pub mod codecs {}

#[doc = include_str!("nodes.md")]
pub mod nodes {}

#[doc = include_str!("testing.md")]
pub mod testing {}

#[doc = include_str!("operating.md")]
pub mod operating {}

#[doc = include_str!("limits.md")]
pub mod limits {}

#[doc = include_str!("from_moka.md")]
pub mod from_moka {}
