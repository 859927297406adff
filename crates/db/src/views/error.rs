//! Why a view was not refreshed, or not read. Names views and settings; holds no rows and no values.

use std::time::Duration;

use crate::error::Error;

/// What went wrong with the registry, a refresh, or a read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    /// Names of relations, columns and types are lower-case letters, digits and underscores, with a schema and a dot in
    /// front or not.
    #[error("{field} of view {view:?}: {name:?} is no plain lower-case name")]
    Name {
        /// The view as it was given.
        view: String,
        /// Which of its fields.
        field: &'static str,
        /// What stands there.
        name: String,
    },
    /// Settings of a view that contradict each other or mean nothing.
    #[error("view {view}: {problem}")]
    Settings {
        /// The view.
        view: String,
        /// What is wrong, by the field's name.
        problem: &'static str,
    },
    /// Two views of one name.
    #[error("view {view} is registered twice")]
    Twice {
        /// The view.
        view: String,
    },
    /// A view is made from one that is not registered.
    #[error("view {view} is made from {source_view}, which is not registered")]
    UnknownSource {
        /// The view.
        view: String,
        /// The one it names.
        source_view: String,
    },
    /// The view reads a registered one that it does not name, so that its age would be told too young, and the order would not
    /// hold.
    #[error("view {view} reads {source_view}, which its made_from does not name")]
    UndeclaredSource {
        /// The view.
        view: String,
        /// The one it reads.
        source_view: String,
    },
    /// The view names a registered one that it does not read.
    #[error("view {view} does not read {source_view}, which its made_from names")]
    UnreadSource {
        /// The view.
        view: String,
        /// The one it names.
        source_view: String,
    },
    /// Views that are made from each other: the first is made from the second, and so on; the last one is the first again.
    #[error("views are made from each other: {}", views.join(" <- "))]
    Cycle {
        /// Their names.
        views: Vec<String>,
    },
    /// Nobody has registered it.
    #[error("view {view} is not registered")]
    Unknown {
        /// The name asked for.
        view: String,
    },
    /// There is no relation of this name, or it is of another kind than its refresh needs.
    #[error("{view} is no {expected} in this database")]
    Missing {
        /// The view.
        view: String,
        /// What it must be.
        expected: &'static str,
    },
    /// Without one, Postgres cannot tell which rows have changed.
    #[error(
        "view {view} needs a unique index over plain columns, without WHERE, to be refreshed concurrently"
    )]
    NoUniqueIndex {
        /// The view.
        view: String,
    },
    /// A view that this one is made from failed in the same round, or was never refreshed: what it would read is not there
    /// or is known to be old.
    #[error("view {view} was not refreshed, because {by} was not")]
    Blocked {
        /// The view.
        view: String,
        /// The one that failed.
        by: String,
    },
    /// The whole refresh, waiting included, took longer than it may. Nothing of it remains.
    #[error("view {view} was not refreshed within {after:?}")]
    Timeout {
        /// The view.
        view: String,
        /// The limit.
        after: Duration,
    },
    /// The commit of the refresh was sent and not answered: it may be there or not. Reads tell: the age that they give is that of what
    /// is there.
    #[error("whether view {view} was refreshed is not known: its commit was not answered")]
    CommitUnknown {
        /// The view.
        view: String,
    },
    /// Nobody has refreshed it yet, so that nobody knows how old it is.
    #[error("view {view} was never refreshed")]
    NeverRefreshed {
        /// The view.
        view: String,
    },
    /// Older than the reader takes.
    #[error("view {view} is {age:?} old, and at most {age_max:?} was asked for")]
    TooOld {
        /// The view.
        view: String,
        /// Its age.
        age: Duration,
        /// What was asked for.
        age_max: Duration,
    },
    /// The database refused or was not reached.
    #[error("view {view}")]
    Database {
        /// The view.
        view: String,
        /// Why.
        #[source]
        source: Error,
    },
}

impl ViewError {
    /// For the record of failures: a cause without any value that the server may have quoted.
    pub(super) fn recorded(&self) -> String {
        match self {
            Self::Database { source, .. } => match source.sqlstate() {
                Some(state) => format!("SQLSTATE {}", state.code()),
                None => source.to_string(),
            },
            other => other.to_string(),
        }
    }
}
