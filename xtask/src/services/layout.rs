//! Where private services keep their files. The directory asked for holds state and lock; data lives in it
//! too, unless the services' account cannot enter it (a 0700 home), in which case it moves to /var/tmp.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::account::{Account, own_uid};
use super::state::{Role, STATE_FILE};
use crate::process;
use crate::progress::note;

/// Names the data directory when that is not the home itself.
const POINTER_FILE: &str = "data-at";
const LOCK_FILE: &str = "lock";
/// Longer than any healthy `up`: initdb, a base backup and a start take seconds.
const LOCK_WAIT: Duration = Duration::from_secs(180);

/// The directories of one set of services.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Holds `state.json`, `lock` and perhaps the pointer; owned by whoever runs this tool.
    pub(crate) home: PathBuf,
    /// Holds `primary`, `replica` and `redis`; equals `home` unless the account cannot enter that.
    pub(crate) data: PathBuf,
}

/// Held while instances are started or stopped; another run on the same directory waits for it.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Layout {
    /// Where the data of `directory` is, without creating anything.
    pub(crate) fn locate(directory: &Path) -> Result<Layout> {
        let home = std::path::absolute(directory).context("resolve the services directory")?;
        // The canonical form, because running instances are recognised by it.
        let home = fs::canonicalize(&home).unwrap_or(home);
        let data = match fs::read_to_string(home.join(POINTER_FILE)) {
            Ok(elsewhere) => PathBuf::from(elsewhere.trim_end()),
            Err(_) => home.clone(),
        };
        Ok(Layout { home, data })
    }

    /// Creates the directories and makes sure that `account` can enter the data directory.
    pub(crate) fn prepare(directory: &Path, account: &Account) -> Result<Layout> {
        make_open_directory(directory)?;
        let layout = Layout::locate(directory)?;
        if layout.data != layout.home && layout.data.is_dir() {
            // A move of an earlier run stands, even if the home has been opened since: data is there.
            return Ok(layout);
        }
        let Some(closed) = account.first_closed_directory(&layout.home)? else {
            return Ok(Layout { data: layout.home.clone(), home: layout.home });
        };
        let elsewhere = fallback(&layout.home);
        note(&format!(
            "  note  user postgres cannot enter {closed}; service data goes to {} instead\n        \
             (to keep it in place: `chmod o+x {closed}`, then remove {})",
            elsewhere.display(),
            layout.home.join(POINTER_FILE).display(),
            closed = closed.display(),
        ));
        make_open_directory(&elsewhere)?;
        // /var/tmp is everybody's: a directory that was put there for us to fall into is refused.
        if fs::symlink_metadata(&elsewhere)?.uid() != own_uid()? || elsewhere.is_symlink() {
            bail!("{} belongs to somebody else: remove it, or pass another --dir", elsewhere.display());
        }
        fs::write(layout.home.join(POINTER_FILE), format!("{}\n", elsewhere.display()))
            .context("note where the data is")?;
        Ok(Layout { home: layout.home, data: elsewhere })
    }

    /// Waits for other runs on this directory to finish starting or stopping.
    pub(crate) fn lock(&self, on_stop: OnStopRequest) -> Result<Lock> {
        let path = self.home.join(LOCK_FILE);
        let file = open_lock(&path)?;
        let deadline = Instant::now() + LOCK_WAIT;
        let mut told = Told::Nothing;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    if on_stop == OnStopRequest::GiveUp {
                        process::check_stop()?;
                    }
                    if told == Told::Nothing {
                        note(&format!("        waiting for another run that uses {}", self.home.display()));
                        told = Told::Waiting;
                    }
                    thread::sleep(process::POLL);
                }
                Err(TryLockError::WouldBlock) => bail!("{} is still held by another run", path.display()),
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("lock {}", path.display()));
                }
            }
        }
    }

    /// Removes what this tool keeps there, data that moved elsewhere included, and nothing else: the directory was named by
    /// somebody who may have more in it. The instances must be stopped.
    pub(crate) fn remove(&self) -> Result<()> {
        if self.data != self.home {
            remove_directory(&self.data)?;
        }
        for role in Role::ALL {
            remove_directory(&self.home.join(role.name()))?;
        }
        for file in [STATE_FILE, POINTER_FILE, LOCK_FILE] {
            remove_file(&self.home.join(file))?;
        }
        // What is somebody else's stays, and its directory with it.
        let _kept_unless_empty = fs::remove_dir(&self.home);
        Ok(())
    }
}

/// What a wait does when the user asks to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnStopRequest {
    GiveUp,
    /// Goes on, because it is the stopping itself that waits.
    KeepWaiting,
}

#[derive(PartialEq, Eq)]
enum Told {
    Nothing,
    Waiting,
}

/// Opens a lock file for `File::lock`; the kernel drops the lock with its holder, however that dies.
pub(crate) fn open_lock(path: &Path) -> Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(|error| {
        let mend = match error.kind() {
            ErrorKind::PermissionDenied => mend_of_ownership(path),
            _ => String::new(),
        };
        anyhow::Error::new(error).context(format!("open {}{mend}", path.display()))
    })
}

fn mend_of_ownership(path: &Path) -> String {
    let directory = path.parent().unwrap_or(path).display();
    format!(
        ": it was made by another user; `sudo chown -R \"$(id -u)\" {directory}` gives it to you, and --dir DIR chooses another"
    )
}

/// Removes a directory and what is in it; one that is not there is fine.
pub(crate) fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Removes a file; one that is not there is fine.
fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Creates the directory and its parents; what is created can be entered by everybody, whatever the umask.
fn make_open_directory(path: &Path) -> Result<()> {
    let path = std::path::absolute(path)?;
    let missing: Vec<&Path> = path.ancestors().take_while(|directory| !directory.exists()).collect();
    fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
    for directory in missing {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

fn fallback(home: &Path) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    home.hash(&mut hasher);
    PathBuf::from(format!("/var/tmp/paystrata-{:016x}", hasher.finish()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{LOCK_FILE, Layout, STATE_FILE};

    #[test]
    fn only_what_this_tool_made_is_removed() {
        let home = std::env::temp_dir().join(format!("xtask-layout-{}", std::process::id()));
        for directory in ["primary/data", "redis", "src"] {
            fs::create_dir_all(home.join(directory)).expect("temp directory can be written");
        }
        for file in [STATE_FILE, LOCK_FILE, "src/main.rs"] {
            fs::write(home.join(file), "").expect("temp directory can be written");
        }
        let layout = Layout { home: home.clone(), data: home.clone() };
        layout.remove().expect("it can be removed");
        let left: Vec<_> =
            fs::read_dir(&home).expect("it is kept").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left, ["src"]);
        assert!(home.join("src/main.rs").is_file());
        fs::remove_dir_all(home.join("src")).expect("it can be removed");
        layout.remove().expect("nothing is left to remove");
        assert!(!home.exists());
    }
}
