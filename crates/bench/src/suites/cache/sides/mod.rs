//! The contenders: each cache behind the few verbs that the cases need, at its best settings. What is generic here is
//! resolved when it is compiled, so that no side pays for the comparison.

pub(super) mod cached;
pub(super) mod foyer;
pub(super) mod hitbox;
pub(super) mod moka;
pub(super) mod multi_tier;
pub(super) mod ours;
pub(super) mod plain;
pub(super) mod quick;

use super::keys::{Key, Value};

/// One cache, empty or filled.
pub(super) trait Side<K: Key>: Sized + Send + Sync + 'static {
    /// In tables.
    const NAME: &'static str;
    /// An empty one that holds so many entries and then evicts.
    fn build(entries_max: usize) -> anyhow::Result<Self>;
    /// Puts an entry in.
    fn insert(&self, key: K, value: Value) -> impl Future<Output = ()> + Send;
    /// Reads as a user of it would, gives the value to nobody, and says whether there was one.
    fn read(&self, probe: &K::Probe) -> impl Future<Output = bool> + Send;
}
