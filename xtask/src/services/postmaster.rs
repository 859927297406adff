//! The server process of a PostgreSQL data directory, as its `postmaster.pid` and `/proc` tell it: whether
//! it runs, on which port, and what a killed one left behind. Starts nothing.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process;
use crate::process::identity::{Identity, command_line};
use crate::process::signal::{self, Signal, Target};

const PID_FILE: &str = "postmaster.pid";
/// Above the kernel's largest process id (4194304), so never in use.
const NEVER_A_PID: u32 = 4_194_999;

/// SIGKILL needs no more than a moment, except for a process that waits for a disk.
const END_LIMIT: Duration = Duration::from_secs(10);

/// A server process found on a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Postmaster {
    pub(super) process: Identity,
    /// 0 for the instant between its start and its listening.
    pub(super) port: u16,
}

/// The server that runs on the data directory, whoever started it.
pub(super) fn find(data: &Path) -> Option<Postmaster> {
    let noted = read(data)?;
    let process = Identity::of(noted.pid)?;
    serves(noted.pid, data).then_some(Postmaster { process, port: noted.port })
}

/// PostgreSQL refuses to start while the number in its pid file is in use, even if by another program or by
/// the corpse of a killed server that nobody has reaped. Such a number is replaced by one that is never in
/// use. The file itself must stay: it holds the shared memory key by which PostgreSQL finds out whether
/// processes of the killed server still write to the directory.
pub(super) fn retire_stale_pid(data: &Path) -> Result<()> {
    let Some(noted) = read(data) else { return Ok(()) };
    let in_use = Path::new(&format!("/proc/{}", noted.pid)).exists();
    if !in_use || find(data).is_some() {
        return Ok(());
    }
    let path = data.join(PID_FILE);
    let text = fs::read_to_string(&path).context("read postmaster.pid")?;
    let rest = text.split_once('\n').map_or("", |(_, rest)| rest);
    // Written in place: the file keeps its owner.
    fs::write(&path, format!("{NEVER_A_PID}\n{rest}"))
        .with_context(|| format!("retire the stale postmaster.pid (pid {})", noted.pid))
}

/// Programs that we start in directories of ours. Anything else there (a shell, an editor) is a person's.
const OURS: [&str; 4] = ["postgres", "initdb", "pg_basebackup", "redis-server"];

/// Our programs at work on a directory: servers make theirs the current one, tools name it as an argument.
pub(super) fn processes_on(directory: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            OURS.contains(&name.trim_end()) && Identity::of(*pid).is_some()
        })
        .filter(|pid| {
            fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|current| current == directory)
                || command_line(*pid).iter().any(|argument| Path::new(argument) == directory)
        })
        .collect()
}

/// Ends what a killed run left at work on a directory of ours, so that it does not write below our hands.
/// Only for one that has no server: half made, or its postmaster dead. Bounded; what does not die in time is
/// left to the caller's next error.
pub(super) fn end_processes_on(directory: &Path) {
    let deadline = Instant::now() + END_LIMIT;
    loop {
        let left = processes_on(directory);
        if left.is_empty() || Instant::now() > deadline {
            return;
        }
        for pid in left {
            signal::send(Target::Process(pid), Signal::Kill);
        }
        thread::sleep(process::POLL);
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Noted {
    pid: u32,
    port: u16,
}

fn read(data: &Path) -> Option<Noted> {
    let text = fs::read_to_string(data.join(PID_FILE)).ok()?;
    let mut lines = text.lines().map(str::trim);
    let pid = lines.next()?.parse().ok()?;
    let port = lines.nth(2).and_then(|line| line.parse().ok()).unwrap_or(0);
    Some(Noted { pid, port })
}

/// Whether the process is a PostgreSQL server on this data directory. Its command line is readable even
/// where the links below `/proc/PID` are not (root without `CAP_SYS_PTRACE`, as in most containers).
fn serves(pid: u32, data: &Path) -> bool {
    let arguments = command_line(pid);
    let is_postgres = arguments.first().is_some_and(|program| program.ends_with("postgres"));
    is_postgres && arguments.iter().any(|argument| Path::new(argument) == data)
}

#[cfg(test)]
mod tests {
    use super::{NEVER_A_PID, Noted, end_processes_on, find, processes_on, read, retire_stale_pid};
    use std::fs;
    use std::os::unix::process::CommandExt;
    use std::path::PathBuf;
    use std::process::Command;

    struct Scratch(PathBuf);

    impl Scratch {
        fn with_pid_file(name: &str, text: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("xtask-pid-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("temp directory can be written");
            fs::write(path.join("postmaster.pid"), text).expect("temp directory can be written");
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn number_of_another_program_is_retired_and_the_rest_is_kept() {
        let scratch = Scratch::with_pid_file("foreign", &format!("{}\n/d\n1\n5433\n\n", std::process::id()));
        assert_eq!(find(&scratch.0), None, "this test is no PostgreSQL");
        retire_stale_pid(&scratch.0).expect("the file can be written");
        assert_eq!(read(&scratch.0), Some(Noted { pid: NEVER_A_PID, port: 5433 }));
        let kept = fs::read_to_string(scratch.0.join("postmaster.pid")).unwrap();
        assert!(kept.ends_with("\n/d\n1\n5433\n\n"), "{kept}");
    }

    #[test]
    fn number_that_is_free_is_left_to_postgres_itself() {
        let text = format!("{}\n/d\n1\n5433\n", NEVER_A_PID - 1);
        let scratch = Scratch::with_pid_file("free", &text);
        retire_stale_pid(&scratch.0).expect("there is nothing to do");
        assert_eq!(fs::read_to_string(scratch.0.join("postmaster.pid")).unwrap(), text);
    }

    #[test]
    fn cut_or_garbled_pid_files_name_nobody() {
        for text in ["", "garbage\n", "-7\n"] {
            let scratch = Scratch::with_pid_file("garbled", text);
            assert_eq!(read(&scratch.0), None, "{text:?}");
            assert_eq!(find(&scratch.0), None);
        }
        let starting = Scratch::with_pid_file("starting", "77\n/d\n1\n");
        assert_eq!(read(&starting.0), Some(Noted { pid: 77, port: 0 }));
    }

    #[test]
    fn only_our_programs_are_found_in_a_directory_and_ended() {
        let scratch = Scratch::with_pid_file("cwd", "");
        let (person, initdb) = (PathBuf::from("/bin/sleep"), scratch.0.join("initdb"));
        std::os::unix::fs::symlink(&person, &initdb).unwrap();
        let start = |program: &PathBuf| {
            let mut command = Command::new(program);
            command.arg0("sleep").arg("600").current_dir(&scratch.0).spawn().expect("sleep is installed")
        };
        let (mut person, mut ours) = (start(&person), start(&initdb));
        assert_eq!(processes_on(&scratch.0), vec![ours.id()]);
        end_processes_on(&scratch.0);
        assert!(ours.wait().unwrap().code().is_none(), "it died by a signal");
        assert!(person.try_wait().unwrap().is_none(), "it was left alone");
        person.kill().unwrap();
        person.wait().unwrap();
    }
}
