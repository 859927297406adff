//! P3 from memory: a repeated request is answered without the database, by the same bytes, and only where that is safe.

use reqwest::StatusCode;
use serde_json::json;

use crate::scene::{check_problem, count, new_key, sql, transfer};
use crate::stage::Stage;

/// What only the database knows is gone after this.
async fn forget_keys(stage: &Stage) {
    let forgotten = sql(stage).await.execute("DELETE FROM idempotency_keys", &[]).await;
    assert!(forgotten.expect("write the database") > 0, "there were keys");
}

#[tokio::test]
async fn a_request_is_repeated_without_the_database_by_the_same_bytes() {
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 1_000).await, stage.account("USD", 0).await);
    let (key, body) = (new_key(), transfer(&from, &to, 10));
    let first = stage.post("/v1/payments", &key, &body).await;
    let refused_key = new_key();
    let refused = stage.post("/v1/payments", &refused_key, &transfer(&from, &to, 5_000)).await;
    assert_eq!((refused.status, &refused.json()["status"]), (StatusCode::CREATED, &json!("failed")));
    let payments = "SELECT count(*) FROM payments";
    let before = count(&stage, payments).await;
    forget_keys(&stage).await;
    for _ in 0..3 {
        let again = stage.post("/v1/payments", &key, &body).await;
        assert_eq!((again.status, &again.bytes), (first.status, &first.bytes));
        assert_eq!(again.headers["idempotent-replayed"], "true");
        // A read that carries it is served where the payment is.
        let token = again.headers["paystrata-token"].as_str();
        let id = crate::scene::id_of(&first);
        let read = stage.get(&format!("/v1/payments/{id}"), &[("paystrata-token", token)]).await;
        assert_eq!(read.status, StatusCode::OK);
        let again = stage.post("/v1/payments", &refused_key, &transfer(&from, &to, 5_000)).await;
        assert_eq!((again.status, &again.bytes), (refused.status, &refused.bytes));
    }
    assert_eq!(count(&stage, payments).await, before);
}

/// What differs is the engine's to say; and it decides by the database alone.
#[tokio::test]
async fn another_request_under_the_key_is_asked_of_the_database() {
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 1_000).await, stage.account("USD", 0).await);
    let key = new_key();
    let first = stage.post("/v1/payments", &key, &transfer(&from, &to, 10)).await;
    assert_eq!(first.status, StatusCode::CREATED);
    let other = stage.post("/v1/payments", &key, &transfer(&from, &to, 11)).await;
    check_problem(&other, 422, "idempotency_key_reuse", Some("/amount"));
    let again = stage.post("/v1/payments", &key, &transfer(&from, &to, 10)).await;
    assert_eq!(again.bytes, first.bytes);
    stage.verify().await;
}

#[tokio::test]
async fn without_a_cache_the_database_alone_knows_what_was_answered() {
    let stage = Stage::start_with(&[("PAYSTRATA__CACHE__ENABLED", "false")]).await;
    let (from, to) = (stage.account("USD", 1_000).await, stage.account("USD", 0).await);
    let (key, body) = (new_key(), transfer(&from, &to, 10));
    let first = stage.post("/v1/payments", &key, &body).await;
    forget_keys(&stage).await;
    let anew = stage.post("/v1/payments", &key, &body).await;
    assert_eq!(anew.status, StatusCode::CREATED);
    assert_ne!(anew.bytes, first.bytes, "nothing was kept");
}
