//! `cargo xtask`: starts private services, runs the service, tests, benches and checks of this workspace.
//! Depends on no crate of ours, so that its first call compiles in seconds.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks to its user")]

mod bench;
mod help;
mod http;
mod migrate;
mod process;
mod progress;
mod prove;
mod run;
mod services;
mod setup;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, bail};

fn main() -> ExitCode {
    match dispatch() {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) if error.downcast_ref::<process::Interrupted>().is_some() => {
            eprintln!("{error}");
            // What a shell reports for a process that Ctrl-C ended.
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch() -> Result<i32> {
    process::signal::catch_stop_requests();
    let mut arguments = lexopt::Parser::from_env();
    let Some(first) = arguments.next()? else { bail!("say a command; `cargo xtask help` lists them") };
    let name = match first {
        lexopt::Arg::Value(name) => name.display().to_string(),
        lexopt::Arg::Long("help") | lexopt::Arg::Short('h') => "help".to_owned(),
        other => return Err(other.unexpected().into()),
    };
    match name.as_str() {
        "setup" => setup::run(arguments),
        "run" => run::run(arguments),
        "services" => services::command::run(arguments),
        "test" => test::run(arguments),
        "bench" => bench::run(arguments),
        "prove" => prove::run(arguments),
        "migrate" => migrate::run(arguments),
        "tidy" => tidy::run(arguments),
        "help" => {
            println!("{}", help::HELP);
            Ok(0)
        }
        _ => bail!("unknown command `{name}`; `cargo xtask help` lists them"),
    }
}
