//! P4: gateways that lose replies, drop requests, stall, fail and decline at random, and a service that is killed in the
//! middle. Every attempt has at most one effect, and the ledger ends in agreement with the gateways.

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use paystrata_gateway::simulator::{Fault, FaultKind, Operation, Trigger};

use crate::binary::{Running, verify};
use crate::caller::{Caller, new_key, text};
use crate::ground::{Ground, Patience, number, rows, seeded, until};
use crate::stage::void_by_hand;

/// Each of these strikes one in so many requests that move money.
const CHANCE: f64 = 0.07;

fn set_faults(ground: &Ground) {
    let moving =
        [Operation::Purchase, Operation::Authorize, Operation::Capture, Operation::Void, Operation::Refund];
    let kinds = [
        FaultKind::DropBefore,
        FaultKind::DropAfter,
        FaultKind::Http500,
        FaultKind::Http502,
        FaultKind::Truncated,
        FaultKind::Busy,
        FaultKind::Delay { delay_ms: 1_800 },
    ];
    for operation in moving {
        for kind in kinds {
            ground.simulator.set_fault(Fault { operation, kind, when: Trigger::Probability(CHANCE) });
        }
    }
    for operation in [Operation::Purchase, Operation::Authorize] {
        let when = Trigger::Probability(CHANCE);
        ground.simulator.set_fault(Fault { operation, kind: FaultKind::Decline, when });
    }
    for kind in [FaultKind::DropBefore, FaultKind::Http500, FaultKind::Truncated] {
        ground.simulator.set_fault(Fault {
            operation: Operation::Lookup,
            kind,
            when: Trigger::Probability(0.05),
        });
    }
}

/// The body of one payment through a gateway; amounts differ, so that no duplicate window mistakes one for another.
fn gateway_payment(index: usize, accounts: &[String], random: &mut StdRng) -> Value {
    let (amount, capture) = (1_000 + 10 * index, random.random_bool(0.6));
    if index.is_multiple_of(2) {
        let card = json!({"number": "4111111111111111", "expiration": "2099-12", "code": "900"});
        json!({"to": accounts[1], "amount": amount, "currency": "USD", "rail": "authorize_net", "card": card,
               "capture": capture})
    } else {
        json!({"from": accounts[0], "to": accounts[1], "amount": amount, "currency": "USD",
               "rail": "velocity_pay", "capture": capture})
    }
}

/// Asks under one key until there is a lasting answer.
async fn insist(caller: Caller, path: String, key: String, body: Value) -> Value {
    let mut patience = Patience::new("a lasting answer");
    loop {
        let Some(reply) = caller.post(&path, &key, &body).await else {
            patience.pause().await;
            continue;
        };
        match reply.status {
            StatusCode::CREATED | StatusCode::OK => return reply.json(),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::CONFLICT
                if reply.json()["retryable"] == json!(true) =>
            {
                patience.pause().await;
            }
            // A capture, void or refund that came to nothing; the payment is as it was.
            StatusCode::UNPROCESSABLE_ENTITY
                if ["declined", "gateway_unavailable"]
                    .contains(&reply.json()["code"].as_str().unwrap_or("")) =>
            {
                return reply.json();
            }
            status => panic!("{path}: {status}: {}", reply.json()),
        }
    }
}

async fn insist_on_all(caller: &Caller, asked: Vec<(String, Value)>) -> Vec<Value> {
    let mut clients = JoinSet::new();
    for (path, body) in asked {
        clients.spawn(insist(caller.clone(), path, new_key(), body));
    }
    clients.join_all().await
}

/// Every operation has come to an end.
async fn all_settled(ground: &Ground) {
    until("all gateway operations settled", async || {
        let open = "SELECT count(*) FROM gateway_operations WHERE status IN (1, 2, 3, 7)";
        (number(&ground.primary_url, open).await == 0).then_some(())
    })
    .await;
}

/// Ledger and gateways agree on every operation, and no reference had more than one effect.
async fn assert_agreement(ground: &Ground) {
    let text = "SELECT o.reference, o.kind, o.status, p.status, p.rail FROM gateway_operations o
                  JOIN payments p ON p.id = o.payment_id";
    for row in rows(&ground.primary_url, text).await {
        let (reference, kind, status): (String, i16, i16) = (row.get(0), row.get(1), row.get(2));
        let (payment, rail): (i16, i16) = (row.get(3), row.get(4));
        let effects = ground.simulator.effects(&reference);
        let told =
            format!("{reference}: kind {kind}, status {status}, payment {payment}, rail {rail}: {effects:?}");
        assert!(effects.total() <= 1, "more than one effect: {told}");
        // 4 is done, 5 declined, 6 never sent.
        assert_eq!(effects.total() == 1, status == 4, "the ledger says otherwise: {told}");
        let first_effect = matches!(kind, 1 | 2);
        assert_eq!(first_effect && status != 4, payment == 5, "the payment says otherwise: {told}");
    }
    ground.verify().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faulty_gateways_have_one_effect_per_attempt_and_agree_with_the_ledger_in_the_end() {
    const PAYMENTS: usize = 60;
    let mut random = seeded();
    let ground = Ground::seeded(random.next_u64()).await;
    let node = ground.serve(&[]).await;
    let caller = &node.caller;
    let accounts = caller.accounts(2, 10_000_000).await;
    set_faults(&ground);
    let created = (0..PAYMENTS).map(|index| gateway_payment(index, &accounts, &mut random));
    let created: Vec<_> = created.map(|body| ("/v1/payments".to_owned(), body)).collect();
    let created = insist_on_all(caller, created).await;
    all_settled(&ground).await;
    assert_agreement(&ground).await;
    // What is authorised is captured or voided, what is captured is refunded, under the same faults.
    let mut follow_ups = Vec::new();
    for payment in &created {
        let id = text(&payment["id"]);
        match caller.get(&format!("/v1/payments/{id}")).await.json()["status"].as_str() {
            Some("authorized") if random.random() => {
                follow_ups.push((format!("/v1/payments/{id}/capture"), json!({})));
            }
            Some("authorized") => follow_ups.push((format!("/v1/payments/{id}/void"), json!({}))),
            Some("succeeded") => follow_ups.push((format!("/v1/payments/{id}/refunds"), json!({}))),
            Some("failed") => {}
            status => panic!("{id} is {status:?} though all is settled"),
        }
    }
    assert!(follow_ups.len() > PAYMENTS / 4, "too many failed: {}", follow_ups.len());
    ground.simulator.settle();
    insist_on_all(caller, follow_ups).await;
    all_settled(&ground).await;
    assert_agreement(&ground).await;
    node.service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_killed_among_its_charges_has_one_effect_per_attempt() {
    const KILLS: usize = 6;
    const CLIENTS: usize = 10;
    let mut random = seeded();
    let ground = Ground::seeded(random.next_u64()).await;
    // The sender's lease is its timeout and some seconds: a short timeout is a short wait for the resolver.
    let settings = ground.settings(&[
        ("GATEWAYS__AUTHORIZE_NET__TIMEOUT_MS", "600"),
        ("GATEWAYS__VELOCITY_PAY__TIMEOUT_MS", "600"),
    ]);
    let mut running = Running::start(&settings).await;
    let accounts = running.caller.accounts(2, 10_000_000).await;
    let slow = FaultKind::Delay { delay_ms: 30 };
    ground.simulator.set_fault(Fault {
        operation: Operation::Any,
        kind: slow,
        when: Trigger::Probability(0.5),
    });
    for kind in [FaultKind::DropAfter, FaultKind::DropBefore] {
        ground.simulator.set_fault(Fault {
            operation: Operation::Any,
            kind,
            when: Trigger::Probability(0.05),
        });
    }
    let mut asked: Vec<(String, Value)> = Vec::new();
    for _ in 0..KILLS {
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (key, body) = (new_key(), gateway_payment(asked.len(), &accounts, &mut random));
            asked.push((key.clone(), body.clone()));
            let caller = running.caller.clone();
            // No answer is an answer here: the same key asks again below.
            clients.spawn(async move { caller.post("/v1/payments", &key, &body).await.is_some() });
        }
        // Killed when some have their answer and others are on their way.
        for _ in 0..random.random_range(1..CLIENTS / 2) {
            clients.join_next().await.expect("a client").expect("it ends");
        }
        running.kill().await;
        clients.join_all().await;
        running = Running::start(&settings).await;
    }
    let mut clients = JoinSet::new();
    for (key, body) in asked.clone() {
        clients.spawn(insist(running.caller.clone(), "/v1/payments".to_owned(), key, body));
    }
    let mut ids: Vec<String> = clients.join_all().await.iter().map(|payment| text(&payment["id"])).collect();
    all_settled(&ground).await;
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), asked.len(), "two keys gave one payment");
    let payments = number(&ground.primary_url, "SELECT count(*) FROM payments").await;
    assert_eq!(usize::try_from(payments), Ok(asked.len()), "a key paid more than once");
    assert_agreement(&ground).await;
    verify(&settings).await;
}

/// A person voids a charge at the gateway, after a refund of a part of it was begun here and never sent: the refund gave
/// nothing back, whatever has become of the charge.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_of_a_part_cut_by_a_kill_is_not_read_from_somebody_elses_void() {
    let ground = Ground::new().await;
    let settings = ground.settings(&[("GATEWAYS__AUTHORIZE_NET__TIMEOUT_MS", "600")]);
    let running = Running::start(&settings).await;
    let account = running.caller.account(0).await;
    let card = json!({"number": "4111111111111111", "expiration": "2099-12", "code": "900"});
    let charge =
        json!({"to": account, "amount": 1_000, "currency": "USD", "rail": "authorize_net", "card": card});
    let paid = running.caller.post("/v1/payments", &new_key(), &charge).await.expect("an answer").json();
    let payment = format!("/v1/payments/{}", text(&paid["id"]));
    // The refund asks for its parent first, and is killed while it waits for that answer.
    let when = Trigger::Next(1);
    let slow = FaultKind::Delay { delay_ms: 5_000 };
    ground.simulator.set_fault(Fault { operation: Operation::Lookup, kind: slow, when });
    let refunding = tokio::spawn({
        let (caller, path) = (running.caller.clone(), format!("{payment}/refunds"));
        async move { caller.post(&path, &new_key(), &json!({"amount": 400})).await.is_some() }
    });
    ground.until_struck().await;
    running.kill().await;
    assert!(!refunding.await.expect("the client ends"), "killed before the answer");
    void_by_hand(&ground.simulator, &text(&paid["gateway"]["transaction"])).await;

    let running = Running::start(&settings).await;
    all_settled(&ground).await;
    let shown = running.caller.get(&payment).await.json();
    assert_eq!((&shown["status"], &shown["amount_refunded"]), (&json!("succeeded"), &json!(0)), "{shown}");
    verify(&settings).await;
}
