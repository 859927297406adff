//! The command line of `paystrata`: what it takes, nothing of what it does.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// A payment service: accounts, payments, ledger, gateways.
#[derive(Debug, Parser)]
#[command(name = "paystrata", version)]
pub struct Cli {
    /// Configuration file; without it, `paystrata.toml` of the current directory if there is one.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `paystrata` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the service until SIGTERM or Ctrl-C, then drain.
    Serve,
    /// Bring the schema up to date.
    Migrate {
        /// Only tell what is applied and what is pending.
        #[arg(long)]
        status: bool,
    },
    /// Show the configuration.
    Config {
        /// Which view of it.
        #[command(subcommand)]
        view: ConfigView,
    },
    /// Fold every entry again and compare: exit code 1 if any promise about money is broken.
    Verify,
    /// Merchants and their keys.
    Merchant {
        /// What to do with them.
        #[command(subcommand)]
        action: MerchantAction,
    },
}

/// Views of the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigView {
    /// The effective settings with their origins, secrets redacted.
    Print,
    /// The page `docs/configuration.md`.
    Reference,
}

/// What can be done with merchants.
#[derive(Debug, Subcommand)]
pub enum MerchantAction {
    /// Add a merchant and print its key, which is shown this once.
    Add {
        /// Its name.
        name: String,
    },
}
