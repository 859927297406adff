//! Private instances of the real services under one directory: PostgreSQL primary and streaming replica,
//! Redis. Started on free loopback ports, found again after a killed run, stopped in order. Never touches
//! a server it did not start. Used by `services`, `run`, `test`, `bench` and `migrate`.

pub(crate) mod account;
mod cluster;
pub(crate) mod command;
pub(crate) mod ephemeral;
pub(crate) mod host;
pub(crate) mod layout;
mod postmaster;
mod primary;
mod redis;
mod replica;
pub(crate) mod state;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::progress::{note, step};
use cluster::Cluster;
use host::Host;
use layout::{Layout, OnStopRequest};
use state::{Instance, Role, State};

/// The service drains for up to 25 s by default, and ends within 5 s after that.
pub(crate) const APP_GRACE: Duration = Duration::from_secs(35);
const SIMULATOR_GRACE: Duration = Duration::from_secs(5);

/// Which services are wanted. A replica needs the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) replica: bool,
    pub(crate) postgres: bool,
    pub(crate) redis: bool,
}

impl Wanted {
    pub(crate) const ALL: Wanted = Wanted { replica: true, postgres: true, redis: true };

    /// Reads `postgres,replica,redis`.
    pub(crate) fn parse(list: &str) -> Result<Wanted> {
        let mut wanted = Wanted { replica: false, postgres: false, redis: false };
        for name in list.split(',').map(str::trim) {
            match name {
                "postgres" | "primary" => wanted.postgres = true,
                "replica" => (wanted.postgres, wanted.replica) = (true, true),
                "redis" => wanted.redis = true,
                other => bail!("--only knows postgres, replica and redis, not `{other}`"),
            }
        }
        Ok(wanted)
    }
}

/// The services that run now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) primary: Option<Instance>,
    pub(crate) replica: Option<Instance>,
    pub(crate) redis: Option<Instance>,
}

impl Running {
    /// What runs in this services directory, whoever started it.
    pub(crate) fn find(host: &Host) -> Running {
        let server = |role| {
            let found = Cluster::new(host, role).running()?;
            Some(Instance { port: found.port, process: Some(found.process) })
        };
        Running {
            primary: server(Role::Primary),
            replica: server(Role::Replica),
            redis: redis::running(host),
        }
    }

    pub(crate) fn primary_url(&self) -> Option<String> {
        self.primary.map(postgres_url)
    }

    pub(crate) fn replica_url(&self) -> Option<String> {
        self.replica.map(postgres_url)
    }

    pub(crate) fn redis_url(&self) -> Option<String> {
        self.redis.map(|redis| format!("redis://127.0.0.1:{}/", redis.port))
    }

    /// The environment for the service.
    pub(crate) fn service_environment(&self) -> Vec<(&'static str, String)> {
        self.environment([
            "PAYSTRATA__DB__PRIMARY_URL",
            "PAYSTRATA__DB__REPLICA_URLS",
            "PAYSTRATA__CACHE__REDIS_URL",
        ])
    }

    /// The environment for the tests.
    pub(crate) fn test_environment(&self) -> Vec<(&'static str, String)> {
        self.environment([
            "PAYSTRATA_TEST_PRIMARY_URL",
            "PAYSTRATA_TEST_REPLICA_URL",
            "PAYSTRATA_TEST_REDIS_URL",
        ])
    }

    fn environment(&self, names: [&'static str; 3]) -> Vec<(&'static str, String)> {
        let urls = [self.primary_url(), self.replica_url(), self.redis_url()];
        names.into_iter().zip(urls).filter_map(|(name, url)| Some((name, url?))).collect()
    }
}

fn postgres_url(instance: Instance) -> String {
    format!("postgres://postgres@127.0.0.1:{}/postgres", instance.port)
}

/// Starts what is wanted and does not run yet. When one of them fails, those started here are stopped.
pub(crate) fn up(host: &Host, wanted: Wanted) -> Result<Running> {
    let _lock = host.layout.lock(OnStopRequest::GiveUp)?;
    let before = Running::find(host);
    let mut state = State::load(&host.layout.home)?;
    match bring_up(host, wanted, &mut state) {
        Ok(()) => Ok(Running::find(host)),
        Err(error) => {
            let now = Running::find(host);
            let started = |was: Option<Instance>, is: Option<Instance>| was.is_none() && is.is_some();
            let roles = [
                (Role::Replica, started(before.replica, now.replica)),
                (Role::Primary, started(before.primary, now.primary)),
                (Role::Redis, started(before.redis, now.redis)),
            ];
            for (role, _) in roles.into_iter().filter(|(_, started)| *started) {
                if let Err(also) = stop(host, &mut state, role, Telling::Steps) {
                    note(&format!("  note  {also:#}"));
                }
            }
            Err(error)
        }
    }
}

fn bring_up(host: &Host, wanted: Wanted, state: &mut State) -> Result<()> {
    let home = &host.layout.home;
    let wish = |state: &State, role| state.get(role).map(|instance| instance.port);
    if wanted.redis {
        let instance = redis::up(host, wish(state, Role::Redis))?;
        state.set(Role::Redis, instance);
        state.save(home)?;
    }
    if wanted.postgres {
        process::check_stop()?;
        let instance = primary::up(host, wish(state, Role::Primary))?;
        state.set(Role::Primary, instance);
        state.save(home)?;
        if wanted.replica {
            process::check_stop()?;
            let instance = replica::up(host, instance.port, wish(state, Role::Replica))?;
            state.set(Role::Replica, instance);
            state.save(home)?;
        }
    }
    Ok(())
}

/// Whether stopping is told step by step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Telling {
    Steps,
    /// Only failures: the last line on the screen belongs to somebody else.
    Nothing,
}

/// Stops everything that this tool started in the directory: service, simulator, replica, primary, Redis.
/// All are tried; the first failure is returned.
pub(crate) fn down(host: &Host, telling: Telling) -> Result<()> {
    let _lock = host.layout.lock(OnStopRequest::KeepWaiting)?;
    let mut state = State::load(&host.layout.home)?;
    let mut first_failure = None;
    for role in Role::ALL {
        if let Err(error) = stop(host, &mut state, role, telling) {
            note(&format!("  note  {error:#}"));
            first_failure.get_or_insert(error);
        }
    }
    first_failure.map_or(Ok(()), Err)
}

fn stop(host: &Host, state: &mut State, role: Role, telling: Telling) -> Result<()> {
    let recorded = state.get(role).and_then(Instance::alive);
    let stop_recorded = |grace| match recorded {
        Some(process) if !process::stop_identity(process, grace) => {
            bail!("{role} (pid {}) does not stop", process.pid)
        }
        _ => Ok(()),
    };
    let running = Running::find(host);
    let is_running = match role {
        Role::App | Role::Simulator => recorded.is_some(),
        Role::Replica => running.replica.is_some(),
        Role::Primary => running.primary.is_some(),
        Role::Redis => running.redis.is_some(),
    };
    if is_running {
        let stopping = || match role {
            Role::App => stop_recorded(APP_GRACE),
            Role::Simulator => stop_recorded(SIMULATOR_GRACE),
            Role::Replica | Role::Primary => Cluster::new(host, role).stop(),
            Role::Redis => redis::stop(host),
        };
        match telling {
            Telling::Steps => step(&format!("stop {}", role.title()), stopping)?,
            Telling::Nothing => stopping()?,
        }
    }
    state.set_stopped(role);
    if host.layout.home.is_dir() { state.save(&host.layout.home) } else { Ok(()) }
}

/// Notes (or forgets) a process of `run` in the state, so that a later run finds it.
pub(crate) fn record(home: &Path, role: Role, instance: Instance) -> Result<()> {
    // Or what another command notes at the same time is lost.
    let _lock = Layout::locate(home)?.lock(OnStopRequest::KeepWaiting)?;
    let mut state = State::load(home)?;
    state.set(role, instance);
    state.save(home).with_context(|| format!("record the {role}"))
}

#[cfg(test)]
mod tests {
    use super::{Instance, Running, Wanted};

    #[test]
    fn replica_brings_its_primary() {
        let wanted = Wanted::parse("replica, redis").expect("both are known");
        assert_eq!(wanted, Wanted::ALL);
        let only = Wanted::parse("postgres").expect("it is known");
        assert!(only.postgres && !only.replica && !only.redis);
    }

    #[test]
    fn unknown_service_is_refused_by_name() {
        let error = Wanted::parse("redis,mysql").unwrap_err().to_string();
        assert!(error.contains("`mysql`"), "{error}");
    }

    #[test]
    fn environment_holds_only_what_runs() {
        let running = Running { primary: Some(Instance { port: 5433, process: None }), ..Running::default() };
        assert_eq!(
            running.service_environment(),
            vec![("PAYSTRATA__DB__PRIMARY_URL", "postgres://postgres@127.0.0.1:5433/postgres".to_owned())]
        );
    }
}
