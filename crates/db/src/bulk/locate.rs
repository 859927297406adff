//! Where in a COPY the server says it failed. What it says is a hint: the line is right for what is checked row by row and
//! absent for what is checked at the end of the statement, and whoever uses it tries the row alone before believing it.

use tokio_postgres::error::DbError;

/// A row of a COPY, counted from 0, and its column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Located {
    pub(super) row: usize,
    pub(super) column: Option<String>,
}

/// Reads the context of a failure of a COPY into `relation`.
pub(super) fn locate(failure: &DbError, relation: &str, columns: &[&str]) -> Option<Located> {
    read(failure.where_()?, relation, columns)
}

// "COPY event, line 7, column note" stands outermost, and so last. The words are translated; the name in front of them is
// not, and neither is the order in any of the languages that keep the first word in its place.
fn read(context: &str, relation: &str, columns: &[&str]) -> Option<Located> {
    let start = format!("COPY {relation}, ");
    let position = context.rfind(&start)?;
    if position > 0 && !context[..position].ends_with('\n') {
        return None;
    }
    let rest = &context[position + start.len()..];
    let digits_start = rest.find(|character: char| character.is_ascii_digit())?;
    let digits = &rest[digits_start..];
    let digits_end = digits.find(|character: char| !character.is_ascii_digit()).unwrap_or(digits.len());
    let line: usize = digits[..digits_end].parse().ok()?;
    // Of two names of which one ends in the other, the longer one.
    let tail = &digits[digits_end..];
    let named = columns.iter().filter(|column| tail.ends_with(&format!(" {column}")));
    let column = named.max_by_key(|column| column.len()).map(|column| (*column).to_owned());
    Some(Located { row: line.checked_sub(1)?, column })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(context: &str, relation: &str, wanted: Option<(usize, Option<&str>)>) {
        let wanted = wanted.map(|(row, column)| Located { row, column: column.map(str::to_owned) });
        assert_eq!(read(context, relation, &["id", "note", "first note"]), wanted, "{context}");
    }

    #[test]
    fn line_and_column_are_read_in_any_language_that_keeps_the_order() {
        check("COPY event, line 777", "event", Some((776, None)));
        check("COPY event, Zeile 777, Spalte note", "event", Some((776, Some("note"))));
        check("COPY event, line 2, column first note", "event", Some((1, Some("first note"))));
        check("PL/pgSQL function f() line 3 at RAISE\nCOPY event, line 5", "event", Some((4, None)));
        check("COPY we, line 9, line 3", "we, line 9", Some((2, None)));
    }

    #[test]
    fn whatever_else_is_there_is_no_hint() {
        check("PL/pgSQL function f() line 3 at RAISE", "event", None);
        check("COPY other, line 3", "event", None);
        check("SQL statement \"COPY event, line 3", "event", None);
        check("COPY event, line 0", "event", None);
        check("COPY event, line 99999999999999999999999", "event", None);
        check("", "event", None);
    }
}
