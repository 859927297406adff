//! A primary and a standby of one run's own, as a failover leaves neither as it was. Every commit is in both when it is
//! acknowledged. Root steps down to the user `postgres`, as the server asks for.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::process::Command;
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls};

/// Making a server, or starting one, takes a second or two.
const LIMIT: Duration = Duration::from_secs(60);

/// Two servers. Stopped by `clear`.
#[derive(Debug)]
pub(super) struct Pair {
    folder: tempfile::TempDir,
    programs: PathBuf,
    ports: [u16; 2],
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Server {
    Primary,
    Standby,
}

impl Server {
    const fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Standby => "standby",
        }
    }
}

impl Pair {
    /// Both, with the standby in step.
    pub(super) async fn start(programs: &Path) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("make a folder for two servers")?;
        let pair = Self { folder, programs: programs.to_owned(), ports: [free_port()?, free_port()?] };
        if is_root().await {
            run(Command::new("chown").arg("postgres:").arg(pair.folder.path())).await?;
        }
        let data = pair.data(Server::Primary);
        let make = ["--username=postgres", "--auth=trust", "--no-sync", "--pgdata"];
        run(pair.program("initdb").await.args(make).arg(data)).await?;
        pair.boot(Server::Primary).await?;
        let copy = ["--host=127.0.0.1", "--username=postgres", "--write-recovery-conf", "--checkpoint=fast"];
        let (port, data) = (pair.ports[0].to_string(), pair.data(Server::Standby));
        run(pair.program("pg_basebackup").await.args(copy).args(["--port", &port, "--pgdata"]).arg(data))
            .await?;
        pair.boot(Server::Standby).await?;
        let client = pair.client(Server::Primary).await?;
        client.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await?;
        client.batch_execute("SELECT pg_reload_conf()").await?;
        let in_step = "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')";
        let waiting = async {
            while !client.query_one(in_step, &[]).await?.get::<_, bool>(0) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            anyhow::Ok(())
        };
        timeout(LIMIT, waiting).await.context("the standby does not follow")??;
        Ok(pair)
    }

    pub(super) fn url(&self, server: Server) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port(server))
    }

    /// A connection outside of what is measured.
    pub(super) async fn client(&self, server: Server) -> anyhow::Result<Client> {
        let (client, connection) =
            tokio_postgres::connect(&self.url(server), NoTls).await.context("connect to a server")?;
        // Its end shows in the client's calls.
        tokio::spawn(connection);
        Ok(client)
    }

    /// Kills the primary's first process; the others end when they notice.
    pub(super) async fn kill_primary(&self) -> anyhow::Result<()> {
        let client = self.client(Server::Primary).await?;
        let first = "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)";
        let pid: String = client.query_one(first, &[]).await?.get(0);
        run(Command::new("kill").args(["-9", &pid])).await
    }

    /// Stops what still runs and removes what it wrote.
    pub(super) async fn clear(self) {
        for server in [Server::Standby, Server::Primary] {
            // The primary is gone already, if all went as it was to go.
            let _gone = run(self.control(server).await.args(["--mode=immediate", "stop"])).await;
        }
    }

    async fn boot(&self, server: Server) -> anyhow::Result<()> {
        let options =
            format!("-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''", self.port(server));
        let log = self.folder.path().join(format!("{}.log", server.name()));
        let mut start = self.control(server).await;
        run(start.arg("--log").arg(log).args(["--wait", "--options", &options, "start"])).await
    }

    const fn port(&self, server: Server) -> u16 {
        match server {
            Server::Primary => self.ports[0],
            Server::Standby => self.ports[1],
        }
    }

    fn data(&self, server: Server) -> PathBuf {
        self.folder.path().join(server.name())
    }

    async fn control(&self, server: Server) -> Command {
        let mut command = self.program("pg_ctl").await;
        command.arg("--silent").arg("--pgdata").arg(self.data(server));
        command
    }

    async fn program(&self, name: &str) -> Command {
        let path = self.programs.join(name);
        let mut command = if is_root().await {
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

async fn run(command: &mut Command) -> anyhow::Result<()> {
    let output =
        timeout(LIMIT, command.output()).await.with_context(|| format!("{command:?} does not end"))?;
    let output = output.with_context(|| format!("start {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

async fn is_root() -> bool {
    Command::new("id").arg("-u").output().await.is_ok_and(|output| output.stdout == b"0\n")
}

fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr()?.port())
}
