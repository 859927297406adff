//! A running measurement. Records exactly once: by outcome, or as cancelled when dropped, or as an error when
//! dropped by a panic. Reads the clock when it starts and when it ends, and holds nothing else.

use std::time::Instant;

use crate::operation::Operation;
use crate::outcome::Outcome;

/// A running measurement; see [`Operation::start`].
#[derive(Debug)]
#[must_use = "a timer that is dropped at once records a cancellation"]
pub struct Timer<'operation> {
    operation: Handle<'operation>,
    started: Instant,
    outcome: Option<Outcome>,
}

#[derive(Debug)]
enum Handle<'operation> {
    Borrowed(&'operation Operation),
    Owned(Operation),
}

impl<'operation> Timer<'operation> {
    pub(crate) fn borrowed(operation: &'operation Operation) -> Self {
        Self { operation: Handle::Borrowed(operation), started: Instant::now(), outcome: None }
    }

    /// Records a success.
    pub fn succeed(mut self) {
        self.outcome = Some(Outcome::Success);
    }

    /// Records an error.
    pub fn fail(mut self) {
        self.outcome = Some(Outcome::Error);
    }
}

impl Timer<'static> {
    pub(crate) fn owned(operation: Operation) -> Self {
        Self { operation: Handle::Owned(operation), started: Instant::now(), outcome: None }
    }
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        let elapsed = self.started.elapsed();
        let outcome = self
            .outcome
            .unwrap_or_else(|| if std::thread::panicking() { Outcome::Error } else { Outcome::Cancelled });
        match &self.operation {
            Handle::Borrowed(operation) => operation.record(elapsed, outcome),
            Handle::Owned(operation) => operation.record(elapsed, outcome),
        }
    }
}
