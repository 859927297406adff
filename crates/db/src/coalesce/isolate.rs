//! Whether a failed batch is worth trying again in parts: only when the server rejected a value, which may be one caller's
//! alone. Any other failure would meet each part too. Halved until each bad value stands alone, a batch costs at most twice
//! the statements that its callers would have sent by themselves, however many of the values are bad.

use crate::error::Error;

/// SQLSTATE classes of what a single row or value can cause: data exceptions, integrity violations, a view's check
/// option, errors raised by functions.
const OF_ONE_ROW: [&str; 4] = ["22", "23", "44", "P0"];

/// Whether the failure may belong to one row.
pub(crate) fn may_be_of_one_row(error: &Error) -> bool {
    error.sqlstate().is_some_and(|state| OF_ONE_ROW.iter().any(|class| state.code().starts_with(class)))
}
