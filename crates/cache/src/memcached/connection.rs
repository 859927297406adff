//! One connection to one memcached server, shared by any number of callers: commands are sent as they
//! come, whatever has gathered in one write, and replies are matched to them in order and by their
//! opaque numbers. Ends at the first reply that is none; never guesses where the next one begins.
//! A caller who goes away leaves its replies to be read and dropped. Supervised by `server`.

use std::{io, sync::Arc, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinHandle},
    time::{Instant, timeout},
};

use super::wire::{Command, Garbage, Reply, decode, encode, line_end};
use crate::{FLOOR_LIFE, YoungServer, silence::Silence, tier::TierError};

/// Calls that wait to be sent, and calls that wait for replies; over it, callers wait within their timeout.
const CALLS_MAX: usize = 1_024;

/// Bytes that are gathered into one write before it is made: beyond it a larger one is no cheaper.
const WRITE_BYTES: usize = 64 * 1_024;

/// An item may be this large unless the server says otherwise.
const ITEM_BYTES_DEFAULT: usize = 1_024 * 1_024;

/// What has the server not to say about itself in more bytes than these.
const SETTINGS_BYTES_MAX: usize = 64 * 1_024;

#[derive(Debug)]
pub(super) struct Connection {
    calls: mpsc::Sender<Call>,
    task: AbortHandle,
    silence: Arc<Silence>,
    /// Silence of so long, and the connection is given up.
    silence_max: Duration,
    /// What the server takes as one item.
    pub(super) item_bytes_max: usize,
    /// Until when floors that should be there may have been lost with the process before this one.
    blind_until: Instant,
}

/// What a server tells of itself.
#[derive(Debug, Default)]
struct Greeting {
    item_bytes_max: Option<usize>,
    uptime: Duration,
}

/// Commands that were asked for together, and where their replies go.
#[derive(Debug)]
struct Call {
    commands: Vec<Command>,
    answer: oneshot::Sender<Vec<Reply>>,
}

/// A call that has been sent.
#[derive(Debug)]
struct Awaiting {
    count: usize,
    answer: oneshot::Sender<Vec<Reply>>,
}

/// Why there is no connection, or no longer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("read or write: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Garbage(#[from] Garbage),
    #[error("closed by the server")]
    Closed,
    #[error("no answer in time")]
    TimedOut,
}

impl Connection {
    /// Connects, and proves that a memcached with meta commands answers. Its task ends with the last
    /// handle to the connection.
    pub(super) async fn establish(
        address: &str,
        limit: Duration,
        silence_max: Duration,
        young_server: YoungServer,
    ) -> Result<Self, Broken> {
        let greeting = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let greeting = greet(&mut stream).await?;
            Ok::<_, Broken>((stream, greeting))
        };
        let (stream, greeting) = timeout(limit, greeting).await.map_err(|_| Broken::TimedOut)??;
        let (calls, queue) = mpsc::channel(CALLS_MAX);
        let silence = Arc::<Silence>::default();
        let task: JoinHandle<()> = tokio::spawn(serve(stream, queue, Arc::clone(&silence)));
        let blind = match young_server {
            YoungServer::Blind => FLOOR_LIFE.saturating_sub(greeting.uptime),
            YoungServer::Trusted => Duration::ZERO,
        };
        Ok(Self {
            calls,
            task: task.abort_handle(),
            silence,
            silence_max,
            item_bytes_max: greeting.item_bytes_max.unwrap_or(ITEM_BYTES_DEFAULT),
            blind_until: Instant::now() + blind,
        })
    }

    /// True while floors that should be there may have been lost.
    pub(super) fn is_blind(&self) -> bool {
        Instant::now() < self.blind_until
    }

    /// Sends the commands and waits for their replies, in their order.
    pub(super) async fn call(
        &self,
        commands: Vec<Command>,
        limit: Duration,
    ) -> Result<Vec<Reply>, TierError> {
        let (answer, replies) = oneshot::channel();
        let calling = async {
            self.calls.send(Call { commands, answer }).await.map_err(|_| TierError::Down)?;
            replies.await.map_err(|_| TierError::Failed)
        };
        let asking = self.silence.ask(self.silence_max, || self.task.abort());
        let called = timeout(limit, calling).await.map_err(|_elapsed| TierError::TimedOut)?;
        asking.answered();
        called
    }

    pub(super) fn is_closed(&self) -> bool {
        self.calls.is_closed()
    }

    /// Waits until the connection is of no more use.
    pub(super) async fn closed(&self) {
        self.calls.closed().await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads and writes until either fails. Both run on one task, so that both end together.
async fn serve(stream: TcpStream, queue: mpsc::Receiver<Call>, silence: Arc<Silence>) {
    let (reader, writer) = stream.into_split();
    let (sent, awaiting) = mpsc::channel(CALLS_MAX);
    let broken = tokio::select! {
        written = write(writer, queue, sent) => written.err(),
        read = read(reader, awaiting, &silence) => read.err(),
    };
    if let Some(broken) = broken {
        tracing::debug!(%broken, "memcached connection ends");
    }
}

async fn write(
    mut writer: OwnedWriteHalf,
    mut queue: mpsc::Receiver<Call>,
    sent: mpsc::Sender<Awaiting>,
) -> Result<(), Broken> {
    let mut opaque = 0;
    let mut out = BytesMut::new();
    while let Some(mut call) = queue.recv().await {
        loop {
            // A caller who has gone before anything was sent wants nothing any more.
            if !call.answer.is_closed() {
                let Call { commands, answer } = call;
                let awaiting = Awaiting { count: commands.len(), answer };
                if let Err(mpsc::error::TrySendError::Full(awaiting)) = sent.try_send(awaiting) {
                    // Room comes from replies, and those only to what has been written.
                    writer.write_all_buf(&mut out).await?;
                    sent.send(awaiting).await.map_err(|_| Broken::Closed)?;
                }
                for command in &commands {
                    encode(command, opaque, &mut out);
                    opaque = opaque.wrapping_add(1);
                }
            }
            if out.len() >= WRITE_BYTES {
                break;
            }
            match queue.try_recv() {
                Ok(next) => call = next,
                Err(_) => break,
            }
        }
        writer.write_all_buf(&mut out).await?;
    }
    Ok(())
}

async fn read(
    mut reader: OwnedReadHalf,
    mut awaiting: mpsc::Receiver<Awaiting>,
    silence: &Silence,
) -> Result<(), Broken> {
    let mut opaque = 0;
    let mut input = BytesMut::new();
    loop {
        let next = tokio::select! {
            // In this order: a call is noted before it is written, so that its reply finds it noted.
            biased;
            next = awaiting.recv() => next.ok_or(Broken::Closed)?,
            // Nothing was asked: the end, or words nobody waits for.
            read = reader.read_buf(&mut input) => {
                return Err(if read? == 0 { Broken::Closed } else { Garbage.into() });
            }
        };
        let mut replies = Vec::with_capacity(next.count);
        while replies.len() < next.count {
            if let Some(reply) = decode(&mut input, opaque)? {
                replies.push(reply);
                opaque = opaque.wrapping_add(1);
            } else if reader.read_buf(&mut input).await? == 0 {
                return Err(Broken::Closed);
            }
        }
        // A caller who has gone needs no answer, but the connection lives.
        if next.answer.send(replies).is_err() {
            silence.hear();
        }
        if !input.is_empty() && awaiting.is_empty() {
            return Err(Garbage.into());
        }
    }
}

/// Asks for the server's age and settings, and whether it knows meta commands.
async fn greet(stream: &mut TcpStream) -> Result<Greeting, Broken> {
    stream.write_all(b"stats\r\nstats settings\r\nmn\r\n").await?;
    let mut input = BytesMut::new();
    let mut greeting = Greeting::default();
    let number =
        |text: &[u8]| std::str::from_utf8(text).ok().and_then(|text| text.parse::<u64>().ok()).ok_or(Garbage);
    loop {
        while let Some(end) = line_end(&input)? {
            let line = input.split_to(end + 2);
            match &line[..end] {
                b"MN" => return Ok(greeting),
                b"END" => {}
                line => {
                    let setting = line.strip_prefix(b"STAT ").ok_or(Garbage)?;
                    if let Some(size) = setting.strip_prefix(b"item_size_max ") {
                        greeting.item_bytes_max = usize::try_from(number(size)?).ok();
                    } else if let Some(seconds) = setting.strip_prefix(b"uptime ") {
                        greeting.uptime = Duration::from_secs(number(seconds)?);
                    }
                }
            }
        }
        if input.len() > SETTINGS_BYTES_MAX {
            return Err(Garbage.into());
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Err(Broken::Closed);
        }
    }
}
