//! A private memcached on a free port, killed when it is dropped.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::ground::LIMIT;

pub(crate) struct Memcached {
    port: u16,
    process: Child,
}

impl Memcached {
    pub(crate) async fn start() -> Self {
        // Somebody else may take the port that was free: then it ends, and another one is tried.
        let started = async {
            loop {
                if let Some(memcached) = Self::start_once().await {
                    return memcached;
                }
            }
        };
        timeout(LIMIT, started).await.expect("memcached answers")
    }

    async fn start_once() -> Option<Self> {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("a bound socket has an address").port();
        drop(free);
        let program = std::env::var_os("MEMCACHED").unwrap_or_else(|| "memcached".into());
        let mut command = Command::new(program);
        command.args(["-u", "root", "-l", "127.0.0.1", "-U", "0", "-m", "64", "-p", &port.to_string()]);
        let process =
            command.stdout(Stdio::null()).kill_on_drop(true).spawn().expect("memcached is in the path");
        let mut memcached = Self { port, process };
        while memcached.say("version\r\n").await.is_none() {
            if memcached.process.try_wait().expect("its state is known").is_some() {
                return None;
            }
            sleep(Duration::from_millis(10)).await;
        }
        // Another's may have answered in its place.
        let has_ended = memcached.process.try_wait().expect("its state is known").is_some();
        (!has_ended).then_some(memcached)
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// How many commands have stored something, or tried to.
    pub(crate) async fn stores(&self) -> u64 {
        let stats = self.say("stats\r\n").await.expect("it runs");
        let line = stats.lines().find_map(|line| line.strip_prefix("STAT cmd_set "));
        line.and_then(|number| number.trim().parse().ok()).expect("it counts")
    }

    async fn say(&self, words: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.address()).await.ok()?;
        stream.write_all(words.as_bytes()).await.ok()?;
        let mut said = Vec::new();
        while !said.ends_with(b"END\r\n") && !said.starts_with(b"VERSION") {
            if stream.read_buf(&mut said).await.ok()? == 0 {
                return None;
            }
        }
        String::from_utf8(said).ok()
    }
}
