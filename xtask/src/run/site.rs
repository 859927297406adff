//! How one service with its gateways comes to run on servers that are up, how it is killed and started again, and how it
//! is stopped. What happens while it runs is `run`'s and `prove`'s.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::environment::{self, Programs};
use super::launch::{self, Launched};
use crate::process;
use crate::process::signal::{self, Signal, Target};
use crate::progress::{step, tool};
use crate::services::state::{Role, State};
use crate::services::{self, APP_GRACE, Running};

pub(super) const SIMULATOR_GRACE: Duration = Duration::from_secs(5);

const APP_LOG: &str = "app.log";
const SIMULATOR_LOG: &str = "simulator.log";
/// All that a run leaves in `logs`: those of the start before are kept beside.
pub(super) const LOGS: [&str; 4] = [APP_LOG, "app.log.1", SIMULATOR_LOG, "simulator.log.1"];

/// A variable of the service's environment.
pub(crate) type Setting = (&'static str, String);

/// Where a service runs, and of what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site<'run> {
    /// Its logs are in `logs` below it.
    pub(crate) directory: &'run Path,
    /// Of the servers: what runs is noted there, so that a later command finds it if this one is killed.
    pub(crate) home: &'run Path,
    pub(crate) programs: &'run Programs,
    pub(crate) port: u16,
    pub(crate) operator_port: u16,
}

/// What runs beside the servers, owned by this process.
#[derive(Debug, Default)]
pub(crate) struct Children {
    pub(super) simulator: Option<Launched>,
    pub(super) app: Option<Launched>,
}

impl Site<'_> {
    /// Simulator, migrations, service. Returns when the service is ready, with what it was told.
    pub(crate) fn start(&self, running: &Running, children: &mut Children) -> Result<Vec<Setting>> {
        let known_port = State::load(self.home)?.get(Role::Simulator).map(|instance| instance.port);
        let simulator = step("start the gateway simulator", || {
            launch::simulator(&self.programs.simulator, &self.log(SIMULATOR_LOG), known_port)
        })?;
        let simulator = children.simulator.insert(simulator);
        services::record(self.home, Role::Simulator, simulator.instance())?;
        let settings = environment::settings(running, (self.port, self.operator_port), simulator.port);
        self.migrate(&settings)?;
        self.start_service("start the service", &settings, children)?;
        Ok(settings)
    }

    fn migrate(&self, settings: &[Setting]) -> Result<()> {
        let mut command = Command::new(&self.programs.service);
        let status = tool("migrate the database", command.arg("migrate").envs(settings.iter().cloned()))?;
        if !status.success() {
            bail!(
                "`paystrata migrate` failed ({status}). If it names a migration that was changed or that it does not know, \
                 the data in {} was made by another version: the same command with --fresh (`cargo xtask run --fresh`) \
                 removes the data of earlier runs and starts anew",
                self.directory.display()
            );
        }
        Ok(())
    }

    /// The service alone. Returns when it is ready.
    pub(crate) fn start_service(
        &self,
        name: &str,
        settings: &[Setting],
        children: &mut Children,
    ) -> Result<()> {
        step(name, || {
            let mut command = Command::new(&self.programs.service);
            command.arg("serve").envs(settings.iter().cloned());
            let launched = launch::spawn(&mut command, &self.log(APP_LOG), self.port)?;
            services::record(self.home, Role::App, launched.instance())?;
            launch::wait_ready(children.app.insert(launched), self.operator_port)
        })
    }

    fn log(&self, name: &str) -> PathBuf {
        self.directory.join("logs").join(name)
    }
}

impl Children {
    /// Of the simulator; 0 while there is none.
    pub(super) fn simulator_port(&self) -> u16 {
        self.simulator.as_ref().map_or(0, |simulator| simulator.port)
    }

    /// # Errors
    /// The service has ended by itself.
    pub(crate) fn check_service(&mut self) -> Result<()> {
        let Some(app) = self.app.as_mut() else { bail!("there is no service") };
        if let Some(status) = app.child.try_wait()? {
            let log = app.log.display();
            bail!("the service ended by itself ({status}); the end of {log}:\n{}", app.log_tail());
        }
        Ok(())
    }

    /// SIGKILL to the service: it gets no chance to end anything.
    ///
    /// # Errors
    /// It had ended by itself.
    pub(crate) fn kill_service(&mut self) -> Result<()> {
        self.check_service()?;
        let Some(mut app) = self.app.take() else { bail!("there is no service") };
        signal::send(Target::Group(app.child.id()), Signal::Kill);
        app.child.wait().context("wait for the killed service")?;
        Ok(())
    }

    /// Service first, so that it drains while everything it needs still runs. One that does not stop does not keep
    /// the other up; the first failure is reported.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let mut outcome = Ok(());
        let owned = [
            ("stop the service", self.app.take(), APP_GRACE),
            ("stop the simulator", self.simulator.take(), SIMULATOR_GRACE),
        ];
        for (name, launched, grace) in owned {
            if let Some(mut launched) = launched
                && !matches!(launched.child.try_wait(), Ok(Some(_)))
            {
                let stopped = step(name, || process::stop_child(&mut launched.child, grace)).context(name);
                outcome = outcome.and(stopped.map(drop));
            }
        }
        outcome
    }
}
