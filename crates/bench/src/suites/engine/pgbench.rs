//! The peer: `pgbench -M prepared -c 16 -j 2`, one payment per transaction through the function of `book_payment.sql`,
//! on the same tables with the same durability. Counts what it acknowledged, for the audit.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures_util::future::BoxFuture;
use tokio::process::Command;
use tokio_postgres::config::Host;

use super::ground::Ground;
use super::mix::{AMOUNT_MAX, Mix};
use super::ours::sizes_of_key_row;
use super::{SEED, Sizes};
use crate::measure::Contender;
use crate::suite;

/// Sixteen connections measured best here: fewer leave the flush idle, more only wait for locks.
const CLIENTS: &str = "16";
const THREADS: &str = "2";
/// For the reader of the figures.
pub(super) const ABOUT: &str =
    "peer: pgbench -n -M prepared -c 16 -j 2, one plpgsql call per payment, synchronous_commit on";
/// `pgbench` ends by itself after its seconds; this much later something is stuck.
const GRACE: Duration = Duration::from_secs(60);

/// `pgbench` with the script of one mix.
#[derive(Debug)]
pub(super) struct Pgbench {
    program: PathBuf,
    mix: Mix,
    script: tempfile::NamedTempFile,
    environment: Vec<(&'static str, String)>,
    acknowledged: AtomicU64,
}

impl Pgbench {
    pub(super) fn new(context: &suite::Context, ground: &Ground, mix: Mix) -> anyhow::Result<Self> {
        let program = context.postgres_bin.join("pgbench");
        ensure!(
            program.is_file(),
            "{} is missing: --pg-bin must be PostgreSQL's own directory",
            program.display()
        );
        let mut script =
            tempfile::NamedTempFile::with_prefix("paystrata-bench-").context("make a script file")?;
        script.write_all(script_of(mix, &ground.account_prefix).as_bytes()).context("write the script")?;
        let environment = environment(&ground.settings)?;
        Ok(Self { program, mix, script, environment, acknowledged: AtomicU64::new(0) })
    }

    /// Payments of all runs so far.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    pub(super) fn contender<'run>(&'run self, ground: &'run Ground, sizes: Sizes) -> Peer<'run> {
        Peer { pgbench: self, ground, sizes }
    }

    async fn run(&self, seconds: u64, seed: u64) -> anyhow::Result<Counted> {
        let mut command = Command::new(&self.program);
        command
            .args(["--no-vacuum", "--protocol=prepared", "--client", CLIENTS, "--jobs", THREADS])
            .args(["--time", &seconds.to_string(), "--random-seed", &seed.to_string()])
            .arg("--file")
            .arg(self.script.path())
            .envs(self.environment.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let limit = Duration::from_secs(seconds) + GRACE;
        let output = tokio::time::timeout(limit, command.output()).await.context("pgbench does not end")?;
        let output = output.with_context(|| format!("start {}", self.program.display()))?;
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "pgbench failed ({}): {}", output.status, stderr.trim());
        let counted = read_output(&stdout).with_context(|| format!("read pgbench's output: {stdout}"))?;
        self.acknowledged.fetch_add(counted.transactions, Ordering::Relaxed);
        Ok(counted)
    }
}

/// The peer's turn.
#[derive(Debug)]
pub(super) struct Peer<'run> {
    pgbench: &'run Pgbench,
    ground: &'run Ground,
    sizes: Sizes,
}

impl Contender for Peer<'_> {
    fn name(&self) -> String {
        format!("pgbench, {}", self.pgbench.mix.name())
    }

    fn prepare(&mut self) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(self.ground.settle())
    }

    fn measure(&mut self, round: u64) -> BoxFuture<'_, anyhow::Result<f64>> {
        Box::pin(async move {
            let seed = SEED + round;
            self.pgbench.run(self.sizes.warm_up.as_secs().max(1), seed).await.context("warm up")?;
            Ok(self.pgbench.run(self.sizes.duration.as_secs().max(1), seed + 1_000).await?.per_second)
        })
    }
}

/// The function that the script calls, with constants of the sizes that the engine writes.
pub(super) fn function(merchant: uuid::Uuid) -> String {
    let (answer, fingerprint) = sizes_of_key_row();
    include_str!("book_payment.sql")
        .replace("{MERCHANT}", &merchant.to_string())
        .replace("{ANSWER}", &hexadecimal(answer))
        .replace("{FINGERPRINT}", &hexadecimal(fingerprint))
}

/// A `bytea` literal of so many bytes.
fn hexadecimal(bytes: usize) -> String {
    let mut text = "\\x".to_owned();
    for index in 0..bytes {
        let _ = write!(text, "{:02x}", index % 256);
    }
    text
}

/// Draws as our side does: any sender, any other receiver, any amount up to the largest.
fn script_of(mix: Mix, account_prefix: &str) -> String {
    let accounts = mix.accounts();
    format!(
        "\\set from random(1, {accounts})\n\
         \\set to 1 + (:from - 1 + random(1, {accounts} - 1)) % {accounts}\n\
         \\set amount random(1, {AMOUNT_MAX})\n\
         SELECT book_payment(('{account_prefix}' || (100000000000 + :from))::uuid, \
         ('{account_prefix}' || (100000000000 + :to))::uuid, :amount);\n"
    )
}

/// Through the environment, because arguments are seen by everybody on the machine.
fn environment(settings: &tokio_postgres::Config) -> anyhow::Result<Vec<(&'static str, String)>> {
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

#[derive(Clone, Copy, Debug, PartialEq)]
struct Counted {
    transactions: u64,
    per_second: f64,
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

    #[test]
    fn function_stores_as_much_as_the_engine() {
        let text = function(uuid::Uuid::nil());
        let (answer, fingerprint) = sizes_of_key_row();
        assert!(!text.contains('{'), "a placeholder is left");
        assert!(text.contains(&hexadecimal(answer)) && text.contains(&hexadecimal(fingerprint)));
        assert_eq!(hexadecimal(3), "\\x000102");
    }

    #[test]
    fn script_names_accounts_of_its_mix_only() {
        let script = script_of(Mix::Hot, "prefix-");
        assert!(script.contains("random(1, 10)") && script.contains("% 10\n"), "{script}");
        assert!(script.contains("'prefix-' || (100000000000 + :from)"), "{script}");
    }
}
