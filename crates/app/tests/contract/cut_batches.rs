//! Batches that are not finished by one send: cut, met by a passing obstacle, or sent again much later. They are completed by
//! the same body under the same key, and nothing is said for good of what is not decided.

use serde_json::json;

use crate::batches::{PATH, accounts, batch, check_summary, outcomes};
use crate::scene::{
    another, backdate, balance, card_payment, check_problem, count, expired, new_key, pay, sql, transfer,
    velocity_payment, with,
};
use crate::stage::Stage;

/// As if the service had died before it answered on the whole, and the key had not even been tied to its body.
async fn forget_whole(stage: &Stage) {
    let whole = "DELETE FROM idempotency_keys WHERE status_code IN (102, 200)";
    assert_eq!(sql(stage).await.execute(whole, &[]).await.expect("write the database"), 2);
}

/// Has the database refuse payments with this reference.
async fn refuse(stage: &Stage, reference: &str) {
    let refuse = format!(
        "ALTER TABLE payments ADD CONSTRAINT test_refusal CHECK (merchant_reference <> '{reference}')"
    );
    sql(stage).await.batch_execute(&refuse).await.expect("change the schema");
}

async fn refuse_no_longer(stage: &Stage) {
    let allow = "ALTER TABLE payments DROP CONSTRAINT test_refusal";
    sql(stage).await.batch_execute(allow).await.expect("change the schema");
}

/// A batch whose answer was never kept is completed by sending it again: what was paid is not paid twice.
#[tokio::test]
async fn a_batch_that_was_cut_is_completed_by_sending_it_again() {
    let stage = Stage::start().await;
    let (from, to) = accounts(&stage).await;
    let (key, body) =
        (new_key(), batch("independent", &[transfer(&from, &to, 10), transfer(&from, &to, 20)]));
    let first = stage.post(PATH, &key, &body).await;
    let after = stage.balance(&from).await;
    // As if the service had died after the items were paid and before the answer was kept.
    let digest = "DELETE FROM idempotency_keys WHERE status_code = 200";
    assert_eq!(sql(&stage).await.execute(digest, &[]).await.expect("write the database"), 1);
    // Asked for as all or none, it can be neither any more; and that is not kept, so that it can still be completed.
    let atomic = with(&body, &json!({"mode": "atomic"}));
    for _ in 0..2 {
        let reply = stage.post(PATH, &key, &atomic).await;
        check_problem(&reply, 422, "idempotency_key_reuse", Some("/mode"));
    }
    let again = stage.post(PATH, &key, &body).await;
    assert_eq!(again.bytes, first.bytes);
    assert_eq!(stage.balance(&from).await, after);
    stage.verify().await;
}

/// A send that was cut leaves no answer on the whole, and yet the key is that body's.
#[tokio::test]
async fn a_batch_that_was_cut_is_completed_by_its_own_body_and_no_other() {
    let stage = Stage::start().await;
    let (from, to) = accounts(&stage).await;
    let marked = with(&transfer(&from, &to, 5), &json!({"merchant_reference": "refuse me"}));
    let (key, body) = (new_key(), batch("independent", &[transfer(&from, &to, 10), marked.clone()]));
    refuse(&stage, "refuse me").await;
    assert_eq!(outcomes(&stage.post(PATH, &key, &body).await), ["succeeded", "internal"]);
    refuse_no_longer(&stage).await;
    let other = batch("independent", &[transfer(&from, &to, 10), transfer(&from, &to, 6), marked.clone()]);
    let atomic = batch("atomic", &[transfer(&from, &to, 10), marked]);
    for (other, param) in [(other, "/payments"), (atomic, "/mode")] {
        let reply = stage.post(PATH, &key, &other).await;
        check_problem(&reply, 422, "idempotency_key_reuse", Some(param));
    }
    assert_eq!(stage.balance(&to).await, balance(10, 0), "the others did nothing");
    assert_eq!(outcomes(&stage.post(PATH, &key, &body).await), ["succeeded", "succeeded"]);
    assert_eq!(stage.balance(&to).await, balance(15, 0));
    stage.verify().await;
}

/// What a send that was cut has paid already counts once, and leaves room for the rest.
#[tokio::test]
async fn a_batch_that_was_cut_is_completed_within_the_velocity_that_it_began_with() {
    const ITEMS: usize = 60;
    let stage = Stage::start_with(&[
        ("PAYSTRATA__FRAUD__VELOCITY_COUNT_MAX", &ITEMS.to_string()),
        ("PAYSTRATA__FRAUD__VELOCITY_WINDOW_SECONDS", "86400"),
    ])
    .await;
    let (from, to) = accounts(&stage).await;
    let items = vec![transfer(&from, &to, 1); ITEMS];
    // As if the service had died when most of the items were paid: those are another batch's under the same key.
    let (key, part) = (new_key(), batch("independent", &items[..ITEMS - 10]));
    assert_eq!(outcomes(&stage.post(PATH, &key, &part).await), ["succeeded"; ITEMS - 10]);
    forget_whole(&stage).await;
    let completed = stage.post(PATH, &key, &batch("independent", &items)).await;
    assert_eq!(outcomes(&completed), ["succeeded"; ITEMS]);
    assert_eq!(pay(&stage, &items[0]).await["failure_code"], "fraud_rejected");
    stage.verify().await;
}

/// What was paid when it was acceptable is told as paid, whatever the day says of it now.
#[tokio::test]
async fn a_batch_that_was_cut_tells_of_a_card_that_was_charged_before_it_expired() {
    let stage = Stage::start().await;
    let (from, to) = accounts(&stage).await;
    let (key, card) = (new_key(), card_payment(&to, 4_200, "46201"));
    let first =
        stage.post(PATH, &key, &batch("independent", &[transfer(&from, &to, 10), card.clone()])).await;
    assert_eq!(outcomes(&first), ["succeeded"; 2]);
    // And the batch were sent again years later.
    forget_whole(&stage).await;
    let old = expired(&card);
    backdate(&stage, &format!("{key}\u{1f}1"), &old).await;
    let resumed = batch("independent", &[transfer(&from, &to, 10), old.clone(), old]);
    for _ in 0..2 {
        let again = stage.post(PATH, &key, &resumed).await;
        assert_eq!(outcomes(&again), ["succeeded", "succeeded", "invalid_request"]);
        let (told, before) = (again.json(), first.json());
        assert_eq!(told["results"][1]["payment"], before["results"][1]["payment"]);
        assert_eq!(told["results"][2]["error"]["param"], "/payments/2/card/expiration");
        check_summary(&again, 2, 0, 1);
    }
    assert_eq!(count(&stage, "SELECT count(*) FROM gateway_operations").await, 1);
    stage.verify().await;
}

/// Nobody knows yet whether the card is charged: that it could not be charged any more is not said, and not kept.
#[tokio::test]
async fn an_item_that_is_under_way_is_not_refused_for_what_the_day_says_of_its_card() {
    let stage = Stage::start().await;
    let to = stage.account("USD", 0).await;
    let (key, card) = (new_key(), card_payment(&to, 4_200, "46201"));
    let first = stage.post(PATH, &key, &batch("independent", std::slice::from_ref(&card))).await;
    assert_eq!(outcomes(&first), ["succeeded"]);
    forget_whole(&stage).await;
    let (old, client) = (expired(&card), sql(&stage).await);
    backdate(&stage, &format!("{key}\u{1f}0"), &old).await;
    // As if the gateway had not answered yet.
    let hide = "CREATE TABLE hidden AS SELECT k.digest, k.answer FROM idempotency_keys k JOIN payments p
            ON p.id = k.resource_id;
        UPDATE idempotency_keys SET answer = NULL WHERE digest IN (SELECT digest FROM hidden)";
    client.batch_execute(hide).await.expect("write the database");
    let resumed = batch("independent", &[old]);
    for _ in 0..2 {
        assert_eq!(outcomes(&stage.post(PATH, &key, &resumed).await), ["idempotency_key_in_progress"]);
    }
    let show = "UPDATE idempotency_keys k SET answer = h.answer FROM hidden h WHERE h.digest = k.digest";
    assert_eq!(client.execute(show, &[]).await.expect("write the database"), 1);
    assert_eq!(outcomes(&stage.post(PATH, &key, &resumed).await), ["succeeded"]);
}

/// A node that does not have the rail says nothing of the payment: one that has it makes it.
#[tokio::test]
async fn an_item_on_a_rail_that_is_not_configured_is_not_refused_for_good() {
    let stage = Stage::start().await;
    let without = another(&stage, &[("PAYSTRATA__GATEWAYS__VELOCITY_PAY__ENDPOINT", "")]).await;
    let (from, to) = accounts(&stage).await;
    let (key, items) = (new_key(), [transfer(&from, &to, 10), velocity_payment(&from, &to, 20)]);
    let body = batch("independent", &items);
    for _ in 0..2 {
        assert_eq!(outcomes(&without.post(PATH, &key, &body).await), ["succeeded", "rail_unavailable"]);
    }
    assert_eq!(outcomes(&stage.post(PATH, &key, &body).await), ["succeeded", "succeeded"]);
    stage.verify().await;
}

/// What the service itself failed at is no answer: the item is decided when the batch is sent again.
#[tokio::test]
async fn an_item_that_the_database_refused_is_not_refused_for_good() {
    let stage = Stage::start().await;
    let (from, to) = accounts(&stage).await;
    let marked = with(&transfer(&from, &to, 5), &json!({"merchant_reference": "refuse me"}));
    let (key, body) = (new_key(), batch("independent", &[transfer(&from, &to, 10), marked]));
    refuse(&stage, "refuse me").await;
    let first = stage.post(PATH, &key, &body).await;
    assert_eq!(outcomes(&first), ["succeeded", "internal"]);
    refuse_no_longer(&stage).await;
    let again = stage.post(PATH, &key, &body).await;
    assert_eq!(outcomes(&again), ["succeeded", "succeeded"]);
    assert_eq!(stage.post(PATH, &key, &body).await.bytes, again.bytes);
    assert_eq!(stage.balance(&to).await, balance(15, 0));
    stage.verify().await;
}
