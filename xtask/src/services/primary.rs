//! The PostgreSQL primary: durable as in production (fsync and synchronous commit on), tuned for a
//! developer's machine. Never removes a data directory that may hold anything.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::cluster::{Cluster, Condition, SETTINGS_FILE};
use super::host::Host;
use super::state::{Instance, Role};
use crate::process;
use crate::progress::step;

const INITDB_LIMIT: Duration = Duration::from_secs(180);

/// Settings of primary and replica alike (a standby must allow as many connections as its primary).
pub(crate) const SHARED_SETTINGS: &str = "\
listen_addresses = '127.0.0.1'
# TCP only: a socket path may be at most 107 bytes long, and this directory can be anywhere.
unix_socket_directories = ''
max_connections = 200
shared_buffers = 256MB
fsync = on
synchronous_commit = on
full_page_writes = on
wal_level = replica
wal_buffers = 64MB
max_wal_size = 4GB
checkpoint_timeout = 15min
random_page_cost = 1.1
timezone = 'UTC'
log_timezone = 'UTC'
logging_collector = off
# A replica that stays away must not fill the disk through its slot: beyond this it is rebuilt.
max_slot_wal_keep_size = 4GB
";

/// Creates the primary if there is none, and starts or adopts its server.
pub(crate) fn up(host: &Host, port_wish: Option<u16>) -> Result<Instance> {
    let cluster = Cluster::new(host, Role::Primary);
    match cluster.condition() {
        Condition::Ready => {}
        Condition::Absent | Condition::HalfMade => {
            step("create the PostgreSQL primary", || create(&cluster))?;
        }
        Condition::Unknown => return Err(cluster.not_ours()),
    }
    step("start the PostgreSQL primary", || {
        let compression = wal_compression(&cluster)?;
        let settings =
            format!("{SHARED_SETTINGS}wal_compression = {compression}\ncluster_name = 'paystrata-primary'\n");
        cluster.start(port_wish, &settings)
    })
}

fn create(cluster: &Cluster<'_>) -> Result<()> {
    cluster.make(|data| {
        let initdb = |locale: &str| -> Result<String> {
            let mut command = cluster.tool("initdb");
            command.arg("-D").arg(data).args(["-U", "postgres", "-A", "trust", "-E", "UTF8"]);
            command.arg(format!("--locale={locale}"));
            process::succeed(&mut command, INITDB_LIMIT)
        };
        match initdb("C.UTF-8") {
            // Systems older than glibc 2.35 may lack C.UTF-8; C sorts the same.
            Err(error) if error.to_string().contains("locale") => drop(initdb("C")?),
            result => drop(result?),
        }
        include_settings(data)
    })
}

fn include_settings(data: &Path) -> Result<()> {
    let mut file =
        OpenOptions::new().append(true).open(data.join("postgresql.conf")).context("open postgresql.conf")?;
    writeln!(file, "\ninclude_if_exists = '{SETTINGS_FILE}'").context("extend postgresql.conf")
}

/// `lz4` where this build of PostgreSQL has it.
fn wal_compression(cluster: &Cluster<'_>) -> Result<&'static str> {
    let mut command: Command = cluster.tool("postgres");
    command.arg("-D").arg(cluster.data()).args(["-C", "wal_compression", "-c", "wal_compression=lz4"]);
    let asked = process::capture(&mut command, Duration::from_secs(20))?;
    Ok(if asked.status.success() { "lz4" } else { "on" })
}
