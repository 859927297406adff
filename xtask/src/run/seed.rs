//! `--seed-payments`: sends generated payments through the running service, then has the service verify
//! its own ledger. Both programs print their own verdicts; this file only passes their exit codes on.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use super::environment::{self, DEVELOPMENT_KEY};
use super::options::{Options, Profile, Seeding};
use crate::process;

/// The exit code of `paystrata verify`, once the payments are made.
pub(super) fn run(
    options: &Options,
    seeding: &Seeding,
    service: &Path,
    settings: &[(&'static str, String)],
) -> Result<i32> {
    // Always optimised: a slow generator would measure itself.
    let mut command = Command::new(environment::build_generator(Profile::Release)?);
    command.args(["seed", "--base", &format!("http://127.0.0.1:{}", options.port)]);
    command.args(["--operator", &format!("http://127.0.0.1:{}", options.operator_port)]);
    command.args(["--key", DEVELOPMENT_KEY, "--payments", &seeding.payments.to_string()]);
    command.args(["--seed", &seeding.seed.to_string()]);
    let seeded = process::foreground(&mut command)?;
    if !seeded.success() {
        bail!("seeding failed ({seeded})");
    }
    let mut verify = Command::new(service);
    let verified = process::foreground(verify.arg("verify").envs(settings.iter().cloned()))?;
    if !verified.success() {
        println!("paystrata verify: FAILED ({verified})");
    }
    Ok(verified.code().unwrap_or(1))
}
