//! `cargo xtask setup`: finds the programs of the services, and installs what is missing where it knows
//! how. Also the first step of `run`. Starts no daemon and changes no configuration of the system.

pub(crate) mod find;
mod install;
mod package;
mod policy;

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

/// Runs the command.
pub(crate) fn run(mut arguments: lexopt::Parser) -> Result<i32> {
    let mut install = Install::Allowed;
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("no-install") => install = Install::Forbidden,
            other => return Err(other.unexpected().into()),
        }
    }
    let tools = ensure(install)?;
    println!("PostgreSQL {} in {}", tools.postgres_major, tools.postgres_bin.display());
    println!("Redis is {}", tools.redis_server.display());
    Ok(0)
}

/// The programs, installed first if need be.
pub(crate) fn ensure(install: Install) -> Result<Tools> {
    policy::sweep();
    let missing = match find::tools() {
        Ok(tools) => return Ok(tools),
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
    find::tools().or_else(|missing| bail!("installed, and still not found:\n{}", find::reasons(&missing)))
}
