//! `cargo xtask setup`: finds the programs of the services and of the tests, and installs what is missing where it
//! knows how. Also the first step of `run` and `test`. Starts no daemon and changes no configuration of the system.

pub(crate) mod find;
mod install;
mod package;
mod policy;
pub(crate) mod release;

use std::path::PathBuf;

use anyhow::{Result, bail};
use lexopt::prelude::*;

use crate::progress::note;
use find::{Missing, Tools};
use package::{Package, by_hand};

/// Whether a missing program may be installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Install {
    Allowed,
    Forbidden,
}

/// What the tests start.
#[derive(Debug)]
pub(crate) struct TestTools {
    pub(crate) tools: Tools,
    pub(crate) memcached: PathBuf,
    pub(crate) pgbouncer: PathBuf,
}

/// Runs the command.
pub(crate) fn run(mut arguments: lexopt::Parser) -> Result<i32> {
    let mut install = Install::Allowed;
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("no-install") => install = Install::Forbidden,
            other => return Err(other.unexpected().into()),
        }
    }
    let TestTools { tools, memcached, pgbouncer } = ensure_for_tests(install)?;
    println!("PostgreSQL {} in {}", tools.postgres_release, tools.postgres_bin.display());
    println!("Redis is {}", tools.redis_server.display());
    println!("memcached is {}", memcached.display());
    println!("PgBouncer is {}", pgbouncer.display());
    Ok(0)
}

/// The programs of the services, installed first if need be.
pub(crate) fn ensure(install: Install) -> Result<Tools> {
    ensured(install, find::tools)
}

/// The programs of the services, and those that only tests start; installed first if need be, all at once.
pub(crate) fn ensure_for_tests(install: Install) -> Result<TestTools> {
    // Which HypoPG is wanted is known only once there is a PostgreSQL.
    let tools = ensure(install)?;
    ensured(install, || {
        let (hypopg, openssl) = (find::hypopg(&tools), find::openssl());
        match (find::memcached(), find::pgbouncer(), hypopg, openssl) {
            (Ok(memcached), Ok(pgbouncer), Ok(()), Ok(())) => {
                Ok(TestTools { tools: tools.clone(), memcached, pgbouncer })
            }
            (memcached, pgbouncer, hypopg, openssl) => {
                let programs = memcached.err().into_iter().chain(pgbouncer.err());
                Err(programs.chain(hypopg.err()).chain(openssl.err()).collect::<Vec<Missing>>())
            }
        }
    })
}

/// What is sought, and sought again once what is missing has been installed.
fn ensured<T>(install: Install, seek: impl Fn() -> std::result::Result<T, Vec<Missing>>) -> Result<T> {
    policy::sweep();
    let missing = match seek() {
        Ok(found) => return Ok(found),
        Err(missing) => missing,
    };
    for one in &missing {
        note(&format!("  need  {}", one.reason));
    }
    let packages: Option<Vec<Package>> = missing.iter().map(|one: &Missing| one.package).collect();
    let Some(packages) = packages else {
        bail!("an environment variable names a program that does not serve")
    };
    let method = match install {
        Install::Allowed => install::method()?,
        Install::Forbidden => bail!("install with: {}", by_hand(&packages)),
    };
    match method {
        Some(privilege) => install::packages(privilege, &packages)?,
        None => bail!("this machine does not let us install; run: {}", by_hand(&packages)),
    }
    // Not `find::require`, which would send its reader here again.
    seek().or_else(|missing| bail!("installed, and still not found:\n{}", find::reasons(&missing)))
}
