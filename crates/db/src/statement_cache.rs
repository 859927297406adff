//! Prepared statements of one connection, bounded, least recently used out first.
//! It never talks to the server: dropping a prepared statement lets the driver close it. Used by `Connection`.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio_postgres::Statement as Prepared;

/// Prepared statements by text.
#[derive(Debug)]
pub(crate) struct StatementCache<Value = Prepared> {
    entries: Mutex<Entries<Value>>,
}

#[derive(Debug)]
struct Entries<Value> {
    by_sql: HashMap<&'static str, Entry<Value>>,
    last_asked: Option<&'static str>,
    clock: u64,
    size_max: usize,
}

#[derive(Debug)]
struct Entry<Value> {
    prepared: Value,
    used_at: u64,
}

impl<Value: Clone> StatementCache<Value> {
    pub(crate) fn new(size_max: usize) -> Self {
        Self { entries: Mutex::new(Entries { by_sql: HashMap::new(), last_asked: None, clock: 0, size_max }) }
    }

    pub(crate) fn get(&self, sql: &'static str) -> Option<Value> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.clock += 1;
        entries.last_asked = Some(sql);
        let clock = entries.clock;
        let entry = entries.by_sql.get_mut(sql)?;
        entry.used_at = clock;
        Some(entry.prepared.clone())
    }

    /// The text that was last looked for, found or not.
    pub(crate) fn last_asked(&self) -> Option<&'static str> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).last_asked
    }

    /// Keeps a prepared statement. What it pushes out is dropped after the lock is released.
    pub(crate) fn insert(&self, sql: &'static str, prepared: Value) {
        let evicted = {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries.clock += 1;
            let evicted = entries.make_room(sql);
            let used_at = entries.clock;
            (evicted, entries.by_sql.insert(sql, Entry { prepared, used_at }))
        };
        drop(evicted);
    }

    /// Forgets a statement that the server no longer takes.
    pub(crate) fn remove(&self, sql: &'static str) {
        let removed = self.entries.lock().unwrap_or_else(PoisonError::into_inner).by_sql.remove(sql);
        drop(removed);
    }
}

impl<Value> Entries<Value> {
    // A scan over at most `size_max` entries, only when a full cache meets a new statement: a round trip dwarfs it.
    fn make_room(&mut self, sql: &'static str) -> Option<Entry<Value>> {
        if self.by_sql.len() < self.size_max || self.by_sql.contains_key(sql) {
            return None;
        }
        let oldest = self.by_sql.iter().min_by_key(|(_, entry)| entry.used_at).map(|(sql, _)| *sql)?;
        self.by_sql.remove(oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_first() {
        let cache = StatementCache::new(2);
        cache.insert("a", 1);
        cache.insert("b", 2);
        assert_eq!(cache.get("a"), Some(1));
        cache.insert("c", 3);
        assert_eq!((cache.get("a"), cache.get("b"), cache.get("c")), (Some(1), None, Some(3)));
        cache.insert("c", 4);
        assert_eq!((cache.get("a"), cache.get("c")), (Some(1), Some(4)));
        cache.remove("a");
        assert_eq!(cache.get("a"), None);
    }
}
