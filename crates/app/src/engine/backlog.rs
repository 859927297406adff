//! What a lane has taken from its queue and not yet worked off, in arrival order, and how much of it makes one batch.
//! Reorders nothing. Called by the lane.

use ahash::AHashSet;
use tokio::sync::mpsc;

use super::load::Needs;
use super::queue::{EngineConfig, Job};

/// Never holds more than one batch at its largest.
#[derive(Debug)]
pub(super) struct Backlog {
    jobs: Vec<Job>,
    commands_max: usize,
    accounts_max: usize,
}

impl Backlog {
    pub(super) fn new(config: &EngineConfig) -> Self {
        let commands_max = config.batch_max;
        Self { jobs: Vec::with_capacity(commands_max), commands_max, accounts_max: config.batch_accounts_max }
    }

    /// Waits for a command if there is none, and takes what else is there. False once the queue is closed and all is
    /// worked off. Dropped while it waits, it has taken nothing.
    pub(super) async fn fill(&mut self, queue: &mut mpsc::Receiver<Job>) -> bool {
        if self.jobs.is_empty() {
            return queue.recv_many(&mut self.jobs, self.commands_max).await > 0;
        }
        while self.jobs.len() < self.commands_max {
            let Ok(job) = queue.try_recv() else { break };
            self.jobs.push(job);
        }
        true
    }

    /// The commands of the next batch: at least one, if there is one.
    pub(super) fn next_batch(&mut self) -> Vec<Job> {
        let mut accounts = AHashSet::new();
        let fits = |job: &&Job| {
            accounts.extend(Needs::of(std::iter::once(&job.submission)).accounts);
            accounts.len() <= self.accounts_max
        };
        let fitting = self.jobs.iter().take_while(fits).count();
        let end = fitting.max(1).min(self.jobs.len());
        let later = self.jobs.split_off(end);
        std::mem::replace(&mut self.jobs, later)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::sync::oneshot;
    use tokio::time::Instant;
    use uuid::Uuid;

    use super::super::command::{Command, CreatePayment, FraudDecision, Pin, Submission, Verdict};
    use super::super::model::{CaptureMode, Rail};
    use super::*;
    use crate::money::Amount;

    fn job(command: Command) -> Job {
        let submission = Submission { claim: None, command };
        Job { submission, enqueued: Instant::now(), reply: oneshot::channel().0 }
    }

    fn payment(from: u128, to: u128) -> Job {
        job(Command::CreatePayment(Box::new(CreatePayment {
            id: Uuid::now_v7(),
            merchant_id: Uuid::nil(),
            from: Some(Uuid::from_u128(from)),
            to: Uuid::from_u128(to),
            amount: Amount::new(1).unwrap(),
            currency: "USD".parse().unwrap(),
            rail: Rail::Book,
            capture: CaptureMode::Automatic,
            fraud: FraudDecision { verdict: Verdict::Allow, score: 0, reasons: Vec::new() },
            operation: None,
            merchant_reference: None,
            card_last_four: None,
            metadata: None,
        })))
    }

    /// Needs no account.
    fn pin() -> Job {
        job(Command::Pin(Pin { resource_id: Uuid::nil(), status_code: 200, body: Bytes::new() }))
    }

    /// Sizes of the batches that jobs waiting at the same time are made into.
    async fn check(jobs: Vec<Job>, expected: &[usize]) {
        let config = EngineConfig { batch_max: 5, batch_accounts_max: 4, ..EngineConfig::default() };
        let (sender, mut queue) = mpsc::channel(100);
        let order: Vec<_> = jobs.iter().map(|job| job.enqueued).collect();
        jobs.into_iter().for_each(|job| sender.try_send(job).unwrap());
        drop(sender);
        let (mut backlog, mut sizes, mut taken) = (Backlog::new(&config), Vec::new(), Vec::new());
        while backlog.fill(&mut queue).await {
            assert!(backlog.jobs.len() <= config.batch_max);
            let batch = backlog.next_batch();
            sizes.push(batch.len());
            taken.extend(batch.into_iter().map(|job| job.enqueued));
        }
        assert_eq!(sizes, expected);
        assert_eq!(taken, order);
    }

    #[tokio::test]
    async fn batch_ends_before_the_command_with_one_account_too_many() {
        check((0..7).map(|pair| payment(2 * pair, 2 * pair + 1)).collect(), &[2, 2, 2, 1]).await;
    }

    #[tokio::test]
    async fn commands_on_the_same_accounts_fill_a_batch_to_its_number_of_commands() {
        check((0..12).map(|_| payment(1, 2)).collect(), &[5, 5, 2]).await;
        check((0..6).map(|_| pin()).collect(), &[5, 1]).await;
    }

    #[tokio::test]
    async fn command_that_needs_more_accounts_than_a_batch_may_lock_stands_alone() {
        let config = EngineConfig { batch_accounts_max: 1, ..EngineConfig::default() };
        let (sender, mut queue) = mpsc::channel(2);
        (0..2).for_each(|_| sender.try_send(payment(1, 2)).unwrap());
        let mut backlog = Backlog::new(&config);
        assert!(backlog.fill(&mut queue).await);
        assert_eq!((backlog.next_batch().len(), backlog.next_batch().len()), (1, 1));
    }
}
