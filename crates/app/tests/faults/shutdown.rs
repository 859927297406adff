//! SIGTERM under load: the real binary drains. What it acknowledged is there, what it refused is not, charges under way
//! are settled, and it exits with 0.

use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::binary::{Running, begin, terminate, verify};
use crate::caller::{Caller, new_key, text};
use crate::ground::{Ground, LIMIT, number, rows, seeded};
use crate::load::{Crowd, OnTrouble, Plan, Told, prove};

/// Waits longer than the slow charge takes.
const PATIENT_GATEWAY: [(&str, &str); 2] =
    [("GATEWAYS__AUTHORIZE_NET__TIMEOUT_MS", "10000"), ("RESOLVER__NOT_FOUND_AFTER_MS", "10000")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_keeps_what_was_acknowledged_and_exits_with_zero() {
    let mut random = seeded();
    let ground = Ground::new().await;
    let settings = ground.settings(&[("HTTP__DRAIN_TIMEOUT_MS", "20000")]);
    let mut running = Running::start(&settings).await;
    let accounts = running.caller.accounts(6, 100_000).await;
    let plan = Plan { accounts, clients: 24, payments_each: usize::MAX, on_trouble: OnTrouble::Leave };
    let crowd = Crowd::start(&[running.caller.clone()], &plan, &mut random);
    crowd.progress(100).await;
    running.ask_to_stop().await;
    let code = running.ended().await.code();
    let mut asked = crowd.end().await;
    assert_eq!(code, Some(0));
    let ended = asked.iter().filter(|one| !matches!(one.told, Told::Done(_))).count();
    assert!(ended > 0, "the crowd was not there any more when draining began");
    let running = Running::start(&settings).await;
    prove(&running.caller, &ground.primary_url, &mut asked).await;
    verify(&settings).await;
}

/// A start waits for its primary; nothing but the signal ends this one.
#[tokio::test]
async fn sigterm_ends_a_service_that_is_still_starting() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("bind a port");
    let address = silent.local_addr().expect("it has an address");
    let ground = Ground::new().await;
    let primary = format!("postgres://postgres@{address}/postgres");
    let settings = ground.settings(&[
        ("DB__PRIMARY_URL", primary.as_str()),
        ("DB__REPLICA_URLS", ""),
        ("DB__CONNECT_TIMEOUT_MS", "600000"),
    ]);
    let (mut child, _folder) = begin(&settings);
    let _asked = timeout(LIMIT, silent.accept()).await.expect("it asks the primary").expect("a connection");
    terminate(&child).await;
    let ended = timeout(LIMIT, child.wait()).await.expect("the service ends").expect("wait for the service");
    assert_eq!(ended.code(), Some(0));
}

/// Starts a charge that takes a while and gives what waits for its answer, once the gateway has it.
async fn charge_under_way(
    ground: &Ground,
    caller: &Caller,
) -> (String, tokio::task::JoinHandle<Option<String>>) {
    let account = caller.account(0).await;
    let slow = r#"{"operation":"any","kind":"delay","delay_ms":1000,"when":{"next":1}}"#;
    ground.simulator.set_fault(serde_json::from_str(slow).expect("a fault"));
    let card = json!({"number": "4111111111111111", "expiration": "2099-12", "code": "900"});
    let body =
        json!({"to": account, "amount": 1_250, "currency": "USD", "rail": "authorize_net", "card": card});
    let charging = tokio::spawn({
        let caller = caller.clone();
        async move {
            let reply = caller.post("/v1/payments", &new_key(), &body).await?;
            Some(text(&reply.json()["status"]))
        }
    });
    ground.until_struck().await;
    (account, charging)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_charge_under_way_at_sigterm_is_answered_and_settled() {
    let ground = Ground::new().await;
    let settings = ground.settings(&PATIENT_GATEWAY);
    let mut running = Running::start(&settings).await;
    let (_, charging) = charge_under_way(&ground, &running.caller).await;
    running.ask_to_stop().await;
    assert_eq!(charging.await.expect("the client ends"), Some("succeeded".to_owned()));
    assert_eq!(running.ended().await.code(), Some(0));
    assert_settled_once(&ground).await;
    verify(&settings).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_charge_whose_client_hung_up_is_settled_before_the_service_ends() {
    let ground = Ground::new().await;
    let settings = ground.settings(&PATIENT_GATEWAY);
    let mut running = Running::start(&settings).await;
    let (_, charging) = charge_under_way(&ground, &running.caller).await;
    charging.abort();
    running.ask_to_stop().await;
    assert_eq!(running.ended().await.code(), Some(0));
    assert_settled_once(&ground).await;
    verify(&settings).await;
}

async fn assert_settled_once(ground: &Ground) {
    let settled = "SELECT count(*) FROM payments WHERE status = 4 AND captured = 1250";
    assert_eq!(number(&ground.primary_url, settled).await, 1);
    let reference: String =
        rows(&ground.primary_url, "SELECT reference FROM gateway_operations WHERE status = 4").await[0]
            .get(0);
    assert_eq!(ground.simulator.effects(&reference).total(), 1);
}
