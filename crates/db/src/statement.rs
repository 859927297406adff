//! Statements as values: a text, and the types of its parameters, fixed when the program is compiled.
//! It refuses, at compile time for a `static`, whatever would leave state behind on a pooled connection:
//! transaction control, session settings, listening, cursors, and `COPY`. Everyone who queries declares some.

use std::panic::Location;

use postgres_types::Type;

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
const SESSION_STATE: [&str; 7] = [
    "PG_ADVISORY_LOCK",
    "PG_TRY_ADVISORY_LOCK",
    "SET_CONFIG",
    "CREATE TEMP ",
    "CREATE TEMPORARY ",
    "INTO TEMP ",
    "INTO TEMPORARY ",
];

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
            !opens_with_refused_verb(sql),
            "this statement would leave state behind on a pooled connection"
        );
        Self {
            sql,
            types,
            place: Location::caller(),
            leaves_session_state: contains_any(sql.as_bytes(), &SESSION_STATE),
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

    /// By its text. What a function does of which only the name stands there is not seen.
    pub(crate) const fn leaves_session_state(&self) -> bool {
        self.leaves_session_state
    }
}

const fn contains_any(sql: &[u8], words: &[&str]) -> bool {
    let mut start = 0;
    while start < sql.len() {
        let mut index = 0;
        while index < words.len() {
            if stands_at(sql, start, words[index].as_bytes()) {
                return true;
            }
            index += 1;
        }
        start += 1;
    }
    false
}

const fn stands_at(sql: &[u8], start: usize, word: &[u8]) -> bool {
    let mut index = 0;
    while index < word.len() {
        if start + index >= sql.len() || sql[start + index].to_ascii_uppercase() != word[index] {
            return false;
        }
        index += 1;
    }
    true
}

const fn opens_with_refused_verb(sql: &str) -> bool {
    let mut index = 0;
    while index < REFUSED_VERBS.len() {
        if opens_with(sql.as_bytes(), REFUSED_VERBS[index].as_bytes()) {
            return true;
        }
        index += 1;
    }
    false
}

const fn opens_with(sql: &[u8], verb: &[u8]) -> bool {
    let mut start = 0;
    while start < sql.len() && sql[start].is_ascii_whitespace() {
        start += 1;
    }
    if !stands_at(sql, start, verb) {
        return false;
    }
    let after = start + verb.len();
    after >= sql.len() || !(sql[after].is_ascii_alphanumeric() || sql[after] == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    static TYPED: Statement = Statement::new("SELECT $1::bigint, $2::text", &[Type::INT8, Type::TEXT]);

    #[test]
    fn verbs_that_leave_state_are_refused_in_any_case() {
        for sql in
            ["BEGIN", "  begin;", "\n\tSet x = 1", "rollback to s", "listen jobs", "COPY t FROM STDIN", "end"]
        {
            assert!(opens_with_refused_verb(sql), "{sql}");
        }
    }

    #[test]
    fn words_that_only_begin_alike_are_taken() {
        for sql in [
            "SELECT 1",
            "settle(1)",
            "SELECT 'BEGIN'",
            "WITH x AS (SELECT 1) SELECT 1",
            "ENDING",
            "",
            "UPDATE a SET b = 1",
        ] {
            assert!(!opens_with_refused_verb(sql), "{sql}");
        }
    }

    #[test]
    fn what_outlives_a_transaction_is_seen_in_the_text() {
        for sql in [
            "SELECT set_config('role', $1, false)",
            "select pg_advisory_lock(7)",
            "SELECT pg_try_advisory_lock_shared(7)",
            "CREATE TEMPORARY TABLE t (a int)",
        ] {
            assert!(Statement::new(sql, &[]).leaves_session_state(), "{sql}");
        }
        for sql in
            ["SELECT pg_advisory_xact_lock(7)", "SELECT 1", "", "CREATE TABLE temp (a int)", "SET_CONFI"]
        {
            assert!(!Statement::new(sql, &[]).leaves_session_state(), "{sql}");
        }
    }

    #[test]
    fn a_static_keeps_its_types_and_its_place() {
        assert_eq!(TYPED.types(), &[Type::INT8, Type::TEXT]);
        assert!(TYPED.place().file().ends_with("statement.rs"));
    }
}
