//! A workload: statements, and how often each is called. From the slow log, from `pg_stat_statements` where the server
//! counts them, or from a text. Nothing here judges a statement.

use tokio_postgres::Client;

use super::explain::PlanError;
use super::sessions::session_on;
use crate::db::Db;
use crate::session::Session;

/// What a database is asked. The counts should cover about the time that the server's own counters of writes cover.
#[derive(Clone, Debug, Default)]
pub struct Workload {
    /// The statements.
    pub statements: Vec<WorkloadStatement>,
}

/// One statement of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadStatement {
    /// Its text, with `$1`, `$2` .. for its parameters.
    pub sql: String,
    /// How often it is called.
    pub calls: u64,
}

/// Why a text is no workload.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkloadError {
    /// The number of calls cannot be read.
    #[error("statement {place}: `-- calls:` wants a whole number, not `{found}`")]
    Calls {
        /// Which statement, from 1.
        place: usize,
        /// What stands there.
        found: String,
    },
    /// There is no statement.
    #[error("no statement: write one or more, each ended by a semicolon at the end of a line")]
    Empty,
}

/// Statements of a workload that are looked at, those that are called most first.
const STATEMENTS_MAX: usize = 200;
const CALLS_MARK: &str = "-- calls:";

const IS_COUNTED: &str = "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_stat_statements')";
/// Longest in all first. Utility statements have no plan, and what is asked about the server itself, by this crate too, is nobody's
/// workload.
const COUNTED_SQL: &str = "SELECT query, calls FROM pg_stat_statements \
    WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) \
    AND query ~* '^(\\s|/\\*.*?\\*/|--[^\\n]*\\n)*(select|with|update|delete)\\M' \
    AND query !~* '\\mpg_(stat|extension|control|is_in_recovery|last_wal|current_wal|postmaster)' \
    ORDER BY total_exec_time DESC LIMIT 200";

impl Db {
    /// What all servers have counted, together: what is read from replicas is counted there and nowhere else. `None` where
    /// `pg_stat_statements` is not installed in this database. Dials a session to each server, replicas that
    /// serve no reads included.
    ///
    /// # Errors
    /// [`PlanError::Session`] where a server does not answer, [`PlanError::Refused`] where it counts nothing.
    pub async fn counted_workload(&self) -> Result<Option<Workload>, PlanError> {
        let mut together = Workload::default();
        for place in 0..self.shared.members.len() {
            let session = session_on(self, place, "workload").await?;
            let Some(counted) = Workload::from_server(&session).await? else { return Ok(None) };
            counted.statements.into_iter().for_each(|statement| together.add(statement));
        }
        Ok(Some(together))
    }
}

impl Workload {
    /// Adds the calls of a statement to those of the same text, if there are any.
    pub fn add(&mut self, statement: WorkloadStatement) {
        match self.statements.iter_mut().find(|known| known.sql == statement.sql) {
            Some(known) => known.calls = known.calls.saturating_add(statement.calls),
            None => self.statements.push(statement),
        }
    }

    /// Reads statements, each ended by a semicolon at the end of a line. A line `-- calls: 1000` before a statement says
    /// how often it is called; without one, once.
    ///
    /// # Errors
    /// [`WorkloadError`].
    pub fn from_text(text: &str) -> Result<Self, WorkloadError> {
        let mut statements = Vec::new();
        let (mut sql, mut calls) = (String::new(), 1);
        for line in text.lines() {
            if let Some(found) = line.trim().strip_prefix(CALLS_MARK) {
                let found = found.trim();
                let place = statements.len() + 1;
                calls = found.parse().map_err(|_| WorkloadError::Calls { place, found: found.to_owned() })?;
                continue;
            }
            if line.trim_start().starts_with("--") {
                continue;
            }
            sql.push_str(line);
            sql.push('\n');
            if line.trim_end().ends_with(';') {
                push(&mut statements, &mut sql, &mut calls);
            }
        }
        push(&mut statements, &mut sql, &mut calls);
        if statements.is_empty() { Err(WorkloadError::Empty) } else { Ok(Self { statements }) }
    }

    /// What the server itself has counted; `None` where `pg_stat_statements` is not installed in this database.
    ///
    /// # Errors
    /// [`PlanError::Refused`].
    pub async fn from_server(session: &Session) -> Result<Option<Self>, PlanError> {
        let client: &Client = session.client();
        if !client.query_typed_one(IS_COUNTED, &[]).await?.try_get::<_, bool>(0)? {
            return Ok(None);
        }
        let rows = client.query_typed(COUNTED_SQL, &[]).await?;
        let read = |row: &tokio_postgres::Row| {
            let calls: i64 = row.try_get(1)?;
            Ok(WorkloadStatement { sql: row.try_get(0)?, calls: u64::try_from(calls).unwrap_or(0) })
        };
        let statements = rows.iter().map(read).collect::<Result<Vec<_>, tokio_postgres::Error>>()?;
        Ok(Some(Self { statements }))
    }

    /// Those that are called most, as many as are looked at.
    pub(super) fn foremost(&self) -> Vec<&WorkloadStatement> {
        let mut statements: Vec<&WorkloadStatement> = self.statements.iter().collect();
        statements.sort_by_key(|statement| std::cmp::Reverse(statement.calls));
        statements.truncate(STATEMENTS_MAX);
        statements
    }
}

fn push(statements: &mut Vec<WorkloadStatement>, sql: &mut String, calls: &mut u64) {
    let text = std::mem::take(sql);
    let calls = std::mem::replace(calls, 1);
    let text = text.trim().trim_end_matches(';').trim_end();
    if !text.is_empty() {
        statements.push(WorkloadStatement { sql: text.to_owned(), calls });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_and_their_calls_are_read() {
        let text = "-- calls: 900\nSELECT a\nFROM t WHERE b = ';';\n\n-- a word\nSELECT 2;\nSELECT 3";
        let read = Workload::from_text(text).expect("three statements");
        let read: Vec<_> = read.statements.iter().map(|one| (one.sql.as_str(), one.calls)).collect();
        assert_eq!(read, [("SELECT a\nFROM t WHERE b = ';'", 900), ("SELECT 2", 1), ("SELECT 3", 1)]);
    }

    #[test]
    fn calls_of_one_text_are_added_up() {
        let mut together = Workload::default();
        for (sql, calls) in [("SELECT 1", 2), ("SELECT 2", 1), ("SELECT 1", u64::MAX)] {
            together.add(WorkloadStatement { sql: sql.to_owned(), calls });
        }
        let found: Vec<_> = together.statements.iter().map(|one| (one.sql.as_str(), one.calls)).collect();
        assert_eq!(found, [("SELECT 1", u64::MAX), ("SELECT 2", 1)]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let many = Workload::from_text("SELECT 1;\n-- calls: many\nSELECT 2;").expect_err("no number");
        assert_eq!(many, WorkloadError::Calls { place: 2, found: "many".to_owned() });
        assert_eq!(Workload::from_text(" \n-- only a word\n").expect_err("nothing"), WorkloadError::Empty);
    }
}
