//! The flags of `cargo xtask prove`.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use anyhow::{Result, bail};
use lexopt::prelude::*;

use crate::run::options::Profile;
use crate::setup::Install;

/// Bounds of the generator, checked here because a build stands before the program that knows them.
const CLIENTS: RangeInclusive<u16> = 1..=4_096;
const ACCOUNTS: RangeInclusive<u16> = 2..=10_000;
/// An hour of load fills a disk of tens of gigabytes.
const SECONDS: RangeInclusive<u32> = 1..=3_600;

/// Whether the service lives through the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kill {
    Never,
    /// Once, by SIGKILL, in the middle.
    InTheMiddle,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) seconds: u32,
    pub(super) clients: u16,
    pub(super) accounts: u16,
    pub(super) kill: Kill,
    pub(super) directory: Option<PathBuf>,
    pub(super) install: Install,
    pub(super) profile: Profile,
    /// Where service, simulator and generator stand ready; they are built without it.
    pub(super) programs: Option<PathBuf>,
}

pub(super) fn parse(mut arguments: lexopt::Parser) -> Result<Options> {
    let mut options = Options {
        seconds: 30,
        clients: 64,
        accounts: 10,
        kill: Kill::Never,
        directory: None,
        install: Install::Allowed,
        profile: Profile::Release,
        programs: None,
    };
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("seconds") => options.seconds = within("--seconds", arguments.value()?.parse()?, &SECONDS)?,
            Long("clients") => options.clients = within("--clients", arguments.value()?.parse()?, &CLIENTS)?,
            Long("accounts") => {
                options.accounts = within("--accounts", arguments.value()?.parse()?, &ACCOUNTS)?;
            }
            Long("kill") => options.kill = Kill::InTheMiddle,
            Long("dir") => options.directory = Some(PathBuf::from(arguments.value()?)),
            Long("no-install") => options.install = Install::Forbidden,
            Long("debug") => options.profile = Profile::Debug,
            Long("programs") => options.programs = Some(PathBuf::from(arguments.value()?)),
            other => return Err(other.unexpected().into()),
        }
    }
    if options.programs.is_some() && options.profile == Profile::Debug {
        bail!("--programs builds nothing, and --debug says how to build: choose one");
    }
    Ok(options)
}

fn within<N: PartialOrd + Display>(flag: &str, number: N, bounds: &RangeInclusive<N>) -> Result<N> {
    if !bounds.contains(&number) {
        bail!("{flag} {number}: it takes {} to {}", bounds.start(), bounds.end());
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::{Kill, Profile, parse};

    #[test]
    fn defaults_are_those_of_the_help() {
        let options = parse(lexopt::Parser::from_args(Vec::<String>::new())).expect("no flags are fine");
        assert_eq!((options.seconds, options.clients, options.accounts), (30, 64, 10));
        assert_eq!((options.kill, options.profile), (Kill::Never, Profile::Release));
    }

    #[test]
    fn flags_are_read() {
        let arguments = ["--seconds", "5", "--clients=8", "--accounts", "2", "--kill", "--debug"];
        let options = parse(lexopt::Parser::from_args(arguments)).expect("all are known");
        assert_eq!((options.seconds, options.clients, options.accounts), (5, 8, 2));
        assert_eq!((options.kill, options.profile), (Kill::InTheMiddle, Profile::Debug));
    }

    #[test]
    fn flags_that_make_no_sense_are_refused_by_name() {
        for (arguments, name) in [
            (vec!["--seconds", "0"], "--seconds"),
            (vec!["--clients", "5000"], "--clients"),
            (vec!["--accounts", "1"], "--accounts"),
            (vec!["--accounts", "many"], "many"),
            (vec!["--programs", "bin", "--debug"], "--programs"),
            (vec!["--fast"], "--fast"),
            (vec!["extra"], "extra"),
        ] {
            let error = parse(lexopt::Parser::from_args(arguments)).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
