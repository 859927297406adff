//! A directory and two ports for `cargo xtask run`, and a run in it. Whatever a test leaves running is stopped, and its
//! files are removed, when the place is dropped.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;

/// Silence for so long means that it hangs: every step of a run has a shorter limit of its own.
const SILENCE_MAX: Duration = Duration::from_secs(180);
/// Below the ports that the kernel gives to clients, one of which could take ours between the look and the start.
const PORTS: std::ops::Range<u16> = 18_000..28_000;
/// Places of one process, and how many were made: tests in threads and tests in processes both keep apart.
const PLACES_MAX: u32 = 5;
static PLACES: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Place {
    directory: PathBuf,
    pub(crate) port: u16,
    operator_port: u16,
}

impl Place {
    pub(crate) fn new(name: &str) -> Place {
        // Short and open to all: the services may run as another user.
        let directory = PathBuf::from(format!("/tmp/xtask-{name}-{}", std::process::id()));
        let slot = std::process::id() % 1_000 * PLACES_MAX + PLACES.fetch_add(1, Ordering::Relaxed);
        let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
        let mut free = PORTS.skip(usize::try_from(slot * 2).expect("it is a small number")).filter(is_free);
        let mut port = || free.next().expect("some port is free");
        Place { directory, port: port(), operator_port: port() }
    }

    pub(crate) fn api(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where service and simulator stand: beside the tool, in the directory that the tests' own build filled.
    pub(crate) fn programs(&self) -> &'static Path {
        let programs = Path::new(env!("CARGO_BIN_EXE_xtask")).parent().expect("a program has a directory");
        for program in ["paystrata", "paystrata-simulator"] {
            let there = programs.join(program).is_file();
            assert!(there, "{program} is not built; run the tests with `cargo xtask test`");
        }
        programs
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.args(["run", "--no-install", "--port", &self.port.to_string()]);
        command.args(["--operator-port", &self.operator_port.to_string()]);
        command.arg("--dir").arg(&self.directory).arg("--programs").arg(self.programs()).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    /// What a run says that does not start.
    pub(crate) fn refused(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("xtask starts");
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// What the tool noted about the processes.
    pub(crate) fn state(&self) -> Value {
        let text = fs::read_to_string(self.directory.join("services/state.json")).expect("a run has a state");
        serde_json::from_str(&text).expect("the state is JSON")
    }

    /// The processes that are noted as running, by role.
    pub(crate) fn pids(&self) -> BTreeMap<String, u64> {
        let state = self.state();
        let instances = state.as_object().expect("the state is an object");
        let pid = |instance: &Value| instance["process"]["pid"].as_u64();
        instances.iter().filter_map(|(role, instance)| Some((role.clone(), pid(instance)?))).collect()
    }

    pub(crate) fn primary_url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.state()["primary"]["port"])
    }

    pub(crate) fn log(&self, name: &str) -> String {
        fs::read_to_string(self.directory.join("logs").join(name)).expect("a run writes its logs")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut down = Command::new(env!("CARGO_BIN_EXE_xtask"));
        down.args(["services", "down", "--dir"]).arg(self.directory.join("services"));
        drop(down.output());
        drop(fs::remove_dir_all(&self.directory));
    }
}

/// A run that was ready once. Told to stop when dropped.
pub(crate) struct Run<'place> {
    child: Child,
    /// What it printed when it was ready.
    pub(crate) greeting: String,
    told: RefCell<String>,
    lines: Receiver<String>,
    place: &'place Place,
}

impl<'place> Run<'place> {
    /// Returns when the service is ready.
    pub(crate) fn start(place: &'place Place, arguments: &[&str]) -> Run<'place> {
        let mut command = place.command(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("xtask starts");
        let printed = lines(child.stdout.take().expect("it is piped"));
        let lines = lines(child.stderr.take().expect("it is piped"));
        let mut run = Run { child, greeting: String::new(), told: RefCell::default(), lines, place };
        while !run.greeting.contains("Ctrl-C stops everything") {
            match printed.recv_timeout(SILENCE_MAX) {
                Ok(line) => run.greeting.push_str(&line),
                Err(why) => panic!("it does not start ({why}):\n{}", run.told()),
            }
        }
        run
    }

    /// What it has said on standard error so far.
    pub(crate) fn told(&self) -> String {
        self.told.borrow_mut().extend(self.lines.try_iter());
        self.told.borrow().clone()
    }

    /// Waits until it says this.
    pub(crate) fn said(&mut self, part: &str) {
        while !self.told().contains(part) {
            let line = self.lines.recv_timeout(SILENCE_MAX);
            let line = line.unwrap_or_else(|why| panic!("it does not say {part} ({why}):\n{}", self.told()));
            self.told.borrow_mut().push_str(&line);
        }
    }

    /// SIGTERM. Gives what it said, once it has ended well.
    pub(crate) fn stop(self) -> String {
        self.end_by("TERM")
    }

    /// What Ctrl-C in its terminal does: SIGINT to its process group, in which nothing is that it started. Gives what it
    /// said, once it has ended well.
    pub(crate) fn interrupt(self) -> String {
        let own = process_group(self.child.id().into());
        for (role, pid) in self.place.pids() {
            assert_ne!(process_group(pid), own, "Ctrl-C would end {role} before the service has drained");
        }
        self.end_by("INT")
    }

    fn end_by(self, signal: &str) -> String {
        send(signal, &self.child);
        let (code, said) = self.ended();
        assert_eq!(code, Some(0), "{said}");
        said
    }

    /// Its exit code and everything that it said, once it and all that it started have ended.
    pub(crate) fn ended(mut self) -> (Option<i32>, String) {
        loop {
            match self.lines.recv_timeout(SILENCE_MAX) {
                Ok(line) => self.told.borrow_mut().push_str(&line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end:\n{}", self.told()),
            }
        }
        (self.child.wait().expect("it can be waited for").code(), self.told())
    }

    /// SIGKILL, to it alone.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it can be waited for");
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            send("TERM", &self.child);
            drop(self.child.wait());
        }
    }
}

/// Its number, third after the program's name in parentheses.
fn process_group(pid: u64) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, rest) = stat.rsplit_once(") ").expect("the name stands in parentheses");
    rest.split(' ').nth(2).and_then(|number| number.parse().ok()).expect("a number")
}

fn send(signal: &str, child: &Child) {
    drop(Command::new("kill").args(["-s", signal, &child.id().to_string()]).status());
}

/// Lines with their ends, as they come; the channel ends with the pipe. Without a bound: a run says a few dozen lines.
fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(format!("{line}\n")).is_err() {
                return;
            }
        }
    });
    receiver
}

pub(crate) fn bash(script: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", script]).stdin(Stdio::null());
    command
}

/// What the script prints; it must succeed.
pub(crate) fn shell(script: &str) -> String {
    let output = bash(script).output().expect("bash runs");
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {}\n{complained}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}
