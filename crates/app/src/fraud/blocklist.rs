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
    #[error("fraud_blocklist holds more than {ENTRIES_MAX} entries in force")]
    TooManyEntries,
}

impl BlocklistError {
    /// What ends it, where only a person can.
    #[must_use]
    pub fn mend(&self) -> Option<&'static str> {
        match self {
            Self::Database(_) => None,
            Self::TooManyEntries => Some(
                "delete or expire entries: new ones are not in force, and after a restart no payment is taken",
            ),
        }
    }
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

    /// As [`Self::replace_stored`], if they are no more than are held at most.
    fn accept(&self, entries: Vec<String>) -> Result<(), BlocklistError> {
        if entries.len() > ENTRIES_MAX {
            return Err(BlocklistError::TooManyEntries);
        }
        self.replace_stored(entries.into_iter().collect());
        Ok(())
    }

    /// Entries in force, those of the configuration included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.configured.len() + self.stored.load().as_ref().map_or(0, |stored| stored.len())
    }

    /// Whether there is nothing to look for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
    blocklist.accept(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_too_long_leaves_the_last_one_in_force_and_says_what_ends_it() {
        let blocklist = Blocklist::new(&["bin:411111".to_owned()]);
        let refused = blocklist.accept(vec![String::new(); ENTRIES_MAX + 1]).unwrap_err();
        assert!(!blocklist.is_read(), "half a list is none");
        assert!(refused.to_string().contains("more than 1000000 entries"), "{refused}");
        assert!(refused.mend().is_some_and(|mend| mend.contains("delete or expire")));
        blocklist.accept(vec!["account:a".to_owned(), "account:b".to_owned()]).unwrap();
        blocklist.accept(vec![String::new(); ENTRIES_MAX + 1]).unwrap_err();
        assert!(blocklist.contains("account:a") && blocklist.len() == 3);
    }
}
