//! Installs Debian packages with apt-get, as root or through passwordless sudo. The services' packages
//! would start daemons on the default ports: a temporary policy-rc.d forbids it and is taken away again.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::progress::note;
use crate::services::account::own_uid;

const POLICY_FILE: &str = "/usr/sbin/policy-rc.d";
/// Recognises our own file when a killed run left it behind.
const POLICY_MARK: &str = "# made by cargo xtask setup";
const SHORT_LIMIT: Duration = Duration::from_secs(30);

/// How commands that need root are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Privilege {
    Root,
    Sudo,
}

/// How to install on this machine; `None` without apt-get or without the right to use it.
pub(super) fn method() -> Result<Option<Privilege>> {
    if !Path::new("/usr/bin/apt-get").is_file() {
        return Ok(None);
    }
    if own_uid()? == 0 {
        return Ok(Some(Privilege::Root));
    }
    let sudo = process::capture(Command::new("sudo").args(["-n", "true"]), SHORT_LIMIT);
    Ok(sudo.is_ok_and(|tried| tried.status.success()).then_some(Privilege::Sudo))
}

/// The command for a person to type.
pub(super) fn by_hand(packages: &[&str]) -> String {
    let redis_elsewhere =
        |package: &&str| if *package == "redis-server" { "redis" } else { "postgresql-server" };
    if Path::new("/usr/bin/apt-get").is_file() {
        return format!("sudo apt-get update && sudo apt-get install -y {}", packages.join(" "));
    }
    let elsewhere: Vec<&str> = packages.iter().map(redis_elsewhere).collect();
    format!("your package manager, for example: sudo dnf install {}", elsewhere.join(" "))
}

/// Installs the packages, refreshing the package lists first if they do not know one of them.
pub(super) fn packages(privilege: Privilege, packages: &[&str]) -> Result<()> {
    note(&format!("        installing {} with apt-get", packages.join(" ")));
    let _policy = Policy::forbid_daemons(privilege)?;
    if !packages.iter().all(|package| has_candidate(package)) {
        apt(privilege, &["update"])?;
    }
    if apt_install(privilege, packages).is_ok() {
        return Ok(());
    }
    process::check_stop()?;
    note("        trying again with fresh package lists");
    apt(privilege, &["update"])?;
    apt_install(privilege, packages)
}

fn apt_install(privilege: Privilege, packages: &[&str]) -> Result<()> {
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(packages);
    apt(privilege, &arguments)
}

fn has_candidate(package: &str) -> bool {
    process::succeed(Command::new("apt-cache").args(["policy", package]), SHORT_LIMIT)
        .is_ok_and(|said| said.contains("Candidate:") && !said.contains("Candidate: (none)"))
}

fn apt(privilege: Privilege, arguments: &[&str]) -> Result<()> {
    let mut command = privileged(privilege, "env");
    // Waits for another apt instead of failing on its lock, within reason.
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", "DPkg::Lock::Timeout=120"]);
    let status = process::foreground(command.args(arguments))?;
    if !status.success() {
        bail!("apt-get {} failed ({status})", arguments.join(" "));
    }
    Ok(())
}

fn privileged(privilege: Privilege, program: &str) -> Command {
    match privilege {
        Privilege::Root => Command::new(program),
        Privilege::Sudo => {
            let mut command = Command::new("sudo");
            command.args(["-n", program]);
            command
        }
    }
}

/// Forbids packages to start daemons until dropped. A policy that the machine has already is left alone.
#[derive(Debug)]
struct Policy {
    made_by: Option<Privilege>,
}

impl Policy {
    fn forbid_daemons(privilege: Privilege) -> Result<Policy> {
        let present = Path::new(POLICY_FILE).exists();
        let left_behind = fs::read_to_string(POLICY_FILE).is_ok_and(|text| text.contains(POLICY_MARK));
        if present && !left_behind {
            return Ok(Policy { made_by: None });
        }
        let script = format!(
            "printf '#!/bin/sh\\n{POLICY_MARK}\\nexit 101\\n' > {POLICY_FILE} && chmod 755 {POLICY_FILE}"
        );
        process::succeed(privileged(privilege, "sh").args(["-c", &script]), SHORT_LIMIT)
            .context("forbid new packages to start daemons")?;
        Ok(Policy { made_by: Some(privilege) })
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        let Some(privilege) = self.made_by else { return };
        if let Err(error) =
            process::succeed(privileged(privilege, "rm").args(["-f", POLICY_FILE]), SHORT_LIMIT)
        {
            note(&format!("  note  remove {POLICY_FILE} by hand: {error:#}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::by_hand;

    #[test]
    fn command_by_hand_names_every_package() {
        let command = by_hand(&["postgresql", "redis-server"]);
        assert!(command.contains("postgresql") && command.contains("redis"), "{command}");
    }
}
