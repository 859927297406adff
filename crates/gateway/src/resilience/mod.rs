//! The stack every exchange with a gateway goes through, outermost first: concurrency limit (entered once per request,
//! by whoever makes it), deadline, retry under one budget, breaker, attempt timeout. Knows no wire format. Called by the
//! gateways; the transport lies below.

pub(crate) mod backoff;
pub(crate) mod breaker;
pub(crate) mod budget;
pub(crate) mod class;
pub(crate) mod deadline;
pub(crate) mod failure;
pub(crate) mod limit;
mod settings;

use std::{future::Future, sync::Arc, time::Duration};

use tokio::time::Instant;

use self::{
    backoff::Backoff,
    breaker::{Breaker, Verdict},
    budget::Budget,
    class::Written,
    deadline::Deadline,
    failure::{AttemptFailure, CallFailure},
    limit::Limit,
};
pub use self::{
    class::OperationClass,
    limit::{Overloaded, Patience, Slot},
    settings::ResilienceSettings,
};
use crate::{
    observer::{AttemptReport, BreakerChange, BreakerState, GatewayObserver},
    outcome::NotSentReason,
    stats::{Counters, Stats},
};

/// Look-ups in flight at once, beside the requests: asking after what is not known must not wait behind new payments.
const LOOKUPS_MAX: usize = 16;

/// One gateway's stack. Breakers are kept per kind of operation: failing searches must not stop charges.
#[derive(Debug)]
pub(crate) struct Stack {
    gateway: String,
    settings: ResilienceSettings,
    limit: Limit,
    lookups: Limit,
    budget: Budget,
    reads: Arc<Breaker>,
    writes: Arc<Breaker>,
    counters: Counters,
    observer: Arc<dyn GatewayObserver>,
}

impl Stack {
    pub(crate) fn new(
        gateway: &str,
        settings: ResilienceSettings,
        observer: Arc<dyn GatewayObserver>,
    ) -> Self {
        let now = Instant::now();
        Self {
            gateway: gateway.to_owned(),
            limit: Limit::new(settings.in_flight_max, settings.waiting_max, settings.wait_max),
            lookups: Limit::new(LOOKUPS_MAX, settings.waiting_max, settings.wait_max),
            budget: Budget::new(now),
            reads: Arc::new(Breaker::new(now)),
            writes: Arc::new(Breaker::new(now)),
            counters: Counters::default(),
            observer,
            settings,
        }
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(crate) fn stats(&self) -> Stats {
        self.counters.snapshot(self.limit.in_flight(), self.reads.state(), self.writes.state())
    }

    /// A place for one request and all of its exchanges.
    pub(crate) async fn reserve(&self, patience: Patience) -> Result<Slot, Overloaded> {
        self.limit.reserve(patience).await
    }

    /// A place for one look-up and all of its exchanges.
    pub(crate) async fn reserve_lookup(&self) -> Result<Slot, Overloaded> {
        self.lookups.reserve(Patience::Brief).await
    }

    /// Runs `attempt` once or, where `class` allows it, again, in a place taken before. The attempt is given its own time limit, must end
    /// within it, and must tell honestly whether bytes may have been written.
    pub(crate) async fn run<T, Attempt, Pending>(
        &self,
        class: &OperationClass,
        deadline: Deadline,
        mut attempt: Attempt,
    ) -> Result<Completed<T>, CallFailure>
    where
        Attempt: FnMut(Duration) -> Pending,
        Pending: Future<Output = Result<T, AttemptFailure>>,
    {
        let backoff = Backoff::new(self.settings.backoff_base, self.settings.backoff_max);
        self.budget.deposit(Instant::now());
        // Once an attempt may have reached the gateway, no later attempt can make the call "not sent".
        let mut unresolved: Option<AttemptFailure> = None;
        let mut number = 1;
        loop {
            let failure = match self.attempt_once(class, deadline, number, &mut attempt).await {
                Ok(value) => {
                    let written_before = unresolved.map_or(Written::Nothing, |failure| failure.written);
                    return Ok(Completed { value, written_before });
                }
                Err(Stop::Refused(refusal)) => return Err(CallFailure::prefer(unresolved, refusal)),
                Err(Stop::Failed(failure)) => failure,
            };
            let pause = failure.pause.unwrap_or_default().max(backoff.delay(number, rand::random()));
            let resend = number < self.settings.attempts_max
                && class.may_resend(failure.written)
                && pause < deadline.remaining()
                && self.budget.withdraw(Instant::now());
            if !resend {
                return Err(CallFailure::last(unresolved, failure));
            }
            if failure.written == Written::Maybe {
                unresolved = Some(failure);
            }
            self.counters.retry();
            tokio::time::sleep(pause).await;
            number += 1;
        }
    }

    async fn attempt_once<T, Attempt, Pending>(
        &self,
        class: &OperationClass,
        deadline: Deadline,
        number: u32,
        attempt: &mut Attempt,
    ) -> Result<T, Stop>
    where
        Attempt: FnMut(Duration) -> Pending,
        Pending: Future<Output = Result<T, AttemptFailure>>,
    {
        let remaining = deadline.remaining();
        if remaining.is_zero() {
            return Err(Stop::Refused(CallFailure::not_sent(NotSentReason::DeadlineSpent, None)));
        }
        let breaker = if class.is_read() { &self.reads } else { &self.writes };
        let permit = breaker.admit(Instant::now()).map_err(|retry_after| {
            Stop::Refused(CallFailure::not_sent(NotSentReason::BreakerOpen, Some(retry_after)))
        })?;
        self.counters.attempt();
        let started = Instant::now();
        let result = attempt(remaining.min(self.settings.attempt_timeout)).await;
        let elapsed = started.elapsed();
        let verdict = if result.is_ok() { Verdict::Healthy } else { Verdict::Failing };
        if let Some(state) = permit.record(verdict, Instant::now(), rand::random()) {
            self.report_breaker(class, state);
        }
        let failure = result.as_ref().err().map(AttemptFailure::label);
        tracing::debug!(gateway = %self.gateway, class = class.label(), number, elapsed_us = elapsed.as_micros(), failure, "gateway attempt");
        self.observer.attempt_finished(&AttemptReport {
            gateway: &self.gateway,
            class,
            number,
            elapsed,
            failure,
        });
        result.map_err(Stop::Failed)
    }

    fn report_breaker(&self, class: &OperationClass, state: BreakerState) {
        tracing::warn!(gateway = %self.gateway, class = class.label(), ?state, "gateway breaker changed");
        self.observer.breaker_changed(&BreakerChange { gateway: &self.gateway, class, state });
    }
}

/// The reply of the attempt that succeeded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Completed<T> {
    pub(crate) value: T,
    /// Whether an earlier attempt of the call may have been written.
    pub(crate) written_before: Written,
}

/// Why one attempt gave no value.
enum Stop {
    /// It was not begun.
    Refused(CallFailure),
    /// It was, and failed.
    Failed(AttemptFailure),
}

#[cfg(test)]
mod tests;
