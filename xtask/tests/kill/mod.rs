//! Ends processes as a crash would, for tests of what is left behind. Only processes whose number the test knows.

use std::fs;
use std::process::Command;

/// SIGKILL; the process is dead when this returns.
pub(crate) fn kill(pid: u64) {
    let killed = Command::new("kill").args(["-9", &pid.to_string()]).status();
    assert!(killed.expect("kill runs").success());
    while is_alive(pid) {
        std::thread::yield_now();
    }
}

/// Dead is gone, or a corpse (`Z`) where nobody reaps orphans, as in a container without an init.
pub(crate) fn is_alive(pid: u64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
