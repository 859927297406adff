//! The bounds of the stack, one set per gateway.
//! Holds figures only; each says why it has its default.

use std::time::Duration;

/// Bounds of one gateway's stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResilienceSettings {
    /// The longest one attempt may take. Processors answer within 10 s or not at all.
    pub attempt_timeout: Duration,
    /// Attempts of one call, the first included. Three covers a lost connection and a flaky reply.
    pub attempts_max: u32,
    /// Calls in flight at once: 64 calls of 500 ms are 128 payments a second, more than an account is granted.
    pub in_flight_max: usize,
    /// Calls that may wait for a free slot; more are refused at once.
    pub waiting_max: usize,
    /// The longest wait for a slot: a burst passes, an overload is refused.
    pub wait_max: Duration,
    /// The first pause before a retry, before jitter.
    pub backoff_base: Duration,
    /// The longest pause before a retry.
    pub backoff_max: Duration,
}

impl Default for ResilienceSettings {
    fn default() -> Self {
        Self {
            attempt_timeout: Duration::from_secs(10),
            attempts_max: 3,
            in_flight_max: 64,
            waiting_max: 64,
            wait_max: Duration::from_millis(100),
            backoff_base: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
        }
    }
}
