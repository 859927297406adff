//! Where the tests run: a schema of their own in the server that `cargo xtask test` provides, or, for those
//! that crash it, a private server. PostgreSQL refuses root, which steps down to the user `postgres`.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use paystrata_cache::postgres::{PostgresOptions, PostgresTier};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_postgres::{Client, Config, NoTls};

/// Long enough for anything that happens at all; no test measures time by it.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A plain connection, outside of what is tested.
pub(crate) struct Plain {
    pub(crate) client: Client,
    task: JoinHandle<()>,
}

impl Plain {
    pub(crate) async fn connect(config: &Config) -> Result<Self, tokio_postgres::Error> {
        let (client, connection) = config.connect(NoTls).await?;
        let task = tokio::spawn(async move {
            // Its end shows in the client's calls.
            let _ended = connection.await;
        });
        Ok(Self { client, task })
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A schema on a server.
pub(crate) struct Bed {
    pub(crate) config: Config,
    pub(crate) schema: String,
}

impl Bed {
    /// On the server that all tests share. The schema is left to the end of that server.
    pub(crate) async fn shared() -> Self {
        let variable = "PAYSTRATA_TEST_PRIMARY_URL";
        let url = std::env::var(variable)
            .unwrap_or_else(|_| panic!("{variable} is not set: run through `cargo xtask test`"));
        Self::on(url.parse().unwrap()).await
    }

    pub(crate) async fn on(config: Config) -> Self {
        let bed = Self { config, schema: format!("cache_{:016x}", rand::random::<u64>()) };
        let plain = bed.plain().await;
        PostgresTier::create_schema(&plain.client, &bed.schema).await.unwrap();
        bed
    }

    pub(crate) async fn plain(&self) -> Plain {
        Plain::connect(&self.config).await.unwrap()
    }

    /// Another tier on the schema, as another node would have it.
    pub(crate) fn tier(&self) -> PostgresTier {
        let options = PostgresOptions {
            schema: self.schema.clone(),
            command_timeout: LIMIT,
            connect_timeout: LIMIT,
            ..PostgresOptions::default()
        };
        PostgresTier::connect(self.config.clone(), options).unwrap()
    }

    /// A statement that says `{schema}`, run behind the tier's back.
    pub(crate) async fn run(&self, sql: &str) {
        let plain = self.plain().await;
        plain.client.batch_execute(&sql.replace("{schema}", &self.schema)).await.unwrap();
    }

    pub(crate) async fn count(&self, sql: &str) -> i64 {
        let plain = self.plain().await;
        plain.client.query_one(&sql.replace("{schema}", &self.schema), &[]).await.unwrap().get(0)
    }
}

/// Waits until the condition holds.
pub(crate) async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let held = timeout(LIMIT, async {
        while !holds().await {
            sleep(Duration::from_millis(5)).await;
        }
    });
    held.await.expect("it never came");
}

pub(crate) async fn until_up(share: &Arc<dyn paystrata_cache::tier::TierShare>) {
    until(async || share.is_up()).await;
}

/// A server of its own, stopped when it is dropped.
pub(crate) struct Private {
    bin: PathBuf,
    home: tempfile::TempDir,
    port: u16,
}

impl Private {
    pub(crate) async fn start() -> Self {
        let server = Self::home();
        let trusted = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"];
        succeed(server.command("initdb").arg("-D").arg(server.data()).args(trusted));
        server.run().await;
        server
    }

    /// A directory that the server may use, and a port.
    fn home() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Self { bin: postgres_bin(), home: tempfile::tempdir().unwrap(), port };
        succeed(Command::new("chmod").arg("755").arg(server.home.path()));
        if is_root() {
            succeed(Command::new("chown").arg("postgres:").arg(server.home.path()));
        }
        server
    }

    /// A replica that follows this server.
    pub(crate) async fn replica(&self) -> Self {
        let replica = Self::home();
        let mut copy = self.command("pg_basebackup");
        copy.args([
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-R",
            "-X",
            "stream",
            "-c",
            "fast",
            "--no-sync",
            "-p",
        ]);
        succeed(copy.arg(self.port.to_string()).arg("-D").arg(replica.data()));
        replica.run().await;
        replica
    }

    pub(crate) fn promote(&self) {
        succeed(self.command("pg_ctl").arg("-D").arg(self.data()).args(["-w", "-s", "promote"]));
    }

    /// Starts the server, after a crash too, and waits until it answers.
    pub(crate) async fn run(&self) {
        let settings = format!(
            "-c listen_addresses=127.0.0.1 -p {} -k {} -c shared_buffers=16MB",
            self.port,
            self.home.path().display()
        );
        let starting = async {
            // What a killed server leaves may take a moment to go.
            loop {
                let mut start = self.command("pg_ctl");
                start.arg("-D").arg(self.data()).args(["-w", "-s", "-l"]).arg(self.home.path().join("log"));
                if start.args(["-o", &settings, "start"]).stdout(Stdio::null()).status().unwrap().success() {
                    break;
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(LIMIT, starting).await.expect("the server starts");
    }

    /// As `kill -9` of the whole server does.
    pub(crate) fn kill(&self) {
        succeed(Command::new("kill").args(["-9", &self.postmaster()]));
    }

    /// As the crash of one of its processes does: the others are stopped, and it recovers.
    pub(crate) async fn crash_a_backend(&self, bed: &Bed) {
        let victim = bed.plain().await;
        let pid: i32 = victim.client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        succeed(Command::new("kill").args(["-9", &pid.to_string()]));
    }

    /// Has the processes that serve connections answer nothing more, or go on. Gives how many there are.
    pub(crate) async fn stop_backends(&self, bed: &Bed, is_stopped: bool) -> usize {
        let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        let pids = bed.plain().await.client.query(sql, &[]).await.unwrap();
        let signal = if is_stopped { "-STOP" } else { "-CONT" };
        for row in &pids {
            succeed(Command::new("kill").args([signal, &row.get::<_, i32>(0).to_string()]));
        }
        pids.len()
    }

    /// Stops the server in good order; `run` starts it again.
    pub(crate) fn stop(&self) {
        let mut stop = self.command("pg_ctl");
        succeed(stop.arg("-D").arg(self.data()).args(["-w", "-s", "-m", "fast", "stop"]));
    }

    pub(crate) fn config(&self) -> Config {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.port).user("postgres").dbname("postgres");
        config
    }

    fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    fn postmaster(&self) -> String {
        let file = fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        file.lines().next().unwrap().to_owned()
    }

    fn command(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command
                .args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--reset-env"])
                .arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir(self.home.path()).stdout(Stdio::null());
        command
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let mut stop = self.command("pg_ctl");
        // It may be dead already.
        let _status = stop.arg("-D").arg(self.data()).args(["-w", "-s", "-m", "immediate", "stop"]).status();
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// `PG_BIN`, or the highest version that Debian has installed.
fn postgres_bin() -> PathBuf {
    if let Some(given) = std::env::var_os("PG_BIN") {
        return given.into();
    }
    let versions = fs::read_dir("/usr/lib/postgresql").expect("these tests need PostgreSQL, or PG_BIN");
    let bins = versions.flatten().map(|version| version.path().join("bin")).filter(|bin| has_initdb(bin));
    bins.max().expect("these tests need PostgreSQL, or PG_BIN")
}

fn has_initdb(bin: &Path) -> bool {
    bin.join("initdb").is_file()
}

fn succeed(command: &mut Command) {
    let status = command.stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}
