//! The remote tier's leases and tombstones: what is stored, by whom, and what is refused.

use std::{convert::Infallible, time::Duration};

use paystrata_cache::{CacheError, LoadContext, Policy, Reach, RedisOptions, Version};

use crate::{
    node::{Node, eventually, patient, steady},
    proxy::{Mode, Proxy},
    server::Server,
};

#[tokio::test]
async fn what_one_node_loads_the_other_reads() {
    let server = Server::start().await;
    let (a, b) = (Node::up(&server.url()).await, Node::up(&server.url()).await);
    a.read_and_store("k", 1).await;
    assert_eq!(b.read("k", 2).await, 1);
    assert_eq!((b.calls(), b.cache.stats().l2_hits), (0, 1));

    let nothing = |_| async { Ok::<_, Infallible>(None) };
    assert_eq!(a.cache.get_or_load("absent", nothing).await.unwrap(), None);
    eventually("absence is stored", async || a.cache.stats().l2_stored == 2).await;
    let load = |_| async { Ok::<_, Infallible>(Some(9)) };
    assert_eq!(b.cache.get_or_load("absent", load).await.unwrap(), None);
}

#[tokio::test]
async fn caches_and_namespaces_on_one_server_do_not_mix() {
    let server = Server::start().await;
    let a = Node::up(&server.url()).await;
    let other = paystrata_cache::Cache::<String, u64>::builder("others").redis(&a.tier).build();
    let elsewhere = Node::new(
        &server.url(),
        RedisOptions { namespace: "test:numbers".to_owned(), ..patient() },
        steady(),
    );
    elsewhere.is_up().await;
    a.read_and_store("k", 1).await;
    let two = other.get_or_load("k", |_| async { Ok::<_, Infallible>(Some(2)) }).await.unwrap();
    assert_eq!((two, elsewhere.read("k", 3).await), (Some(2), 3));
    assert_eq!(a.cache.clear().await, Reach::Fleet);
    assert_eq!((a.cache.get("k"), other.get("k"), elsewhere.cache.get("k")), (None, Some(2), Some(3)));
}

#[tokio::test]
async fn local_copy_ends_no_later_than_the_remote_one() {
    let server = Server::start().await;
    let short = Policy { ttl: Duration::from_millis(700), ..steady() };
    let a = Node::up_with(&server.url(), patient(), short).await;
    let b = Node::up(&server.url()).await;
    a.read_and_store("k", 1).await;
    assert_eq!(b.read("k", 2).await, 1);
    let mut raw = server.connect().await;
    loop {
        let exists: bool = redis::cmd("EXISTS").arg("test:numbers:k").query_async(&mut raw).await.unwrap();
        if !exists {
            break;
        }
    }
    assert_eq!(b.cache.get("k"), None);
}

#[tokio::test]
async fn value_loaded_before_another_nodes_invalidation_is_not_stored_remotely() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.port()).await;
    // A does not hear of it, so that only the lease can keep it from storing.
    let (a, b) = (Node::up(&proxy.url()).await, Node::up(&server.url()).await);
    let (go, old) = a.begin_read("k", 1).await;
    proxy.subscription.send_replace(Mode::HoldReplies);
    assert_eq!(b.cache.invalidate_many(["k"], Version(5)).await, Reach::Fleet);
    go.notify_one();
    assert_eq!(old.await.unwrap(), Some(1));
    eventually("the late set is refused", async || a.cache.stats().refused_stale_sets == 1).await;
    assert_eq!(b.read("k", 2).await, 2);
    assert_eq!(a.cache.stats().l2_stored, 0);
}

/// Ends the highest floor that the first contact with a server sets for a while, as time would.
async fn end_first_contact(server: &Server, node: &Node) {
    node.cache.invalidate_many(["first contact"], Version(1)).await;
    let mut raw = server.connect().await;
    let record: String = redis::cmd("GET").arg("test:numbers").query_async(&mut raw).await.unwrap();
    // The floor and its end stand after the run id and the epoch.
    let record = format!("{}{}{}", &record[..56], "0".repeat(30), &record[86..]);
    redis::cmd("SET").arg("test:numbers").arg(record).query_async::<()>(&mut raw).await.unwrap();
}

/// The floor that the loader of `key` is told on a node that has heard of nothing.
async fn floor_for_a_newcomer(server: &Server, key: &str) -> Option<Version> {
    let newcomer = Node::up(&server.url()).await;
    let floor = |context: LoadContext| async move { Ok::<_, Infallible>(Some(context.floor().0)) };
    newcomer.cache.get_or_load(key, floor).await.unwrap().map(Version)
}

#[tokio::test]
async fn floor_of_an_invalidation_reaches_loaders_that_never_heard_of_it() {
    let server = Server::start().await;
    let a = Node::up(&server.url()).await;
    end_first_contact(&server, &a).await;
    a.cache.invalidate_many(["k"], Version(5)).await;
    a.cache.invalidate_many(["k"], Version(4)).await;
    assert_eq!(floor_for_a_newcomer(&server, "k").await, Some(Version(5)));
    assert_eq!(floor_for_a_newcomer(&server, "other").await, Some(Version::NONE));
}

#[tokio::test]
async fn clear_takes_tombstones_away_and_not_their_floors() {
    let server = Server::start().await;
    let a = Node::up(&server.url()).await;
    end_first_contact(&server, &a).await;
    a.cache.invalidate_many(["k"], Version(5)).await;
    a.cache.invalidate_many(["other"], Version(3)).await;
    a.cache.clear().await;
    assert_eq!(floor_for_a_newcomer(&server, "k").await, Some(Version(5)));
    assert_eq!(floor_for_a_newcomer(&server, "any").await, Some(Version(5)));
}

#[tokio::test]
async fn first_contact_with_a_server_asks_loaders_for_the_latest() {
    let server = Server::start().await;
    let a = Node::up(&server.url()).await;
    let floor = |context: LoadContext| async move { Ok::<_, Infallible>(Some(context.floor().0)) };
    let seen = a.cache.get_or_load("k", floor).await.unwrap();
    assert_eq!(seen.map(Version), Some(Version::LATEST), "tombstones of another server may be lost");
}

#[tokio::test]
async fn reply_from_before_an_invalidation_is_not_kept_when_it_comes_late() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.port()).await;
    let (a, b) = (Node::up(&proxy.url()).await, Node::up(&server.url()).await);
    b.read_and_store("k", 1).await;
    proxy.commands.send_replace(Mode::HoldReplies);
    let calls = server.script_calls().await;
    let late = tokio::spawn({
        let cache = a.cache.clone();
        async move { cache.get_or_load("k", |_| async { Ok::<_, Infallible>(Some(9)) }).await.unwrap() }
    });
    eventually("redis has served the read", async || server.script_calls().await > calls).await;
    b.cache.invalidate_many(["k"], Version(5)).await;
    eventually("the node has heard", async || a.cache.stats().remote_invalidations == 1).await;
    proxy.commands.send_replace(Mode::Pass);
    assert_eq!(late.await.unwrap(), Some(1));
    assert_eq!(a.cache.get("k"), None);
    assert_eq!(a.read("k", 2).await, 2);
}

#[tokio::test]
async fn one_of_two_nodes_loads_while_the_other_waits_for_it() {
    let server = Server::start().await;
    let a = Node::up(&server.url()).await;
    let waits = Policy { lease_wait: Duration::from_secs(20), ..steady() };
    let b = Node::up_with(&server.url(), patient(), waits).await;
    let (go, first) = a.begin_read("k", 1).await;
    let calls = server.script_calls().await;
    let second = async {
        let value = b.read("k", 2).await;
        (value, b.calls())
    };
    let let_go = async {
        eventually("the other node asks", async || server.script_calls().await > calls + 2).await;
        go.notify_one();
    };
    let (second, ()) = tokio::join!(second, let_go);
    assert_eq!((first.await.unwrap(), second), (Some(1), (1, 0)));
}

#[tokio::test]
async fn node_that_does_not_wait_loads_without_storing() {
    let server = Server::start().await;
    let (a, b) = (Node::up(&server.url()).await, Node::up(&server.url()).await);
    let (go, first) = a.begin_read("k", 1).await;
    assert_eq!(b.read("k", 2).await, 2);
    go.notify_one();
    assert_eq!(first.await.unwrap(), Some(1));
    eventually("the holder stores", async || a.cache.stats().l2_stored == 1).await;
    assert_eq!((b.cache.stats().l2_held, b.cache.stats().l2_stored), (1, 0));
}

#[tokio::test]
async fn failed_load_gives_its_lease_back() {
    let server = Server::start().await;
    let (a, b) = (Node::up(&server.url()).await, Node::up(&server.url()).await);
    let failed = a.cache.get_or_load("k", |_| async { Err::<Option<u64>, _>("broken") }).await;
    assert!(matches!(failed, Err(CacheError::Load(_))));
    let raw = server.connect().await;
    let gone = async || {
        let exists = redis::cmd("EXISTS").arg("test:numbers:k").query_async(&mut raw.clone()).await;
        !exists.unwrap_or(true)
    };
    eventually("the lease is gone", gone).await;
    b.read_and_store("k", 2).await;
}

#[tokio::test]
async fn load_voided_by_a_gap_gives_its_lease_back() {
    let server = Server::start().await;
    let (a, b) = (Node::up(&server.url()).await, Node::up(&server.url()).await);
    let (go, read) = a.begin_read("k", 1).await;
    let mut raw = server.connect().await;
    redis::cmd("PUBLISH").arg("test:").arg("nonsense").query_async::<()>(&mut raw).await.unwrap();
    eventually("the gap is noticed", async || a.cache.stats().gaps == 1).await;
    go.notify_one();
    assert_eq!(read.await.unwrap(), Some(1));
    assert_eq!(a.cache.get("k"), None);
    let gone = async || {
        let exists = redis::cmd("EXISTS").arg("test:numbers:k").query_async(&mut raw.clone()).await;
        !exists.unwrap_or(true)
    };
    eventually("the lease is gone", gone).await;
    b.read_and_store("k", 2).await;
}

#[tokio::test]
async fn lease_of_a_dead_node_ends_by_itself() {
    let server = Server::start().await;
    let hasty = Policy { load_timeout: Duration::from_millis(50), ..steady() };
    let quick = RedisOptions { command_timeout: Duration::from_millis(200), ..patient() };
    let proxy = Proxy::to(server.port()).await;
    let a = Node::up_with(&proxy.url(), quick, hasty).await;
    // Keeps nothing in L1, so that each read asks Redis.
    let b = Node::up_with(&server.url(), patient(), Policy { l1_ttl: Duration::ZERO, ..steady() }).await;
    let (_go, lost) = a.begin_read("k", 1).await;
    // It can neither store nor release.
    proxy.all(Mode::Cut);
    assert_eq!(b.read("k", 2).await, 2);
    let stores = async || {
        b.read("k", 2).await;
        b.cache.stats().l2_stored > 0
    };
    eventually("the living node gets the lease", stores).await;
    lost.abort();
}
