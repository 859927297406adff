//! One lane of the engine: takes whatever waits, runs it as a batch, and answers after the commit. Keeps its own
//! connection, reruns what was certainly rolled back, asks after what is not known, and splits a batch in which the
//! database refuses a command until that command stands alone. A command that needs a row which somebody else holds is
//! refused alone; a panic ends its batch and not the lane. One deadline per batch bounds all of it, but for what began
//! to be written before: that may take one batch time more, and asking after it another. No idle timer: the first command
//! starts a batch.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ahash::AHashSet;
use futures_util::FutureExt as _;
use paystrata_db::{Class, Db, Token, classify};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_postgres::error::SqlState;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::backlog::Backlog;
use super::batch::{BatchError, LaneConnection, Limits, OpenError, Outcome, run};
use super::blocked::{blocked, needs_any};
use super::command::{Decision, EngineError, Reply};
use super::load::LoadError;
use super::proof::{self, Fate, Proof};
use super::queue::{Commit, Counters, EngineConfig, EngineObserver, Job, Render};

/// A batch that conflicts this often is given up; conflicts need another node that claims the same keys just now.
const RERUNS_MAX: u32 = 8;
/// First pause before a rerun or a reconnection; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// A connection that cannot roll back in this time is replaced.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Lane {
    name: String,
    db: Db,
    config: EngineConfig,
    render: Render,
    observer: Arc<dyn EngineObserver>,
    counters: Arc<Counters>,
    connection: Option<LaneConnection>,
}

/// Why a batch ended without decisions.
enum Failure {
    /// The database refused something in it.
    Refused(BatchError),
    /// Nothing was done, and nothing can be in time.
    Unavailable,
    /// Nothing was done, because somebody outside the engine holds these rows.
    Blocked(AHashSet<Uuid>),
    /// Not known, and not learned in time.
    Unknown,
}

impl Lane {
    pub(super) fn new(
        index: usize,
        db: Db,
        config: EngineConfig,
        render: Render,
        observer: Arc<dyn EngineObserver>,
        counters: Arc<Counters>,
    ) -> Self {
        Self { name: format!("engine-{index}"), db, config, render, observer, counters, connection: None }
    }

    /// Runs until draining has begun and the queue is empty.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Job>, draining: CancellationToken) {
        let mut backlog = Backlog::new(&self.config);
        loop {
            if draining.is_cancelled() {
                // What is queued is still decided; nothing new comes in.
                queue.close();
            }
            let is_more = tokio::select! {
                is_more = backlog.fill(&mut queue) => is_more,
                () = draining.cancelled(), if !queue.is_closed() => continue,
            };
            if !is_more {
                return;
            }
            if AssertUnwindSafe(async { self.work(backlog.next_batch()).await }).catch_unwind().await.is_err()
            {
                // The callers of the batch are told that nobody knows: it may have been committed.
                self.count_panic("work off batch");
                self.all_doubted();
                self.connection = None;
            }
        }
    }

    async fn work(&mut self, jobs: Vec<Job>) {
        let jobs = self.refuse_expired(jobs);
        self.process(jobs).await;
    }

    fn count_panic(&self, doing: &'static str) {
        tracing::error!(lane = %self.name, doing, "caught a panic");
        self.counters.panics.fetch_add(1, Ordering::Relaxed);
        self.observer.panicked();
    }

    fn refuse_expired(&self, jobs: Vec<Job>) -> Vec<Job> {
        let now = Instant::now();
        let limit = self.config.queue_timeout;
        let (fresh, expired): (Vec<Job>, Vec<Job>) =
            jobs.into_iter().partition(|job| now.saturating_duration_since(job.enqueued) <= limit);
        self.counters.overloads.fetch_add(expired.len() as u64, Ordering::Relaxed);
        refuse(expired, &EngineError::Overloaded);
        fresh
    }

    async fn process(&mut self, jobs: Vec<Job>) {
        // For all that becomes of these jobs: reruns, splits, waiting for locks.
        let deadline = Instant::now() + self.config.queue_timeout;
        let mut groups = vec![jobs];
        // A stack: the earlier half is on top, so arrival order holds.
        while let Some(mut group) = groups.pop() {
            if group.is_empty() {
                continue;
            }
            match self.decide(&group, deadline).await {
                Ok((decisions, token)) => {
                    for (job, decision) in group.into_iter().zip(decisions) {
                        // The caller may have gone; its command is done all the same.
                        let _ = job.reply.send(Ok(Reply { decision, token }));
                    }
                }
                Err(Failure::Refused(error)) if group.len() == 1 => {
                    tracing::error!(error = ?error, lane = %self.name, "run command");
                    refuse(group, &EngineError::Rejected);
                }
                Err(Failure::Refused(error)) => {
                    tracing::warn!(error = ?error, lane = %self.name, commands = group.len(), "split batch");
                    self.counters.splits.fetch_add(1, Ordering::Relaxed);
                    let later = group.split_off(group.len() / 2);
                    groups.push(later);
                    groups.push(group);
                }
                Err(Failure::Blocked(rows)) => {
                    let (stuck, free): (Vec<Job>, Vec<Job>) =
                        group.into_iter().partition(|job| needs_any(&job.submission, &rows));
                    tracing::warn!(rows = ?rows, lane = %self.name, commands = stuck.len(), "rows are held by others");
                    self.counters.blocked.fetch_add(stuck.len() as u64, Ordering::Relaxed);
                    refuse(stuck, &EngineError::Unavailable);
                    groups.push(free);
                }
                Err(Failure::Unavailable) => refuse(group, &EngineError::Unavailable),
                Err(Failure::Unknown) => refuse(group, &EngineError::OutcomeUnknown),
            }
        }
    }

    /// Runs one group until it is committed, refused, or out of time. What has begun to be written may end after the
    /// deadline, by the time that one batch may take.
    async fn decide(&mut self, jobs: &[Job], deadline: Instant) -> Result<(Vec<Decision>, Token), Failure> {
        let write = self.config.batch_timeout;
        let mut pause = PAUSE_MIN;
        for _ in 0..RERUNS_MAX {
            self.connect(deadline).await?;
            let started = Instant::now();
            let left = deadline.saturating_duration_since(started);
            if left.is_zero() {
                return Err(Failure::Unavailable);
            }
            let connection = self.connection.as_ref().expect("connect has just set it");
            let limits = Limits { load: write.min(left), write };
            let is_replaced = |connection: &LaneConnection| self.is_replaced(connection);
            let outcome = Box::pin(run(connection, &self.render, jobs, limits, is_replaced)).await;
            match outcome {
                Outcome::Committed(decisions, commit) => {
                    return Ok(self.committed(decisions, &commit, jobs.len(), started));
                }
                Outcome::NotCommitted(error) => {
                    self.recover(&error).await;
                    if matches!(error, BatchError::Panicked) {
                        self.count_panic("decide batch");
                    }
                    if is_lock_timeout(&error) {
                        let rows = self.find_blocked(jobs).await;
                        if !rows.is_empty() {
                            return Err(Failure::Blocked(rows));
                        }
                    }
                    if !is_passing(&error) {
                        return Err(Failure::Refused(error));
                    }
                    tracing::debug!(error = ?error, lane = %self.name, "rerun batch");
                }
                Outcome::Unknown { decided, mut commit, xid, proof, cause } => {
                    tracing::warn!(%cause, %xid, lane = %self.name, "ask after commit");
                    let fate = self.ask_after(&xid, proof.as_ref(), deadline).await;
                    if fate.is_err() {
                        self.doubted(&commit);
                    }
                    // `None` means that it was rolled back, so that it can be run again.
                    if let Some(token) = fate? {
                        commit.token = token;
                        return Ok(self.committed(decided, &commit, jobs.len(), started));
                    }
                }
            }
            self.counters.reruns.fetch_add(1, Ordering::Relaxed);
            sleep(jittered(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        Err(Failure::Unavailable)
    }

    fn committed(
        &self,
        decisions: Vec<Decision>,
        commit: &Commit,
        size: usize,
        started: Instant,
    ) -> (Vec<Decision>, Token) {
        self.counters.batches.fetch_add(1, Ordering::Relaxed);
        self.counters.commands.fetch_add(size as u64, Ordering::Relaxed);
        // It is committed, whatever happens to those who are told.
        let tell = || {
            self.observer.committed(commit);
            self.observer.batch(size, started.elapsed());
        };
        if catch_unwind(AssertUnwindSafe(tell)).is_err() {
            self.count_panic("tell of commit");
            self.all_doubted();
        }
        (decisions, commit.token)
    }

    /// What was perhaps committed has perhaps changed all of this.
    fn doubted(&self, commit: &Commit) {
        if catch_unwind(AssertUnwindSafe(|| self.observer.doubted(commit))).is_err() {
            self.count_panic("tell of doubt");
            self.all_doubted();
        }
    }

    /// What was perhaps committed is not even known any more.
    fn all_doubted(&self) {
        if catch_unwind(AssertUnwindSafe(|| self.observer.all_doubted())).is_err() {
            self.count_panic("tell that all is doubted");
        }
    }

    /// Whether a primary on a newer timeline was seen: a replaced one goes on committing as long as anybody lets it.
    fn is_replaced(&self, connection: &LaneConnection) -> bool {
        connection.timeline < self.db.timeline()
    }

    /// Makes sure there is a connection to the present primary, trying until the deadline.
    async fn connect(&mut self, deadline: Instant) -> Result<(), Failure> {
        let mut pause = PAUSE_MIN;
        loop {
            let usable = |connection: &LaneConnection| {
                !connection.session.is_closed() && !self.is_replaced(connection)
            };
            if self.connection.as_ref().is_some_and(usable) {
                return Ok(());
            }
            if let Some(lost) = self.connection.take() {
                lost.session.suspect_server();
            }
            match timeout_at(deadline, self.open()).await {
                Ok(Ok(connection)) => self.connection = Some(connection),
                Err(_) => return Err(Failure::Unavailable),
                Ok(Err(error)) => {
                    tracing::warn!(?error, lane = %self.name, "connect lane");
                    if Instant::now() + pause >= deadline {
                        return Err(Failure::Unavailable);
                    }
                    sleep(jittered(pause)).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    async fn open(&self) -> Result<LaneConnection, OpenError> {
        // A server that accepts and then says nothing must not hold the lane.
        let limit = self.config.batch_timeout;
        let lock_wait = self.config.lock_wait();
        let opening = async {
            LaneConnection::open(self.db.session(&self.name).await?, limit, lock_wait, self.config.notices)
                .await
        };
        timeout(limit, opening).await.unwrap_or(Err(OpenError::Timeout(limit)))
    }

    /// Which rows of these jobs somebody else holds; none when that cannot be told.
    async fn find_blocked(&mut self, jobs: &[Job]) -> AHashSet<Uuid> {
        let Some(connection) = &self.connection else { return AHashSet::new() };
        let submissions = jobs.iter().map(|job| &job.submission);
        let asking = timeout(self.config.batch_timeout, blocked(connection.session.client(), submissions));
        match asking.await {
            Ok(Ok(rows)) => rows,
            told => {
                tracing::warn!(?told, lane = %self.name, "ask for rows that others hold");
                self.connection = None;
                AHashSet::new()
            }
        }
    }

    /// Leaves the connection clean after a batch that did not commit, or drops it.
    async fn recover(&mut self, error: &BatchError) {
        let alive = postgres_error(error).is_some_and(|error| {
            error.as_db_error().is_some_and(|db| !matches!(classify_code(db.code()), Reuse::Drop))
        });
        let Some(connection) = self.connection.take() else { return };
        let rolled_back = async { connection.session.client().batch_execute("ROLLBACK").await };
        if alive && matches!(timeout(ROLLBACK_TIMEOUT, rolled_back).await, Ok(Ok(()))) {
            self.connection = Some(connection);
        } else {
            connection.session.suspect_server();
        }
    }

    /// Asks the primary whether the batch was committed: a token past it, or `None` if it was rolled back. The
    /// connection that ran it is given up first.
    async fn ask_after(
        &mut self,
        xid: &str,
        proof: Option<&Proof>,
        deadline: Instant,
    ) -> Result<Option<Token>, Failure> {
        if let Some(lost) = self.connection.take() {
            lost.session.suspect_server();
        }
        let deadline = deadline.max(Instant::now()) + self.config.batch_timeout;
        let mut pause = PAUSE_MIN;
        while Instant::now() < deadline {
            if let Ok(Ok(connection)) = timeout_at(deadline, self.open()).await {
                let asking = async {
                    let fate = proof::ask(connection.session.client(), xid, proof).await?;
                    Ok::<_, OpenError>((fate, connection.session.token().await?))
                };
                match timeout_at(deadline, asking).await {
                    Ok(Ok((Fate::Committed, token))) => {
                        self.connection = Some(connection);
                        return Ok(Some(token));
                    }
                    Ok(Ok((Fate::RolledBack, _))) => {
                        self.connection = Some(connection);
                        return Ok(None);
                    }
                    Ok(Ok((Fate::StillRunning, _))) | Err(_) => {}
                    Ok(Err(error)) => tracing::warn!(?error, lane = %self.name, "ask after commit"),
                }
            }
            sleep(jittered(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        Err(Failure::Unknown)
    }
}

fn refuse(jobs: Vec<Job>, error: &EngineError) {
    for job in jobs {
        let _ = job.reply.send(Err(error.clone()));
    }
}

enum Reuse {
    Keep,
    Drop,
}

fn classify_code(code: &SqlState) -> Reuse {
    // 57P0x: the server ends the session. 25006: this node is no primary any more. 08: the connection itself.
    let ends = code.code().starts_with("57P")
        || code.code().starts_with("08")
        || *code == SqlState::READ_ONLY_SQL_TRANSACTION;
    if ends { Reuse::Drop } else { Reuse::Keep }
}

fn postgres_error(error: &BatchError) -> Option<&tokio_postgres::Error> {
    match error {
        BatchError::Write(error) | BatchError::Load(LoadError::Query(error)) => Some(error),
        BatchError::Load(_) | BatchError::LoadTimeout(_) | BatchError::Panicked => None,
    }
}

fn is_lock_timeout(error: &BatchError) -> bool {
    postgres_error(error).and_then(tokio_postgres::Error::code) == Some(&SqlState::LOCK_NOT_AVAILABLE)
}

/// Whether the same batch can succeed when it is run again.
fn is_passing(error: &BatchError) -> bool {
    let Some(error) = postgres_error(error) else { return matches!(error, BatchError::LoadTimeout(_)) };
    let Some(db) = error.as_db_error() else { return true };
    // Another node claimed the same key, or opened the same external account, between our look and our insert.
    let raced = *db.code() == SqlState::UNIQUE_VIOLATION
        && matches!(
            db.constraint(),
            Some("idempotency_keys_pkey" | "accounts_pkey" | "account_profiles_pkey")
        );
    raced || is_exhausted(db.code()) || !matches!(classify(error), Class::Caller | Class::Never)
}

/// The server is out of disk, memory or time (class 53, `query_canceled`): no command of the batch is at fault, and one at a
/// time they would only be more work for it.
fn is_exhausted(code: &SqlState) -> bool {
    code.code().starts_with("53") || *code == SqlState::QUERY_CANCELED
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..1.5))
}
