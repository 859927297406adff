//! `--seed-payments`: sends generated payments through the running service, then has the service verify
//! its own ledger. Both programs print their own verdicts; this file only passes their exit codes on.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use super::environment::{self, DEVELOPMENT_KEY};
use super::options::{AfterSeed, Options, Profile, Seeding};
use super::site::Setting;
use crate::{process, progress};

/// A load generator that stands ready, and what it is to do.
#[derive(Debug)]
pub(super) struct Seeder<'run> {
    options: &'run Options,
    seeding: &'run Seeding,
    generator: PathBuf,
}

impl<'run> Seeder<'run> {
    /// Finds or builds the generator, if there is anything to seed.
    pub(super) fn prepare(options: &'run Options) -> Result<Option<Self>> {
        let Some(seeding) = &options.seeding else { return Ok(None) };
        let generator = match &options.programs {
            Some(directory) => environment::ready_generator(directory)?,
            // Always optimised: a slow generator would measure itself.
            None => environment::build_generator(Profile::Release)?,
        };
        Ok(Some(Self { options, seeding, generator }))
    }

    /// What follows once the payments are made.
    pub(super) fn after(&self) -> AfterSeed {
        self.seeding.after
    }

    /// The exit code of `paystrata verify`, once the payments are made.
    pub(super) fn run(&self, service: &Path, settings: &[Setting]) -> Result<i32> {
        let Self { options, seeding, generator } = self;
        let mut command = Command::new(generator);
        command.args(["seed", "--base", &format!("http://127.0.0.1:{}", options.port)]);
        command.args(["--operator", &format!("http://127.0.0.1:{}", options.operator_port)]);
        command.args(["--key", DEVELOPMENT_KEY, "--payments", &seeding.payments.to_string()]);
        command.args(["--seed", &seeding.seed.to_string()]);
        let seeded = process::foreground(&mut command)?;
        if !seeded.success() {
            bail!("seeding failed ({seeded})");
        }
        let mut verify = Command::new(service);
        verify.arg("verify").envs(settings.iter().cloned());
        let verified = progress::tool("run paystrata verify", &mut verify)?;
        if !verified.success() {
            println!("paystrata verify: FAILED ({verified})");
        }
        Ok(verified.code().unwrap_or(1))
    }
}
