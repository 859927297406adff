//! Progress on standard error: a step that takes over a second shows that it is alive, ticking on a
//! terminal and in plain lines elsewhere. Standard output stays free for results (`--json`, `export ..`).

use std::io::{IsTerminal, Write};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::process;

/// Runs `work` as a named step: says how long it took, and ticks while it takes over a second.
pub(crate) fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    judged(name, work, |_| true)
}

/// Runs a tool as a named step, which succeeds as the tool does. What the tool says comes after the step's line.
pub(crate) fn tool(name: &str, command: &mut Command) -> Result<ExitStatus> {
    let finished = judged(name, || process::aside(command), |finished| finished.status.success())?;
    // A closed output must not end a run that still has processes to stop.
    drop(std::io::stdout().write_all(finished.stdout.as_bytes()));
    drop(std::io::stderr().write_all(finished.stderr.as_bytes()));
    Ok(finished.status)
}

fn judged<T>(name: &str, work: impl FnOnce() -> Result<T>, is_good: impl FnOnce(&T) -> bool) -> Result<T> {
    let started = Instant::now();
    let over = AtomicBool::new(false);
    let result = thread::scope(|scope| {
        let ticker = scope.spawn(|| tick(name, started, &over));
        let result = work();
        over.store(true, Ordering::Release);
        ticker.thread().unpark();
        result
    });
    let verdict = if result.as_ref().is_ok_and(is_good) { "ok" } else { "failed" };
    clear_line();
    note(&format!("{verdict:>6}  {name} ({:.1} s)", started.elapsed().as_secs_f64()));
    result
}

/// One plain line on standard error.
pub(crate) fn note(line: &str) {
    // A closed standard error must not end a run that still has processes to stop.
    drop(writeln!(std::io::stderr(), "{line}"));
}

fn tick(name: &str, started: Instant, over: &AtomicBool) {
    let terminal = std::io::stderr().is_terminal();
    let mut next = Duration::from_secs(1);
    while !over.load(Ordering::Acquire) {
        let elapsed = started.elapsed();
        if elapsed < next {
            thread::park_timeout(next.saturating_sub(elapsed));
            continue;
        }
        if terminal {
            drop(write!(std::io::stderr(), "\r{:>5}s  {name} ..", elapsed.as_secs()));
            next += Duration::from_secs(1);
        } else {
            note(&format!("{:>5}s  {name} ..", elapsed.as_secs()));
            // Logs need no line a second: 1, 11, 21 s and so on.
            next += Duration::from_secs(10);
        }
    }
}

fn clear_line() {
    if std::io::stderr().is_terminal() {
        drop(write!(std::io::stderr(), "\r\x1b[2K"));
    }
}
