//! Runs PostgreSQL's own `psql` against one database, and reads how long it says that a command took: what it needs to
//! start and to connect does not count.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::process::Command;
use tokio::time::timeout;

use crate::pgbench::{environment, program};

/// A command that takes longer is stuck.
const LIMIT: Duration = Duration::from_secs(120);

/// The program, and where it connects to.
#[derive(Debug)]
pub(crate) struct Psql {
    program: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl Psql {
    pub(crate) fn new(postgres_bin: &Path, database: &tokio_postgres::Config) -> anyhow::Result<Self> {
        Ok(Self { program: program(postgres_bin, "psql")?, environment: environment(database)? })
    }

    /// Runs one command, and gives the time that it took by `psql`'s own clock.
    pub(crate) async fn run(&self, command: &str) -> anyhow::Result<Duration> {
        let mut psql = Command::new(&self.program);
        psql.args(["--no-psqlrc", "--set=ON_ERROR_STOP=1", "--command", "\\timing on", "--command", command])
            .envs(self.environment.iter().map(|(name, value)| (*name, value)))
            // The words around the figure are those of the locale.
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = timeout(LIMIT, psql.output()).await.context("psql does not end")?;
        let output = output.with_context(|| format!("start {}", self.program.display()))?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "psql failed ({}): {}", output.status, stderr.trim());
        let stdout = String::from_utf8_lossy(&output.stdout);
        read_time(&stdout).with_context(|| format!("read psql's output: {stdout}"))
    }
}

fn read_time(stdout: &str) -> anyhow::Result<Duration> {
    let time = stdout.lines().find_map(|line| line.strip_prefix("Time: ")).context("no time")?;
    let milliseconds: f64 = time.split(' ').next().unwrap_or("").parse().context("the time is no number")?;
    Ok(Duration::from_secs_f64(milliseconds / 1_000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_read_in_milliseconds_also_of_commands_that_took_minutes() {
        let read = |output| read_time(output).map(|time| time.as_micros()).ok();
        assert_eq!(read("Timing is on.\nCOPY 100000\nTime: 262.114 ms\n"), Some(262_114));
        assert_eq!(read("COPY 1\nTime: 61234.500 ms (01:01.235)\n"), Some(61_234_500));
        assert_eq!((read("COPY 100000\n"), read("Time: soon\n")), (None, None));
    }
}
