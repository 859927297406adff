//! `cargo xtask run`: from a fresh machine to a running service, and back to nothing running on Ctrl-C.
//! Order of the story: leftovers, ports, programs, builds, old data (with `--fresh`), services, simulator, migrations,
//! service, seeding, wait, stop. Nothing is removed before all that can fail without it has passed.

pub(crate) mod environment;
mod launch;
pub(crate) mod options;
mod seed;
pub(crate) mod site;

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::process::{self, Interrupted, port, signal};
use crate::progress::{note, step};
use crate::services::host::Host;
use crate::services::layout::{Layout, open_lock};
use crate::services::state::{Instance, Role, State};
use crate::services::{self, APP_GRACE, Telling, Wanted};
use crate::setup;
use crate::workspace;
use environment::Programs;
use options::{AfterSeed, Options, Start};
use seed::Seeder;
use site::{Children, LOGS, SIMULATOR_GRACE, Site};

const RUN_LOCK_FILE: &str = "run.lock";

/// How a run that got as far as a ready service ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    OnRequest,
    ServiceDied,
    Seeded { exit_code: i32 },
}

/// Runs the command.
pub(crate) fn run(arguments: lexopt::Parser) -> Result<i32> {
    let options = options::parse(arguments)?;
    let directory = match &options.directory {
        Some(directory) => std::path::absolute(directory)?,
        None => workspace::root()?.join(workspace::RUNTIME_DIRECTORY),
    };
    fs::create_dir_all(directory.join("logs")).with_context(|| format!("create {}", directory.display()))?;
    let _only_one = claim(&directory)?;
    stop_leftovers(&directory)?;
    check_ports(&options)?;
    setup::ensure(options.install)?;
    let programs = match &options.programs {
        Some(directory) => environment::ready(directory)?,
        None => environment::build(options.profile)?,
    };
    let seeder = Seeder::prepare(&options)?;
    process::check_stop()?;
    if options.start == Start::Fresh {
        remove_data(&directory)?;
    }

    let host = Host::prepare(&services_of(&directory))?;
    let mut children = Children::default();
    let ended = story(&options, &directory, &host, &programs, seeder.as_ref(), &mut children);
    let stopped = stop_everything(&host, &mut children);
    let code = match ended? {
        End::OnRequest => 0,
        End::ServiceDied => 1,
        End::Seeded { exit_code } => exit_code,
    };
    stopped.map(|()| code)
}

fn services_of(directory: &Path) -> PathBuf {
    directory.join("services")
}

fn story(
    options: &Options,
    directory: &Path,
    host: &Host,
    programs: &Programs,
    seeder: Option<&Seeder<'_>>,
    children: &mut Children,
) -> Result<End> {
    let running = services::up(host, Wanted::ALL)?;
    let home = &host.layout.home;
    let (port, operator_port) = (options.port, options.operator_port);
    let site = Site { directory, home, programs, port, operator_port };
    let settings = site.start(&running, children)?;
    println!("{}", environment::greeting(port, operator_port, children.simulator_port()));
    let Some(seeder) = seeder else { return attend(home, children) };
    let exit_code = match seeder.run(&programs.service, &settings) {
        Err(error) if error.downcast_ref::<Interrupted>().is_some() => return Ok(End::OnRequest),
        verdict => verdict?,
    };
    if seeder.after() == AfterSeed::Exit {
        return Ok(End::Seeded { exit_code });
    }
    Ok(match attend(home, children)? {
        // It ran on for somebody to look at it, but a ledger that is not whole is no success.
        End::OnRequest => End::Seeded { exit_code },
        end => end,
    })
}

/// Waits until the user or the service ends it. Says once of every other process that it is gone: the service goes
/// on without most of them, and whoever stopped one on purpose wants to see that.
fn attend(home: &Path, children: &mut Children) -> Result<End> {
    let Some(app) = children.app.as_mut() else { bail!("no service to attend") };
    let watched: Vec<(Role, Instance)> = State::load(home)?.running();
    let mut gone: Vec<Role> = vec![Role::App];
    loop {
        if signal::stop_requests() > 0 {
            note("stopping (Ctrl-C again: at once)");
            return Ok(End::OnRequest);
        }
        if let Some(status) = app.child.try_wait()? {
            note(&format!("the service ended by itself ({status}); the end of {}:", app.log.display()));
            note(&app.log_tail());
            return Ok(End::ServiceDied);
        }
        if let Some(simulator) = children.simulator.as_mut() {
            // Reaped, or it would count as alive.
            simulator.child.try_wait()?;
        }
        for (role, instance) in &watched {
            if !gone.contains(role) && instance.alive().is_none() {
                gone.push(*role);
                note(&format!(
                    "{} is gone; the service runs on. A new start of this command brings it back",
                    role.title()
                ));
            }
        }
        thread::sleep(process::POLL);
    }
}

/// Service first, so that it drains while everything it needs still runs; then simulator and services. One that
/// does not stop keeps none of the others up; the first failure is reported.
fn stop_everything(host: &Host, children: &mut Children) -> Result<()> {
    children.stop().and(services::down(host, Telling::Steps))
}

/// One `run` per directory: two would stop each other's services.
fn claim(directory: &Path) -> Result<File> {
    let file = open_lock(&directory.join(RUN_LOCK_FILE))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another `cargo xtask run` uses {}: stop it, or pass another --dir, --port and --operator-port",
            directory.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).context("lock the run directory"),
    }
}

/// Ends the service and simulator of a killed run; the databases are adopted.
fn stop_leftovers(directory: &Path) -> Result<()> {
    let services = services_of(directory);
    if !services.is_dir() {
        return Ok(());
    }
    let home = Layout::locate(&services)?.home;
    let mut state = State::load(&home)?;
    for (role, grace) in [(Role::App, APP_GRACE), (Role::Simulator, SIMULATOR_GRACE)] {
        if let Some(left) = state.get(role).and_then(Instance::alive) {
            step(&format!("stop {}, left by a killed run", role.title()), || {
                if process::stop_identity(left, grace) {
                    Ok(())
                } else {
                    bail!("pid {} does not stop", left.pid)
                }
            })?;
        }
        state.set_stopped(role);
    }
    state.save(&home)
}

/// Removes everything that earlier runs left.
fn remove_data(directory: &Path) -> Result<()> {
    let services = services_of(directory);
    if !services.is_dir() {
        return Ok(());
    }
    let host = Host::locate(&services)?;
    services::down(&host, Telling::Steps)?;
    step("remove the data of earlier runs", || {
        host.layout.remove()?;
        for log in LOGS {
            match fs::remove_file(directory.join("logs").join(log)) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {log}"));
                }
                _ => {}
            }
        }
        Ok(())
    })
}

fn check_ports(options: &Options) -> Result<()> {
    for (port, flag) in [(options.port, "--port"), (options.operator_port, "--operator-port")] {
        match port::try_bind(port) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                let holder = port::holder(port).unwrap_or_else(|| "another process".to_owned());
                bail!("port {port} is used by {holder}: stop that, or choose another with {flag}");
            }
            bound => bound.with_context(|| format!("listen on port {port}; choose another with {flag}"))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{check_ports, options};
    use std::net::{Ipv4Addr, TcpListener};

    #[test]
    fn taken_port_names_its_flag_and_holder() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a loopback port");
        let taken = listener.local_addr().expect("bound listener has an address").port().to_string();
        for flag in ["--port", "--operator-port"] {
            let other = if flag == "--port" { "--operator-port" } else { "--port" };
            let free = crate::process::port::free().expect("some port is free").to_string();
            let arguments = [flag, &taken, other, &free];
            let options = options::parse(lexopt::Parser::from_args(arguments)).expect("both are known");
            let error = check_ports(&options).unwrap_err().to_string();
            assert!(error.contains(&taken) && error.contains(flag), "{error}");
            assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
        }
    }
}
