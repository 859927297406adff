//! Redis Cluster and Sentinel: many slots, slots that move, and failovers.

use paystrata_cache::{
    RedisServers, RedisTier, Version,
    backplane::Swath,
    testkit::whole,
    tier::{Found, Stored, Token, Void, Voiding},
};

use super::{
    fixture::{Node, bytes, claim, claimed, eventually, held, patient, payload, timeless, value},
    server::{Cluster, Server, Watched},
};

async fn on(cluster: &Cluster) -> Node {
    Node::up(&RedisServers::Cluster { seeds: cluster.urls()[..2].to_vec() }, patient()).await
}

async fn slot_of(server: &Server, key: &str) -> u16 {
    server.ask(&format!("CLUSTER KEYSLOT {key}")).await
}

#[tokio::test]
async fn cluster_batches_over_many_slots_equal_single_calls() {
    // T75, T72.
    let cluster = Cluster::start().await;
    let node = on(&cluster).await;
    node.settled().await;
    let names: Vec<String> = (0..500).map(|number| format!("{{same}} {number}")).collect();
    let keys: Vec<_> = names.iter().map(|name| bytes(name)).collect();
    let found = node.share.read(&keys, Some(claim(1))).await.and_then(whole).unwrap();
    assert!(found.iter().all(|found| *found == claimed(0, None)));
    let settlements: Vec<_> = names.iter().map(|name| (bytes(name), Token(1), value(name))).collect();
    assert_eq!(node.share.settle(&settlements[..400]).await.and_then(whole).unwrap(), [Stored::Yes; 400]);
    let voidings = keys[300..450].iter();
    let voidings = voidings.map(|key| Voiding { key: key.clone(), version: Version(7), how: Void::Expire });
    node.share.void(&voidings.collect::<Vec<_>>()).await.and_then(whole).unwrap();
    let batch = node.share.read(&keys, Some(claim(2))).await.and_then(whole).unwrap();
    for ((number, name), found) in names.iter().enumerate().zip(batch) {
        let expected = match number {
            0..300 => Found::Value(payload(name)),
            300..400 => claimed(7, Some(name)),
            400..450 => claimed(7, None),
            _ => held(0, None),
        };
        assert_eq!(timeless(found), expected, "{name}");
        assert_eq!(timeless(node.take(name, claim(2)).await), expected, "{name}");
    }
    // Braces in keys choose no slot: every primary has its share.
    for primary in [0, 5_461, 16_383] {
        let number = cluster.primary_of(primary).await;
        assert!(cluster.nodes[number].ask::<u64>("DBSIZE").await > 50);
    }
}

#[tokio::test]
async fn cluster_line_is_heard_through_any_node() {
    let cluster = Cluster::start().await;
    let nodes = [
        on(&cluster).await,
        Node::up(&RedisServers::Cluster { seeds: cluster.urls()[2..3].to_vec() }, patient()).await,
    ];
    let ears = [nodes[0].ears().await, nodes[1].ears().await];
    for number in 0..100 {
        nodes[number % 2].announce(&number.to_string(), &[(Swath::Tag("a".into()), Void::Remove)]).await;
    }
    for ears in ears {
        eventually("all are heard", async || ears.heard().len() == 100).await;
        assert!(ears.announcements().iter().map(|(sequence, _)| *sequence).eq(1..=100));
    }
    assert_eq!(nodes[1].line.attach().await.unwrap().sweeps.len(), 1);
}

#[tokio::test]
async fn slot_that_moves_is_followed_while_it_moves_and_after() {
    let cluster = Cluster::start().await;
    let node = on(&cluster).await;
    node.settled().await;
    let slot = slot_of(&cluster.nodes[0], "test:numbers:k").await;
    let from = cluster.primary_of(slot).await;
    let to = cluster.primary_of(if slot < 8_000 { 16_383 } else { 0 }).await;
    node.void("k", 5, Void::Remove).await;
    node.store_at_floor("k", 5, "v").await;
    cluster.begin_to_move(slot, from, to).await;
    assert_eq!(timeless(node.look("k").await), Found::Value(payload("v")));
    cluster.move_key("test:numbers:k", from, to).await;
    // On the other server it is another's record: only its floor counts.
    assert_eq!(node.look("k").await, Found::Nothing);
    assert_eq!(node.take("k", claim(1)).await, claimed(5, None));
    cluster.end_move(slot, from, to).await;
    assert_eq!(node.settle("k", 1, value("moved")).await, Stored::Yes);
    assert_eq!(timeless(node.look("k").await), Found::Value(payload("moved")));
}

/// Two keys of one slot.
const NEIGHBOURS: [&str; 2] = ["k0", "k420"];

#[tokio::test]
async fn keys_of_a_slot_that_moves_to_a_server_without_slots_are_voided_where_they_are() {
    let mut cluster = Cluster::start().await;
    let node = on(&cluster).await;
    node.settled().await;
    let slot = slot_of(&cluster.nodes[0], &format!("test:numbers:{}", NEIGHBOURS[0])).await;
    assert_eq!(slot_of(&cluster.nodes[0], &format!("test:numbers:{}", NEIGHBOURS[1])).await, slot);
    for name in NEIGHBOURS {
        node.store(name, "old").await;
    }
    let (from, to) = (cluster.primary_of(slot).await, cluster.join().await);
    cluster.begin_to_move(slot, from, to).await;
    cluster.move_key(&format!("test:numbers:{}", NEIGHBOURS[0]), from, to).await;
    let voidings = || {
        let voiding = |name| Voiding { key: bytes(name), version: Version(9), how: Void::Remove };
        NEIGHBOURS.map(voiding)
    };
    eventually("the server without slots is asked", async || {
        node.share.void(&voidings()).await.and_then(whole).is_ok()
    })
    .await;
    assert_eq!(cluster.nodes[to].ask::<u64>("DBSIZE").await, 1, "none is made where it is not");
    let keys = NEIGHBOURS.map(bytes);
    let found = node.share.read(&keys, Some(claim(1))).await.and_then(whole).unwrap();
    assert_eq!(found, [claimed(9, None), claimed(9, None)]);
    cluster.move_key(&format!("test:numbers:{}", NEIGHBOURS[1]), from, to).await;
    cluster.end_move(slot, from, to).await;
    eventually("the map is followed", async || {
        let found = node.share.read(&keys, None).await.and_then(whole);
        found.is_ok_and(|found| found == [Found::Nothing, Found::Nothing])
    })
    .await;
}

#[tokio::test]
async fn line_is_used_while_its_slot_moves() {
    let mut cluster = Cluster::start().await;
    let node = on(&cluster).await;
    node.settled().await;
    let slot = slot_of(&cluster.nodes[0], "{test:numbers}:line").await;
    let (from, to) = (cluster.primary_of(slot).await, cluster.join().await);
    // It has neither tags nor prefixes, and no log yet.
    node.line.attach().await.unwrap();
    cluster.begin_to_move(slot, from, to).await;
    let before = node.announce("before", &[(Swath::Tag("a".into()), Void::Remove)]).await;
    assert_eq!(before.sequence, 1);
    for kind in ["line", "tags", "prefixes", "log"] {
        cluster.move_key(&format!("{{test:numbers}}:{kind}"), from, to).await;
    }
    let body = bytes("beat");
    eventually("it is used where it has gone", async || node.line.pulse(&body).await.is_ok()).await;
    node.announce("after", &[(Swath::Tag("b".into()), Void::Remove)]).await;
    assert_eq!(node.line.attach().await.unwrap().sweeps.len(), 1, "another server's line begins anew");
    cluster.end_move(slot, from, to).await;
    eventually("the map is followed", async || node.line.pulse(&body).await.is_ok()).await;
}

#[tokio::test]
async fn cluster_failover_brings_nothing_old_back() {
    let mut cluster = Cluster::start().await;
    let node = on(&cluster).await;
    node.settled().await;
    let names: Vec<String> = (0..60).map(|number| format!("key {number}")).collect();
    for name in &names {
        node.store(name, "old").await;
    }
    // The replicas have it all.
    let victim = cluster.primary_of(0).await;
    cluster.nodes[victim].is_replicated().await;
    let keys: Vec<_> = names.iter().map(|name| bytes(name)).collect();
    cluster.nodes[victim].kill();
    // The other shards go on meanwhile.
    let found = node.share.read(&keys, None).await.unwrap();
    assert!(found.iter().any(|found| matches!(found, Ok(Found::Value(_)))));
    assert!(found.iter().any(Result::is_err), "its keys are not taken for absent");
    eventually("a replica has taken over", async || {
        let voidings =
            keys.iter().map(|key| Voiding { key: key.clone(), version: Version::NONE, how: Void::Expire });
        // It must come to succeed for all.
        node.share.void(&voidings.collect::<Vec<_>>()).await.and_then(whole).is_ok()
    })
    .await;
    let found = node.share.read(&keys, Some(claim(2))).await.and_then(whole).unwrap();
    let mut blind = 0;
    for found in found {
        match timeless(found) {
            // Another server's: its payload is not even a fallback.
            Found::Claimed { floor, fallback: None } => {
                assert_eq!(floor, Version::LATEST);
                blind += 1;
            }
            Found::Claimed { fallback, .. } => assert_eq!(fallback, Some(payload("old"))),
            found => panic!("{found:?}"),
        }
    }
    assert!(blind > 5 && blind < 55, "{blind}");
}

#[tokio::test]
async fn sentinel_failover_is_followed_and_brings_nothing_old_back() {
    let mut watched = Watched::start().await;
    let servers = RedisServers::Sentinel {
        sentinels: watched.sentinel_urls(),
        service: "pay".to_owned(),
        login: "redis://unused".to_owned(),
    };
    let node = Node::up(&servers, patient()).await;
    let ears = node.ears().await;
    node.store("k", "old").await;
    let before = node.announce("before", &[]).await;
    watched.servers[0].is_replicated().await;
    watched.servers[0].kill();
    eventually("the loss is noticed", async || !node.share.is_up()).await;
    node.is_up().await;
    assert!(
        watched.servers[1].ask::<bool>("EXISTS test:numbers:k").await,
        "the new primary has the old data"
    );
    assert_eq!(node.look("k").await, Found::Nothing);
    assert_eq!(node.take("k", claim(1)).await, claimed(u64::MAX, None));
    assert_eq!(node.line.replay(before).await.unwrap(), None);
    // A node that comes now does not know since when it is the primary.
    let newcomer = Node::up(&servers, patient()).await;
    assert_eq!(newcomer.take("other", claim(1)).await, claimed(u64::MAX, None));
    eventually("it hears again", async || {
        node.line.pulse(&bytes("beat")).await.unwrap();
        !ears.heard().is_empty() && ears.interruptions().len() >= 3
    })
    .await;
}

#[tokio::test]
async fn password_is_in_no_debug_and_no_error() {
    // P11.
    let server = Server::start().await;
    server.ask::<()>("CONFIG SET requirepass hunter2secret").await;
    let url = format!("redis://:hunter2secret@127.0.0.1:{}/not a number", server.port());
    let servers = RedisServers::Single { url: url.clone() };
    let error = RedisTier::open(&servers, patient()).unwrap_err();
    let wrong = RedisServers::Single { url: format!("redis://:hunter2wrong@127.0.0.1:{}", server.port()) };
    let node = Node::new(&wrong, patient());
    let failed = node.share.read(&[bytes("k")], None).await.and_then(whole);
    let seen = format!(
        "{servers:?} {error:?} {error} {wrong:?} {:?} {:?} {:?} {failed:?}",
        node.tier, node.share, node.line
    );
    assert!(!seen.contains("hunter2"), "{seen}");
}
