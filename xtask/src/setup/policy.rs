//! Keeps the packages that setup installs from starting daemons on the default ports: Debian asks
//! `/usr/sbin/policy-rc.d`, which stands there for as long as the installation runs. The file forbids nothing once its
//! maker is gone, however that ended, and the next call of this tool removes it. One that is not ours is left alone.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::install::{Privilege, method, privileged};
use crate::process;
use crate::process::identity::Identity;
use crate::progress::note;

const POLICY_FILE: &str = "/usr/sbin/policy-rc.d";
/// Recognises our own file when a killed run left it behind.
const MARK: &str = "# made by cargo xtask setup";
const SHORT_LIMIT: Duration = Duration::from_secs(30);

/// Forbids packages to start daemons until dropped. A policy that the machine has already is left alone.
#[derive(Debug)]
pub(super) struct Policy {
    made_by: Option<Privilege>,
}

impl Policy {
    pub(super) fn forbid_daemons(privilege: Privilege) -> Result<Policy> {
        if Path::new(POLICY_FILE).exists() && !is_left_behind() {
            return Ok(Policy { made_by: None });
        }
        let own = Identity::of(std::process::id()).context("find this process in /proc")?;
        let write = format!("printf %s \"$1\" > {POLICY_FILE} && chmod 755 {POLICY_FILE}");
        process::succeed(privileged(privilege, "sh").args(["-c", &write, "sh", &script(own)]), SHORT_LIMIT)
            .context("forbid new packages to start daemons")?;
        Ok(Policy { made_by: Some(privilege) })
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if let Some(privilege) = self.made_by {
            remove(privilege);
        }
    }
}

/// Removes the file that a killed run left. It forbids nothing any more, but nobody else would remove it.
pub(super) fn sweep() {
    if !is_left_behind() {
        return;
    }
    match method() {
        Ok(Some(privilege)) => remove(privilege),
        _ => note(&format!("  note  a killed setup left {POLICY_FILE}: root can remove it")),
    }
}

fn remove(privilege: Privilege) {
    if let Err(error) = process::succeed(privileged(privilege, "rm").args(["-f", POLICY_FILE]), SHORT_LIMIT) {
        note(&format!("  note  remove {POLICY_FILE} by hand: {error:#}"));
    }
}

fn is_left_behind() -> bool {
    fs::read_to_string(POLICY_FILE).is_ok_and(|text| is_abandoned(&text))
}

/// Whether the text is ours, and its maker gone.
fn is_abandoned(text: &str) -> bool {
    text.contains(MARK) && !maker(text).is_some_and(Identity::is_alive)
}

fn maker(text: &str) -> Option<Identity> {
    let line = text.lines().find_map(|line| line.strip_prefix(MARK))?;
    let mut numbers = line.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
    let pid = u32::try_from(numbers.next()?).ok()?;
    Some(Identity { pid, start_ticks: numbers.next()? })
}

/// The policy, in the words of Debian's `invoke-rc.d`: 101 forbids, 0 allows. A process number alone is used again, so
/// the time of the start (field 22 of the line, the 20th behind the name) is compared too.
fn script(maker: Identity) -> String {
    let Identity { pid, start_ticks } = maker;
    format!(
        "#!/bin/sh\n\
         {MARK} as process {pid} started at {start_ticks}\n\
         # Packages start no daemon while that process runs. Afterwards this forbids nothing and can be removed.\n\
         stat=$(cat /proc/{pid}/stat 2>/dev/null) || exit 0\n\
         set -- ${{stat##*) }}\n\
         [ \"${{20}}\" = {start_ticks} ] && exit 101\n\
         exit 0\n"
    )
}

#[cfg(test)]
mod tests {
    use super::{Identity, MARK, is_abandoned, script};
    use std::process::Command;

    fn verdict(script: &str) -> Option<i32> {
        Command::new("sh").args(["-c", script]).status().expect("sh runs").code()
    }

    #[test]
    fn policy_forbids_daemons_only_while_its_maker_lives() {
        let own = Identity::of(std::process::id()).expect("this process runs");
        assert_eq!(verdict(&script(own)), Some(101));
        assert!(!is_abandoned(&script(own)));

        let earlier = Identity { start_ticks: own.start_ticks + 1, ..own };
        assert_eq!(verdict(&script(earlier)), Some(0));
        assert!(is_abandoned(&script(earlier)));

        let mut child = Command::new("sleep").arg("600").spawn().expect("sleep starts");
        let gone = Identity::of(child.id()).expect("it runs");
        child.kill().expect("it can be killed");
        child.wait().expect("it has ended");
        assert_eq!(verdict(&script(gone)), Some(0));
        assert!(is_abandoned(&script(gone)));
    }

    #[test]
    fn policy_of_the_machine_is_not_ours() {
        assert!(!is_abandoned("#!/bin/sh\nexit 101\n"));
        // Without its maker's number it cannot be alive.
        assert!(is_abandoned(&format!("#!/bin/sh\n{MARK}\nexit 101\n")));
    }
}
