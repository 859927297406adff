//! Plain LRU and LFU, as textbooks have them: the yardsticks of the hit ratios. Exact and slow; never timed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;

use super::Side;
use crate::suites::cache::keys::Value;

/// Forgets what was not read for longest.
pub(in crate::suites::cache) struct PlainLru {
    entries_max: usize,
    state: Mutex<Recency>,
}

#[derive(Default)]
struct Recency {
    tick: u64,
    read_at: HashMap<u64, u64>,
    by_age: BTreeMap<u64, u64>,
}

impl Recency {
    fn touch(&mut self, key: u64) {
        self.tick += 1;
        if let Some(before) = self.read_at.insert(key, self.tick) {
            self.by_age.remove(&before);
        }
        self.by_age.insert(self.tick, key);
    }
}

impl Side<u64> for PlainLru {
    const NAME: &'static str = "plain LRU";

    fn build(entries_max: usize) -> anyhow::Result<Self> {
        Ok(Self { entries_max, state: Mutex::default() })
    }

    async fn insert(&self, key: u64, _value: Value) {
        let mut state = self.state.lock().expect("nobody panics under it");
        state.touch(key);
        if state.by_age.len() > self.entries_max
            && let Some((_, oldest)) = state.by_age.pop_first()
        {
            state.read_at.remove(&oldest);
        }
    }

    async fn read(&self, probe: &u64) -> bool {
        let mut state = self.state.lock().expect("nobody panics under it");
        let held = state.read_at.contains_key(probe);
        if held {
            state.touch(*probe);
        }
        held
    }
}

/// Forgets what was read least often since it came, of those the one that came or was read first.
pub(in crate::suites::cache) struct PlainLfu {
    entries_max: usize,
    state: Mutex<Frequency>,
}

#[derive(Default)]
struct Frequency {
    tick: u64,
    ranks: HashMap<u64, (u64, u64)>,
    by_rank: BTreeSet<(u64, u64, u64)>,
}

impl Frequency {
    fn touch(&mut self, key: u64) {
        self.tick += 1;
        let (count, tick) = self.ranks.get(&key).copied().unwrap_or_default();
        self.by_rank.remove(&(count, tick, key));
        self.by_rank.insert((count + 1, self.tick, key));
        self.ranks.insert(key, (count + 1, self.tick));
    }
}

impl Side<u64> for PlainLfu {
    const NAME: &'static str = "plain LFU";

    fn build(entries_max: usize) -> anyhow::Result<Self> {
        Ok(Self { entries_max, state: Mutex::default() })
    }

    async fn insert(&self, key: u64, _value: Value) {
        let mut state = self.state.lock().expect("nobody panics under it");
        // Room first: else the newcomer, read once, would always be the one to go.
        if !state.ranks.contains_key(&key)
            && state.ranks.len() >= self.entries_max
            && let Some((_, _, rarest)) = state.by_rank.pop_first()
        {
            state.ranks.remove(&rarest);
        }
        state.touch(key);
    }

    async fn read(&self, probe: &u64) -> bool {
        let mut state = self.state.lock().expect("nobody panics under it");
        let held = state.ranks.contains_key(probe);
        if held {
            state.touch(*probe);
        }
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suites::cache::keys::values;

    async fn held_after<S: Side<u64>>(inserted: &[u64], read: &[u64], last: u64) -> Vec<u64> {
        let side = S::build(inserted.len()).unwrap();
        let value = values(1).remove(0);
        for key in inserted {
            side.insert(*key, Value::clone(&value)).await;
        }
        for key in read {
            assert!(side.read(key).await);
        }
        side.insert(last, value).await;
        let mut held = Vec::new();
        for key in inserted.iter().chain([&last]) {
            if side.read(key).await {
                held.push(*key);
            }
        }
        held
    }

    #[tokio::test]
    async fn lru_forgets_the_longest_unread_and_lfu_the_rarest() {
        let (inserted, read) = ([1, 2, 3], [1, 1, 3, 2]);
        assert_eq!(held_after::<PlainLru>(&inserted, &read, 9).await, [2, 3, 9]);
        assert_eq!(held_after::<PlainLfu>(&inserted, &read, 9).await, [1, 2, 9]);
    }
}
