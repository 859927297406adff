//! Work of many callers that travels as one: [`Loader`] for point reads, [`Batcher`] for writes. What waits while a batch
//! is under way makes the next one; nobody waits for a timer. It knows neither SQL nor rows beyond what its owner hands it.
//!
//! ```text
//! caller ──> queue ──> lane (a task, while there is work) ──> one statement or one transaction ──> each caller
//! ```

mod batcher;
mod isolate;
mod loader;
mod queue;

pub use batcher::{BatchError, Batcher, Items};
pub(crate) use isolate::may_be_of_one_row;
pub use loader::{LoadError, Loader};

use crate::error::Error;

/// How much is taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoalesceOptions {
    /// Callers in one batch at most; at least 1. With a hundred, a batch costs little more per caller than with a thousand.
    pub batch_max: usize,
    /// Batches under way at once; at least 1. Each takes a pooled connection while it lasts. With one, batches are
    /// processed in the order in which their callers came.
    pub lanes_max: usize,
    /// Callers that wait for a batch at most; whoever comes then is refused at once.
    pub waiting_max: usize,
}

impl Default for CoalesceOptions {
    /// 512 callers a batch, two batches at once, 16,384 callers waiting.
    fn default() -> Self {
        Self { batch_max: 512, lanes_max: 2, waiting_max: 16_384 }
    }
}

impl CoalesceOptions {
    fn check(self) -> Result<Self, Error> {
        if self.batch_max == 0 || self.lanes_max == 0 || self.waiting_max == 0 {
            return Err(Error::Settings {
                problem: "batch_max, lanes_max and waiting_max must be at least 1",
            });
        }
        Ok(self)
    }
}
