//! P2 and P3 without faults but under contention: hot accounts, two nodes, one key on both nodes at once.

use std::collections::BTreeSet;

use reqwest::StatusCode;
use serde_json::json;
use tokio::task::JoinSet;

use crate::caller::{book_payment, new_key};
use crate::ground::{Ground, number, seeded};
use crate::load::{Crowd, OnTrouble, Plan, Told, prove, references};

/// Small enough that many payments fail for want of it.
const OPENING_BALANCE: i64 = 100;
const ACCOUNTS: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_clients_on_ten_hot_accounts_of_two_nodes_conserve_money() {
    let mut random = seeded();
    let ground = Ground::new().await;
    let nodes = [ground.serve(&[]).await, ground.serve(&[]).await];
    let callers = nodes.each_ref().map(|node| node.caller.clone());
    let accounts = callers[0].accounts(ACCOUNTS, OPENING_BALANCE).await;
    let plan = Plan { accounts, clients: 64, payments_each: 12, on_trouble: OnTrouble::Stay };
    let mut asked = Crowd::start(&callers, &plan, &mut random).finish().await;
    let mut statuses = BTreeSet::new();
    for one in &asked {
        let Told::Done(reply) = &one.told else { panic!("no fault explains {:?}", one.told) };
        statuses.insert(reply.json()["status"].to_string());
    }
    assert_eq!(statuses, BTreeSet::from(["\"failed\"".to_owned(), "\"succeeded\"".to_owned()]));
    prove(&callers[1], &ground.primary_url, &mut asked).await;
    ground.verify().await;
    let total = "SELECT sum(posted)::int8 FROM accounts WHERE overdraft_limit = 0";
    assert_eq!(
        number(&ground.primary_url, total).await,
        OPENING_BALANCE * i64::try_from(ACCOUNTS).expect("a few")
    );
    for node in nodes {
        node.service.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_sent_to_two_nodes_at_once_pays_once_with_one_answer() {
    const PAIRS: usize = 120;
    let ground = Ground::new().await;
    let nodes = [ground.serve(&[]).await, ground.serve(&[]).await];
    let callers = nodes.each_ref().map(|node| node.caller.clone());
    let accounts = callers[0].accounts(4, 1_000_000).await;
    let mut pairs = JoinSet::new();
    for index in 0..PAIRS {
        let key = new_key();
        let body = book_payment(&accounts[index % 4], &accounts[(index + 1) % 4], 5, &key);
        let [left, right] = callers.clone();
        pairs.spawn(async move {
            let path = "/v1/payments";
            let (left, right) = tokio::join!(left.post(path, &key, &body), right.post(path, &key, &body));
            (key, left.expect("an answer"), right.expect("an answer"))
        });
    }
    let mut keys = BTreeSet::new();
    while let Some(pair) = pairs.join_next().await {
        let (key, left, right) = pair.expect("the pair ends");
        assert_eq!(left.status, StatusCode::CREATED, "{}", left.json());
        assert_eq!((left.status, &left.bytes), (right.status, &right.bytes));
        assert_eq!(left.json()["status"], json!("succeeded"));
        let replayed =
            [&left, &right].iter().filter(|reply| reply.headers.contains_key("idempotent-replayed")).count();
        assert_eq!(replayed, 1, "one of the two is a replay");
        keys.insert(key);
    }
    let stored = references(&ground.primary_url).await;
    assert_eq!(stored.keys().cloned().collect::<BTreeSet<_>>(), keys);
    assert!(stored.values().all(|count| *count == 1));
    ground.verify().await;
    for node in nodes {
        node.service.stop().await;
    }
}
