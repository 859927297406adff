//! The real binary as a process: started, killed, told to stop. Its log is kept and shown when a test fails.

use std::process::{ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::caller::Caller;
use crate::ground::LIMIT;
use crate::stage::Settings;

const PROGRAM: &str = env!("CARGO_BIN_EXE_paystrata");
/// Lines of log that are kept to be shown.
const LINES_MAX: usize = 2_000;

/// A running service. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pub(crate) caller: Caller,
    log: Arc<Mutex<Vec<String>>>,
    _folder: TempDir,
}

/// The program with these settings and nothing of this process's environment.
fn program(settings: &Settings, folder: &TempDir) -> Command {
    with_settings(PROGRAM, settings, folder)
}

fn with_settings(executable: &str, settings: &Settings, folder: &TempDir) -> Command {
    let mut command = Command::new(executable);
    command.env_clear().envs(settings).env("PAYSTRATA__TELEMETRY__LOG_FORMAT", "json");
    // A configuration file of the repository must not be found.
    command.current_dir(folder.path()).kill_on_drop(true).stdin(Stdio::null());
    command
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("make a folder")
}

/// A service that is not waited for, and its folder. Killed when dropped.
pub(crate) fn begin(settings: &Settings) -> (Child, TempDir) {
    let folder = folder();
    let child = program(settings, &folder).arg("serve").spawn().expect("start the service");
    (child, folder)
}

/// Asks a process to stop with SIGTERM.
pub(crate) async fn terminate(child: &Child) {
    let pid = child.id().expect("it runs").to_string();
    let sent = Command::new("kill").args(["-TERM", &pid]).status().await.expect("run kill");
    assert!(sent.success());
}

/// Runs another command of the program to its end.
pub(crate) async fn paystrata(settings: &Settings, arguments: &[&str]) -> Output {
    let folder = folder();
    let ended = program(settings, &folder).args(arguments).output();
    timeout(LIMIT, ended).await.expect("the command ends").expect("run the program")
}

/// Asserts that `paystrata verify` finds nothing.
pub(crate) async fn verify(settings: &Settings) {
    let output = paystrata(settings, &["verify"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
}

impl Running {
    /// When this returns, the listeners answer.
    pub(crate) async fn start(settings: &Settings) -> Self {
        let folder = folder();
        let mut command = program(settings, &folder);
        command.arg("serve");
        Self::of(command, folder).await
    }

    /// As [`Self::start`], with so many files and sockets at most.
    pub(crate) async fn start_with_files(settings: &Settings, files: usize) -> Self {
        let folder = folder();
        let mut command = with_settings("/bin/sh", settings, &folder);
        command.args(["-c", &format!("ulimit -n {files}; exec \"$0\" serve"), PROGRAM]);
        Self::of(command, folder).await
    }

    async fn of(mut command: Command, folder: TempDir) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("start the service");
        let stderr = child.stderr.take().expect("it is piped");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (said, told) = oneshot::channel();
        tokio::spawn(read_log(BufReader::new(stderr), Arc::clone(&log), said));
        let Ok(Ok(address)) = timeout(LIMIT, told).await else {
            panic!("the service does not start: {:#?}", log.lock().expect("no panic under this lock"));
        };
        let caller = Caller::new(format!("http://{address}"));
        Self { child, caller, log, _folder: folder }
    }

    /// Ends it with SIGKILL: nothing of it runs on.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("kill the service");
    }

    /// Asks it to stop with SIGTERM.
    pub(crate) async fn ask_to_stop(&self) {
        terminate(&self.child).await;
    }

    /// How it ended.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        timeout(LIMIT, self.child.wait()).await.expect("the service ends").expect("wait for the service")
    }
}

impl Drop for Running {
    #[expect(clippy::print_stdout, reason = "the test runner shows it when the test fails")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.log.lock().expect("no panic under this lock").join("\n"));
        }
    }
}

async fn read_log(
    reader: BufReader<tokio::process::ChildStderr>,
    log: Arc<Mutex<Vec<String>>>,
    said: oneshot::Sender<String>,
) {
    let mut said = Some(said);
    let mut lines = reader.lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(address) = address(&line)
            && let Some(said) = said.take()
        {
            // The test may have given up.
            let _gone = said.send(address);
        }
        let mut log = log.lock().expect("no panic under this lock");
        if log.len() == LINES_MAX {
            log.remove(0);
        }
        log.push(line);
    }
}

/// The address in the line that says where it serves.
fn address(line: &str) -> Option<String> {
    let event: Value = serde_json::from_str(line).ok()?;
    event["fields"]["address"].as_str().map(str::to_owned)
}
