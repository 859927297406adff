//! What passes on one connection, told without a round trip: a stream under the driver that walks the frames of the
//! protocol as they go by and keeps what the driver throws away. It copies no body, holds five bytes per direction, and
//! changes nothing. Laid by `dial` under pooled connections; read when they come back, by sweeps, and by those who wait.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What the server said of its transaction when it last was ready for a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TransactionStatus {
    /// It has said nothing yet, or something that is not of the protocol.
    Unknown,
    Idle,
    /// In a transaction block.
    Open,
    /// In a transaction block that failed.
    Failed,
}

/// The last word on one connection.
#[derive(Debug)]
pub(crate) struct Tap {
    laid: Instant,
    /// The byte of the last `ReadyForQuery`.
    status: AtomicU8,
    /// Messages sent that each end in one `ReadyForQuery`, and how many of those came. Both only grow.
    asked: AtomicU64,
    answered: AtomicU64,
    /// Milliseconds after `laid`.
    heard: AtomicU64,
    /// The last request was an `Execute` and no `Query`.
    executes: AtomicBool,
    /// A length that no frame has: from here on nothing is known.
    is_broken: AtomicBool,
    /// The code with which the server ended the connection unasked.
    ended_by: OnceLock<String>,
}

impl Tap {
    pub(crate) fn new() -> Self {
        Self {
            laid: Instant::now(),
            status: AtomicU8::new(0),
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            executes: AtomicBool::new(false),
            is_broken: AtomicBool::new(false),
            ended_by: OnceLock::new(),
        }
    }

    /// The connection has ended with this. What a server says that nobody has asked the driver tells no caller: they find it closed.
    pub(crate) fn note_end(&self, error: &tokio_postgres::Error) {
        if let Some(code) = error.code() {
            let _first_holds = self.ended_by.set(code.code().to_owned());
        }
    }

    /// The code with which the server ended the connection between two statements, if it has.
    pub(crate) fn ended_by(&self) -> Option<&str> {
        self.ended_by.get().map(String::as_str)
    }

    pub(crate) fn status(&self) -> TransactionStatus {
        if self.is_broken.load(Ordering::Acquire) {
            return TransactionStatus::Unknown;
        }
        match self.status.load(Ordering::Acquire) {
            b'I' => TransactionStatus::Idle,
            b'T' => TransactionStatus::Open,
            b'E' => TransactionStatus::Failed,
            _ => TransactionStatus::Unknown,
        }
    }

    /// Requests on the wire whose end has not come. What the driver has not written yet is not among them.
    pub(crate) fn outstanding(&self) -> u64 {
        // In this order: an answer that comes in between is counted on neither side or on the first alone.
        let answered = self.answered.load(Ordering::Acquire);
        self.asked.load(Ordering::Acquire).saturating_sub(answered)
    }

    /// The server has answered everything it was sent and is in no transaction.
    pub(crate) fn is_clean(&self) -> bool {
        self.outstanding() == 0 && self.status() == TransactionStatus::Idle
    }

    /// How long the server has been silent.
    pub(crate) fn silence(&self, now: Instant) -> Duration {
        let heard = self.laid + Duration::from_millis(self.heard.load(Ordering::Acquire));
        now.saturating_duration_since(heard)
    }

    fn sent(&self, kind: u8) {
        match kind {
            // The first packet has no type; the server is ready once it has let the client in.
            STARTUP | b'S' | b'F' => {
                self.asked.fetch_add(1, Ordering::AcqRel);
            }
            b'Q' => {
                self.executes.store(false, Ordering::Release);
                self.asked.fetch_add(1, Ordering::AcqRel);
            }
            b'E' => self.executes.store(true, Ordering::Release),
            _ => {}
        }
    }

    fn received(&self, kind: u8, first: u8) {
        match kind {
            b'Z' => {
                self.status.store(first, Ordering::Release);
                self.answered.fetch_add(1, Ordering::AcqRel);
            }
            // A server that takes in a COPY ignores the `Sync` behind the `Execute` that began it.
            b'G' if self.executes.load(Ordering::Acquire) => {
                self.answered.fetch_add(1, Ordering::AcqRel);
            }
            _ => {}
        }
    }

    fn note_heard(&self) {
        let millis = u64::try_from(self.laid.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(millis, Ordering::Release);
    }
}

/// Stands for the type of the first packet, which has none.
const STARTUP: u8 = 0;
/// Type and length.
const HEADER_BYTES: usize = 5;

/// Where one direction stands in its frames.
#[derive(Debug)]
struct Frames {
    header: [u8; HEADER_BYTES],
    filled: usize,
    /// Bytes of the present body that are still to come.
    body: usize,
    /// The present frame's type, until the first byte of its body has come.
    announced: Option<u8>,
    is_broken: bool,
}

impl Frames {
    fn of_server() -> Self {
        Self { header: [0; HEADER_BYTES], filled: 0, body: 0, announced: None, is_broken: false }
    }

    /// As if the type of the first packet had come already.
    fn of_client() -> Self {
        Self { filled: 1, ..Self::of_server() }
    }

    /// Walks over `bytes`; tells the type of each frame, and the first byte of its body or 0, once that byte is there.
    fn walk(&mut self, mut bytes: &[u8], mut tell: impl FnMut(u8, u8)) {
        while !bytes.is_empty() && !self.is_broken {
            if self.body > 0 {
                if let Some(kind) = self.announced.take() {
                    tell(kind, bytes[0]);
                }
                let passed = self.body.min(bytes.len());
                self.body -= passed;
                bytes = &bytes[passed..];
                continue;
            }
            if let (0, Some((header, rest))) = (self.filled, bytes.split_first_chunk()) {
                (self.header, bytes) = (*header, rest);
                self.open(&mut tell);
                continue;
            }
            let wanted = (HEADER_BYTES - self.filled).min(bytes.len());
            self.header[self.filled..self.filled + wanted].copy_from_slice(&bytes[..wanted]);
            self.filled += wanted;
            bytes = &bytes[wanted..];
            if self.filled == HEADER_BYTES {
                self.filled = 0;
                self.open(&mut tell);
            }
        }
    }

    fn open(&mut self, tell: &mut impl FnMut(u8, u8)) {
        let [kind, length @ ..] = self.header;
        // The length counts itself.
        match (u32::from_be_bytes(length) as usize).checked_sub(4) {
            None => self.is_broken = true,
            Some(0) => tell(kind, 0),
            Some(body) => (self.body, self.announced) = (body, Some(kind)),
        }
    }
}

/// A stream with a tap on it.
#[derive(Debug)]
pub(crate) struct Tapped<Stream> {
    stream: Stream,
    tap: Arc<Tap>,
    sent: Frames,
    received: Frames,
}

impl<Stream> Tapped<Stream> {
    /// To be laid before the first byte has passed.
    pub(crate) fn new(stream: Stream, tap: Arc<Tap>) -> Self {
        Self { stream, tap, sent: Frames::of_client(), received: Frames::of_server() }
    }
}

impl<Stream: AsyncRead + Unpin> AsyncRead for Tapped<Stream> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = into.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, into))?;
        this.received.walk(&into.filled()[before..], |kind, first| this.tap.received(kind, first));
        if this.received.is_broken {
            this.tap.is_broken.store(true, Ordering::Release);
        }
        this.tap.note_heard();
        Poll::Ready(Ok(()))
    }
}

impl<Stream: AsyncWrite + Unpin> AsyncWrite for Tapped<Stream> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = ready!(Pin::new(&mut this.stream).poll_write(context, bytes))?;
        this.sent.walk(&bytes[..written], |kind, _| this.tap.sent(kind));
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).expect("a short body");
        [&[kind], &length.to_be_bytes()[..], body].concat()
    }

    /// What a client sends that logs in and asks by both protocols, and what it is answered.
    fn talk() -> (Vec<u8>, Vec<u8>) {
        let login = &frame(STARTUP, b"user\0pay\0\0")[1..];
        let extended =
            [frame(b'P', b"s1\0SELECT Z\0"), frame(b'E', b"\0\0\0\0\0"), frame(b'S', b"")].concat();
        let asked = [login, &extended, &frame(b'Q', b"BEGIN\0")].concat();
        let answered = [
            frame(b'R', &[0; 4]),
            frame(b'Z', b"I"),
            frame(b'1', b""),
            frame(b'D', b"ZZZZIIIIZ\0\0\0\x05I"),
            frame(b'Z', b"I"),
            frame(b'C', b"BEGIN\0"),
            frame(b'Z', b"T"),
        ];
        (asked, answered.concat())
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let (asked, answered) = talk();
        for piece in 1..=answered.len() {
            let tap = Tap::new();
            let (mut sent, mut received) = (Frames::of_client(), Frames::of_server());
            asked.chunks(piece).for_each(|bytes| sent.walk(bytes, |kind, _| tap.sent(kind)));
            assert_eq!((tap.outstanding(), tap.status()), (3, TransactionStatus::Unknown), "by {piece}");
            answered
                .chunks(piece)
                .for_each(|bytes| received.walk(bytes, |kind, first| tap.received(kind, first)));
            assert_eq!((tap.outstanding(), tap.status()), (0, TransactionStatus::Open), "by {piece}");
            received.walk(&frame(b'Z', b"E"), |kind, first| tap.received(kind, first));
            assert_eq!(tap.status(), TransactionStatus::Failed);
        }
    }

    #[test]
    fn a_copy_by_execute_swallows_one_sync_and_a_copy_by_query_none() {
        for (request, is_owed) in [(b'E', 0), (b'Q', 1)] {
            let tap = Tap::new();
            tap.sent(request);
            if request == b'E' {
                tap.sent(b'S');
            }
            tap.received(b'G', 0);
            assert_eq!(tap.outstanding(), is_owed);
        }
    }

    #[tokio::test]
    async fn what_is_no_frame_leaves_nothing_known() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut server, client) = tokio::io::duplex(64);
        let tap = Arc::new(Tap::new());
        let mut tapped = Tapped::new(client, Arc::clone(&tap));
        server.write_all(&frame(b'Z', b"I")).await.expect("write");
        tapped.read_exact(&mut [0; 6]).await.expect("read");
        assert_eq!(tap.status(), TransactionStatus::Idle);
        server.write_all(&[b'Z', 0, 0, 0, 3, b'I']).await.expect("write");
        tapped.read_exact(&mut [0; 6]).await.expect("read");
        assert_eq!(tap.status(), TransactionStatus::Unknown);
        assert!(!tap.is_clean());
    }
}
