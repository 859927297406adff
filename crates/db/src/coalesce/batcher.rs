//! Writes that travel together: one transaction for everybody who writes at the moment, each caller answered after its
//! commit with an outcome of its own. A value that cannot be sent, or that the server rejects, fails alone: the batch is rolled
//! back and run again in halves.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::sync::oneshot;

use super::CoalesceOptions;
use super::isolate::may_be_of_one_caller;
use super::queue::{Queue, Worker, submit};
use crate::db::Db;
use crate::error::Error;
use crate::transaction::{CommitTicket, Committed, Transaction, TransactionError, TransactionOptions};

/// Why a write through a [`Batcher`] is not known to be committed. Shared by callers of a batch, so it is cheap to clone.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The transaction failed; nothing of this write remains.
    ///
    /// [`Error::RowCount`] in it says that the closure gave another number of outcomes than it had items.
    #[error("batched write rolled back")]
    RolledBack(#[source] Arc<TransactionError<Error>>),
    /// Nobody could say how the commit ended. It may have been committed.
    #[error("batched write: commit outcome unknown: {ticket}")]
    OutcomeUnknown {
        /// What to ask for later with [`Db::commit_outcome`].
        ticket: CommitTicket,
    },
    /// As many callers wait as may. Nothing was written.
    #[error("too many callers wait for batched writes")]
    Overloaded,
    /// The batch ended without an answer: its runtime was shut down, or the closure panicked. It may have been
    /// committed.
    #[error("the batched write was given up; it may have been committed")]
    GivenUp,
}

impl BatchError {
    /// It may have been committed.
    #[must_use]
    pub fn outcome_is_unknown(&self) -> bool {
        matches!(self, Self::OutcomeUnknown { .. } | Self::GivenUp)
    }

    /// Nothing remains, and running the same again may succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::RolledBack(error) => error.is_retryable(),
            Self::Overloaded => true,
            Self::OutcomeUnknown { .. } | Self::GivenUp => false,
        }
    }
}

/// The items of one transaction, in the order in which their callers came. A view, cheap to clone.
pub struct Items<I> {
    all: Arc<[I]>,
    range: Range<usize>,
}

impl<I> Clone for Items<I> {
    fn clone(&self) -> Self {
        Self { all: Arc::clone(&self.all), range: self.range.clone() }
    }
}

impl<I> Deref for Items<I> {
    type Target = [I];

    fn deref(&self) -> &[I] {
        &self.all[self.range.clone()]
    }
}

impl<I: fmt::Debug> fmt::Debug for Items<I> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.iter()).finish()
    }
}

type Write<I, O> =
    Box<dyn Fn(Transaction, Items<I>) -> BoxFuture<'static, Result<Vec<O>, Error>> + Send + Sync>;
type Answer<O> = Result<Committed<O>, BatchError>;

/// Writes items, many callers per transaction.
///
/// Its closure writes all items it is given with as few statements as it can, and gives one outcome per item, in their
/// order. It may run more than once, as [`Db::transaction`]'s does, and on parts of what it was given before. Cloning a
/// batcher is cheap, and all clones share their batches.
///
/// ```no_run
/// # use paystrata_db::{Batcher, CoalesceOptions, Db, Statement, TransactionOptions, Type};
/// static ADD: Statement =
///     Statement::new("INSERT INTO city (name) SELECT unnest($1::text[]) RETURNING id", &[Type::TEXT_ARRAY]);
///
/// # async fn run(db: Db) -> Result<(), Box<dyn std::error::Error>> {
/// let cities: Batcher<String, i64> =
///     Batcher::new(&db, CoalesceOptions::default(), TransactionOptions::default(), |tx, names| async move {
///         let rows = tx.query(&ADD, &[&&*names]).await?;
///         Ok(rows.iter().map(|row| row.get(0)).collect())
///     })?;
/// let ghent = cities.submit("Ghent".to_owned()).await?;
/// println!("{} is visible to reads after {}", ghent.value, ghent.token);
/// # Ok(())
/// # }
/// ```
///
/// Costs one transaction per batch: two round trips, the closure's own, and one flush to disk, whatever the number of callers.
///
/// A caller who leaves before its batch begins withdraws its item; one who leaves later does not know what became of it.
/// With more than one lane, batches commit in any order; inside a batch the order is the callers'.
pub struct Batcher<I, O> {
    inner: Arc<Inner<I, O>>,
}

struct Inner<I, O> {
    db: Db,
    options: TransactionOptions,
    write: Write<I, O>,
    queue: Queue<Request<I, O>>,
}

/// One caller and its item.
struct Request<I, O> {
    item: I,
    answer: oneshot::Sender<Answer<O>>,
}

impl<I, O> Clone for Batcher<I, O> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<I, O> fmt::Debug for Batcher<I, O> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Batcher").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

impl<I: Send + Sync + 'static, O: Send + 'static> Batcher<I, O> {
    /// A batcher whose transactions `write` does the work of.
    ///
    /// # Errors
    /// [`Error::Settings`] when one of the options is 0.
    pub fn new<F, Fut>(
        db: &Db,
        options: CoalesceOptions,
        transactions: TransactionOptions,
        write: F,
    ) -> Result<Self, Error>
    where
        F: Fn(Transaction, Items<I>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<O>, Error>> + Send + 'static,
    {
        let write: Write<I, O> = Box::new(move |transaction, items| write(transaction, items).boxed());
        let queue = Queue::new(options.check()?);
        Ok(Self { inner: Arc::new(Inner { db: db.clone(), options: transactions, write, queue }) })
    }

    /// Writes an item; returns after the commit of its batch.
    ///
    /// # Errors
    /// See [`BatchError`]: it says of each whether the item may have been written.
    pub async fn submit(&self, item: I) -> Result<Committed<O>, BatchError> {
        let (answer, receiver) = oneshot::channel();
        let request = std::iter::once(Request { item, answer });
        submit(&self.inner, request).await.map_err(|_| BatchError::Overloaded)?;
        receiver.await.unwrap_or(Err(BatchError::GivenUp))
    }
}

impl<I: Send + Sync + 'static, O: Send + 'static> Worker for Inner<I, O> {
    type Work = Request<I, O>;

    fn queue(&self) -> &Queue<Self::Work> {
        &self.queue
    }

    fn run(self: Arc<Self>, batch: Vec<Self::Work>) -> BoxFuture<'static, ()> {
        // Whoever left before its batch began has withdrawn.
        let staying = batch.into_iter().filter(|request| !request.answer.is_closed());
        let (items, answers): (Vec<I>, Vec<_>) =
            staying.map(|Request { item, answer }| (item, answer)).unzip();
        async move { self.answer(items.into(), answers).await }.boxed()
    }
}

impl<I: Send + Sync + 'static, O: Send + 'static> Inner<I, O> {
    /// Writes all items at once, and in halves when one of them cannot be sent or the server rejects it.
    async fn answer(&self, all: Arc<[I]>, answers: Vec<oneshot::Sender<Answer<O>>>) {
        let mut answers: Vec<Option<oneshot::Sender<Answer<O>>>> = answers.into_iter().map(Some).collect();
        let mut parts: Vec<Range<usize>> = std::iter::once(0..all.len()).collect();
        while let Some(range) = parts.pop() {
            if range.is_empty() {
                continue;
            }
            let items = Items { all: Arc::clone(&all), range: range.clone() };
            let written = self.write(items).await;
            if let Err(error) = &written
                && range.len() > 1
                && is_of_one_row(error)
            {
                let middle = range.start + range.len() / 2;
                // The earlier half is the next to be taken: the order of arrival holds.
                parts.extend([middle..range.end, range.start..middle]);
                continue;
            }
            let callers = answers[range].iter_mut().filter_map(Option::take);
            // A caller who left needs no answer.
            match written {
                Ok(Committed { value, token }) => callers.zip(value).for_each(|(caller, value)| {
                    let _left = caller.send(Ok(Committed { value, token }));
                }),
                Err(error) => callers.for_each(|caller| {
                    let _left = caller.send(Err(error.clone()));
                }),
            }
        }
    }

    async fn write(&self, items: Items<I>) -> Result<Committed<Vec<O>>, BatchError> {
        let written = self.db.transaction(self.options, |transaction| {
            let expected = items.len();
            let writing = (self.write)(transaction, items.clone());
            async move {
                let outcomes = writing.await?;
                if outcomes.len() == expected {
                    Ok(outcomes)
                } else {
                    Err(Error::RowCount { expected: "one outcome per item", found: outcomes.len() })
                }
            }
        });
        written.await.map_err(|error| match error {
            TransactionError::OutcomeUnknown { ticket } => BatchError::OutcomeUnknown { ticket },
            error => BatchError::RolledBack(Arc::new(error)),
        })
    }
}

fn is_of_one_row(error: &BatchError) -> bool {
    let BatchError::RolledBack(error) = error else { return false };
    match &**error {
        // A deferred constraint speaks at the commit.
        TransactionError::Work(error) | TransactionError::Database(error) => may_be_of_one_caller(error),
        _ => false,
    }
}
