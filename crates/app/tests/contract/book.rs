//! Payments on the book rail: what each does to the balances, from creation to capture, void and refund.

use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::scene::{balance, change, check_problem, new_key, pay, payment, transfer, with};
use crate::stage::Stage;

/// Two accounts of dollars: one with 100, one with nothing.
async fn two_accounts(stage: &Stage) -> (String, String) {
    (stage.account("USD", 100).await, stage.account("USD", 0).await)
}

/// An authorised payment of `amount` and its id.
async fn authorized(stage: &Stage, from: &str, to: &str, amount: i64) -> String {
    let held = pay(stage, &with(&transfer(from, to, amount), &json!({"capture": false}))).await;
    assert_eq!(held["status"], "authorized");
    held["id"].as_str().expect("a text").to_owned()
}

async fn check_balances(stage: &Stage, accounts: [&str; 2], expected: [Value; 2]) {
    for (account, expected) in accounts.iter().zip(expected) {
        assert_eq!(stage.balance(account).await, expected);
    }
}

#[tokio::test]
async fn a_book_payment_moves_money_at_once_and_shows_every_field() {
    let stage = Stage::start().await;
    let (from, to) = two_accounts(&stage).await;
    let body = with(
        &transfer(&from, &to, 40),
        &json!({"merchant_reference": "order 7", "metadata": {"z": 1, "a": "b"}}),
    );
    let reply = stage.post("/v1/payments", &new_key(), &body).await;
    assert_eq!(reply.status, StatusCode::CREATED);
    let paid = reply.json();
    for (field, expected) in [
        ("object", json!("payment")),
        ("status", json!("succeeded")),
        ("amount", json!(40)),
        ("amount_captured", json!(40)),
        ("amount_refunded", json!(0)),
        ("currency", json!("USD")),
        ("from", json!(from)),
        ("to", json!(to)),
        ("rail", json!("book")),
        ("failure_code", Value::Null),
        ("merchant_reference", json!("order 7")),
        ("outcome", Value::Null),
        ("gateway", Value::Null),
        ("metadata", json!({"a": "b", "z": 1})),
    ] {
        assert_eq!(paid[field], expected, "{field}");
    }
    assert!(paid["id"].as_str().expect("a text").starts_with("pay_"));
    check_balances(&stage, [&from, &to], [balance(60, 0), balance(40, 0)]).await;
    assert_eq!(payment(&stage, paid["id"].as_str().expect("a text")).await, paid);
    stage.verify().await;
}

#[tokio::test]
async fn a_payment_without_funds_is_created_as_failed_and_moves_nothing() {
    let stage = Stage::start().await;
    let (from, to) = two_accounts(&stage).await;
    for body in [transfer(&from, &to, 101), with(&transfer(&from, &to, 101), &json!({"capture": false}))] {
        let failed = pay(&stage, &body).await;
        assert_eq!(
            (&failed["status"], &failed["failure_code"]),
            (&json!("failed"), &json!("insufficient_funds"))
        );
        assert_eq!(failed["amount_captured"], 0);
    }
    check_balances(&stage, [&from, &to], [balance(100, 0), balance(0, 0)]).await;
    assert_eq!(pay(&stage, &transfer(&from, &to, 100)).await["status"], "succeeded", "all of it can be paid");
    stage.verify().await;
}

#[tokio::test]
async fn of_fifty_debits_of_the_whole_balance_at_once_exactly_one_succeeds() {
    let stage = Stage::start().await;
    let (from, to) = two_accounts(&stage).await;
    let body = transfer(&from, &to, 100);
    let paid = join_all((0..50).map(|_| pay(&stage, &body))).await;
    let count = |status: &str| paid.iter().filter(|one| one["status"] == status).count();
    assert_eq!((count("succeeded"), count("failed")), (1, 49));
    let reasons = paid.iter().filter_map(|one| one["failure_code"].as_str());
    assert!(reasons.into_iter().all(|reason| reason == "insufficient_funds"));
    check_balances(&stage, [&from, &to], [balance(0, 0), balance(100, 0)]).await;
    stage.verify().await;
}

#[tokio::test]
async fn an_authorised_payment_holds_until_all_of_it_is_captured() {
    let stage = Stage::start().await;
    let (from, to) = two_accounts(&stage).await;
    let id = authorized(&stage, &from, &to, 70).await;
    check_balances(&stage, [&from, &to], [balance(100, 70), balance(0, 0)]).await;
    assert_eq!(pay(&stage, &transfer(&from, &to, 31)).await["failure_code"], "insufficient_funds");
    let captured = change(&stage, &id, "capture", &json!({})).await;
    assert_eq!((captured.status, &captured.json()["status"]), (StatusCode::OK, &json!("succeeded")));
    assert_eq!(captured.json()["amount_captured"], 70);
    check_balances(&stage, [&from, &to], [balance(30, 0), balance(70, 0)]).await;
    assert_eq!(payment(&stage, &id).await, captured.json());
    stage.verify().await;
}

#[tokio::test]
async fn a_partial_capture_releases_the_rest_once() {
    let stage = Stage::start().await;
    let (from, to) = two_accounts(&stage).await;
    let id = authorized(&stage, &from, &to, 100).await;
    let too_much = change(&stage, &id, "capture", &json!({"amount": 101})).await;
    check_problem(&too_much, 422, "amount_out_of_range", Some("/amount"));
    let captured = change(&stage, &id, "capture", &json!({"amount": 60})).await;
    assert_eq!((captured.status, captured.json()["amount_captured"].clone()), (StatusCode::OK, json!(60)));
    check_balances(&stage, [&from, &to], [balance(40, 0), balance(60, 0)]).await;
    for same in [json!({"amount": 60}), json!({})] {
        let again = change(&stage, &id, "capture", &same).await;
        assert_eq!(again.status, StatusCode::OK, "asking for what was done is answered with what was done");
        assert_eq!(again.json(), captured.json());
    }
    check_problem(&change(&stage, &id, "capture", &json!({"amount": 50})).await, 409, "wrong_state", None);
    check_problem(&change(&stage, &id, "void", &json!({})).await, 409, "wrong_state", None);
    check_balances(&stage, [&from, &to], [balance(40, 0), balance(60, 0)]).await;
    stage.verify().await;
}

#[tokio::test]
async fn a_void_releases_the_hold_and_a_second_one_changes_nothing() {
    let stage = Stage::start().await;
    let (from, to) = two_accounts(&stage).await;
    let id = authorized(&stage, &from, &to, 100).await;
    let voided = change(&stage, &id, "void", &json!({})).await;
    assert_eq!((voided.status, &voided.json()["status"]), (StatusCode::OK, &json!("cancelled")));
    let again = change(&stage, &id, "void", &json!({})).await;
    assert_eq!((again.status, again.json()), (StatusCode::OK, voided.json()));
    check_problem(&change(&stage, &id, "capture", &json!({})).await, 409, "wrong_state", None);
    check_problem(&change(&stage, &id, "refunds", &json!({})).await, 409, "wrong_state", None);
    check_balances(&stage, [&from, &to], [balance(100, 0), balance(0, 0)]).await;
    stage.verify().await;
}

#[tokio::test]
async fn a_change_without_a_body_means_all_of_it() {
    let stage = Stage::start().await;
    let (from, to) = two_accounts(&stage).await;
    let id = authorized(&stage, &from, &to, 10).await;
    for (change, status) in [("capture", "succeeded"), ("refunds", "refunded")] {
        let (path, key) = (format!("/v1/payments/{id}/{change}"), new_key());
        let reply = stage.send(reqwest::Method::POST, &path, &[("idempotency-key", &key)], None).await;
        assert_eq!(reply.json()["status"], status, "{}", reply.json());
    }
    stage.verify().await;
}

#[tokio::test]
async fn refunds_give_back_no_more_than_was_captured() {
    let stage = Stage::start().await;
    let (from, to) = two_accounts(&stage).await;
    let id = pay(&stage, &transfer(&from, &to, 50)).await["id"].as_str().expect("a text").to_owned();
    let part = change(&stage, &id, "refunds", &json!({"amount": 20})).await;
    assert_eq!((part.status, &part.json()["status"]), (StatusCode::CREATED, &json!("partially_refunded")));
    assert_eq!(part.json()["amount_refunded"], 20);
    let too_much = change(&stage, &id, "refunds", &json!({"amount": 31})).await;
    check_problem(&too_much, 422, "amount_out_of_range", Some("/amount"));
    let rest = change(&stage, &id, "refunds", &json!({})).await;
    assert_eq!((rest.status, &rest.json()["status"]), (StatusCode::CREATED, &json!("refunded")));
    check_problem(&change(&stage, &id, "refunds", &json!({"amount": 1})).await, 409, "wrong_state", None);
    check_balances(&stage, [&from, &to], [balance(100, 0), balance(0, 0)]).await;
    stage.verify().await;
}

#[tokio::test]
async fn concurrent_refunds_together_give_back_what_was_captured() {
    let stage = Stage::start().await;
    let (from, to) = two_accounts(&stage).await;
    let id = pay(&stage, &transfer(&from, &to, 50)).await["id"].as_str().expect("a text").to_owned();
    let twenty = json!({"amount": 20});
    let refunds = join_all((0..10).map(|_| change(&stage, &id, "refunds", &twenty))).await;
    assert_eq!(refunds.iter().filter(|reply| reply.status == StatusCode::CREATED).count(), 2);
    for refused in refunds.iter().filter(|reply| reply.status != StatusCode::CREATED) {
        check_problem(refused, 422, "amount_out_of_range", Some("/amount"));
    }
    check_balances(&stage, [&from, &to], [balance(90, 0), balance(10, 0)]).await;
    stage.verify().await;
}

#[tokio::test]
async fn a_refund_beyond_the_receivers_balance_stays_refused_under_its_key() {
    let stage = Stage::start_uncached().await;
    let (from, to) = two_accounts(&stage).await;
    let id = pay(&stage, &transfer(&from, &to, 50)).await["id"].as_str().expect("a text").to_owned();
    pay(&stage, &transfer(&to, &from, 40)).await;
    let (key, path) = (new_key(), format!("/v1/payments/{id}/refunds"));
    let refused = stage.post(&path, &key, &json!({})).await;
    check_problem(&refused, 422, "insufficient_funds", None);
    check_balances(&stage, [&from, &to], [balance(90, 0), balance(10, 0)]).await;
    pay(&stage, &transfer(&from, &to, 40)).await;
    let again = stage.post(&path, &key, &json!({})).await;
    assert_eq!((again.status, &again.bytes), (refused.status, &refused.bytes));
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert_eq!(again.headers["content-type"], "application/problem+json");
    assert_eq!(stage.post(&path, &new_key(), &json!({})).await.json()["status"], "refunded");
    check_balances(&stage, [&from, &to], [balance(100, 0), balance(0, 0)]).await;
    stage.verify().await;
}

#[tokio::test]
async fn accounts_that_cannot_take_part_are_named() {
    let stage = Stage::start().await;
    let (from, to) = two_accounts(&stage).await;
    let euro = stage.account("EUR", 100).await;
    let unknown = paystrata_app::ids::AccountId::new().to_string();
    for (body, code, param) in [
        (transfer(&unknown, &to, 1), "account_not_found", "/from"),
        (transfer(&from, &unknown, 1), "account_not_found", "/to"),
        (transfer(&from, &euro, 1), "currency_mismatch", "/to"),
        (transfer(&euro, &to, 1), "currency_mismatch", "/from"),
        (with(&transfer(&from, &to, 1), &json!({"currency": "EUR"})), "currency_mismatch", "/from"),
        (transfer(&from, &from, 1), "same_account", "/to"),
        (transfer("acc_1", &to, 1), "invalid_request", "/from"),
        (transfer(&from, &from.to_uppercase(), 1), "invalid_request", "/to"),
        (transfer(&from.replace("acc_", "pay_"), &to, 1), "invalid_request", "/from"),
    ] {
        let reply = stage.post("/v1/payments", &new_key(), &body).await;
        check_problem(&reply, 422, code, Some(param));
    }
    assert_eq!(stage.get("/v1/payments", &[]).await.json()["data"], json!([]), "nothing was created");
}

#[tokio::test]
async fn the_external_account_can_be_named_on_neither_side() {
    let stage = Stage::start().await;
    let (from, _) = two_accounts(&stage).await;
    let query = "SELECT id FROM accounts WHERE posted < 0";
    let external: uuid::Uuid =
        crate::scene::sql(&stage).await.query_one(query, &[]).await.expect("read the database").get(0);
    let external = paystrata_app::ids::AccountId(external).to_string();
    for (body, param) in [(transfer(&external, &from, 1), "/from"), (transfer(&from, &external, 1), "/to")] {
        let reply = stage.post("/v1/payments", &new_key(), &body).await;
        check_problem(&reply, 422, "account_not_found", Some(param));
    }
}

#[tokio::test]
async fn a_closed_account_takes_no_payment_but_its_hold_can_be_voided() {
    let stage = Stage::start().await;
    let (from, to) = two_accounts(&stage).await;
    let id = authorized(&stage, &from, &to, 30).await;
    crate::scene::sql(&stage)
        .await
        .execute("UPDATE accounts SET status = 2 WHERE posted = 100", &[])
        .await
        .expect("close the account");
    for (body, param) in [(transfer(&from, &to, 1), "/from"), (transfer(&to, &from, 1), "/to")] {
        let reply = stage.post("/v1/payments", &new_key(), &body).await;
        check_problem(&reply, 422, "account_closed", Some(param));
    }
    assert_eq!(change(&stage, &id, "void", &json!({})).await.json()["status"], "cancelled");
    stage.verify().await;
}

#[tokio::test]
async fn an_amount_above_the_fraud_bound_is_kept_as_a_rejected_payment() {
    let stage = Stage::start_with(&[("PAYSTRATA__FRAUD__AMOUNT_MAX", "50")]).await;
    let (from, to) = two_accounts(&stage).await;
    let rejected = pay(&stage, &transfer(&from, &to, 51)).await;
    assert_eq!(
        (&rejected["status"], &rejected["failure_code"]),
        (&json!("failed"), &json!("fraud_rejected"))
    );
    assert_eq!(pay(&stage, &transfer(&from, &to, 50)).await["status"], "succeeded");
    assert_eq!(
        crate::scene::count(&stage, "SELECT count(*) FROM fraud_decisions WHERE verdict = 1").await,
        1
    );
    check_balances(&stage, [&from, &to], [balance(50, 0), balance(50, 0)]).await;
}

#[tokio::test]
async fn velocity_counts_payments_and_not_replays_or_refusals() {
    let stage = Stage::start_with(&[
        ("PAYSTRATA__FRAUD__VELOCITY_COUNT_MAX", "3"),
        ("PAYSTRATA__FRAUD__VELOCITY_WINDOW_SECONDS", "86400"),
    ])
    .await;
    let (from, to) = two_accounts(&stage).await;
    let (key, body) = (new_key(), transfer(&from, &to, 1));
    for _ in 0..10 {
        assert_eq!(stage.post("/v1/payments", &key, &body).await.json()["status"], "succeeded");
    }
    let unknown = paystrata_app::ids::AccountId::new().to_string();
    for _ in 0..10 {
        let reply = stage.post("/v1/payments", &new_key(), &transfer(&from, &unknown, 1)).await;
        check_problem(&reply, 422, "account_not_found", Some("/to"));
    }
    for expected in ["succeeded", "succeeded", "failed"] {
        let paid = pay(&stage, &body).await;
        assert_eq!(paid["status"], expected, "{paid}");
    }
    assert_eq!(
        pay(&stage, &transfer(&to, &from, 1)).await["status"],
        "succeeded",
        "others are not counted with it"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn velocity_counts_a_payment_that_is_sent_many_times_at_once_as_one() {
    let stage = Stage::start_with(&[
        ("PAYSTRATA__FRAUD__VELOCITY_COUNT_MAX", "2"),
        ("PAYSTRATA__FRAUD__VELOCITY_WINDOW_SECONDS", "86400"),
        ("PAYSTRATA__CACHE__ENABLED", "false"),
    ])
    .await;
    let (from, to) = two_accounts(&stage).await;
    let (key, body) = (new_key(), transfer(&from, &to, 1));
    let sends = (0..30).map(|_| stage.post("/v1/payments", &key, &body));
    for reply in join_all(sends).await {
        assert_eq!(reply.json()["status"], "succeeded", "{}", reply.json());
    }
    for expected in ["succeeded", "failed"] {
        assert_eq!(pay(&stage, &body).await["status"], expected);
    }
}
