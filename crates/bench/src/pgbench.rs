//! Runs PostgreSQL's own `pgbench` against one database and reads what it counted. Knows no script of any suite.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::process::Command;
use tokio_postgres::config::Host;

/// `pgbench` ends by itself after its seconds; this much later something is stuck.
const GRACE: Duration = Duration::from_secs(60);

/// The program, and where it connects to.
#[derive(Debug)]
pub(crate) struct Pgbench {
    program: PathBuf,
    environment: Vec<(&'static str, String)>,
}

/// What one run did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Counted {
    pub(crate) transactions: u64,
    pub(crate) per_second: f64,
}

impl Pgbench {
    pub(crate) fn new(postgres_bin: &Path, database: &tokio_postgres::Config) -> anyhow::Result<Self> {
        Ok(Self { program: program(postgres_bin, "pgbench")?, environment: environment(database)? })
    }

    /// Makes and fills pgbench's own tables: 100,000 accounts per unit of scale.
    pub(crate) async fn initialize(&self, scale: u32) -> anyhow::Result<()> {
        let scale = scale.to_string();
        self.output(&["--initialize", "--quiet", "--scale", &scale], GRACE).await.map(drop)
    }

    /// Runs for so many seconds with the arguments given.
    pub(crate) async fn run(&self, arguments: &[&str], seconds: u64, seed: u64) -> anyhow::Result<Counted> {
        let (time, seed) = (seconds.to_string(), seed.to_string());
        let mut all = vec!["--no-vacuum", "--protocol=prepared", "--time", &time, "--random-seed", &seed];
        all.extend(arguments);
        let stdout = self.output(&all, Duration::from_secs(seconds) + GRACE).await?;
        read_output(&stdout).with_context(|| format!("read pgbench's output: {stdout}"))
    }

    async fn output(&self, arguments: &[&str], limit: Duration) -> anyhow::Result<String> {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .envs(self.environment.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = tokio::time::timeout(limit, command.output()).await.context("pgbench does not end")?;
        let output = output.with_context(|| format!("start {}", self.program.display()))?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "pgbench failed ({}): {}", output.status, stderr.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// One of PostgreSQL's programs.
pub(crate) fn program(postgres_bin: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let program = postgres_bin.join(name);
    ensure!(
        program.is_file(),
        "{} is missing: --pg-bin must be PostgreSQL's own directory",
        program.display()
    );
    Ok(program)
}

/// Through the environment, because arguments are seen by everybody on the machine.
pub(crate) fn environment(settings: &tokio_postgres::Config) -> anyhow::Result<Vec<(&'static str, String)>> {
    let host = match settings.get_hosts() {
        [Host::Tcp(name)] => name.clone(),
        [Host::Unix(folder)] => folder.display().to_string(),
        _ => bail!("the connection URL must name one host"),
    };
    let mut environment = vec![
        ("PGHOST", host),
        ("PGPORT", settings.get_ports().first().copied().unwrap_or(5432).to_string()),
        ("PGOPTIONS", "-c synchronous_commit=on".to_owned()),
    ];
    environment.extend(settings.get_user().map(|user| ("PGUSER", user.to_owned())));
    environment.extend(settings.get_dbname().map(|name| ("PGDATABASE", name.to_owned())));
    environment.extend(
        settings.get_password().map(|word| ("PGPASSWORD", String::from_utf8_lossy(word).into_owned())),
    );
    Ok(environment)
}

fn read_output(stdout: &str) -> anyhow::Result<Counted> {
    let after = |start: &str| stdout.lines().find_map(|line| line.strip_prefix(start));
    let first_word =
        |rest: &str| rest.split([' ', '/']).find(|word| !word.is_empty()).unwrap_or("").to_owned();
    let processed =
        after("number of transactions actually processed:").context("no count of transactions")?;
    if let Some(failed) = after("number of failed transactions:") {
        ensure!(first_word(failed) == "0", "transactions failed: {}", failed.trim());
    }
    // Without the time to connect: our side is connected before its turn, too.
    let line = stdout.lines().find(|line| line.starts_with("tps = ") && !line.contains("including"));
    let per_second = line.and_then(|line| line.strip_prefix("tps = ")).context("no rate")?;
    Ok(Counted { transactions: first_word(processed).parse()?, per_second: first_word(per_second).parse()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "pgbench (15.18)\ntransaction type: x.sql\nnumber of clients: 16\n\
        number of transactions actually processed: 14832\nnumber of failed transactions: 0 (0.000%)\n\
        latency average = 1.078 ms\ninitial connection time = 9.3 ms\ntps = 7416.25 (without initial connection time)\n";

    #[test]
    fn count_and_rate_are_read() {
        assert_eq!(read_output(OUTPUT).unwrap(), Counted { transactions: 14_832, per_second: 7_416.25 });
        // Before version 15: no line of failures, and a slash.
        let old = "number of transactions actually processed: 100\ntps = 9.0 (including connections establishing)\n\
                   tps = 10.5 (excluding connections establishing)\n";
        assert_eq!(read_output(old).unwrap(), Counted { transactions: 100, per_second: 10.5 });
    }

    #[test]
    fn failed_transactions_and_missing_lines_are_errors() {
        let failed = OUTPUT.replace("failed transactions: 0", "failed transactions: 3");
        assert!(read_output(&failed).unwrap_err().to_string().contains("3 (0.000%)"));
        assert!(read_output("tps = 1 (x)").is_err() && read_output("").is_err());
    }
}
