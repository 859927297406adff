//! P1 and P3: the service is killed with SIGKILL in the middle of load, again and again, on one database.

use rand::RngExt as _;

use crate::binary::{Running, verify};
use crate::ground::{Ground, seeded};
use crate::load::{Crowd, OnTrouble, Plan, Told, prove};

const ROUNDS: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_payments_survive_sigkill_and_open_ones_pay_once_under_their_keys() {
    let mut random = seeded();
    let ground = Ground::new().await;
    let settings = ground.settings(&[]);
    let mut running = Running::start(&settings).await;
    let accounts = running.caller.accounts(10, 100_000).await;
    let plan = Plan { accounts, clients: 24, payments_each: usize::MAX, on_trouble: OnTrouble::Leave };
    let (mut all, mut open) = (Vec::new(), 0);
    for _ in 0..ROUNDS {
        let crowd = Crowd::start(&[running.caller.clone()], &plan, &mut random);
        crowd.progress(random.random_range(20..150)).await;
        running.kill().await;
        let asked = crowd.end().await;
        open += asked.iter().filter(|one| matches!(one.told, Told::Open)).count();
        all.extend(asked);
        running = Running::start(&settings).await;
        prove(&running.caller, &ground.primary_url, &mut all).await;
    }
    assert!(open > 0, "no request was under way when the service was killed");
    verify(&settings).await;
}
