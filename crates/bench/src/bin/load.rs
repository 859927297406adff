//! `paystrata-load`: arguments, run, exit code. Called by people and by `cargo xtask`.

use std::process::ExitCode;

use clap::Parser;
use paystrata_bench::load::arguments::{self, Arguments, Ending};

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    Ok(match arguments::run(Arguments::parse(), &mut std::io::stdout()).await? {
        Ending::Good => ExitCode::SUCCESS,
        Ending::Contradicted => ExitCode::from(1),
        Ending::Void => ExitCode::from(2),
    })
}
