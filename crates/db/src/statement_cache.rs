//! Prepared statements of one connection, bounded, least recently used out first, all of one state of the schema.
//! It never talks to the server: dropping a prepared statement lets the driver close it. Used by `Connection`.

use std::sync::{Mutex, PoisonError};

use ahash::AHashMap;
use tokio_postgres::Statement as Prepared;

use crate::migrate::SchemaState;

/// Prepared statements by text.
#[derive(Debug)]
pub(crate) struct StatementCache<Value = Prepared> {
    entries: Mutex<Entries<Value>>,
}

#[derive(Debug)]
struct Entries<Value> {
    by_sql: AHashMap<&'static str, Entry<Value>>,
    last_asked: Option<&'static str>,
    clock: u64,
    size_max: usize,
    /// Of which all entries are.
    schema: SchemaState,
}

#[derive(Debug)]
struct Entry<Value> {
    prepared: Value,
    used_at: u64,
}

impl<Value: Clone> StatementCache<Value> {
    pub(crate) fn new(size_max: usize) -> Self {
        let schema = SchemaState::default();
        let entries = Entries { by_sql: AHashMap::new(), last_asked: None, clock: 0, size_max, schema };
        Self { entries: Mutex::new(entries) }
    }

    pub(crate) fn get(&self, sql: &'static str, schema: SchemaState) -> Option<Value> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let outdated = entries.turn_to(schema);
        entries.clock += 1;
        entries.last_asked = Some(sql);
        let clock = entries.clock;
        let found = entries.by_sql.get_mut(sql).map(|entry| {
            entry.used_at = clock;
            entry.prepared.clone()
        });
        drop(entries);
        // Not under the lock: the driver is told to close each.
        drop(outdated);
        found
    }

    /// The text that was last looked for, found or not.
    pub(crate) fn last_asked(&self) -> Option<&'static str> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).last_asked
    }

    /// Keeps a statement that was prepared when the schema was seen to be so, unless it has changed since. What it pushes out is
    /// dropped after the lock is released.
    pub(crate) fn insert(&self, sql: &'static str, prepared: Value, schema: SchemaState) {
        let evicted = {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            if entries.by_sql.is_empty() {
                entries.schema = schema;
            }
            if entries.schema != schema {
                drop(entries);
                return;
            }
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
    /// Gives what is of another state of the schema.
    fn turn_to(&mut self, schema: SchemaState) -> AHashMap<&'static str, Entry<Value>> {
        if self.schema == schema {
            return AHashMap::new();
        }
        self.schema = schema;
        std::mem::take(&mut self.by_sql)
    }

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
        let (cache, schema) = (StatementCache::new(2), SchemaState::default());
        let get = |sql| cache.get(sql, schema);
        cache.insert("a", 1, schema);
        cache.insert("b", 2, schema);
        assert_eq!(get("a"), Some(1));
        cache.insert("c", 3, schema);
        assert_eq!((get("a"), get("b"), get("c")), (Some(1), None, Some(3)));
        cache.insert("c", 4, schema);
        assert_eq!((get("a"), get("c")), (Some(1), Some(4)));
        cache.remove("a");
        assert_eq!(get("a"), None);
    }

    #[test]
    fn nothing_outlives_a_change_of_the_schema() {
        let (cache, before, after) = (StatementCache::new(2), SchemaState::new(2), SchemaState::new(4));
        cache.insert("a", 1, before);
        assert_eq!(cache.get("a", before), Some(1));
        assert_eq!(cache.get("a", after), None);
        cache.insert("b", 2, after);
        // It was under way while the schema changed.
        cache.insert("a", 1, before);
        assert_eq!((cache.get("a", after), cache.get("b", after)), (None, Some(2)));
    }
}
