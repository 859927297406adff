//! Point reads that travel together: one statement with an array of keys for everybody who asks at the moment. The same key
//! is asked for once, a missing one is `None`, and a caller who leaves takes nothing from the others.

use std::fmt;
use std::hash::Hash;
use std::iter;
use std::ops::Range;
use std::sync::Arc;

use ahash::AHashMap;
use futures_util::future::{BoxFuture, FutureExt as _};
use postgres_types::ToSql;
use tokio::sync::oneshot;
use tokio_postgres::Row;

use super::CoalesceOptions;
use super::isolate::may_be_of_one_caller;
use super::queue::{Queue, Worker, submit};
use crate::db::Db;
use crate::error::Error;
use crate::repeats::{self, Scope};
use crate::statement::Statement;
use crate::token::Token;

/// Why a read through a [`Loader`] gave nothing. Shared by all callers of a batch, so it is cheap to clone.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The statement of the batch failed. A value that cannot be sent, or that the server rejects, fails its own callers only.
    #[error("batched read")]
    Database(#[source] Arc<Error>),
    /// The row of this key could not be read as key and value. It fails its own callers only.
    #[error("read a row of a batched read")]
    Decode(#[source] Arc<tokio_postgres::Error>),
    /// The statement gave a row for a key that nobody asked for, or a second one for the same key: it must give at most
    /// one row per key, with the key as it was asked for. It fails the callers only whose keys bring such rows.
    #[error("a batched read gave a row that belongs to no caller, or a second one for the same key")]
    StrayRow,
    /// As many callers wait as may. Nothing was sent.
    #[error("too many callers wait for batched reads")]
    Overloaded,
    /// The batch ended without an answer: its runtime was shut down, or reading a row panicked.
    #[error("the batched read was given up")]
    GivenUp,
}

impl From<Error> for LoadError {
    fn from(error: Error) -> Self {
        Self::Database(Arc::new(error))
    }
}

type Answer<V> = Result<Option<V>, LoadError>;
type Decode<K, V> = Box<dyn Fn(&Row) -> Result<(K, V), tokio_postgres::Error> + Send + Sync>;

/// Reads single rows by key, many callers at a time.
///
/// Its statement takes one array of keys and gives key and value of those that exist, at most one row each. Cloning it is
/// cheap, and all clones share their batches.
///
/// ```no_run
/// # use paystrata_db::{Db, CoalesceOptions, Error, LoadError, Loader, Statement, Type};
/// static NAMES: Statement = Statement::new("SELECT id, name FROM city WHERE id = ANY($1)", &[Type::INT8_ARRAY]);
///
/// # async fn run(db: Db) -> Result<(), Box<dyn std::error::Error>> {
/// let cities: Loader<i64, String> =
///     Loader::new(&db, &NAMES, CoalesceOptions::default(), |row| Ok((row.try_get(0)?, row.try_get(1)?)))?;
/// // One statement, whatever the number of visitors: this is also how a look-up per row of a list becomes one query.
/// let homes = futures_util::future::try_join_all([1, 2, 1].map(|city| cities.get(city))).await?;
/// assert_eq!(homes[0], homes[2]);
/// # Ok(())
/// # }
/// ```
///
/// A batch reads like [`Db::read`], or like [`Db::read_after`] with the newest token that one of its callers brought; a token of a
/// newer timeline than any that is known here is waited for by its caller alone. It never
/// runs inside a transaction: a read there sees what others do not, and takes the transaction's own connection.
///
/// Costs one statement per batch; a caller who meets no other waits one turn of the runtime longer than for a statement of
/// its own. An answer is at least as new as the call: whoever asks while a batch is under way goes with a later one.
pub struct Loader<K, V> {
    inner: Arc<Inner<K, V>>,
}

struct Inner<K, V> {
    db: Db,
    statement: &'static Statement,
    decode: Decode<K, V>,
    queue: Queue<Request<K, V>>,
}

/// One caller and one key.
struct Request<K, V> {
    key: K,
    after: Option<Token>,
    answer: oneshot::Sender<Answer<V>>,
    /// Who counts statements for this caller.
    scope: Option<Scope>,
}

impl<K, V> Clone for Loader<K, V> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<K, V> fmt::Debug for Loader<K, V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Loader").field("sql", &self.inner.statement.sql()).finish_non_exhaustive()
    }
}

impl<K, V> Loader<K, V>
where
    K: ToSql + Hash + Eq + Clone + Send + Sync + fmt::Debug + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// A loader over `statement`; `decode` takes key and value from a row.
    ///
    /// # Errors
    /// [`Error::Settings`] when one of the options is 0, [`Error::ValueCount`] when the statement takes anything
    /// but one array, and [`Error::NotARead`] when it writes.
    pub fn new(
        db: &Db,
        statement: &'static Statement,
        options: CoalesceOptions,
        decode: impl Fn(&Row) -> Result<(K, V), tokio_postgres::Error> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        if statement.types().len() != 1 {
            return Err(Error::ValueCount { expected: statement.types().len(), found: 1 });
        }
        if let Some(verb) = statement.writing_verb() {
            return Err(Error::NotARead { verb });
        }
        let queue = Queue::new(options.check()?);
        Ok(Self { inner: Arc::new(Inner { db: db.clone(), statement, decode: Box::new(decode), queue }) })
    }

    /// The value of a key, up to `replica_lag_max` old; `None` when there is none.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub async fn get(&self, key: K) -> Result<Option<V>, LoadError> {
        self.ask(key, None).await
    }

    /// The value of a key, everything up to `token` included.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub async fn get_after(&self, token: Token, key: K) -> Result<Option<V>, LoadError> {
        self.ask(key, Some(token)).await
    }

    /// The values of several keys, in their order. They are refused together, and else travel in as few batches as they fit.
    ///
    /// # Errors
    /// See [`LoadError`]; the first failure stands for all.
    pub async fn get_many(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<Option<V>>, LoadError> {
        let (requests, answers): (Vec<_>, Vec<_>) = keys.into_iter().map(|key| request(key, None)).unzip();
        submit(&self.inner, requests.into_iter()).await.map_err(|_| LoadError::Overloaded)?;
        let mut values = Vec::with_capacity(answers.len());
        for answer in answers {
            values.push(answer.await.unwrap_or(Err(LoadError::GivenUp))?);
        }
        Ok(values)
    }

    async fn ask(&self, key: K, after: Option<Token>) -> Answer<V> {
        // It may have to wait for a server that nobody here has heard of, or be refused: alone.
        if after.is_some_and(|token| token.timeline > self.inner.db.timeline()) {
            return self.inner.read_alone(key, after).await;
        }
        let (request, answer) = request(key, after);
        submit(&self.inner, iter::once(request)).await.map_err(|_| LoadError::Overloaded)?;
        answer.await.unwrap_or(Err(LoadError::GivenUp))
    }
}

fn request<K, V>(key: K, after: Option<Token>) -> (Request<K, V>, oneshot::Receiver<Answer<V>>) {
    let (answer, receiver) = oneshot::channel();
    (Request { key, after, answer, scope: Scope::current() }, receiver)
}

impl<K, V> Worker for Inner<K, V>
where
    K: ToSql + Hash + Eq + Clone + Send + Sync + fmt::Debug + 'static,
    V: Clone + Send + Sync + 'static,
{
    type Work = Request<K, V>;

    fn queue(&self) -> &Queue<Self::Work> {
        &self.queue
    }

    fn run(self: Arc<Self>, batch: Vec<Self::Work>) -> BoxFuture<'static, ()> {
        let after = batch.iter().filter_map(|request| request.after).max();
        repeats::note_once_each(batch.iter().filter_map(|request| request.scope.as_ref()), self.statement);
        let asked = Asked::of(batch);
        async move { self.answer(asked, after).await }.boxed()
    }
}

/// What a batch asks for.
struct Asked<K, V> {
    /// Each once.
    keys: Arc<[K]>,
    /// Where each stands in `keys`.
    places: AHashMap<K, usize>,
    /// Who waits for the key at a place, in the order of the places.
    callers: Vec<(usize, oneshot::Sender<Answer<V>>)>,
}

impl<K: Hash + Eq + Clone, V: Clone> Asked<K, V> {
    fn of(batch: Vec<Request<K, V>>) -> Self {
        let (mut keys, mut callers) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        let mut places = AHashMap::with_capacity(batch.len());
        for Request { key, answer, .. } in batch {
            // Nobody waits for the answer any more.
            if answer.is_closed() {
                continue;
            }
            let place = *places.entry(key).or_insert_with_key(|key: &K| {
                keys.push(key.clone());
                keys.len() - 1
            });
            callers.push((place, answer));
        }
        callers.sort_by_key(|(place, _)| *place);
        Self { keys: keys.into(), places, callers }
    }

    /// Answers everybody who waits for the key at the last place that is not answered yet. Whoever left needs no answer.
    fn tell_last(&mut self, place: usize, answer: Answer<V>) {
        let is_theirs = |(of, _): &mut (usize, _)| *of == place;
        let Some((_, first)) = self.callers.pop_if(is_theirs) else { return };
        while let Some((_, other)) = self.callers.pop_if(is_theirs) {
            let _left = other.send(answer.clone());
        }
        let _left = first.send(answer);
    }
}

impl<K, V> Inner<K, V>
where
    K: ToSql + Hash + Eq + Clone + Send + Sync + fmt::Debug + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Reads all keys at once, and in halves when one of them cannot be sent or the server rejects it, or when a row cannot be read,
    /// or belongs to nobody, that may be of any of several.
    async fn answer(&self, mut asked: Asked<K, V>, after: Option<Token>) {
        // What is last in it is read first: in `tell_last`'s order.
        let mut parts: Vec<Range<usize>> = iter::once(0..asked.keys.len()).collect();
        while let Some(part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            let found = self.read(&asked, part.clone(), after).await;
            if part.len() > 1 && found.as_ref().is_err_and(may_be_of_one_key) {
                let middle = part.start + part.len() / 2;
                parts.extend([part.start..middle, middle..part.end]);
                continue;
            }
            match found {
                Ok(answers) => {
                    part.zip(answers).rev().for_each(|(place, answer)| asked.tell_last(place, answer));
                }
                Err(error) => part.rev().for_each(|place| asked.tell_last(place, Err(error.clone()))),
            }
        }
    }

    /// One key, in a batch of its own.
    async fn read_alone(&self, key: K, after: Option<Token>) -> Answer<V> {
        let (request, _answer) = request(key, None);
        let asked = Asked::of(vec![request]);
        let answers = repeats::as_one_run(self.statement, self.read(&asked, 0..1, after)).await?;
        answers.into_iter().next().unwrap_or(Ok(None))
    }

    /// One answer per key of the part, in their order.
    async fn read(
        &self,
        asked: &Asked<K, V>,
        part: Range<usize>,
        after: Option<Token>,
    ) -> Result<Vec<Answer<V>>, LoadError> {
        let rows = self.db.read_with(after, |connection| {
            let (keys, part) = (Arc::clone(&asked.keys), part.clone());
            async move { connection.query(self.statement, &[&&keys[part]]).await }
        });
        let rows = rows.await?;
        let mut values: Vec<Option<V>> = iter::repeat_with(|| None).take(part.len()).collect();
        let mut unread = Vec::new();
        for row in &rows {
            let (key, value) = match (self.decode)(row) {
                Ok(pair) => pair,
                Err(error) => {
                    unread.push(error);
                    continue;
                }
            };
            let place = asked.places.get(&key).filter(|place| part.contains(place));
            let empty = place.map(|place| &mut values[place - part.start]).filter(|seat| seat.is_none());
            *empty.ok_or(LoadError::StrayRow)? = Some(value);
        }
        let without_row = values.iter().filter(|value| value.is_none()).count();
        let refusal = match unread.pop().map(|error| LoadError::Decode(Arc::new(error))) {
            // Of which keys they are, such rows do not say. They are of all that are left, if these are as many.
            Some(refusal) if unread.len() + 1 != without_row => return Err(refusal),
            refusal => refusal,
        };
        let answer = |value: Option<V>| match (value, &refusal) {
            (None, Some(refusal)) => Err(refusal.clone()),
            (value, _) => Ok(value),
        };
        Ok(values.into_iter().map(answer).collect())
    }
}

/// Whether the failure of a batch may be that of one of its keys.
fn may_be_of_one_key(error: &LoadError) -> bool {
    match error {
        LoadError::Database(error) => may_be_of_one_caller(error),
        LoadError::Decode(_) | LoadError::StrayRow => true,
        LoadError::Overloaded | LoadError::GivenUp => false,
    }
}
