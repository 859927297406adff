//! Finds the programs of the services on this machine: PostgreSQL (15 or later) and Redis (6 or later), and for tests
//! memcached (1.6.12 or later), PgBouncer (1.18 or later), HypoPG (1.3 or later) and OpenSSL (1.1.1 or later). Looks and
//! asks for versions only; installing is `setup::install`'s.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use super::package::Package;
use super::release::Release;
use crate::process;

/// Row identity and `wal_compression = lz4` that we rely on arrived with 15.
pub(crate) const POSTGRES_MIN: Release = Release([15, 0, 0]);
pub(crate) const REDIS_MIN: Release = Release([6, 0, 0]);
/// The meta commands are whole since then.
pub(crate) const MEMCACHED_MIN: Release = Release([1, 6, 12]);
/// The oldest that Debian still serves; from 1.21 on a pooler takes named statements, which nobody here asks of it.
pub(crate) const PGBOUNCER_MIN: Release = Release([1, 18, 0]);
/// Hypothetical indexes on partitioned tables and their sizes are whole since then.
pub(crate) const HYPOPG_MIN: Release = Release([1, 3, 0]);
/// Serial numbers of certificates are drawn since then.
pub(crate) const OPENSSL_MIN: Release = Release([1, 1, 1]);
/// Everything of PostgreSQL that `services` calls.
const POSTGRES_PROGRAMS: [&str; 6] =
    ["initdb", "pg_ctl", "postgres", "pg_basebackup", "pg_controldata", "psql"];
const VERSION_LIMIT: Duration = Duration::from_secs(20);

/// The service programs to use.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    pub(crate) postgres_bin: PathBuf,
    pub(crate) postgres_release: Release,
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
        (Ok((postgres_bin, postgres_release)), Ok(redis_server)) => {
            Ok(Tools { postgres_bin, postgres_release, redis_server })
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

fn postgres() -> std::result::Result<(PathBuf, Release), Missing> {
    // A directory that was named is used or refused, never silently replaced by another.
    if let Some(named) = env::var_os("PG_BIN") {
        let directory = PathBuf::from(named);
        return match check_postgres(&directory) {
            Ok(release) => Ok((directory, release)),
            Err(why) => Err(misnamed("PG_BIN", &directory, &why)),
        };
    }
    let mut refusals = Vec::new();
    for directory in postgres_candidates() {
        match check_postgres(&directory) {
            Ok(release) => return Ok((directory, release)),
            Err(why) => refusals.push(format!("{}: {why}", directory.display())),
        }
    }
    let seen = if refusals.is_empty() { "none found".to_owned() } else { refusals.join("; ") };
    let reason = format!("PostgreSQL {POSTGRES_MIN} or later is needed ({seen}; PG_BIN names another)");
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

fn check_postgres(directory: &Path) -> std::result::Result<Release, String> {
    for program in POSTGRES_PROGRAMS {
        if !directory.join(program).is_file() {
            return Err(format!("has no {program}"));
        }
    }
    release_of(&directory.join("postgres"), "(PostgreSQL) ", POSTGRES_MIN)
}

fn redis() -> std::result::Result<PathBuf, Missing> {
    let found = program("redis-server", "REDIS_SERVER", |path| release_of(path, "v=", REDIS_MIN));
    found.map_err(|unfound| unfound.missing(Package::Redis, "Redis", REDIS_MIN))
}

/// What the tests of the cache start besides; no service needs it.
pub(crate) fn memcached() -> std::result::Result<PathBuf, Missing> {
    let found = program("memcached", "MEMCACHED", |path| release_of(path, "memcached ", MEMCACHED_MIN));
    found.map_err(|unfound| unfound.missing(Package::Memcached, "memcached", MEMCACHED_MIN))
}

/// What the tests of the data layer start besides.
pub(crate) fn pgbouncer() -> std::result::Result<PathBuf, Missing> {
    let found = program("pgbouncer", "PGBOUNCER", |path| release_of(path, "PgBouncer ", PGBOUNCER_MIN));
    found.map_err(|unfound| unfound.missing(Package::PgBouncer, "PgBouncer", PGBOUNCER_MIN))
}

/// The extension that tests of index advice load into the PostgreSQL of `tools`.
pub(crate) fn hypopg(tools: &Tools) -> std::result::Result<(), Missing> {
    let asked =
        process::succeed(Command::new(tools.postgres_bin.join("pg_config")).arg("--sharedir"), VERSION_LIMIT);
    // Debian keeps pg_config of a server in a package for developers; its folders are known.
    let major = tools.postgres_release.major();
    let shared =
        asked.map_or_else(|_| format!("/usr/share/postgresql/{major}"), |said| said.trim().to_owned());
    let control = Path::new(&shared).join("extension/hypopg.control");
    let text = fs::read_to_string(&control).unwrap_or_default();
    match Release::behind("default_version = '", &text) {
        Some(release) if release >= HYPOPG_MIN => Ok(()),
        _ => {
            let seen = format!("none in {}", control.display());
            let reason = format!("HypoPG {HYPOPG_MIN} or later is needed for PostgreSQL {major} ({seen})");
            Err(Missing { package: Some(Package::HypoPg(major)), reason })
        }
    }
}

/// What makes the certificates for the cache's tests of TLS, which call it by its name.
pub(crate) fn openssl() -> std::result::Result<(), Missing> {
    // `--version` is none of its words before release 3.
    let said = process::succeed(Command::new("openssl").arg("version"), VERSION_LIMIT).unwrap_or_default();
    match Release::behind("OpenSSL ", &said) {
        Some(release) if release >= OPENSSL_MIN => Ok(()),
        _ => {
            let seen = if said.is_empty() { "no openssl on PATH" } else { said.trim() };
            let reason = format!("OpenSSL {OPENSSL_MIN} or later is needed ({seen})");
            Err(Missing { package: Some(Package::OpenSsl), reason })
        }
    }
}

/// Why a program that stands alone was not found.
enum Unfound {
    Misnamed(Missing),
    Unseen { variable: &'static str, seen: String },
}

impl Unfound {
    fn missing(self, package: Package, title: &str, least: Release) -> Missing {
        match self {
            Unfound::Misnamed(missing) => missing,
            Unfound::Unseen { variable, seen } => {
                let reason = format!("{title} {least} or later is needed ({seen}; {variable} names another)");
                Missing { package: Some(package), reason }
            }
        }
    }
}

/// The program that the variable names, or else the first of this name on PATH; either must pass the check.
fn program(
    name: &str,
    variable: &'static str,
    check: impl Fn(&Path) -> std::result::Result<Release, String>,
) -> std::result::Result<PathBuf, Unfound> {
    if let Some(named) = env::var_os(variable) {
        let path = PathBuf::from(named);
        return match check(&path) {
            Ok(_) => Ok(path),
            Err(why) => Err(Unfound::Misnamed(misnamed(variable, &path, &why))),
        };
    }
    let candidates = path_directories().into_iter().map(|directory| directory.join(name));
    let seen = match candidates.into_iter().find(|path| path.is_file()) {
        None => format!("no {name} on PATH"),
        Some(path) => match check(&path) {
            Ok(_) => return Ok(path),
            Err(why) => format!("{}: {why}", path.display()),
        },
    };
    Err(Unfound::Unseen { variable, seen })
}

/// The release of a program that says it behind `mark`, if it is no older than `least`.
fn release_of(program: &Path, mark: &str, least: Release) -> std::result::Result<Release, String> {
    let said = version_of(program)?;
    match Release::behind(mark, &said) {
        Some(release) if release >= least => Ok(release),
        Some(release) => Err(format!("is version {release}, older than {least}")),
        None => Err(format!("unknown version: {said}")),
    }
}

fn version_of(program: &Path) -> std::result::Result<String, String> {
    let said = process::succeed(Command::new(program).arg("--version"), VERSION_LIMIT);
    let said = said.map_err(|error| format!("{error:#}"))?;
    Ok(said.lines().next().unwrap_or_default().to_owned())
}

/// The directories of PATH, and those of system programs that a plain user's PATH may lack.
fn path_directories() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin"));
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(system).filter(|directory| directory.is_absolute()).collect()
}

#[cfg(test)]
mod tests {
    use super::{Unfound, check_postgres, program, release_of};
    use crate::setup::release::Release;
    use std::path::Path;

    #[test]
    fn directory_without_the_programs_is_refused_by_name() {
        let refusal = check_postgres(Path::new("/nonexistent")).unwrap_err();
        assert_eq!(refusal, "has no initdb");
    }

    #[test]
    fn program_of_another_release_or_name_is_refused_with_what_was_seen() {
        let refusal = release_of(Path::new("/bin/sh"), "no such mark ", Release([1, 0, 0])).unwrap_err();
        assert!(refusal.contains("sh"), "{refusal}");
        let unfound = program("no-such-program", "PAYSTRATA_NO_SUCH_VARIABLE", |_| Err(String::new()));
        let Err(Unfound::Unseen { seen, .. }) = unfound else { panic!("it was found") };
        assert_eq!(seen, "no no-such-program on PATH");
    }
}
