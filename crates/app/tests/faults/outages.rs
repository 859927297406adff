//! P1, P8, P9: the primary crashes or hangs in the middle of load. The service answers within bounds, promises nothing it
//! does not keep, and goes on by itself when the primary is back.

use reqwest::StatusCode;
use serde_json::json;

use crate::caller::{book_payment, new_key, posted};
use crate::cluster::{Cluster, Replica};
use crate::ground::{Ground, rows, seeded, sql, until};
use crate::load::{Crowd, OnTrouble, Plan, prove};
use crate::proxy::{Mode, Proxy};

/// Short waits, so that answers during an outage come soon.
const SHORT_WAITS: [(&str, &str); 4] = [
    ("ENGINE__QUEUE_TIMEOUT_MS", "500"),
    ("DB__STATEMENT_TIMEOUT_MS", "1000"),
    ("DB__CONNECT_TIMEOUT_MS", "1000"),
    ("DB__ACQUIRE_TIMEOUT_MS", "500"),
];

fn plan(accounts: Vec<String>) -> Plan {
    Plan { accounts, clients: 16, payments_each: usize::MAX, on_trouble: OnTrouble::Stay }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crashed_primary_loses_nothing_acknowledged_and_is_used_again_when_it_is_back() {
    let mut random = seeded();
    let cluster = Cluster::start(Replica::Without);
    let ground = Ground::on(&cluster.primary_url(), "").await;
    let node = ground.serve(&SHORT_WAITS).await;
    let accounts = node.caller.accounts(8, 100_000).await;
    let crowd = Crowd::start(std::slice::from_ref(&node.caller), &plan(accounts), &mut random);
    for _ in 0..2 {
        crowd.progress(50).await;
        tokio::task::block_in_place(|| cluster.crash_primary());
        crowd.trouble(20).await;
        tokio::task::block_in_place(|| cluster.boot_primary());
    }
    crowd.progress(50).await;
    let mut asked = crowd.end().await;
    prove(&node.caller, &ground.primary_url, &mut asked).await;
    ground.verify().await;
    node.service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_primary_gives_refusals_within_bounds_and_is_used_again_when_it_wakes() {
    let mut random = seeded();
    let mut ground = Ground::new().await;
    let proxy = Proxy::before(&ground.primary_url).await;
    let direct_url = ground.primary_url.clone();
    ground.primary_url = proxy.url(&direct_url);
    ground.replica_url = String::new();
    let node = ground.serve(&SHORT_WAITS).await;
    let accounts = node.caller.accounts(8, 100_000).await;
    let crowd = Crowd::start(std::slice::from_ref(&node.caller), &plan(accounts), &mut random);
    for _ in 0..2 {
        crowd.progress(50).await;
        proxy.set(Mode::BlackHole);
        crowd.trouble(20).await;
        proxy.set(Mode::Forward);
    }
    crowd.progress(50).await;
    let mut asked = crowd.end().await;
    prove(&node.caller, &direct_url, &mut asked).await;
    ground.verify().await;
    node.service.stop().await;
}

/// What can be told from the request alone is told without a primary. An expired card may have been charged before it
/// expired, and only its key knows: nothing is guessed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_was_never_valid_is_refused_as_such_without_the_primary() {
    let mut ground = Ground::new().await;
    let proxy = Proxy::before(&ground.primary_url).await;
    ground.primary_url = proxy.url(&ground.primary_url);
    ground.replica_url = String::new();
    let node = ground.serve(&SHORT_WAITS).await;
    let accounts = node.caller.accounts(2, 1_000).await;
    let good = book_payment(&accounts[0], &accounts[1], 1, "reference");
    let card = json!({
        "to": accounts[0], "amount": 100, "currency": "USD", "rail": "authorize_net",
        "card": {"number": "4111111111111111", "expiration": "2001-01"}
    });
    let mut unknown = good.clone();
    unknown["nonsense"] = json!(1);
    let mut nothing = good.clone();
    nothing["amount"] = json!(0);
    proxy.set(Mode::Refuse);
    for (body, status, code) in [
        (&unknown, StatusCode::UNPROCESSABLE_ENTITY, "invalid_request"),
        (&nothing, StatusCode::UNPROCESSABLE_ENTITY, "amount_out_of_range"),
        (&card, StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        (&good, StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    ] {
        let reply = node.caller.post("/v1/payments", &new_key(), body).await.expect("an answer");
        assert_eq!((reply.status, &reply.json()["code"]), (status, &json!(code)), "{}", reply.json());
    }
    proxy.set(Mode::Forward);
    node.service.stop().await;
}

/// Nobody stopped the old primary, and it goes on committing whatever it is sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_replica_gets_every_payment_though_the_old_primary_still_takes_writes() {
    let mut random = seeded();
    let cluster = Cluster::start(Replica::With);
    let ground = Ground::on(&cluster.primary_url(), &cluster.replica_url()).await;
    let node = ground.serve(&SHORT_WAITS).await;
    let accounts = node.caller.accounts(8, 100_000).await;
    let opened = "SELECT FROM account_profiles WHERE kind <> 'external'";
    until("the accounts on the replica", async || {
        (rows(&cluster.replica_url(), opened).await.len() == accounts.len()).then_some(())
    })
    .await;
    tokio::task::block_in_place(|| cluster.promote_replica());
    until("the new timeline", async || (node.service.app.db.timeline() > 1).then_some(())).await;

    let crowd = Crowd::start(std::slice::from_ref(&node.caller), &plan(accounts), &mut random);
    crowd.progress(200).await;
    let mut asked = crowd.end().await;
    prove(&node.caller, &cluster.replica_url(), &mut asked).await;
    Ground::on(&cluster.replica_url(), "").await.verify().await;
    let left_behind = rows(&cluster.primary_url(), "SELECT FROM payments").await;
    assert_eq!(left_behind.len(), 0, "the old primary answers, and was sent nothing");
    node.service.stop().await;
}

/// A primary that crashed, was restored or was replaced may have lost commits: what this process remembers of them proves
/// nothing. A key without its row stands for such a commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_began_another_life_is_asked_again_about_every_key() {
    let cluster = Cluster::start(Replica::Without);
    let ground = Ground::on(&cluster.primary_url(), "").await;
    let node = ground.serve(&SHORT_WAITS).await;
    let accounts = node.caller.accounts(2, 1_000).await;
    let (key, body) = (new_key(), book_payment(&accounts[0], &accounts[1], 1, "reference"));
    let first = node.caller.insist("/v1/payments", &key, &body).await;
    assert_eq!(first.status, StatusCode::CREATED);
    // This server forgets in a crash what nobody asked it to flush.
    let forget = "SET synchronous_commit = on; DELETE FROM idempotency_keys";
    sql(&ground.primary_url, forget).await;
    let again = node.caller.insist("/v1/payments", &key, &body).await;
    assert_eq!(again.bytes, first.bytes, "it is remembered");

    let life = node.service.app.db.primary_life();
    tokio::task::block_in_place(|| cluster.crash_primary());
    let down = until("an answer without a primary", async || {
        let reply = node.caller.post("/v1/payments", &key, &body).await?;
        (reply.status != StatusCode::CREATED).then_some(reply)
    })
    .await;
    assert_eq!(down.status, StatusCode::SERVICE_UNAVAILABLE, "nobody knows whether it still holds");
    tokio::task::block_in_place(|| cluster.boot_primary());
    until("another life of the primary", async || {
        let now = node.service.app.db.primary_life();
        (now.is_some() && now != life).then_some(())
    })
    .await;
    let anew = node.caller.insist("/v1/payments", &key, &body).await;
    assert_eq!(anew.status, StatusCode::CREATED, "{}", anew.json());
    assert_ne!(anew.bytes, first.bytes, "the database decides");
    node.service.stop().await;
}

/// The replica had not received the last payment when the primary died. Its account is in every tier as it was after it, and
/// the key is in no database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failover_took_back_is_shown_and_repeated_by_nobody() {
    let cluster = Cluster::start(Replica::With);
    let ground = Ground::on(&cluster.primary_url(), &cluster.replica_url()).await;
    let node = ground.serve(&SHORT_WAITS).await;
    let accounts = node.caller.accounts(2, 1_000).await;
    let body = book_payment(&accounts[0], &accounts[1], 1, "kept");
    let kept = node.caller.insist("/v1/payments", &new_key(), &body).await;
    assert_eq!(kept.status, StatusCode::CREATED, "{}", kept.json());
    until("the payment on the replica", async || {
        (rows(&cluster.replica_url(), "SELECT FROM payments").await.len() == 1).then_some(())
    })
    .await;
    tokio::task::block_in_place(|| cluster.crash_replica());
    let (key, body) = (new_key(), book_payment(&accounts[0], &accounts[1], 10, "reference"));
    let lost = node.caller.insist("/v1/payments", &key, &body).await;
    assert_eq!(lost.status, StatusCode::CREATED);
    let lost_path = format!("/v1/payments/{}", lost.json()["id"].as_str().expect("a payment has an id"));
    let account_path = format!("/v1/accounts/{}", accounts[1]);
    let cached = node.caller.read(&account_path).await;
    assert_eq!(posted(&cached), 1_011);
    assert_eq!(node.caller.read(&lost_path).await.status, StatusCode::OK);

    tokio::task::block_in_place(|| {
        cluster.crash_primary();
        cluster.boot_replica();
        cluster.promote_replica();
    });
    until("the new history", async || {
        node.service.app.db.history().is_some_and(|history| history.timeline > 1).then_some(())
    })
    .await;
    // Another process has seen no other history, and finds what the first one shared.
    let ground = Ground::on(&cluster.replica_url(), "").await;
    let started_later = ground.serve(&SHORT_WAITS).await;
    for caller in [&started_later.caller, &node.caller] {
        let tagged = [("if-none-match", cached.headers["etag"].as_str())];
        let account = until("the account", async || {
            let reply = caller.send(reqwest::Method::GET, &account_path, &tagged, None).await?;
            (reply.status != StatusCode::SERVICE_UNAVAILABLE).then_some(reply)
        })
        .await;
        assert_eq!(posted(&account), 1_001);
        assert_eq!(caller.read(&lost_path).await.status, StatusCode::NOT_FOUND);
    }
    let anew = node.caller.insist("/v1/payments", &key, &body).await;
    assert_eq!(anew.status, StatusCode::CREATED, "{}", anew.json());
    assert_ne!(anew.json()["id"], lost.json()["id"], "nothing is left of the first one");
    assert_eq!(posted(&node.caller.read(&account_path).await), 1_011);
    let kept_path = format!("/v1/payments/{}", kept.json()["id"].as_str().expect("a payment has an id"));
    assert_eq!(node.caller.read(&kept_path).await.status, StatusCode::OK);
    ground.verify().await;
    for node in [node, started_later] {
        node.service.stop().await;
    }
}
