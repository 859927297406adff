//! Damaged bytes are poison: every flipped bit, every cut, and bytes whose checksum holds although they
//! were never sealed.

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

use super::{Account, account, codecs, compressions, fields, tags};
use crate::codec::{Codec, Poisoned, SealedFields, envelope};

const KEY: &[u8] = b"account:7";

type Open = dyn Fn(&[u8]) -> Result<(), Poisoned>;

/// Bytes that are good, and what reads them.
struct Case {
    name: String,
    sealed: Vec<u8>,
    open: Box<Open>,
}

impl Case {
    fn new<V: 'static>(name: String, codec: Codec<V>, fields: &SealedFields<'_>, value: &V) -> Self {
        let sealed = codec.seal(fields, Some(value)).unwrap().to_vec();
        Self { name, sealed, open: Box::new(move |bytes| codec.open(KEY, bytes).map(drop)) }
    }
}

/// Every codec and compression of this build.
fn cases() -> Vec<Case> {
    let value = Account { owner: "a".repeat(200).into(), ..account() };
    let tags = tags();
    let mut cases = Vec::new();
    for codec in codecs() {
        for compression in compressions() {
            let codec = codec.clone().compress(compression, 0);
            cases.push(Case::new(format!("{codec:?}"), codec, &fields(&tags), &value));
        }
    }
    let bare = SealedFields { key: KEY, ..SealedFields::default() };
    cases.push(Case::new("raw".to_owned(), Codec::raw(), &bare, &"value".to_owned()));
    cases
}

/// With a checksum that holds, as somebody would write it who knows how.
fn resealed(covered: &[u8]) -> Vec<u8> {
    [covered, &envelope::checksum(KEY, covered)].concat()
}

#[test]
fn every_flipped_bit_is_poison() {
    for Case { name, sealed, open } in cases() {
        assert_eq!(open(&sealed), Ok(()), "{name}");
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&bad).is_err(), "{name}: bit {bit}");
        }
    }
}

#[test]
fn every_cut_and_everything_longer_is_poison() {
    for Case { name, sealed, open } in cases() {
        for length in 0..sealed.len() {
            assert!(open(&sealed[..length]).is_err(), "{name}: first {length}");
            assert!(open(&sealed[sealed.len() - length..]).is_err(), "{name}: last {length}");
        }
        assert!(open(&[&*sealed, &[0]].concat()).is_err(), "{name}: longer");
        assert!(open(&[&*sealed, &*sealed].concat()).is_err(), "{name}: twice");
    }
}

#[test]
fn cut_fields_are_poison_even_with_a_checksum_that_holds() {
    for Case { name, sealed, open } in cases() {
        let covered = &sealed[..sealed.len() - 8];
        assert_eq!(open(&resealed(covered)), Ok(()), "{name}");
        // A raw text may be cut anywhere and is still one.
        for length in 0..covered.len() - if name == "raw" { b"value".len() } else { 0 } {
            assert!(open(&resealed(&covered[..length])).is_err(), "{name}: {length}");
        }
    }
}

#[test]
fn random_bytes_never_panic() {
    let mut random = StdRng::seed_from_u64(0x5eed);
    for Case { name, sealed, open } in cases() {
        for round in 0..20_000 {
            let mut bytes = sealed[..sealed.len() - 8].to_vec();
            let from = if round % 2 == 0 { random.random_range(0..bytes.len()) } else { 0 };
            let to = random.random_range(from..=bytes.len());
            match round % 4 {
                0 | 1 => random.fill_bytes(&mut bytes[from..to]),
                2 => bytes.truncate(to),
                _ => bytes[random.random_range(4..20)] = random.random(),
            }
            // Whatever comes of it, it is an answer.
            let _answer = open(&bytes);
            let _answer = open(&resealed(&bytes));
        }
        assert_eq!(open(&sealed), Ok(()), "{name} still opens what is good");
    }
}

#[test]
fn flags_that_contradict_each_other_are_poison() {
    let raw = Codec::<Vec<u8>>::raw();
    let sealed = raw.seal(&SealedFields { key: KEY, ..SealedFields::default() }, None).unwrap();
    let covered = &sealed[..sealed.len() - 8];
    let with = |flags: u8, rest: &[u8]| {
        let mut bytes = [covered, rest].concat();
        bytes[3] = flags;
        raw.open(KEY, &resealed(&bytes)).map(|opened| opened.value)
    };
    assert_eq!(with(0, b""), Ok(None));
    assert_eq!(with(0, b"x"), Err(Poisoned::Fields), "nothing, and bytes of it");
    assert_eq!(with(1, b""), Ok(Some(Vec::new())));
    assert_eq!(with(2, b""), Err(Poisoned::Fields), "a validator that is not there");
    assert_eq!(with(4, b""), Err(Poisoned::Fields), "nothing, compressed");
    assert_eq!(with(1 | 4 | 8, b"\0"), Err(Poisoned::Fields), "compressed in two ways");
    assert_eq!(with(1 | 16, b""), Err(Poisoned::Fields), "a flag of later releases");
    let endless = [0xff; 11];
    assert_eq!(with(1 | 4, &endless), Err(Poisoned::Fields), "a size without end");
    let too_many_bits = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02";
    assert_eq!(with(1 | 4, too_many_bits), Err(Poisoned::Fields), "a size beyond 64 bits");
    assert_eq!(with(1 | 4, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), Err(Poisoned::TooLarge));
}

#[cfg(any(feature = "lz4", feature = "zstd"))]
#[test]
fn decompression_bomb_is_poison() {
    use crate::codec::compression::Packing;

    const MAX: usize = 1 << 20;
    /// Seals `packed` with a size that may be a lie.
    fn check(packing: Packing, packed: &[u8], declared_bytes: usize) -> Poisoned {
        let codec = Codec::<Vec<u8>>::raw().value_bytes_max(MAX);
        let sealed = codec.seal(&SealedFields { key: KEY, ..SealedFields::default() }, None).unwrap();
        let mut bytes = sealed[..sealed.len() - 8].to_vec();
        bytes[3] = 1 | if packing == Packing::Lz4 { 4 } else { 8 };
        let mut size = declared_bytes;
        while size > 0x7f {
            bytes.push(u8::try_from(size & 0x7f).unwrap() | 0x80);
            size >>= 7;
        }
        bytes.push(u8::try_from(size).unwrap());
        bytes.extend(packed);
        codec.open(KEY, &resealed(&bytes)).unwrap_err()
    }
    let zeros = vec![0; 64 * MAX];
    for compression in compressions() {
        let Some((packing, packed)) = compression.pack(&zeros) else { continue };
        let (_, few) = compression.pack(&zeros[..1000]).unwrap();
        assert_eq!(check(packing, &few, 1001), Poisoned::Undecodable, "{packing:?}: says it is a byte more");
        assert_eq!(check(packing, &packed, zeros.len()), Poisoned::TooLarge, "{packing:?}: says it is large");
        assert_eq!(check(packing, &packed, MAX), Poisoned::Undecodable, "{packing:?}: says it is small");
        assert_eq!(check(packing, &packed, 0), Poisoned::Undecodable, "{packing:?}: says it is empty");
        assert_eq!(
            check(packing, &packed[..9], MAX),
            Poisoned::Undecodable,
            "{packing:?}: promises too much"
        );
    }
}
