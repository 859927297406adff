//! Bytes in Redis that are no good, and names that need care.

use paystrata_cache::{RedisOptions, RedisTier};
use redis::AsyncCommands;

use crate::{node::Node, server::Server};

const ENTRY: &str = "test:numbers:k";

/// Stores a good value, lets `spoil` at it, and expects a counted miss that mends it.
async fn check_spoilt(spoil: impl AsyncFn(redis::aio::MultiplexedConnection, Vec<u8>), poisoned: u64) {
    let server = Server::start().await;
    let a = Node::up(&server.url()).await;
    a.read_and_store("k", 1).await;
    let mut raw = server.connect().await;
    let bytes: Vec<u8> = raw.get(ENTRY).await.unwrap();
    spoil(raw, bytes).await;

    let b = Node::up(&server.url()).await;
    b.read_and_store("k", 2).await;
    assert_eq!((b.cache.stats().l2_poisoned, b.cache.stats().l2_errors), (poisoned, 0));
    let c = Node::up(&server.url()).await;
    assert_eq!((c.read("k", 3).await, c.calls()), (2, 0));
}

#[tokio::test]
async fn spoilt_entries_are_counted_misses_and_are_overwritten() {
    let flip_last = async |mut raw: redis::aio::MultiplexedConnection, mut bytes: Vec<u8>| {
        *bytes.last_mut().unwrap() ^= 1;
        raw.set::<_, _, ()>(ENTRY, bytes).await.unwrap();
    };
    check_spoilt(flip_last, 1).await;
    let cut_payload = async |mut raw: redis::aio::MultiplexedConnection, bytes: Vec<u8>| {
        raw.set::<_, _, ()>(ENTRY, &bytes[..80]).await.unwrap();
    };
    check_spoilt(cut_payload, 1).await;
}

#[tokio::test]
async fn keys_that_are_not_ours_are_misses_and_are_overwritten() {
    let garbage = async |mut raw: redis::aio::MultiplexedConnection, _: Vec<u8>| {
        raw.set::<_, _, ()>(ENTRY, "garbage").await.unwrap();
    };
    check_spoilt(garbage, 0).await;
    let other_type = async |mut raw: redis::aio::MultiplexedConnection, _: Vec<u8>| {
        raw.del::<_, ()>(ENTRY).await.unwrap();
        raw.lpush::<_, _, ()>(ENTRY, "a list").await.unwrap();
    };
    check_spoilt(other_type, 0).await;
}

#[tokio::test]
async fn keys_of_any_shape_work_and_do_not_collide() {
    let server = Server::start().await;
    let (a, b) = (Node::up(&server.url()).await, Node::up(&server.url()).await);
    let long = "x".repeat(300);
    let keys = ["", " ", "a b", "a\nb", "*", "{}", "{a}b", "\u{e9}\u{1f4b6}", "a:b", "%3A", &long];
    for (value, key) in (0..).zip(keys) {
        a.read_and_store(key, value).await;
    }
    for (value, key) in (0..).zip(keys) {
        assert_eq!(b.read(key, 99).await, value, "{key:?}");
    }
}

#[test]
fn password_is_in_no_debug_print_and_no_error() {
    let secret = "hunter2";
    let url = format!("redis://user:{secret}@127.0.0.1:1/0");
    let tier = RedisTier::connect(&url, RedisOptions::default()).unwrap();
    assert!(!format!("{tier:?}").contains(secret));
    let error = RedisTier::connect(&format!("http://user:{secret}@x"), RedisOptions::default()).unwrap_err();
    assert!(!format!("{error} {error:?}").contains(secret));
}
