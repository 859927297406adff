//! Fraud rules and kept answers where configuration or the blocklist changes while the service runs.

use reqwest::StatusCode;
use serde_json::json;

use crate::scene::{check_problem, new_key, pay, sql, until};
use crate::stage::Stage;

#[tokio::test]
async fn an_account_put_on_the_blocklist_at_run_time_is_refused_soon_after() {
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 1_000).await, stage.account("USD", 0).await);
    let body = json!({"from": from, "to": to, "amount": 1, "currency": "USD"});
    assert_eq!(pay(&stage, &body).await["status"], "succeeded");
    let entry = format!("account:{from}");
    sql(&stage)
        .await
        .execute("INSERT INTO fraud_blocklist (entry, reason) VALUES ($1, 'test')", &[&entry])
        .await
        .expect("add to the blocklist");
    let rejected = until("rejection", || pay(&stage, &body), |seen| seen["status"] == "failed").await;
    assert_eq!(rejected["failure_code"], "fraud_rejected", "{rejected}");
    let reasons = "SELECT reasons FROM fraud_decisions WHERE verdict = 1 LIMIT 1";
    let row = sql(&stage).await.query_one(reasons, &[]).await.expect("the decision is stored");
    assert_eq!(row.get::<_, Vec<String>>(0), [format!("{entry} is blocked")]);
    stage.verify().await;
}

#[tokio::test]
async fn a_card_of_a_configured_blocklist_is_rejected_and_never_sent() {
    let stage = Stage::start_with(&[("PAYSTRATA__FRAUD__BLOCKLIST", "bin:411111")]).await;
    let to = stage.account("USD", 0).await;
    let card = json!({"number": "4111111111111111", "expiration": "2030-12"});
    let body = json!({"to": to, "amount": 100, "currency": "USD", "rail": "authorize_net", "card": card});
    let rejected = pay(&stage, &body).await;
    assert_eq!(
        (&rejected["status"], &rejected["failure_code"]),
        (&json!("failed"), &json!("fraud_rejected"))
    );
    let operations = "SELECT count(*) FROM gateway_operations";
    let row = sql(&stage).await.query_one(operations, &[]).await.expect("count operations");
    assert_eq!(row.get::<_, i64>(0), 0);
}

#[tokio::test]
async fn a_key_goes_on_answering_after_its_rail_was_switched_off() {
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 1_000).await, stage.account("USD", 0).await);
    let body = json!({"from": from, "to": to, "amount": 7, "currency": "USD", "rail": "velocity_pay"});
    let key = new_key();
    let first = stage.post("/v1/payments", &key, &body).await;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.json());
    let primary = stage.primary_url.clone();
    let later = Stage::start_with(&[
        ("PAYSTRATA__DB__PRIMARY_URL", &primary),
        ("PAYSTRATA__DB__REPLICA_URLS", ""),
        ("PAYSTRATA__GATEWAYS__VELOCITY_PAY__ENDPOINT", ""),
    ])
    .await;
    let replay = later.post("/v1/payments", &key, &body).await;
    assert_eq!((replay.status, &replay.bytes), (first.status, &first.bytes));
    check_problem(
        &later.post("/v1/payments", &new_key(), &body).await,
        422,
        "rail_unavailable",
        Some("/rail"),
    );
}
