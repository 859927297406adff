//! Single commands of many callers, sent together: while one pipeline is on its way the next collects,
//! and no command ever waits for company. One wake-up, one write and one read serve all of it.
//! Refuses to hold a caller for longer than the connection lives: closing answers everyone.
//! Driven by `link`; called by `exec`.

use std::{mem, sync::Mutex};

use redis::{
    Cmd, Pipeline, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};
use tokio::sync::{Notify, oneshot};

use super::{failure::Failure, lock};
use crate::tier::TierError;

type Answer = Result<Value, TierError>;

struct Waiting {
    command: Cmd,
    answer: oneshot::Sender<Answer>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    is_closed: bool,
}

/// The commands that wait for the next pipeline. Its bound is that of `Link::turns`.
#[derive(Default)]
pub(super) struct Lane {
    queue: Mutex<Queue>,
    filled: Notify,
}

impl Lane {
    /// Sends a command with the next pipeline.
    pub(super) async fn call(&self, command: Cmd) -> Answer {
        let (answer, answered) = oneshot::channel();
        let is_first = {
            let mut queue = lock(&self.queue);
            if queue.is_closed {
                return Err(TierError::Down);
            }
            queue.waiting.push(Waiting { command, answer });
            queue.waiting.len() == 1
        };
        // Whoever was told of the first takes the others with it.
        if is_first {
            self.filled.notify_one();
        }
        // Dropped unanswered if the connection was given up while the pipeline was on its way.
        answered.await.unwrap_or(Err(TierError::Failed))
    }

    /// Refuses what comes, and answers all who wait.
    pub(super) fn close(&self) {
        let waiting = {
            let mut queue = lock(&self.queue);
            queue.is_closed = true;
            mem::take(&mut queue.waiting)
        };
        for Waiting { answer, .. } in waiting {
            let _gone = answer.send(Err(TierError::Down));
        }
    }

    /// Sends pipelines one after another, and tells `judge` how each ended. Never returns.
    pub(super) async fn drive(
        &self,
        mut connection: MultiplexedConnection,
        judge: impl Fn(Result<(), &Failure>) + Sync,
    ) {
        loop {
            let waiting = mem::take(&mut lock(&self.queue).waiting);
            if waiting.is_empty() {
                self.filled.notified().await;
                continue;
            }
            let mut pipeline = Pipeline::with_capacity(waiting.len());
            let mut callers = Vec::with_capacity(waiting.len());
            // Nothing is claimed for a caller who has gone.
            for Waiting { command, answer } in
                waiting.into_iter().filter(|waiting| !waiting.answer.is_closed())
            {
                pipeline.add_command(command);
                callers.push(answer);
            }
            if callers.is_empty() {
                continue;
            }
            let answers = connection.req_packed_commands(&pipeline, 0, callers.len()).await;
            match answers.map_err(Failure::from) {
                Ok(values) => {
                    judge(Ok(()));
                    for (caller, value) in callers.into_iter().zip(values) {
                        let _gone = caller.send(Ok(value));
                    }
                }
                Err(failure) => {
                    judge(Err(&failure));
                    for caller in callers {
                        let _gone = caller.send(Err(failure.told()));
                    }
                }
            }
        }
    }
}
