//! Materialized views and tables that act as such: registered once with the way and the time of their refresh, refreshed by
//! one process of the fleet at a time, in the order in which they are made from each other, and read together with their age.
//! It creates none of them, and never says of a view that it is younger than what it is made from. Whoever keeps views fresh
//! runs [`Views::run`]; whoever reads one asks [`Views::read`].
//!
//! ```no_run
//! use std::time::Duration;
//! use paystrata_db::views::{IfOlder, Refresh, View, Views, When};
//! use paystrata_db::{Db, Statement};
//!
//! static TOP: Statement = Statement::new("SELECT name FROM city_ranks WHERE rank <= 10", &[]);
//!
//! # async fn run(db: Db) -> Result<(), Box<dyn std::error::Error>> {
//! let sizes = View::new("city_sizes", Refresh::Concurrent, When::Every(Duration::from_secs(60)));
//! let mut ranks = View::new("city_ranks", Refresh::Plain, When::OnChange { pause: Duration::from_secs(5) });
//! ranks.made_from = vec!["city_sizes".to_owned()];
//! let views = Views::new(&db, vec![sizes, ranks])?;
//!
//! let read = views.read("city_ranks", Duration::from_secs(120), IfOlder::Refresh).await?;
//! println!("{} rows, {:?} old", read.connection.query(&TOP, &[]).await?.len(), read.age);
//!
//! views.run().await; // until it is dropped
//! # Ok(())
//! # }
//! ```
//!
//! # What holds
//!
//! - **One refresher.** A refresh holds a transaction's advisory lock: of all processes that ask at once one refreshes, and the
//!   others are told so at once. The lock ends with the transaction, also when its connection or its process is killed.
//! - **An age is never too young.** It counts from a moment before the refresh began to read, or from that of the oldest
//!   view that it is made from. A materialized view that reads a registered one which it does not name is not refreshed; what
//!   functions read, and views that nobody has registered, are not seen. A read counts it by the clock of the server that
//!   answers: a replica whose clock is behind
//!   the primary's takes the view for younger by so much.
//! - **A failure stays where it is.** Views that are not made from the failed one are refreshed all the same; those that are, are not.
//! - **A refresh that fails leaves nothing.** Of one whose commit was not answered it is said that nobody knows.
//! - **A dropped refresh leaves nothing**: its connection closes, the server notices within a second and rolls back.
//!
//! # What it costs
//!
//! A refresh takes a connection of its own and some six round trips besides the refresh. A round that finds nothing due is one
//! read of a small table. The table is [`SCHEMA_SQL`]'s; run that from a migration.

mod changes;
mod delta;
mod error;
mod order;
mod read;
mod refresh;
mod rounds;
mod sources;
mod state;

use std::sync::Arc;
use std::time::Duration;

pub use delta::Delta;
pub use error::ViewError;
pub use read::{IfOlder, ViewRead};
pub use refresh::{Ended, Skipped};
pub use rounds::Report;
pub use state::ViewStatus;

use crate::db::Db;

/// Makes the table in which processes tell each other of refreshes. It changes nothing where the table stands.
pub const SCHEMA_SQL: &str = include_str!("schema.sql");

/// Views in one registry at most; each costs a row, and a look every second or so.
const VIEWS_MAX: usize = 256;

/// One view.
#[derive(Clone, Debug)]
pub struct View {
    /// Its relation, with a schema or not.
    pub name: String,
    /// How it is refreshed.
    pub refresh: Refresh,
    /// When it is refreshed.
    pub when: When,
    /// The registered views that it reads, itself or through plain views. Each refresh of a materialized view compares them with the
    /// catalog; what functions read, and what the query of a delta view reads, nobody compares.
    pub made_from: Vec<String>,
    /// The tables that it reads; for [`When::OnChange`].
    pub tables: Vec<String>,
    /// How long a refresh may take, waiting for locks included.
    pub timeout: Duration,
    /// How long the refresh may wait for the lock of a relation. While it waits, whoever reads that relation later may
    /// have to wait behind it.
    pub lock_timeout: Duration,
    /// Server settings in force during the refresh, by name and value: `work_mem`, for example.
    pub settings: Vec<(String, String)>,
}

/// How a view is refreshed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Refresh {
    /// `REFRESH MATERIALIZED VIEW`: the cheapest way to replace all of it. Readers wait until it is done.
    Plain,
    /// `REFRESH MATERIALIZED VIEW CONCURRENTLY`: readers wait for nothing, only changed rows are written, and finding them
    /// costs more. It needs a unique index over plain columns. A view that was never populated is refreshed plainly
    /// the first time: nobody can read it yet.
    Concurrent,
    /// A plain table, of which the rows of changed keys are made anew. Readers wait for nothing.
    Delta(Delta),
}

/// When a view is refreshed by [`Views::run`] and [`Views::refresh_due`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum When {
    /// Once per so long in the fleet, counted from the end of one refresh to the beginning of the next. A refresh that takes longer
    /// than that is left as long to rest as it took.
    Every(Duration),
    /// When the tables and views it reads have changed, but not more often than once per `pause`, counted alike. A change is seen by the
    /// server's counters of changed rows, which follow a commit within ten seconds; a delta view sees its keys at once.
    /// Where the server does not count (`track_counts`), it is taken for changed each time.
    OnChange {
        /// The rest between two refreshes.
        pause: Duration,
    },
    /// Only when somebody asks.
    OnDemand,
}

/// The registered views. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Views {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    db: Db,
    /// Each after those it is made from.
    entries: Vec<Entry>,
}

/// A view and what this process does with it.
#[derive(Debug)]
struct Entry {
    view: View,
    /// The names of all views of the registry.
    registered: Arc<[String]>,
    /// One reader of this process at a time refreshes; the others wait for it and not for a connection each.
    turn: tokio::sync::Mutex<()>,
}

impl View {
    /// With ten minutes for a refresh, five seconds for a lock, and nothing that it is made from.
    #[must_use]
    pub fn new(name: impl Into<String>, refresh: Refresh, when: When) -> Self {
        Self {
            name: name.into(),
            refresh,
            when,
            made_from: Vec::new(),
            tables: Vec::new(),
            timeout: Duration::from_secs(600),
            lock_timeout: Duration::from_secs(5),
            settings: Vec::new(),
        }
    }

    fn check(&self) -> Result<(), ViewError> {
        let relations = self.tables.iter().map(|table| ("tables", table));
        let settings = self.settings.iter().map(|(setting, _)| ("settings", setting));
        for (field, name) in [("name", &self.name)].into_iter().chain(relations).chain(settings) {
            if !is_plain_path(name) {
                return Err(self.no_name(field, name));
            }
        }
        let no = |problem| Err(ViewError::Settings { view: self.name.clone(), problem });
        // The server counts in whole milliseconds, up to the largest of 32 bits, and takes 0 for "none".
        let fits = |limit: Duration| (1..=u128::from(i32::MAX.unsigned_abs())).contains(&limit.as_millis());
        if !fits(self.timeout) || !fits(self.lock_timeout) {
            return no("timeout and lock_timeout must be at least 1 ms and at most 24 days");
        }
        match (&self.refresh, self.when) {
            (Refresh::Delta(delta), _) => delta.check(self)?,
            (_, When::OnChange { .. }) if self.tables.is_empty() && self.made_from.is_empty() => {
                return no("tables or made_from must say whose changes When::OnChange waits for");
            }
            _ => {}
        }
        match self.when {
            When::Every(Duration::ZERO) | When::OnChange { pause: Duration::ZERO } => {
                no("when: the time between two refreshes must not be zero")
            }
            When::Every(_) | When::OnChange { .. } | When::OnDemand => Ok(()),
        }
    }

    fn no_name(&self, field: &'static str, name: &str) -> ViewError {
        ViewError::Name { view: self.name.clone(), field, name: name.to_owned() }
    }
}

impl Views {
    /// A registry of `views`, in any order.
    ///
    /// # Errors
    /// [`ViewError::Name`], [`ViewError::Settings`], [`ViewError::Twice`], [`ViewError::UnknownSource`] and
    /// [`ViewError::Cycle`]. Nothing is asked of the database yet.
    pub fn new(db: &Db, views: Vec<View>) -> Result<Self, ViewError> {
        views.iter().try_for_each(View::check)?;
        if let Some(first_over) = views.get(VIEWS_MAX) {
            let problem = "one registry holds 256 views at most";
            return Err(ViewError::Settings { view: first_over.name.clone(), problem });
        }
        let sorted = order::sort(&views)?;
        let registered: Arc<[String]> = views.iter().map(|view| view.name.clone()).collect();
        let mut views: Vec<Option<View>> = views.into_iter().map(Some).collect();
        let views = sorted.into_iter().filter_map(|place| views[place].take());
        let entry =
            |view| Entry { view, registered: Arc::clone(&registered), turn: tokio::sync::Mutex::new(()) };
        let entries = views.map(entry).collect();
        Ok(Self { inner: Arc::new(Inner { db: db.clone(), entries }) })
    }

    fn entry(&self, name: &str) -> Result<&Entry, ViewError> {
        let found = self.inner.entries.iter().find(|entry| entry.view.name == name);
        found.ok_or_else(|| ViewError::Unknown { view: name.to_owned() })
    }
}

// The server is asked for names as they are, and finds none that would need quoting for its characters.
fn is_plain_name(name: &str) -> bool {
    /// What an identifier holds.
    const BYTES_MAX: usize = 63;
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let opens_well = name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_');
    opens_well && name.len() <= BYTES_MAX && name.bytes().all(plain)
}

/// A plain name, or two with a dot between.
fn is_plain_path(path: &str) -> bool {
    let (first, second) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    is_plain_name(first) && second.is_none_or(is_plain_name)
}

/// A plain path for a statement, where a word of the language must not be taken for one.
fn quoted_path(path: &str) -> String {
    format!("\"{}\"", path.replace('.', "\".\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl Fn(&mut View), problem: Option<&str>) {
        let mut view = View::new("stats", Refresh::Plain, When::Every(Duration::from_secs(1)));
        change(&mut view);
        assert_eq!(view.check().err().map(|error| error.to_string()).as_deref(), problem);
    }

    #[test]
    fn names_and_settings_are_judged_by_field() {
        check(|_| {}, None);
        check(|view| view.name = "sales.by_day".to_owned(), None);
        check(
            |view| view.tables = vec!["a;b".to_owned()],
            Some(r#"tables of view "stats": "a;b" is no plain lower-case name"#),
        );
        assert_eq!(quoted_path("order"), "\"order\"");
        assert_eq!(quoted_path("sales.user"), "\"sales\".\"user\"");
        for name in ["", "Stats", "a.b.c", "a.", ".a", "1a", "a b", "a\"", "a'", "\u{e9}", &"a".repeat(64)] {
            assert!(!is_plain_path(name), "{name}");
        }
        check(
            |view| view.when = When::Every(Duration::ZERO),
            Some("view stats: when: the time between two refreshes must not be zero"),
        );
        check(
            |view| view.when = When::OnChange { pause: Duration::from_secs(1) },
            Some("view stats: tables or made_from must say whose changes When::OnChange waits for"),
        );
        check(
            |view| view.lock_timeout = Duration::from_micros(1),
            Some("view stats: timeout and lock_timeout must be at least 1 ms and at most 24 days"),
        );
    }
}
