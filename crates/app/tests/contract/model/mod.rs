//! The engine against a naive model: random commands of several callers, decided in the order in which they were queued.
//! With one lane that order is total, so every reply must be the model's, and every balance at the end. With more lanes
//! the order is the database's own, and what must hold is P2.

mod naive;
mod random;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use paystrata_app::engine::{Decision, Submission};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use uuid::Uuid;

use self::naive::{Expected, Naive};
use self::random::Dice;
use crate::scene::{Caller, balance, count, new_key, sql, transfer};
use crate::stage::{KEY, Stage};

const CALLERS: usize = 12;
const COMMANDS_PER_CALLER: usize = 200;

/// The seed of this run: of the environment, to repeat a failure, or new.
fn seed() -> u64 {
    let given = std::env::var("PAYSTRATA_TEST_SEED").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(rand::random)
}

/// What the callers share. Model and queue change under one lock, so they see one order.
#[derive(Debug)]
struct Table {
    naive: Naive,
    dice: Dice,
    /// Under each key, the bytes of every answer and replay.
    answers: BTreeMap<Uuid, Vec<Vec<u8>>>,
    replays: usize,
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A decision in the words of the model.
fn read(decision: &Decision) -> Expected {
    match decision {
        Decision::Answered(answer) => match &answer.payment {
            None => Expected::Opened,
            Some(payment) => Expected::Payment {
                status: payment.status,
                captured: payment.captured,
                refunded: payment.refunded,
                failure: payment.failure,
            },
        },
        Decision::Send(dispatch) => Expected::Send(dispatch.kind),
        Decision::Replayed(_) => Expected::Replayed,
        Decision::InProgress => Expected::InProgress,
        Decision::Refused(refusal) => Expected::Refused(refusal.clone()),
        Decision::RefusalKept(_) => panic!("no claim of the model says how a refusal is kept"),
    }
}

/// The key under which a decision's answer is kept, and its bytes.
fn kept(submission: &Submission, decision: &Decision) -> Option<(Uuid, Vec<u8>)> {
    match decision {
        Decision::Answered(answer) | Decision::Replayed(answer) => {
            Some((submission.claim.as_ref()?.digest, answer.body.to_vec()))
        }
        _ => None,
    }
}

async fn call(stage: &Stage, table: &Mutex<Table>, seed: u64) {
    for _ in 0..COMMANDS_PER_CALLER {
        let (submission, expected, reply) = {
            let mut table = lock(table);
            let submission = table.dice.roll();
            let expected = table.naive.apply(&submission);
            let reply = stage.service.app.engine.enqueue(submission.clone()).expect("the queue has room");
            (submission, expected, reply)
        };
        let reply = reply.await.expect("the engine lives").expect("a decision");
        assert_eq!(read(&reply.decision), expected, "seed {seed}: {:?}", submission.command);
        let mut table = lock(table);
        match &reply.decision {
            Decision::Send(dispatch) => table.dice.learn_operation(dispatch),
            Decision::Answered(answer) => {
                if let Some(payment) = &answer.payment {
                    table.dice.learn_payment(payment);
                }
            }
            Decision::Replayed(_) => table.replays += 1,
            _ => {}
        }
        if let Some((key, body)) = kept(&submission, &reply.decision) {
            table.answers.entry(key).or_default().push(body);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_engine_decides_what_the_model_decides() {
    let seed = seed();
    let stage = Stage::start_with(&[("PAYSTRATA__ENGINE__LANES", "1")]).await;
    let (naive, dice) = (Naive::default(), Dice::new(seed));
    let table = Mutex::new(Table { naive, dice, answers: BTreeMap::new(), replays: 0 });
    join_all((0..CALLERS).map(|_| call(&stage, &table, seed))).await;
    let table = table.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(table.replays > 0, "seed {seed}: nothing was replayed");
    for (key, answers) in &table.answers {
        assert!(answers.iter().all(|body| *body == answers[0]), "seed {seed}: key {key} has two answers");
    }
    let query = "SELECT id, posted, held, entry_count FROM accounts WHERE overdraft_limit < 1000";
    let stored = sql(&stage).await.query(query, &[]).await.expect("read the accounts");
    assert_eq!(stored.len(), table.naive.accounts.len());
    for row in stored {
        let expected = &table.naive.accounts[&row.get::<_, Uuid>(0)];
        let found: (i64, i64, i64) = (row.get(1), row.get(2), row.get(3));
        assert_eq!(found, (expected.posted, expected.held, expected.entries), "seed {seed}");
    }
    let total = "SELECT -coalesce(sum(posted), 0)::int8 FROM accounts WHERE overdraft_limit > 1000";
    assert_eq!(
        count(&stage, total).await,
        table.naive.opened_total,
        "seed {seed}: the world gave the opening balances"
    );
    let stats = stage.service.app.engine.stats();
    assert!(stats.batches < stats.commands, "seed {seed}: callers met in batches, or this test shows little");
    stage.verify().await;
}

/// One set of transfers, sent in any order and any grouping, by either kind of batch, from many callers at once: money is
/// conserved, and every account is what its opening and the payments that were told as succeeded make of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shuffled_batches_conserve_money() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let stage = Stage::start().await;
    let caller = Arc::new(Caller::with_key(&stage, KEY));
    for _ in 0..3 {
        let accounts = join_all((0..6).map(|index| stage.account("USD", index * 40))).await;
        let mut expected: BTreeMap<&str, i64> = accounts
            .iter()
            .zip((0..).map(|index| index * 40))
            .map(|(id, posted)| (id.as_str(), posted))
            .collect();
        let mut transfers: Vec<Value> = (0..240)
            .map(|_| {
                let from = random.random_range(0..6_usize);
                let to = (from + random.random_range(1..6_usize)) % 6;
                transfer(&accounts[from], &accounts[to], random.random_range(1..=50))
            })
            .collect();
        transfers.shuffle(&mut random);
        let mut batches = Vec::new();
        while !transfers.is_empty() {
            let size = random.random_range(1..=20).min(transfers.len());
            let mode = if random.random_bool(0.5) { "atomic" } else { "independent" };
            batches.push(json!({"mode": mode, "payments": transfers.split_off(transfers.len() - size)}));
        }
        let replies = join_all(batches.iter().map(|batch| {
            let caller = Arc::clone(&caller);
            async move { caller.post("/v1/payments/batch", &new_key(), batch).await.json() }
        }))
        .await;
        for (batch, reply) in batches.iter().zip(&replies) {
            let results = reply["results"].as_array().unwrap_or_else(|| panic!("seed {seed}: {reply}"));
            let paid: Vec<&Value> = results
                .iter()
                .filter(|one| one["payment"]["status"] == "succeeded")
                .map(|one| &one["payment"])
                .collect();
            let whole = paid.is_empty() || paid.len() == results.len();
            assert!(
                batch["mode"] == "independent" || whole,
                "seed {seed}: an atomic batch was done in part: {reply}"
            );
            for payment in paid {
                let amount = payment["amount"].as_i64().expect("a whole number");
                *expected.get_mut(payment["from"].as_str().expect("a text")).expect("one of ours") -= amount;
                *expected.get_mut(payment["to"].as_str().expect("a text")).expect("one of ours") += amount;
            }
        }
        for (account, posted) in expected {
            assert!(posted >= 0, "seed {seed}: {account} went below zero");
            assert_eq!(stage.balance(account).await, balance(posted, 0), "seed {seed}: {account}");
        }
    }
    stage.verify().await;
}
