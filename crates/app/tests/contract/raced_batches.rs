//! An atomic batch under one key, sent again while its first send is still under way and money arrives in between: what
//! is answered must be what happened, whichever send decides.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::scene::{Caller, new_key, pay, transfer};
use crate::stage::{KEY, Stage};

/// Rounds of the race; a service that keeps the answer apart from the effect loses within a few.
const ROUNDS: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_answered_for_an_atomic_batch_is_what_happened() {
    let stage = Stage::start().await;
    let funder = stage.account("USD", 1_000_000).await;
    let caller = Caller::with_key(&stage, KEY);
    for round in 0..ROUNDS {
        let (payer, to) = (stage.account("USD", 0).await, stage.account("USD", 0).await);
        let batch =
            json!({"mode": "atomic", "payments": [transfer(&payer, &to, 10), transfer(&payer, &to, 5)]});
        let key = new_key();
        let sends = join_all((0..6).map(|_| caller.post("/v1/payments/batch", &key, &batch)));
        let funding = transfer(&funder, &payer, 15);
        let (replies, _) = tokio::join!(sends, pay(&stage, &funding));
        let told: Vec<Value> = replies.iter().map(|reply| reply.json()["summary"].clone()).collect();
        assert!(
            told.iter().all(|summary| *summary == told[0]),
            "round {round}: one key, two answers: {told:?}"
        );
        let moved = stage.balance(&to).await["posted"].as_i64().expect("a whole number");
        let expected = if told[0]["succeeded"] == 2 { 15 } else { 0 };
        assert_eq!(moved, expected, "round {round}: answered {}", told[0]);
    }
    stage.verify().await;
}
