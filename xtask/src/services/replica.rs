//! The streaming replica. It can always be made again from the primary, so whatever is wrong with it
//! (half made, promoted, of another primary, its slot gone) ends in a rebuild. Never touches the
//! primary's files.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::cluster::{Cluster, Condition, SETTINGS_FILE};
use super::host::Host;
use super::primary::SHARED_SETTINGS;
use super::state::{Instance, Role};
use crate::process;
use crate::progress::{note, step};

const SLOT: &str = "paystrata_replica";
const BASE_BACKUP_LIMIT: Duration = Duration::from_secs(1800);
/// A replica that neither streams nor replays anything for so long will not do so by itself.
const STALL_LIMIT: Duration = Duration::from_secs(20);
const SLOT_RELEASE_LIMIT: Duration = Duration::from_secs(10);

/// Creates or mends the replica of the primary at `primary_port`, and returns once it streams.
pub(crate) fn up(host: &Host, primary_port: u16, port_wish: Option<u16>) -> Result<Instance> {
    let replica = Replica { cluster: Cluster::new(host, Role::Replica), host, primary_port };
    match replica.cluster.condition() {
        Condition::Absent => replica.rebuild("create the streaming replica")?,
        Condition::Unknown => return Err(replica.cluster.not_ours()),
        Condition::HalfMade => {
            note("  note  the replica was left half made; it is built anew");
            replica.rebuild("rebuild the streaming replica")?;
        }
        Condition::Ready => {
            if let Some(why) = replica.unusable()? {
                note(&format!("  note  the replica {why}; it is built anew from the primary"));
                replica.rebuild("rebuild the streaming replica")?;
            }
        }
    }
    match replica.start_streaming(port_wish) {
        Ok(instance) => Ok(instance),
        Err(error) if error.downcast_ref::<process::Interrupted>().is_some() => Err(error),
        Err(error) => {
            note(&format!(
                "  note  the replica does not follow ({error:#}); it is built anew from the primary"
            ));
            replica.rebuild("rebuild the streaming replica")?;
            replica.start_streaming(port_wish).context(
                "the replica cannot be started; the primary and its data are untouched \
                 (`cargo xtask services up --only postgres,redis` goes without a replica)",
            )
        }
    }
}

struct Replica<'a> {
    cluster: Cluster<'a>,
    host: &'a Host,
    primary_port: u16,
}

impl Replica<'_> {
    /// Why the finished data directory cannot follow this primary, if it cannot.
    fn unusable(&self) -> Result<Option<String>> {
        if !self.cluster.data().join("standby.signal").is_file() {
            return Ok(Some("was promoted (what was written to it is dropped)".to_owned()));
        }
        let primary = Cluster::new(self.host, Role::Primary);
        let field = "Database system identifier";
        match self.cluster.control(field) {
            Err(_) => return Ok(Some("is damaged (it has no readable control file)".to_owned())),
            Ok(own) if own != primary.control(field)? => {
                return Ok(Some("belongs to another primary".to_owned()));
            }
            Ok(_) => {}
        }
        let slot = primary.query(
            self.primary_port,
            &format!(
                "select coalesce(wal_status, 'reserved') from pg_replication_slots where slot_name = '{SLOT}'"
            ),
        )?;
        match slot.as_str() {
            "" => Ok(Some("has lost its replication slot".to_owned())),
            "lost" | "unreserved" => Ok(Some("fell too far behind (its slot is invalid)".to_owned())),
            _ => Ok(None),
        }
    }

    fn rebuild(&self, name: &str) -> Result<()> {
        step(name, || {
            self.cluster.stop()?;
            self.cluster.wipe()?;
            self.renew_slot()?;
            self.cluster.make(|data| {
                let mut command = self.cluster.tool("pg_basebackup");
                command.args(["-h", "127.0.0.1", "-p", &self.primary_port.to_string(), "-U", "postgres"]);
                command.arg("-D").arg(data).args(["-X", "stream", "-c", "fast", "-S", SLOT, "--no-password"]);
                process::succeed(&mut command, BASE_BACKUP_LIMIT)?;
                self.cluster.write_owned(&data.join("standby.signal"), "")
            })
        })
    }

    /// A new slot that keeps the primary's log from the start of the base backup on.
    fn renew_slot(&self) -> Result<()> {
        let primary = Cluster::new(self.host, Role::Primary);
        let sql = format!(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '{SLOT}'"
        );
        let deadline = Instant::now() + SLOT_RELEASE_LIMIT;
        // The primary notices a moment later that the old replica's connection is gone.
        while let Err(error) = primary.query(self.primary_port, &sql) {
            if Instant::now() > deadline {
                return Err(error).context("drop the old replication slot");
            }
            thread::sleep(Duration::from_millis(100));
        }
        let create = format!("select pg_create_physical_replication_slot('{SLOT}', true)");
        primary.query(self.primary_port, &create).map(drop).context("create the replication slot")
    }

    fn start_streaming(&self, port_wish: Option<u16>) -> Result<Instance> {
        step("start the streaming replica", || {
            let settings = self.settings();
            let followed = fs::read_to_string(self.cluster.data().join(SETTINGS_FILE)).unwrap_or_default();
            if self.cluster.running().is_some() && !followed.ends_with(&settings) {
                // It follows a port that the primary has left: adopting it would adopt a stale reader.
                self.cluster.stop()?;
            }
            let instance = self.cluster.start(port_wish, &settings)?;
            self.wait_streaming(instance)?;
            Ok(instance)
        })
    }

    fn settings(&self) -> String {
        format!(
            "{SHARED_SETTINGS}hot_standby = on\nhot_standby_feedback = on\nwal_receiver_status_interval = 1s\n\
             primary_slot_name = '{SLOT}'\n\
             primary_conninfo = 'host=127.0.0.1 port={} user=postgres application_name={SLOT}'\n\
             cluster_name = 'paystrata-replica'\n",
            self.primary_port
        )
    }

    fn wait_streaming(&self, instance: Instance) -> Result<()> {
        let primary = Cluster::new(self.host, Role::Primary);
        let streaming = format!(
            "select r.state from pg_stat_replication r join pg_replication_slots s on s.active_pid = r.pid \
             where s.slot_name = '{SLOT}'"
        );
        let replayed = "select pg_is_in_recovery(), pg_last_wal_replay_lsn(), pg_last_wal_receive_lsn()";
        let mut seen = String::new();
        let mut moved_at = Instant::now();
        loop {
            process::check_stop()?;
            if primary.query(self.primary_port, &streaming)? == "streaming" {
                return Ok(());
            }
            let now = self.cluster.query(instance.port, replayed)?;
            if now.starts_with('f') {
                bail!("it is no longer a replica");
            }
            if now != seen {
                (seen, moved_at) = (now, Instant::now());
            }
            if moved_at.elapsed() > STALL_LIMIT {
                bail!("no replication after {} s:\n{}", STALL_LIMIT.as_secs(), self.cluster.log_tail());
            }
            thread::sleep(Duration::from_millis(30));
        }
    }
}
