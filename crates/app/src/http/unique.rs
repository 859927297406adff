//! JSON whose meaning does not depend on who reads it: no object names a field twice, at whatever depth, for of two amounts
//! in one request neither may be chosen by chance; and a number under `metadata`, which is kept, is one that can be kept
//! exactly. Tells where it stopped. Depth is bounded by the parser (128). Called by `fields` only.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer as _, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::number;

/// A field's name is the caller's own word; this much of it is repeated in a sentence.
const NAME_SHOWN_MAX: usize = 64;
/// The only field whose numbers are free: all others are whole numbers of minor units.
const KEPT_AS_WRITTEN: &str = "metadata";
const BEYOND_RANGE: &str = "is a number beyond what a 64-bit float can hold";
const NOT_EXACT: &str = "is a number that cannot be kept exactly: integers of 64 bits can, and decimals that a 64-bit \
                         float gives back; send it as text";

/// Why a body was not read. Repeats none of it but names of fields.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// It is not JSON.
    Malformed { line: usize, column: usize },
    /// It is JSON, but no object.
    NotAnObject,
    /// The array in this field of the outermost object holds more than were asked for.
    TooMany { pointer: String },
    /// What stands at this JSON pointer is not taken.
    Refused { pointer: String, detail: String },
}

/// Reads a whole body. A second pass is made only when a number with a point or exponent, or beyond 64 bits, stands under
/// `metadata`. An array in a field of the outermost object ends the reading at its first item beyond `items_max`: a tree
/// takes many times the memory of its text.
///
/// # Errors
/// As the variants say.
pub(super) fn read_object(body: &[u8], items_max: usize) -> Result<Map<String, Value>, Unreadable> {
    let mut reader = Reader { items_max, ..Reader::default() };
    let map = reader.read(body)?;
    if reader.floats_kept == 0 {
        return Ok(map);
    }
    let changed = number::changed(body);
    if changed.is_empty() {
        return Ok(map);
    }
    Reader { items_max, changed, ..Reader::default() }.read(body)
}

/// One level of the way to a value.
#[derive(Debug)]
enum Step {
    Field(String),
    Item(usize),
}

/// A pass over one body.
#[derive(Debug, Default)]
struct Reader {
    /// The way to the value that is being read. An error leaves it where it is, which is how its place is known.
    path: Vec<Step>,
    /// Items that an array in a field of the outermost object may hold.
    items_max: usize,
    /// It held more.
    is_over: bool,
    /// Numbers met so far.
    numbers: usize,
    /// Positions of numbers that would not come back as the same value, ascending.
    changed: Vec<usize>,
    /// Numbers under `metadata` that are kept as floats.
    floats_kept: usize,
    /// Why this reader stopped by itself.
    refusal: Option<String>,
}

impl Reader {
    fn read(&mut self, body: &[u8]) -> Result<Map<String, Value>, Unreadable> {
        let mut parser = serde_json::Deserializer::from_slice(body);
        let read = parser.deserialize_map(ObjectVisitor(self)).and_then(|map| parser.end().map(|()| map));
        read.map_err(|error| self.describe(&error, body))
    }

    fn describe(&mut self, error: &serde_json::Error, body: &[u8]) -> Unreadable {
        if self.is_over {
            return Unreadable::TooMany { pointer: self.pointer() };
        }
        if let Some(detail) = self.refusal.take() {
            return Unreadable::Refused { pointer: self.pointer(), detail };
        }
        if error.is_data() {
            return Unreadable::NotAnObject;
        }
        // The parser calls it a mistake of syntax, but JSON knows no largest number: the rest decides.
        let is_beyond_range = error.to_string().starts_with("number out of range");
        if is_beyond_range && serde_json::from_slice::<IgnoredAny>(body).is_ok() {
            return Unreadable::Refused { pointer: self.pointer(), detail: BEYOND_RANGE.to_owned() };
        }
        Unreadable::Malformed { line: error.line(), column: error.column() }
    }

    fn pointer(&self) -> String {
        let mut pointer = String::new();
        for step in &self.path {
            pointer.push('/');
            match step {
                Step::Field(name) => pointer.push_str(&name.replace('~', "~0").replace('/', "~1")),
                Step::Item(index) => pointer.push_str(&index.to_string()),
            }
        }
        pointer
    }

    fn is_kept_as_written(&self) -> bool {
        self.path.iter().any(|step| matches!(step, Step::Field(name) if name == KEPT_AS_WRITTEN))
    }

    fn object<'de, A: MapAccess<'de>>(&mut self, mut access: A) -> Result<Map<String, Value>, A::Error> {
        let mut map = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            let is_repeated = map.contains_key(&name);
            self.path.push(Step::Field(name));
            if is_repeated {
                return Err(self.refuse(self.repeated()));
            }
            let value = access.next_value_seed(ValueVisitor(self))?;
            if let Some(Step::Field(name)) = self.path.pop() {
                map.insert(name, value);
            }
        }
        Ok(map)
    }

    fn array<'de, A: SeqAccess<'de>>(&mut self, mut access: A) -> Result<Vec<Value>, A::Error> {
        let mut values = Vec::new();
        let is_bounded = self.path.len() == 1;
        loop {
            if is_bounded && values.len() == self.items_max {
                // Well-formed so far; whether an item more follows decides.
                self.is_over = access.next_element::<IgnoredAny>()?.is_some();
                return if self.is_over { Err(A::Error::custom("too many items")) } else { Ok(values) };
            }
            self.path.push(Step::Item(values.len()));
            let value = access.next_element_seed(ValueVisitor(self))?;
            self.path.pop();
            match value {
                Some(value) => values.push(value),
                None => return Ok(values),
            }
        }
    }

    fn number<E: Error>(&mut self, number: Number) -> Result<Value, E> {
        let is_kept = self.is_kept_as_written();
        if is_kept && self.changed.binary_search(&self.numbers).is_ok() {
            return Err(self.refuse(NOT_EXACT.to_owned()));
        }
        self.numbers += 1;
        self.floats_kept += usize::from(is_kept && number.is_f64());
        Ok(Value::Number(number))
    }

    fn repeated(&self) -> String {
        let name = match self.path.last() {
            Some(Step::Field(name)) => name.as_str(),
            _ => "",
        };
        let shown: String = name.chars().take(NAME_SHOWN_MAX).collect();
        format!("The field \"{shown}\" stands twice.")
    }

    /// Stops the parser; the caller is told `detail` with the place.
    fn refuse<E: Error>(&mut self, detail: String) -> E {
        self.refusal = Some(detail);
        E::custom("refused")
    }
}

/// The outermost value.
struct ObjectVisitor<'reader>(&'reader mut Reader);

impl<'de> Visitor<'de> for ObjectVisitor<'_> {
    type Value = Map<String, Value>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<Map<String, Value>, A::Error> {
        self.0.object(access)
    }
}

/// Anything inside: as `serde_json` reads it, but for what the reader refuses.
struct ValueVisitor<'reader>(&'reader mut Reader);

impl<'de> DeserializeSeed<'de> for ValueVisitor<'_> {
    type Value = Value;

    fn deserialize<D: serde::de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueVisitor<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.0.number(Number::from(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.0.number(Number::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.0.number(Number::from_f64(value).expect("the parser refuses literals that are not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, access: A) -> Result<Value, A::Error> {
        self.0.array(access).map(Value::Array)
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<Value, A::Error> {
        self.0.object(access).map(Value::Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> (String, String) {
        match read_object(text.as_bytes(), usize::MAX) {
            Err(Unreadable::Refused { pointer, detail }) => (pointer, detail),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_repeated_field_is_refused_at_every_depth_and_named_by_its_place() {
        for (text, pointer) in [
            (r#"{"a":1,"a":2}"#, "/a"),
            (r#"{"a":1,"\u0061":1}"#, "/a"),
            (r#"{"a":null,"a":null}"#, "/a"),
            (r#"{"x":{"a":1,"a":2}}"#, "/x/a"),
            (r#"{"v":[1],"x~":[1,{"y/":{"a":1,"b":2,"a":3}}]}"#, "/x~0/1/y~1/a"),
        ] {
            assert_eq!(
                refused(text),
                (pointer.to_owned(), "The field \"a\" stands twice.".to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn everything_else_is_read_as_serde_json_reads_it() {
        for text in [
            "{}",
            r#"{"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}]}"#,
            r#"{"a":[null,true,false,0,-1,9223372036854775808,1.5,1e3,-0.0,"","\u00e9\ud83d\ude00"]}"#,
            r#"{"a":123456789012345678901234567890}"#,
            r#"{"metadata":{"a":[0.30000000000000004,1.10,18446744073709551615,100000000000000000000]}}"#,
        ] {
            assert_eq!(
                read_object(text.as_bytes(), usize::MAX),
                Ok(serde_json::from_str(text).unwrap()),
                "{text}"
            );
        }
    }

    #[test]
    fn a_number_that_cannot_be_kept_is_refused_where_it_would_be_kept() {
        let long = "0.10000000000000000001";
        for (text, pointer) in [
            (format!(r#"{{"amount":1,"metadata":{{"rate":{long}}}}}"#), "/metadata/rate"),
            (
                format!(r#"{{"a":{long},"payments":[{{"metadata":[1,{{"x":{long}}}]}}]}}"#),
                "/payments/0/metadata/1/x",
            ),
            (r#"{"metadata":{"a":1.5,"b":12345678901234567890123}}"#.to_owned(), "/metadata/b"),
        ] {
            assert_eq!(refused(&text), (pointer.to_owned(), NOT_EXACT.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_number_beyond_range_is_told_by_its_place_unless_the_rest_is_no_json() {
        assert_eq!(
            refused(r#"{"a":[1,{"b":-1e400}],"c":[[]]}"#),
            ("/a/1/b".to_owned(), BEYOND_RANGE.to_owned())
        );
        let broken = r#"{"a":[1,{"b":-1e400}],"c":[[}"#;
        assert!(matches!(
            read_object(broken.as_bytes(), usize::MAX),
            Err(Unreadable::Malformed { line: 1, .. })
        ));
    }

    #[test]
    fn items_beyond_the_bound_end_the_reading_and_inner_arrays_are_not_counted() {
        let full = r#"{"payments":[{"metadata":{"a":[1,2,3,4]}},[5,6,7]],"a":0.5}"#;
        assert!(read_object(full.as_bytes(), 2).is_ok());
        for over in [r#"{"a":1,"payments":[[],[],"#, r#"{"payments":[1,2,"#] {
            let whole = format!("{over}3],\"b\":[");
            let expected = Unreadable::TooMany { pointer: "/payments".to_owned() };
            assert_eq!(read_object(whole.as_bytes(), 2), Err(expected), "what follows is not read");
            let cut = read_object(over.as_bytes(), 2);
            assert!(matches!(cut, Err(Unreadable::Malformed { line: 1, .. })), "{cut:?}");
        }
    }

    #[test]
    fn nesting_beyond_the_parsers_bound_is_refused() {
        let deep =
            |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth)).into_bytes();
        assert!(read_object(&deep(100), 1).is_ok());
        assert!(matches!(read_object(&deep(1_000_000), 1), Err(Unreadable::Malformed { .. })));
    }
}
