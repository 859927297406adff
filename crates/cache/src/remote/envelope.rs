//! The bytes of a value in the remote tier: version of the format, codec, checksum, payload.
//! Bad bytes are never an error of the caller: whatever cannot be read is `Poisoned`, which is
//! counted as a miss and overwritten. Called by `consult`.
//!
//! ```text
//! 0 'P'   1 format   2 codec   3 kind (0 nothing, 1 value)   4..8 CRC-32   8.. payload
//! ```
//! The checksum covers the key, the header and the payload, so that a value under another key's
//! name is noticed as well. The remaining life is kept by the tier, with the tier's own clock.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

const MAGIC: u8 = b'P';
const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 8;

/// How values of one type become bytes and back. A pair of functions rather than a trait bound, so
/// that a cache without a remote tier can hold values that cannot be serialized.
pub(crate) struct Codec<V> {
    id: u8,
    encode: fn(&V) -> Option<Vec<u8>>,
    decode: fn(&[u8]) -> Option<V>,
}

impl<V> Clone for Codec<V> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<V: Serialize + DeserializeOwned> Codec<V> {
    pub(crate) fn json() -> Self {
        Self {
            id: 1,
            encode: |value| serde_json::to_vec(value).ok(),
            decode: |bytes| serde_json::from_slice(bytes).ok(),
        }
    }
}

/// Bytes that are not a value of this cache as this release writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("bytes are not a value of this cache")]
pub(crate) struct Poisoned;

/// The value as bytes, or `None` if its own `Serialize` refuses.
pub(crate) fn seal<V>(codec: &Codec<V>, key: &[u8], value: Option<&V>) -> Option<Bytes> {
    let payload = value.map_or_else(|| Some(Vec::new()), codec.encode)?;
    let mut sealed = Vec::with_capacity(HEADER_BYTES + payload.len());
    sealed.extend([MAGIC, FORMAT, codec.id, u8::from(value.is_some())]);
    let sum = checksum(key, [&sealed, &payload]);
    sealed.extend(sum.to_be_bytes());
    sealed.extend(payload);
    Some(sealed.into())
}

/// The value in the bytes.
pub(crate) fn open<V>(codec: &Codec<V>, key: &[u8], sealed: &[u8]) -> Result<Option<V>, Poisoned> {
    let (header, payload) = sealed.split_at_checked(HEADER_BYTES).ok_or(Poisoned)?;
    let (fields, sum) = header.split_at(4);
    if sum != checksum(key, [fields, payload]).to_be_bytes() {
        return Err(Poisoned);
    }
    match *fields {
        [MAGIC, FORMAT, id, 0] if id == codec.id => Ok(None),
        [MAGIC, FORMAT, id, 1] if id == codec.id => (codec.decode)(payload).map(Some).ok_or(Poisoned),
        _ => Err(Poisoned),
    }
}

fn checksum(key: &[u8], parts: [&[u8]; 2]) -> u32 {
    let sum = [key, parts[0], parts[1]].into_iter().fold(u32::MAX, crc32);
    !sum
}

/// CRC-32 (IEEE 802.3), a byte at a time: values are small and this runs beside a network round trip.
fn crc32(sum: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(sum, |sum, byte| {
        let [low, ..] = sum.to_le_bytes();
        (sum >> 8) ^ CRC_TABLE[usize::from(low ^ byte)]
    })
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    let mut start = 0_u32;
    while index < table.len() {
        let mut sum = start;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 };
            bit += 1;
        }
        table[index] = sum;
        index += 1;
        start += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn codec() -> Codec<String> {
        Codec::json()
    }

    #[test]
    fn checksum_is_the_one_everybody_knows() {
        assert_eq!(checksum(b"1234", [b"56", b"789"]), 0xcbf4_3926);
    }

    #[test]
    fn value_and_nothing_are_read_back() {
        for value in [None, Some("x".to_owned())] {
            let sealed = seal(&codec(), b"key", value.as_ref()).unwrap();
            assert_eq!(open(&codec(), b"key", &sealed), Ok(value));
        }
    }

    #[test]
    fn first_released_bytes_are_still_read() {
        let sealed = b"P\x01\x01\x01\x0b\x7c\x8d\xf2\"x\"";
        let expected = checksum(b"key", [b"P\x01\x01\x01", b"\"x\""]).to_be_bytes();
        assert_eq!(sealed[4..8], expected);
        assert_eq!(open(&codec(), b"key", sealed), Ok(Some("x".to_owned())));
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_poison() {
        let sealed = seal(&codec(), b"key", Some(&"value".to_owned())).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&codec(), b"key", &bad), Err(Poisoned), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert_eq!(open(&codec(), b"key", &sealed[..length]), Err(Poisoned), "length {length}");
        }
    }

    #[test]
    fn value_of_another_key_type_or_codec_is_poison() {
        let sealed = seal(&codec(), b"key", Some(&"value".to_owned())).unwrap();
        assert_eq!(open(&codec(), b"other", &sealed), Err(Poisoned));
        assert_eq!(open(&Codec::<u64>::json(), b"key", &sealed), Err(Poisoned));
        assert_eq!(open(&Codec { id: 2, ..codec() }, b"key", &sealed), Err(Poisoned));
    }
}
