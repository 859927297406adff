//! Overdraft limits: what an account may owe, by payment or by hold, and that no order of the two goes further.

use futures_util::future::join_all;
use serde_json::json;

use crate::scene::{balance, change, id_of, new_key, pay, transfer, with};
use crate::stage::Stage;

async fn overdrawable(stage: &Stage, limit: i64, opening_balance: i64) -> String {
    let body = json!({"currency": "USD", "overdraft_limit": limit, "opening_balance": opening_balance});
    id_of(&stage.post("/v1/accounts", &new_key(), &body).await)
}

#[tokio::test]
async fn an_account_may_owe_up_to_its_limit_and_not_a_cent_more() {
    let stage = Stage::start().await;
    let (from, to) = (overdrawable(&stage, 50, 0).await, stage.account("USD", 0).await);
    assert_eq!(pay(&stage, &transfer(&from, &to, 51)).await["failure_code"], "insufficient_funds");
    assert_eq!(pay(&stage, &transfer(&from, &to, 50)).await["status"], "succeeded");
    assert_eq!(pay(&stage, &transfer(&from, &to, 1)).await["failure_code"], "insufficient_funds");
    assert_eq!(stage.balance(&from).await, balance(-50, 0));
    stage.verify().await;
}

#[tokio::test]
async fn holds_count_against_the_limit_at_once() {
    let stage = Stage::start().await;
    let (from, to) = (overdrawable(&stage, 50, 10).await, stage.account("USD", 0).await);
    let hold = |amount| with(&transfer(&from, &to, amount), &json!({"capture": false}));
    let held = pay(&stage, &hold(60)).await;
    assert_eq!(held["status"], "authorized");
    for body in [hold(1), transfer(&from, &to, 1)] {
        assert_eq!(pay(&stage, &body).await["failure_code"], "insufficient_funds");
    }
    assert_eq!(
        change(&stage, held["id"].as_str().expect("a text"), "capture", &json!({})).await.json()["status"],
        "succeeded"
    );
    assert_eq!(stage.balance(&from).await, balance(-50, 0));
    stage.verify().await;
}

#[tokio::test]
async fn no_interleaving_of_holds_and_debits_passes_the_limit() {
    let stage = Stage::start().await;
    let (from, to) = (overdrawable(&stage, 50, 0).await, stage.account("USD", 0).await);
    let bodies: Vec<_> = (0..40)
        .map(|index| {
            with(&transfer(&from, &to, 7), &json!({"capture": index % 2 == 0, "metadata": {"n": index}}))
        })
        .collect();
    let paid = join_all(bodies.iter().map(|body| pay(&stage, body))).await;
    let granted = paid.iter().filter(|one| one["status"] != "failed").count();
    assert_eq!(granted, 7, "seven times seven is the most that fits into fifty");
    let now = stage.balance(&from).await;
    assert_eq!(now["available"], -49);
    stage.verify().await;
}
