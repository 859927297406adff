//! Fraud rules and kept answers where configuration or the blocklist changes while the service runs.

use std::path::PathBuf;

use paystrata_app::config::{Config, LoadOptions};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::scene::{another, check_problem, count, new_key, pay, sql, until, with};
use crate::stage::{Settings, Stage};

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
    let card = json!({"number": "4111111111111111", "expiration": "2099-12"});
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
async fn the_default_velocity_lets_a_batch_of_a_thousand_through_and_stops_a_flood() {
    let defaults =
        [("PAYSTRATA__PROFILE", "development"), ("PAYSTRATA__DB__PRIMARY_URL", "postgres://x@h/d")];
    let environment = Settings::from(defaults.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let options = LoadOptions { file: None, directory: PathBuf::from("/nonexistent"), environment };
    let count_max =
        Config::load(options).expect("the defaults are valid").fraud.velocity_count_max.to_string();
    // The window is a day, so that it does not slide while the test runs.
    let stage = Stage::start_with(&[
        ("PAYSTRATA__FRAUD__VELOCITY_COUNT_MAX", &count_max),
        ("PAYSTRATA__FRAUD__VELOCITY_WINDOW_SECONDS", "86400"),
    ])
    .await;
    let (from, to) = (stage.account("USD", 10_000).await, stage.account("USD", 0).await);
    let item = json!({"from": from, "to": to, "amount": 1, "currency": "USD"});
    let (mut succeeded, mut failed) = (0, 0);
    for (sent, expected) in [(1_000, 0), (1_000, 800)] {
        let batch = json!({"mode": "independent", "payments": vec![&item; sent]});
        let reply = stage.post("/v1/payments/batch", &new_key(), &batch).await.json();
        assert_eq!(reply["summary"]["failed"], json!(expected), "{}", reply["summary"]);
        succeeded += reply["summary"]["succeeded"].as_i64().expect("a count");
        failed += reply["summary"]["failed"].as_i64().expect("a count");
    }
    assert_eq!((succeeded, failed), (1_200, 800));
    assert_eq!(stage.balance(&from).await["posted"], json!(8_800));
    let rejected = pay(&stage, &item).await;
    assert_eq!(rejected["failure_code"], "fraud_rejected", "{rejected}");
    stage.verify().await;
}

/// An atomic batch that did nothing may be sent again as often as it takes.
#[tokio::test]
async fn payments_of_an_atomic_batch_that_was_not_applied_do_not_count() {
    let stage = Stage::start_with(&[
        ("PAYSTRATA__FRAUD__VELOCITY_COUNT_MAX", "10"),
        ("PAYSTRATA__FRAUD__VELOCITY_WINDOW_SECONDS", "86400"),
    ])
    .await;
    let (from, to) = (stage.account("USD", 100).await, stage.account("USD", 0).await);
    let item = json!({"from": from, "to": to, "amount": 1, "currency": "USD"});
    let dear = with(&item, &json!({"amount": 1_000}));
    let unread = with(&item, &json!({"amount": 0}));
    for last in [dear, unread] {
        for _ in 0..3 {
            let mut payments = vec![item.clone(); 7];
            payments.push(last.clone());
            let batch = json!({"mode": "atomic", "payments": payments});
            let reply = stage.post("/v1/payments/batch", &new_key(), &batch).await.json();
            assert_eq!(reply["summary"]["refused"], json!(8), "{reply}");
        }
    }
    let batch = json!({"mode": "atomic", "payments": vec![&item; 8]});
    let reply = stage.post("/v1/payments/batch", &new_key(), &batch).await.json();
    assert_eq!(reply["summary"]["succeeded"], json!(8), "{reply}");
    // Those that were applied count: two are left of ten.
    for expected in ["succeeded", "succeeded", "failed"] {
        assert_eq!(pay(&stage, &item).await["status"], expected);
    }
}

/// Or such batches would tell the limits and the blocklist to whoever asks, without a trace.
#[tokio::test]
async fn what_the_rules_reject_in_an_atomic_batch_is_kept_and_counts() {
    let stage = Stage::start_with(&[
        ("PAYSTRATA__FRAUD__AMOUNT_MAX", "500"),
        ("PAYSTRATA__FRAUD__VELOCITY_COUNT_MAX", "3"),
        ("PAYSTRATA__FRAUD__VELOCITY_WINDOW_SECONDS", "86400"),
    ])
    .await;
    let (from, to) = (stage.account("USD", 10_000).await, stage.account("USD", 0).await);
    let item = json!({"from": from, "to": to, "amount": 1, "currency": "USD"});
    let batch = json!({"mode": "atomic", "payments": [item, with(&item, &json!({"amount": 501}))]});
    let decisions =
        "SELECT count(*) FROM fraud_decisions WHERE verdict = 1 AND reasons[1] = 'amount 501 is above 500'";
    for sent in 1..=3 {
        let key = new_key();
        let first = stage.post("/v1/payments/batch", &key, &batch).await;
        let reply = first.json();
        assert_eq!(reply["results"][1]["error"]["code"], "fraud_rejected", "{reply}");
        assert_eq!(reply["results"][0]["error"]["code"], "batch_aborted", "{reply}");
        // A replay is no further decision.
        assert_eq!(stage.post("/v1/payments/batch", &key, &batch).await.bytes, first.bytes);
        assert_eq!(count(&stage, decisions).await, sent);
    }
    assert_eq!(count(&stage, "SELECT count(*) FROM payments").await, 0);
    // Three of three in the window were rejected ones; what would have been paid beside them does not count.
    assert_eq!(pay(&stage, &item).await["failure_code"], "fraud_rejected");
    assert_eq!(
        pay(&stage, &with(&item, &json!({"from": to, "to": from}))).await["failure_code"],
        "insufficient_funds"
    );
    stage.verify().await;
}

#[tokio::test]
async fn a_key_goes_on_answering_after_its_rail_was_switched_off() {
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 1_000).await, stage.account("USD", 0).await);
    let body = json!({"from": from, "to": to, "amount": 7, "currency": "USD", "rail": "velocity_pay"});
    let key = new_key();
    let first = stage.post("/v1/payments", &key, &body).await;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.json());
    let held = json!({"capture": false});
    let mut changes = Vec::new();
    for (body, change) in
        [(with(&body, &held), "capture"), (with(&body, &held), "void"), (body.clone(), "refunds")]
    {
        let id = pay(&stage, &body).await["id"].as_str().expect("an id").to_owned();
        let (path, key) = (format!("/v1/payments/{id}/{change}"), new_key());
        let first = stage.post(&path, &key, &json!({})).await;
        assert!(first.status.is_success(), "{}", first.json());
        changes.push((path, key, first));
    }
    let primary = stage.primary_url.clone();
    let later = Stage::start_with(&[
        ("PAYSTRATA__DB__PRIMARY_URL", &primary),
        ("PAYSTRATA__DB__REPLICA_URLS", ""),
        ("PAYSTRATA__GATEWAYS__VELOCITY_PAY__ENDPOINT", ""),
    ])
    .await;
    let replay = later.post("/v1/payments", &key, &body).await;
    assert_eq!((replay.status, &replay.bytes), (first.status, &first.bytes));
    for (path, key, first) in changes {
        let replay = later.post(&path, &key, &json!({})).await;
        assert_eq!((replay.status, &replay.bytes), (first.status, &first.bytes), "{path}");
        let new = later.post(&path, &new_key(), &json!({})).await;
        check_problem(&new, 422, "rail_unavailable", None);
    }
    check_problem(
        &later.post("/v1/payments", &new_key(), &body).await,
        422,
        "rail_unavailable",
        Some("/rail"),
    );
}

/// `/readyz` of a service: its status and body.
async fn readiness(stage: &Stage) -> Value {
    let url = format!("http://{}/readyz", stage.service.operator_address);
    let answer = crate::stage::client().get(url).send().await.expect("ask");
    let status = answer.status().as_u16();
    let body: Value = serde_json::from_slice(&answer.bytes().await.expect("read")).expect("JSON");
    json!({"status": status, "rules": body["fraud_rules"]})
}

#[tokio::test]
async fn no_payment_is_taken_before_the_blocklist_was_read() {
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 1_000).await, stage.account("USD", 0).await);
    let body = json!({"from": from, "to": to, "amount": 1, "currency": "USD"});
    let key = new_key();
    let paid = stage.post("/v1/payments", &key, &body).await;
    assert_eq!(readiness(&stage).await, json!({"status": 200, "rules": true}));
    let database = sql(&stage).await;
    let block = "INSERT INTO fraud_blocklist (entry) VALUES ($1)";
    database.execute(block, &[&format!("account:{from}")]).await.expect("add to the blocklist");
    database.batch_execute("ALTER TABLE fraud_blocklist RENAME TO away").await.expect("hide it");
    let started = another(&stage, &[]).await;
    assert_eq!(readiness(&started).await, json!({"status": 503, "rules": false}));
    check_problem(&started.post("/v1/payments", &new_key(), &body).await, 503, "unavailable", None);
    for mode in ["atomic", "independent"] {
        let batch = json!({"mode": mode, "payments": [body, body]});
        let reply = started.post("/v1/payments/batch", &new_key(), &batch).await;
        check_problem(&reply, 503, "unavailable", None);
    }
    let replay = started.post("/v1/payments", &key, &body).await;
    assert_eq!(
        (replay.status, &replay.bytes),
        (StatusCode::CREATED, &paid.bytes),
        "a kept answer is one still"
    );
    let unruled = another(&stage, &[("PAYSTRATA__FRAUD__ENABLED", "false")]).await;
    assert_eq!(pay(&unruled, &body).await["status"], "succeeded", "rules that are off need no list");
    assert_eq!(readiness(&unruled).await, json!({"status": 200, "rules": true}));
    database.batch_execute("ALTER TABLE away RENAME TO fraud_blocklist").await.expect("bring it back");
    until("readiness", || readiness(&started), |seen| seen["status"] == 200).await;
    assert_eq!(pay(&started, &body).await["failure_code"], "fraud_rejected");
    stage.verify().await;
}

#[tokio::test]
async fn a_blocklist_that_cannot_be_read_again_stays_in_force_and_is_told() {
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 1_000).await, stage.account("USD", 0).await);
    let body = json!({"from": from, "to": to, "amount": 1, "currency": "USD"});
    let database = sql(&stage).await;
    let block = "INSERT INTO fraud_blocklist (entry) VALUES ($1)";
    database.execute(block, &[&format!("account:{from}")]).await.expect("add to the blocklist");
    let rejected = |seen: &Value| seen["failure_code"] == "fraud_rejected";
    until("rejection", || pay(&stage, &body), rejected).await;
    database.batch_execute("ALTER TABLE fraud_blocklist RENAME TO away").await.expect("hide it");
    let failures =
        || async { json!(stage.service.app.monitor.counter("fraud.blocklist.failures", "").value()) };
    until("a failed read", failures, |seen| *seen != json!(0)).await;
    assert!(rejected(&pay(&stage, &body).await));
    assert_eq!(readiness(&stage).await, json!({"status": 200, "rules": true}));
}

#[tokio::test]
async fn a_misspelt_entry_of_the_blocklist_is_refused_by_the_database() {
    let stage = Stage::start().await;
    let database = sql(&stage).await;
    let block = "INSERT INTO fraud_blocklist (entry) VALUES ($1)";
    let id = stage.account("USD", 0).await;
    for wrong in [
        "account:acc_mallory".to_owned(),
        id.clone(),
        format!("account:{}", id.to_uppercase()),
        format!("account:{id}0"),
        format!("account:{id}\n"),
        format!(" account:{id}"),
        "bin:41111".to_owned(),
        "bin:4111111".to_owned(),
        "BIN:411111".to_owned(),
    ] {
        let refused = database.execute(block, &[&wrong]).await.expect_err(&wrong);
        assert_eq!(refused.code().map(|code| code.code()), Some("23514"), "{wrong}: {refused}");
    }
    for right in [format!("account:{id}"), "bin:411111".to_owned()] {
        assert_eq!(database.execute(block, &[&right]).await.expect("it is well-formed"), 1);
    }
}

/// What `security.fingerprint_key` is for: under another one no repeat is known for what it is.
#[tokio::test]
async fn a_repeat_under_another_fingerprint_key_is_taken_for_another_request() {
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 1_000).await, stage.account("USD", 0).await);
    let body = json!({"from": from, "to": to, "amount": 7, "currency": "USD"});
    let key = new_key();
    assert_eq!(stage.post("/v1/payments", &key, &body).await.status, StatusCode::CREATED);
    let other_key = ("PAYSTRATA__SECURITY__FINGERPRINT_KEY", "another-fingerprint-key-of-32-bytes");
    let reply = another(&stage, &[other_key]).await.post("/v1/payments", &key, &body).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["code"]), (422, &json!("idempotency_key_reuse")));
    assert_eq!(stage.balance(&to).await["posted"], json!(7), "it was not paid again");
}
