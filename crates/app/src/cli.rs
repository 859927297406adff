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
    /// The database behind the service.
    Db {
        /// What to do with it.
        #[command(subcommand)]
        action: DbAction,
    },
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

/// What can be done with the database.
#[derive(Debug, Subcommand)]
pub enum DbAction {
    /// Weigh which indexes would pay for what the database is asked. It runs none of the statements, and plans them on a
    /// replica if one serves reads.
    Advise {
        /// The statements, each ended by a semicolon at the end of a line; a line `-- calls: 1000` before one says how
        /// often it is called. Without it, what pg_stat_statements has counted in this database, on all servers together.
        #[arg(long, value_name = "FILE")]
        workload: Option<PathBuf>,
        /// Build what is advised, one index after the other, while the service goes on.
        #[arg(long)]
        create: bool,
    },
    /// Judge whether the indexes that "db advise --create" has built pay: how often all servers of the settings have used
    /// them, against what the writes cost.
    Review {
        /// Judge an index once every server has counted its uses for so many days; 0 judges at once.
        #[arg(long, value_name = "DAYS", default_value_t = 7)]
        days: u32,
        /// Drop those that do not pay, while the service goes on.
        #[arg(long)]
        drop: bool,
    },
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
