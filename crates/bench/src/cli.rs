//! The command line of `paystrata-bench`: reads it, runs the suites, shows and writes the report. `cargo xtask bench`
//! starts it. Starts no services itself.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;
use tokio_postgres::NoTls;

use crate::machine::Machine;
use crate::report::Report;
use crate::suite::{self, Context, Effort};
use crate::{json, table};

/// Measures Paystrata against the peers a user would otherwise pick, side by side on this machine.
#[derive(Debug, Parser)]
#[command(name = "paystrata-bench")]
pub struct Arguments {
    /// Suites to run; all of them without one.
    suites: Vec<String>,
    /// Fewer and shorter rounds: under a minute a suite.
    #[arg(long)]
    quick: bool,
    /// Also write the report as JSON to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Exit with 1 when a target is missed.
    #[arg(long)]
    check: bool,
    /// Directory of pgbench and psql.
    #[arg(long, value_name = "DIR")]
    pg_bin: PathBuf,
    /// Primary on which the suites may create databases of their own.
    #[arg(long, value_name = "URL")]
    primary_url: String,
    /// Redis, for the suites that need it.
    #[arg(long, value_name = "URL")]
    redis_url: Option<String>,
    /// Revision that is measured, for the report.
    #[arg(long, value_name = "REV", default_value = "unknown")]
    commit: String,
}

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No target was missed, or nobody asked.
    Good,
    /// `--check`, and a target was missed.
    Missed,
}

/// Runs what the arguments ask for, writing tables to `out` as suites end.
///
/// # Errors
/// An unknown suite, a database that does not answer, a suite that failed or is void.
pub async fn run(arguments: &Arguments, out: &mut (dyn Write + Send)) -> anyhow::Result<Verdict> {
    let suites = suite::choose(&arguments.suites)?;
    // Its own error could repeat the URL, and with it a password.
    let primary: tokio_postgres::Config = arguments
        .primary_url
        .parse()
        .map_err(|_| anyhow::anyhow!("--primary-url is no Postgres connection URL"))?;
    let context = Context {
        effort: if arguments.quick { Effort::Quick } else { Effort::Full },
        postgres_bin: arguments.pg_bin.clone(),
        machine: look(&primary).await?,
        primary,
        redis_url: arguments.redis_url.clone(),
    };
    let mut report = Report {
        commit: arguments.commit.clone(),
        machine: context.machine.clone(),
        command: command(arguments),
        suites: Vec::new(),
    };
    writeln!(out, "{}", table::header(&report))?;
    // At once, so that a place that cannot be written to costs no measurement; and after each suite, so that one that fails
    // costs only its own.
    save(arguments, &report)?;
    for suite in suites {
        writeln!(out, "{}: {}", suite.name, suite.about)?;
        let found = (suite.run)(&context).await.with_context(|| format!("run suite {}", suite.name))?;
        writeln!(out, "\n{}", table::render(&found))?;
        report.suites.push(found);
        save(arguments, &report)?;
    }
    let missed: Vec<String> = report.missed().map(|(suite, case)| format!("{suite}: {case}")).collect();
    if missed.is_empty() {
        writeln!(out, "every target was met")?;
        return Ok(Verdict::Good);
    }
    writeln!(out, "missed targets: {}", missed.join("; "))?;
    Ok(if arguments.check { Verdict::Missed } else { Verdict::Good })
}

fn save(arguments: &Arguments, report: &Report) -> anyhow::Result<()> {
    match &arguments.json {
        Some(file) => {
            std::fs::write(file, json::render(report)).with_context(|| format!("write {}", file.display()))
        }
        None => Ok(()),
    }
}

async fn look(primary: &tokio_postgres::Config) -> anyhow::Result<Machine> {
    let (client, connection) = primary.connect(NoTls).await.context("connect to --primary-url")?;
    let connection = tokio::spawn(connection);
    let machine = Machine::look(&client).await.context("read settings of the primary")?;
    drop(client);
    connection.await?.context("close the connection")?;
    Ok(machine)
}

/// The command as anyone would repeat it: the services' addresses are of this run alone, and URLs hold passwords.
fn command(arguments: &Arguments) -> String {
    let mut words = vec!["cargo xtask bench".to_owned()];
    words.extend(arguments.suites.iter().cloned());
    words.extend(arguments.quick.then(|| "--quick".to_owned()));
    words.extend(arguments.json.as_ref().map(|file| format!("--json {}", file.display())));
    words.extend(arguments.check.then(|| "--check".to_owned()));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(more: &[&str]) -> Arguments {
        let fixed = ["paystrata-bench", "--pg-bin", "/pg", "--primary-url", "postgres://u:secret@h/db"];
        Arguments::try_parse_from(fixed.iter().chain(more)).unwrap()
    }

    #[test]
    fn command_repeats_what_was_asked_and_no_secret() {
        let text = command(&arguments(&["engine", "--quick", "--check", "--json", "out.json"]));
        assert_eq!(text, "cargo xtask bench engine --quick --json out.json --check");
    }

    #[tokio::test]
    async fn unknown_suite_is_refused_before_anything_is_connected() {
        let error = run(&arguments(&["nothing"]), &mut Vec::new()).await.unwrap_err().to_string();
        assert!(error.contains("\"nothing\""), "{error}");
    }

    #[tokio::test]
    async fn malformed_url_is_not_repeated() {
        let mut wrong = arguments(&[]);
        wrong.primary_url = "postgres://u:secret@h:port/db".to_owned();
        let error = format!("{:#}", run(&wrong, &mut Vec::new()).await.unwrap_err());
        assert!(error.contains("--primary-url") && !error.contains("secret"), "{error}");
    }
}
