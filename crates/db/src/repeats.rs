//! Finds look-ups per row in tests: counts, by fingerprint, the statements that one request runs, and fails when one of them runs
//! more often than allowed. It changes nothing about the request, and costs nothing outside of one that is watched.
//! Called by tests; told by connections and loaders.
//!
//! ```no_run
//! # use paystrata_db::repeats;
//! # async fn list_cities() -> Result<(), paystrata_db::Error> { Ok(()) }
//! # async fn test() {
//! repeats::at_most(2, list_cities()).await.expect("no statement per row").expect("a list");
//! # }
//! ```
//!
//! The cure is a [`Loader`](crate::Loader): what asks it for row after row of one list, side by side, becomes one statement, and each of
//! its batches counts once for every request that has a part in it. A request that waits for each row before it asks for the next runs a
//! batch for each, and is found too.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::collections::HashMap;
use std::fmt;
use std::panic::Location;
use std::sync::{Arc, Mutex, PoisonError};

use crate::statement::Statement;

tokio::task_local! {
    static SCOPE: Scope;
    /// What runs here was counted.
    static COUNTED: ();
}

/// Statements of one request that are told apart; more are not counted.
const STATEMENTS_MAX: usize = 4_096;

/// What counts the statements of one request.
#[derive(Clone, Debug)]
pub(crate) struct Scope(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    runs_max: usize,
    by_fingerprint: Mutex<HashMap<String, Repeat>>,
}

/// A request that ran statements too often. Its `Debug` form is the text for people too, so that `expect` shows it.
pub struct Repeated {
    /// Where the request was watched.
    pub watched_at: &'static Location<'static>,
    /// How often one statement may run.
    pub runs_max: usize,
    /// Those that ran more often, the most often first.
    pub statements: Vec<Repeat>,
}

/// A statement and how often it ran.
#[derive(Debug)]
#[non_exhaustive]
pub struct Repeat {
    /// Its text, as it ran first.
    pub sql: &'static str,
    /// Where it was made: its `Statement::new`.
    pub made_at: &'static Location<'static>,
    /// How often it ran; a loader's batch once.
    pub runs: usize,
    /// The stack of the first run that was too many, where `RUST_BACKTRACE` asks for stacks: it shows the line that asks.
    pub asked_at: Option<Backtrace>,
}

/// Runs `request`, and gives what it gives unless one statement ran more than `runs_max` times. Counted is what the request itself asks
/// connections, transactions and loaders for; in tasks that it spawns, only what is [`carried`] there. The outermost watch counts: one inside it
/// refuses nothing.
///
/// # Errors
/// [`Repeated`], which names each statement, its number of runs, and the places.
#[track_caller]
pub fn at_most<F: Future>(runs_max: usize, request: F) -> impl Future<Output = Result<F::Output, Repeated>> {
    let watched_at = Location::caller();
    let scope = Scope(Arc::new(Counts { runs_max, by_fingerprint: Mutex::default() }));
    // Whole requests are large, and whoever watches one keeps it on the stack.
    let request = Box::pin(request);
    async move {
        if Scope::current().is_some() {
            return Ok(request.await);
        }
        let given = SCOPE.scope(scope.clone(), request).await;
        let statements = scope.over();
        if statements.is_empty() { Ok(given) } else { Err(Repeated { watched_at, runs_max, statements }) }
    }
}

/// Has what the future asks for counted with the present request, when it runs on another task.
pub fn carried<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let scope = Scope::current();
    async move {
        match scope {
            Some(scope) => SCOPE.scope(scope, future).await,
            None => future.await,
        }
    }
}

/// Runs what may send a statement more than once for one who asked once, and counts it once.
pub(crate) async fn as_one_run<F: Future>(statement: &Statement, tries: F) -> F::Output {
    note(statement);
    COUNTED.scope((), tries).await
}

/// Counts one run for the present request, if it is watched.
pub(crate) fn note(statement: &Statement) {
    if COUNTED.try_with(|()| ()).is_ok() {
        return;
    }
    // Without a watch there is nothing to count.
    let _watched = SCOPE.try_with(|scope| scope.note(statement));
}

/// Counts one run for every request that has a part in a batch, however many parts it has.
pub(crate) fn note_once_each<'a>(scopes: impl Iterator<Item = &'a Scope>, statement: &Statement) {
    let mut told: Vec<&Scope> = Vec::new();
    for scope in scopes {
        if !told.iter().any(|known| Arc::ptr_eq(&known.0, &scope.0)) {
            scope.note(statement);
            told.push(scope);
        }
    }
}

impl Scope {
    /// Of the request that runs here.
    pub(crate) fn current() -> Option<Self> {
        SCOPE.try_with(Clone::clone).ok()
    }

    fn note(&self, statement: &Statement) {
        let fingerprint = fingerprint(statement.sql());
        let mut counted = self.0.by_fingerprint.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.len() >= STATEMENTS_MAX && !counted.contains_key(&fingerprint) {
            return;
        }
        let repeat = counted.entry(fingerprint).or_insert_with(|| Repeat {
            sql: statement.sql(),
            made_at: statement.place(),
            runs: 0,
            asked_at: None,
        });
        repeat.runs += 1;
        if repeat.runs == self.0.runs_max + 1 {
            repeat.asked_at =
                Some(Backtrace::capture()).filter(|stack| stack.status() == BacktraceStatus::Captured);
        }
    }

    /// Takes those that ran too often.
    fn over(&self) -> Vec<Repeat> {
        let mut counted = self.0.by_fingerprint.lock().unwrap_or_else(PoisonError::into_inner);
        let mut over: Vec<Repeat> =
            counted.extract_if(|_, repeat| repeat.runs > self.0.runs_max).map(|(_, repeat)| repeat).collect();
        over.sort_by_key(|repeat| (std::cmp::Reverse(repeat.runs), repeat.sql));
        over
    }
}

impl fmt::Display for Repeated {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "the request at {} ran a statement more than {} times",
            self.watched_at, self.runs_max
        )?;
        for Repeat { sql, made_at, runs, asked_at } in &self.statements {
            write!(formatter, "\n{runs} times: {sql}\n    made at {made_at}")?;
            if let Some(stack) = asked_at {
                write!(formatter, "\n    run number {} was asked for at\n{stack}", self.runs_max + 1)?;
            } else {
                formatter.write_str("\n    RUST_BACKTRACE=1 shows who asked")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Repeated {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl std::error::Error for Repeated {}

/// The text without what may differ from run to run: literals, numbers of parameters, lengths of lists, white space, comments, case.
fn fingerprint(sql: &str) -> String {
    let mut print = Print { text: String::with_capacity(sql.len()) };
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let second = rest[first.len_utf8()..].chars().next();
        let length = match (first, second) {
            ('-', Some('-')) => rest.find('\n').unwrap_or(rest.len()),
            ('/', Some('*')) => rest.find("*/").map_or(rest.len(), |end| end + 2),
            ('\'', _) => print.value(quoted(rest, '\'')),
            ('"', _) => print.copy(&rest[..quoted(rest, '"')]),
            ('$', Some('0'..='9')) => print.value(1 + run_of(&rest[1..], |next| next.is_ascii_digit())),
            ('0'..='9', _) => {
                print.value(run_of(rest, |next| next.is_ascii_alphanumeric() || next == '.' || next == '_'))
            }
            _ if first.is_whitespace() => first.len_utf8(),
            _ if is_of_word(first) => {
                let length = run_of(rest, |next| is_of_word(next) || next == '$');
                // Small letters may take another number of bytes.
                print.copy(&rest[..length].to_lowercase());
                length
            }
            _ => print.copy(&rest[..first.len_utf8()]),
        };
        rest = &rest[length..];
    }
    print.text
}

struct Print {
    text: String,
}

impl Print {
    /// A value, one more of a list of them, or one more part of a text with a quote in it. Returns the length it has in the original.
    fn value(&mut self, length: usize) -> usize {
        if self.text.ends_with("? , ") {
            self.text.truncate(self.text.len() - ", ".len());
        } else if !self.text.ends_with("? ") {
            self.text.push_str("? ");
        }
        length
    }

    fn copy(&mut self, part: &str) -> usize {
        self.text.push_str(part);
        self.text.push(' ');
        part.len()
    }
}

fn is_of_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn run_of(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    text.find(|next| !belongs(next)).unwrap_or(text.len())
}

/// The length of what begins with a quote; a doubled one inside ends one part and begins the next, which comes to the same.
fn quoted(text: &str, quote: char) -> usize {
    text[1..].find(quote).map_or(text.len(), |end| end + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(left: &str, right: &str, are_alike: bool) {
        assert_eq!(fingerprint(left) == fingerprint(right), are_alike, "{left} / {right}");
    }

    #[test]
    fn texts_that_differ_in_values_alone_are_one_statement() {
        check("SELECT a FROM t WHERE id = $1", "select a\n  from t -- by id\n where id=$2", true);
        check("SELECT a FROM t WHERE id = 7", "SELECT a /* x */ FROM t WHERE id = 80.5e3", true);
        check("SELECT a FROM t WHERE id IN ($1)", "SELECT a FROM t WHERE id IN ($1, $2,$3)", true);
        check("SELECT 'it''s' FROM t", "SELECT 'that' FROM t", true);
        check("SELECT a FROM t1", "SELECT a FROM t2", false);
        check(r#"SELECT "A" FROM t"#, r#"SELECT "a" FROM t"#, false);
        check("SELECT a FROM t", "SELECT b FROM t", false);
        check("SELECT \u{e9}t\u{e9} FROM \u{e4}", "SELECT \u{e9}t\u{e9}  FROM \u{e4}", true);
    }

    static FIND: Statement = Statement::new("SELECT 1", &[]);

    #[tokio::test]
    async fn runs_are_counted_where_they_are_carried_and_batches_once() {
        let request = async {
            note(&FIND);
            // Not a part of the request until it is carried.
            tokio::spawn(async { note(&FIND) }).await.expect("a task");
            tokio::spawn(carried(async { note(&FIND) })).await.expect("a task");
            let parts: Vec<Scope> = (0..9).filter_map(|_| Scope::current()).collect();
            note_once_each(parts.iter(), &FIND);
            7
        };
        let repeated = at_most(2, request).await.expect_err("three runs");
        let found = &repeated.statements[0];
        assert_eq!((found.sql, found.runs, found.made_at.line()), ("SELECT 1", 3, FIND.place().line()));
        let text = format!("{repeated:?}");
        assert!(text.contains("repeats.rs") && text.contains("3 times: SELECT 1"), "{text}");
        at_most(1, async { note(&FIND) }).await.expect("one run");
        let within = at_most(1, at_most(9, async { (0..2).for_each(|_| note(&FIND)) })).await;
        assert_eq!(within.expect_err("the outermost counts").statements[0].runs, 2);
        note(&FIND);
    }
}
