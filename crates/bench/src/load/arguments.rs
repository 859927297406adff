//! The command line of `paystrata-load`, and the way to each command.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::{check, hot, open, seed};

/// Feeds a running Paystrata service through its HTTP API.
#[derive(Debug, Parser)]
#[command(name = "paystrata-load")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sends a seeded, realistic mix of payments and checks every answer; 1 when one contradicts the contract.
    Seed(SeedArguments),
    /// Pays between few hot accounts in a closed loop, through kills of the service; 1 when a request ended with an
    /// internal error or without an answer, or when nothing was paid.
    Hot(HotArguments),
    /// Reads back every payment that `hot` wrote down; 1 when one is missing or differs.
    Check(CheckArguments),
    /// Pays at a fixed rate, timed from the planned instants; 2 when the generator lagged and the run is void.
    Open(OpenArguments),
}

/// Where the service is, and as whom to call it.
#[derive(Clone, Args)]
pub struct Service {
    /// Base URL of the public listener.
    #[arg(long, value_name = "URL")]
    pub base: String,
    /// API key of the merchant.
    #[arg(long, value_name = "KEY")]
    pub key: String,
}

impl std::fmt::Debug for Service {
    /// Without the key.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Service").field("base", &self.base).finish_non_exhaustive()
    }
}

/// `seed`
#[derive(Clone, Debug, Args)]
pub struct SeedArguments {
    #[command(flatten)]
    pub service: Service,
    /// Base URL of the operator listener: seeding waits until it says that the service is ready.
    #[arg(long, value_name = "URL")]
    pub operator: Option<String>,
    /// Payments to send, bad ones included.
    #[arg(long, value_name = "N")]
    pub payments: u64,
    /// The same seed and number give the same payments, under the same keys.
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// Requests under way at once.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub clients: u16,
}

/// `hot`
#[derive(Clone, Debug, Args)]
pub struct HotArguments {
    #[command(flatten)]
    pub service: Service,
    /// Requests under way at once.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub clients: u16,
    /// Accounts that all payments share.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(2..=10_000))]
    pub accounts: u16,
    /// How long new payments are sent.
    #[arg(long, default_value_t = 30)]
    pub seconds: u32,
    /// File to write acknowledged payments to, one per line, as they are acknowledged. Overwritten.
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<PathBuf>,
    /// Nothing is killed and nobody else pays: also 1 when the service answers 503.
    #[arg(long)]
    pub undisturbed: bool,
}

/// `check`
#[derive(Clone, Debug, Args)]
pub struct CheckArguments {
    #[command(flatten)]
    pub service: Service,
    /// File that `hot` wrote.
    #[arg(long, value_name = "FILE")]
    pub ledger: PathBuf,
    /// Nobody else has paid as this merchant: also 1 when it has payments that the file does not, such as a second one
    /// under an acknowledged key.
    #[arg(long)]
    pub alone: bool,
}

/// `open`
#[derive(Clone, Debug, Args)]
pub struct OpenArguments {
    #[command(flatten)]
    pub service: Service,
    /// Payments per second.
    #[arg(long, value_name = "R")]
    pub rate: f64,
    /// How long, after a tenth of it as warm-up.
    #[arg(long, value_name = "S")]
    pub seconds: u32,
    /// Accounts that payments spread over.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u16).range(2..=10_000))]
    pub accounts: u16,
}

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As it should.
    Good,
    /// The service broke its contract.
    Contradicted,
    /// The figures count for nothing.
    Void,
}

/// Runs the command, writing its results to `out`.
///
/// # Errors
/// The service cannot be used at all, or a file cannot be read or written.
pub async fn run(arguments: Arguments, out: &mut (dyn Write + Send)) -> anyhow::Result<Ending> {
    match arguments.command {
        Command::Seed(arguments) => seed::run(&arguments, out).await,
        Command::Hot(arguments) => hot::run(&arguments, out).await,
        Command::Check(arguments) => check::run(&arguments, out).await,
        Command::Open(arguments) => open::run(&arguments, out).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_in_no_debug_output() {
        let line = "paystrata-load seed --base http://h --operator http://o --key sk_secret --payments 5";
        let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
        let Command::Seed(seed) = &arguments.command else { panic!("{arguments:?}") };
        assert_eq!((seed.payments, seed.seed, seed.clients), (5, 1, 64));
        assert!(!format!("{arguments:?}").contains("sk_secret"));
    }
}
