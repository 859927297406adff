//! P9: over a bound the caller is refused at once, with `Retry-After`, before any effect.

use paystrata_gateway::simulator::{Fault, FaultKind, Operation, Trigger};
use reqwest::StatusCode;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_postgres::{Client, NoTls};

use crate::binary::Running;
use crate::caller::{book_payment, new_key};
use crate::ground::{Ground, LIMIT, Node, number, sql, until};
use crate::load::{Asked, Told, ask, prove};

const CLIENTS: usize = 12;
/// Keeps the engine at a row that is held for many seconds.
const PATIENT_ENGINE: [(&str, &str); 2] =
    [("ENGINE__QUEUE_TIMEOUT_MS", "28000"), ("DB__STATEMENT_TIMEOUT_MS", "60000")];

/// Keeps the engine waiting for as long as it lives: a lock on the paying account.
async fn block(url: &str, account: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connect");
    tokio::spawn(connection);
    let id: paystrata_app::ids::AccountId = account.parse().expect("an account id");
    let lock = format!("BEGIN; SELECT FROM accounts WHERE id = '{}' FOR UPDATE", id.0);
    client.batch_execute(&lock).await.expect("lock the account");
    client
}

/// Asks from many clients while the engine cannot move; once `refusals` of them were refused, lets it move again.
async fn crowd_a_blocked_engine(ground: &Ground, node: &Node, refusals: usize) -> Vec<Asked> {
    let accounts = node.caller.accounts(2, 1_000).await;
    let blocker = block(&ground.primary_url, &accounts[0]).await;
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (caller, from, to) = (node.caller.clone(), accounts[0].clone(), accounts[1].clone());
        clients.spawn(async move {
            let key = new_key();
            let body = book_payment(&from, &to, 1, &key);
            let told = ask(&caller, &key, &body).await;
            Asked { key, body, told }
        });
    }
    let mut asked = Vec::new();
    while asked.len() < refusals {
        let one = timeout(LIMIT, clients.join_next()).await.expect("refused at once").expect("more clients");
        let one = one.expect("the client ends");
        assert!(
            matches!(one.told, Told::Refused(_)),
            "nothing can be done while the account is locked: {one:?}"
        );
        asked.push(one);
    }
    blocker.batch_execute("ROLLBACK").await.expect("let go");
    asked.extend(clients.join_all().await);
    asked
}

fn done(asked: &[Asked]) -> usize {
    asked.iter().filter(|one| matches!(one.told, Told::Done(_))).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_over_the_bound_in_flight_are_refused_before_any_effect() {
    const IN_FLIGHT_MAX: usize = 3;
    let ground = Ground::new().await;
    // The engine waits for the account for a quarter of that: longer than the crowd takes to be refused.
    let bounds = [("HTTP__IN_FLIGHT_MAX", "3"), PATIENT_ENGINE[0], PATIENT_ENGINE[1]];
    let node = ground.serve(&bounds).await;
    let mut asked = crowd_a_blocked_engine(&ground, &node, CLIENTS - IN_FLIGHT_MAX).await;
    assert_eq!(done(&asked), IN_FLIGHT_MAX);
    until("all permits back", async || {
        (node.service.app.in_flight.available_permits() == IN_FLIGHT_MAX).then_some(())
    })
    .await;
    prove(&node.caller, &ground.primary_url, &mut asked).await;
    ground.verify().await;
    node.service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_over_the_bound_of_the_queue_are_refused_before_any_effect() {
    let ground = Ground::new().await;
    let bounds = [
        ("ENGINE__LANES", "1"),
        ("ENGINE__QUEUE_MAX", "2"),
        ("ENGINE__BATCH_MAX", "1"),
        PATIENT_ENGINE[0],
        PATIENT_ENGINE[1],
    ];
    let node = ground.serve(&bounds).await;
    // One runs, two wait.
    let mut asked = crowd_a_blocked_engine(&ground, &node, CLIENTS - 3).await;
    assert_eq!(done(&asked), 3);
    prove(&node.caller, &ground.primary_url, &mut asked).await;
    ground.verify().await;
    node.service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_that_waited_too_long_are_refused_before_any_effect() {
    let ground = Ground::new().await;
    let bounds = [("ENGINE__LANES", "1"), ("ENGINE__QUEUE_TIMEOUT_MS", "200"), ("ENGINE__BATCH_MAX", "1")];
    let node = ground.serve(&bounds).await;
    let accounts = node.caller.accounts(2, 1_000).await;
    let blocker = block(&ground.primary_url, &accounts[0]).await;
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (caller, from, to) = (node.caller.clone(), accounts[0].clone(), accounts[1].clone());
        clients.spawn(async move {
            let key = new_key();
            let body = book_payment(&from, &to, 1, &key);
            let told = ask(&caller, &key, &body).await;
            Asked { key, body, told }
        });
    }
    // All are in flight, and then each has waited for longer than any may wait.
    until("all requests in flight", async || {
        let permits = node.service.app.in_flight.available_permits();
        (permits + CLIENTS == node.service.app.config.http.in_flight_max.get()).then_some(())
    })
    .await;
    let (since, limit) = (Instant::now(), node.service.app.config.engine.queue_timeout);
    until("the longest wait to pass", async || (since.elapsed() > limit * 2).then_some(())).await;
    blocker.batch_execute("ROLLBACK").await.expect("let go");
    let mut asked = clients.join_all().await;
    assert_eq!(done(&asked), 0, "the one that ran waited for the account, the others for it");
    prove(&node.caller, &ground.primary_url, &mut asked).await;
    node.service.stop().await;
}

/// The engine took the command before the request was cut: it goes on, and the key leads to what became of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_cut_by_its_time_limit_pays_once_under_its_key() {
    let ground = Ground::new().await;
    let limits = [
        ("HTTP__REQUEST_TIMEOUT_MS", "1000"),
        ("DB__ACQUIRE_TIMEOUT_MS", "1000"),
        ("ENGINE__QUEUE_TIMEOUT_MS", "1000"),
        // The database writes for longer than the request waits.
        ("DB__STATEMENT_TIMEOUT_MS", "60000"),
    ];
    let node = ground.serve(&limits).await;
    let accounts = node.caller.accounts(2, 1_000).await;
    let slow = "CREATE FUNCTION test_slow() RETURNS trigger LANGUAGE plpgsql AS
                    'BEGIN PERFORM pg_sleep(3); RETURN NEW; END';
                CREATE TRIGGER test_slow BEFORE INSERT ON payments FOR EACH ROW EXECUTE FUNCTION test_slow()";
    sql(&ground.primary_url, slow).await;
    let key = new_key();
    let body = book_payment(&accounts[0], &accounts[1], 1, &key);
    let cut = node.caller.post("/v1/payments", &key, &body).await.expect("an answer");
    let told = cut.json();
    assert_eq!((cut.status, &told["code"]), (StatusCode::GATEWAY_TIMEOUT, &json!("timeout")), "{told}");
    assert_eq!(told["retryable"], json!(true), "{told}");
    assert!(cut.headers.contains_key("retry-after"), "{cut:?}");
    until("the payment that went on", async || {
        let payments = number(&ground.primary_url, "SELECT count(*) FROM payments").await;
        (payments == 1).then_some(())
    })
    .await;
    let mut asked = [Asked { key, body, told: Told::Open }];
    prove(&node.caller, &ground.primary_url, &mut asked).await;
    let entries = "SELECT count(*) FROM entries WHERE payment_id IS NOT NULL";
    assert_eq!(number(&ground.primary_url, entries).await, 1);
    ground.verify().await;
    node.service.stop().await;
}

/// Somebody left a transaction open that holds one account, for good: its payments are refused with nothing done, and
/// those of other accounts, in the same batches of the same lane, are paid.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_somebody_holds_for_good_stops_its_own_payments_only() {
    let ground = Ground::new().await;
    let node = ground.serve(&[("ENGINE__QUEUE_TIMEOUT_MS", "2000")]).await;
    let accounts = node.caller.accounts(3, 1_000).await;
    let blocker = block(&ground.primary_url, &accounts[0]).await;
    let mut asked = Vec::new();
    for _ in 0..3 {
        let mut clients = JoinSet::new();
        for index in 0..CLIENTS {
            let from = accounts[index % 2].clone();
            let (caller, to) = (node.caller.clone(), accounts[2].clone());
            clients.spawn(async move {
                let key = new_key();
                let body = book_payment(&from, &to, 1, &key);
                let told = ask(&caller, &key, &body).await;
                Asked { key, body, told }
            });
        }
        for one in clients.join_all().await {
            let blocked = one.body["from"] == json!(accounts[0]);
            match &one.told {
                Told::Refused(_) if blocked => {}
                Told::Done(_) if !blocked => {}
                told => panic!("blocked: {blocked}, told {told:?}"),
            }
            asked.push(one);
        }
    }
    assert!(node.service.app.engine.stats().blocked >= 3 * CLIENTS as u64 / 2);
    blocker.batch_execute("ROLLBACK").await.expect("let go");
    prove(&node.caller, &ground.primary_url, &mut asked).await;
    ground.verify().await;
    node.service.stop().await;
}

/// A gateway takes two at a time and is slow; far more come than may wait. Who is refused is refused before anything is
/// created, under a key that is free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payments_over_the_bound_of_a_gateway_are_refused_before_any_effect() {
    const BURST: usize = 100;
    let ground = Ground::new().await;
    let node = ground.serve(&[("GATEWAYS__VELOCITY_PAY__IN_FLIGHT_MAX", "2")]).await;
    let accounts = node.caller.accounts(2, 1_000).await;
    let slow = Fault {
        operation: Operation::Any,
        kind: FaultKind::Delay { delay_ms: 300 },
        when: Trigger::Probability(1.0),
    };
    ground.simulator.set_fault(slow);
    let mut clients = JoinSet::new();
    for _ in 0..BURST {
        let (caller, from, to) = (node.caller.clone(), accounts[0].clone(), accounts[1].clone());
        clients.spawn(async move {
            let key = new_key();
            let mut body = book_payment(&from, &to, 1, &key);
            body["rail"] = json!("velocity_pay");
            let reply = caller.post("/v1/payments", &key, &body).await.expect("an answer");
            (key, body, reply)
        });
    }
    let told = clients.join_all().await;
    ground.simulator.clear_faults();
    let (created, refused): (Vec<_>, Vec<_>) =
        told.into_iter().partition(|(_, _, reply)| reply.status == StatusCode::CREATED);
    assert!(!created.is_empty() && refused.len() >= BURST - 66, "{} created", created.len());
    for (_, _, reply) in &created {
        assert_eq!(reply.json()["status"], "succeeded", "{}", reply.json());
    }
    for (_, _, reply) in &refused {
        let problem = reply.json();
        let told = (reply.status, &problem["code"], &problem["retryable"]);
        assert_eq!(told, (StatusCode::SERVICE_UNAVAILABLE, &json!("overloaded"), &json!(true)), "{problem}");
        assert!(reply.headers.contains_key("retry-after"));
    }
    let payments = number(&ground.primary_url, "SELECT count(*) FROM payments").await;
    assert_eq!(usize::try_from(payments), Ok(created.len()), "a refused payment was created");
    for (key, body, _) in refused.into_iter().take(5) {
        let reply = node.caller.post("/v1/payments", &key, &body).await.expect("an answer");
        assert_eq!((reply.status, &reply.json()["status"]), (StatusCode::CREATED, &json!("succeeded")));
    }
    ground.verify().await;
    node.service.stop().await;
}

/// Clients that keep their connections take no descriptor that a payment needs to reach a gateway.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_descriptors_are_refused_and_payments_go_on() {
    const FILES: usize = 256;
    let ground = Ground::new().await;
    let running = Running::start_with_files(&ground.settings(&[]), FILES).await;
    let account = running.caller.account(0).await;
    let (mut kept, mut refused) = (Vec::new(), 0);
    for _ in 0..FILES {
        let address = running.caller.base.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).await.expect("connect");
        // Whoever is refused may be cut while it still speaks.
        let _cut = stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let mut head = [0; 12];
        let told = timeout(LIMIT, stream.read_exact(&mut head)).await.expect("an answer at once");
        refused += usize::from(told.is_err() || &head == b"HTTP/1.1 503");
        kept.push(stream);
    }
    assert!(refused > 0, "all {FILES} were let in");
    let card = json!({
        "to": account, "amount": 1_000, "currency": "USD", "rail": "authorize_net",
        "card": {"number": "4111111111111111", "expiration": "2099-12", "code": "900", "billing_zip": "46201"},
    });
    let paid = running.caller.post("/v1/payments", &new_key(), &card).await.expect("an answer");
    assert_eq!(paid.json()["status"], "succeeded", "{}", paid.json());
    drop(kept);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_never_end_their_request_are_cut() {
    let ground = Ground::new().await;
    let waits = [
        ("HTTP__REQUEST_TIMEOUT_MS", "1000"),
        ("DB__ACQUIRE_TIMEOUT_MS", "1000"),
        ("ENGINE__QUEUE_TIMEOUT_MS", "1000"),
    ];
    let node = ground.serve(&waits).await;
    let head = "POST /v1/payments HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk_dev_paystrata\r\n";
    let body_missing = format!("{head}idempotency-key: slow\r\ncontent-length: 100\r\n\r\n{{\"from\":");
    let http2 = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let parts = ["", "POST /v1/pay", head, &body_missing, &http2[..10], http2].map(str::to_owned);
    let mut clients = JoinSet::new();
    for part in parts {
        let mut stream = TcpStream::connect(node.service.address).await.expect("connect");
        clients.spawn(async move {
            stream.write_all(part.as_bytes()).await.expect("send a part");
            // A reset says the same as an orderly end.
            let ended = timeout(LIMIT, stream.read_to_end(&mut Vec::new())).await;
            (part, ended.is_ok())
        });
    }
    let kept: Vec<String> =
        clients.join_all().await.into_iter().filter(|(_, ended)| !ended).map(|(part, _)| part).collect();
    assert!(kept.is_empty(), "kept for ever after: {kept:#?}");
    node.service.stop().await;
}
