//! `paystrata-load check`: reads back every payment that `hot` wrote down as acknowledged. Each must be there, under its
//! id, with its status: acknowledged means durable. Where nobody else pays there must be no other: a key pays once.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use tokio::time::sleep;

use super::acknowledged::{self, Acknowledged};
use super::arguments::{CheckArguments, Ending};
use super::client::{Answer, Client};
use super::progress;

/// Payments read at once.
const AT_ONCE: usize = 32;
/// Tries while the service is away, asks to wait, or reads from a replica that is behind.
const TRIES_MAX: u32 = 25;
const PAUSE: Duration = Duration::from_millis(200);
/// Faults shown; all are counted.
const SHOWN_MAX: usize = 20;

/// Runs the command.
///
/// # Errors
/// The file cannot be read, or a key or payment stands in it twice.
pub async fn run(arguments: &CheckArguments, out: &mut (dyn Write + Send)) -> anyhow::Result<Ending> {
    let client = Client::new(&arguments.service)?;
    let all = acknowledged::read(&arguments.ledger)?;
    let done = AtomicU64::new(0);
    let reads = all.iter().map(|acknowledged| {
        let (client, done) = (&client, &done);
        async move {
            let fault = fault(client, acknowledged).await;
            done.fetch_add(1, Ordering::Relaxed);
            fault
        }
    });
    let faults =
        stream::iter(reads).buffer_unordered(AT_ONCE).filter_map(|fault| async move { fault }).collect();
    let total = u64::try_from(all.len()).unwrap_or(u64::MAX);
    let mut faults: Vec<String> = progress::watch("check", total, &done, faults).await;
    if arguments.alone {
        faults.extend(others(&client, total).await);
    }
    for fault in faults.iter().take(SHOWN_MAX) {
        writeln!(out, "FAULT {fault}")?;
    }
    writeln!(out, "{} acknowledged payments read back, {} faults", all.len(), faults.len())?;
    Ok(if faults.is_empty() { Ending::Good } else { Ending::Contradicted })
}

/// What is wrong with the number of payments, once all that were acknowledged have been found.
async fn others(client: &Client, expected: u64) -> Option<String> {
    let mut last = String::new();
    for _ in 0..TRIES_MAX {
        last = match client.get("/v1/payments?page=1&size=1").await {
            Ok(Answer { total: Some(total), .. }) if total == expected => return None,
            // A replica may be behind, but none is ahead.
            Ok(Answer { total: Some(total), .. }) => {
                let fault = format!("the merchant has {total} payments, and {expected} were acknowledged");
                if total > expected {
                    return Some(fault);
                }
                fault
            }
            Ok(answer) => format!("no number of payments: {} {}", answer.status.as_u16(), answer.code()),
            Err(error) => format!("no number of payments: {error}"),
        };
        sleep(PAUSE).await;
    }
    Some(last)
}

/// What is wrong with one payment.
async fn fault(client: &Client, expected: &Acknowledged) -> Option<String> {
    let path = format!("/v1/payments/{}", expected.id);
    let mut last = String::new();
    for _ in 0..TRIES_MAX {
        match client.get(&path).await {
            Ok(answer) if answer.status == StatusCode::OK => {
                let found = (answer.text("id"), answer.text("status"));
                let same = found == (Some(expected.id.clone()), Some(expected.status.clone()));
                return (!same).then(|| format!("{expected:?}: found {found:?}"));
            }
            Ok(answer) if answer.status == StatusCode::NOT_FOUND || answer.asks_to_retry() => {
                last = format!("{} {}", answer.status.as_u16(), answer.code());
            }
            Ok(answer) => return Some(format!("{expected:?}: {} {}", answer.status.as_u16(), answer.code())),
            Err(error) => last = error.to_string(),
        }
        sleep(PAUSE).await;
    }
    Some(format!("{expected:?}: {last}"))
}
