//! The trace exporter against collectors on loopback: one that answers, one that is gone, one that never answers.
#![cfg(feature = "otlp")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use paystrata_monitor::otlp::{Guard, OtlpError, layer};
use tracing_subscriber::layer::SubscriberExt;

/// Only for tests that would hang otherwise.
const FAR_TOO_LONG: Duration = Duration::from_secs(60);

struct Post {
    request_line: String,
    headers: String,
    body: Vec<u8>,
}

impl Post {
    fn mentions(&self, text: &str) -> bool {
        self.body.windows(text.len()).any(|window| window == text.as_bytes())
    }
}

fn listen() -> (TcpListener, String) {
    let listener =
        TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("loopback has a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    (listener, format!("http://{address}"))
}

/// Answers every request with `status` and hands it over; ends with the test's process.
fn collector(status: &'static str) -> (String, Receiver<Post>) {
    let (listener, endpoint) = listen();
    let (sender, posts) = channel();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(post) = connection.and_then(|connection| answer(&connection, status)) else { continue };
            if sender.send(post).is_err() {
                return;
            }
        }
    });
    (endpoint, posts)
}

fn answer(mut connection: &TcpStream, status: &str) -> std::io::Result<Post> {
    let mut reader = BufReader::new(connection);
    let mut request_line = String::new();
    reader.read_line(&mut request_line)?;
    let mut headers = String::new();
    while reader.read_line(&mut headers)? > 2 {}
    let headers = headers.to_ascii_lowercase();
    let length =
        headers.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    write!(connection, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n")?;
    Ok(Post { request_line, headers, body })
}

/// Ends `count` spans of this name; gives the guard of the exporter they went to.
fn trace(endpoint: &str, name: &str, count: usize) -> Guard {
    let (layer, guard) = layer(endpoint, "payments-under-test").expect("the endpoint is valid");
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::with_default(subscriber, || {
        for number in 0..count {
            let span = tracing::info_span!("settle", otel.name = name, number);
            span.in_scope(|| tracing::info!("an event inside"));
            // As the HTTP client's own: must not be exported, or exports would beget exports.
            tracing::info_span!(target: "hyper::client", "from-the-client").in_scope(|| {});
        }
    });
    guard
}

#[test]
fn spans_reach_the_collector_as_protobuf_in_one_batch() {
    let (endpoint, posts) = collector("200 OK");
    let guard = trace(&endpoint, "settle-the-payment", 3);
    guard.flush().unwrap();
    let counts = guard.counts();
    assert_eq!((counts.ended, counts.exported, counts.failed, counts.waiting_or_dropped()), (3, 3, 0, 0));
    guard.shutdown().unwrap();

    let post = posts.recv_timeout(FAR_TOO_LONG).unwrap();
    assert_eq!(post.request_line, "POST /v1/traces HTTP/1.1\r\n");
    assert!(post.headers.contains("content-type: application/x-protobuf\r\n"), "{}", post.headers);
    assert!(post.mentions("settle-the-payment") && post.mentions("payments-under-test"));
    assert!(post.mentions("an event inside"));
    assert!(!post.mentions("from-the-client"));
    assert_eq!(posts.try_iter().count(), 0);
}

#[test]
fn dropping_the_guard_delivers_too() {
    let (endpoint, posts) = collector("200 OK");
    drop(trace(&endpoint, "settle-the-payment", 1));
    assert!(posts.recv_timeout(FAR_TOO_LONG).unwrap().mentions("settle-the-payment"));
}

#[tokio::test(flavor = "current_thread")]
async fn export_and_shutdown_work_while_the_only_worker_is_blocked() {
    let (endpoint, posts) = collector("200 OK");
    trace(&endpoint, "settle-the-payment", 1).shutdown().unwrap();
    assert!(posts.recv_timeout(FAR_TOO_LONG).unwrap().mentions("settle-the-payment"));
}

#[test]
fn a_collector_that_refuses_costs_the_spans_and_nothing_else() {
    let (endpoint, posts) = collector("400 Bad Request");
    let guard = trace(&endpoint, "settle-the-payment", 5);
    assert!(guard.flush().is_err());
    let counts = guard.counts();
    assert_eq!((counts.ended, counts.exported, counts.failed), (5, 0, 5));
    guard.shutdown().unwrap();
    assert_eq!(posts.try_iter().count(), 1);
}

#[test]
fn a_collector_that_is_down_costs_the_spans_and_nothing_else() {
    let (listener, endpoint) = listen();
    drop(listener);
    let guard = trace(&endpoint, "settle-the-payment", 5);
    assert!(guard.flush().is_err());
    let counts = guard.counts();
    assert_eq!((counts.ended, counts.exported, counts.failed), (5, 0, 5));
    guard.shutdown().unwrap();
}

/// Ten thousand spans against a queue of two thousand and a collector that takes connections and says nothing:
/// ending them does not wait, the rest is dropped, and the shutdown gives up in time.
#[test]
fn a_collector_that_never_answers_cannot_hold_up_spans_or_the_shutdown() {
    let (_silent, endpoint) = listen();
    let guard = trace(&endpoint, "settle-the-payment", 10_000);
    let counts = guard.counts();
    assert_eq!((counts.ended, counts.exported), (10_000, 0));
    let error = guard.shutdown_within(Duration::from_millis(50)).unwrap_err();
    assert!(matches!(error, OtlpError::Shutdown(_)), "{error:?}");
}

#[test]
fn an_endpoint_that_is_none_is_refused() {
    let refused = layer::<tracing_subscriber::Registry>("collector", "payments");
    assert!(matches!(refused.err(), Some(OtlpError::Endpoint { .. })));
}
