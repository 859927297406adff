//! JSON in which no object names a field twice, at whatever depth: of two amounts in one request neither may be chosen
//! by chance. Depth is bounded by the parser (128). Called by `fields` only.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// A field's name is the caller's own word; this much of it is repeated.
const NAME_SHOWN_MAX: usize = 64;
const REPEATED: &str = " stands twice";

/// What to tell of an error that is a repeated field; `None` for any other.
pub(super) fn repeated_field(error: &serde_json::Error) -> Option<String> {
    let text = error.to_string();
    let end = text.find(REPEATED)?;
    text.starts_with("field ").then(|| format!("The {}{REPEATED}.", &text[..end]))
}

/// An object.
pub(super) struct UniqueObject(pub(super) Map<String, Value>);

impl<'de> Deserialize<'de> for UniqueObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;
        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = UniqueObject;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<UniqueObject, A::Error> {
                object(access).map(UniqueObject)
            }
        }
        deserializer.deserialize_map(ObjectVisitor)
    }
}

/// Reads what stands between the braces.
fn object<'de, A: MapAccess<'de>>(mut access: A) -> Result<Map<String, Value>, A::Error> {
    let mut map = Map::new();
    while let Some(name) = access.next_key::<String>()? {
        if map.contains_key(&name) {
            let shown: String = name.chars().take(NAME_SHOWN_MAX).collect();
            return Err(Error::custom(format!("field \"{shown}\"{REPEATED}")));
        }
        map.insert(name, access.next_value::<UniqueValue>()?.0);
    }
    Ok(map)
}

/// Anything inside: as `serde_json` reads it, but for repeated fields.
struct UniqueValue(Value);

impl<'de> Deserialize<'de> for UniqueValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor).map(Self)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
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

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        // Not finite: the parser refuses such literals before.
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(UniqueValue(value)) = access.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<Value, A::Error> {
        object(access).map(Value::Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Value, String> {
        serde_json::from_str::<UniqueObject>(text)
            .map(|object| Value::Object(object.0))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_repeated_field_is_refused_at_every_depth() {
        for text in [
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"\u0061":1}"#,
            r#"{"a":null,"a":null}"#,
            r#"{"x":{"a":1,"a":2}}"#,
            r#"{"x":[1,{"y":{"a":1,"b":2,"a":3}}]}"#,
        ] {
            let told = read(text).unwrap_err();
            assert!(told.contains("field \"a\" stands twice"), "{text}: {told}");
        }
    }

    #[test]
    fn everything_else_is_read_as_serde_json_reads_it() {
        for text in [
            "{}",
            r#"{"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}]}"#,
            r#"{"a":[null,true,false,0,-1,9223372036854775808,1.5,1e3,-0.0,"","\u00e9\ud83d\ude00"]}"#,
            r#"{"a":123456789012345678901234567890}"#,
        ] {
            assert_eq!(read(text), Ok(serde_json::from_str(text).unwrap()), "{text}");
        }
    }

    #[test]
    fn nesting_beyond_the_parsers_bound_is_refused() {
        let deep = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(read(&deep(100)).is_ok());
        assert!(read(&deep(1_000_000)).unwrap_err().contains("recursion limit"));
    }
}
