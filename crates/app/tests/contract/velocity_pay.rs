//! Payments through VelocityPay: account to account once the gateway confirms. Unlike a card payment it holds money of
//! the sender from the first commit.

use paystrata_gateway::simulator::{Fault, FaultKind, Operation, Trigger};
use reqwest::StatusCode;
use serde_json::json;

use crate::scene::{balance, change, check_problem, new_key, pay, reference, velocity_payment, with};
use crate::stage::Stage;

async fn accounts(stage: &Stage) -> (String, String) {
    (stage.account("USD", 10_000).await, stage.account("USD", 0).await)
}

fn next(stage: &Stage, operation: Operation, kind: FaultKind) {
    stage.simulator.set_fault(Fault { operation, kind, when: Trigger::Next(1) });
}

#[tokio::test]
async fn a_confirmed_payment_moves_the_senders_money() {
    let stage = Stage::start().await;
    let (from, to) = accounts(&stage).await;
    let (key, body) = (new_key(), velocity_payment(&from, &to, 1_000));
    let first = stage.post("/v1/payments", &key, &body).await;
    let paid = first.json();
    assert_eq!((&paid["status"], &paid["outcome"]), (&json!("succeeded"), &json!("approved")), "{paid}");
    assert_eq!((&paid["from"], &paid["gateway"]["name"]), (&json!(from), &json!("velocity_pay")));
    assert_eq!(
        (stage.balance(&from).await, stage.balance(&to).await),
        (balance(9_000, 0), balance(1_000, 0))
    );
    let again = stage.post("/v1/payments", &key, &body).await;
    assert_eq!((&again.bytes, again.headers.contains_key("idempotent-replayed")), (&first.bytes, true));
    let reference = reference(&stage, paid["id"].as_str().expect("a text"), 1).await;
    assert_eq!(stage.simulator.effects(&reference).total(), 1);
    stage.verify().await;
}

#[tokio::test]
async fn a_decline_releases_the_hold() {
    let stage = Stage::start().await;
    let (from, to) = accounts(&stage).await;
    next(&stage, Operation::Purchase, FaultKind::Decline);
    let paid = pay(&stage, &velocity_payment(&from, &to, 1_000)).await;
    assert_eq!((&paid["status"], &paid["failure_code"]), (&json!("failed"), &json!("declined")));
    assert_eq!((stage.balance(&from).await, stage.balance(&to).await), (balance(10_000, 0), balance(0, 0)));
    stage.verify().await;
}

#[tokio::test]
async fn a_payment_without_funds_never_reaches_the_gateway() {
    let stage = Stage::start().await;
    let (from, to) = accounts(&stage).await;
    let paid = pay(&stage, &velocity_payment(&from, &to, 10_001)).await;
    assert_eq!((&paid["status"], &paid["failure_code"]), (&json!("failed"), &json!("insufficient_funds")));
    assert_eq!(crate::scene::count(&stage, "SELECT count(*) FROM gateway_operations").await, 0);
    stage.verify().await;
}

#[tokio::test]
async fn a_payment_under_review_keeps_its_hold() {
    let stage = Stage::start().await;
    let (from, to) = accounts(&stage).await;
    next(&stage, Operation::Purchase, FaultKind::Hold);
    let paid = pay(&stage, &velocity_payment(&from, &to, 1_000)).await;
    assert_eq!((&paid["status"], &paid["outcome"]), (&json!("requires_review"), &json!("held")));
    assert_eq!(
        (stage.balance(&from).await, stage.balance(&to).await),
        (balance(10_000, 1_000), balance(0, 0))
    );
    stage.verify().await;
}

#[tokio::test]
async fn an_authorisation_is_captured_in_part_or_voided() {
    let stage = Stage::start().await;
    let (from, to) = accounts(&stage).await;
    let hold = with(&velocity_payment(&from, &to, 1_000), &json!({"capture": false}));
    let (kept, undone) = (pay(&stage, &hold).await, pay(&stage, &hold).await);
    assert_eq!(stage.balance(&from).await, balance(10_000, 2_000));
    let captured =
        change(&stage, kept["id"].as_str().expect("a text"), "capture", &json!({"amount": 600})).await;
    assert_eq!((captured.status, &captured.json()["status"]), (StatusCode::OK, &json!("succeeded")));
    assert_eq!(stage.balance(&from).await, balance(9_400, 1_000));
    let voided = change(&stage, undone["id"].as_str().expect("a text"), "void", &json!({})).await;
    assert_eq!((voided.status, &voided.json()["status"]), (StatusCode::OK, &json!("cancelled")));
    assert_eq!((stage.balance(&from).await, stage.balance(&to).await), (balance(9_400, 0), balance(600, 0)));
    stage.verify().await;
}

#[tokio::test]
async fn a_void_of_what_has_lapsed_at_the_gateway_releases_the_senders_money() {
    let stage = Stage::start().await;
    let (from, to) = accounts(&stage).await;
    let hold = with(&velocity_payment(&from, &to, 1_000), &json!({"capture": false}));
    let held = pay(&stage, &hold).await;
    stage.simulator.expire_authorizations();
    let voided = change(&stage, held["id"].as_str().expect("a text"), "void", &json!({})).await;
    assert_eq!((voided.status, &voided.json()["status"]), (StatusCode::OK, &json!("cancelled")));
    assert_eq!(stage.balance(&from).await, balance(10_000, 0));
    stage.verify().await;
}

#[tokio::test]
async fn refunds_go_back_to_the_sender_in_parts() {
    let stage = Stage::start().await;
    let (from, to) = accounts(&stage).await;
    let id =
        pay(&stage, &velocity_payment(&from, &to, 1_000)).await["id"].as_str().expect("a text").to_owned();
    for (amount, status) in [(300, "partially_refunded"), (700, "refunded")] {
        let reply = change(&stage, &id, "refunds", &json!({"amount": amount})).await;
        assert_eq!(
            (reply.status, &reply.json()["status"]),
            (StatusCode::CREATED, &json!(status)),
            "{}",
            reply.json()
        );
    }
    check_problem(&change(&stage, &id, "refunds", &json!({})).await, 409, "wrong_state", None);
    assert_eq!((stage.balance(&from).await, stage.balance(&to).await), (balance(10_000, 0), balance(0, 0)));
    stage.verify().await;
}

#[tokio::test]
async fn a_gateway_that_is_not_there_fails_the_payment_and_releases_the_hold() {
    let nowhere = "http://127.0.0.1:1/velocity";
    let stage = Stage::start_with(&[("PAYSTRATA__GATEWAYS__VELOCITY_PAY__ENDPOINT", nowhere)]).await;
    let (from, to) = accounts(&stage).await;
    let paid = pay(&stage, &velocity_payment(&from, &to, 1_000)).await;
    assert_eq!(
        (&paid["status"], &paid["failure_code"]),
        (&json!("failed"), &json!("gateway_unavailable")),
        "{paid}"
    );
    assert_eq!(stage.balance(&from).await, balance(10_000, 0));
    stage.verify().await;
}

/// The gateway deduplicates by key, so the client sends again by itself and the caller sees no trace of the loss.
#[tokio::test]
async fn a_lost_reply_is_asked_for_again_under_the_same_key() {
    let stage = Stage::start().await;
    let (from, to) = accounts(&stage).await;
    for amount in [1_077, 1_078] {
        let paid = pay(&stage, &velocity_payment(&from, &to, amount)).await;
        assert_eq!(paid["status"], "succeeded", "{paid}");
        let reference = reference(&stage, paid["id"].as_str().expect("a text"), 1).await;
        assert_eq!(stage.simulator.effects(&reference).total(), 1);
    }
    assert_eq!(stage.balance(&to).await, balance(1_077 + 1_078, 0));
    stage.verify().await;
}

/// While the gateway is asked no answer is kept yet, so those who ask again wait for it.
#[tokio::test]
async fn requests_with_one_key_during_a_charge_get_its_one_answer() {
    let stage = Stage::start().await;
    let (from, to) = accounts(&stage).await;
    let slow = Fault {
        operation: Operation::Purchase,
        kind: FaultKind::Delay { delay_ms: 400 },
        when: Trigger::Probability(1.0),
    };
    stage.simulator.set_fault(slow);
    let (key, body) = (new_key(), velocity_payment(&from, &to, 1_000));
    let replies =
        futures_util::future::join_all((0..20).map(|_| stage.post("/v1/payments", &key, &body))).await;
    for reply in &replies {
        assert_eq!(
            (reply.status, &reply.bytes),
            (StatusCode::CREATED, &replies[0].bytes),
            "{}",
            reply.json()
        );
    }
    let first = replies.iter().filter(|reply| !reply.headers.contains_key("idempotent-replayed")).count();
    assert_eq!((first, &replies[0].json()["status"]), (1, &json!("succeeded")));
    let reference = reference(&stage, replies[0].json()["id"].as_str().expect("an id"), 1).await;
    assert_eq!(stage.simulator.effects(&reference).total(), 1);
    assert_eq!(stage.balance(&to).await, balance(1_000, 0));
    stage.verify().await;
}

/// A gateway may take longer than a second caller should wait: that caller is told to come back, and then gets the answer.
#[tokio::test]
async fn a_request_with_the_key_of_a_very_slow_charge_is_told_to_come_back() {
    let stage = Stage::start_with(&[
        ("PAYSTRATA__GATEWAYS__VELOCITY_PAY__TIMEOUT_MS", "20000"),
        ("PAYSTRATA__RESOLVER__NOT_FOUND_AFTER_MS", "30000"),
    ])
    .await;
    let (from, to) = accounts(&stage).await;
    let kind = FaultKind::Delay { delay_ms: 8_000 };
    next(&stage, Operation::Purchase, kind);
    let (key, body) = (new_key(), velocity_payment(&from, &to, 1_000));
    let second = async {
        let payments = "SELECT count(*) FROM payments";
        let created = || async { json!(crate::scene::count(&stage, payments).await) };
        crate::scene::until("the first payment", created, |count| *count == 1).await;
        stage.post("/v1/payments", &key, &body).await
    };
    let (first, second) = tokio::join!(stage.post("/v1/payments", &key, &body), second);
    check_problem(&second, 409, "idempotency_key_in_progress", None);
    assert_eq!((first.status, &first.json()["status"]), (StatusCode::CREATED, &json!("succeeded")));
    assert_eq!(stage.post("/v1/payments", &key, &body).await.bytes, first.bytes);
    stage.verify().await;
}
