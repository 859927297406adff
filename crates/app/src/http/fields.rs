//! Strict reading of a JSON object, field by field: each failure names its field by JSON pointer, unknown and repeated
//! fields are refused, numbers with a point or exponent are no integers. Coerces nothing.

use std::fmt;
use std::sync::LazyLock;

use http::StatusCode;
use serde_json::{Map, Value};

use super::problem::Problem;
use super::unique::{Unreadable, read_object};

/// The longest free text of one field, in bytes.
pub const TEXT_BYTES_MAX: usize = 255;
/// The largest `metadata`, in bytes of canonical JSON.
pub const METADATA_BYTES_MAX: usize = 16_384;
/// 2^63: no integer of 64 bits is larger.
const INTEGER_BOUND: f64 = 9_223_372_036_854_775_808.0;

/// An object being read; what was read is taken out, what is left at the end is unknown.
#[derive(Debug)]
pub struct Fields {
    map: Map<String, Value>,
    /// Pointer of the object itself: "" at the top, "/payments/3" inside.
    pointer: String,
}

impl Fields {
    /// # Errors
    /// `malformed_json` (400) for what is not JSON, `invalid_request` (422) for what is no object, names a field twice, or
    /// holds a number that cannot be kept, wherever in the body: the whole is refused for it, for which of two readings
    /// was meant cannot be told.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        Self::parse_items(body, usize::MAX)
    }

    /// As [`Self::parse`], but no array in a field of the body has more than `items_max` items.
    ///
    /// # Errors
    /// Also `batch_size` (413), from the first item too many on; what follows it is not read.
    pub fn parse_items(body: &[u8], items_max: usize) -> Result<Self, Problem> {
        let map = read_object(body, items_max).map_err(|unreadable| describe(unreadable, items_max))?;
        Ok(Self { map, pointer: String::new() })
    }

    /// # Errors
    /// The value is no object.
    pub fn of(value: Value, pointer: String) -> Result<Self, Problem> {
        match value {
            Value::Object(map) => Ok(Self { map, pointer }),
            _ => Err(Problem::invalid(pointer, "must be an object")),
        }
    }

    /// An object without fields, for what stood where an object was expected: every required field is missing.
    #[must_use]
    pub fn none(pointer: String) -> Self {
        Self { map: Map::new(), pointer }
    }

    /// The pointer of one field.
    #[must_use]
    pub fn pointer(&self, name: &str) -> String {
        format!("{}/{}", self.pointer, name.replace('~', "~0").replace('/', "~1"))
    }

    /// The fields that were not taken yet, with their values.
    pub fn entries(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.map.iter()
    }

    /// Takes a field that may be absent; `null` counts as absent.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// Takes an optional text, parsed by `T`.
    ///
    /// # Errors
    /// No text, too long, or refused by `T`.
    pub fn text<T: std::str::FromStr<Err: fmt::Display>>(
        &mut self,
        name: &str,
    ) -> Result<Option<T>, Problem> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let Value::String(text) = value else {
            return Err(Problem::invalid(self.pointer(name), "must be a string"));
        };
        if text.is_empty() || text.len() > TEXT_BYTES_MAX || text.chars().any(char::is_control) {
            let detail = format!("must have 1 to {TEXT_BYTES_MAX} bytes and no control characters");
            return Err(Problem::invalid(self.pointer(name), detail));
        }
        text.parse()
            .map(Some)
            .map_err(|error: T::Err| Problem::invalid(self.pointer(name), error.to_string()))
    }

    /// As [`Self::text`], but it must be there.
    ///
    /// # Errors
    /// Also when absent.
    pub fn required_text<T: std::str::FromStr<Err: fmt::Display>>(
        &mut self,
        name: &str,
    ) -> Result<T, Problem> {
        self.text(name)?.ok_or_else(|| self.missing(name))
    }

    /// Takes an optional whole number.
    ///
    /// # Errors
    /// Not an integer literal, or outside 64 bits.
    pub fn integer(&mut self, name: &str) -> Result<Option<i64>, Problem> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let Value::Number(number) = value else {
            return Err(Problem::invalid(self.pointer(name), "must be a whole number, not text"));
        };
        if let Some(integer) = number.as_i64() {
            return Ok(Some(integer));
        }
        if number.is_u64() || number.as_f64().is_some_and(|float| float.abs() >= INTEGER_BOUND) {
            return Err(out_of_range(self.pointer(name), "has more than 64 bits"));
        }
        Err(Problem::invalid(
            self.pointer(name),
            "must be a whole number of minor units, without point or exponent",
        ))
    }

    /// Takes an optional truth value.
    ///
    /// # Errors
    /// Anything but `true` or `false`.
    pub fn truth(&mut self, name: &str) -> Result<Option<bool>, Problem> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(truth)) => Ok(Some(truth)),
            Some(_) => Err(Problem::invalid(self.pointer(name), "must be true or false")),
        }
    }

    /// Takes an optional object as canonical text.
    ///
    /// # Errors
    /// No object, larger than [`METADATA_BYTES_MAX`], or with a NUL character, which the database cannot keep.
    pub fn metadata(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let Some(value) = self.take(name) else { return Ok(None) };
        if !value.is_object() {
            return Err(Problem::invalid(self.pointer(name), "must be an object"));
        }
        let text = canonical(&value);
        if text.len() > METADATA_BYTES_MAX || holds_nul(&value) {
            let detail =
                format!("must have at most {METADATA_BYTES_MAX} bytes of JSON and no NUL characters");
            return Err(Problem::invalid(self.pointer(name), detail));
        }
        Ok(Some(text))
    }

    /// The problem of a required field that is absent.
    #[must_use]
    pub fn missing(&self, name: &str) -> Problem {
        Problem::invalid(self.pointer(name), "is required")
    }

    /// # Errors
    /// A field that nobody took: it is unknown.
    pub fn finish(self) -> Result<(), Problem> {
        match self.map.keys().next() {
            None => Ok(()),
            Some(name) => Err(Problem::invalid(self.pointer(name), "is not a field of this request")),
        }
    }
}

/// Whether a text or a name in it holds the character itself, not its six-letter spelling, which is a text like any other.
/// As deep as the parser goes (128).
fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(holds_nul),
        Value::Object(map) => map.iter().any(|(name, value)| name.contains('\0') || holds_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// What is wrong with a body, without repeating any of it but names: a card number in the wrong place must not come back.
fn describe(unreadable: Unreadable, items_max: usize) -> Problem {
    match unreadable {
        Unreadable::TooMany { pointer } => batch_size(StatusCode::PAYLOAD_TOO_LARGE, pointer, items_max),
        Unreadable::Refused { pointer, detail } => Problem::invalid(pointer, detail),
        Unreadable::NotAnObject => Problem::invalid("", "The body is not a JSON object."),
        Unreadable::Malformed { line, column } => {
            let detail =
                format!("The body is not JSON: it breaks off or goes wrong at line {line}, column {column}.");
            Problem::new(StatusCode::BAD_REQUEST, "malformed_json", detail)
        }
    }
}

/// A list of items that is empty or too long.
#[must_use]
pub fn batch_size(status: StatusCode, pointer: String, items_max: usize) -> Problem {
    Problem::new(status, "batch_size", format!("must hold 1 to {items_max} items")).at(pointer)
}

/// An amount, limit or balance outside what the service keeps.
#[must_use]
pub fn out_of_range(pointer: String, detail: &str) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "amount_out_of_range", detail).at(pointer)
}

/// Equal values print equally: with sorted keys and no white space.
pub(super) fn canonical(value: &Value) -> String {
    // Objects are sorted as they are, unless another crate of the build switches on that they keep their order.
    static KEEPS_ORDER: LazyLock<bool> = LazyLock::new(|| {
        Map::from_iter(["b", "a"].map(|name| (name.to_owned(), Value::Null)))
            .keys()
            .next()
            .is_some_and(|first| first == "b")
    });
    if !*KEEPS_ORDER {
        return value.to_string();
    }
    let mut sorted = value.clone();
    sorted.sort_all_objects();
    sorted.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn integer_of(body: &str) -> Result<Option<i64>, (u16, &'static str, String)> {
        let read = Fields::parse(body.as_bytes()).and_then(|mut fields| fields.integer("amount"));
        read.map_err(|p| (p.status.as_u16(), p.code, p.param.unwrap_or_default()))
    }

    #[test]
    fn only_integer_literals_are_amounts() {
        assert_eq!(integer_of(r#"{"amount":5}"#), Ok(Some(5)));
        for body in [
            r#"{"amount":1.5}"#,
            r#"{"amount":1e3}"#,
            r#"{"amount":1.0}"#,
            r#"{"amount":"5"}"#,
            r#"{"amount":[5]}"#,
        ] {
            assert_eq!(integer_of(body), Err((422, "invalid_request", "/amount".into())), "{body}");
        }
        for number in ["9223372036854775808", "18446744073709551616", "-99999999999999999999"] {
            let body = format!("{{\"amount\":{number}}}");
            assert_eq!(integer_of(&body), Err((422, "amount_out_of_range", "/amount".into())), "{body}");
        }
        let beyond = r#"{"amount":1e400}"#;
        assert_eq!(integer_of(beyond), Err((422, "invalid_request", "/amount".into())));
    }

    #[test]
    fn garbage_is_told_from_the_wrong_shape() {
        for (body, status, code) in [
            ("", 400, "malformed_json"),
            ("{", 400, "malformed_json"),
            ("{\"amount\":NaN}", 400, "malformed_json"),
            ("[]", 422, "invalid_request"),
            (r#"{"amount":1,"amount":2}"#, 422, "invalid_request"),
            (r#"{"amount":1,"card":{"number":"1","number":"2"}}"#, 422, "invalid_request"),
        ] {
            assert_eq!(integer_of(body).map_err(|(s, c, _)| (s, c)), Err((status, code)), "{body}");
        }
    }

    #[test]
    fn an_unknown_field_is_named() {
        let fields = Fields::parse(br#"{"a/b":1}"#).unwrap();
        assert_eq!(fields.finish().unwrap_err().param.unwrap(), "/a~1b");
    }
}
