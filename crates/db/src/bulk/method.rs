//! Which of the three ways to insert is the fastest for a number of rows. Nothing else decides it.

use super::options::Method;
use super::sql::PARAMETERS_MAX;
use super::table::Target;

/// Up to here one parameter per value is not slower than arrays (ADR 0017 has the figures).
const INSERT_ROWS_MAX: usize = 4;
/// Up to here arrays are not slower than COPY, which takes two round trips more (ADR 0017 has the figures).
const UNNEST_ROWS_MAX: usize = 1_000;

/// The way for so many rows: the one asked for where it is possible, else the next one that is.
pub(super) fn choose(asked: Method, target: &Target, rows: usize) -> Method {
    let by_size = match rows {
        0..=INSERT_ROWS_MAX => Method::Insert,
        _ if rows <= UNNEST_ROWS_MAX => Method::Unnest,
        _ => Method::Copy,
    };
    let wanted = match (asked, by_size) {
        // What a rule does must not depend on the number of rows.
        (Method::Auto, Method::Copy) if target.has_insert_rules => Method::Unnest,
        (Method::Auto, by_size) => by_size,
        (asked, _) => asked,
    };
    let fits_parameters = rows.saturating_mul(target.columns.len()) <= PARAMETERS_MAX;
    match wanted {
        Method::Insert if fits_parameters => Method::Insert,
        Method::Insert | Method::Unnest if target.has_arrays() => Method::Unnest,
        _ => Method::Copy,
    }
}
