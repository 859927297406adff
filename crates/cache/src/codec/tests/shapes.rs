//! Two types have the same fingerprint if and only if serde asks for the same when it reads them.

#![expect(dead_code, reason = "of most types here only the shape is read")]

use std::{collections::HashMap, num::NonZeroU8, sync::Arc};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::codec::Schema;

/// A type in a function of its own, so that names can be the same.
macro_rules! shape {
    ($($body:tt)*) => {{
        #[derive(Deserialize)]
        $($body)*
        Schema::of::<T>()
    }};
}

fn check_distinct(shapes: &[Schema]) {
    for (index, shape) in shapes.iter().enumerate() {
        assert_eq!(shapes.iter().position(|other| other == shape), Some(index), "shape {index} is not new");
    }
}

#[test]
fn same_shape_is_the_same_schema() {
    let shape = shape!(
        struct T {
            a: u32,
            b: Vec<String>,
        }
    );
    assert_eq!(
        shape,
        shape!(
            struct T {
                a: u32,
                b: Vec<String>,
            }
        )
    );
    assert_eq!(
        shape,
        shape!(
            struct T {
                a: Arc<u32>,
                b: Box<[Box<str>]>,
            }
        ),
        "pointers do not count"
    );
}

#[test]
fn every_change_of_a_struct_is_another_schema() {
    check_distinct(&[
        shape!(
            struct T {
                a: u32,
                b: u32,
            }
        ),
        shape!(
            struct T {
                b: u32,
                a: u32,
            }
        ),
        shape!(
            struct T {
                a: u32,
            }
        ),
        shape!(
            struct T {
                a: u32,
                b: u32,
                c: u32,
            }
        ),
        shape!(
            struct T {
                a: u32,
                c: u32,
            }
        ),
    ]);
}

#[test]
fn every_change_of_a_field_is_another_schema() {
    check_distinct(&[
        shape!(
            struct T {
                a: u32,
                b: u32,
            }
        ),
        shape!(
            struct T {
                a: u32,
                b: u64,
            }
        ),
        shape!(
            struct T {
                a: u32,
                b: i32,
            }
        ),
        shape!(
            struct T {
                a: u32,
                b: Option<u32>,
            }
        ),
        shape!(
            struct T {
                a: u32,
                b: Vec<u32>,
            }
        ),
        shape!(
            struct T {
                a: u32,
                b: (u32,),
            }
        ),
    ]);
}

#[test]
fn every_other_form_is_another_schema() {
    check_distinct(&[
        shape!(
            struct T {
                a: u32,
                b: u32,
            }
        ),
        shape!(
            struct T(u32, u32);
        ),
        shape!(
            struct T(u32);
        ),
        shape!(
            struct T;
        ),
        shape!(
            enum T {
                A,
                B,
            }
        ),
    ]);
}

#[test]
fn every_change_of_any_variant_is_another_schema() {
    check_distinct(&[
        shape!(
            enum T {
                A,
                B(u32),
                C { x: u32 },
            }
        ),
        shape!(
            enum T {
                B(u32),
                A,
                C { x: u32 },
            }
        ),
        shape!(
            enum T {
                A,
                B(u64),
                C { x: u32 },
            }
        ),
        shape!(
            enum T {
                A,
                B(u32),
                C { x: u64 },
            }
        ),
        shape!(
            enum T {
                A,
                B(u32),
                C { y: u32 },
            }
        ),
        shape!(
            enum T {
                A,
                B(u32, u32),
                C { x: u32 },
            }
        ),
        shape!(
            enum T {
                A,
                B,
                C { x: u32 },
            }
        ),
        shape!(
            enum T {
                A,
                B(u32),
                C { x: u32 },
                D,
            }
        ),
    ]);
}

#[test]
fn change_deep_inside_is_seen() {
    #[derive(Deserialize)]
    enum Kind<V> {
        Plain,
        Nested { deep: Vec<Option<V>> },
    }
    #[derive(Deserialize)]
    struct Outer<V> {
        map: HashMap<u64, Kind<V>>,
        other: Kind<u8>,
    }
    check_distinct(&[
        Schema::of::<Outer<u16>>(),
        Schema::of::<Outer<u32>>(),
        Schema::of::<Outer<String>>(),
        Schema::of::<Outer<(u16, u16)>>(),
    ]);
    check_distinct(&[
        Schema::of::<Kind<Kind<u8>>>(),
        Schema::of::<Kind<Kind<u16>>>(),
        Schema::of::<Outer<Outer<u8>>>(),
        Schema::of::<Outer<Outer<u16>>>(),
    ]);
}

#[test]
fn field_that_takes_no_sample_hides_nothing_behind_it() {
    /// Takes neither `1` nor anything else that is tried.
    #[derive(Serialize)]
    struct Picky;
    impl<'de> Deserialize<'de> for Picky {
        fn deserialize<D: serde::Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
            let text = String::deserialize(reader)?;
            (text == "picky").then_some(Self).ok_or_else(|| serde::de::Error::custom("not picky"))
        }
    }
    #[derive(Deserialize)]
    struct Inner<V> {
        first: Picky,
        second: Picky,
        third: V,
    }
    #[derive(Deserialize)]
    struct Outer<A, B> {
        inner: Inner<A>,
        few: NonZeroU8,
        last: B,
    }
    check_distinct(&[
        Schema::of::<Outer<u8, u8>>(),
        Schema::of::<Outer<u16, u8>>(),
        Schema::of::<Outer<u8, u16>>(),
        Schema::of::<Inner<Option<u8>>>(),
        Schema::of::<Inner<u8>>(),
    ]);
}

#[test]
fn type_inside_itself_has_a_schema() {
    #[derive(Deserialize)]
    struct Tree<V> {
        left: Option<Box<Tree<V>>>,
        right: Vec<Tree<V>>,
        leaf: V,
    }
    #[derive(Deserialize)]
    enum Expression<V> {
        Sum(Box<Expression<V>>, Box<Expression<V>>),
        Not(Box<Expression<V>>),
        Leaf(V),
    }
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Nameless(Vec<Nameless>);
    check_distinct(&[
        Schema::of::<Tree<u8>>(),
        Schema::of::<Tree<u16>>(),
        Schema::of::<Expression<u8>>(),
        Schema::of::<Expression<u16>>(),
        Schema::of::<Nameless>(),
    ]);
}

#[test]
fn type_that_panics_on_samples_has_a_schema() {
    #[derive(Debug, PartialEq)]
    struct Panics;
    impl<'de> Deserialize<'de> for Panics {
        fn deserialize<D: serde::Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
            let number = u64::deserialize(reader)?;
            panic!("not for {number}")
        }
    }
    assert_eq!(Schema::of::<Panics>(), Schema::of::<Panics>());
    assert_ne!(Schema::of::<Panics>(), Schema::of::<Vec<Panics>>());
}

#[test]
fn types_with_two_spellings_have_two_schemas() {
    fn check<V: DeserializeOwned>(differs: bool) {
        assert_eq!(Schema::of::<V>() != Schema::of_readable::<V>(), differs);
    }
    check::<std::net::Ipv4Addr>(true);
    check::<u32>(false);
}

#[test]
fn name_version_and_revision_all_count() {
    let named = Schema::named("account", 1);
    check_distinct(&[
        named,
        Schema::named("account", 2),
        Schema::named("accounts", 1),
        named.with_revision(0),
        named.with_revision(1),
        Schema::named("account", 2).with_revision(1),
    ]);
}
