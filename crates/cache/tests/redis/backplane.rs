//! Messages between nodes: heard, missed, forged, and the bound on staleness while there are none.

use std::time::Duration;

use paystrata_cache::{Policy, Reach, Version};

use crate::{
    node::{Node, eventually, listeners, patient, steady},
    proxy::{Mode, Proxy},
    server::Server,
};

#[tokio::test]
async fn invalidation_reaches_the_other_nodes_l1_and_causes_no_more_writes() {
    let server = Server::start().await;
    let (a, b) = (Node::up(&server.url()).await, Node::up(&server.url()).await);
    a.read_and_store("k", 1).await;
    assert_eq!(b.read("k", 1).await, 1);
    // The first use of a script takes a second call, which brings the server its text.
    assert_eq!(a.cache.invalidate("other").await, Reach::Fleet);
    let calls = server.script_calls().await;
    assert_eq!(a.cache.invalidate_many(["k"], Version(5)).await, Reach::Fleet);
    eventually("it is heard", async || b.cache.get("k").is_none()).await;
    assert_eq!(server.script_calls().await, calls + 1, "one call for the tombstone, none by who hears of it");
    assert_eq!(b.read("k", 2).await, 2);
    assert_eq!((a.cache.stats().gaps, b.cache.stats().gaps), (0, 0));
}

#[tokio::test]
async fn set_and_clear_reach_the_other_nodes() {
    let server = Server::start().await;
    let (a, b) = (Node::up(&server.url()).await, Node::up(&server.url()).await);
    a.read_and_store("k", 1).await;
    assert_eq!(b.read("k", 1).await, 1);
    assert_eq!(a.cache.set("k".to_owned(), 2, Version(5)).await, Reach::Fleet);
    assert_eq!(a.cache.get("k"), Some(2), "a node does not obey its own message");
    eventually("the set is heard", async || b.cache.get("k").is_none()).await;
    assert_eq!(b.read("k", 2).await, 2);
    assert_eq!(a.cache.clear().await, Reach::Fleet);
    eventually("the clear is heard", async || b.cache.get("k").is_none()).await;
    assert_eq!(b.read("k", 3).await, 3, "what was stored before the clear is gone from Redis as well");
}

#[tokio::test]
async fn thousands_of_keys_are_voided_in_a_few_calls() {
    let server = Server::start().await;
    let (a, b) = (Node::up(&server.url()).await, Node::up(&server.url()).await);
    let keys: Vec<String> = (0..3_000).map(|number| format!("k{number}")).collect();
    b.read_and_store("k2999", 1).await;
    let calls = server.script_calls().await;
    assert_eq!(a.cache.invalidate_many(&keys, Version(5)).await, Reach::Fleet);
    assert!(server.script_calls().await - calls <= 7);
    eventually("all are heard", async || b.cache.stats().remote_invalidations == 3_000).await;
    assert_eq!((b.read("k2999", 2).await, b.cache.stats().gaps), (2, 0));
}

/// Captures a message of `from` as it goes over the channel.
async fn capture(server: &Server, from: &Node) -> Vec<u8> {
    let client = redis::Client::open(server.url()).unwrap();
    let mut ear = client.get_async_pubsub().await.unwrap();
    ear.subscribe("test:").await.unwrap();
    from.cache.invalidate_many(["captured"], Version(1)).await;
    let mut messages = ear.on_message();
    loop {
        let message = futures_util::StreamExt::next(&mut messages).await.unwrap();
        // The byte that tells an invalidation.
        if message.get_payload_bytes()[3] == 1 {
            return message.get_payload_bytes().to_vec();
        }
    }
}

async fn publish(server: &Server, bytes: &[u8]) {
    redis::cmd("PUBLISH")
        .arg("test:")
        .arg(bytes)
        .query_async::<()>(&mut server.connect().await)
        .await
        .unwrap();
}

#[tokio::test]
async fn missing_or_unreadable_message_empties_l1() {
    let server = Server::start().await;
    let (a, b) = (Node::up(&server.url()).await, Node::up(&server.url()).await);
    let mut forged = capture(&server, &b).await;
    eventually("it is heard", async || a.cache.stats().remote_invalidations == 1).await;
    assert_eq!(a.read("k", 1).await, 1);

    publish(&server, &forged).await;
    eventually("the repetition is heard", async || a.cache.stats().remote_invalidations == 2).await;
    assert_eq!((a.cache.get("k"), a.cache.stats().gaps), (Some(1), 0), "a repetition is no gap");

    // The sequence stands after the marks and the origin.
    forged[19] += 2;
    publish(&server, &forged).await;
    eventually("the jump is noticed", async || a.cache.stats().gaps == 1).await;
    assert_eq!(a.cache.get("k"), None);

    assert_eq!(a.read("k", 1).await, 1);
    publish(&server, b"something else").await;
    eventually("the nonsense is noticed", async || a.cache.stats().gaps == 2).await;
    assert_eq!(a.cache.get("k"), None);
}

#[tokio::test]
async fn what_was_missed_while_the_subscription_was_down_is_not_served_after() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.port()).await;
    let (a, b) = (Node::up(&proxy.url()).await, Node::up(&server.url()).await);
    a.read_and_store("k", 1).await;
    let before = listeners(&server.url()).await;
    proxy.subscription.send_replace(Mode::Cut);
    eventually("the subscription is gone", async || listeners(&server.url()).await < before).await;
    b.cache.invalidate_many(["k"], Version(5)).await;
    assert_eq!(a.cache.get("k"), Some(1), "nobody has told it yet");
    proxy.subscription.send_replace(Mode::Pass);
    eventually("the gap is noticed", async || a.cache.stats().gaps == 1).await;
    assert_eq!(a.read("k", 2).await, 2);
}

#[tokio::test]
async fn silent_subscription_bounds_the_age_of_what_is_served() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.port()).await;
    let bounded = Policy { max_stale: Duration::from_millis(300), ..steady() };
    let a = Node::up_with(&proxy.url(), patient(), bounded).await;
    let b = Node::up(&server.url()).await;
    a.read_and_store("k", 1).await;
    // Open, but nothing comes through any more.
    proxy.subscription.send_replace(Mode::HoldReplies);
    b.cache.invalidate_many(["k"], Version(5)).await;
    eventually("the entry is not served any more", async || a.cache.get("k").is_none()).await;
    assert_eq!(a.read("k", 2).await, 2);
    proxy.subscription.send_replace(Mode::Pass);
    eventually("it hears again", async || {
        b.cache.invalidate_many(["mark"], Version(6)).await;
        a.cache.stats().remote_invalidations > 0
    })
    .await;
}
