//! Batches of payments: independent and atomic, replayed, resumed, and bounded.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::scene::{
    balance, card_payment, check_problem, count, new_key, pay, sql, transfer, until_status, velocity_payment,
    with,
};
use crate::stage::{Reply, Stage};

pub(crate) const PATH: &str = "/v1/payments/batch";

pub(crate) async fn accounts(stage: &Stage) -> (String, String) {
    (stage.account("USD", 1_000).await, stage.account("USD", 0).await)
}

pub(crate) fn batch(mode: &str, payments: &[Value]) -> Value {
    json!({"mode": mode, "payments": payments})
}

async fn submit(stage: &Stage, body: &Value) -> Reply {
    let reply = stage.post(PATH, &new_key(), body).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.json());
    reply
}

/// What became of each item: the status of its payment, or the code of its error.
pub(crate) fn outcomes(reply: &Reply) -> Vec<String> {
    let body = reply.json();
    let results = body["results"].as_array().expect("an array").iter().enumerate();
    let word = |(index, result): (usize, &Value)| {
        assert_eq!(result["index"], json!(index));
        let told = if result["payment"].is_object() {
            &result["payment"]["status"]
        } else {
            &result["error"]["code"]
        };
        told.as_str().unwrap_or_else(|| panic!("no outcome in {result}")).to_owned()
    };
    results.map(word).collect()
}

pub(crate) fn check_summary(reply: &Reply, succeeded: u64, failed: u64, refused: u64) {
    let expected = json!({"succeeded": succeeded, "failed": failed, "refused": refused});
    assert_eq!(reply.json()["summary"], expected);
}

/// Notes each version that a row of accounts is given from now on.
const NOTE_VERSIONS: &str = "
    CREATE TABLE versions (account uuid NOT NULL);
    CREATE FUNCTION note_version() RETURNS trigger LANGUAGE plpgsql
        AS 'BEGIN INSERT INTO versions VALUES (new.id); RETURN NULL; END';
    CREATE TRIGGER note_version AFTER UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION note_version()";

#[tokio::test]
async fn an_account_that_is_used_a_thousand_times_in_a_batch_is_written_once() {
    let stage = Stage::start().await;
    let (from, to) = accounts(&stage).await;
    sql(&stage).await.batch_execute(NOTE_VERSIONS).await.expect("note versions");
    let reply = submit(&stage, &batch("atomic", &vec![transfer(&from, &to, 1); 1_000])).await;
    check_summary(&reply, 1_000, 0, 0);
    assert_eq!(count(&stage, "SELECT count(*) FROM versions").await, 2);
    stage.verify().await;
}

#[tokio::test]
async fn items_of_an_independent_batch_stand_alone_and_keep_their_order() {
    let stage = Stage::start().await;
    let (from, to) = accounts(&stage).await;
    let unknown = paystrata_app::ids::AccountId::new().to_string();
    let body = batch(
        "independent",
        &[
            transfer(&from, &to, 900),
            transfer(&from, &to, 200),
            transfer(&from, &unknown, 1),
            json!({"amount": 5}),
            json!("nonsense"),
            with(&transfer(&from, &to, 1), &json!({"amount": 0})),
            transfer(&from, &to, 100),
            transfer(&from, &to, 1),
        ],
    );
    let reply = submit(&stage, &body).await;
    let expected = [
        "succeeded",
        "failed",
        "account_not_found",
        "invalid_request",
        "invalid_request",
        "amount_out_of_range",
        "succeeded",
        "failed",
    ];
    assert_eq!(outcomes(&reply), expected, "what one sender pays is decided in order");
    check_summary(&reply, 2, 2, 4);
    let results = &reply.json()["results"];
    assert_eq!(results[1]["payment"]["failure_code"], "insufficient_funds");
    for (index, param) in [(2, "/to"), (3, "/payments/3/to"), (5, "/payments/5/amount")] {
        let told = results[index]["error"]["param"].as_str().expect("a text");
        assert!(told.ends_with(param), "{index}: {told} names the field at fault");
    }
    assert_eq!((stage.balance(&from).await, stage.balance(&to).await), (balance(0, 0), balance(1_000, 0)));
    stage.verify().await;
}

#[tokio::test]
async fn an_atomic_batch_is_done_whole() {
    let stage = Stage::start().await;
    let (from, to) = accounts(&stage).await;
    let third = stage.account("USD", 0).await;
    // Each item spends what the one before it brought.
    let body = batch(
        "atomic",
        &[transfer(&from, &to, 1_000), transfer(&to, &third, 1_000), transfer(&third, &from, 1_000)],
    );
    let reply = submit(&stage, &body).await;
    assert_eq!(outcomes(&reply), ["succeeded"; 3]);
    check_summary(&reply, 3, 0, 0);
    assert_eq!(stage.balance(&from).await, balance(1_000, 0));
    assert_eq!(count(&stage, "SELECT count(*) FROM payments").await, 3);
    stage.verify().await;
}

#[tokio::test]
async fn an_atomic_batch_with_one_bad_item_does_nothing_and_names_the_cause() {
    let stage = Stage::start().await;
    let (from, to) = accounts(&stage).await;
    let unknown = paystrata_app::ids::AccountId::new().to_string();
    for (bad, code) in [
        (transfer(&from, &to, 2_000), "insufficient_funds"),
        (transfer(&from, &unknown, 1), "account_not_found"),
        (with(&transfer(&from, &to, 1), &json!({"amount": 0})), "amount_out_of_range"),
        (with(&transfer(&from, &to, 1), &json!({"currency": "EUR"})), "currency_mismatch"),
        (velocity_payment(&from, &to, 1), "rail_not_atomic"),
    ] {
        let hold = with(&transfer(&from, &to, 10), &json!({"capture": false}));
        let body = batch("atomic", &[transfer(&from, &to, 10), hold, bad, transfer(&to, &from, 1)]);
        let (key, before) = (new_key(), count(&stage, "SELECT count(*) FROM idempotency_keys").await);
        let reply = stage.post(PATH, &key, &body).await;
        assert_eq!(outcomes(&reply), ["batch_aborted", "batch_aborted", code, "batch_aborted"]);
        check_summary(&reply, 0, 0, 4);
        let again = stage.post(PATH, &key, &body).await;
        assert_eq!((&again.bytes, again.headers.contains_key("idempotent-replayed")), (&reply.bytes, true));
        let keys = count(&stage, "SELECT count(*) FROM idempotency_keys").await - before;
        assert_eq!(keys, 2, "only the batch's own key is taken, for its body and for its answer");
    }
    for table in ["payments", "outbox", "entries WHERE payment_id IS NOT NULL", "gateway_operations"] {
        assert_eq!(count(&stage, &format!("SELECT count(*) FROM {table}")).await, 0, "{table}");
    }
    assert_eq!((stage.balance(&from).await, stage.balance(&to).await), (balance(1_000, 0), balance(0, 0)));
    stage.verify().await;
}

#[tokio::test]
async fn an_aborted_batch_stays_aborted_after_funds_arrive() {
    let stage = Stage::start().await;
    let (from, to) = accounts(&stage).await;
    let (key, body) = (new_key(), batch("atomic", &[transfer(&to, &from, 50)]));
    let aborted = stage.post(PATH, &key, &body).await;
    assert_eq!(outcomes(&aborted), ["insufficient_funds"]);
    pay(&stage, &transfer(&from, &to, 100)).await;
    assert_eq!(stage.post(PATH, &key, &body).await.bytes, aborted.bytes);
    assert_eq!(stage.balance(&to).await, balance(100, 0));
}

#[tokio::test]
async fn a_replayed_batch_is_the_same_bytes_and_pays_nothing() {
    let stage = Stage::start().await;
    let (from, to) = accounts(&stage).await;
    for mode in ["independent", "atomic"] {
        let body = batch(mode, &[transfer(&from, &to, 10), transfer(&from, &to, 20)]);
        let key = new_key();
        let first = stage.post(PATH, &key, &body).await;
        assert!(!first.headers.contains_key("idempotent-replayed"));
        let after = stage.balance(&from).await;
        for _ in 0..2 {
            let again = stage.post(PATH, &key, &body).await;
            assert_eq!((again.status, &again.bytes), (first.status, &first.bytes));
            assert_eq!(again.headers["idempotent-replayed"], "true");
        }
        assert_eq!(stage.balance(&from).await, after);
        for (change, field) in [
            (json!({"payments": [transfer(&from, &to, 10), transfer(&from, &to, 21)]}), "/payments"),
            (json!({"mode": if mode == "atomic" { "independent" } else { "atomic" }}), "/mode"),
        ] {
            let reply = stage.post(PATH, &key, &with(&body, &change)).await;
            check_problem(&reply, 422, "idempotency_key_reuse", Some(field));
        }
    }
    stage.verify().await;
}

#[tokio::test]
async fn one_batch_sent_many_times_at_once_pays_once() {
    let stage = Stage::start().await;
    let (from, to) = accounts(&stage).await;
    for mode in ["independent", "atomic"] {
        let payments: Vec<Value> = (1..=20).map(|amount| transfer(&from, &to, amount)).collect();
        let (key, body) = (new_key(), batch(mode, &payments));
        let replies = futures_util::future::join_all((0..8).map(|_| stage.post(PATH, &key, &body))).await;
        for reply in &replies {
            assert_eq!((reply.status, &reply.bytes), (StatusCode::OK, &replies[0].bytes), "{mode}");
        }
    }
    assert_eq!(count(&stage, "SELECT count(*) FROM payments").await, 40);
    assert_eq!(stage.balance(&to).await, balance(420, 0));
    stage.verify().await;
}

/// More than the gateways take at once, and far more than may wait there: a batch has the time to wait for places.
#[tokio::test]
async fn a_batch_of_hundreds_through_gateways_succeeds_whole() {
    let narrow = [
        ("PAYSTRATA__GATEWAYS__VELOCITY_PAY__IN_FLIGHT_MAX", "8"),
        ("PAYSTRATA__GATEWAYS__AUTHORIZE_NET__IN_FLIGHT_MAX", "8"),
        // Half of it is what an item waits for a place: how slow the machine is should not decide.
        ("PAYSTRATA__HTTP__REQUEST_TIMEOUT_MS", "240000"),
    ];
    let stage = Stage::start_with(&narrow).await;
    let (from, to) = accounts(&stage).await;
    // No amount ends in what the simulator takes for a trigger, and no two cards pay the same within its window.
    let payments: Vec<Value> = (0..400)
        .map(|index| match index % 2 {
            0 => velocity_payment(&from, &to, 1),
            _ => card_payment(&to, 10_000 + 10 * index, "46201"),
        })
        .collect();
    let reply = submit(&stage, &batch("independent", &payments)).await;
    check_summary(&reply, 400, 0, 0);
    assert_eq!(stage.balance(&from).await, balance(800, 0));
    stage.verify().await;
}

/// The money is enough for the first hundred only.
#[tokio::test]
async fn book_payments_of_a_batch_are_decided_in_its_order_also_among_others() {
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 100).await, stage.account("USD", 0).await);
    let other = stage.account("USD", 1_000).await;
    let payments: Vec<Value> = (0..900)
        .map(|index| if index % 3 == 2 { velocity_payment(&other, &to, 1) } else { transfer(&from, &to, 1) })
        .collect();
    let reply = submit(&stage, &batch("independent", &payments)).await;
    let told = outcomes(&reply);
    let book: Vec<&str> = (0..900).filter(|index| index % 3 != 2).map(|index| told[index].as_str()).collect();
    assert!(book[..100].iter().all(|one| *one == "succeeded"), "{book:?}");
    assert!(book[100..].iter().all(|one| *one == "failed"), "{book:?}");
}

#[tokio::test]
async fn what_is_no_batch_is_refused_before_any_work() {
    let stage = Stage::start_with(&[("PAYSTRATA__HTTP__BATCH_ITEMS_MAX", "3")]).await;
    let (from, to) = accounts(&stage).await;
    let one = transfer(&from, &to, 1);
    let many = vec![one.clone(); 4];
    for (body, status, code, param) in [
        (batch("atomic", &[]), 422, "batch_size", "/payments"),
        (batch("independent", &many), 413, "batch_size", "/payments"),
        (batch("both", std::slice::from_ref(&one)), 422, "invalid_request", "/mode"),
        (json!({"mode": "atomic"}), 422, "invalid_request", "/payments"),
        (json!({"payments": {"0": one}}), 422, "invalid_request", "/payments"),
        (json!({"payments": [one], "dry_run": true}), 422, "invalid_request", "/dry_run"),
    ] {
        let reply = stage.post(PATH, &new_key(), &body).await;
        check_problem(&reply, status, code, Some(param));
    }
    assert_eq!(submit(&stage, &batch("independent", &many[..3])).await.json()["summary"]["succeeded"], 3);
    assert_eq!(stage.balance(&from).await, balance(997, 0));
}

#[tokio::test]
async fn a_batch_of_a_thousand_is_paid_and_answered_in_order() {
    let stage = Stage::start().await;
    let (from, to) = accounts(&stage).await;
    let payments: Vec<Value> = (0..1_000)
        .map(|index| with(&transfer(&from, &to, 1), &json!({"merchant_reference": format!("item {index}")})))
        .collect();
    for mode in ["independent", "atomic"] {
        if mode == "atomic" {
            pay(&stage, &transfer(&to, &from, 1_000)).await;
        }
        let reply = submit(&stage, &batch(mode, &payments)).await;
        check_summary(&reply, 1_000, 0, 0);
        let body = reply.json();
        for (index, result) in body["results"].as_array().expect("an array").iter().enumerate() {
            assert_eq!(result["payment"]["merchant_reference"], json!(format!("item {index}")));
        }
        assert_eq!(stage.balance(&to).await, balance(1_000, 0));
    }
    stage.verify().await;
}

#[tokio::test]
async fn a_batch_may_be_larger_than_a_single_body() {
    let stage = Stage::start().await;
    let (from, to) = accounts(&stage).await;
    let large = json!({"metadata": {"a": "x".repeat(15_000)}});
    let payments = vec![with(&transfer(&from, &to, 1), &large); 100];
    let body = batch("independent", &payments).to_string().into_bytes();
    assert!(body.len() > 1 << 20);
    let reply = stage.send(Method::POST, PATH, &[("idempotency-key", &new_key())], Some(body)).await;
    check_summary(&reply, 100, 0, 0);
}

/// What the gateways said is told item by item; an outcome that is not known is not counted as a success.
#[tokio::test]
async fn an_independent_batch_takes_every_rail_and_guesses_no_outcome() {
    let stage = Stage::start().await;
    let (from, to) = accounts(&stage).await;
    let body = batch(
        "independent",
        &[
            transfer(&from, &to, 100),
            velocity_payment(&from, &to, 200),
            card_payment(&to, 300, "46201"),
            card_payment(&to, 400, "46282"),
            card_payment(&to, 1_077, "46201"),
        ],
    );
    let key = new_key();
    let reply = stage.post(PATH, &key, &body).await;
    assert_eq!(outcomes(&reply), ["succeeded", "succeeded", "succeeded", "failed", "processing"]);
    let summary = &reply.json()["summary"];
    let counted = ["succeeded", "failed", "refused"].map(|name| summary[name].as_u64());
    assert_eq!(counted, [Some(3), Some(1), Some(0)], "{summary}");
    let lost = reply.json()["results"][4]["payment"]["id"].as_str().expect("a payment").to_owned();
    until_status(&stage, &lost, "succeeded").await;
    let again = stage.post(PATH, &key, &body).await;
    assert_eq!(again.bytes, reply.bytes, "the answer stays what it was");
    assert_eq!(stage.balance(&from).await, balance(700, 0));
    assert_eq!(stage.balance(&to).await, balance(100 + 200 + 300 + 1_077, 0));
    assert_eq!(count(&stage, "SELECT count(*) FROM gateway_operations").await, 4);
    stage.verify().await;
}
