//! Card payments through Authorize.Net, as long as every answer arrives: approved, declined, held, captured, voided,
//! refunded; and what happens when the gateway is not there at all.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::scene::{
    balance, card_payment, change, check_problem, count, id_of, new_key, pay, payment, reference,
    until_status, with,
};
use crate::stage::{Stage, by_hand};

const APPROVED: &str = "46201";
const DECLINED: &str = "46282";
/// Its payments wait for a person at the gateway.
pub(crate) const HELD: &str = "46299";

async fn authorized(stage: &Stage, to: &str, amount: i64) -> String {
    let held = pay(stage, &with(&card_payment(to, amount, APPROVED), &json!({"capture": false}))).await;
    assert_eq!((&held["status"], &held["outcome"]), (&json!("authorized"), &json!("approved")), "{held}");
    held["id"].as_str().expect("a text").to_owned()
}

pub(crate) fn transaction(payment: &Value) -> &str {
    payment["gateway"]["transaction"].as_str().expect("the payment names its transaction")
}

/// Decides a held transaction.
pub(crate) async fn review(stage: &Stage, payment: &Value, action: &str) {
    let id = transaction(payment);
    let content = format!(r#""heldTransactionRequest":{{"action":"{action}","refTransId":"{id}"}}"#);
    by_hand(&stage.simulator, "updateHeldTransactionRequest", &content).await;
}

#[tokio::test]
async fn an_approved_card_credits_the_receiver_from_the_external_account() {
    let stage = Stage::start().await;
    let to = stage.account("USD", 0).await;
    let paid = pay(&stage, &card_payment(&to, 1_000, APPROVED)).await;
    for (field, expected) in [
        ("status", json!("succeeded")),
        ("outcome", json!("approved")),
        ("from", Value::Null),
        ("rail", json!("authorize_net")),
        ("amount_captured", json!(1_000)),
    ] {
        assert_eq!(paid[field], expected, "{field}");
    }
    assert_eq!(
        (&paid["gateway"]["name"], &paid["gateway"]["card_last_four"]),
        (&json!("authorize_net"), &json!("1111"))
    );
    assert!(paid["gateway"]["transaction"].is_string(), "{paid}");
    let id = paid["id"].as_str().expect("a text");
    assert_eq!(payment(&stage, id).await, paid);
    assert_eq!(stage.simulator.effects(&reference(&stage, id, 1).await).total(), 1);
    assert_eq!(stage.balance(&to).await, balance(1_000, 0));
    stage.verify().await;
}

#[tokio::test]
async fn a_declined_card_is_a_failed_payment_and_moves_nothing() {
    let stage = Stage::start().await;
    let to = stage.account("USD", 0).await;
    let (key, body) = (new_key(), card_payment(&to, 1_000, DECLINED));
    let first = stage.post("/v1/payments", &key, &body).await;
    assert_eq!(first.status, StatusCode::CREATED);
    let paid = first.json();
    assert_eq!(
        (&paid["status"], &paid["failure_code"], &paid["outcome"]),
        (&json!("failed"), &json!("declined"), &json!("declined"))
    );
    assert_eq!(stage.post("/v1/payments", &key, &body).await.bytes, first.bytes);
    assert_eq!(stage.simulator.effects(&reference(&stage, &id_of(&first), 1).await).total(), 0);
    assert_eq!(stage.balance(&to).await, balance(0, 0));
    stage.verify().await;
}

#[tokio::test]
async fn a_held_card_payment_is_settled_as_the_review_decides() {
    let stage = Stage::start().await;
    let to = stage.account("USD", 0).await;
    let approved = pay(&stage, &card_payment(&to, 1_000, HELD)).await;
    let declined = pay(&stage, &card_payment(&to, 2_000, HELD)).await;
    for held in [&approved, &declined] {
        assert_eq!((&held["status"], &held["outcome"]), (&json!("requires_review"), &json!("held")));
    }
    assert_eq!(stage.balance(&to).await, balance(0, 0));
    stage.verify().await;
    review(&stage, &approved, "approve").await;
    review(&stage, &declined, "decline").await;
    until_status(&stage, approved["id"].as_str().expect("a text"), "succeeded").await;
    let failed = until_status(&stage, declined["id"].as_str().expect("a text"), "failed").await;
    assert_eq!(failed["failure_code"], "declined");
    assert_eq!(stage.balance(&to).await, balance(1_000, 0));
    stage.verify().await;
}

#[tokio::test]
async fn a_held_payment_can_be_neither_captured_nor_voided_nor_refunded() {
    let stage = Stage::start().await;
    let to = stage.account("USD", 0).await;
    let held = pay(&stage, &card_payment(&to, 1_000, HELD)).await;
    for name in ["capture", "void", "refunds"] {
        let reply = change(&stage, held["id"].as_str().expect("a text"), name, &json!({})).await;
        check_problem(&reply, 409, "wrong_state", None);
    }
    stage.verify().await;
}

#[tokio::test]
async fn an_authorised_card_is_captured_whole_or_in_part() {
    let stage = Stage::start().await;
    let to = stage.account("USD", 0).await;
    for (body, captured) in [(json!({}), 1_000), (json!({"amount": 400}), 400)] {
        let before = stage.balance(&to).await["posted"].as_i64().expect("a whole number");
        let id = authorized(&stage, &to, 1_000).await;
        assert_eq!(stage.balance(&to).await, balance(before, 0));
        let reply = change(&stage, &id, "capture", &body).await;
        assert_eq!(
            (reply.status, &reply.json()["status"]),
            (StatusCode::OK, &json!("succeeded")),
            "{}",
            reply.json()
        );
        assert_eq!(reply.json()["amount_captured"], captured);
        assert_eq!(stage.balance(&to).await, balance(before + captured, 0));
        assert_eq!(stage.simulator.effects(&reference(&stage, &id, 3).await).capture, 1);
        assert_eq!(change(&stage, &id, "capture", &body).await.json(), reply.json());
    }
    stage.verify().await;
}

#[tokio::test]
async fn an_authorised_card_is_voided_once() {
    let stage = Stage::start().await;
    let to = stage.account("USD", 0).await;
    let id = authorized(&stage, &to, 1_000).await;
    let voided = change(&stage, &id, "void", &json!({})).await;
    assert_eq!((voided.status, &voided.json()["status"]), (StatusCode::OK, &json!("cancelled")));
    assert_eq!(change(&stage, &id, "void", &json!({})).await.json(), voided.json());
    check_problem(&change(&stage, &id, "capture", &json!({})).await, 409, "wrong_state", None);
    assert_eq!(stage.simulator.effects(&reference(&stage, &id, 4).await).void, 1);
    stage.verify().await;
}

#[tokio::test]
async fn an_authorisation_that_has_lapsed_at_the_gateway_can_still_be_voided() {
    let stage = Stage::start().await;
    let to = stage.account("USD", 0).await;
    let id = authorized(&stage, &to, 1_000).await;
    stage.simulator.expire_authorizations();
    check_problem(&change(&stage, &id, "capture", &json!({})).await, 422, "declined", None);
    let voided = change(&stage, &id, "void", &json!({})).await;
    assert_eq!((voided.status, &voided.json()["status"]), (StatusCode::OK, &json!("cancelled")));
    assert_eq!(count(&stage, "SELECT sum(held)::int8 FROM accounts").await, 0);
    stage.verify().await;
}

/// Before settlement the gateway can only undo the whole charge; afterwards it credits any part.
#[tokio::test]
async fn a_refund_undoes_the_charge_before_settlement_and_credits_after() {
    let stage = Stage::start().await;
    let to = stage.account("USD", 0).await;
    let undone =
        pay(&stage, &card_payment(&to, 1_000, APPROVED)).await["id"].as_str().expect("a text").to_owned();
    let settled =
        pay(&stage, &card_payment(&to, 500, APPROVED)).await["id"].as_str().expect("a text").to_owned();
    let early = change(&stage, &settled, "refunds", &json!({"amount": 200})).await;
    check_problem(&early, 422, "declined", None);
    let shown = payment(&stage, &settled).await;
    assert_eq!((&shown["status"], &shown["outcome"]), (&json!("succeeded"), &json!("approved")), "{shown}");
    assert_eq!(stage.balance(&to).await, balance(1_500, 0), "a refused refund releases what it held");
    let whole = change(&stage, &undone, "refunds", &json!({})).await.json();
    assert_eq!((&whole["status"], &whole["amount_refunded"]), (&json!("refunded"), &json!(1_000)));
    assert_eq!(stage.balance(&to).await, balance(500, 0));
    stage.simulator.settle();
    for (amount, status, left) in [(200, "partially_refunded", 300), (300, "refunded", 0)] {
        let part = change(&stage, &settled, "refunds", &json!({"amount": amount})).await.json();
        assert_eq!((&part["status"], &part["outcome"]), (&json!(status), &json!("approved")), "{part}");
        assert_eq!(stage.balance(&to).await, balance(left, 0));
    }
    stage.verify().await;
}

#[tokio::test]
async fn a_gateway_that_is_not_there_fails_the_payment_and_holds_nothing() {
    let nowhere = "http://127.0.0.1:1/xml/v1/request.api";
    let stage = Stage::start_with(&[("PAYSTRATA__GATEWAYS__AUTHORIZE_NET__ENDPOINT", nowhere)]).await;
    let to = stage.account("USD", 0).await;
    let (key, body) = (new_key(), card_payment(&to, 1_000, APPROVED));
    let first = stage.post("/v1/payments", &key, &body).await;
    assert_eq!(first.status, StatusCode::CREATED);
    let paid = first.json();
    assert_eq!(
        (&paid["status"], &paid["failure_code"]),
        (&json!("failed"), &json!("gateway_unavailable")),
        "{paid}"
    );
    assert_eq!(paid["outcome"], "not_sent");
    assert_eq!(stage.post("/v1/payments", &key, &body).await.bytes, first.bytes);
    assert_eq!(count(&stage, "SELECT sum(held)::int8 FROM accounts").await, 0);
    stage.verify().await;
}

#[tokio::test]
async fn a_rail_without_a_gateway_is_refused() {
    let stage = Stage::start_with(&[
        ("PAYSTRATA__GATEWAYS__AUTHORIZE_NET__ENDPOINT", ""),
        ("PAYSTRATA__GATEWAYS__VELOCITY_PAY__ENDPOINT", ""),
    ])
    .await;
    let (from, to) = (stage.account("USD", 1_000).await, stage.account("USD", 0).await);
    for body in [card_payment(&to, 100, APPROVED), crate::scene::velocity_payment(&from, &to, 100)] {
        let reply = stage.post("/v1/payments", &new_key(), &body).await;
        check_problem(&reply, 422, "rail_unavailable", Some("/rail"));
    }
    assert_eq!(stage.get("/v1/payments", &[]).await.json()["data"], json!([]));
}
