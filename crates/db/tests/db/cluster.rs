//! A private primary and replica for tests that promote, stop or pause them: the shared ones serve all other tests.
//! It needs the server's programs (`PG_BIN`, `pg_config`, or Debian's folders) and, as root, the user `postgres`.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{count, plain};

#[derive(Debug)]
pub(crate) struct Cluster {
    folder: PathBuf,
    programs: PathBuf,
    primary_port: u16,
    replica_port: u16,
}

impl Cluster {
    /// Both servers, answering.
    pub(crate) fn start() -> Self {
        let folder = std::env::temp_dir().join(format!("paystrata-db-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&folder).expect("make a folder");
        let cluster =
            Self { folder, programs: programs(), primary_port: free_port(), replica_port: free_port() };
        if is_root() {
            run(Command::new("chown").arg("postgres:").arg(&cluster.folder));
        }
        run(cluster
            .program("initdb")
            .arg("-D")
            .arg(cluster.data("primary"))
            .args(["-U", "postgres", "-A", "trust", "-N"]));
        cluster.boot("primary");
        let mut copy = cluster.program("pg_basebackup");
        copy.args(["-h", "127.0.0.1", "-U", "postgres", "-R", "-X", "stream", "-c", "fast", "-p"]);
        run(copy.arg(cluster.primary_port.to_string()).arg("-D").arg(cluster.data("replica")));
        cluster.boot("replica");
        cluster
    }

    pub(crate) fn url(&self, name: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port(name))
    }

    /// Starts a server that is not running.
    pub(crate) fn boot(&self, name: &str) {
        let options = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off",
            self.port(name)
        );
        run(self
            .control(name)
            .arg("-l")
            .arg(self.folder.join(format!("{name}.log")))
            .args(["-w", "-o", &options, "start"]));
    }

    /// Starts a server that is not running so that it only replays; it follows nobody.
    pub(crate) fn boot_as_standby(&self, name: &str) {
        std::fs::write(self.data(name).join("standby.signal"), "").expect("write the sign");
        if is_root() {
            run(Command::new("chown").arg("postgres:").arg(self.data(name).join("standby.signal")));
        }
        self.boot(name);
    }

    /// Stops a server in order: it ends its sessions and sends the rest of its log to the replica.
    pub(crate) fn stop(&self, name: &str) {
        run(self.control(name).args(["-m", "fast", "stop"]));
    }

    /// Stops a server as a crash would.
    pub(crate) fn crash(&self, name: &str) {
        run(self.control(name).args(["-m", "immediate", "stop"]));
    }

    /// Kills a server's first process. The others end when they notice, and none of them writes anything down.
    pub(crate) fn kill(&self, name: &str) {
        let file = std::fs::read_to_string(self.data(name).join("postmaster.pid")).expect("it runs");
        let pid = file.lines().next().expect("its first line is the process");
        run(Command::new("kill").args(["-9", pid]));
    }

    /// Kills a process of the server, which makes the others recover as after a crash without a new start.
    pub(crate) async fn kill_one_process(&self, name: &str) {
        let admin = plain(&self.url(name)).await;
        let pid = "SELECT pid::bigint FROM pg_stat_activity WHERE backend_type = 'checkpointer'";
        run(Command::new("kill").args(["-9", &count(&admin, pid).await.to_string()]));
    }

    pub(crate) fn promote(&self, name: &str) {
        run(self.control(name).args(["-w", "promote"]));
    }

    /// Runs a text on one server.
    pub(crate) async fn run_on(&self, name: &str, sql: &str) {
        plain(&self.url(name)).await.client.batch_execute(sql).await.expect("run on the server");
    }

    fn port(&self, name: &str) -> u16 {
        if name == "primary" { self.primary_port } else { self.replica_port }
    }

    fn data(&self, name: &str) -> PathBuf {
        self.folder.join(name)
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
        command.current_dir(&self.folder);
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for name in ["replica", "primary"] {
            // One of them may be down already.
            let _stopped = self.control(name).args(["-m", "immediate", "stop"]).output();
        }
        let _removed = std::fs::remove_dir_all(&self.folder);
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
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}
