//! Services that live as long as one command (`test`, `bench`, `prove`): in `.paystrata/NAME-PID`, removed with
//! their data afterwards, also after a failure or Ctrl-C. What a killed run left is swept by the next.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::host::Host;
use super::layout::{Layout, open_lock, remove_directory};
use super::{Running, Telling, Wanted, down, up};
use crate::progress::{note, step};

/// Held by the owner for its whole life: a directory whose lock is free has lost its owner.
const OWNER_FILE: &str = "owner";

/// What becomes of the data when the servers have stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Data {
    Removed,
    Kept,
}

/// Running services that stop and vanish when this is dropped.
#[derive(Debug)]
pub(crate) struct Ephemeral {
    host: Host,
    pub(crate) running: Running,
    data: Data,
    _owner: File,
}

impl Ephemeral {
    /// Sweeps the leftovers of killed runs below `parent`, then starts everything in `parent/NAME-PID`.
    pub(crate) fn start(parent: &Path, name: &str) -> Result<Ephemeral> {
        sweep(parent, name);
        let directory = create(parent, name)?;
        let owner = open_lock(&directory.join(OWNER_FILE))?;
        owner.try_lock().with_context(|| format!("own {}", directory.display()))?;
        let host = Host::prepare(&directory)?;
        let mut services =
            Ephemeral { host, running: Running::default(), data: Data::Removed, _owner: owner };
        // A failure drops `services`, which removes what was made.
        services.running = up(&services.host, Wanted::ALL)?;
        Ok(services)
    }

    /// The directory, for files that shall vanish with the services.
    pub(crate) fn directory(&self) -> &Path {
        &self.host.layout.home
    }

    /// From now on the data outlives the servers, for somebody to look at, and no later command sweeps it. Gives where.
    pub(crate) fn keep_data(&mut self) -> Result<&Path> {
        // Without this file nobody counts as its owner, and nothing as abandoned.
        fs::remove_file(self.directory().join(OWNER_FILE)).context("give up the directory")?;
        self.data = Data::Kept;
        Ok(self.directory())
    }

    /// The PostgreSQL programs in use.
    pub(crate) fn postgres_bin(&self) -> &Path {
        &self.host.tools.postgres_bin
    }
}

impl Drop for Ephemeral {
    fn drop(&mut self) {
        end(&self.host, self.data);
    }
}

fn end(host: &Host, data: Data) {
    let ended = down(host, Telling::Nothing).and_then(|()| match data {
        // The directory is wholly this tool's.
        Data::Removed => host.layout.remove().and_then(|()| remove_directory(&host.layout.home)),
        Data::Kept => Ok(()),
    });
    if let Err(error) = ended {
        note(&format!("  note  {} stays behind: {error:#}", host.layout.home.display()));
    }
}

/// A directory that is new: what an earlier process with this number kept is nobody's to write into.
fn create(parent: &Path, name: &str) -> Result<PathBuf> {
    fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    let own = format!("{name}-{}", std::process::id());
    let mut directory = parent.join(&own);
    for next in 2.. {
        match fs::create_dir(&directory) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                directory = parent.join(format!("{own}-{next}"));
            }
            created => {
                created.with_context(|| format!("create {}", directory.display()))?;
                break;
            }
        }
    }
    Ok(directory)
}

fn sweep(parent: &Path, name: &str) {
    for directory in abandoned(parent, name) {
        let swept = step(&format!("remove what a killed run left in {}", directory.display()), || {
            let layout = Layout::locate(&directory)?;
            // Its data may never have been made; then there is nothing to stop.
            let host = Host { layout, ..Host::locate(&directory)? };
            end(&host, Data::Removed);
            Ok(())
        });
        if let Err(error) = swept {
            note(&format!("  note  {error:#}"));
        }
    }
}

fn abandoned(parent: &Path, name: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let numbers =
                path.file_name().and_then(|file| file.to_str()?.strip_prefix(name)?.strip_prefix('-'));
            numbers.is_some_and(|numbers| numbers.split('-').all(|number| number.parse::<u32>().is_ok()))
        })
        .filter(|path| {
            let owner = path.join(OWNER_FILE);
            owner.is_file() && open_lock(&owner).is_ok_and(|file| file.try_lock().is_ok())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{OWNER_FILE, abandoned, create, open_lock};
    use std::fs;

    #[test]
    fn only_directories_without_an_owner_are_swept() {
        let parent = std::env::temp_dir().join(format!("xtask-sweep-{}", std::process::id()));
        for name in ["test-1", "test-2", "test-x", "bench-3", "test-4"] {
            fs::create_dir_all(parent.join(name)).unwrap();
        }
        for name in ["test-1", "test-2", "test-x", "bench-3"] {
            fs::write(parent.join(name).join(OWNER_FILE), "").unwrap();
        }
        let held = open_lock(&parent.join("test-2").join(OWNER_FILE)).expect("the file is there");
        held.try_lock().expect("nobody else holds it");
        assert_eq!(abandoned(&parent, "test"), vec![parent.join("test-1")]);
        fs::remove_dir_all(&parent).unwrap();
    }

    #[test]
    fn what_an_earlier_process_of_the_same_number_kept_is_not_written_into() {
        let parent = std::env::temp_dir().join(format!("xtask-create-{}", std::process::id()));
        let kept = create(&parent, "prove").expect("temp directory can be written");
        fs::write(kept.join("acknowledged.txt"), "evidence").unwrap();
        let directories: Vec<_> =
            (0..2).map(|_| create(&parent, "prove").expect("another name is free")).collect();
        assert!(!directories.contains(&kept) && directories[0] != directories[1], "{directories:?}");
        for directory in &directories {
            fs::write(directory.join(OWNER_FILE), "").unwrap();
        }
        let mut swept = abandoned(&parent, "prove");
        swept.sort();
        assert_eq!(swept, directories);
        fs::remove_dir_all(&parent).unwrap();
    }
}
