//! What waits, and the lanes that work it off. A lane is a task that takes batches until nothing waits; the caller who
//! finds one missing starts it, after everybody who is ready to run has had a turn. Knows nothing of the work itself.

use std::collections::VecDeque;
use std::mem;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::task::yield_now;
use tracing::error;

use super::CoalesceOptions;

/// Does the work of a queue.
pub(super) trait Worker: Send + Sync + 'static {
    /// One caller's part.
    type Work: Send + 'static;

    fn queue(&self) -> &Queue<Self::Work>;

    /// Does a batch and answers everybody in it. Never with an empty batch.
    fn run(self: Arc<Self>, batch: Vec<Self::Work>) -> BoxFuture<'static, ()>;
}

/// Waiting work and the lanes that take it.
#[derive(Debug)]
pub(super) struct Queue<T> {
    options: CoalesceOptions,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<T>,
    lanes: usize,
}

/// As much waits as may; nothing was added.
#[derive(Debug)]
pub(super) struct Full;

impl<T> Queue<T> {
    pub(super) fn new(options: CoalesceOptions) -> Self {
        Self { options, state: Mutex::new(State { waiting: VecDeque::new(), lanes: 0 }) }
    }

    /// Adds all of it or nothing. Tells whether the caller must start a lane.
    fn push(&self, work: impl ExactSizeIterator<Item = T>) -> Result<bool, Full> {
        let mut state = self.lock();
        if work.len() > self.options.waiting_max - state.waiting.len() {
            return Err(Full);
        }
        state.waiting.extend(work);
        let is_wanted = state.lanes < self.options.lanes_max;
        state.lanes += usize::from(is_wanted);
        Ok(is_wanted)
    }

    /// The next batch in the order of arrival; without one the lane has ended.
    fn take(&self) -> Option<Vec<T>> {
        let mut state = self.lock();
        if state.waiting.is_empty() {
            state.lanes -= 1;
            return None;
        }
        let count = state.waiting.len().min(self.options.batch_max);
        Some(state.waiting.drain(..count).collect())
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds work and sees to it that a lane takes it, also when this future is dropped.
pub(super) async fn submit<W: Worker>(
    worker: &Arc<W>,
    work: impl ExactSizeIterator<Item = W::Work>,
) -> Result<(), Full> {
    if worker.queue().push(work)? {
        let start = Start {
            lane: Some(Lane { worker: Arc::clone(worker), ended: false }),
            runtime: Handle::current(),
        };
        // Callers of the same turn join the first batch.
        yield_now().await;
        drop(start);
    }
    Ok(())
}

/// Starts its lane when dropped.
struct Start<W: Worker> {
    lane: Option<Lane<W>>,
    runtime: Handle,
}

impl<W: Worker> Drop for Start<W> {
    fn drop(&mut self) {
        if let Some(lane) = self.lane.take() {
            // It ends by itself when nothing waits.
            drop(self.runtime.spawn(lane.run()));
        }
    }
}

/// One of the lanes that the queue counts.
struct Lane<W: Worker> {
    worker: Arc<W>,
    ended: bool,
}

impl<W: Worker> Lane<W> {
    async fn run(mut self) {
        while let Some(batch) = self.worker.queue().take() {
            let work = AssertUnwindSafe(Arc::clone(&self.worker).run(batch));
            if work.catch_unwind().await.is_err() {
                // Its callers are told by the loss of their senders.
                error!("a batch ended in a panic");
            }
            // Those just answered may have more: they are to be in the next batch.
            yield_now().await;
        }
        self.ended = true;
    }
}

impl<W: Worker> Drop for Lane<W> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // Its runtime ends: what only this lane would have taken is given up, which its callers are told.
        let mut state = self.worker.queue().lock();
        state.lanes -= 1;
        let given_up = if state.lanes == 0 { mem::take(&mut state.waiting) } else { VecDeque::new() };
        drop(state);
        drop(given_up);
    }
}
