//! A TCP proxy that fails on command: refuses, goes silent, or cuts chosen connections after a number of bytes. Of any
//! protocol it knows only what a PostgreSQL server says when it is ready.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
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
}

/// What happens once, to one connection that carries the mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trap {
    /// Closes it when so many more bytes have gone to the server.
    CutUp(usize),
    /// Closes it when so many more bytes have come from the server.
    CutDown(usize),
    /// As `CutDown`, and everything is refused from then on.
    CutDownAndRefuse(usize),
    /// As `CutUp`, and everything is refused from then on.
    CutUpAndRefuse(usize),
    /// Once the server has been ready so many times, passes on nothing of the next flight to it, and leaves it open.
    HoldAfterReady(usize),
}

/// How a server says that it is ready: message type and length.
const READY: [u8; 5] = [b'Z', 0, 0, 0, 5];
/// What the first bytes of a marked connection hold: the name under which the engine's lanes connect.
const MARK: &[u8] = b"/engine-";

#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    control: Arc<Control>,
    _accepting: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Control {
    server: String,
    mode: watch::Sender<Mode>,
    trap: Mutex<Option<Trap>>,
    /// Traps that have gone off.
    sprung: watch::Sender<u64>,
    /// Bytes that marked connections have carried to the server, and from it.
    carried: Mutex<(usize, usize)>,
}

/// The connection is to be closed.
struct Cut;

impl Proxy {
    /// Listens in front of the server that `url` names.
    pub(crate) async fn before(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = listener.local_addr().expect("a bound socket has an address");
        let control = Arc::new(Control {
            server: endpoint(url).to_owned(),
            mode: watch::Sender::new(Mode::Forward),
            trap: Mutex::new(None),
            sprung: watch::Sender::new(0),
            carried: Mutex::new((0, 0)),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&control)));
        Self { address, control, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// `url` with the proxy in place of the server.
    pub(crate) fn url(&self, url: &str) -> String {
        url.replace(endpoint(url), &self.address.to_string())
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.control.mode.send_replace(mode);
    }

    /// Arms a trap; gives what tells when it has gone off.
    pub(crate) fn arm(&self, trap: Trap) -> Sprung {
        let receiver = self.control.sprung.subscribe();
        let before = *receiver.borrow();
        *self.control.trap() = Some(trap);
        Sprung { receiver, before }
    }

    /// Takes away a trap that has not gone off.
    pub(crate) fn disarm(&self) {
        *self.control.trap() = None;
    }

    /// Bytes that marked connections have carried so far: to the server, and from it.
    pub(crate) fn carried(&self) -> (usize, usize) {
        *self.control.carried.lock().expect("no panic under this lock")
    }
}

/// Tells when an armed trap has gone off.
#[derive(Debug)]
pub(crate) struct Sprung {
    receiver: watch::Receiver<u64>,
    before: u64,
}

impl Sprung {
    pub(crate) fn is(&self) -> bool {
        *self.receiver.borrow() > self.before
    }

    pub(crate) async fn wait(&mut self) {
        let before = self.before;
        self.receiver.wait_for(|count| *count > before).await.expect("the proxy lives");
    }
}

/// `host:port` of a URL.
fn endpoint(url: &str) -> &str {
    let rest = url.split_once("://").expect("a URL with a scheme").1;
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    rest.split_once('/').map_or(rest, |(endpoint, _)| endpoint)
}

async fn accept(listener: TcpListener, control: Arc<Control>) {
    // Dropped with this task, and the relays with it.
    let mut relays = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        // Those that have ended make room.
        while relays.try_join_next().is_some() {}
        let control = Arc::clone(&control);
        relays.spawn(async move {
            // Its end closes both sockets, which is all there is to tell.
            let _ended = Relay::new(control).run(client).await;
        });
    }
}

/// One connection through the proxy.
struct Relay {
    control: Arc<Control>,
    /// `None` until the first bytes have been seen.
    marked: Option<bool>,
    /// The last bytes from the server, so that a message over two reads is seen.
    tail: Vec<u8>,
    holding: bool,
}

impl Relay {
    fn new(control: Arc<Control>) -> Self {
        Self { control, marked: None, tail: Vec::new(), holding: false }
    }

    async fn run(mut self, mut client: TcpStream) -> std::io::Result<()> {
        let control = Arc::clone(&self.control);
        let mut changes = control.mode.subscribe();
        if *changes.borrow() == Mode::Refuse {
            return Ok(());
        }
        let mut server = TcpStream::connect(&control.server).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (mut up, mut down) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
        loop {
            let mode = *changes.borrow_and_update();
            match mode {
                Mode::Forward => {}
                Mode::Refuse => return Ok(()),
                Mode::BlackHole => {
                    let _changed = changes.changed().await;
                    continue;
                }
            }
            tokio::select! {
                read = client.read(&mut up), if !self.holding => {
                    let bytes = &up[..read?];
                    if bytes.is_empty() || self.pass_up(bytes, &mut server).await?.is_err() {
                        return server.shutdown().await;
                    }
                }
                read = server.read(&mut down) => {
                    let bytes = &down[..read?];
                    if bytes.is_empty() || self.pass_down(bytes, &mut client).await?.is_err() {
                        return client.shutdown().await;
                    }
                }
                _ = changes.changed() => {}
            }
        }
    }

    async fn pass_up(&mut self, bytes: &[u8], server: &mut TcpStream) -> std::io::Result<Result<(), Cut>> {
        let marked = *self.marked.get_or_insert_with(|| contains(bytes, MARK));
        if !marked {
            server.write_all(bytes).await?;
            return Ok(Ok(()));
        }
        self.control.carried.lock().expect("no panic under this lock").0 += bytes.len();
        match self.control.verdict_up(bytes.len()) {
            Verdict::Pass => server.write_all(bytes).await?,
            Verdict::Hold => self.holding = true,
            Verdict::CutAfter(count) => {
                server.write_all(&bytes[..count]).await?;
                return Ok(Err(Cut));
            }
        }
        Ok(Ok(()))
    }

    async fn pass_down(&mut self, bytes: &[u8], client: &mut TcpStream) -> std::io::Result<Result<(), Cut>> {
        if self.marked != Some(true) {
            client.write_all(bytes).await?;
            return Ok(Ok(()));
        }
        self.control.carried.lock().expect("no panic under this lock").1 += bytes.len();
        let mut seen = std::mem::take(&mut self.tail);
        seen.extend_from_slice(bytes);
        let ready = seen.windows(READY.len()).filter(|window| *window == READY).count();
        self.tail = seen.split_off(seen.len().saturating_sub(READY.len() - 1));
        match self.control.verdict_down(bytes.len(), ready) {
            Verdict::CutAfter(count) => {
                client.write_all(&bytes[..count]).await?;
                Ok(Err(Cut))
            }
            Verdict::Pass | Verdict::Hold => {
                client.write_all(bytes).await?;
                Ok(Ok(()))
            }
        }
    }
}

fn contains(bytes: &[u8], mark: &[u8]) -> bool {
    bytes.windows(mark.len()).any(|window| window == mark)
}

enum Verdict {
    Pass,
    Hold,
    CutAfter(usize),
}

impl Control {
    fn trap(&self) -> MutexGuard<'_, Option<Trap>> {
        self.trap.lock().expect("no panic under this lock")
    }

    fn spring(&self, trap: &mut Option<Trap>, after: Option<Mode>) {
        *trap = None;
        if let Some(mode) = after {
            self.mode.send_replace(mode);
        }
        self.sprung.send_modify(|count| *count += 1);
    }

    fn verdict_up(&self, length: usize) -> Verdict {
        let mut trap = self.trap();
        let (left, after) = match &mut *trap {
            Some(Trap::CutUp(left)) => (left, None),
            Some(Trap::CutUpAndRefuse(left)) => (left, Some(Mode::Refuse)),
            Some(Trap::HoldAfterReady(0)) => {
                self.spring(&mut trap, None);
                return Verdict::Hold;
            }
            _ => return Verdict::Pass,
        };
        let count = *left;
        if length < count {
            *left -= length;
            return Verdict::Pass;
        }
        self.spring(&mut trap, after);
        Verdict::CutAfter(count)
    }

    fn verdict_down(&self, length: usize, ready: usize) -> Verdict {
        let mut trap = self.trap();
        let (left, after) = match &mut *trap {
            Some(Trap::CutDown(left)) => (left, None),
            Some(Trap::CutDownAndRefuse(left)) => (left, Some(Mode::Refuse)),
            Some(Trap::HoldAfterReady(left)) => {
                *left = left.saturating_sub(ready);
                return Verdict::Pass;
            }
            _ => return Verdict::Pass,
        };
        let count = *left;
        if length < count {
            *left -= length;
            return Verdict::Pass;
        }
        self.spring(&mut trap, after);
        Verdict::CutAfter(count)
    }
}
