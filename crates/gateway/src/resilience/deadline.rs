//! One deadline for a whole call: every layer and every step subtracts from it, none extends it.
//! Starts no timer by itself.

use std::time::Duration;

use tokio::time::Instant;

/// The longest deadline that is honoured; a longer one is cut to it, so that no call is unbounded.
const DEADLINE_MAX: Duration = Duration::from_secs(120);

/// The moment a call must have ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    at: Instant,
}

impl Deadline {
    pub(crate) fn after(duration: Duration) -> Self {
        Self { at: Instant::now() + duration.min(DEADLINE_MAX) }
    }

    /// Zero once it has passed.
    pub(crate) fn remaining(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }
}
