//! The table of suites. A new suite is one module under `suites` and one line here.

use futures_util::future::BoxFuture;

use crate::machine::Machine;
use crate::report::SuiteReport;
use crate::suites;

/// How long and how often a suite measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Enough rounds to judge.
    Full,
    /// Under a minute a suite: shows that it works and roughly where it stands.
    Quick,
}

/// What a suite may use.
#[derive(Debug)]
pub struct Context {
    /// How long and how often.
    pub effort: Effort,
    /// Directory of `pgbench` and `psql`.
    pub postgres_bin: std::path::PathBuf,
    /// The primary, as settings: suites make databases of their own on it.
    pub primary: tokio_postgres::Config,
    /// Redis, for the suites that need it.
    pub redis_url: Option<String>,
    /// What it runs on.
    pub machine: Machine,
}

impl Context {
    /// Says how far a run is, on standard error: standard output is for results.
    pub fn progress(&self, text: &str) {
        use std::io::Write as _;
        // A closed standard error is no reason to stop measuring.
        let _ = writeln!(std::io::stderr().lock(), "  {text}");
    }
}

/// One suite.
#[derive(Clone, Copy, Debug)]
pub struct Suite {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it measures, against whom.
    pub about: &'static str,
    /// Measures.
    pub run: fn(&Context) -> BoxFuture<'_, anyhow::Result<SuiteReport>>,
}

/// Every suite, in the order they run.
pub const SUITES: &[Suite] = &[
    suites::engine::SUITE,
    suites::engine::lanes::SUITE,
    suites::db::SUITE,
    suites::failover::SUITE,
    #[cfg(feature = "peers")]
    suites::cache::SUITE,
];

/// The suites of these names, or all when there is none.
///
/// # Errors
/// A name that is no suite; the message names those that are.
pub fn choose(names: &[String]) -> anyhow::Result<Vec<Suite>> {
    if names.is_empty() {
        return Ok(SUITES.to_vec());
    }
    names.iter().map(|name| find(name)).collect()
}

fn find(name: &str) -> anyhow::Result<Suite> {
    let known = || SUITES.iter().map(|suite| suite.name).collect::<Vec<_>>().join(", ");
    let found = SUITES.iter().find(|suite| suite.name == name).copied();
    found.ok_or_else(|| anyhow::anyhow!("there is no suite \"{name}\"; known suites: {}", known()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_suite_is_refused_and_the_known_ones_are_named() {
        let error = choose(&["engine".to_owned(), "engines".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("\"engines\"") && error.contains("known suites: engine, lanes"), "{error}");
    }

    #[test]
    fn no_name_means_every_suite() {
        let names = |suites: Vec<Suite>| suites.iter().map(|suite| suite.name).collect::<Vec<_>>();
        assert_eq!(names(choose(&[]).unwrap()), names(SUITES.to_vec()));
        assert_eq!(names(choose(&["engine".to_owned()]).unwrap()), ["engine"]);
    }
}
