//! A private memcached on a free port, killed by its pid when it is dropped.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use paystrata_cache::{
    YoungServer,
    memcached::{MemcachedOptions, MemcachedTier},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

/// Long enough for anything that happens at all; no test measures time by it.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Server {
    process: Option<Child>,
    port: u16,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let mut server = Self { process: None, port: free_port() };
        server.run().await;
        server
    }

    /// Starts the process and waits until it answers.
    pub(crate) async fn run(&mut self) {
        let program = std::env::var_os("MEMCACHED").unwrap_or_else(|| "memcached".into());
        let mut command = Command::new(program);
        command.args(["-u", "root", "-l", "127.0.0.1", "-U", "0", "-m", "64", "-p", &self.port.to_string()]);
        let process = command.stdout(Stdio::null()).spawn().expect("these tests need memcached in the path");
        self.process = Some(process);
        let answering = async {
            while self.say("version\r\n").await.is_none() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LIMIT, answering).await.expect("memcached answers");
    }

    /// As `kill -9` does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// It keeps its connections, and answers nobody any more.
    pub(crate) fn hang(&self) {
        let process = self.process.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args(["-STOP", &process]).status().unwrap().success());
        // Its threads stop one after the other, and one that has not yet stopped may answer.
        let threads = || std::fs::read_dir(format!("/proc/{process}/task")).expect("it is there");
        let is_stopped = |thread: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(thread.expect("a thread").path().join("stat"));
            stat.expect("its state").rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
        };
        while !threads().all(is_stopped) {
            std::thread::yield_now();
        }
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What the server answers to these words, behind the tier's back.
    pub(crate) async fn say(&self, words: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.address()).await.ok()?;
        stream.write_all(words.as_bytes()).await.ok()?;
        let mut answer = vec![0; 4_096];
        let length = stream.read(&mut answer).await.ok()?;
        String::from_utf8(answer[..length].to_vec()).ok().filter(|answer| !answer.is_empty())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A tier on these addresses that waits long for answers: a busy machine is not what is tested.
pub(crate) fn tier(addresses: &[String]) -> MemcachedTier {
    let options = MemcachedOptions {
        command_timeout: LIMIT,
        young_server: YoungServer::Trusted,
        ..MemcachedOptions::default()
    };
    MemcachedTier::connect(&addresses.join(","), options).unwrap()
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

/// Waits until each server is up or down as is said.
pub(crate) async fn until_up(tier: &MemcachedTier, wanted: &[bool]) {
    until(async || tier.servers().iter().map(|(_, is_up)| *is_up).eq(wanted.iter().copied())).await;
}
