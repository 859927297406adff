//! A multi-tier cache in which invalidation wins.
mod builder;
mod cache;
mod clock;
mod consult;
mod error;
mod flight;
mod floors;
mod invalidate;
mod key;
mod load;
mod local;
mod observer;
mod policy;
#[cfg(feature = "redis")]
mod redis;
mod remote;
mod stats;
mod store;
mod version;

#[cfg(test)]
mod model_tests;

pub use builder::CacheBuilder;
pub use cache::Cache;
pub use error::CacheError;
pub use floors::FLOOR_LIFE;
pub use invalidate::{Confirmation, Reach};
pub use key::CacheKey;
pub use load::LoadContext;
pub use local::Lookup;
pub use observer::{GapCause, LoadEnd, Observer};
pub use policy::Policy;
pub use quick_cache::Equivalent;
#[cfg(feature = "redis")]
pub use redis::{RedisOptions, RedisTier, RedisTierError};
pub use stats::Stats;
pub use version::Version;
