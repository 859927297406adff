//! A TCP proxy in front of Redis whose connections can be cut or made to hang, the subscription
//! apart from the others.

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering::SeqCst},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Pass,
    /// Requests go through, replies wait.
    HoldReplies,
    /// Open connections are closed and new ones refused.
    Cut,
}

pub(crate) struct Proxy {
    port: u16,
    pub(crate) commands: watch::Sender<Mode>,
    pub(crate) subscription: watch::Sender<Mode>,
    subscription_port: Arc<AtomicU16>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn to(server_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (commands, subscription) = (watch::Sender::new(Mode::Pass), watch::Sender::new(Mode::Pass));
        let modes = (commands.clone(), subscription.clone());
        let subscription_port = Arc::new(AtomicU16::new(server_port));
        let elsewhere = Arc::clone(&subscription_port);
        let accepting = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let modes = (modes.0.subscribe(), modes.1.subscribe());
                let elsewhere = Arc::clone(&elsewhere);
                tokio::spawn(async move {
                    if let Ok(server) = TcpStream::connect(("127.0.0.1", server_port)).await {
                        let _closed = relay(client, server, modes, &elsewhere).await;
                    }
                });
            }
        });
        Self { port, commands, subscription, subscription_port, accepting }
    }

    pub(crate) fn url(&self) -> String {
        super::server::url(self.port)
    }

    /// Has subscriptions made from now on end up at another server.
    pub(crate) fn lead_subscription_to(&self, port: u16) {
        self.subscription_port.store(port, SeqCst);
    }

    pub(crate) fn all(&self, mode: Mode) {
        self.commands.send_replace(mode);
        self.subscription.send_replace(mode);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

type Modes = (watch::Receiver<Mode>, watch::Receiver<Mode>);

async fn relay(
    mut client: TcpStream,
    mut server: TcpStream,
    modes: Modes,
    elsewhere: &AtomicU16,
) -> std::io::Result<()> {
    let (mut mode, subscription) = modes;
    let (mut up, mut down) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let now = *mode.borrow_and_update();
        if now == Mode::Cut {
            return Ok(());
        }
        tokio::select! {
            _ = mode.changed() => {}
            read = client.read(&mut up) => {
                let length = read?;
                if length == 0 { return Ok(()) }
                if up[..length].windows(9).any(|window| window == b"SUBSCRIBE") {
                    mode = subscription.clone();
                    if *mode.borrow() == Mode::Cut { return Ok(()) }
                    let port = elsewhere.load(SeqCst);
                    if port != server.peer_addr()?.port() {
                        server = TcpStream::connect(("127.0.0.1", port)).await?;
                        // Its first words are those that the client has heard already.
                        server.write_all(b"HELLO 3\r\n").await?;
                        let _greeting = server.read(&mut down).await?;
                    }
                }
                server.write_all(&up[..length]).await?;
            }
            read = server.read(&mut down), if now == Mode::Pass => {
                let length = read?;
                if length == 0 { return Ok(()) }
                client.write_all(&down[..length]).await?;
            }
        }
    }
}
