//! What a gateway tells while it works, for whoever measures it.
//! Carries names, numbers and durations only: no reference, amount or card ever.

use std::{fmt::Debug, time::Duration};

use crate::resilience::OperationClass;

/// The state of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls pass.
    Closed,
    /// Calls are refused.
    Open,
    /// A few probes pass.
    HalfOpen,
}

/// One exchange with a gateway.
#[derive(Debug)]
pub struct AttemptReport<'a> {
    /// The gateway's configured name.
    pub gateway: &'a str,
    /// The class of the operation.
    pub class: &'a OperationClass,
    /// From 1; above 1 it is a retry.
    pub number: u32,
    /// From the first connect to the last byte.
    pub elapsed: Duration,
    /// The cause, as a label; `None` when a reply was understood, a decline included.
    pub failure: Option<&'static str>,
}

/// A breaker that changed.
#[derive(Debug)]
pub struct BreakerChange<'a> {
    /// The gateway's configured name.
    pub gateway: &'a str,
    /// The class of the operation that changed it; reads and writes have a breaker each.
    pub class: &'a OperationClass,
    /// The new state.
    pub state: BreakerState,
}

/// Told of what happens. Called inline: must not block. Every method defaults to nothing.
pub trait GatewayObserver: Debug + Send + Sync {
    /// An exchange ended.
    fn attempt_finished(&self, _report: &AttemptReport<'_>) {}

    /// A breaker opened or closed.
    fn breaker_changed(&self, _change: &BreakerChange<'_>) {}
}

/// Observes nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl GatewayObserver for NoObserver {}
