//! A private PgBouncer in front of a primary, for the tests of this crate and of the service. It needs the program
//! (`PGBOUNCER`, or Debian's place) and, as root, the user `postgres`: it refuses to run as root.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cluster::{free_port, is_root, run};

/// A running one; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Bouncer {
    folder: PathBuf,
    port: u16,
    process: Child,
}

/// Long enough on a busy machine; no test measures time by it.
const START_MAX: Duration = Duration::from_secs(60);

/// Connections to the server.
pub(crate) const SERVERS: u32 = 10;

impl Bouncer {
    /// In front of the server of `url`, and answering. `settings` are lines of its configuration.
    pub(crate) fn start(url: &str, mode: &str, settings: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("paystrata-pgb-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&folder).expect("make a folder");
        let port = free_port();
        let server = url.rsplit_once('@').map_or(url, |(_, rest)| rest);
        let (host, server_port) =
            server.split_once('/').and_then(|(end, _)| end.rsplit_once(':')).expect("host:port");
        let file = folder.join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host={host} port={server_port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {users}\nstats_users = postgres\n\
             pool_mode = {mode}\ndefault_pool_size = {SERVERS}\nmax_client_conn = 500\n{settings}\n",
            users = folder.join("users.txt").display()
        );
        std::fs::write(&file, text).expect("write its configuration");
        std::fs::write(folder.join("users.txt"), "\"postgres\" \"\"\n").expect("write its users");
        if is_root() {
            run(Command::new("chown").args(["-R", "postgres:"]).arg(&folder));
        }
        let log = std::fs::File::create(folder.join("log")).expect("make its log");
        let process = command().arg(&file).stdout(Stdio::null()).stderr(log).current_dir(&folder).spawn();
        let mut bouncer = Self { folder, port, process: process.expect("start PgBouncer") };
        bouncer.wait();
        bouncer
    }

    /// `url` through it.
    pub(crate) fn through(&self, url: &str) -> String {
        let database = url.rsplit_once('/').map_or("postgres", |(_, database)| database);
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    fn wait(&mut self) {
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.process.try_wait().expect("ask for its end");
            let log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(ended.is_none() && started.elapsed() < START_MAX, "PgBouncer does not start: {}", log());
            std::thread::yield_now();
        }
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _killed = self.process.kill();
        let _reaped = self.process.wait();
        let _removed = std::fs::remove_dir_all(&self.folder);
    }
}

/// `setpriv` becomes the program, so that the child is PgBouncer itself.
fn command() -> Command {
    let places = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/usr/local/bin/pgbouncer"];
    let given = std::env::var_os("PGBOUNCER").map(PathBuf::from);
    let program = given.or_else(|| places.iter().map(PathBuf::from).find(|path| path.is_file()));
    let program = program.expect("PgBouncer is installed (`cargo xtask setup`), or PGBOUNCER names it");
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--reset-env"]).arg(program);
    command
}
