//! Starts the simulator and the service as children of this process, with their output in log files, and
//! waits until they answer. Stopping them is `run`'s.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::http;
use crate::process::identity::Identity;
use crate::process::{self, port};
use crate::services::state::Instance;

/// The simulator opens a socket and nothing else.
const SIMULATOR_START_LIMIT: Duration = Duration::from_secs(20);
/// The service is ready in under a second; recovery after a crash may take longer.
const READY_LIMIT: Duration = Duration::from_secs(60);
const LISTENING: &str = "listening on http://";
const LOG_LINES_SHOWN: usize = 40;

/// A child of ours and the log it writes.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) child: Child,
    pub(super) log: PathBuf,
    pub(super) port: u16,
}

impl Launched {
    /// As it is written to the state, so that a later run finds it if this one is killed.
    pub(super) fn instance(&self) -> Instance {
        Instance { port: self.port, process: Identity::of(self.child.id()) }
    }

    /// The end of its log.
    pub(super) fn log_tail(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        process::tail_lines(&String::from_utf8_lossy(&bytes), LOG_LINES_SHOWN)
    }
}

/// Starts the command in its own process group, so that Ctrl-C does not reach it, writing to `log`. The
/// log of the start before is kept beside it.
pub(super) fn spawn(command: &mut Command, log: &Path, port: u16) -> Result<Launched> {
    if log.exists() {
        fs::rename(log, log.with_extension("log.1")).context("set the old log aside")?;
    }
    let output = File::create(log).with_context(|| format!("create {}", log.display()))?;
    let errors = output.try_clone().context("share the log file")?;
    let child = command
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .process_group(0)
        .spawn()
        .with_context(|| format!("start {}", command.get_program().display()))?;
    Ok(Launched { child, log: log.to_owned(), port })
}

/// Starts the simulator, on the port of the last run if that is free: gateways keep their address.
pub(super) fn simulator(program: &Path, log: &Path, port_wish: Option<u16>) -> Result<Launched> {
    let port = port_wish.filter(|wish| port::is_free(*wish)).unwrap_or(0);
    let mut command = Command::new(program);
    command.args(["--listen", &format!("127.0.0.1:{port}")]);
    let mut launched = spawn(&mut command, log, port)?;
    let deadline = Instant::now() + SIMULATOR_START_LIMIT;
    loop {
        if let Some(port) = listening_port(&fs::read_to_string(log).unwrap_or_default()) {
            launched.port = port;
            return Ok(launched);
        }
        let ended = launched.child.try_wait()?;
        if ended.is_some() || Instant::now() > deadline {
            drop(process::stop_child(&mut launched.child, Duration::ZERO));
            bail!("the simulator did not start; the end of {}:\n{}", log.display(), launched.log_tail());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until the operator port answers `/readyz` with 200.
pub(super) fn wait_ready(app: &mut Launched, operator_port: u16) -> Result<()> {
    let deadline = Instant::now() + READY_LIMIT;
    let mut last = "no answer yet".to_owned();
    loop {
        match http::get_status(operator_port, "/readyz") {
            Ok(200) => return Ok(()),
            Ok(status) => last = format!("/readyz answers {status}"),
            Err(error) => last = format!("/readyz: {error} (before: {last:.60})"),
        }
        if let Some(status) = app.child.try_wait()? {
            bail!("the service ended ({status}); the end of {}:\n{}", app.log.display(), app.log_tail());
        }
        if Instant::now() > deadline {
            bail!(
                "the service is not ready after {} s ({last}); the end of {}:\n{}",
                READY_LIMIT.as_secs(),
                app.log.display(),
                app.log_tail()
            );
        }
        process::check_stop()?;
        thread::sleep(process::POLL);
    }
}

/// The port of the line `listening on http://127.0.0.1:PORT`, once that line is whole.
fn listening_port(output: &str) -> Option<u16> {
    let whole = &output[..=output.rfind('\n')?];
    let line = whole.lines().find_map(|line| line.split_once(LISTENING).map(|(_, rest)| rest))?;
    let (_, port) = line.trim_end().trim_end_matches('/').rsplit_once(':')?;
    port.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{listening_port, spawn};
    use std::process::Command;

    #[test]
    fn port_is_read_only_from_a_whole_line() {
        assert_eq!(listening_port("starting\nlistening on http://127.0.0.1:4711\n"), Some(4711));
        assert_eq!(listening_port("listening on http://127.0.0.1:47"), None);
        assert_eq!(listening_port("listening on http://127.0.0.1:47\nlisten"), Some(47));
        assert_eq!(listening_port(""), None);
        assert_eq!(listening_port("error: no port\n"), None);
    }

    #[test]
    fn output_goes_to_the_log_and_the_old_log_is_kept() {
        let directory = std::env::temp_dir().join(format!("xtask-launch-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let log = directory.join("app.log");
        for word in ["first", "second"] {
            let mut launched =
                spawn(Command::new("sh").args(["-c", &format!("echo {word}")]), &log, 1).unwrap();
            launched.child.wait().unwrap();
            assert_eq!(launched.log_tail(), word);
        }
        assert_eq!(std::fs::read_to_string(directory.join("app.log.1")).unwrap(), "first\n");
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
