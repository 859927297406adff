//! How long the resolver goes on asking: what counts as an answer, when a denial is believed, when a person gets the
//! operation. Time is moved in the rows, where the resolver reads it; nothing here waits for it to pass.

use paystrata_gateway::simulator::{Fault, FaultKind, Operation, Simulator, SimulatorConfig, Trigger};
use serde_json::{Value, json};

use crate::authorize_net::{HELD, review, transaction};
use crate::scene::{
    card_payment, change, count, id_of, new_key, pay, payment, sql, until, until_status, velocity_payment,
    with,
};
use crate::stage::{Stage, settings, start_service, void_by_hand};

const APPROVED: &str = "46201";
/// States of an operation, as they are stored.
const UNKNOWN: i64 = 2;
const UNDER_REVIEW: i64 = 3;
const NOT_SENT: i64 = 6;
const HANDED_OVER: i64 = 7;

/// No look-up tells anything from here on.
fn silence(stage: &Stage) {
    let (operation, when) = (Operation::Lookup, Trigger::Probability(1.0));
    stage.simulator.set_fault(Fault { operation, kind: FaultKind::Busy, when });
}

/// Makes every open operation older than it is.
async fn age(stage: &Stage, by: &str) {
    let text = format!("UPDATE gateway_operations SET sent_at = sent_at - interval '{by}'");
    sql(stage).await.execute(&text, &[]).await.expect("age the operations");
}

/// Makes every open operation due now.
async fn hasten(stage: &Stage) {
    let text = "UPDATE gateway_operations SET due_at = clock_timestamp() WHERE status IN (1, 2, 3)";
    sql(stage).await.execute(text, &[]).await.expect("make operations due");
}

/// The one operation there is.
async fn operation(stage: &Stage) -> Value {
    let text = "SELECT status::int8, fence::int8, absences::int8 FROM gateway_operations";
    let row = sql(stage).await.query_one(text, &[]).await.expect("read the operation");
    let number = |index| row.get::<_, i64>(index);
    json!({"status": number(0), "fence": number(1), "absences": number(2)})
}

/// Has it asked after again and again, until it is as `expected` says.
async fn ask_until(stage: &Stage, what: &str, expected: impl Fn(&Value) -> bool) -> Value {
    let asked = async || {
        hasten(stage).await;
        operation(stage).await
    };
    until(what, asked, expected).await
}

#[tokio::test]
async fn a_review_that_outlasts_every_question_is_settled_as_it_is_decided() {
    let stage = Stage::start_with(&[("PAYSTRATA__RESOLVER__ATTEMPTS_MAX", "5")]).await;
    let to = stage.account("USD", 0).await;
    let held = pay(&stage, &card_payment(&to, 1_000, HELD)).await;
    assert_eq!(held["status"], "requires_review", "{held}");
    age(&stage, "1 hour").await;
    // More questions than a person is spared, all of them answered.
    let asked = ask_until(&stage, "seven questions", |seen| seen["fence"].as_i64() > Some(8)).await;
    assert_eq!(asked["status"], UNDER_REVIEW, "{asked}");
    silence(&stage);
    hasten(&stage).await;
    let unanswered = async || operation(&stage).await;
    let unanswered =
        until("a question without answer", unanswered, |seen| seen["status"] != UNDER_REVIEW).await;
    assert_eq!(unanswered["status"], UNKNOWN, "the first that stays without answer: {unanswered}");
    stage.simulator.clear_faults();
    review(&stage, &held, "approve").await;
    ask_until(&stage, "the review's end", |seen| seen["status"] == 4).await;
    until_status(&stage, held["id"].as_str().expect("a text"), "succeeded").await;
    stage.verify().await;
}

#[tokio::test]
async fn a_gateway_that_stays_silent_leaves_the_operation_to_a_person_who_can_have_it_asked_again() {
    let stage = Stage::start_with(&[("PAYSTRATA__RESOLVER__ATTEMPTS_MAX", "3")]).await;
    let to = stage.account("USD", 0).await;
    silence(&stage);
    let first = stage.post("/v1/payments", &new_key(), &card_payment(&to, 1_077, APPROVED)).await;
    age(&stage, "1 hour").await;
    let given = ask_until(&stage, "the hand-over", |seen| seen["status"] == HANDED_OVER).await;
    assert!(given["fence"].as_i64() >= Some(4), "three questions were asked: {given}");
    assert_eq!(count(&stage, "SELECT sum(held)::int8 FROM accounts").await, 1_077, "the hold stays");
    assert_eq!(payment(&stage, &id_of(&first)).await["status"], "processing");
    stage.verify().await;
    stage.simulator.clear_faults();
    // As `docs/operations.md` has it.
    let again = "UPDATE gateway_operations SET status = 2, attempts = 0, due_at = now() WHERE status = 7";
    assert_eq!(sql(&stage).await.execute(again, &[]).await.expect("have it asked again"), 1);
    until_status(&stage, &id_of(&first), "succeeded").await;
    stage.verify().await;
}

#[tokio::test]
async fn a_capture_whose_authorisation_was_voided_past_us_leaves_what_can_be_voided_here() {
    let stage = Stage::start().await;
    let to = stage.account("USD", 0).await;
    let held = pay(&stage, &with(&card_payment(&to, 1_000, APPROVED), &json!({"capture": false}))).await;
    let id = held["id"].as_str().expect("a text");
    silence(&stage);
    stage.simulator.set_fault(Fault {
        operation: Operation::Capture,
        kind: FaultKind::DropBefore,
        when: Trigger::Next(1),
    });
    let captured = change(&stage, id, "capture", &json!({})).await.json();
    assert_eq!((&captured["status"], &captured["outcome"]), (&json!("processing"), &json!("unknown")));
    void_by_hand(&stage.simulator, transaction(&held)).await;
    stage.simulator.clear_faults();
    hasten(&stage).await;
    until_status(&stage, id, "authorized").await;
    let voided = change(&stage, id, "void", &json!({})).await.json();
    assert_eq!(voided["status"], "cancelled", "{voided}");
    assert_eq!(count(&stage, "SELECT sum(held)::int8 FROM accounts").await, 0);
    stage.verify().await;
}

/// "Not found" is an answer, and one that is not believed yet leaves nothing to a person.
#[tokio::test]
async fn a_gateway_that_denies_an_operation_is_asked_for_as_long_as_it_could_be_on_its_way() {
    let stage = Stage::start_with(&[
        ("PAYSTRATA__RESOLVER__ATTEMPTS_MAX", "2"),
        ("PAYSTRATA__RESOLVER__NOT_FOUND_AFTER_MS", "86400000"),
    ])
    .await;
    let to = stage.account("USD", 0).await;
    let first = stage.post("/v1/payments", &new_key(), &card_payment(&to, 1_078, APPROVED)).await;
    let denied = ask_until(&stage, "four denials", |seen| seen["absences"].as_i64() >= Some(4)).await;
    assert_eq!(denied["status"], UNKNOWN, "{denied}");
    age(&stage, "25 hours").await;
    ask_until(&stage, "belief", |seen| seen["status"] == NOT_SENT).await;
    let failed = until_status(&stage, &id_of(&first), "failed").await;
    assert_eq!(failed["failure_code"], "gateway_unavailable", "{failed}");
    stage.verify().await;
}

/// The sender may begin 5 s after the commit and take all of its time; only then does `not_found_after_ms` begin.
#[tokio::test]
async fn a_denial_is_believed_only_after_the_senders_own_limit() {
    let stage = Stage::start_with(&[
        ("PAYSTRATA__RESOLVER__NOT_FOUND_AFTER_MS", "30000"),
        ("PAYSTRATA__GATEWAYS__AUTHORIZE_NET__TIMEOUT_MS", "30000"),
    ])
    .await;
    let to = stage.account("USD", 0).await;
    let first = stage.post("/v1/payments", &new_key(), &card_payment(&to, 1_078, APPROVED)).await;
    // Half a minute before the 65 s are over.
    age(&stage, "32 seconds").await;
    let denied = ask_until(&stage, "three denials", |seen| seen["absences"].as_i64() >= Some(3)).await;
    assert_eq!(denied["status"], UNKNOWN, "{denied}");
    assert_eq!(payment(&stage, &id_of(&first)).await["status"], "processing");
    age(&stage, "40 seconds").await;
    ask_until(&stage, "belief", |seen| seen["status"] == NOT_SENT).await;
    until_status(&stage, &id_of(&first), "failed").await;
    stage.verify().await;
}

/// Another service on the database and the gateways of one that has ended.
async fn succeed(stage: Stage, changes: &[(&str, &str)]) -> Stage {
    succeed_at(stage, None, changes).await
}

/// The same, at other gateways if there are any.
async fn succeed_at(stage: Stage, others: Option<Simulator>, changes: &[(&str, &str)]) -> Stage {
    let Stage { service, simulator, primary_url, .. } = stage;
    service.stop().await;
    let simulator = others.unwrap_or(simulator);
    let mut settings = settings(&primary_url, "", &simulator.url());
    settings.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    Stage::of(start_service(settings).await, simulator, primary_url)
}

/// It has lost its records, or it is another one, or another account there: no proof that nothing was charged.
#[tokio::test]
async fn a_gateway_that_denies_what_it_once_acknowledged_is_not_believed() {
    let stage = Stage::start().await;
    let to = stage.account("USD", 0).await;
    let held = pay(&stage, &card_payment(&to, 1_000, HELD)).await;
    assert_eq!(held["status"], "requires_review", "{held}");
    let forgetful = Simulator::start(SimulatorConfig::default()).await.expect("start the simulator");
    let stage = succeed_at(stage, Some(forgetful), &[("PAYSTRATA__RESOLVER__ATTEMPTS_MAX", "3")]).await;
    age(&stage, "1 hour").await;
    let given = ask_until(&stage, "the hand-over", |seen| seen["status"] == HANDED_OVER).await;
    assert_eq!(given["absences"], 0, "none of the answers counts as a denial: {given}");
    assert_eq!(count(&stage, "SELECT sum(held)::int8 FROM accounts").await, 1_000, "the hold stays");
    let seen = payment(&stage, held["id"].as_str().expect("a text")).await;
    assert!(seen["status"] != "failed" && seen["status"] != "succeeded", "{seen}");
    stage.verify().await;
}

#[tokio::test]
async fn operations_of_a_rail_that_is_switched_off_wait_until_it_is_on_again() {
    let fence = "SELECT fence::int8 FROM gateway_operations WHERE rail = 3";
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 10_000).await, stage.account("USD", 0).await);
    silence(&stage);
    // A request whose reply is lost is sent again under its key, and that reply is lost, too.
    let (operation, when) = (Operation::Purchase, Trigger::Probability(1.0));
    stage.simulator.set_fault(Fault { operation, kind: FaultKind::DropAfter, when });
    let by_card = stage.post("/v1/payments", &new_key(), &card_payment(&to, 1_000, APPROVED)).await;
    let transfer = stage.post("/v1/payments", &new_key(), &velocity_payment(&from, &to, 1_000)).await;
    assert_eq!(transfer.json()["status"], "processing", "{}", transfer.json());
    age(&stage, "1 hour").await;
    let without =
        [("PAYSTRATA__GATEWAYS__AUTHORIZE_NET__ENDPOINT", ""), ("PAYSTRATA__RESOLVER__ATTEMPTS_MAX", "1")];
    let stage = succeed(stage, &without).await;
    let before = count(&stage, fence).await;
    stage.simulator.clear_faults();
    let seen = async || {
        hasten(&stage).await;
        payment(&stage, &id_of(&transfer)).await
    };
    until("the other rail's settlement", seen, |seen| seen["status"] == "succeeded").await;
    assert_eq!(count(&stage, fence).await, before, "nobody took what nobody could ask after");
    let stage = succeed(stage, &[]).await;
    hasten(&stage).await;
    until_status(&stage, &id_of(&by_card), "succeeded").await;
    stage.verify().await;
}
