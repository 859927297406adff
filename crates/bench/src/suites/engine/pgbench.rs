//! The peer: `pgbench -M prepared -c 16 -j 2`, one payment per transaction through the function of `book_payment.sql`,
//! on the same tables with the same durability. Counts what it acknowledged, for the audit.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use futures_util::future::BoxFuture;

use super::ground::Ground;
use super::mix::{AMOUNT_MAX, Mix};
use super::ours::sizes_of_key_row;
use super::{SEED, Sizes};
use crate::measure::Contender;
use crate::pgbench::{self, Counted};
use crate::suite;

/// Sixteen connections measured best here: fewer leave the flush idle, more only wait for locks.
const CLIENTS: &str = "16";
const THREADS: &str = "2";
/// For the reader of the figures.
pub(super) const ABOUT: &str =
    "peer: pgbench -n -M prepared -c 16 -j 2, one plpgsql call per payment, synchronous_commit on";

/// `pgbench` with the script of one mix.
#[derive(Debug)]
pub(super) struct Pgbench {
    program: pgbench::Pgbench,
    mix: Mix,
    script: tempfile::NamedTempFile,
    acknowledged: AtomicU64,
}

impl Pgbench {
    pub(super) fn new(context: &suite::Context, ground: &Ground, mix: Mix) -> anyhow::Result<Self> {
        let program = pgbench::Pgbench::new(&context.postgres_bin, &ground.settings)?;
        let mut script =
            tempfile::NamedTempFile::with_prefix("paystrata-bench-").context("make a script file")?;
        script.write_all(script_of(mix, &ground.account_prefix).as_bytes()).context("write the script")?;
        Ok(Self { program, mix, script, acknowledged: AtomicU64::new(0) })
    }

    /// Payments of all runs so far.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    pub(super) fn contender<'run>(&'run self, ground: &'run Ground, sizes: Sizes) -> Peer<'run> {
        Peer { pgbench: self, ground, sizes }
    }

    async fn run(&self, seconds: u64, seed: u64) -> anyhow::Result<Counted> {
        let script = self.script.path().to_str().context("name the script")?;
        let arguments = ["--client", CLIENTS, "--jobs", THREADS, "--file", script];
        let counted = self.program.run(&arguments, seconds, seed).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

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
