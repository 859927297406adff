//! A TCP proxy that fails on command: refuses, goes silent, cuts chosen connections after a number of bytes, or holds them
//! where they begin to write. Of any protocol it knows only what `frontend` reads.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::frontend::Frontend;
use crate::ground::LIMIT;

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
    /// Passes nothing on from the next statement that writes or commits, and leaves the connection open.
    HoldWrites,
}

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
        Sprung { trap, receiver, before }
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
    trap: Trap,
    receiver: watch::Receiver<u64>,
    before: u64,
}

impl Sprung {
    pub(crate) fn is(&self) -> bool {
        *self.receiver.borrow() > self.before
    }

    /// # Panics
    /// It does not go off in time: what it waits for is no longer sent.
    pub(crate) async fn wait(&mut self) {
        let (trap, before) = (self.trap, self.before);
        let sprung = timeout(LIMIT, self.receiver.wait_for(|count| *count > before)).await;
        sprung.unwrap_or_else(|_| panic!("{trap:?} never went off")).expect("the proxy lives");
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
    frontend: Frontend,
    holding: bool,
}

impl Relay {
    fn new(control: Arc<Control>) -> Self {
        Self { control, marked: None, frontend: Frontend::default(), holding: false }
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
        let write = self.frontend.follow(bytes);
        match self.control.verdict_up(bytes.len(), write) {
            Verdict::Pass => server.write_all(bytes).await?,
            Verdict::HoldAfter(count) => {
                server.write_all(&bytes[..count]).await?;
                self.holding = true;
            }
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
        match self.control.verdict_down(bytes.len()) {
            Verdict::CutAfter(count) => {
                client.write_all(&bytes[..count]).await?;
                Ok(Err(Cut))
            }
            Verdict::Pass | Verdict::HoldAfter(_) => {
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
    HoldAfter(usize),
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

    /// `write` is where the first statement that writes begins.
    fn verdict_up(&self, length: usize, write: Option<usize>) -> Verdict {
        let mut trap = self.trap();
        let (left, after) = match &mut *trap {
            Some(Trap::CutUp(left)) => (left, None),
            Some(Trap::CutUpAndRefuse(left)) => (left, Some(Mode::Refuse)),
            Some(Trap::HoldWrites) => {
                let Some(count) = write else { return Verdict::Pass };
                self.spring(&mut trap, None);
                return Verdict::HoldAfter(count);
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

    fn verdict_down(&self, length: usize) -> Verdict {
        let mut trap = self.trap();
        let (left, after) = match &mut *trap {
            Some(Trap::CutDown(left)) => (left, None),
            Some(Trap::CutDownAndRefuse(left)) => (left, Some(Mode::Refuse)),
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
