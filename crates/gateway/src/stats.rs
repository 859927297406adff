//! Plain counters of one gateway since its start.
//! A snapshot is not one instant: each figure is read by itself.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{observer::BreakerState, outcome::Outcome};

/// A snapshot of a gateway's counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Requests that ended approved.
    pub approved: u64,
    /// Requests that ended declined.
    pub declined: u64,
    /// Requests that ended held.
    pub held: u64,
    /// Requests that were not sent.
    pub not_sent: u64,
    /// Requests whose outcome is not known.
    pub unknown: u64,
    /// Exchanges, lookups included.
    pub attempts: u64,
    /// Exchanges that were retries.
    pub retries: u64,
    /// Calls in flight now.
    pub in_flight: usize,
    /// The breaker of lookups.
    pub read_breaker: BreakerState,
    /// The breaker of requests that change something.
    pub write_breaker: BreakerState,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    approved: AtomicU64,
    declined: AtomicU64,
    held: AtomicU64,
    not_sent: AtomicU64,
    unknown: AtomicU64,
    attempts: AtomicU64,
    retries: AtomicU64,
}

impl Counters {
    pub(crate) fn attempt(&self) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn outcome(&self, outcome: &Outcome) {
        let counter = match outcome {
            Outcome::Approved { .. } => &self.approved,
            Outcome::Declined { .. } => &self.declined,
            Outcome::Held { .. } => &self.held,
            Outcome::NotSent { .. } => &self.not_sent,
            Outcome::Unknown { .. } => &self.unknown,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(
        &self,
        in_flight: usize,
        read_breaker: BreakerState,
        write_breaker: BreakerState,
    ) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            approved: read(&self.approved),
            declined: read(&self.declined),
            held: read(&self.held),
            not_sent: read(&self.not_sent),
            unknown: read(&self.unknown),
            attempts: read(&self.attempts),
            retries: read(&self.retries),
            in_flight,
            read_breaker,
            write_breaker,
        }
    }
}
