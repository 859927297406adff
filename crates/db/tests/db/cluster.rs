//! A private primary with one replica or two, for tests that promote, stop or pause them: the shared ones serve all other tests.
//! It needs the server's programs (`PG_BIN`, `pg_config`, or Debian's folders) and, as root, the user `postgres`.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{LIMIT, count, plain, until_count};

#[derive(Debug)]
pub(crate) struct Cluster {
    folder: PathBuf,
    programs: PathBuf,
    /// Of each server, the primary first.
    ports: Vec<(&'static str, u16)>,
}

impl Cluster {
    /// `primary` and `replica`, answering.
    pub(crate) fn start() -> Self {
        Self::with_replicas(&["replica"])
    }

    /// As [`Cluster::start`], with a `second` replica of the same primary.
    pub(crate) fn start_with_second() -> Self {
        Self::with_replicas(&["replica", "second"])
    }

    fn with_replicas(replicas: &[&'static str]) -> Self {
        let folder = std::env::temp_dir().join(format!("paystrata-db-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&folder).expect("make a folder");
        let names = std::iter::once("primary").chain(replicas.iter().copied());
        let ports = names.map(|name| (name, free_port())).collect();
        let cluster = Self { folder, programs: programs(), ports };
        if is_root() {
            run(Command::new("chown").arg("postgres:").arg(&cluster.folder));
        }
        run(cluster
            .program("initdb")
            .arg("-D")
            .arg(cluster.data("primary"))
            .args(["-U", "postgres", "-A", "trust", "-N"]));
        cluster.boot("primary");
        for name in replicas {
            let mut copy = cluster.program("pg_basebackup");
            copy.args(["-h", "127.0.0.1", "-U", "postgres", "-R", "-X", "stream", "-c", "fast", "-p"]);
            run(copy.arg(cluster.port("primary").to_string()).arg("-D").arg(cluster.data(name)));
            cluster.boot(name);
        }
        cluster
    }

    /// The names of the servers that were started as replicas.
    pub(crate) fn replicas(&self) -> impl Iterator<Item = &'static str> {
        self.ports.iter().skip(1).map(|(name, _)| *name)
    }

    pub(crate) fn url(&self, name: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port(name))
    }

    /// Starts a server that is not running.
    pub(crate) fn boot(&self, name: &str) {
        // A replica that has lost its primary looks for one every five seconds otherwise.
        let options = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off \
             -c wal_retrieve_retry_interval=100ms",
            self.port(name)
        );
        run(self
            .control(name)
            .arg("-l")
            .arg(self.folder.join(format!("{name}.log")))
            .args(["-w", "-o", &options, "start"]));
    }

    /// Starts a server that is not running so that it only replays. One that was never a replica follows nobody.
    pub(crate) fn boot_as_standby(&self, name: &str) {
        std::fs::write(self.data(name).join("standby.signal"), "").expect("write the sign");
        if is_root() {
            run(Command::new("chown").arg("postgres:").arg(self.data(name).join("standby.signal")));
        }
        self.boot(name);
    }

    /// As [`Cluster::boot_as_standby`], following `leader`, of which it must not be ahead.
    pub(crate) fn boot_behind(&self, name: &str, leader: &str) {
        let line = format!("primary_conninfo = '{}'\n", self.way_to(leader));
        let settings =
            std::fs::OpenOptions::new().append(true).open(self.data(name).join("postgresql.auto.conf"));
        settings.and_then(|mut file| file.write_all(line.as_bytes())).expect("write whom it follows");
        self.boot_as_standby(name);
    }

    /// Has a running replica follow `leader`.
    pub(crate) async fn follow(&self, name: &str, leader: &str) {
        self.set(name, "primary_conninfo", &self.way_to(leader)).await;
    }

    /// Stops a server in order: it ends its sessions and sends the rest of its log to its replicas.
    pub(crate) fn stop(&self, name: &str) {
        run(self.control(name).args(["-m", "fast", "stop"]));
    }

    /// Stops a server as a crash would.
    pub(crate) fn crash(&self, name: &str) {
        run(self.control(name).args(["-m", "immediate", "stop"]));
    }

    /// Kills a server's first process. The others end when they notice, and none of them writes anything down.
    pub(crate) fn kill(&self, name: &str) {
        let pid = self.first_process(name).expect("it runs");
        run(Command::new("kill").args(["-9", pid.as_str()]));
        // Where nobody reaps the process, as in many containers, the next start would take it for a running server.
        std::fs::remove_file(self.data(name).join("postmaster.pid")).expect("remove its sign of life");
    }

    /// Has a server stand still: the system still takes connections for it, and nobody answers.
    pub(crate) fn halt(&self, name: &str) {
        assert!(self.signal(name, "-STOP"), "{name} does not run");
    }

    /// Has a server that stands still go on where it was.
    pub(crate) fn go_on(&self, name: &str) {
        assert!(self.signal(name, "-CONT"), "{name} does not run");
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

    /// Changes a setting of a running server; all its processes have been told when this returns.
    pub(crate) async fn set(&self, name: &str, setting: &str, value: &str) {
        self.run_on(name, &format!("ALTER SYSTEM SET {setting} = '{value}'")).await;
        self.run_on(name, "SELECT pg_reload_conf()").await;
        // Who connects has the settings of the first process, which has told the others by then.
        let is_set = format!("SELECT (current_setting('{setting}') = '{value}')::int::bigint");
        let told = Box::pin(async { while count(&plain(&self.url(name)).await, &is_set).await == 0 {} });
        tokio::time::timeout(LIMIT, told).await.expect("the setting arrives");
    }

    /// Has a replica receive and replay nothing, until `pg_wal_replay_resume()`.
    pub(crate) async fn pause_replay(&self, name: &str) {
        self.run_on(name, "SELECT pg_wal_replay_pause()").await;
        let is_paused = "SELECT (pg_get_wal_replay_pause_state() = 'paused')::int::bigint";
        until_count(&plain(&self.url(name)).await, is_paused, 1).await;
    }

    pub(crate) fn port(&self, name: &str) -> u16 {
        let known = self.ports.iter().find(|(known, _)| *known == name);
        known.expect("a server of this cluster").1
    }

    fn way_to(&self, leader: &str) -> String {
        format!("host=127.0.0.1 port={} user=postgres", self.port(leader))
    }

    /// The process that has started all others of a server, if it runs.
    fn first_process(&self, name: &str) -> Option<String> {
        let file = std::fs::read_to_string(self.data(name).join("postmaster.pid")).ok()?;
        file.lines().next().map(str::to_owned)
    }

    /// To the first process, so that one that is to stand still starts no others, and then to those. False if there are none.
    fn signal(&self, name: &str, signal: &str) -> bool {
        let Some(first) = self.first_process(name) else { return false };
        let sent = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        sent(Command::new("kill").args([signal, first.as_str()]))
            && sent(Command::new("pkill").args([signal, "-P", first.as_str()]))
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
        program(&self.programs.join(name), &self.folder)
    }
}

/// A program of the server's, run as its user.
pub(crate) fn program(path: &Path, folder: &Path) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--reset-env"]).arg(path);
        command
    } else {
        Command::new(path)
    };
    // The server refuses to work from a folder that its user cannot read.
    command.current_dir(folder);
    command
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (name, _) in self.ports.iter().rev() {
            // One that stands still would not hear that it is to end, and any of them may be down already.
            let _went_on = self.signal(name, "-CONT");
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

pub(crate) fn programs() -> PathBuf {
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
