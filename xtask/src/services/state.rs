//! `state.json`: which instances this tool started in a services directory, on which ports. A hint that
//! survives a killed run, never the only proof: what it says is checked against `/proc` before use.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};

use crate::process::identity::Identity;
use crate::progress::note;

pub(crate) const STATE_FILE: &str = "state.json";

/// The instances of one services directory, in the order in which they are stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    App,
    Simulator,
    Replica,
    Primary,
    Redis,
}

impl Role {
    pub(crate) const ALL: [Role; 5] = [Role::App, Role::Simulator, Role::Replica, Role::Primary, Role::Redis];

    /// Its name in `state.json`, in messages and as a directory.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::App => "app",
            Role::Simulator => "simulator",
            Role::Replica => "replica",
            Role::Primary => "primary",
            Role::Redis => "redis",
        }
    }
}

impl Role {
    /// What a person calls it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Role::App => "the service",
            Role::Simulator => "the simulator",
            Role::Replica => "the replica",
            Role::Primary => "the primary",
            Role::Redis => "Redis",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// One server: the port it listens on (kept while it is stopped, to be used again), and its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instance {
    pub(crate) port: u16,
    pub(crate) process: Option<Identity>,
}

impl Instance {
    /// The process, if it still runs.
    pub(crate) fn alive(self) -> Option<Identity> {
        self.process.filter(|process| process.is_alive())
    }
}

/// Everything `state.json` holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    instances: BTreeMap<Role, Instance>,
}

impl State {
    /// Reads the state of a services directory. A file that cannot be understood is said and ignored:
    /// running servers are found again through their own pid files.
    pub(crate) fn load(home: &Path) -> Result<State> {
        let path = home.join(STATE_FILE);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(State::default()),
            read => read.with_context(|| format!("read {}", path.display()))?,
        };
        Ok(State::parse(&text).unwrap_or_else(|error| {
            note(&format!("  note  {} is ignored: {error:#}", path.display()));
            State::default()
        }))
    }

    /// Writes the state so that a reader sees the old or the new one, never a part.
    pub(crate) fn save(&self, home: &Path) -> Result<()> {
        let path = home.join(STATE_FILE);
        let aside = home.join(format!("{STATE_FILE}.new"));
        fs::write(&aside, self.to_json()).with_context(|| format!("write {}", aside.display()))?;
        fs::rename(&aside, &path).with_context(|| format!("replace {}", path.display()))
    }

    pub(crate) fn get(&self, role: Role) -> Option<Instance> {
        self.instances.get(&role).copied()
    }

    /// Every instance that runs now.
    pub(crate) fn running(&self) -> Vec<(Role, Instance)> {
        let running = self.instances.iter().filter(|(_, instance)| instance.alive().is_some());
        running.map(|(role, instance)| (*role, *instance)).collect()
    }

    pub(crate) fn set(&mut self, role: Role, instance: Instance) {
        self.instances.insert(role, instance);
    }

    /// Forgets the process and keeps the port.
    pub(crate) fn set_stopped(&mut self, role: Role) {
        if let Some(instance) = self.instances.get_mut(&role) {
            instance.process = None;
        }
    }

    fn to_json(&self) -> String {
        let instances: serde_json::Map<String, Value> = self
            .instances
            .iter()
            .map(|(role, instance)| {
                let process = instance
                    .process
                    .map(|process| json!({"pid": process.pid, "start_ticks": process.start_ticks}));
                (role.name().to_owned(), json!({"port": instance.port, "process": process}))
            })
            .collect();
        format!("{:#}\n", Value::Object(instances))
    }

    fn parse(text: &str) -> Result<State> {
        let value: Value = serde_json::from_str(text)?;
        let object = value.as_object().ok_or_else(|| anyhow!("it is not a JSON object"))?;
        let mut instances = BTreeMap::new();
        for (name, fields) in object {
            let role = Role::ALL
                .into_iter()
                .find(|role| role.name() == name)
                .ok_or_else(|| anyhow!("unknown instance `{name}`"))?;
            let port = number::<u16>(&fields["port"]).with_context(|| format!("port of {name}"))?;
            let process = match &fields["process"] {
                Value::Null => None,
                process => Some(Identity {
                    pid: number(&process["pid"]).with_context(|| format!("pid of {name}"))?,
                    start_ticks: number(&process["start_ticks"])
                        .with_context(|| format!("start_ticks of {name}"))?,
                }),
            };
            instances.insert(role, Instance { port, process });
        }
        Ok(State { instances })
    }
}

fn number<T: TryFrom<u64>>(value: &Value) -> Result<T> {
    let number = value.as_u64().ok_or_else(|| anyhow!("not a number: {value}"))?;
    T::try_from(number).map_err(|_| anyhow!("out of range: {number}"))
}

#[cfg(test)]
mod tests {
    use super::{Identity, Instance, Role, State};

    #[test]
    fn state_survives_writing_and_reading() {
        let mut state = State::default();
        let process = Some(Identity { pid: 4711, start_ticks: 99 });
        state.set(Role::Primary, Instance { port: 54_320, process });
        state.set(Role::Simulator, Instance { port: 9999, process: None });
        assert_eq!(State::parse(&state.to_json()).expect("own output parses"), state);
    }

    #[test]
    fn stopped_instance_keeps_its_port() {
        let mut state = State::default();
        let process = Some(Identity { pid: 4711, start_ticks: 99 });
        state.set(Role::Redis, Instance { port: 7000, process });
        state.set_stopped(Role::Redis);
        assert_eq!(state.get(Role::Redis), Some(Instance { port: 7000, process: None }));
    }

    #[test]
    fn bad_state_is_refused_with_its_place() {
        for (text, place) in [
            ("{", "EOF"),
            ("[]", "not a JSON object"),
            (r#"{"mysql":{"port":1}}"#, "unknown instance `mysql`"),
            (r#"{"redis":{"port":70000}}"#, "port of redis"),
            (r#"{"redis":{"port":7,"process":{"pid":-1,"start_ticks":1}}}"#, "pid of redis"),
            (r#"{"redis":{"port":7,"process":{"pid":1}}}"#, "start_ticks of redis"),
        ] {
            let error = format!("{:#}", State::parse(text).unwrap_err());
            assert!(error.contains(place), "{text}: {error}");
        }
    }

    #[test]
    fn dead_process_is_not_alive() {
        // No process of this boot started at the end of time.
        let process = Some(Identity { pid: std::process::id(), start_ticks: u64::MAX });
        assert_eq!(Instance { port: 1, process }.alive(), None);
    }
}
