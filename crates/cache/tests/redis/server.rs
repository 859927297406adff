//! Private Redis servers in temporary directories, killed by their pids when they are dropped: one, a
//! primary with a replica and three sentinels, or a cluster of six.

use std::{
    ffi::OsString,
    net::TcpListener,
    process::{Child, Command, Stdio},
};

use redis::{ErrorKind, FromRedisValue, RedisResult, Value, aio::MultiplexedConnection};

use super::fixture::eventually;

pub(crate) struct Server {
    process: Option<Child>,
    port: u16,
    directory: tempfile::TempDir,
    arguments: Vec<String>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// A server with more settings: `["--maxmemory", "1mb"]`.
    pub(crate) async fn start_with(arguments: &[&str]) -> Self {
        let mut server = Self::stopped(arguments);
        server.run().await;
        server
    }

    /// A server that is not running yet, with a port of its own.
    pub(crate) fn stopped(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self { process: None, port: free_port(), directory: tempfile::tempdir().unwrap(), arguments }
    }

    /// Starts the process, with what an earlier one saved, and waits until it answers.
    pub(crate) async fn run(&mut self) {
        let port = self.port.to_string();
        let process = Command::new(redis_server())
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(&self.arguments)
            .arg("--dir")
            .arg(self.directory.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("these tests need redis-server in the path");
        self.process = Some(process);
        eventually("redis-server answers", async || self.try_connect().await.is_ok()).await;
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        url(self.port)
    }

    async fn try_connect(&self) -> RedisResult<MultiplexedConnection> {
        let mut connection = redis::Client::open(self.url())?.get_multiplexed_async_connection().await?;
        redis::cmd("PING").query_async::<()>(&mut connection).await?;
        Ok(connection)
    }

    /// One command, in words.
    pub(crate) async fn ask<T: FromRedisValue>(&self, words: &str) -> T {
        self.try_ask(words).await.unwrap()
    }

    async fn try_ask<T: FromRedisValue>(&self, words: &str) -> RedisResult<T> {
        let mut words = words.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        words.for_each(|word| {
            command.arg(word);
        });
        command.query_async(&mut self.try_connect().await?).await
    }

    /// Waits until the replica has confirmed all that this primary has written.
    pub(crate) async fn is_replicated(&self) {
        eventually("the replica has it all", async || {
            let facts: String = self.ask("INFO replication").await;
            let fact = |name: &str| Some(facts.split_once(name)?.1.split([',', '\r']).next()?.to_owned());
            let written = fact("master_repl_offset:");
            written.is_some() && written == fact(",offset=")
        })
        .await;
    }

    async fn reports(&self, words: &str, fact: &str) -> bool {
        let answer: RedisResult<String> = self.try_ask(words).await;
        assert!(!matches!(&answer, Err(error) if error.kind() == ErrorKind::InvalidClientConfig));
        answer.is_ok_and(|text| text.contains(fact))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}")
}

fn redis_server() -> OsString {
    std::env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into())
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Three primaries with a replica each.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Server>,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let mut nodes = Vec::new();
        for _ in 0..6 {
            nodes.push(cluster_node(free_port(), &[]).await);
        }
        Self::of(nodes).await
    }

    /// A cluster of six nodes that are running.
    pub(crate) async fn of(nodes: Vec<Server>) -> Self {
        let created = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())))
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .output()
            .expect("these tests need redis-cli in the path");
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
        let cluster = Self { nodes };
        for node in &cluster.nodes {
            eventually("the node is in the cluster", async || {
                node.reports("CLUSTER INFO", "cluster_state:ok").await
                    && (node.reports("INFO replication", "role:master").await
                        || node.reports("INFO replication", "master_link_status:up").await)
            })
            .await;
        }
        cluster
    }

    /// One primary more, without slots. Gives its number.
    pub(crate) async fn join(&mut self) -> usize {
        let bus = free_port();
        let newcomer = cluster_node(bus, &[]).await;
        let meeting = format!("CLUSTER MEET 127.0.0.1 {} {bus}", newcomer.port());
        self.nodes[0].ask::<()>(&meeting).await;
        let id: String = newcomer.ask("CLUSTER MYID").await;
        self.nodes.push(newcomer);
        for node in &self.nodes {
            eventually("the node knows the newcomer, and the cluster", async || {
                node.reports("CLUSTER NODES", &id).await
                    && node.reports("CLUSTER INFO", "cluster_known_nodes:7").await
                    && node.reports("CLUSTER INFO", "cluster_state:ok").await
            })
            .await;
        }
        self.nodes.len() - 1
    }

    /// Begins to move a slot from one primary to another.
    pub(crate) async fn begin_to_move(&self, slot: u16, from: usize, to: usize) {
        let [source, target] =
            [self.nodes[from].ask::<String>("CLUSTER MYID").await, self.nodes[to].ask("CLUSTER MYID").await];
        self.nodes[to].ask::<()>(&format!("CLUSTER SETSLOT {slot} IMPORTING {source}")).await;
        self.nodes[from].ask::<()>(&format!("CLUSTER SETSLOT {slot} MIGRATING {target}")).await;
    }

    /// Moves one key of it.
    pub(crate) async fn move_key(&self, key: &str, from: usize, to: usize) {
        let port = self.nodes[to].port();
        self.nodes[from].ask::<()>(&format!("MIGRATE 127.0.0.1 {port} {key} 0 5000")).await;
    }

    /// Says that all of it has moved.
    pub(crate) async fn end_move(&self, slot: u16, from: usize, to: usize) {
        let target: String = self.nodes[to].ask("CLUSTER MYID").await;
        for number in [to, from] {
            self.nodes[number].ask::<()>(&format!("CLUSTER SETSLOT {slot} NODE {target}")).await;
        }
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Server::url).collect()
    }

    /// The node that has a slot as a primary, by its number.
    pub(crate) async fn primary_of(&self, slot: u16) -> usize {
        for node in &self.nodes {
            let Ok(ranges) = node.try_ask::<Vec<Vec<Value>>>("CLUSTER SLOTS").await else { continue };
            let number = |value: &Value| redis::from_redis_value_ref::<u16>(value).unwrap();
            let range = ranges.iter().find(|range| (number(&range[0])..=number(&range[1])).contains(&slot));
            let Value::Array(primary) = &range.unwrap()[2] else { panic!("a primary") };
            let port = number(&primary[1]);
            return self.nodes.iter().position(|node| node.port() == port).unwrap();
        }
        panic!("no node answers");
    }
}

/// A node that is in no cluster yet, with more settings.
pub(crate) async fn cluster_node(bus: u16, more: &[&str]) -> Server {
    let bus = bus.to_string();
    let arguments = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "1500"];
    Server::start_with(&[&arguments[..], more].concat()).await
}

/// A primary, its replica, and three sentinels that make the replica the primary within two seconds.
pub(crate) struct Watched {
    pub(crate) servers: [Server; 2],
    pub(crate) sentinels: Vec<Server>,
}

impl Watched {
    pub(crate) async fn start() -> Self {
        let primary = Server::start().await;
        let port = primary.port().to_string();
        let replica = Server::start_with(&["--replicaof", &format!("127.0.0.1 {port}")]).await;
        eventually("the replica follows", async || {
            replica.reports("INFO replication", "master_link_status:up").await
        })
        .await;
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(sentinel(&port, "").await);
        }
        for sentinel in &sentinels {
            eventually("the sentinels know each other", async || {
                sentinel.reports("INFO sentinel", "slaves=1,sentinels=3").await
            })
            .await;
        }
        Self { servers: [primary, replica], sentinels }
    }

    pub(crate) fn sentinel_urls(&self) -> Vec<String> {
        self.sentinels.iter().map(Server::url).collect()
    }
}

/// Watches over a primary, with more lines of settings.
pub(crate) async fn sentinel(primary_port: &str, more: &str) -> Server {
    let mut server = Server::stopped(&[]);
    let settings = format!(
        "port {}\nbind 127.0.0.1\ndir {}\nsentinel monitor pay 127.0.0.1 {primary_port} 2\n\
         sentinel down-after-milliseconds pay 500\nsentinel failover-timeout pay 3000\n{more}",
        server.port,
        server.directory.path().display(),
    );
    let path = server.directory.path().join("sentinel.conf");
    std::fs::write(&path, settings).unwrap();
    let process = Command::new(redis_server()).arg(&path).arg("--sentinel").stdout(Stdio::null()).spawn();
    server.process = Some(process.unwrap());
    eventually("the sentinel answers", async || server.try_connect().await.is_ok()).await;
    server
}
