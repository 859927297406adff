//! Lists: keyset cursors and numbered pages, read from the query string. A cursor is opaque: the id of the last row,
//! encoded. Query parameters are as strict as bodies: an unknown one is refused by name.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;

use super::problem::Problem;

/// Rows per answer unless asked otherwise.
pub const LIMIT_DEFAULT: i64 = 50;
/// Rows per answer at most.
pub const LIMIT_MAX: i64 = 1_000;
/// Numbered pages reach this many rows deep; beyond it, a cursor is the way: OFFSET reads what it skips.
pub const DEPTH_MAX: i64 = 100_000;

/// Query parameters being read.
#[derive(Debug)]
pub struct Query {
    parameters: BTreeMap<String, String>,
}

impl Query {
    /// # Errors
    /// A parameter that stands twice, is not decodable or has control characters.
    pub fn parse(query: Option<&str>) -> Result<Self, Problem> {
        let pairs: Vec<(String, String)> = axum::extract::Query::try_from_uri(
            &format!("/?{}", query.unwrap_or_default())
                .parse()
                .map_err(|_| invalid("", "is not a query string"))?,
        )
        .map(|axum::extract::Query(pairs)| pairs)
        .map_err(|_| invalid("", "is not a query string"))?;
        let mut parameters = BTreeMap::new();
        for (name, value) in pairs {
            // As in bodies: the database takes no NUL, and nothing stored has any of them.
            if value.chars().any(char::is_control) {
                return Err(invalid(&name, "must have no control characters"));
            }
            if parameters.insert(name.clone(), value).is_some() {
                return Err(invalid(&name, "stands twice"));
            }
        }
        Ok(Self { parameters })
    }

    /// Takes an optional parameter.
    ///
    /// # Errors
    /// Refused by `T`.
    pub fn take<T: FromStr<Err: Display>>(&mut self, name: &str) -> Result<Option<T>, Problem> {
        let Some(text) = self.parameters.remove(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|error: T::Err| invalid(name, &error.to_string()))
    }

    /// Whether a parameter is still there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.parameters.contains_key(name)
    }

    /// Takes a number of rows.
    ///
    /// # Errors
    /// Not from 1 to [`LIMIT_MAX`].
    pub fn rows(&mut self, name: &str) -> Result<i64, Problem> {
        let rows = self.take::<i64>(name)?.unwrap_or(LIMIT_DEFAULT);
        if (1..=LIMIT_MAX).contains(&rows) {
            return Ok(rows);
        }
        Err(invalid(name, &format!("must be from 1 to {LIMIT_MAX}")))
    }

    /// # Errors
    /// A parameter that nobody took.
    pub fn finish(self) -> Result<(), Problem> {
        match self.parameters.keys().next() {
            None => Ok(()),
            Some(name) => Err(invalid(name, "is not a parameter of this request")),
        }
    }
}

/// A bad query parameter.
#[must_use]
pub fn invalid(name: &str, detail: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "invalid_parameter", format!("\"{name}\" {detail}.")).at(name)
}

/// A place in a list, as the caller carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor(pub u128);

/// A text that is no cursor of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a cursor that this service answered with")]
pub struct InvalidCursor;

impl FromStr for Cursor {
    type Err = InvalidCursor;
    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidCursor)?;
        Ok(Self(u128::from_be_bytes(bytes.try_into().map_err(|_| InvalidCursor)?)))
    }
}

impl Display for Cursor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&URL_SAFE_NO_PAD.encode(self.0.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_text_form() {
        for value in [0, 1, u128::MAX] {
            assert_eq!(Cursor(value).to_string().parse(), Ok(Cursor(value)));
        }
        assert_eq!("not a cursor".parse::<Cursor>(), Err(InvalidCursor));
        assert_eq!("".parse::<Cursor>(), Err(InvalidCursor));
    }

    #[test]
    fn unknown_repeated_and_unprintable_parameters_are_named() {
        assert_eq!(Query::parse(Some("a=1&a=2")).unwrap_err().param.unwrap(), "a");
        assert_eq!(Query::parse(Some("c=x%00")).unwrap_err().param.unwrap(), "c");
        assert_eq!(Query::parse(Some("b=1")).unwrap().finish().unwrap_err().param.unwrap(), "b");
        assert_eq!(Query::parse(Some("size=0")).unwrap().rows("size").unwrap_err().param.unwrap(), "size");
    }
}
