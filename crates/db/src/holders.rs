//! Who holds the connections of a pool, since when, and what they do: for the error of a caller who got none, for the
//! caller who waits for itself, and for closing. It keeps no values of parameters and decides nothing.
//! Written when a connection is handed out and given back, once each and never per statement.

use std::fmt;
use std::ops::Deref;
use std::panic::Location;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task;
use tokio_postgres::CancelToken;

use crate::config::HOLDERS_MAX;
use crate::statement_cache::StatementCache;
use crate::tap::Tap;
use crate::usage::Usage;

/// One who holds a connection that another is waiting for.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Holder {
    /// Where in the program it was asked for.
    pub place: &'static Location<'static>,
    /// For how long it has been held.
    pub held: Duration,
    /// What is done with it.
    pub doing: Doing,
}

/// What is done with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Doing {
    /// A statement is under way; its text, where it is known. Never its values.
    Statement(Option<&'static str>),
    /// A transaction is open and waits for its next statement.
    OpenTransaction,
    /// Nothing: it is kept.
    Nothing,
}

/// Those who have held connections of one pool for longest, oldest first; a handful at most.
#[derive(Clone, Debug, Default)]
pub struct Holders(Box<[Holder]>);

/// One pooled connection, as it is seen by those who do not hold it.
pub(crate) struct Presence {
    pub(crate) tap: Arc<Tap>,
    pub(crate) statements: StatementCache,
    /// From then on it is to be replaced.
    pub(crate) replace_at: Instant,
    pub(crate) cancel: CancelToken,
    roster: Arc<Roster>,
    usage: Mutex<Option<Arc<Usage>>>,
}

/// The connections of one pool, idle ones included.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    present: Mutex<Vec<Weak<Presence>>>,
    released: Notify,
}

/// A connection in somebody's hands.
pub(crate) struct Held {
    pub(crate) presence: Arc<Presence>,
    pub(crate) usage: Arc<Usage>,
}

impl Presence {
    /// Enters a connection in its pool's roster, which forgets it with the last reference.
    pub(crate) fn enter(
        roster: &Arc<Roster>,
        tap: Arc<Tap>,
        statements: StatementCache,
        replace_at: Instant,
        cancel: CancelToken,
    ) -> Arc<Self> {
        let usage = Mutex::new(None);
        let roster = Arc::clone(roster);
        let presence = Arc::new(Self { tap, statements, replace_at, cancel, roster, usage });
        let mut present = presence.roster.lock();
        // Those of closed connections go here, so that the list is no longer than the pool was ever large.
        present.retain(|present| present.strong_count() > 0);
        present.push(Arc::downgrade(&presence));
        drop(present);
        presence
    }

    pub(crate) fn hold(&self, usage: &Arc<Usage>) {
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(usage));
    }

    /// To be called before the connection can be handed out again.
    pub(crate) fn release(&self) {
        let usage = self.usage.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(usage);
        self.roster.released.notify_waiters();
    }

    /// Every connection of the pool prepares this statement anew: the server has changed below it, for all of them.
    pub(crate) fn forget_everywhere(&self, sql: &'static str) {
        let present: Vec<_> = self.roster.lock().iter().filter_map(Weak::upgrade).collect();
        present.iter().for_each(|presence| presence.statements.remove(sql));
    }

    fn usage(&self) -> Option<Arc<Usage>> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Presence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Presence").field("tap", &self.tap).finish_non_exhaustive()
    }
}

impl Roster {
    /// How many live connections are to be replaced by `now`.
    pub(crate) fn due(&self, now: Instant) -> usize {
        self.lock().iter().filter_map(Weak::upgrade).filter(|presence| now >= presence.replace_at).count()
    }

    /// Those in somebody's hands.
    pub(crate) fn held(&self) -> Vec<Held> {
        let present: Vec<_> = self.lock().iter().filter_map(Weak::upgrade).collect();
        let held = present.into_iter();
        held.filter_map(|presence| presence.usage().map(|usage| Held { presence, usage })).collect()
    }

    /// The holders to be named to whoever got nothing.
    pub(crate) fn holders(&self, now: Instant) -> Holders {
        let mut holders: Vec<Holder> = self.held().iter().map(|held| held.holder(now)).collect();
        holders.sort_by_key(|holder| std::cmp::Reverse(holder.held));
        holders.truncate(HOLDERS_MAX);
        Holders(holders.into())
    }

    /// All of a pool's `size` connections are held, and `task` keeps one of them with no statement under way: if it now
    /// asks for another, it may wait for itself.
    pub(crate) fn is_kept_by(&self, task: task::Id, size: usize) -> bool {
        let held = self.held();
        let keeps = |held: &Held| held.usage.task() == Some(task) && !held.usage.has_pending();
        held.len() >= size && held.iter().any(keeps)
    }

    /// Returns once nobody holds a connection.
    pub(crate) async fn all_released(&self) {
        loop {
            let released = self.released.notified();
            if self.held().is_empty() {
                return;
            }
            released.await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Presence>>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn holder(&self, now: Instant) -> Holder {
        let doing = if self.usage.has_pending() {
            Doing::Statement(self.presence.statements.last_asked())
        } else if self.usage.is_in_transaction() {
            Doing::OpenTransaction
        } else {
            Doing::Nothing
        };
        let held = now.saturating_duration_since(self.usage.since());
        Holder { place: self.usage.place(), held, doing }
    }
}

impl Deref for Holders {
    type Target = [Holder];

    fn deref(&self) -> &[Holder] {
        &self.0
    }
}

impl fmt::Display for Holders {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, holder) in self.iter().enumerate() {
            let before = if index == 0 { "; held longest by " } else { ", " };
            write!(formatter, "{before}{holder}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, held, doing } = self;
        write!(formatter, "{}:{} for {held:.1?} ({doing})", place.file(), place.line())
    }
}

/// Of a statement's text, in an error.
const SQL_CHARACTERS_MAX: usize = 60;

impl fmt::Display for Doing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Statement(Some(sql)) => {
                let shown: String = sql.chars().take(SQL_CHARACTERS_MAX).collect();
                let rest = if shown.len() < sql.len() { ".." } else { "" };
                write!(formatter, "running {shown}{rest}")
            }
            Self::Statement(None) => formatter.write_str("running a statement"),
            Self::OpenTransaction => formatter.write_str("in an open transaction"),
            Self::Nothing => formatter.write_str("running nothing"),
        }
    }
}
