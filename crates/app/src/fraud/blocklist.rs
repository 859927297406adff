//! The blocklist: entries of the configuration joined with those of the `fraud_blocklist` table, held in memory and
//! replaced whole by a periodic read. Keeps the last good list while the database is away.

use ahash::AHashSet;
use arc_swap::ArcSwap;
use paystrata_db::{Db, Statement};
use std::sync::Arc;

/// Entries read from the table at most; more is a sign that a list was loaded that this design is not for.
const ENTRIES_MAX: i64 = 1_000_000;

static READ_ENTRIES: Statement = Statement::new(
    "SELECT entry FROM fraud_blocklist WHERE expires_at IS NULL OR expires_at > now() LIMIT $1",
    &[paystrata_db::Type::INT8],
);

/// A set of blocked things.
#[derive(Debug)]
pub struct Blocklist {
    configured: AHashSet<String>,
    stored: ArcSwap<AHashSet<String>>,
}

impl Blocklist {
    /// With the configured entries only.
    #[must_use]
    pub fn new(configured: &[String]) -> Self {
        Self { configured: configured.iter().cloned().collect(), stored: ArcSwap::default() }
    }

    /// Whether there is nothing to look for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.configured.is_empty() && self.stored.load().is_empty()
    }

    /// Whether the entry is blocked.
    #[must_use]
    pub fn contains(&self, entry: &str) -> bool {
        self.configured.contains(entry) || self.stored.load().contains(entry)
    }
}

/// Replaces the stored entries by what the table holds now.
///
/// # Errors
/// The database refused or was not reached; the last list stays in force.
pub async fn refresh_blocklist(blocklist: &Blocklist, db: &Db) -> Result<(), paystrata_db::Error> {
    let rows = db.read().await?.query(&READ_ENTRIES, &[&ENTRIES_MAX]).await?;
    let entries: AHashSet<String> = rows.iter().map(|row| row.get(0)).collect();
    blocklist.stored.store(Arc::new(entries));
    Ok(())
}
