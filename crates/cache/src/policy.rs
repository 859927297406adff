//! The numbers a cache lives by, as one value with defaults that suit a payment service.
//! Holds no behaviour. Built by the caller once, edited per call through [`Cache::with`](crate::Cache::with),
//! and read everywhere; `life` turns it into instants.

use std::time::Duration;

/// How long entries live, how much room they get, and how long anyone waits.
///
/// Build one with `Policy { ttl: .., ..Policy::default() }`, keep it as a named value, and edit copies of it.
///
/// A cache is not built with fields that could not do what they are there for ([`BuildError`](crate::BuildError)). A policy
/// that is edited for a call ([`Cache::with`](crate::Cache::with), [`Cache::under`](crate::Cache::under)) is not checked: the
/// [guide](crate::guide::policies) says what such a field does then.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// How long a value lives, in every tier. Zero stores nothing: it turns a cache off. A loader may say otherwise of its
    /// answer. Default 60 s.
    pub ttl: Duration,
    /// How long a value lives in process; never longer than what is left of `ttl`. `Duration::MAX` (default): as long as it.
    /// Zero keeps it in the shared tiers only, and is refused where there is none.
    pub l1_ttl: Duration,
    /// How long a value, or a fallback, may lie in process without being read: longer than zero. `Duration::MAX` (default): as long as it lives. Holds for what is loaded or
    /// [`set`](crate::Cache::set) under this policy.
    /// Reads become dearer by some 10 ns with it, and `refresh_at` would do nothing: not both.
    pub tti: Duration,
    /// The part of each lifetime that is added by chance, 0.0 to 1.0: a lifetime is lengthened by up to
    /// this part and never shortened, so that keys stored together do not expire together. Default 0.1.
    pub jitter: f64,
    /// Room in process for keys and values, in bytes as the weigher counts them. Each thread that reads may keep copies
    /// of a sixty-fourth of it besides, or of 1 MiB if that is more, but of half of it at most. Fixed when the cache is
    /// built. At least what one entry takes. Default 64 MiB.
    pub l1_bytes_max: u64,
    /// The heaviest value kept in process, in bytes as the weigher counts it; nearly the room of a shard (`l1_bytes_max` by
    /// four times the cores) if that is less. Zero: those without a heap. One of 2 GiB or more takes no more room than that. Fixed when the
    /// cache is built. Default 4 MiB.
    pub l1_value_bytes_max: u64,
    /// How long "there is no such thing" is believed, in every tier. Zero: not at all. Default 5 s.
    pub negative_ttl: Duration,
    /// How many absent keys are remembered in process. They have their own room, so that a flood of
    /// made-up keys cannot push out values. At least 1. Fixed when the cache is built. Default 10,000.
    pub negative_entries_max: usize,

    /// Fail-safe: for how long after its lifetime a value is kept as a fallback for loads that fail or are
    /// slow. Must be set when the value is stored; a year at most counts. A loader may say otherwise of its answer. Zero
    /// (default): not at all.
    pub grace: Duration,
    /// After a failed load: how long the fallback is served before the loader is asked again, within its grace. Not used
    /// without a fallback. Default 10 s.
    pub grace_backoff: Duration,
    /// How long a loader's error is remembered and given to whoever asks, where there is no fallback.
    /// Zero forgets at once. Default 100 ms.
    pub error_ttl: Duration,
    /// With a fallback: how long a caller waits for a load before it takes the fallback; the load goes
    /// on. Shorter than `load_timeout`; zero does not wait. `Duration::MAX` (default): until it ends. Not used without a
    /// fallback, which an entry has by `grace`, or by its loader.
    pub soft_timeout: Duration,
    /// How long a caller waits for one load, the wait for its turn included: longer than zero. The load goes on, and what it
    /// gives is stored. Default 5 s.
    pub load_timeout: Duration,
    /// How long one load may take at all; then it is dropped. Less than `load_timeout` counts as that. Default 30 s.
    pub load_abandon: Duration,
    /// The part of its lifetime after which a value that is read is loaded anew in the background, above 0.0
    /// and below 1.0; 0.0 (default) turns it off. 0.8 is good for what is read often. A lifetime without end has no parts.
    pub refresh_at: f64,

    /// How often the keys that are read, and those that are pinned, are loaded anew in the background by the loader that
    /// [`keep_fresh`](crate::CacheBuilder::keep_fresh) was given, so that no reader ever waits for them: shorter than
    /// `l1_ttl` (and than what the loader gives its answers), and 1 ms at least. A key that was not read since it was loaded last is not loaded again. `Duration::MAX`
    /// (default): never. Refused without such a loader, as is the loader without this.
    /// Reads become dearer by some 10 ns with it, and `refresh_at` would do nothing: not both. The period is fixed when the
    /// cache is built.
    pub refresh_every: Duration,

    /// How old a value in process may be without word from the backplane. An entry is served only while its
    /// load, or the last pulse that went round, is younger. At least 20 ms. Not used without a backplane. Fixed when the
    /// cache is built. Default 5 s.
    pub max_stale: Duration,
    /// What becomes of entries older than `max_stale`. Not used without a backplane. Fixed when the cache is built. Default:
    /// they are not served.
    pub on_silence: Silence,

    /// How many loaders run at once over all keys: the load the source can bear. What a loader itself reads through the same cache runs
    /// besides, if there is no place left. At least 1. Fixed when the cache is built. Default 64.
    pub loads_max: usize,
    /// How many loads may wait for their turn. One more is refused at once. Zero: none waits. Fixed when the cache is built.
    /// Default 1,024.
    pub loads_queued_max: usize,
    /// How long to wait for another node that is loading the same key, before loading it as well (without
    /// storing it in shared tiers). Zero does not wait. Not used without a shared tier. Default 30 ms.
    pub lease_wait: Duration,
    /// What [`Cache::set`](crate::Cache::set) does to the shared tiers. Default: writes through. `Write::Behind` is refused
    /// without a [`writer`](crate::CacheBuilder::writer).
    pub write: Write,
}

/// What a node does with what it holds when it has heard nothing for `max_stale`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// Fail closed: it loads anew.
    Refuse,
    /// Fail open: it serves what it has, flagged as stale.
    Serve,
}

/// What becomes of a value that the caller sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// It is stored in this process, and voided in the shared tiers: the next node that asks loads it.
    Void,
    /// It is stored in every tier.
    Through,
    /// It is stored in every tier, and given to the cache's [`Writer`](crate::Writer) in the background, many
    /// at a time. Setting it is the write: until it is written, other nodes see it in the shared tiers only, and a node
    /// that dies takes it along.
    Behind,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(60),
            l1_ttl: Duration::MAX,
            tti: Duration::MAX,
            jitter: 0.1,
            l1_bytes_max: 64 << 20,
            l1_value_bytes_max: 4 << 20,
            negative_ttl: Duration::from_secs(5),
            negative_entries_max: 10_000,
            grace: Duration::ZERO,
            grace_backoff: Duration::from_secs(10),
            error_ttl: Duration::from_millis(100),
            soft_timeout: Duration::MAX,
            load_timeout: Duration::from_secs(5),
            load_abandon: Duration::from_secs(30),
            refresh_at: 0.0,
            refresh_every: Duration::MAX,
            max_stale: Duration::from_secs(5),
            on_silence: Silence::Refuse,
            loads_max: 64,
            loads_queued_max: 1_024,
            lease_wait: Duration::from_millis(30),
            write: Write::Through,
        }
    }
}
