//! What is going on on one borrowed connection: who borrowed it, statements under way, an open transaction, what it was
//! told that outlives a transaction, the worst failure.
//! It does nothing about it; the connection looks here when it is dropped, and reruns look here for the reason.

use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::task;
use tokio_postgres::error::SqlState;

use crate::error::Error;
use crate::sqlstate::Class;

/// A place in the program that asks for connections.
pub(crate) type Place = &'static Location<'static>;

/// Who asks for a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    pub(crate) place: Place,
    pub(crate) errand: Errand,
}

/// What a connection is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Errand {
    /// Somebody waits for it.
    Caller,
    /// Nobody does.
    Background,
    /// To be shared by many.
    Lane,
}

/// Shared by a connection and whoever has to judge it after it is gone.
#[derive(Debug)]
pub(crate) struct Usage {
    place: Place,
    since: Instant,
    /// The task that asked. None outside of any.
    task: Option<task::Id>,
    /// Statements sent and not answered in full. One that is dropped stays counted for ever.
    pending: AtomicU32,
    in_transaction: AtomicBool,
    /// COMMIT was sent.
    committing: AtomicBool,
    session_state: AtomicBool,
    /// Something came that is no answer to what was asked.
    lost_its_way: AtomicBool,
    /// A failure that speaks of the server was told.
    told_fault: AtomicBool,
    failure: Mutex<Option<Failure>>,
}

/// What a rerun needs to know of a failure; the error itself belongs to the caller.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) class: Class,
    pub(crate) text: String,
    /// The server reported it, so an open transaction is aborted.
    pub(crate) from_server: bool,
}

impl Failure {
    /// It only says that another statement of the transaction has failed.
    fn follows(&self) -> bool {
        self.from_server && self.text == SqlState::IN_FAILED_SQL_TRANSACTION.code()
    }
}

/// A statement under way. Dropped before [`Ticket::finish`], it marks the connection as abandoned.
#[derive(Debug)]
pub(crate) struct Ticket<'a> {
    usage: &'a Usage,
}

impl Usage {
    /// As [`Usage::begin`], for what outlives the borrow: counted until [`Usage::end_unborrowed`].
    pub(crate) fn begin_unborrowed(&self) {
        self.pending.fetch_add(1, Ordering::AcqRel);
    }

    /// The answer to what [`Usage::begin_unborrowed`] counted was read in full.
    pub(crate) fn end_unborrowed(&self) {
        self.pending.fetch_sub(1, Ordering::AcqRel);
    }

    /// Of a connection handed out now, to the present task.
    pub(crate) fn new(asker: Asker, since: Instant) -> Self {
        Self {
            place: asker.place,
            since,
            // A lane is nobody's: no task waits for itself because it opened one.
            task: task::try_id().filter(|_| asker.errand != Errand::Lane),
            pending: AtomicU32::new(0),
            in_transaction: AtomicBool::new(false),
            committing: AtomicBool::new(false),
            session_state: AtomicBool::new(false),
            lost_its_way: AtomicBool::new(false),
            told_fault: AtomicBool::new(false),
            failure: Mutex::new(None),
        }
    }

    pub(crate) fn place(&self) -> Place {
        self.place
    }

    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    pub(crate) fn task(&self) -> Option<task::Id> {
        self.task
    }

    pub(crate) fn begin(&self) -> Ticket<'_> {
        self.pending.fetch_add(1, Ordering::AcqRel);
        Ticket { usage: self }
    }

    /// Something was sent whose answer nobody has read.
    pub(crate) fn has_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire) != 0
    }

    pub(crate) fn set_in_transaction(&self, inside: Inside) {
        self.in_transaction.store(inside != Inside::Nothing, Ordering::Release);
        self.committing.store(inside == Inside::Commit, Ordering::Release);
    }

    /// COMMIT may be under way. A server that waits for a standby then would end that wait for a cancel, and say that it
    /// committed what the standby does not have.
    pub(crate) fn is_committing(&self) -> bool {
        self.committing.load(Ordering::Acquire)
    }

    /// Something runs that a cancel ends and nothing else.
    pub(crate) fn may_be_cancelled(&self) -> bool {
        self.has_pending() && !self.is_committing()
    }

    pub(crate) fn is_in_transaction(&self) -> bool {
        self.in_transaction.load(Ordering::Acquire)
    }

    /// A statement was sent that may have changed what the next borrower of the connection would meet.
    pub(crate) fn note_session_state(&self) {
        self.session_state.store(true, Ordering::Release);
    }

    pub(crate) fn has_session_state(&self) -> bool {
        self.session_state.load(Ordering::Acquire)
    }

    /// What comes next may be the answer to something else.
    pub(crate) fn note_lost_its_way(&self) {
        self.lost_its_way.store(true, Ordering::Release);
    }

    pub(crate) fn has_lost_its_way(&self) -> bool {
        self.lost_its_way.load(Ordering::Acquire)
    }

    /// True for the first one who tells of a fault: a connection that breaks fails all who share it, and is one fault.
    pub(crate) fn tells_fault(&self) -> bool {
        !self.told_fault.swap(true, Ordering::AcqRel)
    }

    /// Keeps the first failure that counts: later ones only follow from it. One that follows by its code (25P02) gives way to any
    /// other: of statements that run side by side, the answers may be read in any order.
    pub(crate) fn record_failure(&self, error: &Error) {
        let class = error.class();
        let from_server = error.postgres().is_some_and(|source| source.as_db_error().is_some());
        if class == Class::Never && !from_server {
            return;
        }
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.as_ref().is_none_or(Failure::follows) {
            let text = error.sqlstate().map_or_else(|| error.to_string(), |code| code.code().to_owned());
            *failure = Some(Failure { class, text, from_server });
        }
    }

    pub(crate) fn failure(&self) -> Option<Failure> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn forget_failure(&self) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inside {
    Transaction,
    /// The end of one.
    Commit,
    Nothing,
}

impl Ticket<'_> {
    /// The answer was read in full, or the connection is known to be closed.
    pub(crate) fn finish(self) {
        self.usage.pending.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage() -> Usage {
        Usage::new(Asker { place: Location::caller(), errand: Errand::Caller }, Instant::now())
    }

    #[test]
    fn only_a_finished_ticket_leaves_the_connection_clean() {
        let usage = usage();
        usage.begin().finish();
        assert!(!usage.has_pending());
        {
            let _abandoned = usage.begin();
        }
        usage.begin().finish();
        assert!(usage.has_pending());
    }

    #[test]
    fn a_commit_under_way_is_not_to_be_cancelled() {
        let usage = usage();
        usage.set_in_transaction(Inside::Transaction);
        usage.begin_unborrowed();
        assert!(usage.may_be_cancelled());
        usage.set_in_transaction(Inside::Commit);
        assert!(usage.is_in_transaction() && !usage.may_be_cancelled());
    }

    #[test]
    fn the_first_failure_is_kept_and_a_wrong_row_count_is_none() {
        let usage = usage();
        usage.record_failure(&Error::RowCount { expected: "one row", found: 2 });
        assert!(usage.failure().is_none());
        let node = crate::node::NodeId::new("db1:5432");
        usage.record_failure(&Error::Lost { node: node.clone() });
        usage.record_failure(&Error::NodeLost { node });
        assert_eq!(usage.failure().map(|failure| failure.class), Some(Class::NotSent));
    }

    #[test]
    fn what_follows_from_another_failure_is_told_by_the_code_of_the_server_alone() {
        let failure =
            |text: &str, from_server| Failure { class: Class::Never, text: text.to_owned(), from_server };
        assert!(failure("25P02", true).follows());
        assert!(!failure("25P02", false).follows() && !failure("23505", true).follows());
    }
}
