//! Redis down, hung, restarted with old data: nobody fails, nothing invalidated comes back.

use std::time::Duration;

use paystrata_cache::{Reach, RedisOptions, Version};

use crate::{
    node::{Node, eventually, patient, steady},
    proxy::{Mode, Proxy},
    server::Server,
};

#[tokio::test]
async fn redis_that_is_down_at_the_start_is_used_once_it_is_up() {
    let mut server = Server::stopped();
    let a = Node::new(&server.url(), patient(), steady());
    assert_eq!(a.read("k", 1).await, 1);
    assert_eq!((a.cache.stats().l2_bypassed, a.tier.is_up()), (1, false));
    server.run().await;
    a.is_up().await;
    a.stores_again().await;
}

#[tokio::test]
async fn hung_redis_is_given_up_and_taken_back() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.port()).await;
    let hasty = RedisOptions { command_timeout: Duration::from_millis(100), ..patient() };
    let a = Node::up_with(&proxy.url(), hasty, steady()).await;
    proxy.all(Mode::HoldReplies);
    let mut reads = 0;
    while a.tier.is_up() {
        reads += 1;
        assert_eq!(a.read(&format!("k{reads}"), reads).await, reads);
    }
    let errors = a.cache.stats().l2_errors;
    assert!(errors > 0);
    assert_eq!(a.read("given up", 1).await, 1);
    assert!(a.cache.stats().l2_bypassed > 0);
    proxy.all(Mode::Pass);
    a.is_up().await;
    a.stores_again().await;
}

#[tokio::test]
async fn invalidation_during_an_outage_wins_here_at_once_and_elsewhere_once_redis_is_back() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.port()).await;
    let hasty = RedisOptions { command_timeout: Duration::from_millis(500), ..patient() };
    let a = Node::up_with(&proxy.url(), hasty, steady()).await;
    let b = Node::up(&server.url()).await;
    a.read_and_store("k", 1).await;
    assert_eq!(b.read("k", 1).await, 1);

    proxy.commands.send_replace(Mode::Cut);
    assert_eq!(a.cache.invalidate_many(["k"], Version(5)).await, Reach::Queued);
    assert_eq!(a.read("k", 2).await, 2);
    assert_eq!((a.cache.stats().pending_invalidations, b.cache.get("k")), (1, Some(1)));
    drop(a.cache.set("k".to_owned(), 3, Version(6)));

    proxy.commands.send_replace(Mode::Pass);
    eventually("the other node is told", async || b.cache.get("k").is_none()).await;
    assert_eq!(b.read("k", 3).await, 3);
    eventually("nothing is pending", async || a.cache.stats().pending_invalidations == 0).await;
    assert_eq!(a.cache.get("k"), Some(3));
}

#[tokio::test]
async fn redis_that_comes_back_is_not_trusted_before_it_knows_what_was_invalidated() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.port()).await;
    // Writes hang while reads of other keys would be answered: the key is pending all the time.
    let a = Node::up(&proxy.url()).await;
    a.read_and_store("k", 1).await;
    proxy.commands.send_replace(Mode::HoldReplies);
    drop(a.cache.invalidate_many(["k"], Version(5)));
    assert_eq!(a.read("k", 2).await, 2);
    assert_eq!((a.cache.stats().l2_bypassed, a.cache.stats().l2_hits), (1, 0));
    proxy.commands.send_replace(Mode::Pass);
}

#[tokio::test]
async fn more_invalidations_than_fit_void_everything_remote() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.port()).await;
    let small =
        RedisOptions { pending_keys_max: 2, command_timeout: Duration::from_millis(500), ..patient() };
    let a = Node::up_with(&proxy.url(), small, steady()).await;
    let b = Node::up(&server.url()).await;
    for key in ["k0", "k1", "k2", "k3"] {
        a.read_and_store(key, 1).await;
        assert_eq!(b.read(key, 1).await, 1);
    }
    proxy.commands.send_replace(Mode::Cut);
    let reach = a.cache.invalidate_many(["k0", "k1", "k2"], Version(5)).await;
    assert_eq!((reach, a.cache.stats().pending_overflows), (Reach::Queued, 1));
    assert_eq!(a.cache.get("k3"), Some(1), "what was not invalidated stays in L1");
    proxy.commands.send_replace(Mode::Pass);
    eventually("all of it is void elsewhere", async || b.cache.get("k3").is_none()).await;
    assert_eq!((b.read("k0", 2).await, b.read("k3", 2).await), (2, 2));
    eventually("nothing is pending", async || a.cache.stats().pending_invalidations == 0).await;
    assert_eq!(a.read("k1", 3).await, 3);
}

#[tokio::test]
async fn restart_with_old_data_brings_nothing_back() {
    let mut server = Server::start().await;
    let hasty = RedisOptions { command_timeout: Duration::from_millis(500), ..patient() };
    let a = Node::up_with(&server.url(), hasty.clone(), steady()).await;
    a.read_and_store("k", 1).await;
    redis::cmd("SAVE").query_async::<()>(&mut server.connect().await).await.unwrap();
    assert_eq!(a.cache.invalidate_many(["k"], Version(5)).await, Reach::Fleet);

    server.kill();
    eventually("the loss is noticed", async || !a.tier.is_up()).await;
    assert_eq!(a.read("meanwhile", 7).await, 7);
    server.run().await;
    let mut raw = server.connect().await;
    let old: bool = redis::cmd("EXISTS").arg("test:numbers:k").query_async(&mut raw).await.unwrap();
    assert!(old, "the old value is back in Redis");
    let b = Node::up_with(&server.url(), hasty, steady()).await;
    assert_eq!(b.read("k", 2).await, 2);
    a.is_up().await;
    eventually("the gap is noticed", async || a.cache.stats().gaps > 0).await;
    assert_ne!(a.read("k", 3).await, 1);
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_sent_again() {
    let server = Server::start().await;
    let a = Node::up(&server.url()).await;
    a.read_and_store("k", 1).await;
    let mut raw = server.connect().await;
    redis::cmd("SCRIPT").arg("FLUSH").query_async::<()>(&mut raw).await.unwrap();
    assert_eq!(a.cache.invalidate_many(["k"], Version(5)).await, Reach::Fleet);
    a.read_and_store("k", 2).await;
    assert_eq!(a.cache.stats().l2_errors, 0);
}

#[tokio::test]
async fn closing_delivers_what_is_pending() {
    let server = Server::start().await;
    let (a, b) = (Node::up(&server.url()).await, Node::up(&server.url()).await);
    assert_eq!(b.read("k", 1).await, 1);
    drop(a.cache.invalidate_many(["k"], Version(5)));
    a.cache.close().await;
    assert_eq!(a.cache.stats().pending_invalidations, 0);
    eventually("it is heard", async || b.cache.get("k").is_none()).await;
    assert_eq!(a.read("k", 2).await, 2, "reads go on");
}

#[tokio::test]
async fn dropped_caches_leave_no_connection_behind() {
    let server = Server::start().await;
    let raw = server.connect().await;
    let clients = async || {
        let text: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut raw.clone()).await.unwrap();
        text.lines().count()
    };
    let before = clients().await;
    let a = Node::up(&server.url()).await;
    a.read_and_store("k", 1).await;
    drop(a);
    eventually("connections are closed", async || clients().await <= before).await;
}
