//! The blocklist: entries of the configuration joined with those of the `fraud_blocklist` table, held in memory and
//! replaced whole by a periodic read. Until the first read there is no list, and nobody is judged by half of one; after
//! it the last good list stays while the database is away.

use std::sync::Arc;

use ahash::AHashSet;
use arc_swap::ArcSwapOption;
use paystrata_db::Db;

use super::store::read_blocklist;

/// Entries of the table that are held at most: about 100 MB. More is a sign that a list was loaded that this design is
/// not for.
const ENTRIES_MAX: usize = 1_000_000;

/// A set of blocked things.
#[derive(Debug)]
pub struct Blocklist {
    configured: AHashSet<String>,
    /// `None` until the table was read.
    stored: ArcSwapOption<AHashSet<String>>,
}

/// Why the stored entries could not be replaced.
#[derive(Debug, thiserror::Error)]
pub enum BlocklistError {
    /// The database refused or was not reached.
    #[error("read fraud_blocklist")]
    Database(#[from] paystrata_db::Error),
    /// A part of the list is no list: whom it leaves out would pay.
    #[error("fraud_blocklist holds more than {ENTRIES_MAX} entries")]
    TooManyEntries,
}

impl Blocklist {
    /// With the configured entries; the table was not read yet.
    #[must_use]
    pub fn new(configured: &[String]) -> Self {
        Self { configured: configured.iter().cloned().collect(), stored: ArcSwapOption::empty() }
    }

    /// Whether the table was read at least once.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.stored.load().is_some()
    }

    /// Puts these in the place of all stored entries.
    pub fn replace_stored(&self, entries: AHashSet<String>) {
        self.stored.store(Some(Arc::new(entries)));
    }

    /// Whether there is nothing to look for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.configured.is_empty() && self.stored.load().as_ref().is_none_or(|stored| stored.is_empty())
    }

    /// Whether the entry is blocked.
    #[must_use]
    pub fn contains(&self, entry: &str) -> bool {
        self.configured.contains(entry)
            || self.stored.load().as_ref().is_some_and(|stored| stored.contains(entry))
    }
}

/// Replaces the stored entries by what the table holds now. Asks the primary: a replica that lags would forget an entry
/// that was in force already.
///
/// # Errors
/// The last list stays in force.
pub async fn refresh_blocklist(blocklist: &Blocklist, db: &Db) -> Result<(), BlocklistError> {
    // One more than is held, to see that there are more.
    let rows_max = i64::try_from(ENTRIES_MAX + 1).expect("a million fits");
    let entries = read_blocklist(&db.write().await?, rows_max).await?;
    if entries.len() > ENTRIES_MAX {
        return Err(BlocklistError::TooManyEntries);
    }
    blocklist.replace_stored(entries.into_iter().collect());
    Ok(())
}
