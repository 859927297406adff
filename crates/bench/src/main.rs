//! `paystrata-bench`: arguments, run, verdict. Called by `cargo xtask bench`.

use std::process::ExitCode;

use clap::Parser;
use paystrata_bench::cli::{self, Verdict};

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = cli::Arguments::parse();
    Ok(match cli::run(&arguments, &mut std::io::stdout()).await? {
        Verdict::Good => ExitCode::SUCCESS,
        Verdict::Missed => ExitCode::FAILURE,
    })
}
