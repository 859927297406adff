//! The flags of `cargo xtask run`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use lexopt::prelude::*;

use crate::setup::Install;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// Keeps what an earlier run left.
    Continue,
    /// Removes it first.
    Fresh,
}

/// How the binaries are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    Release,
    Debug,
}

impl Profile {
    /// Its directory under `target`.
    pub(crate) fn directory(self) -> &'static str {
        match self {
            Profile::Release => "release",
            Profile::Debug => "debug",
        }
    }
}

/// What happens once the seeding is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterSeed {
    KeepRunning,
    Exit,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seeding {
    pub(super) payments: u64,
    pub(super) seed: u64,
    pub(super) after: AfterSeed,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) port: u16,
    pub(super) operator_port: u16,
    pub(super) directory: Option<PathBuf>,
    pub(super) start: Start,
    pub(super) install: Install,
    pub(super) profile: Profile,
    /// Where service and simulator stand ready; they are built without it.
    pub(super) programs: Option<PathBuf>,
    pub(super) seeding: Option<Seeding>,
}

pub(super) fn parse(mut arguments: lexopt::Parser) -> Result<Options> {
    let mut options = Options {
        port: 8080,
        operator_port: 9100,
        directory: None,
        start: Start::Continue,
        install: Install::Allowed,
        profile: Profile::Release,
        programs: None,
        seeding: None,
    };
    let (mut payments, mut seed, mut after) = (None, None, AfterSeed::KeepRunning);
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("port") => options.port = arguments.value()?.parse()?,
            Long("operator-port") => options.operator_port = arguments.value()?.parse()?,
            Long("dir") => options.directory = Some(PathBuf::from(arguments.value()?)),
            Long("fresh") => options.start = Start::Fresh,
            Long("no-install") => options.install = Install::Forbidden,
            Long("programs") => options.programs = Some(PathBuf::from(arguments.value()?)),
            Long("debug") => options.profile = Profile::Debug,
            Long("seed-payments") => payments = Some(arguments.value()?.parse()?),
            Long("seed") => seed = Some(arguments.value()?.parse()?),
            Long("exit-after-seed") => after = AfterSeed::Exit,
            other => return Err(other.unexpected().into()),
        }
    }
    for (name, port) in [("--port", options.port), ("--operator-port", options.operator_port)] {
        if port == 0 {
            bail!("{name} must be from 1 to 65535: what is printed and seeded needs to know it");
        }
    }
    if options.port == options.operator_port {
        bail!("--port and --operator-port are both {}: they need two ports", options.port);
    }
    if options.programs.is_some() && options.profile == Profile::Debug {
        bail!("--programs builds nothing, and --debug says how to build: choose one");
    }
    options.seeding = match payments {
        Some(payments) => Some(Seeding { payments, seed: seed.unwrap_or(1), after }),
        None if seed.is_some() => bail!("--seed needs --seed-payments N"),
        None if after == AfterSeed::Exit => bail!("--exit-after-seed needs --seed-payments N"),
        None => None,
    };
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::{AfterSeed, Profile, Seeding, parse};

    #[test]
    fn defaults_are_the_documented_ports() {
        let options = parse(lexopt::Parser::from_args(Vec::<String>::new())).expect("no flags are fine");
        assert_eq!((options.port, options.operator_port), (8080, 9100));
        assert_eq!((options.profile, options.seeding), (Profile::Release, None));
    }

    #[test]
    fn seeding_is_read() {
        let arguments = ["--seed-payments", "1000", "--seed=7", "--exit-after-seed", "--debug"];
        let options = parse(lexopt::Parser::from_args(arguments)).expect("all are known");
        let seeding = Seeding { payments: 1000, seed: 7, after: AfterSeed::Exit };
        assert_eq!((options.profile, options.seeding), (Profile::Debug, Some(seeding)));
    }

    #[test]
    fn flags_that_make_no_sense_are_refused_by_name() {
        for (arguments, name) in [
            (vec!["--prot", "1"], "--prot"),
            (vec!["--port", "9100"], "--operator-port"),
            (vec!["--port", "70000"], "70000"),
            (vec!["--port", "0"], "--port must"),
            (vec!["--operator-port", "0"], "--operator-port must"),
            (vec!["--programs", "bin", "--debug"], "--programs"),
            (vec!["--seed", "1"], "--seed-payments"),
            (vec!["--exit-after-seed"], "--seed-payments"),
            (vec!["extra"], "extra"),
        ] {
            let error = parse(lexopt::Parser::from_args(arguments)).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
