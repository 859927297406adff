//! Servers that answer what no memcached answers, half of it, or nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use paystrata_cache::{
    memcached::{MemcachedOptions, MemcachedTier},
    testkit::whole,
    tier::{Found, Tier, TierError, TierShare},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::server::{LIMIT, tier, until, until_up};

/// Greets like a memcached, then answers every command alike. Counts its connections.
async fn liar(answer: &'static [u8], then: Then) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve(stream, answer, then));
        }
    });
    (address, connections)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Close,
    Stay,
}

async fn serve(mut stream: TcpStream, answer: &'static [u8], then: Then) -> Option<()> {
    let mut words = vec![0; 4_096];
    if stream.read(&mut words).await.ok()? == 0 {
        return None;
    }
    stream.write_all(b"STAT item_size_max 1048576\r\nEND\r\nMN\r\n").await.ok()?;
    while stream.read(&mut words).await.ok()? > 0 {
        stream.write_all(answer).await.ok()?;
        if then == Then::Close {
            return None;
        }
    }
    None
}

#[tokio::test]
async fn after_an_answer_that_is_none_the_connection_is_closed_and_another_made() {
    for (answer, then) in [
        (&b"VA 3 c1 t9 O7777\r\nabc\r\n"[..], Then::Stay),
        (b"VA 3 c1 t9 O0\r\nabcdef", Then::Stay),
        (b"VA 300 c1 t9 O0\r\nabc", Then::Close),
        (b"VA", Then::Close),
        (b"", Then::Close),
        (b"EN\r\nEN\r\n", Then::Stay),
        (b"ERROR\r\n", Then::Stay),
        (b"CLIENT_ERROR bad command line format\r\n", Then::Stay),
        (b"\0\0\0\0\r\n", Then::Stay),
    ] {
        let (address, connections) = liar(answer, then).await;
        let tier = tier(&[address]);
        let share = tier.share("c");
        until(async || connections.load(Ordering::SeqCst) == 2 && share.is_up()).await;
        let keys = [Bytes::from_static(b"k")];
        let found = share.read(&keys, None).await.and_then(whole);
        // Two answers to one question: the first counts, and then no more is believed.
        let expected =
            if answer.starts_with(b"EN") { Ok(vec![Found::Nothing]) } else { Err(TierError::Failed) };
        assert_eq!(found, expected, "{:?}", String::from_utf8_lossy(answer));
        until(async || connections.load(Ordering::SeqCst) > 2).await;
    }
}

/// A cache's share, over one connection to a server that never answers, and the number of connections that it has had.
async fn silent(command_timeout: Duration) -> (Arc<dyn TierShare>, Arc<AtomicUsize>) {
    let (address, connections) = liar(b"", Then::Stay).await;
    let options = MemcachedOptions { command_timeout, connections: 1, ..MemcachedOptions::default() };
    let tier = MemcachedTier::connect(&address, options).unwrap();
    let share = tier.share("c");
    until_up(&tier, &[true]).await;
    (share, connections)
}

#[tokio::test]
async fn a_server_that_falls_silent_is_given_up() {
    let (share, connections) = silent(Duration::from_millis(20)).await;
    let keys = [Bytes::from_static(b"k")];
    for _ in 0..3 {
        assert_eq!(share.read(&keys, None).await.and_then(whole), Err(TierError::TimedOut));
    }
    until(async || connections.load(Ordering::SeqCst) > 1).await;
}

#[tokio::test]
async fn a_silent_server_is_given_up_though_each_caller_goes_before_its_time() {
    let (share, connections) = silent(Duration::from_millis(100)).await;
    let keys = [Bytes::from_static(b"k")];
    until(async || {
        let asked = share.read(&keys, None);
        let gone =
            tokio::time::timeout(Duration::from_millis(30), asked).await.map(|read| read.and_then(whole));
        // In the end there is no connection, until there is another.
        assert!(!matches!(gone, Ok(Ok(_) | Err(TierError::TimedOut))), "{gone:?}");
        connections.load(Ordering::SeqCst) > 1
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_breaks_answers_everybody_who_waits() {
    let (address, _connections) = liar(b"VA 300 c1 t9 O0\r\nabc", Then::Close).await;
    let tier = tier(&[address]);
    let share = tier.share("c");
    until_up(&tier, &[true]).await;
    let calls = (0..500).map(|number| {
        let share = Arc::clone(&share);
        async move { share.read(&[Bytes::from(format!("{number}"))], None).await.and_then(whole) }
    });
    let answers = tokio::time::timeout(LIMIT, join_all(calls)).await.expect("all are answered");
    assert!(answers.iter().all(|answer| matches!(answer, Err(TierError::Failed | TierError::Down))));
}
