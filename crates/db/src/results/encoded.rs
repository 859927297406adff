//! A statement's values as they travel: taken from the caller once, so that they can be part of a key and be sent later.
//! Shows nothing of them. Used by `query`.

use std::error::Error as StdError;
use std::fmt;

use bytes::{Bytes, BytesMut};
use postgres_types::{IsNull, ToSql, Type, to_sql_checked};

use super::ResultError;
use crate::connection::Values;
use crate::error::Error;
use crate::statement::Statement;

/// One value in the binary form of its parameter's type; None is NULL.
pub(super) struct Encoded(Option<Bytes>);

/// Takes the values as the statement's parameters.
pub(super) fn encode(statement: &Statement, values: Values<'_>) -> Result<Vec<Encoded>, ResultError> {
    let (expected, found) = (statement.types().len(), values.len());
    if expected != found {
        return Err(Error::ValueCount { expected, found }.into());
    }
    let typed = values.iter().zip(statement.types()).enumerate();
    let encoded = typed.map(|(index, (value, r#type))| {
        let mut bytes = BytesMut::new();
        match value.to_sql_checked(r#type, &mut bytes) {
            Ok(IsNull::Yes) => Ok(Encoded(None)),
            Ok(IsNull::No) => Ok(Encoded(Some(bytes.freeze()))),
            // What it says may quote the value.
            Err(_) => Err(ResultError::Value { position: index + 1 }),
        }
    });
    encoded.collect()
}

/// The query's number and the values, so that no two that differ are alike: each with its length before it.
pub(super) fn key(query: u64, values: &[Encoded]) -> Vec<u8> {
    /// No value is so long: the protocol counts in 31 bits.
    const NULL: u32 = u32::MAX;
    let mut key = query.to_be_bytes().to_vec();
    for Encoded(value) in values {
        let length = value.as_ref().map_or(NULL, |bytes| u32::try_from(bytes.len()).unwrap_or(NULL - 1));
        key.extend(length.to_be_bytes());
        key.extend(value.iter().flatten());
    }
    key
}

impl ToSql for Encoded {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        match &self.0 {
            None => Ok(IsNull::Yes),
            Some(bytes) => {
                out.extend_from_slice(bytes);
                Ok(IsNull::No)
            }
        }
    }

    // It was checked against the statement's type when it was taken.
    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl fmt::Debug for Encoded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Encoded")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static TWO: Statement = Statement::new("SELECT $1, $2", &[Type::TEXT, Type::TEXT]);

    fn key_of(first: Option<&str>, second: Option<&str>) -> Vec<u8> {
        key(7, &encode(&TWO, &[&first, &second]).expect("texts"))
    }

    #[test]
    fn values_that_differ_have_keys_that_differ() {
        let pairs = [
            (Some("a"), Some("b")),
            (Some("ab"), Some("")),
            (Some(""), Some("ab")),
            (None, Some("ab")),
            (Some("ab"), None),
            (None, None),
        ];
        for (index, left) in pairs.iter().enumerate() {
            for (other, right) in pairs.iter().enumerate() {
                assert_eq!(key_of(left.0, left.1) == key_of(right.0, right.1), index == other);
            }
        }
        assert_ne!(key(7, &[]), key(8, &[]));
    }

    #[test]
    fn values_that_do_not_fit_are_refused_by_position_and_shown_to_nobody() {
        let refused = encode(&TWO, &[&"a", &7_i64]).expect_err("a number is no text");
        assert_eq!(refused.to_string(), "value 2 of a cached read does not fit its parameter");
        let counted = encode(&TWO, &[&"a"]).expect_err("one value");
        assert!(matches!(counted, ResultError::Database(_)), "{counted:?}");
        let shown = format!("{:?}", encode(&TWO, &[&"secret", &"b"]).expect("texts"));
        assert!(!shown.contains("secret"), "{shown}");
    }
}
