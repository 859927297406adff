//! Installs Debian packages with apt-get, as root or through passwordless sudo. What apt would install is looked at
//! first: a version that does not serve is refused, not installed. Starts no daemon (`policy` sees to that).

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use super::package::{Offer, Package, by_hand};
use super::policy::Policy;
use crate::process;
use crate::progress::note;
use crate::services::account::own_uid;

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

/// Installs the packages, refreshing the package lists first if they do not know one of them as it is needed.
pub(super) fn packages(privilege: Privilege, packages: &[Package]) -> Result<()> {
    let names: Vec<String> = packages.iter().map(|package| package.name()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    note(&format!("        installing {} with apt-get", names.join(" ")));
    if packages.iter().any(|package| package.offer() != Offer::Serves) {
        apt(privilege, &["update"])?;
        let complaints: Vec<String> =
            packages.iter().filter_map(|package| package.complaint(package.offer())).collect();
        if !complaints.is_empty() {
            bail!("{}\nrun: {}", complaints.join("\n"), by_hand(packages));
        }
    }
    let _policy = Policy::forbid_daemons(privilege)?;
    if apt_install(privilege, &names).is_ok() {
        return Ok(());
    }
    process::check_stop()?;
    note("        trying again with fresh package lists");
    apt(privilege, &["update"])?;
    apt_install(privilege, &names)
}

fn apt_install(privilege: Privilege, names: &[&str]) -> Result<()> {
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(names);
    apt(privilege, &arguments)
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

pub(super) fn privileged(privilege: Privilege, program: &str) -> Command {
    match privilege {
        Privilege::Root => Command::new(program),
        Privilege::Sudo => {
            let mut command = Command::new("sudo");
            command.args(["-n", program]);
            command
        }
    }
}
