//! The engine's front: bounded queues, one per lane, and the handle that callers submit to. Refuses at once what does
//! not fit; never blocks a caller on a full queue. Dropping a `submit` future loses the answer, not the command.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use paystrata_db::{Db, Token};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::command::{Command, EngineError, Reply, Submission};
use super::lane::Lane;
use super::model::{AccountRecord, PaymentRecord};
use super::notices::Notices;

/// How the engine is sized.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Connections that commit batches. More than two or three add little: fsync is shared anyway.
    pub lanes: usize,
    /// Commands in one batch at most; beyond this the tail grows faster than the rate.
    pub batch_max: usize,
    /// Accounts that one batch locks at most. Batches of two lanes that lock many meet on some account almost always, and
    /// then wait for each other: the rate falls, and a backlog that makes such batches never drains.
    pub batch_accounts_max: usize,
    /// Commands waiting over all lanes at most; over it a caller is refused at once.
    pub queue_max: usize,
    /// A command that waited longer than this is refused unexecuted.
    pub queue_timeout: Duration,
    /// One batch may take this long on a healthy database before its connection is given up.
    pub batch_timeout: Duration,
    /// Whether each commit leaves a row that says what it changed, for nodes that share a cache.
    pub notices: Notices,
}

impl EngineConfig {
    /// How long a batch waits for one row that somebody else holds. A quarter of what a command may wait: the batch
    /// that meets such a row, and the one behind it, are then still decided in time.
    pub(super) fn lock_wait(&self) -> Duration {
        self.queue_timeout.min(self.batch_timeout) / 4
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            lanes: 2,
            batch_max: 1_000,
            batch_accounts_max: 256,
            queue_max: 8_192,
            queue_timeout: Duration::from_secs(5),
            batch_timeout: Duration::from_secs(10),
            notices: Notices::Kept,
        }
    }
}

/// How answers are written; given by whoever owns the wire format, so that the bytes which are kept under a key are
/// the bytes which were sent.
#[derive(Clone, Copy, Debug)]
pub struct Render {
    /// Body for a payment.
    pub payment: fn(&PaymentRecord) -> Bytes,
    /// Body for an account.
    pub account: fn(&AccountRecord) -> Bytes,
}

/// What one commit changed.
#[derive(Debug)]
pub struct Commit {
    /// Accounts whose balances changed.
    pub accounts: Vec<Uuid>,
    /// Owner and id of payments that changed; new ones are not listed, nobody can have read them before.
    pub payments: Vec<(Uuid, Uuid)>,
    /// The notice that the commit left, to be deleted once every node has been told.
    pub notice: Option<Uuid>,
    /// Sees this commit.
    pub token: Token,
}

/// Is told what the engine does. Methods run on the lane between commit and answers: they must not block.
pub trait EngineObserver: Send + Sync + Debug {
    /// A batch was committed; its callers have not been answered yet.
    fn committed(&self, _commit: &Commit) {}
    /// It could not be learned whether a batch was committed, and it may still be; its token says nothing. Its callers
    /// have not been told yet.
    fn doubted(&self, _commit: &Commit) {}
    /// As [`Self::doubted`], where a panic took away what the batch changed: it may be anything.
    fn all_doubted(&self) {}
    /// A batch of `size` commands took `took` from first statement to commit.
    fn batch(&self, _size: usize, _took: Duration) {}
    /// A panic in a lane was caught; its batch was answered and the lane goes on.
    fn panicked(&self) {}
}

/// Counts since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Batches committed.
    pub batches: u64,
    /// Commands decided in them.
    pub commands: u64,
    /// Batches run again after a conflict or a broken connection.
    pub reruns: u64,
    /// Batches split because the database refused a command in them.
    pub splits: u64,
    /// Commands refused because the queue was full or they waited too long.
    pub overloads: u64,
    /// Commands refused because somebody outside the engine held a row they need.
    pub blocked: u64,
    /// Panics caught.
    pub panics: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) batches: AtomicU64,
    pub(super) commands: AtomicU64,
    pub(super) reruns: AtomicU64,
    pub(super) splits: AtomicU64,
    pub(super) overloads: AtomicU64,
    pub(super) blocked: AtomicU64,
    pub(super) panics: AtomicU64,
}

/// One command on its way.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) submission: Submission,
    pub(super) enqueued: Instant,
    pub(super) reply: oneshot::Sender<Result<Reply, EngineError>>,
}

/// Handle on the engine; clones share it.
#[derive(Clone, Debug)]
pub struct Engine {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    lanes: Vec<mpsc::Sender<Job>>,
    draining: CancellationToken,
    counters: Arc<Counters>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    /// Starts the lanes; each connects when its first batch arrives, and again whenever its connection is lost.
    #[must_use]
    pub fn start(db: &Db, config: &EngineConfig, render: Render, observer: &Arc<dyn EngineObserver>) -> Self {
        let draining = CancellationToken::new();
        let counters = Arc::new(Counters::default());
        let lanes_count = config.lanes.max(1);
        let (mut lanes, mut tasks) = (Vec::new(), Vec::new());
        for index in 0..lanes_count {
            let (sender, receiver) = mpsc::channel((config.queue_max / lanes_count).max(1));
            let lane = Lane::new(
                index,
                db.clone(),
                config.clone(),
                render,
                Arc::clone(observer),
                Arc::clone(&counters),
            );
            tasks.push(tokio::spawn(lane.run(receiver, draining.clone())));
            lanes.push(sender);
        }
        Self { shared: Arc::new(Shared { lanes, draining, counters, tasks: Mutex::new(tasks) }) }
    }

    /// Decides one command durably. Cost: one place in a batch, about two batch times at most under load.
    ///
    /// # Errors
    /// See [`EngineError`]: all but `OutcomeUnknown` mean that nothing was done.
    pub async fn submit(&self, submission: Submission) -> Result<Reply, EngineError> {
        // A lane answers whatever it takes, unless it breaks in the middle: then nobody knows how far it came.
        self.enqueue(submission)?.await.unwrap_or(Err(EngineError::OutcomeUnknown))
    }

    /// Queues one command without waiting for its decision, so that many can be queued in order.
    ///
    /// # Errors
    /// `Overloaded` or `ShuttingDown`; nothing was done.
    pub fn enqueue(
        &self,
        submission: Submission,
    ) -> Result<oneshot::Receiver<Result<Reply, EngineError>>, EngineError> {
        if self.shared.draining.is_cancelled() {
            return Err(EngineError::ShuttingDown);
        }
        let lane = &self.shared.lanes[lane_of(&submission.command, self.shared.lanes.len())];
        let (reply, answer) = oneshot::channel();
        let job = Job { submission, enqueued: Instant::now(), reply };
        match lane.try_send(job) {
            Ok(()) => Ok(answer),
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.shared.counters.overloads.fetch_add(1, Ordering::Relaxed);
                Err(EngineError::Overloaded)
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Err(EngineError::ShuttingDown),
        }
    }

    /// Counts since start.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        let counters = &self.shared.counters;
        EngineStats {
            batches: counters.batches.load(Ordering::Relaxed),
            commands: counters.commands.load(Ordering::Relaxed),
            reruns: counters.reruns.load(Ordering::Relaxed),
            splits: counters.splits.load(Ordering::Relaxed),
            overloads: counters.overloads.load(Ordering::Relaxed),
            blocked: counters.blocked.load(Ordering::Relaxed),
            panics: counters.panics.load(Ordering::Relaxed),
        }
    }

    /// Of each lane, whether it takes commands.
    #[must_use]
    pub fn lanes_running(&self) -> Vec<bool> {
        self.shared.lanes.iter().map(|lane| !lane.is_closed()).collect()
    }

    /// Takes no more commands, decides those that wait, and ends the lanes. Dropped before its end, it cuts the lanes off;
    /// what they were committing then is not known here, and their keys lead to it.
    pub async fn close(&self) {
        self.shared.draining.cancel();
        let tasks = std::mem::take(&mut *self.shared.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let tasks: Vec<_> = tasks.into_iter().map(AbortOnDropHandle::new).collect();
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "await engine lane");
            }
        }
    }
}

/// Commands on one account mostly meet in one lane, where they cost no lock wait; two lanes that meet on an account
/// are still correct.
fn lane_of(command: &Command, lanes: usize) -> usize {
    let id = match command {
        Command::OpenAccount(open) => open.id,
        Command::CreatePayment(create) => create.from.unwrap_or(create.to),
        Command::CreateAll(group) => {
            group.members.first().map_or(Uuid::nil(), |(_, member)| member.from.unwrap_or(member.to))
        }
        Command::Capture(capture) => capture.payment.from,
        Command::Void(void) => void.payment.from,
        Command::Refund(refund) => refund.payment.to,
        Command::Settle(settlement) => settlement.payment.from,
        Command::Pin(pin) => pin.resource_id,
    };
    // The last byte of a UUIDv7 is random.
    usize::from(id.as_bytes()[15]) % lanes
}
