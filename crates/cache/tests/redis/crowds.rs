//! Single reads of many callers at once, which travel together: each gets its own answer, and what is missing is claimed once.

use futures_util::future::join_all;
use paystrata_cache::{
    RedisServers,
    tier::{Claim, Found, TierError},
};

use super::{
    fixture::{Node, bytes, claim, patient, payload, timeless},
    server::{Cluster, Server},
};

/// More than one command takes.
const READERS: u64 = 300;
const VALUES: u64 = 40;

async fn stored(node: &Node) {
    for number in 0..VALUES {
        node.store(&format!("v{number}"), &format!("value {number}")).await;
    }
}

async fn read_one(node: &Node, key: &str, claim: Option<Claim>) -> Result<Found, TierError> {
    node.share.read_one(&bytes(key), claim).await.map(timeless)
}

/// All at once.
async fn read_values(node: &Node) -> Vec<(u64, Result<Found, TierError>)> {
    join_all((0..READERS).map(async |reader| {
        let number = reader % VALUES;
        (number, read_one(node, &format!("v{number}"), None).await)
    }))
    .await
}

fn found(number: u64) -> Found {
    Found::Value(payload(&format!("value {number}")))
}

#[tokio::test]
async fn a_crowd_finds_its_values_and_claims_each_missing_key_once() {
    let server = Server::start().await;
    let nodes = [Node::on(&server).await, Node::on(&server).await];
    stored(&nodes[0]).await;
    server.ask::<()>("RPUSH test:numbers:list x").await;
    for round in 0..20_u64 {
        let missing = |reader: u64| format!("m{round} {}", reader % 10);
        let answers = join_all((0..READERS).map(async |reader| {
            let node = &nodes[usize::from(reader % 2 == 0)];
            let mine = Some(claim(round * READERS + reader + 1));
            match reader % 3 {
                0 => read_one(node, &format!("v{}", reader % VALUES), mine).await,
                1 => read_one(node, &missing(reader), mine).await,
                _ => read_one(node, "list", None).await,
            }
        }))
        .await;
        let answers: Vec<Found> = answers.into_iter().map(Result::unwrap).collect();
        let mut claims = Vec::new();
        for (reader, answer) in (0..READERS).zip(answers) {
            match (reader % 3, answer) {
                (0, answer) => assert_eq!(answer, found(reader % VALUES)),
                (1, Found::Claimed { .. }) => claims.push(missing(reader)),
                (1, Found::Held { .. }) | (2, Found::Nothing) => {}
                (_, answer) => panic!("reader {reader} got {answer:?}"),
            }
        }
        claims.sort();
        let mut once: Vec<String> = (0..10).map(missing).collect();
        once.sort();
        assert_eq!(claims, once);
    }
}

#[tokio::test]
async fn a_crowd_that_would_claim_looks_together_first() {
    let server = Server::start().await;
    let node = Node::on(&server).await;
    stored(&node).await;
    server.ask::<()>("CONFIG RESETSTAT").await;
    let answers = join_all((0..READERS).map(async |reader| {
        (reader % VALUES, read_one(&node, &format!("v{}", reader % VALUES), Some(claim(reader + 1))).await)
    }))
    .await;
    for (number, answer) in answers {
        assert_eq!(answer, Ok(found(number)));
    }
    let calls = calls_of(&server, "set").await + calls_of(&server, "mget").await;
    assert!(calls < READERS / 4, "{calls} commands for {READERS} reads");
}

/// How often a command ran.
async fn calls_of(server: &Server, command: &str) -> u64 {
    let stats: String = server.ask("INFO commandstats").await;
    let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.and_then(|rest| rest.split(',').next()).map_or(0, |calls| calls.parse().unwrap())
}

#[tokio::test]
async fn what_is_refused_as_a_whole_fails_for_each_and_for_nobody_later() {
    let server = Server::start().await;
    let node = Node::on(&server).await;
    stored(&node).await;
    server.ask::<()>("ACL SETUSER default -mget").await;
    let answers = read_values(&node).await;
    assert!(answers.iter().any(|(_, answer)| answer == &Err(TierError::Failed)), "they went together");
    for (number, answer) in answers.into_iter().filter(|(_, answer)| answer.is_ok()) {
        assert_eq!(answer, Ok(found(number)));
    }
    server.ask::<()>("ACL SETUSER default +mget").await;
    for (number, answer) in read_values(&node).await {
        assert_eq!(answer, Ok(found(number)));
    }
}

#[tokio::test]
async fn a_crowd_on_a_cluster_finds_its_values_in_every_slot() {
    let cluster = Cluster::start().await;
    let node = Node::up(&RedisServers::Cluster { seeds: cluster.urls()[..2].to_vec() }, patient()).await;
    node.settled().await;
    stored(&node).await;
    for (number, answer) in read_values(&node).await {
        assert_eq!(answer, Ok(found(number)));
    }
}
