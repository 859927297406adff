//! What is sealed is opened as it was, by the codec that sealed it and by no other.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{Account, Backwards, account, codecs, compressions, fields, tags};
use crate::{
    Version,
    codec::{
        Codec, CodecError, Compression, Encoding, EncodingError, Opened, Poisoned, Schema, SealedFields,
        TAG_BYTES_MAX, TAGS_MAX, VALIDATOR_BYTES_MAX,
    },
};

const KEY: &[u8] = b"account:7";

fn seal<V>(codec: &Codec<V>, value: &V) -> Bytes {
    codec.seal(&SealedFields { key: KEY, ..SealedFields::default() }, Some(value)).unwrap()
}

fn read<V>(codec: &Codec<V>, sealed: &[u8]) -> Result<Option<V>, Poisoned> {
    codec.open(KEY, sealed).map(|opened| opened.value)
}

#[test]
fn every_field_is_read_back_with_every_codec() {
    fn check(codec: &Codec<Account>) {
        let tags = tags();
        for value in [None, Some(account())] {
            let sealed = codec.seal(&fields(&tags), value.as_ref()).unwrap();
            let expected = Opened {
                value,
                incarnation: 0x0102_0304_0506_0708,
                stamp: 300,
                version: Version(0x01_8d50_60a0),
                grace: Duration::from_secs(90),
                lifetime: None,
                tags: tags.to_vec(),
                validator: Some("W/\"5\"".into()),
            };
            assert_eq!(codec.open(KEY, &sealed), Ok(expected));
        }
    }
    for compression in compressions() {
        for codec in codecs() {
            check(&codec.compress(compression, 0));
        }
    }
}

#[test]
fn largest_fields_are_read_back() {
    let long = [Arc::from("t".repeat(TAG_BYTES_MAX)), Arc::from("")];
    let tags: Vec<Arc<str>> = long.into_iter().cycle().take(TAGS_MAX).collect();
    let validator = "v".repeat(VALIDATOR_BYTES_MAX);
    let fields = SealedFields {
        key: KEY,
        incarnation: u64::MAX,
        stamp: u64::MAX,
        version: Version::LATEST,
        grace: Duration::MAX,
        lifetime: Some(Duration::MAX),
        tags: &tags,
        validator: Some(&validator),
    };
    let codec = Codec::<Bytes>::raw();
    let opened = codec.open(KEY, &codec.seal(&fields, Some(&Bytes::new())).unwrap()).unwrap();
    assert_eq!((opened.incarnation, opened.stamp, opened.version), (u64::MAX, u64::MAX, Version::LATEST));
    assert_eq!(opened.grace, Duration::from_millis(u64::MAX));
    assert_eq!(opened.lifetime, Some(Duration::from_millis(u64::MAX)));
    assert_eq!((opened.tags, opened.validator.as_deref()), (tags, Some(&*validator)));
    assert_eq!(opened.value, Some(Bytes::new()), "an empty value is not nothing");
}

#[test]
fn fields_out_of_bounds_are_refused() {
    fn check(tags: &[Arc<str>], validator: Option<&str>) -> CodecError {
        let fields = SealedFields { tags, validator, ..SealedFields::default() };
        Codec::<Bytes>::raw().seal(&fields, None).unwrap_err()
    }
    let tag: Arc<str> = "t".into();
    assert!(matches!(check(&vec![Arc::clone(&tag); TAGS_MAX + 1], None), CodecError::TooManyTags));
    assert!(matches!(check(&vec![tag; 300], None), CodecError::TooManyTags));
    assert!(matches!(check(&["t".repeat(TAG_BYTES_MAX + 1).into()], None), CodecError::TagTooLong));
    let validator = "v".repeat(VALIDATOR_BYTES_MAX + 1);
    assert!(matches!(check(&[], Some(&validator)), CodecError::ValidatorTooLong));
}

#[test]
fn value_over_the_limit_is_neither_sealed_nor_opened() {
    let (wide, narrow) = (Codec::<Vec<u8>>::raw().value_bytes_max(101), Codec::raw().value_bytes_max(100));
    let value = vec![7; 101];
    let fields = SealedFields { key: KEY, ..SealedFields::default() };
    let refused = narrow.seal(&fields, Some(&value)).unwrap_err();
    assert!(matches!(refused, CodecError::TooLarge { bytes: 101, max: 100 }));
    for compression in compressions() {
        let sealed = seal(&wide.clone().compress(compression, 50), &value);
        assert_eq!(read(&narrow, &sealed), Err(Poisoned::TooLarge), "{compression:?}");
        assert_eq!(read(&wide, &sealed), Ok(Some(value.clone())), "{compression:?}");
    }
}

#[test]
fn only_large_values_that_shrink_are_compressed() {
    for compression in compressions().into_iter().filter(|chosen| *chosen != Compression::None) {
        let codec = Codec::<Vec<u8>>::raw().compress(compression, 1024);
        let plain = |value: &Vec<u8>| seal(&Codec::raw(), value).len();
        let noise: Vec<u8> = (0..2048).map(|_| rand::random()).collect();
        for (value, shrinks) in [(vec![7; 1024], false), (vec![7; 1025], true), (noise, false)] {
            let sealed = seal(&codec, &value);
            let plain = plain(&value);
            assert!(sealed.len() <= plain, "{compression:?} made more of {plain} bytes");
            assert_eq!(sealed.len() < plain, shrinks, "{compression:?}, {} bytes", value.len());
            assert_eq!(read(&Codec::raw(), &sealed), Ok(Some(value)), "{compression:?}");
        }
    }
}

#[test]
fn value_of_another_key_type_codec_or_revision_is_poison() {
    let codec = Codec::<String>::custom(Schema::named("text", 1), Backwards);
    let sealed = seal(&codec, &"value".to_owned());
    assert_eq!(codec.open(b"account:8", &sealed), Err(Poisoned::Checksum));
    assert_eq!(codec.open(b"", &sealed), Err(Poisoned::Checksum));
    assert_eq!(read(&codec.clone().revision(1), &sealed), Err(Poisoned::Schema));
    assert_eq!(read(&codec.clone().schema(Schema::named("text", 2)), &sealed), Err(Poisoned::Schema));
    assert_eq!(read(&codec.schema(Schema::named("test", 1)), &sealed), Err(Poisoned::Schema));
    assert_eq!(
        read(&Codec::<String>::raw().schema(Schema::named("text", 1)), &sealed),
        Err(Poisoned::Schema)
    );
}

#[cfg(all(feature = "messagepack", feature = "json"))]
#[test]
fn what_an_older_release_wrote_is_converted() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Before {
        cents: u32,
    }
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct After {
        mills: u64,
    }
    let before = Codec::<Before>::json();
    let sealed = seal(&before, &Before { cents: 5 });
    let after = Codec::<After>::messagepack();
    assert_eq!(read(&after, &sealed), Err(Poisoned::Schema));

    let convert = |old: Before| (old.cents < 100).then(|| After { mills: u64::from(old.cents) * 10 });
    let both = after.reads_also(before.clone(), convert);
    assert_eq!(read(&both, &sealed), Ok(Some(After { mills: 50 })));
    assert_eq!(read(&both, &seal(&both, &After { mills: 7 })), Ok(Some(After { mills: 7 })));
    assert_eq!(read(&both, &seal(&before, &Before { cents: 100 })), Err(Poisoned::Undecodable));
    let third = before.revision(1);
    assert_eq!(read(&both, &seal(&third, &Before { cents: 5 })), Err(Poisoned::Schema));
}

/// Panics or misbehaves on certain values.
struct Moody;

impl Encoding<u8> for Moody {
    fn encode(&self, value: &u8, out: &mut Vec<u8>) -> Result<(), EncodingError> {
        match value {
            0 => panic!("zero"),
            1 => Err("one".into()),
            2 => {
                out.clear();
                Ok(())
            }
            _ => {
                out.push(*value);
                Ok(())
            }
        }
    }

    fn decode(&self, bytes: &[u8]) -> Option<u8> {
        assert_ne!(bytes, [3], "three");
        bytes.first().copied()
    }
}

#[test]
fn encoding_that_panics_or_refuses_harms_nobody() {
    let codec = Codec::custom(Schema::named("moody", 1), Moody);
    let fields = SealedFields { key: KEY, ..SealedFields::default() };
    assert!(matches!(codec.seal(&fields, Some(&0)), Err(CodecError::Panicked)));
    assert!(matches!(codec.seal(&fields, Some(&1)), Err(CodecError::Encoding(_))));
    assert!(matches!(codec.seal(&fields, Some(&2)), Err(CodecError::Encoding(_))));
    assert_eq!(read(&codec, &seal(&codec, &3)), Err(Poisoned::Undecodable));
    assert_eq!(read(&codec, &seal(&codec, &4)), Ok(Some(4)));
}

#[cfg(feature = "messagepack")]
#[test]
fn value_with_something_behind_it_is_none() {
    let sealed = seal(&Codec::raw().schema(Schema::named("x", 1)), &vec![1_u8, 2]);
    let one = Codec::<u8>::messagepack();
    assert_eq!(one.encoding.decode(&[1]), Some(1));
    assert_eq!(one.encoding.decode(&[1, 2]), None);
    assert_eq!(read(&one, &sealed), Err(Poisoned::Schema));
}
