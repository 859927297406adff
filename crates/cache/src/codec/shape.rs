//! The shape of a type, told by its own `Deserialize`: it is run on samples, and what it asks for is
//! hashed. A sample that a type refuses (a date that is none) ends a run; the field it was for is
//! then skipped, so that the next run reaches what follows it.
//! Refuses to make values: what comes of a run is dropped. Called by `Schema`, once per codec.
//!
//! Deterministic for one serde: the same type has the same fingerprint in every process and build.

use std::{
    any::type_name,
    collections::{HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
};

use serde::{
    Deserializer,
    de::{
        DeserializeOwned, DeserializeSeed, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess,
        VariantAccess, Visitor,
        value::{Error, StrDeserializer},
    },
};
use xxhash_rust::xxh3::Xxh3Default;

/// How the encoding spells types that have two spellings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Binary,
    Readable,
}

/// Each run shows a variant or a field that none before it has shown. Types beyond that many keep a
/// fingerprint of what was seen.
const RUNS_MAX: usize = 512;
/// Runs in a row that show nothing new, after which what is left is taken to be out of reach: enough
/// for enums in enums to take turns.
const IDLE_RUNS_MAX: usize = 64;
/// Of one run: bounds types that contain each other many times over.
const STEPS_MAX: usize = 4096;
/// Bounds the stack for types inside themselves that serde gives no name (`#[serde(transparent)]`).
const DEPTH_MAX: usize = 64;

type Names = &'static [&'static str];
/// What `type_name` gives: tells types apart within this process, generic arguments included. Never
/// hashed, because it may change with the compiler and with the module a type stands in.
type TypeName = &'static str;

pub(super) fn fingerprint<V: DeserializeOwned>(form: Form) -> u64 {
    let mut walk = Walk { form, ..Walk::default() };
    let mut idle_runs = 0;
    for _ in 0..RUNS_MAX {
        walk.begin();
        // A type that panics on a sample is known by what it asked for until then.
        let run =
            catch_unwind(AssertUnwindSafe(|| V::deserialize(Tracer { walk: &mut walk, depth: 0 }).map(drop)));
        idle_runs = if walk.found_something { 0 } else { idle_runs + 1 };
        let is_done = !walk.refused && !walk.has_variants_left();
        if run.is_err() || is_done || idle_runs == IDLE_RUNS_MAX {
            break;
        }
    }
    walk.sum.digest()
}

/// What has fields: a struct, or a variant of an enum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Owner {
    type_name: TypeName,
    member: &'static str,
}

struct Visits {
    variants: usize,
    count: usize,
}

struct Walk {
    form: Form,
    sum: Xxh3Default,
    steps: usize,
    /// Structs and enums around the present place: one inside itself ends the run.
    around: Vec<TypeName>,
    /// How often an enum has been asked for.
    visits: HashMap<TypeName, Visits>,
    /// Fields (of a struct or of a variant) whose samples were refused.
    skipped: HashSet<(Owner, &'static str)>,
    /// This run has skipped a field for the first time.
    refused: bool,
    /// This run has skipped a field or tried a variant for the first time.
    found_something: bool,
}

impl Default for Walk {
    fn default() -> Self {
        Self {
            form: Form::Binary,
            sum: Xxh3Default::new(),
            steps: 0,
            around: Vec::new(),
            visits: HashMap::new(),
            skipped: HashSet::new(),
            refused: false,
            found_something: false,
        }
    }
}

impl Walk {
    fn begin(&mut self) {
        self.steps = 0;
        self.around.clear();
        self.refused = false;
        self.found_something = false;
    }

    fn has_variants_left(&self) -> bool {
        self.visits.values().any(|visits| visits.count < visits.variants)
    }

    /// Hashes what the type asks for, so that no two lists of words give the same bytes.
    fn note(&mut self, kind: &str, names: &[&str]) -> Result<(), Error> {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return Err(Error::custom("too many steps"));
        }
        for word in [kind].iter().chain(names) {
            self.sum.update(word.as_bytes());
            self.sum.update(&[0xff]);
        }
        self.sum.update(&[0xfe]);
        Ok(())
    }

    fn enter(&mut self, entered: TypeName) -> Result<(), Error> {
        if self.around.contains(&entered) {
            return Err(Error::custom("inside itself"));
        }
        self.around.push(entered);
        Ok(())
    }

    /// Variants take turns, so that those inside each of them have theirs as well.
    fn variant(&mut self, of: TypeName, variants: Names) -> Result<&'static str, Error> {
        let visits = self.visits.entry(of).or_insert(Visits { variants: variants.len(), count: 0 });
        let chosen = visits.count.checked_rem(variants.len());
        self.found_something |= visits.count < variants.len();
        visits.count += 1;
        chosen.map(|index| variants[index]).ok_or_else(|| Error::custom("no variants"))
    }

    /// The innermost field of this run that could not be read is skipped from the next run on.
    fn refuse(&mut self, owner: Owner, field: &'static str) {
        if !self.refused && self.skipped.insert((owner, field)) {
            self.refused = true;
            self.found_something = true;
        }
    }
}

/// Gives a sample of whatever it is asked for.
struct Tracer<'a> {
    walk: &'a mut Walk,
    depth: usize,
}

impl Tracer<'_> {
    fn note(&mut self, kind: &str, names: &[&str]) -> Result<(), Error> {
        if self.depth > DEPTH_MAX {
            return Err(Error::custom("too deep"));
        }
        self.walk.note(kind, names)
    }

    fn deeper(self) -> Self {
        Self { depth: self.depth + 1, ..self }
    }
}

macro_rules! samples {
    ($($ask:ident => $visit:ident($sample:expr)),* $(,)?) => {$(
        fn $ask<S: Visitor<'de>>(mut self, visitor: S) -> Result<S::Value, Error> {
            self.note(stringify!($ask), &[])?;
            visitor.$visit($sample)
        }
    )*};
}

impl<'de> Deserializer<'de> for Tracer<'_> {
    type Error = Error;

    // One, because zero is no `NonZero` and an empty text no number.
    samples! {
        deserialize_bool => visit_bool(false),
        deserialize_i8 => visit_i8(1),
        deserialize_i16 => visit_i16(1),
        deserialize_i32 => visit_i32(1),
        deserialize_i64 => visit_i64(1),
        deserialize_i128 => visit_i128(1),
        deserialize_u8 => visit_u8(1),
        deserialize_u16 => visit_u16(1),
        deserialize_u32 => visit_u32(1),
        deserialize_u64 => visit_u64(1),
        deserialize_u128 => visit_u128(1),
        deserialize_f32 => visit_f32(1.0),
        deserialize_f64 => visit_f64(1.0),
        deserialize_char => visit_char('1'),
        deserialize_str => visit_str("1"),
        deserialize_string => visit_str("1"),
        deserialize_identifier => visit_str("1"),
        deserialize_bytes => visit_bytes(b"1"),
        deserialize_byte_buf => visit_bytes(b"1"),
    }

    fn deserialize_any<S: Visitor<'de>>(mut self, visitor: S) -> Result<S::Value, Error> {
        self.note("any", &[])?;
        visitor.visit_unit()
    }

    fn deserialize_ignored_any<S: Visitor<'de>>(self, visitor: S) -> Result<S::Value, Error> {
        self.deserialize_any(visitor)
    }

    fn deserialize_unit<S: Visitor<'de>>(mut self, visitor: S) -> Result<S::Value, Error> {
        self.note("unit", &[])?;
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<S: Visitor<'de>>(
        mut self,
        name: &'static str,
        visitor: S,
    ) -> Result<S::Value, Error> {
        self.note("unit struct", &[name])?;
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<S: Visitor<'de>>(
        mut self,
        name: &'static str,
        visitor: S,
    ) -> Result<S::Value, Error> {
        self.note("newtype struct", &[name])?;
        visitor.visit_newtype_struct(self.deeper())
    }

    fn deserialize_option<S: Visitor<'de>>(mut self, visitor: S) -> Result<S::Value, Error> {
        self.note("option", &[])?;
        visitor.visit_some(self.deeper())
    }

    fn deserialize_seq<S: Visitor<'de>>(mut self, visitor: S) -> Result<S::Value, Error> {
        self.note("sequence", &[])?;
        visitor.visit_seq(Elements { walk: self.walk, depth: self.depth, left: 1 })
    }

    fn deserialize_tuple<S: Visitor<'de>>(mut self, length: usize, visitor: S) -> Result<S::Value, Error> {
        self.note("tuple", &[&length.to_string()])?;
        visitor.visit_seq(Elements { walk: self.walk, depth: self.depth, left: length })
    }

    fn deserialize_tuple_struct<S: Visitor<'de>>(
        mut self,
        name: &'static str,
        length: usize,
        visitor: S,
    ) -> Result<S::Value, Error> {
        self.note("tuple struct", &[name])?;
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_map<S: Visitor<'de>>(mut self, visitor: S) -> Result<S::Value, Error> {
        self.note("map", &[])?;
        visitor.visit_map(OneEntry { walk: self.walk, depth: self.depth, left: 1 })
    }

    fn deserialize_struct<S: Visitor<'de>>(
        mut self,
        name: &'static str,
        fields: Names,
        visitor: S,
    ) -> Result<S::Value, Error> {
        self.note("struct", &[name])?;
        self.note("fields", fields)?;
        let owner = Owner { type_name: type_name::<S::Value>(), member: name };
        self.walk.enter(owner.type_name)?;
        let value = visitor.visit_map(Fields {
            walk: &mut *self.walk,
            depth: self.depth,
            owner,
            left: fields,
            present: None,
        })?;
        self.walk.around.pop();
        Ok(value)
    }

    fn deserialize_enum<S: Visitor<'de>>(
        mut self,
        name: &'static str,
        variants: Names,
        visitor: S,
    ) -> Result<S::Value, Error> {
        self.note("enum", &[name])?;
        self.note("variants", variants)?;
        self.walk.enter(type_name::<S::Value>())?;
        let variant = self.walk.variant(type_name::<S::Value>(), variants)?;
        self.note("variant", &[variant])?;
        let value = visitor.visit_enum(Variant { walk: &mut *self.walk, depth: self.depth, variant })?;
        self.walk.around.pop();
        Ok(value)
    }

    fn is_human_readable(&self) -> bool {
        self.walk.form == Form::Readable
    }
}

struct Elements<'a> {
    walk: &'a mut Walk,
    depth: usize,
    left: usize,
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        seed.deserialize(Tracer { walk: self.walk, depth: self.depth + 1 }).map(Some)
    }
}

struct OneEntry<'a> {
    walk: &'a mut Walk,
    depth: usize,
    left: usize,
}

impl<'de> MapAccess<'de> for OneEntry<'_> {
    type Error = Error;

    fn next_key_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        seed.deserialize(Tracer { walk: self.walk, depth: self.depth + 1 }).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(Tracer { walk: self.walk, depth: self.depth + 1 })
    }
}

struct Fields<'a> {
    walk: &'a mut Walk,
    depth: usize,
    owner: Owner,
    left: Names,
    present: Option<&'static str>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        while let Some((field, left)) = self.left.split_first() {
            self.left = left;
            if self.walk.skipped.contains(&(self.owner, *field)) {
                continue;
            }
            self.present = Some(*field);
            let name: StrDeserializer<'_, Error> = (*field).into_deserializer();
            return seed.deserialize(name).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        let field = self.present.take().ok_or_else(|| Error::custom("value before its key"))?;
        self.walk.note("field", &[field])?;
        let value = seed.deserialize(Tracer { walk: &mut *self.walk, depth: self.depth + 1 });
        if value.is_err() {
            self.walk.refuse(self.owner, field);
        }
        value
    }
}

struct Variant<'a> {
    walk: &'a mut Walk,
    depth: usize,
    variant: &'static str,
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), Error> {
        let name: StrDeserializer<'_, Error> = self.variant.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        self.walk.note("unit variant", &[])
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        self.walk.note("newtype variant", &[])?;
        seed.deserialize(Tracer { walk: self.walk, depth: self.depth + 1 })
    }

    fn tuple_variant<S: Visitor<'de>>(self, length: usize, visitor: S) -> Result<S::Value, Error> {
        Tracer { walk: self.walk, depth: self.depth }.deserialize_tuple(length, visitor)
    }

    fn struct_variant<S: Visitor<'de>>(self, fields: Names, visitor: S) -> Result<S::Value, Error> {
        self.walk.note("fields", fields)?;
        let owner = Owner { type_name: type_name::<S::Value>(), member: self.variant };
        visitor.visit_map(Fields { walk: self.walk, depth: self.depth, owner, left: fields, present: None })
    }
}
