//! One batch as one transaction: load under lock, decide, write, commit. Tells apart what was committed, what was
//! certainly not, and what is not known. Retries nothing: that is the lane's business.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use paystrata_db::{Session, Token};
use tokio::time::timeout;
use uuid::Uuid;

use super::book::{Book, RowState};
use super::command::Decision;
use super::decide::decide;
use super::load::{LoadError, LoadStatements, load};
use super::notices::Notices;
use super::proof::Proof;
use super::queue::{Commit, Job, Render};
use super::write::{WriteStatements, Written, write};
use crate::clock::Timestamp;

/// A connection with everything prepared on it.
#[derive(Debug)]
pub(super) struct LaneConnection {
    pub(super) session: Session,
    pub(super) timeline: u32,
    load: LoadStatements,
    write: WriteStatements,
    notices: Notices,
}

impl LaneConnection {
    /// `limit` is what the server, too, holds every statement and every pause inside a transaction to: a lane that
    /// vanished without a word must not keep accounts locked. `lock_wait` is what it may wait for one lock.
    pub(super) async fn open(
        session: Session,
        limit: Duration,
        lock_wait: Duration,
        notices: Notices,
    ) -> Result<Self, OpenError> {
        let limit_ms = limit.as_millis();
        // 0 would be no limit.
        let lock_ms = lock_wait.as_millis().max(1);
        // Whatever the server's defaults are: an acknowledged payment is a flushed one. Every statement of a batch has its
        // index, but a table that was analyzed while it was empty looks cheaper to read whole, until the next analyze.
        let settings = format!(
            "SET synchronous_commit = on; SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off;
             SET lock_timeout = {lock_ms}; SET statement_timeout = {limit_ms}; SET idle_in_transaction_session_timeout = {limit_ms}"
        );
        session.client().batch_execute(&settings).await?;
        let load = LoadStatements::prepare(session.client()).await?;
        let write = WriteStatements::prepare(session.client()).await?;
        let timeline = session.token().await?.timeline;
        Ok(Self { session, timeline, load, write, notices })
    }
}

/// Why a lane has no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("open session")]
    Session(#[from] paystrata_db::Error),
    #[error("prepare statements")]
    Prepare(#[from] tokio_postgres::Error),
    #[error("no answer in {0:?}")]
    Timeout(Duration),
}

/// What became of a batch.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Committed: one decision per job, in order.
    Committed(Vec<Decision>, Commit),
    /// Certainly not committed.
    NotCommitted(BatchError),
    /// COMMIT may or may not have happened; the proof tells.
    Unknown { decided: Vec<Decision>, commit: Commit, xid: String, proof: Option<Proof>, cause: String },
}

/// Why a batch was not committed.
#[derive(Debug, thiserror::Error)]
pub(super) enum BatchError {
    #[error("load batch")]
    Load(#[from] LoadError),
    #[error("write batch")]
    Write(#[from] tokio_postgres::Error),
    #[error("load batch: no answer in {0:?}")]
    LoadTimeout(Duration),
    #[error("decide batch: a panic, told where it happened")]
    Panicked,
}

/// How long the two halves of a batch may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Up to the decisions: nothing is lost when it is cut.
    pub(super) load: Duration,
    /// The writes and the COMMIT, which leave doubt when they are cut.
    pub(super) write: Duration,
}

/// Runs the jobs as one transaction. `is_replaced` tells whether another server has become the primary since: what was
/// committed on the old one may be nowhere on the new one.
pub(super) async fn run(
    connection: &LaneConnection,
    render: &Render,
    jobs: &[Job],
    limits: Limits,
    is_replaced: impl Fn(&LaneConnection) -> bool,
) -> Outcome {
    let client = connection.session.client();
    let mut book = Book::new(Timestamp::now());
    let submissions = jobs.iter().map(|job| &job.submission);
    let xid = match timeout(limits.load, load(client, &connection.load, submissions, &mut book)).await {
        Ok(Ok(xid)) => xid,
        Ok(Err(error)) => return Outcome::NotCommitted(error.into()),
        Err(_) => return Outcome::NotCommitted(BatchError::LoadTimeout(limits.load)),
    };
    // Nothing was written yet: a panic is one command's, and the others must not go down with it.
    let deciding = || jobs.iter().map(|job| decide(&mut book, render, &job.submission)).collect();
    let Ok(decided) = catch_unwind(AssertUnwindSafe(deciding)) else {
        return Outcome::NotCommitted(BatchError::Panicked);
    };
    let decided: Vec<Decision> = decided;
    let mut commit = changes(&book, connection);
    let written = timeout(limits.write, write(client, &connection.write, &book, &commit)).await;
    let cause = match written {
        Ok(Written::Committed(_)) if is_replaced(connection) => {
            "committed on a primary that was replaced".to_owned()
        }
        Ok(Written::Committed(Some(lsn))) => {
            commit.token.lsn = lsn;
            return Outcome::Committed(decided, commit);
        }
        Ok(Written::RolledBack(error)) => return Outcome::NotCommitted(error.into()),
        // Committed for certain, but where is not known: the lane asks on a new connection, as for an unknown one.
        Ok(Written::Committed(None)) => "connection broke right after COMMIT".to_owned(),
        Ok(Written::Unknown(error)) => error.to_string(),
        Err(_) => format!("no answer in {:?}", limits.write),
    };
    Outcome::Unknown { decided, commit, xid, proof: Proof::of(&book), cause }
}

/// What the batch will have changed; where its commit lies is not known yet.
fn changes(book: &Book, connection: &LaneConnection) -> Commit {
    let accounts = book.accounts.values().filter(|row| row.state == RowState::Changed);
    let accounts: Vec<_> = accounts.map(|row| row.id).collect();
    let payments = book.payments.values().filter(|(_, state)| *state == RowState::Changed);
    let payments: Vec<_> = payments.map(|(record, _)| (record.merchant_id, record.id)).collect();
    let is_news = !(accounts.is_empty() && payments.is_empty());
    let notice = (is_news && connection.notices == Notices::Kept).then(Uuid::now_v7);
    Commit { accounts, payments, notice, token: Token { timeline: connection.timeline, lsn: 0 } }
}
