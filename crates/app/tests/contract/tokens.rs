//! P7: a write answers with a token, and a read that carries it sees the write, wherever it is served.

use std::time::Duration;

use paystrata_db::{Role, Token};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::scene::{balance, change, check_problem, id_of, new_key, transfer, until, with};
use crate::stage::{Reply, Stage};

const ROUNDS: i64 = 40;

fn token_of(reply: &Reply) -> String {
    reply.headers.get("paystrata-token").unwrap_or_else(|| panic!("no token on {reply:?}")).clone()
}

async fn read(stage: &Stage, path: &str, token: &str) -> Value {
    let reply = stage.get(path, &[("paystrata-token", token)]).await;
    assert_eq!(reply.status, StatusCode::OK, "{path}: {}", reply.json());
    reply.json()
}

/// Every read that takes a token, after one payment: none may show the state before it.
async fn check_reads(stage: &Stage, from: &str, paid: &Reply, posted: i64) {
    let (token, id) = (token_of(paid), id_of(paid));
    let account = read(stage, &format!("/v1/accounts/{from}"), &token).await;
    assert_eq!(account["balance"], balance(posted, 0));
    assert_eq!(read(stage, &format!("/v1/payments/{id}"), &token).await, paid.json());
    let entries = read(stage, &format!("/v1/accounts/{from}/entries?limit=1"), &token).await;
    assert_eq!(
        (&entries["data"][0]["payment"], &entries["data"][0]["balance_after"]),
        (&json!(id), &json!(posted))
    );
    let listed = read(stage, "/v1/payments?limit=1", &token).await;
    assert_eq!(listed["data"][0]["id"], json!(id));
}

#[tokio::test]
async fn every_read_with_the_token_of_a_write_sees_it() {
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 1_000).await, stage.account("USD", 0).await);
    for round in 1..=ROUNDS {
        let paid = stage.post("/v1/payments", &new_key(), &transfer(&from, &to, 1)).await;
        check_reads(&stage, &from, &paid, 1_000 - round).await;
    }
}

#[tokio::test]
async fn without_a_replica_the_primary_honours_the_token() {
    let stage = Stage::start_with(&[("PAYSTRATA__DB__REPLICA_URLS", "")]).await;
    let (from, to) = (stage.account("USD", 1_000).await, stage.account("USD", 0).await);
    for round in 1..=5 {
        let paid = stage.post("/v1/payments", &new_key(), &transfer(&from, &to, 1)).await;
        check_reads(&stage, &from, &paid, 1_000 - round).await;
    }
}

/// A read on the node that wrote sees the write even without the token: the cache remembers what it voided.
#[tokio::test]
async fn a_read_of_one_document_on_the_writing_node_needs_no_token() {
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 1_000).await, stage.account("USD", 0).await);
    for round in 1..=ROUNDS {
        let hold = with(&transfer(&from, &to, 1), &json!({"capture": false}));
        let held = stage.post("/v1/payments", &new_key(), &hold).await;
        let path = format!("/v1/payments/{}", id_of(&held));
        assert_eq!(stage.get(&path, &[]).await.json(), held.json(), "it is found, and as it was answered");
        assert_eq!(stage.balance(&from).await, balance(1_001 - round, 1));
        let captured = change(&stage, &id_of(&held), "capture", &json!({})).await;
        assert_eq!(stage.get(&path, &[]).await.json(), captured.json());
        assert_eq!(stage.balance(&from).await, balance(1_000 - round, 0));
    }
}

#[tokio::test]
async fn every_kind_of_write_answers_with_a_token_that_leads_to_it() {
    let stage = Stage::start().await;
    let opened =
        stage.post("/v1/accounts", &new_key(), &json!({"currency": "USD", "opening_balance": 100})).await;
    let from = id_of(&opened);
    assert_eq!(read(&stage, &format!("/v1/accounts/{from}"), &token_of(&opened)).await, opened.json());
    let to = stage.account("USD", 0).await;
    let hold = with(&transfer(&from, &to, 10), &json!({"capture": false}));
    let hold = |key: String| {
        let (stage, hold) = (&stage, hold.clone());
        async move { id_of(&stage.post("/v1/payments", &key, &hold).await) }
    };
    let (captured, voided) = (hold(new_key()).await, hold(new_key()).await);
    for (id, name, status) in [
        (&captured, "capture", "succeeded"),
        (&captured, "refunds", "refunded"),
        (&voided, "void", "cancelled"),
    ] {
        let reply = change(&stage, id, name, &json!({})).await;
        let seen = read(&stage, &format!("/v1/payments/{id}"), &token_of(&reply)).await;
        assert_eq!((&seen["status"], &seen), (&json!(status), &reply.json()));
    }
}

/// A replay repeats the answer of a write: whoever holds it may read that write, wherever the first answer went.
#[tokio::test]
async fn replays_carry_tokens_that_lead_to_what_they_tell() {
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 100).await, stage.account("USD", 0).await);
    for round in 0..10 {
        for (path, body) in [
            ("/v1/payments", transfer(&from, &to, 1)),
            ("/v1/payments/batch", json!({"mode": "independent", "payments": [transfer(&from, &to, 1)]})),
            ("/v1/payments/batch", json!({"mode": "atomic", "payments": [transfer(&from, &to, 1)]})),
        ] {
            let key = new_key();
            let first = stage.post(path, &key, &body).await;
            let again = stage.post(path, &key, &body).await;
            assert_eq!(again.headers["idempotent-replayed"], "true");
            let told = first.json();
            let payment = if path.ends_with("batch") { &told["results"][0]["payment"] } else { &told };
            let id = payment["id"].as_str().unwrap_or_else(|| panic!("round {round}: {told}"));
            for reply in [&first, &again] {
                assert_eq!(read(&stage, &format!("/v1/payments/{id}"), &token_of(reply)).await, *payment);
            }
        }
    }
}

#[tokio::test]
async fn a_token_that_is_none_of_ours_is_refused_on_every_read_that_takes_one() {
    let stage = Stage::start().await;
    let account = stage.account("USD", 100).await;
    let to = stage.account("USD", 0).await;
    let id = id_of(&stage.post("/v1/payments", &new_key(), &transfer(&account, &to, 1)).await);
    for path in [
        format!("/v1/accounts/{account}"),
        format!("/v1/accounts/{account}/entries"),
        "/v1/accounts".to_owned(),
        format!("/v1/payments/{id}"),
        "/v1/payments".to_owned(),
        "/v1/merchants/me/stats".to_owned(),
    ] {
        for bad in
            ["", "1", "00000001-000000000a3f2c18", "00000001-000000000A3F2C18-", "0x000001-000000000A3F2C18"]
        {
            let reply = stage.get(&path, &[("paystrata-token", bad)]).await;
            check_problem(&reply, 400, "invalid_token", Some("Paystrata-Token"));
        }
    }
}

/// No node has reached it, so it is answered by the primary or refused, in bounded time and never with an old state.
#[tokio::test]
async fn a_token_of_the_far_future_is_answered_by_the_primary_or_refused() {
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 100).await, stage.account("USD", 0).await);
    stage.post("/v1/payments", &new_key(), &transfer(&from, &to, 1)).await;
    let path = format!("/v1/accounts/{from}");
    for token in ["00000001-FFFFFFFFFFFFFFFF", "00000000-0000000000000000"] {
        assert_eq!(read(&stage, &path, token).await["balance"], balance(99, 0), "{token}");
    }
    // A write of a later timeline: there may be a primary that this node has not heard of.
    let refused = stage.get(&path, &[("paystrata-token", "FFFFFFFF-0000000000000001")]).await;
    let problem = refused.json();
    assert_eq!(
        (refused.status, &problem["code"], &problem["retryable"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("unavailable"), &json!(true))
    );
}

/// Honouring a token must not mean that the primary serves every read: once the replica has caught up, it does.
#[tokio::test]
async fn a_replica_that_has_caught_up_serves_the_token() {
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 100).await, stage.account("USD", 0).await);
    let paid = stage.post("/v1/payments", &new_key(), &transfer(&from, &to, 1)).await;
    let token: Token = token_of(&paid).parse().expect("a token of ours");
    let served = || async {
        let read = stage.service.app.db.read_after(token);
        let connection =
            tokio::time::timeout(Duration::from_secs(30), read).await.expect("bounded").expect("a node");
        json!(connection.role() == Role::Replica)
    };
    until("a read from the replica", served, |on_replica| *on_replica == true).await;
    check_reads(&stage, &from, &paid, 99).await;
}
