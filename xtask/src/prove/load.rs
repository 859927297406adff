//! The load generator as a child of `prove`, and the file in which it writes down what was acknowledged.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::options::{Kill, Options};
use crate::process;
use crate::run::environment::DEVELOPMENT_KEY;

/// It only has its connections to close.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// The generator, and where it finds the service.
#[derive(Debug)]
pub(super) struct Generator {
    pub(super) program: PathBuf,
    pub(super) port: u16,
    /// The file of acknowledged payments.
    pub(super) ledger: PathBuf,
}

/// A running load; told to stop when dropped.
#[derive(Debug)]
pub(super) struct Load {
    child: Child,
}

impl Generator {
    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args([verb, "--base", &format!("http://127.0.0.1:{}", self.port), "--key", DEVELOPMENT_KEY]);
        command.arg("--ledger").arg(&self.ledger).stdin(Stdio::null());
        command
    }

    /// Begins to pay. In a process group of its own, so that Ctrl-C does not reach it.
    pub(super) fn start(&self, options: &Options) -> Result<Load> {
        let mut command = self.command("hot");
        for (flag, value) in [
            ("--seconds", options.seconds),
            ("--clients", options.clients.into()),
            ("--accounts", options.accounts.into()),
        ] {
            command.args([flag, &value.to_string()]);
        }
        if options.kill == Kill::Never {
            command.arg("--undisturbed");
        }
        Ok(Load { child: command.process_group(0).spawn().context("start the load generator")? })
    }

    /// Reads every acknowledged payment back, and looks for others.
    pub(super) fn check(&self) -> Result<ExitStatus> {
        process::foreground(self.command("check").arg("--alone"))
    }

    /// Payments acknowledged so far: it writes a line for each.
    pub(super) fn acknowledged(&self) -> usize {
        count_lines(&self.ledger)
    }
}

fn count_lines(file: &Path) -> usize {
    // Before the first account is open there is no file.
    let bytes = fs::read(file).unwrap_or_default();
    bytes.split(|byte| *byte == b'\n').count() - 1
}

impl Load {
    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("wait for the load generator")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            drop(process::stop_child(&mut self.child, STOP_GRACE));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::count_lines;

    #[test]
    fn only_whole_lines_count() {
        let file = std::env::temp_dir().join(format!("xtask-prove-lines-{}", std::process::id()));
        assert_eq!(count_lines(&file), 0);
        for (text, lines) in [("", 0), ("a", 0), ("a\n", 1), ("a\nb\nc", 2)] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(count_lines(&file), lines, "{text:?}");
        }
        std::fs::remove_file(&file).unwrap();
    }
}
