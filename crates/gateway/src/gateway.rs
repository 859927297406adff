//! The one interface of all gateways.
//! Says nothing of how a gateway is reached; the app holds `Arc<dyn Gateway>` and chooses at run time.

use std::{fmt::Debug, time::Duration};

use async_trait::async_trait;

use crate::{
    outcome::{LookupOutcome, NotSentReason, Outcome},
    request::{Capture, Charge, Lookup, Refund, Request, Void},
    resilience::{Overloaded, Patience, Slot},
    stats::Stats,
};

/// What a gateway can do, from which a resolver picks its strategy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// The gateway deduplicates by our key and replays its first answer.
    pub native_idempotency: bool,
    /// The gateway finds an attempt by our reference in one question (otherwise lists are searched).
    pub lookup_by_reference: bool,
    /// A captured charge can be voided until it settles.
    pub void_after_capture: bool,
    /// A capture may be for less than the authorization.
    pub partial_capture: bool,
    /// How long after the first send an identical charge can be sent again with at most one effect.
    pub resend_window: Duration,
}

/// A payment gateway. Futures may be dropped at any await; the outcome is then not known.
#[async_trait]
pub trait Gateway: Send + Sync + Debug {
    /// The configured name, for logs and labels.
    fn name(&self) -> &str;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Counters since the start.
    fn stats(&self) -> Stats;

    /// Reserves a place for one request, so that whoever commits to making it knows that it will be made.
    ///
    /// # Errors
    /// No place came free in time.
    async fn reserve(&self, patience: Patience) -> Result<Slot, Overloaded>;

    /// Makes one request within its deadline, in a place that this gateway gave.
    async fn execute_in(&self, slot: Slot, request: Request) -> Outcome;

    /// Makes one request within its deadline; it is not sent when no place for it comes free shortly.
    async fn execute(&self, request: Request) -> Outcome {
        match self.reserve(Patience::Brief).await {
            Ok(slot) => self.execute_in(slot, request).await,
            Err(Overloaded) => {
                let reason = NotSentReason::ConcurrencyLimit;
                Outcome::NotSent { reason, retry_after: None }.after(request.attempt())
            }
        }
    }

    /// Asks what became of an attempt. Changes nothing.
    async fn lookup(&self, query: Lookup) -> LookupOutcome;

    /// Charges at once.
    async fn purchase(&self, charge: Charge) -> Outcome {
        self.execute(Request::Purchase(charge)).await
    }

    /// Holds the money.
    async fn authorize(&self, charge: Charge) -> Outcome {
        self.execute(Request::Authorize(charge)).await
    }

    /// Takes held money.
    async fn capture(&self, capture: Capture) -> Outcome {
        self.execute(Request::Capture(capture)).await
    }

    /// Undoes before settlement.
    async fn void(&self, void: Void) -> Outcome {
        self.execute(Request::Void(void)).await
    }

    /// Gives back.
    async fn refund(&self, refund: Refund) -> Outcome {
        self.execute(Request::Refund(refund)).await
    }
}
