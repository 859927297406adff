//! Single commands of many callers, sent together: while one pipeline is on its way the next collects,
//! and no command ever waits for company. One wake-up, one write and one read serve all of it; plain reads among
//! them become one `MGET`, where the server has all slots.
//! Refuses to hold a caller for longer than the connection lives: closing answers everyone.
//! Driven by `link`; called by `exec`.

use std::{mem, sync::Mutex};

use redis::{
    Cmd, Pipeline, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};
use tokio::sync::{Notify, oneshot};

use super::{exec::GROUP_MAX, failure::Failure, keys::Slots, lock};
use crate::tier::TierError;

type Answer = Result<Value, TierError>;

/// What one caller wants.
pub(super) enum Wish {
    /// The value of a key, whatever it is: `GET`, or a place in an `MGET`.
    Read(Box<[u8]>),
    /// Anything else.
    Command(Cmd),
}

struct Waiting {
    wish: Wish,
    answer: oneshot::Sender<Answer>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    is_closed: bool,
}

/// The commands that wait for the next pipeline. Its bound is that of `Link::turns`.
pub(super) struct Lane {
    /// Where they are of use, keys go one by one.
    slots: Slots,
    queue: Mutex<Queue>,
    filled: Notify,
}

impl Lane {
    pub(super) fn new(slots: Slots) -> Self {
        Self { slots, queue: Mutex::default(), filled: Notify::new() }
    }

    /// Sends a wish with the next pipeline.
    pub(super) async fn call(&self, wish: Wish) -> Answer {
        let (answer, answered) = oneshot::channel();
        let is_first = {
            let mut queue = lock(&self.queue);
            if queue.is_closed {
                return Err(TierError::Down);
            }
            queue.waiting.push(Waiting { wish, answer });
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
            // Nothing is claimed for a caller who has gone.
            let waiting = waiting.into_iter().filter(|waiting| !waiting.answer.is_closed());
            let mut flight = Flight::of(waiting, self.slots);
            if flight.callers.is_empty() {
                continue;
            }
            let Flight { pipeline, callers } = &mut flight;
            let answers = connection.req_packed_commands(pipeline, 0, callers.len()).await;
            match answers.map_err(Failure::from) {
                Ok(values) => {
                    judge(Ok(()));
                    callers.drain(..).zip(values).for_each(|(callers, value)| callers.tell(value));
                }
                Err(failure) => {
                    judge(Err(&failure));
                    callers.drain(..).for_each(|callers| callers.fail(&failure));
                }
            }
        }
    }
}

/// Commands that go together, and who waits for the answer of each.
struct Flight {
    pipeline: Pipeline,
    callers: Vec<Callers>,
}

/// Who waits for the answer of one command.
enum Callers {
    One(oneshot::Sender<Answer>),
    /// For a part of it each, in the order of the keys.
    Each(Vec<oneshot::Sender<Answer>>),
}

impl Flight {
    fn of(waiting: impl Iterator<Item = Waiting>, slots: Slots) -> Self {
        let mut flight = Self { pipeline: Pipeline::new(), callers: Vec::with_capacity(1) };
        let (mut keys, mut readers) = (Vec::new(), Vec::new());
        for Waiting { wish, answer } in waiting {
            match wish {
                Wish::Command(command) => flight.push(command, Callers::One(answer)),
                Wish::Read(key) => {
                    keys.push(key);
                    readers.push(answer);
                    if slots == Slots::Needed || keys.len() == GROUP_MAX {
                        flight.read(&mem::take(&mut keys), mem::take(&mut readers));
                    }
                }
            }
        }
        if !keys.is_empty() {
            flight.read(&keys, readers);
        }
        flight
    }

    fn push(&mut self, command: Cmd, callers: Callers) {
        self.pipeline.add_command(command);
        self.callers.push(callers);
    }

    fn read(&mut self, keys: &[Box<[u8]>], mut readers: Vec<oneshot::Sender<Answer>>) {
        let command = read_command(keys.iter().map(|key| &key[..]));
        let callers = match readers.len() {
            1 => Callers::One(readers.remove(0)),
            _ => Callers::Each(readers),
        };
        self.push(command, callers);
    }
}

/// A `GET`, or an `MGET` of several keys.
pub(super) fn read_command<'a>(keys: impl ExactSizeIterator<Item = &'a [u8]> + Clone) -> Cmd {
    let bytes = keys.clone().map(<[u8]>::len).sum::<usize>();
    let mut command = Cmd::with_capacity(keys.len() + 1, bytes + "MGET".len());
    command.arg(if keys.len() == 1 { "GET" } else { "MGET" });
    for key in keys {
        command.arg(key);
    }
    command
}

impl Callers {
    fn tell(self, value: Value) {
        match (self, value) {
            (Self::One(caller), value) => {
                let _gone = caller.send(Ok(value));
            }
            (Self::Each(callers), Value::Array(values)) if values.len() == callers.len() => {
                for (caller, value) in callers.into_iter().zip(values) {
                    let _gone = caller.send(Ok(value));
                }
            }
            // Refused as a whole, or no answer to what was asked.
            (Self::Each(callers), value) => {
                let is_refusal = matches!(value, Value::ServerError(_));
                let answer = if is_refusal { Ok(value) } else { Err(TierError::Failed) };
                for caller in callers {
                    let _gone = caller.send(answer.clone());
                }
            }
        }
    }

    fn fail(self, failure: &Failure) {
        let callers = match self {
            Self::One(caller) => vec![caller],
            Self::Each(callers) => callers,
        };
        for caller in callers {
            let _gone = caller.send(Err(failure.told()));
        }
    }
}
