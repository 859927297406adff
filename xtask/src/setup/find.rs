//! Finds the programs of the services on this machine: PostgreSQL (15 or later) and Redis (6 or later).
//! Looks and asks for versions only; installing is `setup::install`'s.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use super::package::Package;
use crate::process;

/// Row identity and `wal_compression = lz4` that we rely on arrived with 15.
pub(crate) const POSTGRES_MAJOR_MIN: u32 = 15;
pub(crate) const REDIS_MAJOR_MIN: u32 = 6;
/// Everything of PostgreSQL that `services` calls.
const POSTGRES_PROGRAMS: [&str; 6] =
    ["initdb", "pg_ctl", "postgres", "pg_basebackup", "pg_controldata", "psql"];
const VERSION_LIMIT: Duration = Duration::from_secs(20);

/// The service programs to use.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    pub(crate) postgres_bin: PathBuf,
    pub(crate) postgres_major: u32,
    pub(crate) redis_server: PathBuf,
}

/// One program that is missing.
#[derive(Debug)]
pub(crate) struct Missing {
    /// The package that brings it; none where an environment variable names a wrong one.
    pub(crate) package: Option<Package>,
    /// What was looked at.
    pub(crate) reason: String,
}

/// All tools, or everything that is missing.
pub(crate) fn tools() -> std::result::Result<Tools, Vec<Missing>> {
    match (postgres(), redis()) {
        (Ok((postgres_bin, postgres_major)), Ok(redis_server)) => {
            Ok(Tools { postgres_bin, postgres_major, redis_server })
        }
        (postgres, redis) => Err(postgres.err().into_iter().chain(redis.err()).collect()),
    }
}

/// All tools, or an error that says what is missing and how to get it.
pub(crate) fn require() -> Result<Tools> {
    tools()
        .or_else(|missing| bail!("{}\nrun `cargo xtask setup` to install what is missing", reasons(&missing)))
}

/// What was looked at, a line each.
pub(super) fn reasons(missing: &[Missing]) -> String {
    missing.iter().map(|one| format!("  {}", one.reason)).collect::<Vec<_>>().join("\n")
}

fn postgres() -> std::result::Result<(PathBuf, u32), Missing> {
    // A directory that was named is used or refused, never silently replaced by another.
    if let Some(named) = env::var_os("PG_BIN") {
        let directory = PathBuf::from(named);
        return match check_postgres(&directory) {
            Ok(major) => Ok((directory, major)),
            Err(why) => Err(misnamed("PG_BIN", &directory, &why)),
        };
    }
    let mut refusals = Vec::new();
    for directory in postgres_candidates() {
        match check_postgres(&directory) {
            Ok(major) => return Ok((directory, major)),
            Err(why) => refusals.push(format!("{}: {why}", directory.display())),
        }
    }
    let seen = if refusals.is_empty() { "none found".to_owned() } else { refusals.join("; ") };
    let reason = format!("PostgreSQL {POSTGRES_MAJOR_MIN} or later is needed ({seen}; PG_BIN names another)");
    Err(Missing { package: Some(Package::Postgres), reason })
}

fn misnamed(variable: &str, path: &Path, why: &str) -> Missing {
    Missing { package: None, reason: format!("{variable}={}: {why}; correct or unset it", path.display()) }
}

fn postgres_candidates() -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Ok(asked) = process::succeed(Command::new("pg_config").arg("--bindir"), VERSION_LIMIT) {
        found.push(PathBuf::from(asked));
    }
    // Debian, then the PGDG packages of Red Hat.
    found.extend(numbered_bins(Path::new("/usr/lib/postgresql"), ""));
    found.extend(numbered_bins(Path::new("/usr"), "pgsql-"));
    found.extend(path_directories().into_iter().filter(|directory| directory.join("initdb").is_file()));
    found.retain(|directory| directory.join("postgres").exists());
    found
}

/// `PARENT/PREFIX<number>/bin`, the highest number first.
fn numbered_bins(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    let mut numbered: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let number = name.to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((number, entry.path().join("bin")))
        })
        .collect();
    numbered.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    numbered.into_iter().map(|(_, directory)| directory).collect()
}

fn check_postgres(directory: &Path) -> std::result::Result<u32, String> {
    for program in POSTGRES_PROGRAMS {
        if !directory.join(program).is_file() {
            return Err(format!("has no {program}"));
        }
    }
    let said = version_of(&directory.join("postgres"))?;
    let major = major_after(&said, "(PostgreSQL) ").ok_or_else(|| format!("unknown version: {said}"))?;
    if major < POSTGRES_MAJOR_MIN {
        return Err(format!("is version {major}, older than {POSTGRES_MAJOR_MIN}"));
    }
    Ok(major)
}

fn redis() -> std::result::Result<PathBuf, Missing> {
    if let Some(named) = env::var_os("REDIS_SERVER") {
        let path = PathBuf::from(named);
        return match check_redis(&path) {
            Ok(()) => Ok(path),
            Err(why) => Err(misnamed("REDIS_SERVER", &path, &why)),
        };
    }
    let candidates = path_directories().into_iter().map(|directory| directory.join("redis-server"));
    let seen = match candidates.into_iter().find(|path| path.is_file()) {
        None => "no redis-server on PATH".to_owned(),
        Some(path) => match check_redis(&path) {
            Ok(()) => return Ok(path),
            Err(why) => format!("{}: {why}", path.display()),
        },
    };
    let reason = format!("Redis {REDIS_MAJOR_MIN} or later is needed ({seen}; REDIS_SERVER names another)");
    Err(Missing { package: Some(Package::Redis), reason })
}

fn check_redis(path: &Path) -> std::result::Result<(), String> {
    let said = version_of(path)?;
    match major_after(&said, "v=") {
        Some(major) if major >= REDIS_MAJOR_MIN => Ok(()),
        Some(major) => Err(format!("is version {major}, older than {REDIS_MAJOR_MIN}")),
        None => Err(format!("unknown version: {said}")),
    }
}

fn version_of(program: &Path) -> std::result::Result<String, String> {
    let said = process::succeed(Command::new(program).arg("--version"), VERSION_LIMIT);
    let said = said.map_err(|error| format!("{error:#}"))?;
    Ok(said.lines().next().unwrap_or_default().to_owned())
}

/// The number right behind `mark`, as in `postgres (PostgreSQL) 15.18` or `17beta1`.
fn major_after(said: &str, mark: &str) -> Option<u32> {
    let (_, rest) = said.split_once(mark)?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// The directories of PATH, and those of system programs that a plain user's PATH may lack.
fn path_directories() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin"));
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(system).filter(|directory| directory.is_absolute()).collect()
}

#[cfg(test)]
mod tests {
    use super::{check_postgres, major_after};
    use std::path::Path;

    #[test]
    fn versions_are_read_from_what_programs_say() {
        assert_eq!(
            major_after("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", "(PostgreSQL) "),
            Some(15)
        );
        assert_eq!(major_after("postgres (PostgreSQL) 18beta1", "(PostgreSQL) "), Some(18));
        assert_eq!(major_after("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0", "v="), Some(7));
        assert_eq!(major_after("something else", "v="), None);
    }

    #[test]
    fn directory_without_the_programs_is_refused_by_name() {
        let refusal = check_postgres(Path::new("/nonexistent")).unwrap_err();
        assert_eq!(refusal, "has no initdb");
    }
}
