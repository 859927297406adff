//! P8: Redis, a gateway or the trace collector is away, hangs, or comes back, under load. Money goes on.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::binary::{Running, verify};
use crate::caller::{Caller, new_key, text};
use crate::ground::{Ground, Node, rows, seeded, until};
use crate::load::{Crowd, OnTrouble, Plan, Told, prove};
use crate::memcached::Memcached;
use crate::proxy::{Mode, Proxy};
use crate::stage::Reply;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_vanishes_hangs_and_returns_changes_no_answer() {
    let redis_url = crate::stage::service_url("PAYSTRATA_TEST_REDIS_URL");
    let proxy = Proxy::before(&redis_url).await;
    changes_no_answer(&proxy, &[("CACHE__REDIS_URL", &proxy.url(&redis_url))]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_memcached_that_vanishes_hangs_and_returns_changes_no_answer() {
    let redis_url = crate::stage::service_url("PAYSTRATA_TEST_REDIS_URL");
    let memcached = Memcached::start().await;
    let proxy = Proxy::before(&format!("memcached://{}/", memcached.address())).await;
    let hosts = proxy.url("memcached://host/");
    let hosts = hosts.trim_start_matches("memcached://").trim_end_matches('/');
    let sets = memcached.stores().await;
    changes_no_answer(&proxy, &[("CACHE__REDIS_URL", &redis_url), ("CACHE__MEMCACHED_HOSTS", hosts)]).await;
    assert!(memcached.stores().await > sets, "it was used");
}

/// Two nodes pay and read while what is behind the proxy comes and goes.
async fn changes_no_answer(proxy: &Proxy, tiers: &[(&str, &str)]) {
    let mut random = seeded();
    let ground = Ground::new().await;
    let lives = [("CACHE__TTL_SECONDS", "600"), ("CACHE__MAX_STALE_MS", "1000")];
    let cache = [tiers, &lives].concat();
    let (writer, reader) = (ground.serve(&cache).await, ground.serve(&cache).await);
    let crowd_accounts = writer.caller.accounts(6, 100_000).await;
    let plan =
        Plan { accounts: crowd_accounts, clients: 8, payments_each: usize::MAX, on_trouble: OnTrouble::Stay };
    let accounts = writer.caller.accounts(2, 1_000).await;
    let crowd = Crowd::start(&[writer.caller.clone(), reader.caller.clone()], &plan, &mut random);
    let mut balance = 1_000;
    for mode in [Mode::Forward, Mode::Refuse, Mode::Forward, Mode::BlackHole, Mode::Forward] {
        proxy.set(mode);
        for _ in 0..5 {
            writer.caller.pay(&accounts[0], &accounts[1], 1).await;
            balance += 1;
            assert_eq!(writer.caller.posted(&accounts[1]).await, balance, "on the node that wrote, {mode:?}");
        }
        until("the balance on the other node", async || {
            (reader.caller.posted(&accounts[1]).await == balance).then_some(())
        })
        .await;
        crowd.progress(30).await;
    }
    let asked = crowd.end().await;
    assert!(
        asked.iter().all(|one| matches!(one.told, Told::Done(_))),
        "a cache is no reason to refuse a payment"
    );
    let mut all = asked;
    // The payments of this test itself carry references, too: they are not part of the crowd's proof.
    crate::ground::sql(
        &ground.primary_url,
        &format!(
            "UPDATE payments SET merchant_reference = NULL WHERE to_account = '{}'",
            plain_id(&accounts[1])
        ),
    )
    .await;
    prove(&reader.caller, &ground.primary_url, &mut all).await;
    ground.verify().await;
    for node in [writer, reader] {
        node.service.stop().await;
    }
}

fn plain_id(account: &str) -> uuid::Uuid {
    account.parse::<paystrata_app::ids::AccountId>().expect("an account id").0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_starts_and_pays_with_no_redis_no_replica_and_no_collector() {
    let ground = Ground::new().await;
    let nowhere = Nowhere::find();
    let replica = format!("postgres://postgres@{}/postgres", nowhere.0);
    let settings = ground.settings(&[
        ("CACHE__REDIS_URL", &format!("redis://{}/", nowhere.0)),
        ("DB__REPLICA_URLS", &replica),
        ("TELEMETRY__OTLP_ENDPOINT", &format!("http://{}", nowhere.0)),
    ]);
    let mut running = Running::start(&settings).await;
    let accounts = running.caller.accounts(2, 1_000).await;
    for paid in 1..=10 {
        running.caller.pay(&accounts[0], &accounts[1], 1).await;
        assert_eq!(running.caller.posted(&accounts[1]).await, 1_000 + paid);
    }
    running.ask_to_stop().await;
    assert_eq!(running.ended().await.code(), Some(0));
    verify(&settings).await;
}

/// What `/readyz` answers: its status, and what it says of the shared parts of each cache.
async fn readiness(node: &Node) -> (StatusCode, Value) {
    let url = format!("http://{}/readyz", node.service.operator_address);
    let answer = crate::stage::client().get(url).send().await.expect("ask");
    let status = answer.status();
    let body: Value = serde_json::from_slice(&answer.bytes().await.expect("read")).expect("JSON");
    (status, body["caches"].clone())
}

/// The part of `/readyz` where each cache has a tier and a line of Redis, all of them up or down.
fn redis_is(up: bool) -> Value {
    let part = json!({"kind": "redis", "up": up});
    let cache = |name: &str| json!({"cache": name, "ready": up, "tiers": [part], "line": part});
    json!([cache("accounts"), cache("payments")])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_names_a_redis_that_is_away_and_stays_what_it_is() {
    let redis_url = crate::stage::service_url("PAYSTRATA_TEST_REDIS_URL");
    let proxy = Proxy::before(&redis_url).await;
    let ground = Ground::new().await;
    let node =
        ground.serve(&[("CACHE__REDIS_URL", &proxy.url(&redis_url)), ("CACHE__MAX_STALE_MS", "1000")]).await;
    for (mode, up) in [(Mode::Forward, true), (Mode::Refuse, false), (Mode::Forward, true)] {
        proxy.set(mode);
        until("what is true of Redis, by a service that is ready", async || {
            (readiness(&node).await == (StatusCode::OK, redis_is(up))).then_some(())
        })
        .await;
    }
    node.service.stop().await;
    let alone = ground.serve(&[("CACHE__REDIS_URL", "")]).await;
    let cache = |name: &str| json!({"cache": name, "ready": true, "tiers": [], "line": null});
    let shares_nothing = (StatusCode::OK, json!([cache("accounts"), cache("payments")]));
    until("a service that shares nothing to be ready", async || {
        (readiness(&alone).await == shares_nothing).then_some(())
    })
    .await;
    alone.service.stop().await;
}

/// An address at which nobody listens: bound without listening, so that nobody else takes it.
struct Nowhere(
    std::net::SocketAddr,
    #[expect(dead_code, reason = "keeps the address")] tokio::net::TcpSocket,
);

impl Nowhere {
    fn find() -> Self {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("bind");
        Self(socket.local_addr().expect("a bound socket has an address"), socket)
    }
}

async fn charge(caller: &Caller, to: &str, amount: i64) -> Reply {
    let card = json!({"number": "4111111111111111", "expiration": "2099-12", "code": "900"});
    let body = json!({"to": to, "amount": amount, "currency": "USD", "rail": "authorize_net", "card": card});
    caller.post("/v1/payments", &new_key(), &body).await.expect("an answer")
}

async fn transfer(caller: &Caller, from: &str, to: &str, amount: i64) -> Reply {
    let body = json!({"from": from, "to": to, "amount": amount, "currency": "USD", "rail": "velocity_pay"});
    caller.post("/v1/payments", &new_key(), &body).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_away_fails_its_payments_and_one_that_hangs_leaves_them_held() {
    let ground = Ground::new().await;
    let proxy = Proxy::before(&ground.simulator.url()).await;
    let through = proxy.url(&ground.simulator.url());
    let node = ground
        .serve(&[
            ("GATEWAYS__AUTHORIZE_NET__ENDPOINT", &format!("{through}/xml/v1/request.api")),
            ("GATEWAYS__VELOCITY_PAY__ENDPOINT", &format!("{through}/velocity")),
            ("GATEWAYS__AUTHORIZE_NET__TIMEOUT_MS", "700"),
            ("GATEWAYS__VELOCITY_PAY__TIMEOUT_MS", "700"),
        ])
        .await;
    let caller = &node.caller;
    let accounts = caller.accounts(2, 10_000).await;
    let (from, to) = (&accounts[0], &accounts[1]);
    let nowhere = Nowhere::find();
    let away = ground
        .serve(&[
            ("GATEWAYS__AUTHORIZE_NET__ENDPOINT", &format!("http://{}/xml/v1/request.api", nowhere.0)),
            ("GATEWAYS__VELOCITY_PAY__ENDPOINT", &format!("http://{}/velocity", nowhere.0)),
        ])
        .await;
    for reply in [charge(&away.caller, to, 110).await, transfer(&away.caller, from, to, 120).await] {
        assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.json());
        let shown = (&reply.json()["status"], &reply.json()["failure_code"]);
        assert_eq!(
            shown,
            (&json!("failed"), &json!("gateway_unavailable")),
            "nothing was sent: {}",
            reply.json()
        );
    }
    assert_eq!(balance(caller, from).await, json!({"posted": 10_000, "held": 0, "available": 10_000}));
    away.service.stop().await;

    proxy.set(Mode::BlackHole);
    let (charged, transferred) = tokio::join!(charge(caller, to, 210), transfer(caller, from, to, 220));
    for reply in [&charged, &transferred] {
        let shown = (&reply.json()["status"], &reply.json()["outcome"]);
        assert_eq!(shown, (&json!("processing"), &json!("unknown")), "{}", reply.json());
    }
    assert_eq!(balance(caller, from).await, json!({"posted": 10_000, "held": 220, "available": 9_780}));
    caller.pay(from, to, 10).await;
    proxy.set(Mode::Refuse);
    caller.pay(from, to, 10).await;
    proxy.set(Mode::Forward);
    for reply in [&charged, &transferred] {
        let path = format!("/v1/payments/{}", text(&reply.json()["id"]));
        let status = until("the payment to be settled", async || {
            let status = text(&caller.get(&path).await.json()["status"]);
            (status != "processing").then_some(status)
        })
        .await;
        let reference = "SELECT o.reference FROM gateway_operations o WHERE o.payment_id = ";
        let id: paystrata_app::ids::PaymentId = text(&reply.json()["id"]).parse().expect("a payment id");
        let reference: String = rows(&ground.primary_url, &format!("{reference}'{}'", id.0)).await[0].get(0);
        let expected = if ground.simulator.effects(&reference).total() == 1 { "succeeded" } else { "failed" };
        assert_eq!(status, expected);
    }
    ground.verify().await;
    node.service.stop().await;
}

async fn balance(caller: &Caller, account: &str) -> Value {
    caller.get(&format!("/v1/accounts/{account}")).await.json()["balance"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn book_payments_do_not_wait_for_a_gateway_that_hangs() {
    let mut random = seeded();
    let ground = Ground::new().await;
    let proxy = Proxy::before(&ground.simulator.url()).await;
    let through = proxy.url(&ground.simulator.url());
    // A gateway that hangs may be waited for longer than this test runs.
    let node = ground
        .serve(&[
            ("GATEWAYS__VELOCITY_PAY__ENDPOINT", &format!("{through}/velocity")),
            ("GATEWAYS__VELOCITY_PAY__TIMEOUT_MS", "25000"),
            ("RESOLVER__NOT_FOUND_AFTER_MS", "25000"),
            ("DB__POOL_SIZE_MAX", "2"),
        ])
        .await;
    proxy.set(Mode::BlackHole);
    let accounts = node.caller.accounts(4, 100_000).await;
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (caller, from, to) = (node.caller.clone(), accounts[0].clone(), accounts[1].clone());
        waiting.spawn(async move { transfer(&caller, &from, &to, 100).await });
    }
    until("charges under way", async || (node.service.app.charges.len() == 20).then_some(())).await;
    let plan = Plan { accounts, clients: 8, payments_each: 20, on_trouble: OnTrouble::Stay };
    let asked = Crowd::start(std::slice::from_ref(&node.caller), &plan, &mut random).finish().await;
    assert!(asked.iter().all(|one| matches!(one.told, Told::Done(_))));
    assert_eq!(waiting.len(), 20, "the charges still wait");
    proxy.set(Mode::Forward);
    let answers =
        tokio::time::timeout(Duration::from_secs(60), waiting.join_all()).await.expect("they are answered");
    assert!(answers.iter().all(|reply| reply.json()["status"] == json!("succeeded")), "{:?}", answers[0]);
    ground.verify().await;
    node.service.stop().await;
}
