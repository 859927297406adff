//! `paystrata-load seed`: sends the plan of a seed through a number of clients and judges every answer. Rerunning the same
//! seed on the same service replays every answer.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use http::StatusCode;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::accounts;
use super::arguments::{Ending, SeedArguments, Service};
use super::client::{Answer, Client, Post};
use super::judge::{self, Finding};
use super::plan::{Order, Plan, Step, bad_body, body};
use super::progress;
use super::tally::Tally;
use crate::latency::Latencies;

const PAYMENTS: &str = "/v1/payments";
/// Contradictions shown; all are counted.
const SHOWN_MAX: usize = 10;
/// How long `--operator` is asked whether the service is ready, and how often.
const READY_TRIES_MAX: u32 = 300;
const READY_PAUSE: Duration = Duration::from_millis(200);

/// What one run found.
#[derive(Debug, Default)]
struct Findings {
    accepted: Tally,
    failed: Tally,
    refused: Tally,
    duplicates: u64,
    replays: u64,
    retries: u64,
    unanswered: Tally,
    contradictions: u64,
    shown: Vec<String>,
    latencies: Latencies,
}

/// What the clients share.
#[derive(Debug)]
struct Run {
    client: Client,
    prefix: String,
    ids: Vec<String>,
    plan: Mutex<Plan>,
    done: AtomicU64,
}

/// Runs the command.
///
/// # Errors
/// The service cannot be used at all.
pub async fn run(arguments: &SeedArguments, out: &mut (dyn Write + Send)) -> anyhow::Result<Ending> {
    let client = Client::new(&arguments.service)?;
    if let Some(operator) = &arguments.operator {
        wait_ready(operator).await?;
    }
    let plan = Plan::new(arguments.seed, arguments.payments);
    // The number is part of the plan, so it is part of the keys.
    let prefix = format!("seed-{}-{}", arguments.seed, arguments.payments);
    let ids = accounts::open(&client, &prefix, plan.accounts()).await?;
    writeln!(out, "seed {}: {} accounts, {} payments", arguments.seed, ids.len(), arguments.payments)?;
    let run = Arc::new(Run { client, prefix, ids, plan: Mutex::new(plan), done: AtomicU64::new(0) });
    let begin = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..arguments.clients {
        clients.spawn(send_all(Arc::clone(&run)));
    }
    let gather = async {
        let mut findings = Findings::default();
        while let Some(ended) = clients.join_next().await {
            findings.add(ended.context("await a client")?);
        }
        anyhow::Ok(findings)
    };
    let findings = progress::watch("seed", arguments.payments, &run.done, gather).await?;
    findings.print(out, begin.elapsed())?;
    let good = findings.contradictions == 0 && findings.unanswered.total() == 0;
    Ok(if good { Ending::Good } else { Ending::Contradicted })
}

async fn wait_ready(operator: &str) -> anyhow::Result<()> {
    // The operator listener asks for no key.
    let client =
        Client::new(&Service { base: operator.to_owned(), key: "none".to_owned() }).context("--operator")?;
    for _ in 0..READY_TRIES_MAX {
        if client.get("/readyz").await.is_ok_and(|answer| answer.status == StatusCode::OK) {
            return Ok(());
        }
        sleep(READY_PAUSE).await;
    }
    bail!("{operator}/readyz did not say that the service is ready in {:?}", READY_PAUSE * READY_TRIES_MAX);
}

async fn send_all(run: Arc<Run>) -> Findings {
    let mut findings = Findings::default();
    loop {
        let step = run.plan.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some((number, step)) = step else { return findings };
        let key = format!("{}-{number}", run.prefix);
        if let Err(contradiction) = play(&run, &mut findings, &key, &step).await {
            findings.contradict(format!("{key}: {contradiction}"));
        }
        run.done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Plays one step. An unanswered request ends its step; it was counted when it happened.
async fn play(run: &Run, findings: &mut Findings, key: &str, step: &Step) -> Result<(), String> {
    match step {
        Step::Pay(order) => {
            let Some(answer) = pay(run, findings, key, order).await else { return Ok(()) };
            findings.count(judge::payment(order.rail, &answer)?);
        }
        Step::Duplicate(order) => {
            let Some(first) = pay(run, findings, key, order).await else { return Ok(()) };
            findings.count(judge::payment(order.rail, &first)?);
            let Some(second) = pay(run, findings, key, order).await else { return Ok(()) };
            judge::duplicate(&first, &second)?;
            findings.duplicates += 1;
        }
        Step::ReuseKey(order) => {
            let Some(first) = pay(run, findings, key, order).await else { return Ok(()) };
            findings.count(judge::payment(order.rail, &first)?);
            let other = body(order, &run.ids, order.amount + 1);
            let Some(second) = post(run, findings, PAYMENTS, key, &other).await else { return Ok(()) };
            findings.count(judge::reused_key(&second)?);
        }
        Step::Refund(order, part) => {
            let Some(first) = pay(run, findings, key, order).await else { return Ok(()) };
            let finding = judge::payment(order.rail, &first)?;
            let succeeded = finding == Finding::Accepted("succeeded".to_owned());
            findings.count(finding);
            let Some(id) = first.text("id").filter(|_| succeeded) else { return Ok(()) };
            let path = format!("{PAYMENTS}/{id}/refunds");
            let refund = format!("{{\"amount\":{part}}}");
            let Some(second) = post(run, findings, &path, &format!("{key}-refund"), &refund).await else {
                return Ok(());
            };
            findings.count(judge::refund(&second)?);
        }
        Step::Overdraw(order) => {
            let Some(answer) = pay(run, findings, key, order).await else { return Ok(()) };
            findings.count(judge::overdraw(&answer)?);
        }
        Step::Bad(flaw, order) => {
            let bad = bad_body(*flaw, order, &run.ids);
            let Some(answer) = post(run, findings, PAYMENTS, key, &bad).await else { return Ok(()) };
            findings.count(judge::bad_row(*flaw, &answer)?);
        }
    }
    Ok(())
}

async fn pay(run: &Run, findings: &mut Findings, key: &str, order: &Order) -> Option<Answer> {
    post(run, findings, PAYMENTS, key, &body(order, &run.ids, order.amount)).await
}

async fn post(run: &Run, findings: &mut Findings, path: &str, key: &str, body: &str) -> Option<Answer> {
    let begin = Instant::now();
    let patient = run.client.post_patiently(Post { path, key, body }).await;
    findings.retries += u64::from(patient.retries);
    match patient.answer {
        Ok(answer) if answer.asks_to_retry() => {
            findings.unanswered.add(&format!("still {} after {} tries", answer.code(), patient.retries + 1));
            None
        }
        Ok(answer) => {
            findings.latencies.record(begin.elapsed());
            findings.replays += u64::from(answer.replayed);
            Some(answer)
        }
        Err(error) => {
            findings.unanswered.add(&error.to_string());
            None
        }
    }
}

impl Findings {
    fn count(&mut self, finding: Finding) {
        match finding {
            Finding::Accepted(status) => self.accepted.add(&status),
            Finding::Failed(code) => self.failed.add(&code),
            Finding::Refused(code) => self.refused.add(&code),
        }
    }

    fn contradict(&mut self, what: String) {
        self.contradictions += 1;
        if self.shown.len() < SHOWN_MAX {
            self.shown.push(what);
        }
    }

    fn add(&mut self, other: Self) {
        self.accepted.merge(&other.accepted);
        self.failed.merge(&other.failed);
        self.refused.merge(&other.refused);
        self.unanswered.merge(&other.unanswered);
        self.duplicates += other.duplicates;
        self.replays += other.replays;
        self.retries += other.retries;
        self.contradictions += other.contradictions;
        let room = SHOWN_MAX - self.shown.len();
        self.shown.extend(other.shown.into_iter().take(room));
        self.latencies.add(&other.latencies);
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    fn print(&self, out: &mut dyn Write, elapsed: Duration) -> std::io::Result<()> {
        let rate = self.latencies.count() as f64 / elapsed.as_secs_f64().max(0.001);
        writeln!(out, "accepted    {}", self.accepted)?;
        writeln!(out, "failed      {}", self.failed)?;
        writeln!(out, "refused     {}", self.refused)?;
        writeln!(
            out,
            "duplicates  {} answered alike; {} answers were replays",
            self.duplicates, self.replays
        )?;
        writeln!(out, "waited      {} times as the service asked", self.retries)?;
        writeln!(out, "unanswered  {}", self.unanswered)?;
        writeln!(out, "requests    {} in {elapsed:.1?}: {rate:.0}/s", self.latencies.count())?;
        writeln!(out, "latency     {} (with waits)", self.latencies)?;
        for contradiction in &self.shown {
            writeln!(out, "CONTRADICTION {contradiction}")?;
        }
        writeln!(out, "contradictions of the contract: {}", self.contradictions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_of_all_clients_add_up() {
        let mut all = Findings::default();
        for client in 0..4 {
            let mut findings = Findings::default();
            findings.count(Finding::Accepted("succeeded".to_owned()));
            findings.count(Finding::Failed("declined".to_owned()));
            findings.latencies.record(Duration::from_millis(client + 1));
            for number in 0..5 {
                findings.contradict(format!("{client}-{number}"));
            }
            all.add(findings);
        }
        assert_eq!((all.accepted.count("succeeded"), all.failed.count("declined")), (4, 4));
        assert_eq!((all.contradictions, all.shown.len(), all.latencies.count()), (20, SHOWN_MAX, 4));
        let mut text = Vec::new();
        all.print(&mut text, Duration::from_secs(2)).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("4 in 2.0s: 2/s") && text.ends_with("contract: 20\n"), "{text}");
    }
}
