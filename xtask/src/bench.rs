//! `cargo xtask bench`: builds the benchmarks, gives them services of their own, and passes their verdict
//! on. What is measured, and against whom, is `crates/bench`'s.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use lexopt::prelude::*;

use crate::process;
use crate::services::ephemeral::Ephemeral;
use crate::setup::{self, Install};
use crate::workspace;

const GIT_LIMIT: Duration = Duration::from_secs(30);

/// Runs the command.
pub(crate) fn run(arguments: lexopt::Parser) -> Result<i32> {
    let passed_on = parse(arguments)?;
    // Before the long build, so that a machine without PostgreSQL or Redis says so at once.
    setup::ensure(Install::Allowed)?;
    workspace::cargo_succeeds(&["build", "--release", "-p", "paystrata-bench", "--features", "peers"])?;
    let root = workspace::root()?;
    let services = Ephemeral::start(&root.join(workspace::RUNTIME_DIRECTORY), "bench")?;
    let primary_url = services.running.primary_url().context("the primary runs")?;
    let redis_url = services.running.redis_url().context("Redis runs")?;
    let mut command = Command::new(workspace::target_directory()?.join("release/paystrata-bench"));
    command.args(passed_on);
    command.arg("--pg-bin").arg(services.postgres_bin());
    command.args(["--primary-url", &primary_url, "--redis-url", &redis_url, "--commit", &commit()]);
    Ok(process::foreground(&mut command)?.code().unwrap_or(1))
}

/// Checks the flags here, because a build stands before the program that knows them.
fn parse(mut arguments: lexopt::Parser) -> Result<Vec<String>> {
    let mut passed_on = Vec::new();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("quick") => passed_on.push("--quick".to_owned()),
            Long("check") => passed_on.push("--check".to_owned()),
            Long("json") => {
                let file = std::path::absolute(PathBuf::from(arguments.value()?))?;
                passed_on.extend(["--json".to_owned(), file.display().to_string()]);
            }
            Value(suite) => passed_on.push(suite.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(passed_on)
}

/// The revision that is measured, marked when the tree differs from it.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let root = workspace::root()?;
        process::succeed(Command::new("git").current_dir(root).args(arguments), GIT_LIMIT)
    };
    let Ok(revision) = git(&["rev-parse", "HEAD"]) else { return "unknown".to_owned() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_ok_and(|said| !said.is_empty());
    if changed { format!("{revision}-modified") } else { revision }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn suites_and_known_flags_are_passed_on() {
        let passed =
            parse(lexopt::Parser::from_args(["engine", "--quick", "--json", "/tmp/x.json", "--check"]));
        assert_eq!(passed.expect("all are known"), ["engine", "--quick", "--json", "/tmp/x.json", "--check"]);
    }

    #[test]
    fn unknown_flag_is_refused_before_the_build() {
        let error = parse(lexopt::Parser::from_args(["--fast"])).unwrap_err().to_string();
        assert!(error.contains("--fast"), "{error}");
    }
}
