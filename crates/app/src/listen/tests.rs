//! Connections over loopback: refused, cut, drained. The waits here are bounds on failure, not measurements.

use std::net::SocketAddr;

use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

/// Far beyond what any step here takes.
const FAR: Duration = Duration::from_secs(30);
const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Together larger than what the send and receive buffers of a loopback connection hold.
const LARGE_PIECES: usize = 1_024;
const PIECE_BYTES: usize = 64 * 1024;

struct Stage {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
    /// `/gate` answers once per permit.
    gate: Arc<Semaphore>,
    /// One permit per request that reached `/gate`.
    arrived: Arc<Semaphore>,
}

const REFUSAL: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nfull";

fn refusal() -> Vec<u8> {
    REFUSAL.as_bytes().to_vec()
}

const PATIENT: ConnectionLimits = ConnectionLimits {
    connections_max: 16,
    first_request_timeout: FAR,
    idle_timeout: FAR,
    linger: FAR,
    refusal,
};
/// Passes soon, and is yet far longer than a client here is kept from sending what it has.
const SHORT: Duration = Duration::from_millis(500);

async fn serve(limits: ConnectionLimits) -> Stage {
    let (gate, arrived) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (waits, tells) = (Arc::clone(&gate), Arc::clone(&arrived));
    let gated = move || async move {
        tells.add_permits(1);
        waits.acquire().await.expect("never closed").forget();
        "through"
    };
    let large = || async {
        let piece = Bytes::from(vec![b'x'; PIECE_BYTES]);
        let pieces = (0..LARGE_PIECES).map(move |_| Ok::<_, Infallible>(piece.clone()));
        Body::from_stream(futures_util::stream::iter(pieces))
    };
    let router = Router::new()
        .route("/", get(|| async { "here" }))
        .route("/gate", get(gated))
        .route("/large", get(large));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let task = tokio::spawn(listen(listener, router, limits, stop.clone()));
    Stage { address, stop, task, gate, arrived }
}

impl Stage {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Asks until a connection is let in: the server learns a moment later that another has gone.
    async fn place_is_free(&self) {
        let deadline = Instant::now() + FAR;
        loop {
            let mut next = self.connect().await;
            let _ = next.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
            if read_all(&mut next).await.ends_with(b"here") {
                return;
            }
            assert!(Instant::now() < deadline, "the place is never free again");
        }
    }

    async fn ended(self) {
        timeout(FAR, self.task).await.expect("drained").unwrap();
    }
}

/// Reads until `end` was received.
async fn read_to(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        let mut chunk = [0; 1_024];
        let count = timeout(FAR, stream.read(&mut chunk)).await.expect("an answer").unwrap();
        assert!(count > 0, "closed after {text:?}");
        text.push_str(std::str::from_utf8(&chunk[..count]).unwrap());
    }
    text
}

/// Reads until the server closes; a reset says the same as an orderly end.
async fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = timeout(FAR, stream.read_to_end(&mut bytes)).await.expect("the server closes");
    bytes
}

#[tokio::test]
async fn a_connection_over_the_bound_is_refused_and_the_place_of_one_that_left_is_free() {
    let stage = serve(ConnectionLimits { connections_max: 1, ..PATIENT }).await;
    let mut first = stage.connect().await;
    first.write_all(GET).await.unwrap();
    read_to(&mut first, "here").await;
    let refusal = String::from_utf8(read_all(&mut stage.connect().await).await).unwrap();
    assert_eq!(refusal, REFUSAL);
    drop(first);
    stage.place_is_free().await;
}

#[tokio::test]
async fn clients_without_a_first_request_are_cut() {
    let stage = serve(ConnectionLimits { first_request_timeout: SHORT, ..PATIENT }).await;
    for part in [b"".as_slice(), b"GET / HT", &GET[..20], &HTTP2[..10], HTTP2] {
        let mut stream = stage.connect().await;
        stream.write_all(part).await.unwrap();
        read_all(&mut stream).await;
    }
}

#[tokio::test]
async fn idle_connections_are_closed_and_busy_ones_are_not() {
    let limits = ConnectionLimits { first_request_timeout: SHORT, idle_timeout: SHORT, ..PATIENT };
    let stage = serve(limits).await;
    let mut busy = stage.connect().await;
    busy.write_all(b"GET /gate HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    stage.arrived.acquire().await.unwrap().forget();
    for part in [b"".as_slice(), &GET[..20]] {
        let mut idle = stage.connect().await;
        idle.write_all(GET).await.unwrap();
        read_to(&mut idle, "here").await;
        idle.write_all(part).await.unwrap();
        assert_eq!(read_all(&mut idle).await, b"", "no second answer");
    }
    stage.gate.add_permits(1);
    read_to(&mut busy, "through").await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_is_cut() {
    let short =
        ConnectionLimits { first_request_timeout: SHORT, idle_timeout: SHORT, linger: SHORT, ..PATIENT };
    let stage = serve(ConnectionLimits { connections_max: 1, ..short }).await;
    let mut stream = stage.connect().await;
    stream.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    stream.read_exact(&mut [0; 15]).await.unwrap();
    stage.place_is_free().await;
    assert!(read_all(&mut stream).await.len() < LARGE_PIECES * PIECE_BYTES);
}

#[tokio::test]
async fn draining_lets_requests_end_closes_idle_connections_and_cuts_silent_ones() {
    let stage = serve(ConnectionLimits { linger: SHORT, ..PATIENT }).await;
    let mut idle = stage.connect().await;
    idle.write_all(GET).await.unwrap();
    read_to(&mut idle, "here").await;
    let mut half = stage.connect().await;
    half.write_all(GET).await.unwrap();
    read_to(&mut half, "here").await;
    half.write_all(&GET[..20]).await.unwrap();
    let mut silent = stage.connect().await;
    silent.write_all(HTTP2).await.unwrap();
    // Its settings: the connection is served. It will not answer the ping of a graceful end.
    silent.read_exact(&mut [0; 9]).await.unwrap();
    let mut busy = stage.connect().await;
    busy.write_all(b"GET /gate HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    stage.arrived.acquire().await.unwrap().forget();
    stage.stop.cancel();
    for stream in [&mut idle, &mut half, &mut silent] {
        read_all(stream).await;
    }
    assert!(TcpStream::connect(stage.address).await.is_err(), "nobody new is let in");
    assert!(!stage.task.is_finished(), "one request is still in hand");
    stage.gate.add_permits(1);
    let answer = String::from_utf8(read_all(&mut busy).await).unwrap();
    assert!(answer.ends_with("through") && answer.contains("connection: close"), "{answer}");
    stage.ended().await;
}

#[tokio::test]
async fn dropping_the_listener_cuts_what_is_left() {
    let stage = serve(PATIENT).await;
    let mut busy = stage.connect().await;
    busy.write_all(b"GET /gate HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    stage.arrived.acquire().await.unwrap().forget();
    stage.task.abort();
    assert_eq!(read_all(&mut busy).await, b"");
}
