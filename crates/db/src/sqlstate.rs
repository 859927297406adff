//! What a failure of a statement means for whoever wants to try again.
//! It decides nothing itself and never looks at message texts, which are translated. Callers: connections,
//! transactions, and users with a bare `tokio_postgres::Error`.

use std::error::Error as _;
use std::io;

use tokio_postgres::error::{DbError, SqlState};

/// The classes of failure, by what may be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Nothing reached the server: any statement may be sent again, to another node as well.
    NotSent,
    /// The server rolled the transaction back: run the whole transaction again, never the statement alone.
    RolledBack,
    /// A write reached a node that is no primary; it had no effect. Find the primary and try again.
    WrongRole,
    /// A prepared plan or name is stale after DDL; the statement had no effect. Prepare again.
    StalePlan,
    /// The statement may or may not have had its effect: try again only what is idempotent.
    OutcomeUnknown,
    /// Stopped on the caller's behalf: a timeout or a cancel.
    Caller,
    /// A fault of the statement, its values or the server's state: trying again gives the same.
    Never,
}

impl Class {
    /// A single statement outside a transaction may be sent again without a second effect.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::NotSent | Self::RolledBack | Self::WrongRole | Self::StalePlan)
    }

    /// A transaction whose `COMMIT` was not yet sent may be run again: the server keeps nothing of it.
    #[must_use]
    pub fn is_transaction_retryable(self) -> bool {
        self.is_retryable() || self == Self::OutcomeUnknown
    }

    /// A read may be run again, on another node if there is one.
    #[must_use]
    pub fn is_read_retryable(self) -> bool {
        self.is_transaction_retryable()
    }

    /// The failure speaks of the node and not of the statement, so the node should be looked at.
    #[must_use]
    pub fn is_node_fault(self) -> bool {
        matches!(self, Self::NotSent | Self::WrongRole | Self::OutcomeUnknown)
    }
}

/// Gives the class of a failure of a statement that was, or may have been, sent.
#[must_use]
pub fn classify(error: &tokio_postgres::Error) -> Class {
    if let Some(failure) = error.as_db_error() {
        return classify_server_error(failure);
    }
    if error.is_closed() {
        return Class::OutcomeUnknown;
    }
    match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        Some(_) if is_of_a_message(error) => Class::Never,
        Some(source) if is_dial_failure(source) => Class::NotSent,
        Some(_) => Class::OutcomeUnknown,
        None if is_no_answer(error) => Class::OutcomeUnknown,
        None => Class::Never,
    }
}

/// Something came that is no answer to what was asked. The driver names this kind only in words, which are its own and in one
/// language.
pub(crate) fn is_no_answer(error: &tokio_postgres::Error) -> bool {
    error.to_string() == "unexpected message from server"
}

/// A value could not be made into what the server takes, so that nothing was sent. Named in words only, as above.
pub(crate) fn is_not_encoded(error: &tokio_postgres::Error) -> bool {
    error.to_string().starts_with(UNWRITTEN_VALUE)
}

/// The driver's words for a value that its own code could not write.
const UNWRITTEN_VALUE: &str = "error serializing parameter ";
/// And for one that it could not read, and for a message that cannot be made (a text with a zero byte, too many values).
const OTHER_MESSAGES: [&str; 2] = ["error deserializing column ", "error encoding message to server"];

/// A message could not be made, or a value in one not be written or read. The connection has no part in that, though the cause may
/// be of the type that its own failures have. A driver with other words has it taken for such a failure, of which less is promised.
fn is_of_a_message(error: &tokio_postgres::Error) -> bool {
    let words = error.to_string();
    words.starts_with(UNWRITTEN_VALUE) || OTHER_MESSAGES.iter().any(|begin| words.starts_with(begin))
}

// These kinds arise only while a connection is being made.
fn is_dial_failure(source: &io::Error) -> bool {
    use io::ErrorKind::{AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable, NotFound};
    matches!(
        source.kind(),
        AddrNotAvailable | ConnectionRefused | HostUnreachable | NetworkUnreachable | NotFound
    )
}

fn classify_server_error(failure: &DbError) -> Class {
    let stale_plan = *failure.code() == SqlState::FEATURE_NOT_SUPPORTED
        && failure.routine() == Some("RevalidateCachedQuery");
    if stale_plan { Class::StalePlan } else { classify_code(failure.code().code()) }
}

pub(crate) fn classify_code(code: &str) -> Class {
    match code {
        "08001" | "08004" | "57P03" | "53300" => Class::NotSent,
        "40001" | "40P01" | "55P03" | "40000" | "40002" | "25P03" => Class::RolledBack,
        "25006" => Class::WrongRole,
        "26000" | "42P05" => Class::StalePlan,
        "57014" | "57P05" => Class::Caller,
        // The others of class 58 speak of files that a statement names.
        "57P01" | "57P02" | "57P04" | "40003" | "25P04" | "58000" | "58030" => Class::OutcomeUnknown,
        _ if code.starts_with("08") => Class::OutcomeUnknown,
        _ => Class::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_the_class_that_the_table_gives_it() {
        let table: [(&[&str], Class); 7] = [
            (&["08001", "08004", "57P03", "53300"], Class::NotSent),
            (&["40001", "40P01", "55P03", "40000", "40002", "25P03"], Class::RolledBack),
            (&["25006"], Class::WrongRole),
            (&["26000", "42P05"], Class::StalePlan),
            (
                &["08000", "08006", "08007", "57P01", "57P02", "40003", "58000", "58030"],
                Class::OutcomeUnknown,
            ),
            (&["57014", "57P05"], Class::Caller),
            (
                &["22001", "23505", "42601", "28P01", "0A000", "53100", "25P02", "XX000", "58P01"],
                Class::Never,
            ),
        ];
        for (codes, class) in table {
            for code in codes {
                assert_eq!(classify_code(code), class, "{code}");
            }
        }
    }

    #[test]
    fn an_unknown_outcome_reruns_reads_and_transactions_but_no_bare_write() {
        assert!(!Class::OutcomeUnknown.is_retryable());
        assert!(Class::OutcomeUnknown.is_transaction_retryable());
        assert!(Class::OutcomeUnknown.is_read_retryable());
        for class in [Class::Caller, Class::Never] {
            assert!(!class.is_retryable() && !class.is_transaction_retryable() && !class.is_read_retryable());
        }
    }
}
