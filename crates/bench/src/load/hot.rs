//! `paystrata-load hot`: a closed loop on few accounts. Survives kills and restarts of the service: a request without an
//! answer is sent again under its key until it has one, and every acknowledged payment is written down at once.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use http::StatusCode;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;
use uuid::Uuid;

use super::accounts::{self, NewAccount};
use super::acknowledged::{Acknowledged, Acknowledgements};
use super::arguments::{Ending, HotArguments};
use super::client::{Client, Post};
use super::progress;
use super::tally::Tally;
use crate::latency::Latencies;

/// Minor units: no account runs dry in any run.
const OPENING_BALANCE: i64 = 1_000_000_000_000;
const AMOUNT_MAX: i64 = 1_000;
/// After the end no new payment is sent, but what has no answer yet is asked for this long: a restart fits in.
const GRACE: Duration = Duration::from_secs(60);
/// Between tries while the service is away: a restart takes a second or so.
const AWAY_PAUSE: Duration = Duration::from_millis(100);

/// What one run found.
#[derive(Debug, Default)]
struct Findings {
    acknowledged: Tally,
    refused: Tally,
    /// Answers of 5xx, deadlocks among them; those of 503 only in a run that is not disturbed.
    broken: Tally,
    connection_errors: Tally,
    waits: u64,
    unanswered: u64,
    latencies: Latencies,
}

/// What the clients share.
#[derive(Debug)]
struct Run {
    client: Client,
    prefix: String,
    ids: Vec<String>,
    until: Instant,
    done: AtomicU64,
    acknowledgements: Acknowledgements,
    is_undisturbed: bool,
}

/// Runs the command.
///
/// # Errors
/// The service cannot be used at all, or the file cannot be written.
pub async fn run(arguments: &HotArguments, out: &mut (dyn Write + Send)) -> anyhow::Result<Ending> {
    let client = Client::new(&arguments.service)?;
    let path = arguments.ledger.as_deref();
    let name = path.map(Path::display);
    let acknowledgements = Acknowledgements::create(path)
        .with_context(|| format!("make {}", name.map(|name| name.to_string()).unwrap_or_default()))?;
    let prefix = format!("hot-{}", Uuid::now_v7().simple());
    let account = NewAccount { currency: "USD", opening_balance: OPENING_BALANCE };
    let ids = accounts::open(&client, &prefix, &vec![account; usize::from(arguments.accounts)]).await?;
    let duration = Duration::from_secs(u64::from(arguments.seconds));
    writeln!(out, "run {prefix}: {} clients on {} accounts for {duration:?}", arguments.clients, ids.len())?;
    let until = Instant::now() + duration;
    let (done, is_undisturbed) = (AtomicU64::new(0), arguments.undisturbed);
    let run = Arc::new(Run { client, prefix, ids, until, done, acknowledgements, is_undisturbed });
    let mut clients = JoinSet::new();
    for client in 0..arguments.clients {
        clients.spawn(pay_all(Arc::clone(&run), client));
    }
    let mut findings = Findings::default();
    let gather = async {
        while let Some(ended) = clients.join_next().await {
            findings.add(&ended.context("await a client")??);
        }
        anyhow::Ok(())
    };
    progress::count("hot", &run.done, gather).await?;
    findings.print(out, duration)?;
    Ok(findings.ending())
}

async fn pay_all(run: Arc<Run>, client: u16) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut random = StdRng::seed_from_u64(u64::from(client));
    let mut number = 0_u64;
    while Instant::now() < run.until {
        let from = random.random_range(0..run.ids.len());
        let to = (from + random.random_range(1..run.ids.len())) % run.ids.len();
        let amount = random.random_range(1..=AMOUNT_MAX);
        let body = json!({"from": run.ids[from], "to": run.ids[to], "amount": amount, "currency": "USD"});
        let key = format!("{}-{client}-{number}", run.prefix);
        number += 1;
        pay(&run, &mut findings, &key, &body.to_string()).await?;
    }
    Ok(findings)
}

/// Asks until there is an answer, or the grace is over.
async fn pay(run: &Run, findings: &mut Findings, key: &str, body: &str) -> anyhow::Result<()> {
    let begin = Instant::now();
    while Instant::now() < run.until + GRACE {
        let answer = match run.client.post(Post { path: "/v1/payments", key, body }).await {
            Ok(answer) => answer,
            Err(error) => {
                findings.connection_errors.add(&error.to_string());
                sleep(AWAY_PAUSE).await;
                continue;
            }
        };
        let is_away = answer.status == StatusCode::SERVICE_UNAVAILABLE;
        if run.is_undisturbed && is_away {
            findings.broken.add(&format!("503 {}", answer.code()));
            sleep(answer.pause()).await;
        } else if answer.asks_to_retry() {
            findings.waits += 1;
            sleep(answer.pause()).await;
        } else if answer.status == StatusCode::CREATED {
            let (id, status) = (answer.text("id"), answer.text("status"));
            let (id, status) = id.zip(status).context("a created payment without id or status")?;
            findings.latencies.record(begin.elapsed());
            findings.acknowledged.add(&status);
            run.done.fetch_add(1, Ordering::Relaxed);
            let acknowledged = Acknowledged { key: key.to_owned(), id, status };
            return run.acknowledgements.write(&acknowledged).context("write an acknowledged payment");
        } else if answer.status.is_server_error() {
            findings.broken.add(&format!("{} {}", answer.status.as_u16(), answer.code()));
            sleep(AWAY_PAUSE).await;
        } else {
            findings.refused.add(&answer.code());
            return Ok(());
        }
    }
    findings.unanswered += 1;
    Ok(())
}

impl Findings {
    /// Good only if something was paid, every request has its answer in the end, and none was an internal error.
    fn ending(&self) -> Ending {
        let good = self.acknowledged.total() > 0 && self.unanswered == 0 && self.broken.total() == 0;
        if good { Ending::Good } else { Ending::Contradicted }
    }

    fn add(&mut self, other: &Self) {
        self.acknowledged.merge(&other.acknowledged);
        self.refused.merge(&other.refused);
        self.broken.merge(&other.broken);
        self.connection_errors.merge(&other.connection_errors);
        self.waits += other.waits;
        self.unanswered += other.unanswered;
        self.latencies.add(&other.latencies);
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    fn print(&self, out: &mut dyn Write, duration: Duration) -> std::io::Result<()> {
        let rate = self.acknowledged.total() as f64 / duration.as_secs_f64().max(0.001);
        writeln!(out, "acknowledged  {}: {rate:.0}/s", self.acknowledged)?;
        writeln!(out, "refused       {}", self.refused)?;
        writeln!(out, "5xx           {}", self.broken)?;
        writeln!(out, "waited        {} times as the service asked", self.waits)?;
        writeln!(out, "connection    {} errors, each asked again under its key", self.connection_errors)?;
        writeln!(out, "unanswered    {}", self.unanswered)?;
        writeln!(out, "latency       {} (with tries)", self.latencies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_that_paid_nothing_or_left_something_open_is_not_good() {
        let mut findings = Findings::default();
        findings.refused.add("account_not_found");
        assert_eq!(findings.ending(), Ending::Contradicted);
        findings.acknowledged.add("succeeded");
        assert_eq!(findings.ending(), Ending::Good);
        findings.unanswered = 1;
        assert_eq!(findings.ending(), Ending::Contradicted);
        findings.unanswered = 0;
        findings.broken.add("500 internal");
        assert_eq!(findings.ending(), Ending::Contradicted);
    }
}
