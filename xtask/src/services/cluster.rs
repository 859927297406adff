//! One PostgreSQL data directory and the server on it: made whole or not at all, started, adopted when a
//! killed run left it running, stopped. Knows nothing of replication: `replica` and `primary` do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::host::Host;
use super::layout::remove_directory;
use super::postmaster::{self, Postmaster};
use super::state::{Instance, Role};
use crate::process::{self, port};

/// Written into the data directory as the last act of making it.
const MARKER_FILE: &str = "paystrata-complete";
/// Our settings, rewritten on every start and included at the end of postgresql.conf.
pub(crate) const SETTINGS_FILE: &str = "paystrata.conf";
/// Crash recovery after a killed run replays at most max_wal_size, which takes minutes on a slow disk.
const START_LIMIT: Duration = Duration::from_secs(300);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const QUERY_LIMIT: Duration = Duration::from_secs(30);
/// Time for the processes of a killed server to end by themselves, and then to be ended.
const ORPHANS_GRACE: Duration = Duration::from_secs(3);
const ORPHANS_LIMIT: Duration = Duration::from_secs(15);
/// A port found free can be taken before it is used, rarely twice.
const PORT_ATTEMPTS: u32 = 4;
const LOG_BYTES_MAX: u64 = 16 << 20;
const LOG_LINES_SHOWN: usize = 25;

/// What stands in the place of the data directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Absent,
    /// An earlier run died while making it: nothing of value is in it.
    HalfMade,
    /// Somebody else made it, or took our marker away: not ours to remove.
    Unknown,
    Ready,
}

enum Started {
    Running(Instance),
    /// With what the log says about this start.
    Failed(String),
}

/// A data directory in its place, `ROLE/data`, with its log beside it.
#[derive(Debug)]
pub(crate) struct Cluster<'a> {
    host: &'a Host,
    role: Role,
    directory: PathBuf,
}

impl<'a> Cluster<'a> {
    pub(crate) fn new(host: &'a Host, role: Role) -> Cluster<'a> {
        Cluster { host, role, directory: host.layout.data.join(role.name()) }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Where the data directory is made before it is moved to its place in one step.
    pub(crate) fn partial(&self) -> PathBuf {
        self.directory.join("data.partial")
    }

    pub(crate) fn condition(&self) -> Condition {
        condition(&self.data(), &self.partial())
    }

    /// Why a directory of unknown making stays as it is, and what to do.
    pub(crate) fn not_ours(&self) -> anyhow::Error {
        let data = self.data();
        anyhow!(
            "{data} is not a data directory that this tool finished; look at it, and if it can go: rm -r {data}",
            data = data.display()
        )
    }

    /// Makes the data directory with `fill`, which gets the path to make it at.
    pub(crate) fn make(&self, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let partial = self.partial();
        fs::create_dir_all(&self.directory)
            .with_context(|| format!("create {}", self.directory.display()))?;
        fs::set_permissions(&self.directory, fs::Permissions::from_mode(0o700))?;
        self.host.account.give(&self.directory)?;
        self.remove_partial()?;
        fill(&partial)?;
        self.write_owned(&partial.join(MARKER_FILE), self.role.name())?;
        fs::rename(&partial, self.data()).context("put the new data directory in its place")
    }

    /// Removes the data directory. Refuses while a server runs on it.
    pub(crate) fn wipe(&self) -> Result<()> {
        if let Some(running) = self.running() {
            bail!("a server (pid {}) still runs on {}", running.process.pid, self.data().display());
        }
        self.remove_partial()?;
        remove_directory(&self.data())
    }

    /// The initdb or base backup of a killed run outlives it, and its children outlive that for a moment.
    fn remove_partial(&self) -> Result<()> {
        let partial = self.partial();
        let deadline = Instant::now() + ORPHANS_LIMIT;
        loop {
            postmaster::end_processes_on(&partial);
            match remove_directory(&partial) {
                Err(_) if Instant::now() < deadline => thread::sleep(process::POLL),
                result => return result,
            }
        }
    }

    /// The server that runs on this data directory, whichever command started it; none on a directory of unknown making.
    pub(crate) fn running(&self) -> Option<Postmaster> {
        if self.condition() == Condition::Unknown {
            return None;
        }
        postmaster::find(&self.data())
    }

    /// Starts the server with these settings, on the wished port if that is free. Adopts a running one.
    pub(crate) fn start(&self, port_wish: Option<u16>, settings: &str) -> Result<Instance> {
        if let Some(running) = self.running() {
            return self.wait_ready(running);
        }
        self.check_major()?;
        postmaster::retire_stale_pid(&self.data())?;
        let deadline = Instant::now() + ORPHANS_LIMIT;
        let mut port_wish = port_wish.filter(|wish| port::is_free(*wish));
        let mut ports_tried = 0;
        loop {
            let port = port_wish.map_or_else(port::free, Ok).context("find a free port")?;
            let failure = match self.start_on(port, settings)? {
                Started::Running(instance) => return Ok(instance),
                Started::Failed(log) => log,
            };
            process::check_stop()?;
            if let Some(running) = self.running() {
                // The start of a killed run came to its end beside ours.
                return self.wait_ready(running);
            }
            if failure.contains("Address already in use") && ports_tried < PORT_ATTEMPTS {
                (port_wish, ports_tried) = (None, ports_tried + 1);
            } else if failure.contains("pre-existing shared memory block") && Instant::now() < deadline {
                // Processes of a killed server end at their next wait, which a long query may never reach.
                thread::sleep(Duration::from_millis(200));
                if Instant::now() + ORPHANS_LIMIT > deadline + ORPHANS_GRACE {
                    postmaster::end_processes_on(&self.data());
                }
            } else {
                return Err(self.start_failure(&failure));
            }
        }
    }

    /// Stops the server: fast, then immediately (which is safe: it costs a recovery at the next start).
    pub(crate) fn stop(&self) -> Result<()> {
        let Some(running) = self.running() else { return Ok(()) };
        for mode in ["fast", "immediate"] {
            let mut command = self.tool("pg_ctl");
            command.arg("-D").arg(self.data()).args(["-m", mode, "-w", "-s"]);
            command.args(["-t", &STOP_LIMIT.as_secs().to_string(), "stop"]);
            let stopped = process::capture(&mut command, STOP_LIMIT + Duration::from_secs(10));
            if stopped.is_ok_and(|stopped| stopped.status.success()) || !running.process.is_alive() {
                return Ok(());
            }
        }
        if process::stop_identity(running.process, Duration::ZERO) {
            return Ok(());
        }
        bail!("{} (pid {}) does not stop; see {}", self.role, running.process.pid, self.log().display())
    }

    /// A program of PostgreSQL, to be run as the account beside the data directory.
    pub(crate) fn tool(&self, program: &str) -> Command {
        self.host.account.command(&self.host.tools.postgres_bin.join(program), &self.directory)
    }

    /// Runs one SQL text on the server at `port` and returns its rows, fields separated by `|`.
    pub(crate) fn query(&self, port: u16, sql: &str) -> Result<String> {
        let mut command = self.tool("psql");
        command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1"]);
        command.args(["-p", &port.to_string(), "-U", "postgres", "-d", "postgres", "-c", sql]);
        process::succeed(&mut command, QUERY_LIMIT)
    }

    /// One field of `pg_controldata`.
    pub(crate) fn control(&self, field: &str) -> Result<String> {
        let said = process::succeed(self.tool("pg_controldata").arg("-D").arg(self.data()), QUERY_LIMIT)?;
        said.lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
            .map(|value| value.trim().to_owned())
            .with_context(|| format!("pg_controldata of {} has no `{field}`", self.role))
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    pub(crate) fn log_tail(&self) -> String {
        process::tail_lines(&self.log_since(0), LOG_LINES_SHOWN)
    }

    pub(crate) fn write_owned(&self, path: &Path, text: &str) -> Result<()> {
        fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
        self.host.account.give(path)
    }

    fn start_on(&self, port: u16, settings: &str) -> Result<Started> {
        let data = self.data();
        self.write_owned(&data.join(SETTINGS_FILE), &format!("port = {port}\n{settings}"))?;
        let log_start = self.rotate_log()?;
        let mut command = self.tool("pg_ctl");
        command.arg("-D").arg(&data).arg("-l").arg(self.log()).args(["-w", "-s"]);
        command.args(["-t", &START_LIMIT.as_secs().to_string(), "start"]);
        let started = process::capture(&mut command, START_LIMIT + Duration::from_secs(10))?;
        if !started.status.success() {
            return Ok(Started::Failed(self.log_since(log_start)));
        }
        let running =
            self.running().with_context(|| format!("PostgreSQL ({}) left no pid file", self.role))?;
        Ok(Started::Running(Instance { port: running.port, process: Some(running.process) }))
    }

    fn start_failure(&self, log: &str) -> anyhow::Error {
        let orphans = postmaster::processes_on(&self.data());
        let advice = if orphans.is_empty() {
            String::new()
        } else {
            let pids: Vec<String> = orphans.iter().map(u32::to_string).collect();
            format!("\nprocesses of a killed server still use it; end them with: kill {}", pids.join(" "))
        };
        let (role, file, end) = (self.role, self.log(), process::tail_lines(log, LOG_LINES_SHOWN));
        anyhow!("PostgreSQL ({role}) did not start; the end of {}:\n{end}{advice}", file.display())
    }

    /// Waits until an adopted server answers: the run that started it may have died in the middle.
    fn wait_ready(&self, adopted: Postmaster) -> Result<Instance> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            // Read again: one that has just started has not noted its port yet.
            let port = self.running().map_or(adopted.port, |running| running.port);
            match self.query(port, "select 1") {
                Ok(_) => return Ok(Instance { port, process: Some(adopted.process) }),
                Err(error) if Instant::now() > deadline || !adopted.process.is_alive() => {
                    let pid = adopted.process.pid;
                    return Err(error).with_context(|| format!("{} (pid {pid}) does not answer", self.role));
                }
                Err(_) => {
                    process::check_stop()?;
                    thread::sleep(Duration::from_millis(200));
                }
            }
        }
    }

    fn check_major(&self) -> Result<()> {
        let made_by = fs::read_to_string(self.data().join("PG_VERSION")).context("read PG_VERSION")?;
        let (made_by, found) = (made_by.trim(), self.host.tools.postgres_release.major());
        if made_by != found.to_string() {
            bail!(
                "{} was made by PostgreSQL {made_by}, and {} is {found}: set PG_BIN to the bin directory of \
                 {made_by}, or start anew with `cargo xtask run --fresh`",
                self.data().display(),
                self.host.tools.postgres_bin.display()
            );
        }
        Ok(())
    }

    /// Sets a large log aside. Returns where in the log the next start begins.
    fn rotate_log(&self) -> Result<usize> {
        let log = self.log();
        let bytes = fs::metadata(&log).map_or(0, |entry| entry.len());
        if bytes > LOG_BYTES_MAX {
            fs::rename(&log, self.directory.join("log.1")).context("set the old log aside")?;
            return Ok(0);
        }
        usize::try_from(bytes).context("measure the log")
    }

    fn log_since(&self, start: usize) -> String {
        // Servers write UTF-8, but statements in the log may hold anything.
        let bytes = fs::read(self.log()).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(start..).unwrap_or_default()).into_owned()
    }
}

fn condition(data: &Path, partial: &Path) -> Condition {
    if data.join(MARKER_FILE).is_file() {
        return Condition::Ready;
    }
    match fs::read_dir(data).map(|mut entries| entries.next().is_some()) {
        Ok(true) => Condition::Unknown,
        _ if partial.exists() || data.exists() => Condition::HalfMade,
        _ => Condition::Absent,
    }
}

#[cfg(test)]
mod tests {
    use super::{Condition, MARKER_FILE, condition};
    use std::fs;
    use std::path::PathBuf;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("xtask-cluster-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("temp directory can be written");
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn data_directory_counts_only_with_its_marker() {
        let scratch = Scratch::new("condition");
        let (data, partial) = (scratch.0.join("data"), scratch.0.join("data.partial"));
        assert_eq!(condition(&data, &partial), Condition::Absent);
        fs::create_dir(&partial).unwrap();
        fs::write(partial.join("PG_VERSION"), "15\n").unwrap();
        assert_eq!(condition(&data, &partial), Condition::HalfMade);
        fs::write(partial.join(MARKER_FILE), "primary").unwrap();
        fs::rename(&partial, &data).unwrap();
        assert_eq!(condition(&data, &partial), Condition::Ready);
        fs::remove_file(data.join(MARKER_FILE)).unwrap();
        assert_eq!(condition(&data, &partial), Condition::Unknown);
        fs::remove_file(data.join("PG_VERSION")).unwrap();
        assert_eq!(condition(&data, &partial), Condition::HalfMade);
    }
}
