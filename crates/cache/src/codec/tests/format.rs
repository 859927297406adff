//! The bytes of each format ever released, by codec. A line here is never changed: what it says may be
//! in a tier when the next release starts.

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::{Account, fields, tags};
use crate::codec::{Codec, Opened, Schema, SealedFields};

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Both ways: this release writes these bytes, and reads them.
fn check<V: PartialEq + std::fmt::Debug + Clone>(codec: &Codec<V>, value: Option<V>, hex: &str) {
    check_fields(codec, value, &fields(&tags()), hex);
}

fn check_fields<V>(codec: &Codec<V>, value: Option<V>, fields: &SealedFields<'_>, hex: &str)
where
    V: PartialEq + std::fmt::Debug + Clone,
{
    let sealed = codec.seal(fields, value.as_ref()).unwrap();
    assert_eq!(hex_of(&sealed), hex_of(&bytes_of(hex)));
    check_read_fields(codec, value, fields, hex);
}

#[cfg(any(feature = "lz4", feature = "zstd"))]
fn check_read<V: PartialEq + std::fmt::Debug>(codec: &Codec<V>, value: Option<V>, hex: &str) {
    check_read_fields(codec, value, &fields(&tags()), hex);
}

fn check_read_fields<V>(codec: &Codec<V>, value: Option<V>, fields: &SealedFields<'_>, hex: &str)
where
    V: PartialEq + std::fmt::Debug,
{
    let SealedFields { key, incarnation, stamp, version, grace, lifetime, tags, validator } = *fields;
    let (tags, validator) = (tags.to_vec(), validator.map(Into::into));
    let expected = Opened { value, incarnation, stamp, version, grace, lifetime, tags, validator };
    assert_eq!(codec.open(key, &bytes_of(hex)), Ok(expected));
}

#[cfg(feature = "messagepack")]
#[test]
fn format_1_messagepack() {
    check(
        &Codec::messagepack(),
        Some(super::account()),
        "50010103110b3f320102030405060708ac02a0c1c1ea1890bf0502056f72673a3705c3a974c3a905 \
         572f22352285a2696407a56f776e6572a3416461a66c696d6974739201ce00011170a57374617465 \
         81a6436c6f73656481a6726561736f6ea961736b656420666f72a56e6f74657381a56669727374ff \
         3c8aeb17512442e2",
    );
}

#[cfg(feature = "json")]
#[test]
fn format_1_json() {
    check(
        &Codec::json(),
        Some(super::account()),
        "50010203110b3f320102030405060708ac02a0c1c1ea1890bf0502056f72673a3705c3a974c3a905 \
         572f2235227b226964223a372c226f776e6572223a22416461222c226c696d697473223a5b312c37 \
         303030305d2c227374617465223a7b22436c6f736564223a7b22726561736f6e223a2261736b6564 \
         20666f72227d7d2c226e6f746573223a7b226669727374223a2d317d7d1c993e58beeeadba",
    );
}

#[test]
fn format_1_raw() {
    check(
        &Codec::raw(),
        Some(Bytes::from_static(b"bytes")),
        "50010303883214730102030405060708ac02a0c1c1ea1890bf0502056f72673a3705c3a974c3a905 \
         572f2235226279746573f426a1301d57b8f1",
    );
}

#[test]
fn format_1_nothing() {
    check(
        &Codec::<Bytes>::raw(),
        None,
        "50010302883214730102030405060708ac02a0c1c1ea1890bf0502056f72673a3705c3a974c3a905 \
         572f22352284486c4fd4f8ad69",
    );
}

/// Since values tell how long they were given: said by a flag, so that those that do not are read as before.
#[test]
fn format_1_lifetime() {
    let tags = tags();
    check_fields(
        &Codec::raw(),
        Some(Bytes::from_static(b"bytes")),
        &SealedFields { lifetime: Some(std::time::Duration::from_secs(150)), ..fields(&tags) },
        "50010313883214730102030405060708ac02a0c1c1ea1890bf05f0930902056f72673a3705c3a974 \
         c3a905572f22352262797465739a8554ea39495467",
    );
}

// What a compressor writes is its own affair; what it wrote must be read.
#[cfg(feature = "lz4")]
#[test]
fn format_1_lz4() {
    check_read(
        &Codec::raw(),
        Some("abc".repeat(100)),
        "50010307883214730102030405060708ac02a0c1c1ea1890bf0502056f72673a3705c3a974c3a905 \
         572f223522ac023f6162630300ff11606162636162636c8acb6c2d633345",
    );
}

#[cfg(feature = "zstd")]
#[test]
fn format_1_zstd() {
    check_read(
        &Codec::raw(),
        Some("abc".repeat(100)),
        "5001030b883214730102030405060708ac02a0c1c1ea1890bf0502056f72673a3705c3a974c3a905 \
         572f223522ac0228b52ffd602c0055000018616263010026aa6e0844be4b83b2eae601",
    );
}

/// Fingerprints are in the bytes, so they must not move either.
#[test]
fn schemas_of_format_1() {
    fn check(schema: Schema, hex: &str) {
        assert_eq!(hex_of(&schema.to_be_bytes()), hex_of(&bytes_of(hex)));
    }
    fn shape<V: DeserializeOwned>() -> Schema {
        Schema::of::<V>()
    }
    check(Schema::named("account", 1), "b8c05740");
    check(Schema::named("account", 1).with_revision(1), "14371fb4");
    check(shape::<Account>(), "110b3f32");
    check(shape::<Vec<Option<u64>>>(), "04dac7f0");
}
