//! Whether a failed batch is worth trying again in parts: only when a value could not be sent or the server rejected one, which may
//! be one caller's alone. Any other failure would meet each part too. Halved until each bad value stands alone, a batch costs at most twice
//! the statements that its callers would have sent by themselves, however many of the values are bad.

use tokio_postgres::error::SqlState;

use crate::error::Error;
use crate::sqlstate::is_not_encoded;

/// SQLSTATE classes of what a single row or value can cause: more rows than there may be (two of one key in one upsert), data
/// exceptions, integrity violations, a view's check option, what is too large for an index, errors raised by functions.
const OF_ONE_ROW: [&str; 6] = ["21", "22", "23", "44", "54", "P0"];

/// What the server calls the check of a row against a policy. Its code is that of any missing privilege.
const ROW_POLICY_ROUTINE: &str = "ExecWithCheckOptions";

/// Where a function of the database raises an error of its own, whatever its code.
const RAISE_ROUTINE: &str = "exec_stmt_raise";

/// Whether the failure may belong to the value of one caller.
pub(super) fn may_be_of_one_caller(error: &Error) -> bool {
    may_be_of_one_row(error) || error.postgres().is_some_and(is_not_encoded)
}

/// Whether the failure may belong to one row that the server has seen.
pub(crate) fn may_be_of_one_row(error: &Error) -> bool {
    let Some(failure) = error.postgres().and_then(tokio_postgres::Error::as_db_error) else { return false };
    OF_ONE_ROW.iter().any(|class| failure.code().code().starts_with(class))
        || failure.routine() == Some(RAISE_ROUTINE)
        || (*failure.code() == SqlState::INSUFFICIENT_PRIVILEGE
            && failure.routine() == Some(ROW_POLICY_ROUTINE))
}
