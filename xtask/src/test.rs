//! `cargo xtask test`: finds what the tests need, builds, starts services of its own, runs doc tests and tests, and
//! removes the services. Runs at the same time do not meet. The last line and the exit code are the runner's.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lexopt::prelude::*;

use crate::process;
use crate::progress::note;
use crate::services::ephemeral::Ephemeral;
use crate::setup::{self, Install, TestTools};
use crate::workspace;

/// One selection and one set of features for everything, so that cargo builds each crate once. The file is that of
/// `.ci/run`, which checks with the same set.
const SELECTION: [&str; 3] = ["--workspace", "--features", include_str!("../../.ci/features")];
/// The races of the cache, whose locks are a scheduler's there: a build of its own, because nothing else runs with them.
const RACES: [&str; 6] =
    ["--package", "paystrata-cache", "--no-default-features", "--features", "shuttle", "--lib"];
const RACES_FILTER: &str = "races::";
/// How many seeds the simulations and models of the cache run.
const SEEDS: &str = "PAYSTRATA_TEST_SEEDS";
const NEXTEST_VERSION_LIMIT: Duration = Duration::from_secs(30);

/// Runs the command.
pub(crate) fn run(mut arguments: lexopt::Parser) -> Result<i32> {
    let (mut filter, mut seeds) = (None, None::<u64>);
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("seeds") => seeds = Some(arguments.value()?.parse().context("--seeds wants a number")?),
            Value(text) if filter.is_none() => filter = Some(text.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let TestTools { tools, memcached, pgbouncer } = setup::ensure_for_tests(Install::Allowed)?;
    let (runner, all): (&[&str], &[&str]) = if has_nextest() {
        (&["nextest", "run"], &[])
    } else {
        note("  note  cargo-nextest is not installed; using cargo test");
        (&["test", "--no-fail-fast"], &["--lib", "--bins", "--examples", "--tests"])
    };
    // They need no services, and come first: the last summary shall be that of all other tests.
    if filter.is_none() || filter.as_deref() == Some(RACES_FILTER) {
        let raced = cargo(runner, &RACES, &[RACES_FILTER], &[])?;
        if raced != 0 || filter.is_some() {
            return Ok(raced);
        }
    }
    let simulator = build()?;
    let parent = workspace::root()?.join(workspace::RUNTIME_DIRECTORY);
    let services = Ephemeral::start(&parent, "test")?;
    // The build may have replaced this program under its name; the kernel still knows the running one.
    let own_copy = services.directory().join("xtask");
    fs::copy("/proc/self/exe", &own_copy).context("keep a copy of this program for the tests")?;
    let mut environment = services.running.test_environment();
    environment.push(("PAYSTRATA_XTASK", own_copy.display().to_string()));
    environment.push(("PAYSTRATA_TEST_SIMULATOR", simulator.display().to_string()));
    // Tests that crash servers start their own, of the same programs.
    environment.push(("PG_BIN", tools.postgres_bin.display().to_string()));
    environment.push(("REDIS_SERVER", tools.redis_server.display().to_string()));
    environment.push(("MEMCACHED", memcached.display().to_string()));
    environment.push(("PGBOUNCER", pgbouncer.display().to_string()));
    environment.extend(seeds.map(|seeds| (SEEDS, seeds.to_string())));

    // Doc tests first: the runner's summary shall be the last thing to read.
    let documented = match filter {
        None => cargo(&["test", "--doc", "--quiet"], &SELECTION, &[], &environment)?,
        Some(_) => 0,
    };
    let rest: Vec<&str> = all.iter().copied().chain(filter.as_deref()).collect();
    let tested = cargo(runner, &SELECTION, &rest, &environment)?;
    if tested == 0 && documented != 0 {
        bail!("doc tests failed (see above); all other tests passed");
    }
    Ok(tested)
}

/// Builds the tests, and the simulator with them. Returns the path of the latter.
fn build() -> Result<PathBuf> {
    let mut arguments = vec!["build", "--lib", "--bins", "--examples", "--tests"];
    arguments.extend(SELECTION);
    workspace::cargo_succeeds(&arguments)?;
    let simulator = workspace::target_directory()?.join("debug/paystrata-simulator");
    if !simulator.is_file() {
        bail!("cargo built no {}", simulator.display());
    }
    Ok(simulator)
}

fn cargo(
    verb: &[&str],
    selection: &[&str],
    rest: &[&str],
    environment: &[(&'static str, String)],
) -> Result<i32> {
    let mut command: Command = workspace::cargo()?;
    command.args(verb).args(selection).args(rest).envs(environment.iter().cloned());
    Ok(process::foreground(&mut command)?.code().unwrap_or(1))
}

fn has_nextest() -> bool {
    let asked = workspace::cargo()
        .and_then(|mut cargo| process::capture(cargo.args(["nextest", "--version"]), NEXTEST_VERSION_LIMIT));
    asked.is_ok_and(|asked| asked.status.success())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::SELECTION;

    #[test]
    fn tests_run_with_every_feature_that_a_leaf_has_for_its_users() {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
        for leaf in ["cache", "db", "gateway", "monitor"] {
            let manifest =
                std::fs::read_to_string(crates.join(leaf).join("Cargo.toml")).expect("it has a manifest");
            let (_, features) = manifest.split_once("[features]\n").expect("it has features");
            let features = features.split("\n[").next().expect("a split has a first part");
            let default = features.lines().find(|line| line.starts_with("default")).unwrap_or_default();
            let names = features.lines().filter_map(|line| Some(line.split_once(" = ")?.0));
            for name in names.filter(|name| !["default", "shuttle"].contains(name)) {
                let is_on = default.contains(&format!("\"{name}\""))
                    || SELECTION[2].lines().any(|line| line == format!("paystrata-{leaf}/{name}"));
                assert!(is_on, "feature {name} of {leaf} is tested by nobody: add it to .ci/features");
            }
        }
    }
}
