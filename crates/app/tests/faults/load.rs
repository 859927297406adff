//! Many clients that pay at once and remember what each was told, and the proof afterwards: what was acknowledged is
//! there once, what was refused is not, and what was left open is settled by asking again with the same key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::caller::{Caller, book_payment, new_key, text};
use crate::ground::{rows, until};
use crate::stage::Reply;

/// What a client was told about one payment.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    /// It is there.
    Done(Reply),
    /// Nothing was done.
    Refused(Reply),
    /// Nobody knows: no answer came, or one that says so.
    Open,
}

/// One payment that was asked for. Its key is its reference, too.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) key: String,
    pub(crate) body: Value,
    pub(crate) told: Told,
}

/// What a client does when it is refused or cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnTrouble {
    /// Stops.
    Leave,
    /// Goes on with other payments.
    Stay,
}

/// A crowd of clients on some accounts.
#[derive(Debug)]
pub(crate) struct Crowd {
    clients: JoinSet<Vec<Asked>>,
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
}

/// What the clients of a crowd have been told so far.
#[derive(Debug, Default)]
struct Counts {
    acknowledged: AtomicU64,
    troubled: AtomicU64,
}

/// Who pays whom, how many at a time, and for how long.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) accounts: Vec<String>,
    pub(crate) clients: usize,
    /// Each client stops after so many.
    pub(crate) payments_each: usize,
    pub(crate) on_trouble: OnTrouble,
}

impl Crowd {
    /// Sets the clients off, spread over the nodes.
    pub(crate) fn start(nodes: &[Caller], plan: &Plan, random: &mut StdRng) -> Self {
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Counts::default()));
        let mut clients = JoinSet::new();
        for index in 0..plan.clients {
            let (caller, plan) = (nodes[index % nodes.len()].clone(), plan.clone());
            let (stop, counts) = (Arc::clone(&stop), Arc::clone(&counts));
            let random = StdRng::seed_from_u64(random.random());
            clients.spawn(async move { client(&caller, &plan, &stop, &counts, random).await });
        }
        Self { clients, stop, counts }
    }

    /// Waits until so many payments more than now are acknowledged.
    pub(crate) async fn progress(&self, count: u64) {
        rise(&self.counts.acknowledged, count, "payments acknowledged").await;
    }

    /// Waits until so many payments more than now were refused or left open.
    pub(crate) async fn trouble(&self, count: u64) {
        rise(&self.counts.troubled, count, "payments refused or left open").await;
    }

    /// Lets each client end the payment it is at; gives all that were asked for.
    pub(crate) async fn end(self) -> Vec<Asked> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.join_all().await.into_iter().flatten().collect()
    }

    /// Waits until every client has done its share.
    pub(crate) async fn finish(self) -> Vec<Asked> {
        self.clients.join_all().await.into_iter().flatten().collect()
    }
}

async fn rise(counter: &AtomicU64, count: u64, what: &'static str) {
    let goal = counter.load(Ordering::Relaxed) + count;
    until(what, async || (counter.load(Ordering::Relaxed) >= goal).then_some(())).await;
}

async fn client(
    caller: &Caller,
    plan: &Plan,
    stop: &AtomicBool,
    counts: &Counts,
    mut random: StdRng,
) -> Vec<Asked> {
    let mut asked = Vec::new();
    while asked.len() < plan.payments_each && !stop.load(Ordering::Relaxed) {
        let from = random.random_range(0..plan.accounts.len());
        let to = (from + random.random_range(1..plan.accounts.len())) % plan.accounts.len();
        let key = new_key();
        let amount = random.random_range(1..100);
        let body = book_payment(&plan.accounts[from], &plan.accounts[to], amount, &key);
        let told = ask(caller, &key, &body).await;
        let trouble = !matches!(told, Told::Done(_));
        let counter = if trouble { &counts.troubled } else { &counts.acknowledged };
        counter.fetch_add(1, Ordering::Relaxed);
        asked.push(Asked { key, body, told });
        if trouble && plan.on_trouble == OnTrouble::Leave {
            break;
        }
    }
    asked
}

/// Asks once.
///
/// # Panics
/// An answer that no fault explains.
pub(crate) async fn ask(caller: &Caller, key: &str, body: &Value) -> Told {
    let Some(reply) = caller.post("/v1/payments", key, body).await else { return Told::Open };
    match reply.status {
        StatusCode::CREATED => Told::Done(reply),
        StatusCode::SERVICE_UNAVAILABLE => {
            assert!(reply.headers.contains_key("retry-after"), "{reply:?}");
            match reply.json()["code"].as_str() {
                Some("outcome_unknown") => Told::Open,
                Some("unavailable") => Told::Refused(reply),
                _ => panic!("{}", reply.json()),
            }
        }
        // The first request under this key goes on: only for payments through a gateway.
        StatusCode::CONFLICT if reply.json()["code"] == "idempotency_key_in_progress" => Told::Open,
        status => panic!("{status}: {}", reply.json()),
    }
}

/// Proves what the crowd was told, then asks again for all that is open or refused, and proves that every payment is
/// there once. Afterwards each has its answer. `asked` must be all that was ever asked with a reference.
pub(crate) async fn prove(caller: &Caller, database_url: &str, asked: &mut [Asked]) {
    let stored = references(database_url).await;
    for one in &*asked {
        match &one.told {
            Told::Done(reply) => assert_same(caller, one, reply).await,
            Told::Refused(reply) => {
                assert!(!stored.contains_key(&one.key), "refused, and stored: {}", reply.json());
            }
            Told::Open => {}
        }
    }
    for one in &mut *asked {
        let again = settled(caller, one).await;
        if let Told::Done(first) = &one.told {
            assert_eq!(again.bytes, first.bytes, "another answer under the same key");
        } else {
            one.told = Told::Done(again);
        }
    }
    let stored = references(database_url).await;
    let keys: BTreeSet<&String> = asked.iter().map(|one| &one.key).collect();
    assert_eq!(stored.keys().collect::<BTreeSet<_>>(), keys);
    let twice: Vec<_> = stored.iter().filter(|(_, count)| **count != 1).collect();
    assert!(twice.is_empty(), "paid more than once: {twice:?}");
}

/// The payment as it reads now is the one that was acknowledged.
async fn assert_same(caller: &Caller, one: &Asked, reply: &Reply) {
    let told = reply.json();
    let token = reply.headers.get("paystrata-token").expect("a write gives a token");
    let read = caller.get_after(&format!("/v1/payments/{}", text(&told["id"])), token).await;
    assert_eq!(read.status, StatusCode::OK, "acknowledged, and not there: {told}");
    assert_eq!(read.json(), told);
    assert_eq!(told["merchant_reference"], json!(one.key));
}

/// Asks until there is an answer.
pub(crate) async fn settled(caller: &Caller, one: &Asked) -> Reply {
    until("an answer under the same key", async || match ask(caller, &one.key, &one.body).await {
        Told::Done(reply) => Some(reply),
        _ => None,
    })
    .await
}

/// How often each reference is stored.
pub(crate) async fn references(database_url: &str) -> BTreeMap<String, i64> {
    let text =
        "SELECT merchant_reference, count(*) FROM payments WHERE merchant_reference IS NOT NULL GROUP BY 1";
    rows(database_url, text).await.iter().map(|row| (row.get(0), row.get(1))).collect()
}
