//! A private Redis without persistence: what it holds can always be rebuilt. Finds one that a killed run
//! left behind through its pid file and its own word about its directory.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::host::Host;
use super::postmaster::end_processes_on;
use super::state::{Instance, Role};
use crate::process::identity::{Identity, command_line};
use crate::process::{self, port};
use crate::progress::step;

const START_LIMIT: Duration = Duration::from_secs(15);
const STOP_LIMIT: Duration = Duration::from_secs(10);
const REPLY_LIMIT: Duration = Duration::from_secs(2);
const PORT_ATTEMPTS: u32 = 4;
/// `CONFIG GET dir`, as the protocol writes it.
const ASK_DIRECTORY: &[u8] = b"*3\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n$3\r\ndir\r\n";
const PID_FILE: &str = "redis.pid";

/// Starts Redis on the wished port if that is free, or adopts the one that runs in our directory.
pub(crate) fn up(host: &Host, port_wish: Option<u16>) -> Result<Instance> {
    if let Some(running) = running(host) {
        return Ok(running);
    }
    step("start Redis", || {
        let directory = directory(host);
        fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))?;
        host.account.give(&directory)?;
        // One that a killed run had just started may not have noted its pid yet.
        end_processes_on(&directory);
        for attempt in 0..PORT_ATTEMPTS {
            let wished = port_wish.filter(|wish| attempt == 0 && port::is_free(*wish));
            let port = wished.map_or_else(port::free, Ok).context("find a free port")?;
            if let Some(instance) = start_on(host, &directory, port)? {
                return Ok(instance);
            }
        }
        bail!("Redis found no free port; see {}", directory.join("log").display())
    })
}

/// The Redis of this services directory, if one runs.
pub(crate) fn running(host: &Host) -> Option<Instance> {
    let directory = directory(host);
    let pid: u32 = fs::read_to_string(directory.join(PID_FILE)).ok()?.trim().parse().ok()?;
    let process = Identity::of(pid)?;
    let port = port_of_title(&command_line(pid).join(" "))?;
    serves_from(port, &directory).then_some(Instance { port, process: Some(process) })
}

/// The port in the title of a running server, as in `/usr/bin/redis-server 127.0.0.1:6379`.
fn port_of_title(title: &str) -> Option<u16> {
    let (_, address) = title.split_once("redis-server ")?;
    address.split_whitespace().next()?.rsplit_once(':')?.1.parse().ok()
}

/// Stops it, if one runs.
pub(crate) fn stop(host: &Host) -> Result<()> {
    let Some(process) = running(host).and_then(|running| running.process) else { return Ok(()) };
    if process::stop_identity(process, STOP_LIMIT) {
        return Ok(());
    }
    bail!("Redis (pid {}) does not stop", process.pid)
}

fn directory(host: &Host) -> PathBuf {
    host.layout.data.join(Role::Redis.name())
}

/// `None` when somebody else took the port in between.
fn start_on(host: &Host, directory: &Path, port: u16) -> Result<Option<Instance>> {
    let log = directory.join("log");
    drop(fs::remove_file(&log));
    drop(fs::remove_file(directory.join(PID_FILE)));
    let mut command = host.account.command(&host.tools.redis_server, directory);
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--daemonize", "yes"]);
    command.args(["--save", "", "--appendonly", "no"]);
    command.arg("--dir").arg(directory).arg("--logfile").arg(&log);
    command.arg("--pidfile").arg(directory.join(PID_FILE));
    process::succeed(&mut command, START_LIMIT)?;
    let deadline = Instant::now() + START_LIMIT;
    loop {
        if let Some(instance) = running(host).filter(|running| running.port == port) {
            return Ok(Some(instance));
        }
        let said = fs::read_to_string(&log).unwrap_or_default();
        if said.contains("Address already in use") {
            return Ok(None);
        }
        if Instant::now() > deadline {
            bail!("Redis did not start; the end of {}:\n{}", log.display(), process::tail_lines(&said, 15));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whether the Redis at this port answers and works in `directory`.
fn serves_from(port: u16, directory: &Path) -> bool {
    let Ok(Some(answered)) = config_directory(port) else { return false };
    Path::new(&answered) == directory
}

/// Asks `CONFIG GET dir`, whose answer is the array `dir`, path.
fn config_directory(port: u16) -> std::io::Result<Option<String>> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, REPLY_LIMIT)?;
    stream.set_read_timeout(Some(REPLY_LIMIT))?;
    stream.set_write_timeout(Some(REPLY_LIMIT))?;
    stream.write_all(ASK_DIRECTORY)?;
    // `*2`, `$3`, `dir`, `$<length>`, the path: the fifth line.
    BufReader::new(stream).lines().take(5).last().transpose()
}

#[cfg(test)]
mod tests {
    use super::{ASK_DIRECTORY, config_directory, port_of_title};
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;

    fn answering(reply: &'static [u8]) -> std::io::Result<Option<String>> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a loopback port");
        let port = listener.local_addr().expect("bound listener has an address").port();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("the test connects");
            let mut request = [0; ASK_DIRECTORY.len()];
            stream.read_exact(&mut request).expect("the test sends its request");
            stream.write_all(reply).expect("the test reads the reply");
        });
        let answer = config_directory(port);
        server.join().expect("the fake server ends");
        answer
    }

    #[test]
    fn port_is_read_from_the_title() {
        assert_eq!(port_of_title("/usr/bin/redis-server 127.0.0.1:6379"), Some(6379));
        assert_eq!(port_of_title("redis-server *:7000 [cluster]"), Some(7000));
        for title in ["", "redis-server", "vim redis-server notes", "postgres -D /x"] {
            assert_eq!(port_of_title(title), None, "{title}");
        }
    }

    #[test]
    fn directory_is_read_from_the_reply() {
        let reply = answering(b"*2\r\n$3\r\ndir\r\n$6\r\n/a dir\r\n").expect("the fake server answers");
        assert_eq!(reply.as_deref(), Some("/a dir"));
    }

    #[test]
    fn another_server_on_the_port_is_not_ours() {
        let reply = answering(b"-ERR unknown command\r\n").expect("the fake server answers");
        assert_eq!(reply.as_deref(), Some("-ERR unknown command"));
    }
}
