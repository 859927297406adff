//! Where the workspace is, and how cargo is called in it. Used by every command that builds.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process;

/// Private, ignored by git: everything this tool makes at run time.
pub(crate) const RUNTIME_DIRECTORY: &str = ".paystrata";

const METADATA_LIMIT: Duration = Duration::from_secs(60);

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

/// Where cargo puts what it builds, by its own word: variables and configuration files of several places have a say in it.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let metadata = metadata()?;
    let directory =
        metadata["target_directory"].as_str().context("cargo metadata names a target directory")?;
    Ok(PathBuf::from(directory))
}

/// What cargo says of the workspace and its packages, without their dependencies.
pub(crate) fn metadata() -> Result<Value> {
    let told =
        process::capture(cargo()?.args(["metadata", "--format-version", "1", "--no-deps"]), METADATA_LIMIT)?;
    anyhow::ensure!(told.status.success(), "cargo metadata: {}", told.stderr.trim());
    serde_json::from_str(&told.stdout).context("read cargo metadata")
}

/// Cargo, called in the workspace root, and as by hand: without what the cargo that started this tool has told it about
/// its own package. Build scripts that read these names (ring's) would run again after each change between the two, and
/// with them a hundred packages.
pub(crate) fn cargo() -> Result<Command> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()?);
    // Built for this machine, which is what is started: programs for another one lie elsewhere.
    command.env_remove("CARGO_BUILD_TARGET");
    for (name, _) in env::vars_os().filter(|(name, _)| is_about_this_package(name)) {
        command.env_remove(name);
    }
    Ok(command)
}

fn is_about_this_package(variable: &OsStr) -> bool {
    let name = variable.to_string_lossy();
    name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_is_called_as_by_hand() {
        // Cargo sets both for this very test.
        assert!(env::var_os("CARGO_MANIFEST_DIR").is_some() && env::var_os("CARGO_PKG_NAME").is_some());
        let command = cargo().expect("inside the workspace");
        let removed: Vec<_> =
            command.get_envs().filter(|(_, value)| value.is_none()).map(|(name, _)| name).collect();
        assert!(removed.contains(&OsStr::new("CARGO_MANIFEST_DIR")), "{removed:?}");
        assert!(removed.contains(&OsStr::new("CARGO_PKG_NAME")), "{removed:?}");
        assert!(!removed.contains(&OsStr::new("CARGO_TARGET_DIR")), "{removed:?}");
    }
}
