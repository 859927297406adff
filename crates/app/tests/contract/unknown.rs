//! P4 over HTTP: an outcome that is not known is told as not known, keeps its hold, and is settled by asking, with at most
//! one effect at the gateway. The simulator loses replies or requests on purpose.

use paystrata_gateway::simulator::{Fault, FaultKind, Operation, Trigger};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::scene::{
    balance, card_payment, change, check_problem, count, id_of, new_key, pay, payment, reference, sql, until,
    until_status, velocity_payment, with,
};
use crate::stage::{Reply, Stage};

const APPROVED: &str = "46201";

fn always(stage: &Stage, operation: Operation, kind: FaultKind) {
    stage.simulator.set_fault(Fault { operation, kind, when: Trigger::Probability(1.0) });
}

fn check_unknown(reply: &Reply, status: StatusCode) {
    let body = reply.json();
    assert_eq!(reply.status, status, "{body}");
    assert_eq!((&body["status"], &body["outcome"]), (&json!("processing"), &json!("unknown")), "{body}");
    assert_eq!(body["failure_code"], Value::Null);
}

/// Waits until no gateway operation is open, and asserts the one effect that each may have had.
async fn until_resolved(stage: &Stage) {
    let open = "SELECT count(*) FROM gateway_operations WHERE status IN (1, 2, 3, 7)";
    until("resolution", async || json!(count(stage, open).await), |open| *open == 0).await;
    stage.verify().await;
}

#[tokio::test]
async fn a_lost_reply_of_a_card_payment_is_resolved_to_its_one_effect() {
    let stage = Stage::start().await;
    let to = stage.account("USD", 0).await;
    let (key, body) = (new_key(), card_payment(&to, 1_077, APPROVED));
    let first = stage.post("/v1/payments", &key, &body).await;
    check_unknown(&first, StatusCode::CREATED);
    assert_eq!(stage.balance(&to).await, balance(0, 0), "nothing is credited on a guess");
    assert_eq!(count(&stage, "SELECT sum(held)::int8 FROM accounts").await, 1_077, "the hold is in place");
    stage.verify().await;
    let id = id_of(&first);
    let settled = until_status(&stage, &id, "succeeded").await;
    assert_eq!((&settled["outcome"], &settled["amount_captured"]), (&json!("approved"), &json!(1_077)));
    assert!(settled["gateway"]["transaction"].is_string(), "{settled}");
    assert_eq!(stage.balance(&to).await, balance(1_077, 0));
    assert_eq!(stage.simulator.effects(&reference(&stage, &id, 1).await).total(), 1);
    let again = stage.post("/v1/payments", &key, &body).await;
    assert_eq!(
        (again.status, &again.bytes),
        (first.status, &first.bytes),
        "the answer under a key never changes"
    );
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert_eq!(payment(&stage, &id).await["status"], "succeeded");
    until_resolved(&stage).await;
}

#[tokio::test]
async fn a_card_payment_that_never_arrived_fails_only_after_the_gateway_denied_it_twice() {
    let stage = Stage::start().await;
    let to = stage.account("USD", 0).await;
    let first = stage.post("/v1/payments", &new_key(), &card_payment(&to, 1_078, APPROVED)).await;
    check_unknown(&first, StatusCode::CREATED);
    let id = id_of(&first);
    let failed = until_status(&stage, &id, "failed").await;
    assert_eq!(
        (&failed["failure_code"], &failed["outcome"]),
        (&json!("gateway_unavailable"), &json!("not_sent"))
    );
    assert!(count(&stage, "SELECT absences::int8 FROM gateway_operations").await >= 2);
    assert_eq!(stage.simulator.effects(&reference(&stage, &id, 1).await).total(), 0);
    assert_eq!(count(&stage, "SELECT sum(held)::int8 FROM accounts").await, 0);
    assert_eq!(stage.balance(&to).await, balance(0, 0));
    until_resolved(&stage).await;
}

#[tokio::test]
async fn an_unknown_payment_over_velocity_pay_keeps_its_hold_until_resolved() {
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 10_000).await, stage.account("USD", 0).await);
    for (kind, status, expected) in [
        (FaultKind::DropAfter, "succeeded", [balance(9_000, 0), balance(1_000, 0)]),
        (FaultKind::DropBefore, "failed", [balance(9_000, 0), balance(1_000, 0)]),
    ] {
        always(&stage, Operation::Purchase, kind);
        let before = stage.balance(&from).await["posted"].as_i64().expect("a whole number");
        let first = stage.post("/v1/payments", &new_key(), &velocity_payment(&from, &to, 1_000)).await;
        check_unknown(&first, StatusCode::CREATED);
        assert_eq!(stage.balance(&from).await, balance(before, 1_000));
        let id = id_of(&first);
        until_status(&stage, &id, status).await;
        stage.simulator.clear_faults();
        assert_eq!([stage.balance(&from).await, stage.balance(&to).await], expected);
        let effects = stage.simulator.effects(&reference(&stage, &id, 1).await).total();
        assert_eq!(effects, u32::from(kind == FaultKind::DropAfter));
    }
    until_resolved(&stage).await;
}

#[tokio::test]
async fn garbage_in_place_of_a_reply_is_unknown_and_not_a_decline() {
    let stage = Stage::start().await;
    let to = stage.account("USD", 0).await;
    for (kind, status) in [
        (FaultKind::Http500, "failed"),
        (FaultKind::Http502, "succeeded"),
        (FaultKind::Truncated, "succeeded"),
        (FaultKind::HugeBody, "succeeded"),
    ] {
        stage.simulator.set_fault(Fault { operation: Operation::Purchase, kind, when: Trigger::Next(1) });
        let first = stage.post("/v1/payments", &new_key(), &card_payment(&to, 1_000, APPROVED)).await;
        check_unknown(&first, StatusCode::CREATED);
        until_status(&stage, &id_of(&first), status).await;
    }
    assert_eq!(stage.balance(&to).await, balance(3_000, 0));
    until_resolved(&stage).await;
}

#[tokio::test]
async fn a_payment_whose_outcome_is_unknown_can_be_changed_by_nobody() {
    let stage = Stage::start().await;
    let to = stage.account("USD", 0).await;
    // No look-up answers, so the outcome stays unknown for as long as the test runs.
    always(&stage, Operation::Lookup, FaultKind::Busy);
    let first = stage.post("/v1/payments", &new_key(), &card_payment(&to, 1_077, APPROVED)).await;
    check_unknown(&first, StatusCode::CREATED);
    for name in ["capture", "void", "refunds"] {
        check_problem(&change(&stage, &id_of(&first), name, &json!({})).await, 409, "wrong_state", None);
    }
    let (path, key) = (format!("/v1/payments/{}/refunds", id_of(&first)), new_key());
    let early = stage.post(&path, &key, &json!({})).await.json();
    assert_eq!((&early["code"], &early["retryable"]), (&json!("wrong_state"), &json!(true)), "{early}");
    stage.simulator.clear_faults();
    until_status(&stage, &id_of(&first), "succeeded").await;
    let in_time = stage.post(&path, &key, &json!({})).await;
    assert_eq!(
        in_time.status,
        StatusCode::CREATED,
        "what was refused for now left its key free: {in_time:?}"
    );
    until_resolved(&stage).await;
}

/// On each rail a change whose reply is lost is found at the gateway; one that never arrived leaves what was.
#[tokio::test]
async fn lost_captures_and_voids_are_resolved_to_what_the_gateway_did() {
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 10_000).await, stage.account("USD", 0).await);
    let rails = [card_payment(&to, 1_000, APPROVED), velocity_payment(&from, &to, 1_000)];
    let mut expected = Vec::new();
    for (name, operation, kind, done) in
        [("capture", Operation::Capture, 3, "succeeded"), ("void", Operation::Void, 4, "cancelled")]
    {
        for fault in [FaultKind::DropAfter, FaultKind::DropBefore] {
            always(&stage, operation, fault);
            for body in &rails {
                let held = pay(&stage, &with(body, &json!({"capture": false}))).await;
                let id = held["id"].as_str().expect("a text").to_owned();
                let (key, path) = (new_key(), format!("/v1/payments/{id}/{name}"));
                let first = stage.post(&path, &key, &json!({})).await;
                check_unknown(&first, StatusCode::OK);
                let status = if fault == FaultKind::DropAfter { done } else { "authorized" };
                expected.push((id, kind, status, path, key, first));
            }
            stage.simulator.clear_faults();
        }
    }
    until_resolved(&stage).await;
    for (id, kind, status, path, key, first) in expected {
        assert_eq!(payment(&stage, &id).await["status"], status, "{path}");
        let effects = stage.simulator.effects(&reference(&stage, &id, kind).await).total();
        assert_eq!(effects, u32::from(status != "authorized"), "{path}");
        assert_eq!(stage.post(&path, &key, &json!({})).await.bytes, first.bytes, "{path}");
    }
    assert_eq!(stage.balance(&to).await, balance(2_000, 0), "one capture on each rail went through");
    assert_eq!(stage.balance(&from).await, balance(9_000, 2_000), "two are authorised still, on this rail");
}

/// A refund of which only the reply was lost was made once and shows; one that was lost before it arrived was not.
async fn check_refund(stage: &Stage, id: &str, fault: FaultKind, made: (&str, i64)) {
    let lost = fault == FaultKind::DropBefore;
    let (status, refunded) = if lost { ("succeeded", 0) } else { made };
    let shown = payment(stage, id).await;
    let told = (&shown["status"], &shown["amount_refunded"]);
    assert_eq!(told, (&json!(status), &json!(refunded)), "{shown}");
    let effects = stage.simulator.effects(&reference(stage, id, 5).await).total();
    assert_eq!(effects, u32::from(!lost));
}

#[tokio::test]
async fn lost_refunds_are_resolved_to_what_the_gateway_did() {
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 10_000).await, stage.account("USD", 0).await);
    let mut expected = Vec::new();
    for fault in [FaultKind::DropAfter, FaultKind::DropBefore] {
        for body in [card_payment(&to, 1_000, APPROVED), velocity_payment(&from, &to, 1_000)] {
            let id = pay(&stage, &body).await["id"].as_str().expect("a text").to_owned();
            stage.simulator.settle();
            always(&stage, Operation::Refund, fault);
            let refund = change(&stage, &id, "refunds", &json!({"amount": 400})).await;
            stage.simulator.clear_faults();
            let told = refund.json();
            assert_eq!(refund.status, StatusCode::CREATED, "{told}");
            assert_eq!(
                (&told["status"], &told["outcome"]),
                (&json!("succeeded"), &json!("unknown")),
                "{told}"
            );
            assert_eq!(told["amount_refunded"], 0, "nothing is given back on a guess");
            // What may have left is no longer there to be refunded again.
            let again = change(&stage, &id, "refunds", &json!({"amount": 601})).await;
            check_problem(&again, 409, "wrong_state", None);
            assert_eq!(again.json()["retryable"], true, "it is there again if the first comes to nothing");
            let never = change(&stage, &id, "refunds", &json!({"amount": 1_001})).await;
            check_problem(&never, 422, "amount_out_of_range", Some("/amount"));
            expected.push((id, fault));
        }
    }
    assert_eq!(stage.balance(&to).await["held"], 1_600);
    until_resolved(&stage).await;
    for (id, fault) in expected {
        check_refund(&stage, &id, fault, ("partially_refunded", 400)).await;
    }
    assert_eq!(stage.balance(&to).await, balance(3_200, 0));
    assert_eq!(stage.balance(&from).await, balance(8_400, 0));
}

/// Before settlement a card's whole charge is refunded by voiding it. Its reply is lost, and all there is to see is a voided
/// charge; what was captured of it, and not what was authorised, says whether that was the whole.
#[tokio::test]
async fn a_lost_refund_that_the_gateway_made_by_voiding_is_resolved_to_what_it_did() {
    let stage = Stage::start().await;
    let to = stage.account("USD", 0).await;
    let mut expected = Vec::new();
    for (captured, fault) in [
        (1_000, FaultKind::DropAfter),
        (600, FaultKind::DropAfter),
        (1_000, FaultKind::DropBefore),
        (600, FaultKind::DropBefore),
    ] {
        let hold = with(&card_payment(&to, 1_000, APPROVED), &json!({"capture": false}));
        let id = pay(&stage, &hold).await["id"].as_str().expect("a text").to_owned();
        change(&stage, &id, "capture", &json!({"amount": captured})).await;
        always(&stage, Operation::Void, fault);
        let refund = change(&stage, &id, "refunds", &json!({})).await;
        stage.simulator.clear_faults();
        assert_eq!((refund.status, &refund.json()["outcome"]), (StatusCode::CREATED, &json!("unknown")));
        expected.push((id, captured, fault));
    }
    assert_eq!(stage.balance(&to).await, balance(3_200, 3_200), "what may have left is held");
    until_resolved(&stage).await;
    for (id, captured, fault) in expected {
        check_refund(&stage, &id, fault, ("refunded", captured)).await;
    }
    assert_eq!(stage.balance(&to).await, balance(1_600, 0));
}

/// The void never arrives. The authorisation lapses all the same, so that what was wanted is so.
#[tokio::test]
async fn a_void_that_never_arrived_is_done_if_the_authorisation_has_lapsed() {
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 10_000).await, stage.account("USD", 0).await);
    let mut ids = Vec::new();
    for body in [card_payment(&to, 1_000, APPROVED), velocity_payment(&from, &to, 1_000)] {
        let held = pay(&stage, &with(&body, &json!({"capture": false}))).await;
        ids.push(held["id"].as_str().expect("a text").to_owned());
    }
    stage.simulator.expire_authorizations();
    always(&stage, Operation::Void, FaultKind::DropBefore);
    for id in &ids {
        check_unknown(&change(&stage, id, "void", &json!({})).await, StatusCode::OK);
    }
    until_resolved(&stage).await;
    for id in &ids {
        assert_eq!(payment(&stage, id).await["status"], "cancelled");
        assert_eq!(stage.simulator.effects(&reference(&stage, id, 4).await).total(), 0, "none was made");
    }
    assert_eq!(count(&stage, "SELECT sum(held)::int8 FROM accounts").await, 0);
}

/// The reply comes after the limit: the caller is told so, and the effect is found.
#[tokio::test]
async fn a_slow_gateway_is_not_waited_for_beyond_its_limit() {
    let stage = Stage::start_with(&[("PAYSTRATA__RESOLVER__NOT_FOUND_AFTER_MS", "10000")]).await;
    let to = stage.account("USD", 0).await;
    let first = stage.post("/v1/payments", &new_key(), &card_payment(&to, 1_079, APPROVED)).await;
    check_unknown(&first, StatusCode::CREATED);
    let id = id_of(&first);
    until("an end", || payment(&stage, &id), |seen| seen["status"] != "processing").await;
    let effects = stage.simulator.effects(&reference(&stage, &id, 1).await).total();
    let status = payment(&stage, &id).await["status"].clone();
    assert_eq!(status, if effects == 1 { "succeeded" } else { "failed" }, "{effects} effects");
    until_resolved(&stage).await;
}

/// One row that cannot be resolved is told and left: the other operations are settled and the service stays ready.
#[tokio::test]
async fn an_operation_that_breaks_the_resolver_stops_neither_the_others_nor_the_service() {
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 1_000).await, stage.account("USD", 0).await);
    always(&stage, Operation::Purchase, FaultKind::DropAfter);
    always(&stage, Operation::Lookup, FaultKind::Busy);
    let (bad, good) = (velocity_payment(&from, &to, 7), velocity_payment(&from, &to, 8));
    let (bad_key, good_key) = (new_key(), new_key());
    let (bad, good) = tokio::join!(
        stage.post("/v1/payments", &bad_key, &bad),
        stage.post("/v1/payments", &good_key, &good)
    );
    check_unknown(&bad, StatusCode::CREATED);
    check_unknown(&good, StatusCode::CREATED);
    let spoil = "UPDATE gateway_operations SET amount = 0, due_at = clock_timestamp() WHERE amount = 7";
    assert_eq!(sql(&stage).await.execute(spoil, &[]).await.expect("spoil a row"), 1);
    stage.simulator.clear_faults();
    let state = || stage.service.app.watch.states()[paystrata_app::supervise::RESOLVER];
    until_status(&stage, &id_of(&good), "succeeded").await;
    assert_eq!((state().running, state().failures), (true, 0));
    assert_eq!(payment(&stage, &id_of(&bad)).await["status"], "processing");
}
