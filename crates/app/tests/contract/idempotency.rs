//! P3 on the book rail: one key, one payment, one answer; another request under the key is refused by field; what was not
//! done leaves the key free. Also the header itself.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use paystrata_app::engine::Rail;
use paystrata_gateway::Patience;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::scene::{
    Caller, backdate, balance, card_payment, change, check_problem, expired, id_of, new_key, pay, transfer,
    velocity_payment, with,
};
use crate::stage::{KEY, Stage};

const OTHER_KEY: &str = "sk_other_0123456789abcdef0123456789abcdef";

async fn accounts(stage: &Stage) -> (String, String) {
    (stage.account("USD", 1_000).await, stage.account("USD", 0).await)
}

#[tokio::test]
async fn a_replay_is_the_same_bytes_and_says_so() {
    let stage = Stage::start_uncached().await;
    let (from, to) = accounts(&stage).await;
    let (key, body) = (new_key(), transfer(&from, &to, 10));
    let first = stage.post("/v1/payments", &key, &body).await;
    assert!(!first.headers.contains_key("idempotent-replayed"));
    // The payment goes on to another state; its answer under the key does not.
    change(&stage, &id_of(&first), "refunds", &json!({})).await;
    for _ in 0..3 {
        let again = stage.post("/v1/payments", &key, &body).await;
        assert_eq!((again.status, &again.bytes), (first.status, &first.bytes));
        assert_eq!(again.headers["idempotent-replayed"], "true");
    }
    assert_eq!(stage.balance(&from).await, balance(1_000, 0));
    stage.verify().await;
}

#[tokio::test]
async fn a_hundred_requests_with_one_key_at_once_make_one_payment_and_one_answer() {
    let stage = Stage::start_uncached().await;
    let (from, to) = accounts(&stage).await;
    let (key, body) = (new_key(), transfer(&from, &to, 10));
    let replies = join_all((0..100).map(|_| stage.post("/v1/payments", &key, &body))).await;
    let answers: BTreeSet<(u16, &[u8])> =
        replies.iter().map(|reply| (reply.status.as_u16(), reply.bytes.as_slice())).collect();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(replies[0].status, StatusCode::CREATED);
    let replayed = replies.iter().filter(|reply| reply.headers.contains_key("idempotent-replayed")).count();
    assert_eq!(replayed, 99);
    assert_eq!(crate::scene::count(&stage, "SELECT count(*) FROM payments").await, 1);
    assert_eq!(stage.balance(&from).await, balance(990, 0));
    stage.verify().await;
}

/// The claims of two senders are decided in two lanes: they meet in the database only.
#[tokio::test]
async fn one_key_with_two_bodies_at_once_does_one_of_them() {
    let stage = Stage::start_uncached().await;
    let (from, to) = accounts(&stage).await;
    let others = join_all((0..8).map(|_| stage.account("USD", 1_000))).await;
    for round in 0..20 {
        let key = new_key();
        let bodies: Vec<Value> = others.iter().map(|other| transfer(other, &to, 1)).collect();
        let replies = join_all(bodies.iter().map(|body| stage.post("/v1/payments", &key, body))).await;
        let created = replies.iter().filter(|reply| reply.status == StatusCode::CREATED).count();
        assert_eq!(created, 1, "round {round}");
        for refused in replies.iter().filter(|reply| reply.status != StatusCode::CREATED) {
            check_problem(refused, 422, "idempotency_key_reuse", Some("/from"));
        }
    }
    assert_eq!(stage.balance(&to).await, balance(20, 0));
    assert_eq!(stage.balance(&from).await, balance(1_000, 0));
    stage.verify().await;
}

#[tokio::test]
async fn order_of_fields_and_white_space_and_nulls_make_no_difference() {
    let stage = Stage::start_uncached().await;
    let (from, to) = accounts(&stage).await;
    let key = new_key();
    let send = async |body: String| {
        stage.send(Method::POST, "/v1/payments", &[("idempotency-key", &key)], Some(body.into_bytes())).await
    };
    let first = send(format!(
        r#"{{"from":"{from}","to":"{to}","amount":5,"currency":"USD","metadata":{{"a":1,"b":[1,2]}}}}"#
    ))
    .await;
    assert_eq!(first.status, StatusCode::CREATED);
    for body in [
        format!(
            r#"{{"metadata":{{"b":[1,2],"a":1}},"currency":"USD","amount":5,"to":"{to}","from":"{from}"}}"#
        ),
        format!(
            "{{ \"from\" : \"{from}\",\n\t\"to\":\"{to}\", \"amount\":5,\"currency\":\"U\\u0053D\", \"metadata\":{{\"a\":1,\"b\":[1, 2]}}}}\r\n"
        ),
        format!(
            r#"{{"from":"{from}","to":"{to}","amount":5,"currency":"USD","metadata":{{"a":1,"b":[1,2]}},"card":null}}"#
        ),
    ] {
        let again = send(body.clone()).await;
        assert_eq!(again.bytes, first.bytes, "{body}");
    }
    assert_eq!(stage.balance(&from).await, balance(995, 0));
}

#[tokio::test]
async fn another_request_under_the_key_is_refused_naming_the_field_that_differs() {
    let stage = Stage::start_uncached().await;
    let (from, to) = accounts(&stage).await;
    let third = stage.account("USD", 5).await;
    let body = with(
        &transfer(&from, &to, 10),
        &json!({"rail": "book", "capture": true, "merchant_reference": "r", "metadata": {"a": 1}}),
    );
    let key = new_key();
    let first = stage.post("/v1/payments", &key, &body).await;
    assert_eq!(first.status, StatusCode::CREATED);
    for (change, field) in [
        (json!({"from": third}), "/from"),
        (json!({"to": third}), "/to"),
        (json!({"amount": 11}), "/amount"),
        (json!({"currency": "EUR"}), "/currency"),
        (json!({"rail": "velocity_pay"}), "/rail"),
        (json!({"rail": null}), "/rail"),
        (json!({"merchant_reference": "s"}), "/merchant_reference"),
        (json!({"merchant_reference": null}), "/merchant_reference"),
        (json!({"capture": false}), "/capture"),
        (json!({"capture": null}), "/capture"),
        (json!({"metadata": {"a": 2}}), "/metadata"),
        (json!({"metadata": {"a": 1, "b": 2}}), "/metadata"),
        (json!({"metadata": null}), "/metadata"),
        (json!({"amount": 11, "metadata": null}), "/amount"),
    ] {
        let reply = stage.post("/v1/payments", &key, &with(&body, &change)).await;
        check_problem(&reply, 422, "idempotency_key_reuse", Some(field));
    }
    assert_eq!(
        stage.post("/v1/payments", &key, &body).await.bytes,
        first.bytes,
        "and the first answer stands"
    );
    assert_eq!(stage.balance(&from).await, balance(990, 0));
}

#[tokio::test]
async fn a_key_belongs_to_one_route_and_one_payment() {
    let stage = Stage::start_uncached().await;
    let (from, to) = accounts(&stage).await;
    let (key, body) = (new_key(), transfer(&from, &to, 10));
    let first = id_of(&stage.post("/v1/payments", &key, &body).await);
    let second = pay(&stage, &body).await["id"].as_str().expect("a text").to_owned();
    for (path, body) in [
        (format!("/v1/payments/{first}/refunds"), json!({"amount": 1})),
        (format!("/v1/payments/{first}/capture"), json!({})),
        (format!("/v1/payments/{first}/void"), json!({})),
        ("/v1/accounts".to_owned(), json!({"currency": "USD"})),
        ("/v1/payments/batch".to_owned(), json!({"payments": [body]})),
    ] {
        let reply = stage.post(&path, &key, &body).await;
        check_problem(&reply, 422, "idempotency_key_reuse", Some("/path"));
    }
    let key = new_key();
    let refund = |id: &str| format!("/v1/payments/{id}/refunds");
    assert_eq!(stage.post(&refund(&first), &key, &json!({"amount": 1})).await.status, StatusCode::CREATED);
    let reply = stage.post(&refund(&second), &key, &json!({"amount": 1})).await;
    check_problem(&reply, 422, "idempotency_key_reuse", Some("/id"));
    let reply = stage.post(&refund(&first), &key, &json!({"amount": 2})).await;
    check_problem(&reply, 422, "idempotency_key_reuse", Some("/amount"));
    assert_eq!(stage.balance(&to).await, balance(19, 0));
    stage.verify().await;
}

#[tokio::test]
async fn changes_of_a_payment_are_replayed_like_payments() {
    let stage = Stage::start_uncached().await;
    let (from, to) = accounts(&stage).await;
    let hold = with(&transfer(&from, &to, 100), &json!({"capture": false}));
    let id = pay(&stage, &hold).await["id"].as_str().expect("a text").to_owned();
    let voided = pay(&stage, &hold).await["id"].as_str().expect("a text").to_owned();
    let mut answers = Vec::new();
    for (id, change, body) in [
        (&id, "capture", json!({"amount": 80})),
        (&id, "refunds", json!({"amount": 30})),
        (&id, "refunds", json!({"amount": 30})),
        (&voided, "void", json!({})),
    ] {
        let (path, key) = (format!("/v1/payments/{id}/{change}"), new_key());
        answers.push((path.clone(), key.clone(), body.clone(), stage.post(&path, &key, &body).await));
    }
    for (path, key, body, first) in answers {
        let again = stage.post(&path, &key, &body).await;
        assert_eq!((again.status, &again.bytes), (first.status, &first.bytes), "{path}");
        assert_eq!(again.headers["idempotent-replayed"], "true");
    }
    assert_eq!((stage.balance(&from).await, stage.balance(&to).await), (balance(980, 0), balance(20, 0)));
    stage.verify().await;
}

#[tokio::test]
async fn two_merchants_with_one_key_make_two_payments() {
    let stage = Stage::start_uncached().await;
    let other = Caller::new_merchant(&stage, OTHER_KEY).await;
    let (from, to) = accounts(&stage).await;
    let (their_from, their_to) = (other.account("USD", 50).await, other.account("USD", 0).await);
    let key = new_key();
    let mine = stage.post("/v1/payments", &key, &transfer(&from, &to, 1)).await;
    let theirs = other.post("/v1/payments", &key, &transfer(&their_from, &their_to, 2)).await;
    assert_eq!((mine.status, theirs.status), (StatusCode::CREATED, StatusCode::CREATED));
    assert_ne!(id_of(&mine), id_of(&theirs));
    assert!(!theirs.headers.contains_key("idempotent-replayed"));
}

#[tokio::test]
async fn what_was_refused_before_it_reached_the_ledger_leaves_its_key_free() {
    let stage = Stage::start_uncached().await;
    let (from, to) = accounts(&stage).await;
    let good = transfer(&from, &to, 1);
    for bad in [
        with(&good, &json!({"amount": 0})),
        with(&good, &json!({"nonsense": 1})),
        with(&good, &json!({"to": from})),
    ] {
        let key = new_key();
        assert_eq!(
            stage.post("/v1/payments", &key, &bad).await.status,
            StatusCode::UNPROCESSABLE_ENTITY,
            "{bad}"
        );
        let reply = stage.post("/v1/payments", &key, &good).await;
        assert_eq!(reply.json()["status"], "succeeded", "{}", reply.json());
    }
}

/// What the ledger refuses is an answer like any other: the same bytes for every send, whatever has changed since.
#[tokio::test]
async fn what_the_ledger_refused_stays_refused_under_its_key() {
    let stage = Stage::start_uncached().await;
    let (from, to) = accounts(&stage).await;
    let unknown = paystrata_app::ids::AccountId::new().to_string();
    let good = transfer(&from, &to, 1);
    for (change, code, field) in [
        (json!({"to": unknown}), "account_not_found", "/to"),
        (json!({"currency": "EUR"}), "currency_mismatch", "/currency"),
    ] {
        let (key, bad) = (new_key(), with(&good, &change));
        let first = stage.post("/v1/payments", &key, &bad).await;
        assert_eq!((first.status, &first.json()["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!(code)));
        crate::scene::check_form(&first);
        let again = stage.post("/v1/payments", &key, &bad).await;
        assert_eq!((again.status, &again.bytes), (first.status, &first.bytes));
        assert_eq!(again.headers["idempotent-replayed"], "true");
        assert!(!again.headers.contains_key("retry-after"));
        let other = stage.post("/v1/payments", &key, &good).await;
        check_problem(&other, 422, "idempotency_key_reuse", Some(field));
    }
    assert_eq!(stage.balance(&from).await, balance(1_000, 0));
}

#[tokio::test]
async fn a_reported_failure_stays_a_failure_after_funds_arrive() {
    let stage = Stage::start_uncached().await;
    let (from, to) = accounts(&stage).await;
    let (key, body) = (new_key(), transfer(&to, &from, 50));
    let failed = stage.post("/v1/payments", &key, &body).await;
    assert_eq!(failed.json()["failure_code"], "insufficient_funds");
    pay(&stage, &transfer(&from, &to, 100)).await;
    let again = stage.post("/v1/payments", &key, &body).await;
    assert_eq!((again.status, &again.bytes), (StatusCode::CREATED, &failed.bytes));
    assert_eq!(stage.balance(&to).await, balance(100, 0));
    assert_eq!(pay(&stage, &body).await["status"], "succeeded", "under a new key it is a new payment");
}

#[tokio::test]
async fn the_header_is_required_where_money_moves_and_read_strictly() {
    let stage = Stage::start_uncached().await;
    let (from, to) = accounts(&stage).await;
    let body = transfer(&from, &to, 1);
    let id = pay(&stage, &body).await["id"].as_str().expect("a text").to_owned();
    let caller = Caller::with_key(&stage, KEY);
    for path in ["/v1/payments", "/v1/payments/batch"]
        .map(str::to_owned)
        .into_iter()
        .chain(["capture", "void", "refunds"].map(|change| format!("/v1/payments/{id}/{change}")))
    {
        let reply = caller.send(Method::POST, &path, body.to_string()).await;
        check_problem(&reply, 400, "idempotency_key_required", Some("Idempotency-Key"));
    }
    let long = [b'x'; 256];
    for bad in [b"".as_slice(), b"   ", b"\"\"", &long, "kéy".as_bytes(), b"a\tb"] {
        let caller = caller.clone().header("idempotency-key", bad);
        let reply = caller.send(Method::POST, "/v1/payments", body.to_string()).await;
        check_problem(&reply, 400, "invalid_idempotency_key", Some("Idempotency-Key"));
    }
    let twice = caller.clone().header("idempotency-key", b"a").header("idempotency-key", b"a");
    let reply = twice.send(Method::POST, "/v1/payments", body.to_string()).await;
    check_problem(&reply, 400, "invalid_idempotency_key", Some("Idempotency-Key"));
    assert_eq!(stage.balance(&from).await, balance(999, 0));
}

#[tokio::test]
async fn the_quoted_form_of_a_key_is_the_same_key() {
    let stage = Stage::start_uncached().await;
    let (from, to) = accounts(&stage).await;
    let (key, body) = ("k".repeat(255), transfer(&from, &to, 1));
    let raw = stage.post("/v1/payments", &key, &body).await;
    assert_eq!(raw.status, StatusCode::CREATED);
    let quoted = stage.post("/v1/payments", &format!("\"{key}\""), &body).await;
    assert_eq!((&quoted.bytes, quoted.headers.contains_key("idempotent-replayed")), (&raw.bytes, true));
}

/// The answer of a payment that was acceptable when it was sent outlives its card.
#[tokio::test]
async fn a_key_goes_on_answering_after_the_card_has_expired() {
    let stage = Stage::start_uncached().await;
    let to = stage.account("USD", 0).await;
    let (key, card) = (new_key(), card_payment(&to, 4_200, "46201"));
    let first = stage.post("/v1/payments", &key, &card).await;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.json());
    backdate(&stage, &key, &expired(&card)).await;
    let again = stage.post("/v1/payments", &key, &expired(&card)).await;
    assert_eq!((again.status, &again.bytes), (first.status, &first.bytes));
    assert_eq!(again.headers["idempotent-replayed"], "true");
    let other = stage.post("/v1/payments", &new_key(), &expired(&card)).await;
    check_problem(&other, 422, "invalid_request", Some("/card/expiration"));
}

/// A gateway that has no place free says nothing about what was done before.
#[tokio::test]
async fn a_replay_on_a_full_gateway_gets_its_kept_answer() {
    let stage = Stage::start_with(&[
        ("PAYSTRATA__CACHE__ENABLED", "false"),
        ("PAYSTRATA__GATEWAYS__VELOCITY_PAY__IN_FLIGHT_MAX", "1"),
    ])
    .await;
    let (from, to) = accounts(&stage).await;
    let (key, body) = (new_key(), velocity_payment(&from, &to, 100));
    let first = stage.post("/v1/payments", &key, &body).await;
    assert_eq!(first.json()["status"], "succeeded", "{}", first.json());
    let (path, refund_key) = (format!("/v1/payments/{}/refunds", id_of(&first)), new_key());
    let refund = stage.post(&path, &refund_key, &json!({})).await;
    assert_eq!(refund.status, StatusCode::CREATED, "{}", refund.json());
    let gateway = stage.service.app.gateways.of(Rail::VelocityPay).expect("it is configured");
    let place = gateway.reserve(Patience::Brief).await.expect("the only place");
    for (path, key, body, kept) in
        [("/v1/payments", &key, &body, &first), (path.as_str(), &refund_key, &json!({}), &refund)]
    {
        check_problem(&stage.post(path, &new_key(), body).await, 503, "overloaded", None);
        let replay = stage.post(path, key, body).await;
        assert_eq!((replay.status, &replay.bytes), (kept.status, &kept.bytes), "{path}");
        assert_eq!(replay.headers["idempotent-replayed"], "true");
    }
    drop(place);
    stage.verify().await;
}
