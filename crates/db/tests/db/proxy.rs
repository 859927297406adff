//! A TCP proxy that fails on command: refuses, goes silent or slow, garbles, or loses a commit or its answer.
//! It knows of the protocol only how a COMMIT looks on the wire.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// What the proxy does to all connections, old and new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Forward,
    /// Closes everything.
    Refuse,
    /// Takes connections and bytes, and passes nothing on.
    BlackHole,
    /// Takes bytes of the connections that were there before and passes nothing on; forwards new ones.
    SilenceOld,
    /// Closes a connection instead of passing on its COMMIT, then forwards again.
    LoseCommit,
    /// Passes on a COMMIT and closes the connection instead of passing on the answer, then forwards again.
    LoseAnswer,
    /// As `LoseAnswer`, and refuses everything from then on.
    LoseAnswerAndRefuse,
    /// Passes on what clients say late.
    Slow,
    /// Passes on one answer with a first byte that no message has, then forwards again.
    GarbleKind,
    /// Passes on one answer that says that it is far longer than it is, then forwards again.
    GarbleLength,
    /// Passes on one answer to a statement as another one that is whole and known, then forwards again.
    GarbleAnswer,
    /// Neither passes on a COMMIT nor closes the connection; forwards the others.
    HoldCommit,
    /// Closes each connection that says [`MARK`], and forwards the others.
    LoseMarked,
}

/// What a statement says that is to be lost.
pub(crate) const MARK: &str = "to be lost";

/// How late a slow server answers: many times as long as a read takes.
const SLOWNESS: Duration = Duration::from_millis(20);

/// How the simple protocol carries it.
const COMMIT: &[u8] = b"COMMIT\0";

/// Answers without a body.
const BIND_COMPLETE: u8 = b'2';
const CLOSE_COMPLETE: u8 = b'3';

#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    mode: Arc<watch::Sender<Mode>>,
    _accepting: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Listens in front of the server that `url` names.
    pub(crate) async fn before(url: &str) -> Self {
        let server = endpoint(url).to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = listener.local_addr().expect("a bound socket has an address");
        let mode = Arc::new(watch::Sender::new(Mode::Forward));
        let accepting = tokio::spawn(accept(listener, server, Arc::clone(&mode)));
        Self { address, mode, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// `url` with the proxy in place of the server.
    pub(crate) fn url(&self, url: &str) -> String {
        url.replace(endpoint(url), &self.address.to_string())
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// A trap has gone off.
    pub(crate) async fn sprung(&self) {
        let mut mode = self.mode.subscribe();
        mode.wait_for(|mode| matches!(mode, Mode::Forward | Mode::Refuse)).await.expect("the proxy lives");
    }
}

fn endpoint(url: &str) -> &str {
    let after_user = url.split_once('@').expect("a URL with a user").1;
    after_user.split_once('/').expect("a URL with a database").0
}

async fn accept(listener: TcpListener, server: String, mode: Arc<watch::Sender<Mode>>) {
    // Dropped with this task, and the relays with it.
    let mut relays = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        let (server, mode) = (server.clone(), Arc::clone(&mode));
        relays.spawn(async move {
            // Its end closes both sockets, which is all there is to tell.
            let _ended = relay(client, &server, &mode).await;
        });
    }
}

async fn relay(mut client: TcpStream, server: &str, mode: &watch::Sender<Mode>) -> std::io::Result<()> {
    let mut changes = mode.subscribe();
    let mut is_new = true;
    let mut server = TcpStream::connect(server).await?;
    let (mut from_client, mut from_server) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    loop {
        let now = *changes.borrow_and_update();
        match now {
            Mode::Refuse => return Ok(()),
            Mode::SilenceOld if !is_new => std::future::pending().await,
            Mode::BlackHole => {
                let _changed = changes.changed().await;
                continue;
            }
            _ => {}
        }
        is_new &= now == Mode::SilenceOld;
        tokio::select! {
            read = client.read(&mut from_client) => {
                let bytes = &from_client[..read?];
                if bytes.is_empty() {
                    return Ok(());
                }
                let is_commit = bytes.windows(COMMIT.len()).any(|window| window == COMMIT);
                let is_marked = bytes.windows(MARK.len()).any(|window| window == MARK.as_bytes());
                match now {
                    Mode::LoseMarked if is_marked => return Ok(()),
                    Mode::LoseCommit if is_commit => {
                        mode.send_replace(Mode::Forward);
                        return Ok(());
                    }
                    Mode::LoseAnswer | Mode::LoseAnswerAndRefuse if is_commit => {
                        server.write_all(bytes).await?;
                        server.read_exact(&mut from_server[..1]).await?;
                        let next = if now == Mode::LoseAnswer { Mode::Forward } else { Mode::Refuse };
                        mode.send_replace(next);
                        return Ok(());
                    }
                    Mode::HoldCommit if is_commit => {
                        mode.send_replace(Mode::Forward);
                        std::future::pending::<()>().await;
                    }
                    Mode::Slow => {
                        tokio::time::sleep(SLOWNESS).await;
                        server.write_all(bytes).await?;
                    }
                    _ => server.write_all(bytes).await?,
                }
            }
            read = server.read(&mut from_server) => {
                let bytes = &mut from_server[..read?];
                if bytes.is_empty() {
                    return Ok(());
                }
                if garble(now, bytes) {
                    mode.send_replace(Mode::Forward);
                }
                client.write_all(bytes).await?;
            }
            _ = changes.changed() => {}
        }
    }
}

/// True if it was done, and is not to be done again.
fn garble(mode: Mode, bytes: &mut [u8]) -> bool {
    match mode {
        Mode::GarbleKind => bytes[0] = 0xff,
        Mode::GarbleAnswer if bytes[0] == BIND_COMPLETE => bytes[0] = CLOSE_COMPLETE,
        // The four bytes behind the first say how long the message is.
        Mode::GarbleLength if bytes.len() >= 5 => bytes[1..5].copy_from_slice(&[0x3f; 4]),
        _ => return false,
    }
    true
}
