//! `cargo xtask services up|down|status`: private services by hand, and for tests that need their own
//! (`--dir X --json`).

use std::path::PathBuf;

use anyhow::{Result, bail};
use lexopt::prelude::*;
use serde_json::{Value, json};

use super::host::Host;
use super::layout::Layout;
use super::state::{Instance, Role, State};
use super::{Running, Telling, Wanted, down, up};
use crate::progress::note;
use crate::workspace;

#[derive(Debug, PartialEq, Eq)]
enum Action {
    Up,
    Down,
    Status,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Text,
    Json,
}

#[derive(Debug, PartialEq, Eq)]
struct Options {
    action: Action,
    directory: Option<PathBuf>,
    output: Output,
    wanted: Wanted,
}

/// Runs the command; the exit code of `status` is 3 unless all three services run.
pub(crate) fn run(arguments: lexopt::Parser) -> Result<i32> {
    let options = parse(arguments)?;
    let directory = options.directory.map_or_else(workspace::services_directory, Ok)?;
    match options.action {
        Action::Up => {
            let host = Host::prepare(&directory)?;
            let running = up(&host, options.wanted)?;
            print(&host, running, options.output);
            Ok(0)
        }
        Action::Down => {
            if !Layout::locate(&directory)?.home.is_dir() {
                note(&format!("nothing was ever started in {}", directory.display()));
                return Ok(0);
            }
            down(&Host::locate(&directory)?, Telling::Steps)?;
            Ok(0)
        }
        Action::Status => status(&Host::locate(&directory)?, options.output),
    }
}

fn parse(mut arguments: lexopt::Parser) -> Result<Options> {
    let (mut action, mut directory, mut output, mut wanted) = (None, None, Output::Text, Wanted::ALL);
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("dir") => directory = Some(PathBuf::from(arguments.value()?)),
            Long("json") => output = Output::Json,
            Long("only") => wanted = Wanted::parse(&arguments.value()?.string()?)?,
            Value(name) if action.is_none() => {
                action = Some(match name.to_str() {
                    Some("up") => Action::Up,
                    Some("down") => Action::Down,
                    Some("status") => Action::Status,
                    _ => bail!("services knows up, down and status, not `{}`", name.display()),
                });
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let Some(action) = action else { bail!("say what to do: services up, down or status") };
    Ok(Options { action, directory, output, wanted })
}

fn print(host: &Host, running: Running, output: Output) {
    let environment: Vec<(&str, String)> =
        running.service_environment().into_iter().chain(running.test_environment()).collect();
    match output {
        Output::Text => {
            for (name, value) in environment {
                println!("export {name}={value}");
            }
        }
        Output::Json => {
            let instance = |instance: Option<Instance>, url: Option<String>| {
                instance.map(|instance| {
                    json!({
                        "port": instance.port,
                        "pid": instance.process.map(|process| process.pid),
                        "url": url,
                    })
                })
            };
            let environment: serde_json::Map<String, Value> =
                environment.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
            let report = json!({
                "dir": host.layout.home,
                "data_dir": host.layout.data,
                "postgres_bin": host.tools.postgres_bin,
                "primary": instance(running.primary, running.primary_url()),
                "replica": instance(running.replica, running.replica_url()),
                "redis": instance(running.redis, running.redis_url()),
                "env": environment,
            });
            println!("{report:#}");
        }
    }
}

fn status(host: &Host, output: Output) -> Result<i32> {
    let running = Running::find(host);
    if output == Output::Json {
        print(host, running, output);
    } else {
        let state = State::load(&host.layout.home)?;
        let rows = [
            (Role::Primary, running.primary, running.primary_url()),
            (Role::Replica, running.replica, running.replica_url()),
            (Role::Redis, running.redis, running.redis_url()),
        ];
        for (role, instance, url) in rows {
            print_row(role, instance, url);
        }
        for role in [Role::Simulator, Role::App] {
            let instance = state.get(role).filter(|instance| instance.alive().is_some());
            print_row(role, instance, instance.map(|one| format!("http://127.0.0.1:{}", one.port)));
        }
    }
    let all = running.primary.is_some() && running.replica.is_some() && running.redis.is_some();
    Ok(if all { 0 } else { 3 })
}

fn print_row(role: Role, instance: Option<Instance>, url: Option<String>) {
    let pid = instance.and_then(|instance| instance.process).map(|process| process.pid);
    match (pid, url) {
        (Some(pid), Some(url)) => println!("{:<10} running  pid {pid:<8} {url}", role.name()),
        _ => println!("{:<10} stopped", role.name()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Action, Output, parse};
    use std::path::PathBuf;

    #[test]
    fn flags_are_read() {
        let arguments = ["up", "--dir", "/x", "--json", "--only=redis"];
        let options = parse(lexopt::Parser::from_args(arguments)).expect("all are known");
        assert_eq!(options.action, Action::Up);
        assert_eq!(options.directory, Some(PathBuf::from("/x")));
        assert_eq!(options.output, Output::Json);
        assert!(options.wanted.redis && !options.wanted.postgres);
    }

    #[test]
    fn unknown_flags_and_actions_are_refused_by_name() {
        for (arguments, name) in [
            (vec!["up", "--fast"], "--fast"),
            (vec!["restart"], "restart"),
            (vec!["up", "down"], "down"),
            (vec![], "say what to do"),
        ] {
            let error = parse(lexopt::Parser::from_args(arguments)).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
