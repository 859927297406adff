//! P10: clients hang up in the middle of requests. Nothing leaks, and what was begun is settled once.

use std::time::Duration;

use rand::RngExt as _;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::caller::{Caller, book_payment, new_key};
use crate::ground::{Ground, Node, number, rows, seeded, until};
use crate::load::{Asked, Told, prove, references, settled};

/// Asks, and hangs up after so long; what was told is not known then.
async fn hang_up(caller: Caller, key: String, body: Value, after: Duration) -> Asked {
    let told = match tokio::time::timeout(after, crate::load::ask(&caller, &key, &body)).await {
        Ok(told) => told,
        Err(_) => Told::Open,
    };
    Asked { key, body, told }
}

/// All that requests take for a time is given back.
async fn assert_nothing_leaks(node: &Node) {
    let app = &node.service.app;
    until("all permits back", async || {
        (app.in_flight.available_permits() == app.config.http.in_flight_max.get()).then_some(())
    })
    .await;
    until("all charges ended", async || (app.charges.is_empty()).then_some(())).await;
    until("all connections back", async || {
        app.db.status().nodes.iter().all(|node| node.pool.in_use == 0 && node.pool.waiting == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_hang_up_on_book_payments_leak_nothing_and_pay_once() {
    let mut random = seeded();
    let ground = Ground::new().await;
    let node = ground.serve(&[("DB__POOL_SIZE_MAX", "3")]).await;
    let accounts = node.caller.accounts(4, 1_000_000).await;
    let mut asked = Vec::new();
    for _ in 0..8 {
        let mut clients = JoinSet::new();
        for index in 0..25 {
            let (caller, key) = (node.caller.clone(), new_key());
            let body = book_payment(&accounts[index % 4], &accounts[(index + 1) % 4], 3, &key);
            clients.spawn(hang_up(
                caller,
                key,
                body,
                Duration::from_micros(random.random_range(100..40_000)),
            ));
        }
        // Reads are dropped, too: these hold pooled connections.
        let mut readers = JoinSet::new();
        for _ in 0..25 {
            let caller = node.caller.clone();
            let after = Duration::from_micros(random.random_range(100..20_000));
            readers.spawn(async move {
                let _hung_up = tokio::time::timeout(after, caller.get("/v1/payments?page=1&size=50")).await;
            });
        }
        asked.extend(clients.join_all().await);
        readers.join_all().await;
    }
    assert!(asked.iter().any(|one| matches!(one.told, Told::Open)), "nobody hung up in the middle");
    assert_nothing_leaks(&node).await;
    prove(&node.caller, &ground.primary_url, &mut asked).await;
    ground.verify().await;
    node.service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn charges_go_on_and_settle_when_their_clients_hang_up() {
    const CHARGES: usize = 24;
    let mut random = seeded();
    let ground = Ground::new().await;
    // A slow gateway, and a service that never gives it up.
    let patience = [
        ("GATEWAYS__AUTHORIZE_NET__TIMEOUT_MS", "20000"),
        ("GATEWAYS__VELOCITY_PAY__TIMEOUT_MS", "20000"),
        ("RESOLVER__NOT_FOUND_AFTER_MS", "20000"),
    ];
    let node = ground.serve(&patience).await;
    // Slow enough that a client can hang up in between.
    let slow = r#"{"operation":"any","kind":"delay","delay_ms":150,"when":{"probability":1.0}}"#;
    ground.simulator.set_fault(serde_json::from_str(slow).expect("a fault"));
    let accounts = node.caller.accounts(2, 1_000_000).await;
    let mut clients = JoinSet::new();
    for index in 0..CHARGES {
        let (caller, key) = (node.caller.clone(), new_key());
        let amount = 1_000 + 10 * index;
        let body = if index % 2 == 0 {
            let card = json!({"number": "4111111111111111", "expiration": "2099-12", "code": "900"});
            json!({"to": accounts[1], "amount": amount, "currency": "USD", "rail": "authorize_net", "card": card,
                   "merchant_reference": key})
        } else {
            json!({"from": accounts[0], "to": accounts[1], "amount": amount, "currency": "USD",
                   "rail": "velocity_pay", "merchant_reference": key})
        };
        clients.spawn(hang_up(caller, key, body, Duration::from_millis(random.random_range(1..200))));
    }
    let asked = clients.join_all().await;
    assert!(asked.iter().any(|one| matches!(one.told, Told::Open)), "nobody hung up in the middle");
    assert_nothing_leaks(&node).await;
    ground.simulator.clear_faults();
    for one in &asked {
        let settled = settled(&node.caller, one).await.json();
        assert_eq!(settled["status"], json!("succeeded"), "{settled}");
    }
    assert_eq!(references(&ground.primary_url).await.len(), CHARGES);
    for row in rows(&ground.primary_url, "SELECT reference FROM gateway_operations").await {
        let reference: String = row.get(0);
        assert_eq!(ground.simulator.effects(&reference).total(), 1);
    }
    let operations = number(&ground.primary_url, "SELECT count(*) FROM gateway_operations").await;
    assert_eq!(usize::try_from(operations), Ok(CHARGES));
    ground.verify().await;
    node.service.stop().await;
}
