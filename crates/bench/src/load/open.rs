//! `paystrata-load open`: book payments at a fixed rate whatever the service does, each latency from its planned instant.
//! Void, and 2, when the generator lagged: then the figures are the generator's and not the service's.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::accounts::{self, NewAccount};
use super::arguments::{Ending, OpenArguments};
use super::client::{Client, Post};
use super::tally::Tally;
use crate::latency::milliseconds;
use crate::open_loop::{self, Outcome, Plan};

/// Minor units: no account runs dry in any run.
const OPENING_BALANCE: i64 = 1_000_000_000_000;
const AMOUNT_MAX: i64 = 1_000;
/// Connections at once, as a fleet of clients would hold; within the usual limit of 1,024 descriptors. A request that
/// waits for one is timed from its planned instant all the same.
const CONNECTIONS_MAX: usize = 512;
/// Requests without an answer at once, those that wait for a connection included; one more voids the run.
const IN_FLIGHT_MAX: usize = 50_000;
const SEED: u64 = 1;

/// Runs the command.
///
/// # Errors
/// The service cannot be used at all, or the rate and duration make no plan.
pub async fn run(arguments: &OpenArguments, out: &mut (dyn Write + Send)) -> anyhow::Result<Ending> {
    let duration = Duration::from_secs(u64::from(arguments.seconds));
    let plan = Plan { rate: arguments.rate, warm_up: duration / 10, duration, in_flight_max: IN_FLIGHT_MAX };
    // Before a thousand accounts are opened for nothing.
    plan.check()?;
    let client = Client::new(&arguments.service)?;
    let prefix = format!("open-{}", Uuid::now_v7().simple());
    let account = NewAccount { currency: "USD", opening_balance: OPENING_BALANCE };
    let ids = accounts::open(&client, &prefix, &vec![account; usize::from(arguments.accounts)]).await?;
    let failures = Arc::new(Mutex::new(Tally::default()));
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut random = StdRng::seed_from_u64(SEED);
    let told = Arc::clone(&failures);
    let report = open_loop::run(plan, move |sequence| {
        let from = random.random_range(0..ids.len());
        let to = (from + random.random_range(1..ids.len())) % ids.len();
        let amount = random.random_range(1..=AMOUNT_MAX);
        let body = json!({"from": ids[from], "to": ids[to], "amount": amount, "currency": "USD"}).to_string();
        let key = format!("{prefix}-{sequence}");
        pay(client.clone(), Arc::clone(&connections), key, body, Arc::clone(&told))
    });
    let report = report.await?;
    writeln!(
        out,
        "rate        {:.0}/s for {duration:?}, after {:?} of warm-up",
        arguments.rate, plan.warm_up
    )?;
    writeln!(out, "done        {}", report.done)?;
    writeln!(out, "failed      {}", failures.lock().unwrap_or_else(PoisonError::into_inner))?;
    writeln!(out, "latency     {} (from the planned instant)", report.latencies)?;
    let (p99, max) = (milliseconds(report.lag.percentile(99.0)), milliseconds(report.lag.max()));
    writeln!(out, "generator   lag p99 {p99:.2} ms, max {max:.2} ms")?;
    if let Some(reason) = report.void() {
        writeln!(out, "VOID        {reason}")?;
        return Ok(Ending::Void);
    }
    Ok(Ending::Good)
}

async fn pay(
    client: Client,
    connections: Arc<Semaphore>,
    key: String,
    body: String,
    failures: Arc<Mutex<Tally>>,
) -> Outcome {
    let word = {
        let Ok(_connection) = connections.acquire().await else { return Outcome::Failed };
        match client.post(Post { path: "/v1/payments", key: &key, body: &body }).await {
            Ok(answer) if answer.status == StatusCode::CREATED => match answer.text("status").as_deref() {
                Some("succeeded") => return Outcome::Done,
                _ => answer.text("failure_code").unwrap_or_else(|| "not succeeded".to_owned()),
            },
            Ok(answer) => answer.code(),
            Err(error) => error.to_string(),
        }
    };
    failures.lock().unwrap_or_else(PoisonError::into_inner).add(&word);
    Outcome::Failed
}
