//! Migrations: an ordered, forward-only list of SQL files, each applied once, its checksum kept in `schema_migrations`.
//! It never edits, reorders or undoes what was applied, and stops with a clear error when list and database disagree.
//! Run by the binary and by tools, on a [`crate::Session`].

mod announce;
mod plan;
mod run;
mod split;

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

pub(crate) use announce::{STATE_SQL, SchemaState};

/// Whether a migration runs inside a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transactional {
    /// In one transaction with its own record: it is applied in full or not at all.
    Yes,
    /// Statement by statement, for what Postgres refuses inside a transaction (`CREATE INDEX CONCURRENTLY`).
    /// Should one fail, the migration stays marked as dirty until a person has looked.
    No,
}

/// One step of the schema.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// Its place in the order.
    pub version: u32,
    /// Its name, for people.
    pub name: &'static str,
    /// Its statements. It must contain no transaction control.
    pub sql: &'static str,
    /// Whether they run in one transaction.
    pub transactional: Transactional,
}

/// The list that a database is brought up to.
#[derive(Clone, Copy, Debug)]
pub struct Migrator {
    migrations: &'static [Migration],
    ahead: Option<Duration>,
}

/// A migration that `up` has applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its version.
    pub version: u32,
    /// Its name.
    pub name: &'static str,
    /// How long it took.
    pub took: Duration,
}

/// Where one migration stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationStatus {
    /// Its version; the database may hold any number.
    pub version: i64,
    /// Its name: that of the list, or the recorded one where the list has none.
    pub name: Cow<'static, str>,
    /// Where it stands.
    pub state: MigrationState,
}

/// Applied or not, and whether list and database agree on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrationState {
    /// Applied at that time, and unchanged since.
    Applied {
        /// By the clock of the database.
        at: SystemTime,
    },
    /// To be applied.
    Pending,
    /// Not applied, yet a later one is: `up` refuses ([`MigrateError::OutOfOrder`]).
    Skipped,
    /// Edited after it was applied: `up` refuses ([`MigrateError::Changed`]).
    Changed {
        /// By the clock of the database.
        at: SystemTime,
    },
    /// Applied, and not in the list: `up` refuses ([`MigrateError::Missing`]).
    Unknown {
        /// By the clock of the database.
        at: SystemTime,
    },
    /// Begun outside a transaction and not finished: `up` refuses ([`MigrateError::Dirty`]).
    Dirty,
}

impl MigrationState {
    /// Whether `up` would refuse to work on a database where a migration stands like this.
    #[must_use]
    pub fn is_disagreement(self) -> bool {
        !matches!(self, Self::Applied { .. } | Self::Pending)
    }
}

/// Why the schema was not brought up to date.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// The list is not in strictly rising order.
    #[error("migration {version} stands after {previous} in the list; versions must rise")]
    Unordered {
        /// The one out of place.
        version: u32,
        /// The one before it.
        previous: u32,
    },
    /// An applied migration was edited.
    #[error("migration {version} ({name}) was changed after it was applied: its checksum differs")]
    Changed {
        /// Its version.
        version: u32,
        /// Its name.
        name: &'static str,
    },
    /// The database has a migration that the list does not know: the program is older than the schema.
    #[error("the database has migration {version} ({name}), which this program does not know")]
    Missing {
        /// Its version.
        version: i64,
        /// Its recorded name.
        name: String,
    },
    /// A migration was put in front of applied ones.
    #[error(
        "migration {version} ({name}) is not applied, yet the later {newest} is; give it a higher version"
    )]
    OutOfOrder {
        /// Its version.
        version: u32,
        /// Its name.
        name: &'static str,
        /// The newest applied version.
        newest: u32,
    },
    /// A non-transactional migration stopped halfway.
    #[error(
        "migration {version} ({name}) stopped halfway outside a transaction; finish or undo it by hand, then delete its \
         row from schema_migrations (to run it again) or set dirty to false (when it is complete)"
    )]
    Dirty {
        /// Its version.
        version: u32,
        /// Its name.
        name: &'static str,
    },
    /// A migration failed; a transactional one left nothing behind.
    #[error("migration {version} ({name})")]
    Failed {
        /// Its version.
        version: u32,
        /// Its name.
        name: &'static str,
        /// The server's error.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A migration ended the transaction it ran in, so that it cannot be told what was applied.
    #[error("migration {version} ({name}) contains transaction control")]
    EndedTransaction {
        /// Its version.
        version: u32,
        /// Its name.
        name: &'static str,
    },
    /// A migration holds what is made for psql and is no statement for a server. None of those pending was begun.
    #[error("migration {version} ({name}) holds {what}, which is for psql and not for a server")]
    ForPsql {
        /// Its version.
        version: u32,
        /// Its name.
        name: &'static str,
        /// What it is.
        what: &'static str,
    },
    /// Another process has held the migration lock for too long.
    #[error("another process has been migrating for more than {waited:?}")]
    Locked {
        /// How long this one waited.
        waited: Duration,
    },
    /// The bookkeeping failed.
    #[error("keep the record of migrations")]
    Bookkeeping(#[from] tokio_postgres::Error),
}

/// First line of a file whose statements must not run in a transaction; a blank and more may follow in it.
pub const NO_TRANSACTION: &str = "-- no-transaction";
/// Some editors put it before the first line. The server takes it for the beginning of a word.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

impl Migration {
    /// Makes a migration from a file called `0001_accounts.sql`; its first line may be [`NO_TRANSACTION`]. A mark of the byte order
    /// before that is no part of it. Usually written by [`migrations!`](crate::migrations!).
    ///
    /// # Panics
    /// When the file name has another form, or its number does not fit; in a `const` or `static` that is a compile error.
    #[must_use]
    pub const fn from_file(file_name: &'static str, sql: &'static str) -> Self {
        let bytes = file_name.as_bytes();
        let mut version: u32 = 0;
        let mut index = 0;
        while index < bytes.len() && bytes[index].is_ascii_digit() {
            version = with_digit(version, bytes[index]);
            index += 1;
        }
        assert!(
            index > 0 && index < bytes.len() && bytes[index] == b'_',
            "name a migration like 0001_accounts.sql"
        );
        assert!(
            bytes.len() > index + 5 && ends_with(bytes, b".sql"),
            "name a migration like 0001_accounts.sql"
        );
        let (stem, _extension) = file_name.split_at(bytes.len() - 4);
        let (_version, name) = stem.split_at(index + 1);
        let sql = if starts_with(sql.as_bytes(), BYTE_ORDER_MARK) {
            sql.split_at(BYTE_ORDER_MARK.len()).1
        } else {
            sql
        };
        let transactional = if is_outside(sql.as_bytes()) { Transactional::No } else { Transactional::Yes };
        Self { version, name, sql, transactional }
    }

    /// SHA-256 of the statements.
    pub(crate) fn checksum(&self) -> [u8; 32] {
        Sha256::digest(self.sql.as_bytes()).into()
    }
}

impl Migrator {
    /// Takes the list, in rising order of versions.
    #[must_use]
    pub const fn new(migrations: &'static [Migration]) -> Self {
        Self { migrations, ahead: None }
    }

    /// Announces changes so long before they begin: if something is pending, every [`Db`](crate::Db) whose role finds
    /// `schema_announcements` in its `search_path` prepares statements for each use until it is applied, so that none fails or
    /// reruns for the change, and once more afterwards. Meanwhile each costs a round trip and its planning more, and no
    /// connection is shared. It should be several times [`monitor_interval`](crate::Config::monitor_interval); a replica that
    /// catches up may hear of it too late, and whoever did is served as without it. What is prepared on a
    /// [`Session`](crate::Session) is its owner's to prepare anew.
    #[must_use]
    pub const fn announced(self, ahead: Duration) -> Self {
        Self { migrations: self.migrations, ahead: Some(ahead) }
    }
}

const fn with_digit(version: u32, digit: u8) -> u32 {
    let digit = (digit - b'0') as u32;
    assert!(
        version <= (u32::MAX - digit) / 10,
        "the number of a migration does not fit: 4294967295 is the largest"
    );
    version * 10 + digit
}

/// Whether the first line is [`NO_TRANSACTION`], and not one that only begins so.
const fn is_outside(sql: &[u8]) -> bool {
    let end = NO_TRANSACTION.len();
    starts_with(sql, NO_TRANSACTION.as_bytes())
        && (sql.len() == end || matches!(sql[end], b'\r' | b'\n' | b' ' | b'\t' | b':' | b';' | b',' | b'.'))
}

const fn starts_with(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes.len() >= prefix.len() && matches_at(bytes, 0, prefix)
}

const fn ends_with(bytes: &[u8], suffix: &[u8]) -> bool {
    bytes.len() >= suffix.len() && matches_at(bytes, bytes.len() - suffix.len(), suffix)
}

const fn matches_at(bytes: &[u8], start: usize, part: &[u8]) -> bool {
    let mut index = 0;
    while index < part.len() {
        if bytes[start + index] != part[index] {
            return false;
        }
        index += 1;
    }
    true
}

/// A list of migrations from files, read at compile time: the folder, relative to the calling file and ending in
/// a slash, then the file names in order.
///
/// ```text
/// static MIGRATOR: Migrator = Migrator::new(migrations!("../migrations/", "0001_accounts.sql", "0002_payments.sql"));
/// ```
#[macro_export]
macro_rules! migrations {
    ($folder:literal, $($file:literal),+ $(,)?) => {
        &[$($crate::Migration::from_file($file, include_str!(concat!($folder, $file)))),+]
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_gives_version_and_name() {
        const PLAIN: Migration = Migration::from_file("0012_accounts_index.sql", "SELECT 1");
        const OUTSIDE: Migration = Migration::from_file("3_x.sql", "-- no-transaction\nSELECT 1");
        assert_eq!(
            (PLAIN.version, PLAIN.name, PLAIN.transactional),
            (12, "accounts_index", Transactional::Yes)
        );
        assert_eq!((OUTSIDE.version, OUTSIDE.name, OUTSIDE.transactional), (3, "x", Transactional::No));
    }

    #[test]
    fn other_file_names_are_refused() {
        for name in ["accounts.sql", "1.sql", "1_.sql", "1_accounts.txt", "_accounts.sql", ""] {
            let made = std::panic::catch_unwind(|| Migration::from_file(name, ""));
            assert!(made.is_err(), "{name}");
        }
    }

    #[test]
    fn a_number_that_does_not_fit_is_refused_and_never_another() {
        assert_eq!(Migration::from_file("4294967295_a.sql", "").version, u32::MAX);
        for name in ["4294967296_a.sql", "20261124093000_a.sql"] {
            let made = std::panic::catch_unwind(|| Migration::from_file(name, ""));
            let told = made.expect_err(name);
            let told = told.downcast_ref::<&str>().copied().unwrap_or_default();
            assert!(told.starts_with("the number of a migration does not fit"), "{told}");
        }
    }

    #[test]
    fn a_mark_of_the_byte_order_is_in_neither_text_nor_checksum() {
        let (plain, marked) = ("-- no-transaction\nSELECT 1", "\u{feff}-- no-transaction\nSELECT 1");
        let [plain, marked] = [plain, marked].map(|sql| Migration::from_file("1_a.sql", sql));
        assert_eq!((marked.sql, marked.transactional), (plain.sql, Transactional::No));
        assert_eq!(marked.checksum(), plain.checksum());
    }
}
