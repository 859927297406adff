//! Statements as values: a text, and the types of its parameters, fixed when the program is compiled.
//! It refuses, at compile time for a `static`, whatever would leave state behind on a pooled connection:
//! transaction control, session settings, listening, cursors, and `COPY`. Everyone who queries declares some.

use std::panic::Location;

use postgres_types::Type;

use crate::pooler::session_feature;
use crate::session_words::{TEMPORARY, names_any, opening_verb, opens_with_any, sets_for_session};

/// A statement with its parameter types.
///
/// Give the types in full: behind a pooler they save a round trip, and elsewhere they are what the server prepares.
///
/// ```
/// use paystrata_db::{Statement, Type};
/// static FIND: Statement = Statement::new("SELECT name FROM city WHERE id = $1", &[Type::INT8]);
/// assert!(FIND.sql().starts_with("SELECT"));
/// ```
///
/// Whatever would outlive the call on a shared connection does not compile:
///
/// ```compile_fail
/// use paystrata_db::Statement;
/// static LEAKS: Statement = Statement::new("set search_path = elsewhere", &[]);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Statement {
    sql: &'static str,
    types: &'static [Type],
    place: &'static Location<'static>,
    leaves_session_state: bool,
    session_feature: Option<&'static str>,
    writing_verb: Option<&'static str>,
}

/// First words of statements that change what the next borrower of the connection meets.
/// `COPY` is among them because it speaks another protocol than a query.
const REFUSED_VERBS: [&str; 18] = [
    "ABORT",
    "BEGIN",
    "CLOSE",
    "COMMIT",
    "COPY",
    "DEALLOCATE",
    "DECLARE",
    "DISCARD",
    "END",
    "LISTEN",
    "LOAD",
    "PREPARE",
    "RELEASE",
    "RESET",
    "ROLLBACK",
    "SAVEPOINT",
    "SET",
    "START",
];

/// What changes a session beyond the end of a transaction although it is no command of its own. That the next borrower
/// finds nothing of it costs the connection a reset, which no caller waits for.
const SESSION_LOCKS: [&str; 2] = ["PG_ADVISORY_LOCK", "PG_TRY_ADVISORY_LOCK"];

/// First words of statements that change something, whatever follows: a replica refuses each of them but `ALTER SYSTEM`.
const WRITING_VERBS: [&str; 17] = [
    "ALTER", "ANALYZE", "CLUSTER", "COMMENT", "CREATE", "DELETE", "DROP", "GRANT", "INSERT", "MERGE",
    "NOTIFY", "REFRESH", "REINDEX", "REVOKE", "TRUNCATE", "UPDATE", "VACUUM",
];

/// First words of statements that may run anything.
const RUN_ANYTHING: [&str; 2] = ["DO", "CALL"];

impl Statement {
    /// Makes a statement; meant for a `static` or `const`, where a refusal is a compile error.
    ///
    /// # Panics
    /// When the first word is one that leaves state on the connection. Use [`crate::Db::transaction`] for
    /// transactions and [`crate::Db::session`] for the rest.
    #[must_use]
    #[track_caller]
    pub const fn new(sql: &'static str, types: &'static [Type]) -> Self {
        assert!(
            !opens_with_any(sql, &REFUSED_VERBS),
            "this statement would leave state behind on a pooled connection"
        );
        Self {
            sql,
            types,
            place: Location::caller(),
            leaves_session_state: names_any(sql, &SESSION_LOCKS)
                || names_any(sql, &TEMPORARY)
                || sets_for_session(sql)
                || opens_with_any(sql, &RUN_ANYTHING),
            session_feature: session_feature(sql),
            writing_verb: opening_verb(sql, &WRITING_VERBS),
        }
    }

    /// The text.
    #[must_use]
    pub const fn sql(&self) -> &'static str {
        self.sql
    }

    /// The parameter types, in order.
    #[must_use]
    pub const fn types(&self) -> &'static [Type] {
        self.types
    }

    /// Where in the source it was made.
    #[must_use]
    pub const fn place(&self) -> &'static Location<'static> {
        self.place
    }

    /// What it wants of a session, which a pooler keeps for nobody.
    pub(crate) const fn session_feature(&self) -> Option<&'static str> {
        self.session_feature
    }

    /// Its first word, if that says that it writes. Behind `WITH`, and in a function, nothing is seen.
    pub(crate) const fn writing_verb(&self) -> Option<&'static str> {
        self.writing_verb
    }

    /// By its text. What a function does of which only the name stands there is not seen.
    pub(crate) const fn leaves_session_state(&self) -> bool {
        self.leaves_session_state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static TYPED: Statement = Statement::new("SELECT $1::bigint, $2::text", &[Type::INT8, Type::TEXT]);

    #[test]
    fn verbs_that_leave_state_are_refused_in_any_case() {
        for sql in [
            "BEGIN",
            "begin;",
            "\n\tSet x = 1",
            "rollback to s",
            "/* x */ listen jobs",
            "COPY t FROM STDIN",
            "end",
        ] {
            assert!(std::panic::catch_unwind(|| Statement::new(sql, &[])).is_err(), "{sql}");
        }
        for sql in ["SELECT 1", "settle(1)", "SELECT 'BEGIN'", "ENDING", "", "UPDATE a SET b = 1"] {
            assert_eq!(Statement::new(sql, &[]).sql(), sql);
        }
    }

    #[test]
    fn what_outlives_a_transaction_is_seen_in_the_text() {
        for sql in [
            "SELECT set_config('role', $1, false)",
            "select pg_advisory_lock(7)",
            "SELECT pg_try_advisory_lock_shared(7)",
            "CREATE TEMPORARY TABLE t (a int)",
            "CREATE LOCAL\nTEMP TABLE t (a int)",
            "CREATE OR REPLACE TEMP VIEW v AS SELECT 1",
            "CREATE TABLE pg_temp.t (a int)",
            "CREATE TABLE \"pg_temp\".t (a int)",
            "UPDATE pg_settings SET setting = '1s' WHERE name = 'statement_timeout'",
            "DO $$ BEGIN SET role = x; END $$",
            "CALL work()",
        ] {
            assert!(Statement::new(sql, &[]).leaves_session_state(), "{sql}");
        }
        for sql in [
            "SELECT pg_advisory_xact_lock(7)",
            "SELECT set_config('a.b', $1, true)",
            "SELECT 1",
            "",
            "CREATE TABLE temp (a int)",
        ] {
            assert!(!Statement::new(sql, &[]).leaves_session_state(), "{sql}");
        }
    }

    #[test]
    fn what_writes_is_seen_by_its_first_word() {
        for (sql, verb) in [
            ("INSERT INTO t VALUES (1)", "INSERT"),
            ("/* app */ -- x\n update t SET a = 1", "UPDATE"),
            (";Create TABLE t ()", "CREATE"),
            ("TRUNCATE t", "TRUNCATE"),
        ] {
            assert_eq!(Statement::new(sql, &[]).writing_verb(), Some(verb), "{sql}");
        }
        for sql in [
            "SELECT 'INSERT'",
            "inserted",
            "WITH gone AS (DELETE FROM t RETURNING a) SELECT a FROM gone",
            "VALUES (1)",
            "EXPLAIN INSERT INTO t VALUES (1)",
            "SHOW server_version",
            "",
        ] {
            assert_eq!(Statement::new(sql, &[]).writing_verb(), None, "{sql}");
        }
    }

    #[test]
    fn a_static_keeps_its_types_and_its_place() {
        assert_eq!(TYPED.types(), &[Type::INT8, Type::TEXT]);
        assert!(TYPED.place().file().ends_with("statement.rs"));
    }
}
