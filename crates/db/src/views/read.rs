//! Reading a view together with its age, and refreshing it first when it is older than the reader takes.
//! It never gives a view whose age nobody knows. Called by readers through [`Views`].

use std::time::{Duration, SystemTime};

use tokio::time::timeout;

use super::error::ViewError;
use super::refresh::{Ask, Ended};
use super::state::status;
use super::{Entry, Views};
use crate::connection::Connection;
use crate::error::Error;
use crate::statement::Statement;
use crate::token::Token;

static POSITION: Statement = Statement::new(Token::SQL, &[]);

/// What becomes of a read when the view is older than the reader takes, or was never refreshed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfOlder {
    /// The view is refreshed first, after what it is made from; of all readers in the fleet one does it, and the others wait for it.
    Refresh,
    /// The read fails.
    Refuse,
}

/// A connection on which the view is at most `age` old.
#[derive(Debug)]
#[non_exhaustive]
pub struct ViewRead {
    /// To query the view on; a later query may find it younger.
    pub connection: Connection,
    /// Everything committed before this is in it; by the clock of the database.
    pub as_of: SystemTime,
    /// The time since then, by the clock of the server that is read.
    pub age: Duration,
    /// Whether this read had to wait for a refresh, its own or another's.
    pub is_refreshed: bool,
}

/// What a server says of a view.
struct Told {
    as_of: SystemTime,
    age: Duration,
}

impl Views {
    /// A connection on which the view is at most `age_max` old, and how old it is there. With a refresh before it, the age is that
    /// of the refreshed view, which is over an `age_max` that is shorter than the refresh takes.
    ///
    /// Costs one round trip while the view is young enough. The refresh may take as long as the view's `timeout` allows, and so
    /// may the wait for another's.
    ///
    /// # Errors
    /// [`ViewError::NeverRefreshed`] and [`ViewError::TooOld`] if `if_older` says to refuse; else those of [`Views::refresh`].
    pub async fn read(
        &self,
        view: &str,
        age_max: Duration,
        if_older: IfOlder,
    ) -> Result<ViewRead, ViewError> {
        let entry = self.entry(view)?;
        let failed = |error| entry.view.failed(error);
        let connection = self.inner.db.read().await.map_err(failed)?;
        let told = ask(&connection, entry).await.map_err(failed)?;
        match (told, if_older) {
            (Some(Told { as_of, age }), _) if age <= age_max => {
                return Ok(ViewRead { connection, as_of, age, is_refreshed: false });
            }
            (None, IfOlder::Refuse) => return Err(ViewError::NeverRefreshed { view: view.to_owned() }),
            (Some(Told { age, .. }), IfOlder::Refuse) => {
                return Err(ViewError::TooOld { view: view.to_owned(), age, age_max });
            }
            (_, IfOlder::Refresh) => {}
        }
        // The refresh may take long, and needs it less than others do.
        drop(connection);
        let token = self.make_young(entry, age_max).await?;
        let connection = self.inner.db.read_after(token).await.map_err(failed)?;
        let Told { as_of, age } = ask(&connection, entry)
            .await
            .map_err(failed)?
            .ok_or_else(|| ViewError::NeverRefreshed { view: view.to_owned() })?;
        Ok(ViewRead { connection, as_of, age, is_refreshed: true })
    }

    /// Refreshes whatever is too old of the view and of what it is made from.
    async fn make_young(&self, entry: &Entry, age_max: Duration) -> Result<Token, ViewError> {
        let view = &entry.view;
        let turn = timeout(view.timeout, entry.turn.lock()).await;
        let _turn = turn.map_err(|_| ViewError::Timeout { view: view.name.clone(), after: view.timeout })?;
        if let Some(token) = self.token_if_young(entry, age_max).await.map_err(|error| view.failed(error))? {
            return Ok(token);
        }
        for source in self.below(entry) {
            source.refresh(&self.inner.db, Ask::NoOlderThan(age_max)).await?;
        }
        match entry.refresh(&self.inner.db, Ask::NoOlderThan(age_max)).await? {
            Ended::Refreshed { token, .. } | Ended::Skipped { token, .. } => Ok(token),
        }
    }

    /// Whoever had the turn before may have done it.
    async fn token_if_young(&self, entry: &Entry, age_max: Duration) -> Result<Option<Token>, Error> {
        let connection = self.inner.db.write().await?;
        if ask(&connection, entry).await?.is_none_or(|told| told.age > age_max) {
            return Ok(None);
        }
        let row = connection.query_one(&POSITION, &[]).await?;
        let unknown = |_| Error::UnknownForm { node: connection.node().clone(), what: "the log position" };
        Token::from_row(&row).map(Some).map_err(unknown)
    }

    /// What the view is made from, directly or not, in order.
    fn below(&self, entry: &Entry) -> Vec<&Entry> {
        let mut wanted: Vec<&str> = entry.view.made_from.iter().map(String::as_str).collect();
        // From the last one up: each comes after all that it is made from.
        let mut below = Vec::new();
        for candidate in self.inner.entries.iter().rev() {
            if wanted.contains(&candidate.view.name.as_str()) {
                wanted.extend(candidate.view.made_from.iter().map(String::as_str));
                below.push(candidate);
            }
        }
        below.reverse();
        below
    }
}

async fn ask(connection: &Connection, entry: &Entry) -> Result<Option<Told>, Error> {
    let known = status(connection, &[&entry.view.name]).await?.pop();
    Ok(known.and_then(|known| Some(Told { as_of: known.as_of?, age: known.age? })))
}
