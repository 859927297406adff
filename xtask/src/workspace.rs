//! Where the workspace is, and how cargo is called in it. Used by every command that builds.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result, bail};

use crate::process;

/// Private, ignored by git: everything this tool makes at run time.
pub(crate) const RUNTIME_DIRECTORY: &str = ".paystrata";

/// The root of the workspace: around the current directory, else the one this tool was built from.
pub(crate) fn root() -> Result<PathBuf> {
    let current = env::current_dir().context("read the current directory")?;
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR"));
    let is_root = |directory: &&Path| directory.join("xtask/Cargo.toml").is_file();
    let found = current.ancestors().find(is_root).or_else(|| built_from.ancestors().find(is_root));
    found.map(Path::to_owned).context("run this inside the Paystrata workspace")
}

/// The default directory of `services`.
pub(crate) fn services_directory() -> Result<PathBuf> {
    Ok(root()?.join(RUNTIME_DIRECTORY).join("services"))
}

/// Where cargo puts what it builds.
pub(crate) fn target_directory() -> Result<PathBuf> {
    Ok(match env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => std::path::absolute(directory)?,
        None => root()?.join("target"),
    })
}

/// Cargo, called in the workspace root.
pub(crate) fn cargo() -> Result<Command> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()?);
    Ok(command)
}

/// Runs cargo on our terminal; a failure is an error, because cargo has said why.
pub(crate) fn cargo_succeeds(arguments: &[&str]) -> Result<()> {
    let status = cargo_status(arguments)?;
    if !status.success() {
        bail!("`cargo {}` failed", arguments.join(" "));
    }
    Ok(())
}

/// Runs cargo on our terminal.
pub(crate) fn cargo_status(arguments: &[&str]) -> Result<ExitStatus> {
    process::foreground(cargo()?.args(arguments))
}
