//! The account that services run as. PostgreSQL refuses root, so root steps down to the `postgres` user;
//! everybody else runs services as themselves. Creates no accounts.

use std::env;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process;

const STEP_DOWN_USER: &str = "postgres";
const LOOKUP_LIMIT: Duration = Duration::from_secs(10);
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Who owns and runs the services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Account {
    Own,
    SteppedDown { uid: u32, gid: u32 },
}

impl Account {
    /// The account for whoever runs this tool.
    pub(crate) fn choose() -> Result<Account> {
        if own_uid()? != 0 {
            return Ok(Account::Own);
        }
        let id = |flag: &str| -> Result<u32> {
            let said = process::succeed(Command::new("id").args([flag, STEP_DOWN_USER]), LOOKUP_LIMIT)
                .with_context(|| {
                    format!(
                        "root needs the user `{STEP_DOWN_USER}` to run PostgreSQL as; \
                         make it with `useradd --system {STEP_DOWN_USER}`"
                    )
                })?;
            said.parse().with_context(|| format!("read the id of {STEP_DOWN_USER} from `{said}`"))
        };
        Ok(Account::SteppedDown { uid: id("-u")?, gid: id("-g")? })
    }

    /// A command that runs `program` as this account, in `directory` (which the account must be able to
    /// enter), with an environment that holds nothing of the caller's: no PGHOST, no odd locale.
    pub(crate) fn command(&self, program: &Path, directory: &Path) -> Command {
        let mut command = match self {
            Account::Own => Command::new(program),
            Account::SteppedDown { uid, gid } => {
                let mut command = Command::new("setpriv");
                command.args([
                    format!("--reuid={uid}"),
                    format!("--regid={gid}"),
                    "--init-groups".to_owned(),
                    "--".to_owned(),
                ]);
                command.arg(program);
                command
            }
        };
        command.current_dir(directory).env_clear();
        command.env("PATH", SYSTEM_PATH).env("HOME", directory).env("LC_ALL", "C.UTF-8");
        if let Some(libraries) = env::var_os("LD_LIBRARY_PATH") {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command
    }

    /// Makes the account the owner of a file or directory that we made.
    pub(crate) fn give(&self, path: &Path) -> Result<()> {
        match self {
            Account::Own => Ok(()),
            Account::SteppedDown { uid, gid } => chown(path, Some(*uid), Some(*gid))
                .with_context(|| format!("give {} to user {STEP_DOWN_USER}", path.display())),
        }
    }

    /// The outermost of the directories above (and including) `path` that this account cannot enter.
    pub(crate) fn first_closed_directory(&self, path: &Path) -> Result<Option<PathBuf>> {
        if *self == Account::Own || self.can_enter(path)? {
            return Ok(None);
        }
        let mut above: Vec<&Path> = path.ancestors().collect();
        above.reverse();
        for directory in above {
            if !self.can_enter(directory)? {
                return Ok(Some(directory.to_owned()));
            }
        }
        Ok(Some(path.to_owned()))
    }

    fn can_enter(&self, directory: &Path) -> Result<bool> {
        // Asking the kernel as that user also respects ACLs and read-only mounts, which mode bits do not.
        let mut command = self.command(Path::new("test"), Path::new("/"));
        Ok(process::capture(command.arg("-x").arg(directory), LOOKUP_LIMIT)?.status.success())
    }
}

/// The effective user of this process.
pub(crate) fn own_uid() -> Result<u32> {
    // /proc/self belongs to the effective user: no libc call is needed.
    Ok(fs::metadata("/proc/self").context("look at /proc/self (is /proc mounted?)")?.uid())
}
