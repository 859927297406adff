//! Child processes: each runs in its own process group, so that Ctrl-C reaches only this tool, which then
//! stops them in order. Every wait here is bounded or ends on a request to stop. Used by every command.

pub(crate) mod identity;
pub(crate) mod port;
pub(crate) mod signal;

use std::fmt;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use identity::Identity;
use signal::{Signal, Target};

/// Short enough not to be felt, long enough to cost nothing: 50 looks a second at a child.
pub(crate) const POLL: Duration = Duration::from_millis(20);
/// Enough for any message of the tools we call; the rest is read and dropped.
const CAPTURED_BYTES_MAX: usize = 1 << 20;
/// Time for cargo and nextest to stop their own children after SIGTERM.
const FOREGROUND_GRACE: Duration = Duration::from_secs(15);

/// The user asked to stop before the work was done.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("stopped on request")
    }
}

impl std::error::Error for Interrupted {}

/// Fails with [`Interrupted`] once a stop was requested; long stories call it between their steps.
pub(crate) fn check_stop() -> Result<()> {
    if signal::stop_requests() > 0 { Err(Interrupted.into()) } else { Ok(()) }
}

/// What a finished tool left behind.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a short tool to its end and returns its output. Killed after `limit`, which is an error.
pub(crate) fn capture(command: &mut Command, limit: Duration) -> Result<Finished> {
    let name = command_name(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("start {name}"))?;
    let stdout = read_aside(child.stdout.take());
    let stderr = read_aside(child.stderr.take());
    let Some(status) = wait_until(&mut child, Instant::now() + limit)? else {
        signal::send(Target::Group(child.id()), Signal::Kill);
        child.wait().with_context(|| format!("wait for {name}"))?;
        bail!("{name} did not finish within {} s and was killed", limit.as_secs());
    };
    Ok(Finished { status, stdout: joined(stdout), stderr: joined(stderr) })
}

/// Like [`capture`], but a failure of the tool is an error that carries what it said.
pub(crate) fn succeed(command: &mut Command, limit: Duration) -> Result<String> {
    let name = command_name(command);
    let finished = capture(command, limit)?;
    if finished.status.success() {
        return Ok(finished.stdout.trim_end().to_owned());
    }
    let said = if finished.stderr.trim().is_empty() { &finished.stdout } else { &finished.stderr };
    bail!("{name} failed ({}): {}", finished.status, tail_lines(said, 12));
}

/// Runs a long tool on our own terminal until it ends. On a request to stop its whole group is told to
/// terminate, and the result is [`Interrupted`].
pub(crate) fn foreground(command: &mut Command) -> Result<ExitStatus> {
    let name = command_name(command);
    end_of(&mut start(command, &name)?, &name)
}

/// As [`foreground`], but what the tool says is held back, for a step that shows its progress meanwhile.
pub(crate) fn aside(command: &mut Command) -> Result<Finished> {
    let name = command_name(command);
    let mut child = start(command.stdout(Stdio::piped()).stderr(Stdio::piped()), &name)?;
    let (stdout, stderr) = (read_aside(child.stdout.take()), read_aside(child.stderr.take()));
    let status = end_of(&mut child, &name)?;
    Ok(Finished { status, stdout: joined(stdout), stderr: joined(stderr) })
}

fn start(command: &mut Command, name: &str) -> Result<Child> {
    // A background group that read the terminal would be stopped by it: no stdin.
    command.stdin(Stdio::null()).process_group(0).spawn().with_context(|| format!("start {name}"))
}

fn end_of(child: &mut Child, name: &str) -> Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait().with_context(|| format!("wait for {name}"))? {
            check_stop()?;
            return Ok(status);
        }
        if signal::stop_requests() > 0 {
            stop_child(child, FOREGROUND_GRACE)?;
            return Err(Interrupted.into());
        }
        thread::sleep(POLL);
    }
}

/// Asks the child's group to terminate, and kills it after `grace` or when the user asks again.
pub(crate) fn stop_child(child: &mut Child, grace: Duration) -> Result<ExitStatus> {
    let group = Target::Group(child.id());
    let asked_before = signal::stop_requests();
    signal::send(group, Signal::Terminate);
    let deadline = Instant::now() + grace;
    while Instant::now() < deadline && signal::stop_requests() <= asked_before {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        thread::sleep(POLL);
    }
    if let Some(status) = child.try_wait()? {
        return Ok(status);
    }
    signal::send(group, Signal::Kill);
    Ok(child.wait()?)
}

/// The same for a process that an earlier run of this tool started. `false` if it still runs afterwards,
/// which happens only when it belongs to another user.
pub(crate) fn stop_identity(process: Identity, grace: Duration) -> bool {
    for (signal, patience) in [(Signal::Terminate, grace), (Signal::Kill, Duration::from_secs(5))] {
        if !process.is_alive() {
            return true;
        }
        signal::send(Target::Process(process.pid), signal);
        let deadline = Instant::now() + patience;
        while process.is_alive() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
    }
    !process.is_alive()
}

/// The last `count` lines of a text, for error messages.
pub(crate) fn tail_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn wait_until(child: &mut Child, deadline: Instant) -> Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(POLL.min(Duration::from_millis(5)));
    }
}

fn read_aside(pipe: Option<impl Read + Send + 'static>) -> Option<JoinHandle<String>> {
    let mut pipe = pipe?;
    Some(thread::spawn(move || {
        let mut kept = Vec::new();
        let mut buffer = [0_u8; 8192];
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            let room = CAPTURED_BYTES_MAX.saturating_sub(kept.len());
            kept.extend_from_slice(&buffer[..count.min(room)]);
        }
        String::from_utf8_lossy(&kept).into_owned()
    }))
}

fn joined(reader: Option<JoinHandle<String>>) -> String {
    reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
}

fn command_name(command: &Command) -> String {
    let name = |text: &std::ffi::OsStr| {
        let text = text.to_string_lossy().into_owned();
        text.rsplit('/').next().unwrap_or_default().to_owned()
    };
    // A command that steps down first is known by what it becomes.
    let stepped = command.get_args().skip_while(|argument| *argument != "--").nth(1);
    match stepped {
        Some(program) if name(command.get_program()) == "setpriv" => name(program),
        _ => name(command.get_program()),
    }
}

#[cfg(test)]
mod tests {
    use super::{capture, stop_child, succeed, tail_lines};
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::Command;
    use std::time::Duration;

    const GENEROUS: Duration = Duration::from_secs(60);

    #[test]
    fn failing_tool_is_quoted() {
        let error = succeed(Command::new("sh").args(["-c", "echo why >&2; exit 3"]), GENEROUS).unwrap_err();
        assert!(error.to_string().contains("sh failed") && error.to_string().contains("why"), "{error}");
    }

    #[test]
    fn output_larger_than_the_pipe_is_read_to_its_end() {
        let finished =
            capture(Command::new("sh").args(["-c", "head -c 3000000 /dev/zero | tr '\\0' x"]), GENEROUS);
        let finished = finished.expect("sh runs");
        assert!(finished.status.success());
        assert_eq!(finished.stdout.len(), super::CAPTURED_BYTES_MAX);
    }

    #[test]
    fn hung_tool_is_killed_and_named() {
        let error = capture(Command::new("sleep").arg("600"), Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("sleep did not finish"), "{error}");
    }

    #[test]
    fn deaf_child_is_killed_after_its_grace() {
        let mut child = Command::new("sh")
            .args(["-c", "trap '' TERM; while :; do sleep 1; done"])
            .process_group(0)
            .spawn()
            .expect("sh starts");
        // The trap may not be set yet when SIGTERM arrives: both ends are a death by signal.
        let status = stop_child(&mut child, Duration::from_millis(200)).expect("child can be waited for");
        assert!(status.signal().is_some());
    }

    #[test]
    fn tail_keeps_the_last_lines() {
        assert_eq!(tail_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail_lines("", 2), "");
    }
}
