//! A private primary, with or without a replica, for tests that kill or pause servers: the shared ones serve all other
//! tests. Needs the server's programs (`PG_BIN`, or Debian's folders) and, as root, the user `postgres`.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::ground::sql;

/// Whether a replica follows the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replica {
    With,
    Without,
}

#[derive(Debug)]
pub(crate) struct Cluster {
    folder: tempfile::TempDir,
    programs: PathBuf,
    ports: [u16; 2],
    replica: Replica,
}

const PRIMARY: &str = "primary";
const REPLICA: &str = "replica";

impl Cluster {
    /// Servers that answer. The log writer is slow, so that only commits make anything durable.
    pub(crate) fn start(replica: Replica) -> Self {
        let cluster = Self::made(replica);
        cluster.boot(PRIMARY);
        if replica == Replica::With {
            let mut copy = cluster.program("pg_basebackup");
            copy.args(["-h", "127.0.0.1", "-U", "postgres", "-R", "-X", "stream", "-c", "fast", "-p"]);
            run(copy.arg(cluster.port(PRIMARY).to_string()).arg("-D").arg(cluster.data(REPLICA)));
            cluster.boot(REPLICA);
        }
        cluster
    }

    /// A primary that shows this certificate and takes nobody who does not speak TLS.
    pub(crate) fn start_over_tls(certificate: &Path, key: &Path) -> Self {
        let cluster = Self::made(Replica::Without);
        let data = cluster.data(PRIMARY);
        let write =
            |name: &str, text: &[u8]| std::fs::write(data.join(name), text).expect("write to the server");
        write("postgresql.auto.conf", b"ssl = on\n");
        write("pg_hba.conf", b"hostssl all all 127.0.0.1/32 trust\n");
        for (name, given) in [("server.crt", certificate), ("server.key", key)] {
            write(name, &std::fs::read(given).expect("read what was made"));
            // The server takes no key that others can read.
            run(Command::new("chmod").arg("600").arg(data.join(name)));
            if is_root() {
                run(Command::new("chown").arg("postgres:").arg(data.join(name)));
            }
        }
        cluster.boot(PRIMARY);
        cluster
    }

    /// A primary that does not run yet.
    fn made(replica: Replica) -> Self {
        let folder = tempfile::Builder::new().prefix("paystrata-faults-").tempdir().expect("make a folder");
        let cluster = Self { folder, programs: programs(), ports: free_ports(), replica };
        if is_root() {
            run(Command::new("chown").arg("postgres:").arg(cluster.folder.path()));
        }
        let data = cluster.data(PRIMARY);
        run(cluster.program("initdb").arg("-D").arg(data).args(["-U", "postgres", "-A", "trust", "-N"]));
        cluster
    }

    pub(crate) fn primary_url(&self) -> String {
        self.url(PRIMARY)
    }

    pub(crate) fn replica_url(&self) -> String {
        self.url(REPLICA)
    }

    fn url(&self, name: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port(name))
    }

    /// Ends the primary as a crash would: what was not flushed is lost.
    pub(crate) fn crash_primary(&self) {
        run(self.control(PRIMARY).args(["-m", "immediate", "stop"]));
    }

    /// Starts the primary again.
    pub(crate) fn boot_primary(&self) {
        self.boot(PRIMARY);
    }

    pub(crate) fn crash_replica(&self) {
        run(self.control(REPLICA).args(["-m", "immediate", "stop"]));
    }

    /// Starts the replica again.
    pub(crate) fn boot_replica(&self) {
        self.boot(REPLICA);
    }

    /// Makes the replica a primary on a timeline of its own. The old one goes on taking writes.
    pub(crate) fn promote_replica(&self) {
        run(self.control(REPLICA).args(["-w", "promote"]));
    }

    pub(crate) async fn pause_replay(&self) {
        sql(&self.replica_url(), "SELECT pg_wal_replay_pause()").await;
    }

    pub(crate) async fn resume_replay(&self) {
        sql(&self.replica_url(), "SELECT pg_wal_replay_resume()").await;
    }

    fn boot(&self, name: &str) {
        // What is not asked to be flushed is not: that the service asks for it must show. With a replica, what a test itself
        // prepares would reach it late.
        let commits = if self.replica == Replica::With { "on" } else { "off" };
        let options = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off \
             -c synchronous_commit={commits} -c wal_writer_delay=10s",
            self.port(name)
        );
        let log = self.folder.path().join(format!("{name}.log"));
        run(self.control(name).arg("-l").arg(log).args(["-w", "-o", &options, "start"]));
    }

    fn port(&self, name: &str) -> u16 {
        self.ports[usize::from(name == REPLICA)]
    }

    fn data(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn control(&self, name: &str) -> Command {
        let mut command = self.program("pg_ctl");
        command.arg("-D").arg(self.data(name)).arg("-s");
        command
    }

    fn program(&self, name: &str) -> Command {
        let path = self.programs.join(name);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--reset-env"]).arg(path);
            command
        } else {
            Command::new(path)
        };
        // The server refuses to work from a folder that its user cannot read.
        command.current_dir(self.folder.path());
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let names: &[&str] = if self.replica == Replica::With { &[REPLICA, PRIMARY] } else { &[PRIMARY] };
        for name in names {
            // One of them may be down already.
            let _stopped = self.control(name).args(["-m", "immediate", "stop"]).output();
        }
    }
}

pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n")
}

fn programs() -> PathBuf {
    let given = std::env::var_os("PG_BIN").map(PathBuf::from);
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let debian = debian.map(|version| version.path().join("bin"));
    let asked = Command::new("pg_config").arg("--bindir").output().ok();
    let asked = asked.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    let mut candidates = given.into_iter().chain(debian).chain(asked);
    let complete = |folder: &PathBuf| Path::new(folder).join("pg_ctl").exists();
    candidates.find(complete).expect("the server's programs are installed, or PG_BIN names their folder")
}

pub(crate) fn free_port() -> u16 {
    free_ports()[0]
}

/// Two different ones: both are bound before either is let go.
fn free_ports() -> [u16; 2] {
    let listen = || TcpListener::bind("127.0.0.1:0").expect("a free port");
    let listeners = [listen(), listen()];
    listeners.map(|listener| listener.local_addr().expect("a bound socket has an address").port())
}
