//! P1 and P3 at the commit itself: the engine's connection is cut at chosen bytes, in either direction, with and without
//! a server left to ask. Whatever a caller is told must be true.

use rand::RngExt as _;
use reqwest::StatusCode;
use serde_json::json;

use crate::caller::{book_payment, new_key, text};
use crate::cluster::{Cluster, Replica};
use crate::ground::{Ground, Node, rows, seeded, until};
use crate::load::{Asked, Crowd, OnTrouble, Plan, Told, ask, prove, references, settled};
use crate::proxy::{Mode, Proxy, Sprung, Trap};

/// A service behind a proxy that knows the engine's connections, with one lane.
struct Bench {
    ground: Ground,
    /// Past the proxy.
    direct_url: String,
    proxy: Proxy,
    node: Node,
    accounts: Vec<String>,
}

impl Bench {
    async fn start(mut ground: Ground, changes: &[(&str, &str)]) -> Self {
        let direct_url = ground.primary_url.clone();
        let proxy = Proxy::before(&direct_url).await;
        ground.primary_url = proxy.url(&direct_url);
        ground.replica_url = String::new();
        let node = ground.serve(changes).await;
        let accounts = node.caller.accounts(2, 1_000_000).await;
        Self { ground, direct_url, proxy, node, accounts }
    }

    /// One payment from the first account to the second, told as it came.
    async fn ask(&self) -> Asked {
        let key = new_key();
        let body = book_payment(&self.accounts[0], &self.accounts[1], 1, &key);
        let told = ask(&self.node.caller, &key, &body).await;
        Asked { key, body, told }
    }

    /// One payment that succeeds in the end: afterwards the engine has a connection.
    async fn ask_until_done(&self) -> Asked {
        let mut asked = self.ask().await;
        asked.told = Told::Done(settled(&self.node.caller, &asked).await);
        asked
    }

    /// Bytes that one payment carries: to the server, and from it.
    async fn measure(&self, asked: &mut Vec<Asked>) -> (usize, usize) {
        asked.push(self.ask_until_done().await);
        until("a payment that was not interrupted", async || {
            let before = self.proxy.carried();
            let one = self.ask().await;
            let after = self.proxy.carried();
            let is_whole = matches!(one.told, Told::Done(_));
            asked.push(one);
            is_whole.then_some((after.0 - before.0, after.1 - before.1))
        })
        .await
    }

    async fn finish(self, mut asked: Vec<Asked>) {
        prove(&self.node.caller, &self.direct_url, &mut asked).await;
        self.ground.verify().await;
        self.node.service.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_cut_anywhere_in_a_commit_loses_and_doubles_nothing() {
    const ROUNDS: usize = 100;
    /// The end of a flight holds its COMMIT, and the end of the answers that of the COMMIT.
    const COMMIT_BYTES: usize = 150;
    let mut random = seeded();
    let bench = Bench::start(Ground::new().await, &[("ENGINE__LANES", "1")]).await;
    let mut asked = Vec::new();
    let (up, down) = bench.measure(&mut asked).await;
    let mut sprung_count = 0;
    for round in 0..ROUNDS {
        let total = if round % 2 == 0 { up } else { down };
        let first = if round % 4 < 2 { total.saturating_sub(COMMIT_BYTES) } else { 0 };
        let bytes = random.random_range(first..=total);
        let trap = if round % 2 == 0 { Trap::CutUp(bytes) } else { Trap::CutDown(bytes) };
        let sprung = bench.proxy.arm(trap);
        let one = bench.ask().await;
        assert!(
            matches!(one.told, Told::Done(_)),
            "{trap:?}: the server can be asked at once: {:?}",
            one.told
        );
        asked.push(one);
        sprung_count += usize::from(sprung.is());
        bench.proxy.disarm();
    }
    assert!(sprung_count > ROUNDS / 2, "only {sprung_count} of {ROUNDS} cuts happened");
    bench.finish(asked).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_learned_after_a_cut_is_not_claimed() {
    let waits = [
        ("ENGINE__LANES", "1"),
        ("ENGINE__QUEUE_TIMEOUT_MS", "300"),
        ("DB__STATEMENT_TIMEOUT_MS", "500"),
        ("DB__ACQUIRE_TIMEOUT_MS", "300"),
        ("DB__CONNECT_TIMEOUT_MS", "1000"),
    ];
    let bench = Bench::start(Ground::new().await, &waits).await;
    let mut asked = Vec::new();
    let (up, down) = bench.measure(&mut asked).await;
    let traps = [
        Trap::CutUpAndRefuse(1),
        Trap::CutUpAndRefuse(up / 2),
        Trap::CutUpAndRefuse(up * 3 / 4),
        Trap::CutUpAndRefuse(up - 60),
        Trap::CutUpAndRefuse(up),
        Trap::CutDownAndRefuse(1),
        Trap::CutDownAndRefuse(down / 2),
        Trap::CutDownAndRefuse(down - 100),
        Trap::CutDownAndRefuse(down - 1),
    ];
    let mut told = Vec::new();
    for trap in traps {
        asked.push(bench.ask_until_done().await);
        let mut sprung = bench.proxy.arm(trap);
        let one = bench.ask().await;
        sprung.wait().await;
        let stored = until("the lost connection's transaction to end", async || {
            let open = "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE '%/engine-%' AND xact_start IS NOT NULL";
            if rows(&bench.direct_url, open).await.is_empty() { Some(references(&bench.direct_url).await) } else { None }
        })
        .await;
        told.push((trap, stored.contains_key(&one.key), one.told.clone()));
        match &one.told {
            Told::Done(_) => assert!(stored.contains_key(&one.key), "{trap:?}: acknowledged, and not there"),
            Told::Refused(_) => assert!(!stored.contains_key(&one.key), "{trap:?}: refused, and there"),
            Told::Open => {}
        }
        asked.push(one);
        bench.proxy.set(Mode::Forward);
        until("the primary again", async || bench.node.service.app.db.status().primary).await;
    }
    assert!(told.iter().any(|(_, stored, told)| *stored && matches!(told, Told::Open)), "{told:?}");
    assert!(told.iter().any(|(_, stored, told)| !*stored && !matches!(told, Told::Done(_))), "{told:?}");
    bench.finish(asked).await;
}

/// Who cannot learn whether a batch was committed must take it that it was: what it would have changed is not read from
/// the cache any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_fate_was_not_learned_leaves_no_old_account_in_the_cache() {
    let settings = [
        ("ENGINE__LANES", "1"),
        ("ENGINE__QUEUE_TIMEOUT_MS", "1000"),
        ("DB__STATEMENT_TIMEOUT_MS", "1000"),
        ("DB__ACQUIRE_TIMEOUT_MS", "1000"),
        // Neither its life nor silence ends what is cached while the test runs.
        ("CACHE__TTL_SECONDS", "3600"),
        ("CACHE__MAX_STALE_MS", "600000"),
    ];
    let bench = Bench::start(Ground::new().await, &settings).await;
    let mut asked = Vec::new();
    let (_, down) = bench.measure(&mut asked).await;
    let (reader, account) = (&bench.node, &bench.accounts[1]);
    let before = reader.caller.posted(account).await;
    until("an answer from the cache", async || {
        let hits = || reader.service.app.documents.stats()[0].1.hits;
        let known = hits();
        assert_eq!(reader.caller.posted(account).await, before);
        (hits() > known).then_some(())
    })
    .await;
    let mut sprung = bench.proxy.arm(Trap::CutDownAndRefuse(down - 1));
    let one = bench.ask().await;
    sprung.wait().await;
    assert!(matches!(one.told, Told::Open), "the server cannot be asked: {:?}", one.told);
    assert!(references(&bench.direct_url).await.contains_key(&one.key), "it was committed");
    asked.push(one);
    bench.proxy.set(Mode::Forward);
    until("the primary again", async || bench.node.service.app.db.status().primary).await;
    assert_eq!(reader.caller.posted(account).await, before + 1);
    bench.finish(asked).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_cut_at_random_bytes_answer_every_caller_rightly() {
    let mut random = seeded();
    let bench = Bench::start(Ground::new().await, &[("ENGINE__LANES", "2")]).await;
    let accounts = bench.node.caller.accounts(6, 100_000).await;
    let plan = Plan { accounts, clients: 16, payments_each: 25, on_trouble: OnTrouble::Stay };
    let crowd = Crowd::start(std::slice::from_ref(&bench.node.caller), &plan, &mut random);
    let mut cuts = 0;
    let sabotage = async {
        loop {
            let bytes = random.random_range(1..20_000);
            let trap = if random.random() { Trap::CutUp(bytes) } else { Trap::CutDown(bytes) };
            let mut sprung: Sprung = bench.proxy.arm(trap);
            sprung.wait().await;
            cuts += 1;
        }
    };
    let asked = tokio::select! {
        asked = crowd.finish() => asked,
        () = sabotage => unreachable!("it never ends"),
    };
    bench.proxy.disarm();
    assert!(cuts > 3, "only {cuts} cuts happened");
    bench.finish(asked).await;
}

/// A server that crashed gives the numbers of transactions again of which nothing reached the disk: the number alone says
/// nothing about what was asked for before the crash.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_number_that_was_given_again_after_a_crash_proves_nothing() {
    let cluster = Cluster::start(Replica::Without);
    let ground = Ground::on(&cluster.primary_url(), "").await;
    let bench = Bench::start(ground, &[("ENGINE__LANES", "1")]).await;
    let mut asked = Vec::new();
    bench.measure(&mut asked).await;

    let mut held = bench.proxy.arm(Trap::HoldWrites);
    let fault = async {
        held.wait().await;
        let running = "SELECT backend_xid::text::int8 FROM pg_stat_activity
                        WHERE application_name LIKE '%/engine-%' AND backend_xid IS NOT NULL";
        let lost: i64 = rows(&bench.direct_url, running).await[0].get(0);
        bench.proxy.set(Mode::Refuse);
        tokio::task::block_in_place(|| {
            cluster.crash_primary();
            cluster.boot_primary();
        });
        take_number(&bench.direct_url, lost).await;
        bench.proxy.set(Mode::Forward);
    };
    let (one, ()) = tokio::join!(bench.ask(), fault);
    let stored = references(&bench.direct_url).await.contains_key(&one.key);
    match &one.told {
        Told::Done(_) => assert!(stored, "acknowledged, and not there"),
        Told::Refused(_) => assert!(!stored, "refused, and there"),
        Told::Open => {}
    }
    settled(&bench.node.caller, &one).await;
    asked.push(one);
    bench.finish(asked).await;
}

/// Who wrote a row is not told by its key when others may write it, too: here another node captures the same payment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_that_was_cut_off_is_not_taken_for_that_of_another_node() {
    let ground = Ground::new().await;
    let other = ground.serve(&[]).await;
    let bench = Bench::start(ground, &[("ENGINE__LANES", "1")]).await;
    let authorized = json!({"from": bench.accounts[0], "to": bench.accounts[1], "amount": 100, "currency": "USD",
                            "capture": false});
    let authorized =
        bench.node.caller.post("/v1/payments", &new_key(), &authorized).await.expect("an answer");
    let path = format!("/v1/payments/{}", text(&authorized.json()["id"]));
    let capture = format!("{path}/capture");

    let mut held = bench.proxy.arm(Trap::HoldWrites);
    let fault = async {
        held.wait().await;
        bench.proxy.set(Mode::Refuse);
        // The lost connection's transaction ends, and the other node captures before anybody can ask after it.
        let key = new_key();
        let body = json!({"amount": 50});
        let reply = other.caller.post(&capture, &key, &body).await.expect("an answer");
        assert_eq!((reply.status, &reply.json()["amount_captured"]), (StatusCode::OK, &json!(50)));
        bench.proxy.set(Mode::Forward);
    };
    let (key, body) = (new_key(), json!({"amount": 60}));
    let (cut_off, ()) = tokio::join!(bench.node.caller.post(&capture, &key, &body), fault);
    let cut_off = cut_off.expect("an answer");
    assert!(
        matches!(cut_off.status, StatusCode::CONFLICT | StatusCode::SERVICE_UNAVAILABLE),
        "60 were not captured: {}",
        cut_off.json()
    );
    let reply = bench.node.caller.insist(&capture, &key, &body).await;
    assert_eq!((reply.status, &reply.json()["code"]), (StatusCode::CONFLICT, &json!("wrong_state")));
    assert_eq!(bench.node.caller.get(&path).await.json()["amount_captured"], json!(50));
    other.service.stop().await;
    bench.finish(Vec::new()).await;
}

/// Commits somebody else's transactions until one has had the number.
async fn take_number(url: &str, number: i64) {
    for _ in 0..10_000 {
        let taken: i64 = rows(url, "SELECT pg_current_xact_id()::text::int8").await[0].get(0);
        assert!(taken <= number, "the number was not given again");
        if taken == number {
            return;
        }
    }
    panic!("the number is too far away");
}
