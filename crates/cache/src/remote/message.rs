//! The messages that nodes exchange, as bytes. Carries keys and versions, never values.
//! A message that cannot be read is told apart from none: the reader must then assume the worst.
//! Written by `courier`, read by the tier's subscription, judged by `peers`.
//!
//! ```text
//! "PB" format kind | origin u64 | sequence u64 | sent_us u64 | cache
//! then, by kind: 1 count u64, count x (version u64, key) | 2 version u64 | 3, 4 nothing
//! ```
//! A cache or a key is a length u32 and its bytes; numbers are big-endian. Bytes after the last field are an error, so that a longer message of a
//! later release is not taken for a shorter one.

use bytes::Bytes;

use crate::Version;

const MAGIC: [u8; 2] = *b"PB";
const FORMAT: u8 = 1;

/// What one node tells the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// Who says it: a number drawn when the cache was built.
    pub(crate) origin: u64,
    /// Rises by one with each message that changes something; a heartbeat repeats the last.
    pub(crate) sequence: u64,
    /// When it was sent, by the sender's clock. Means something to the sender alone.
    pub(crate) sent_us: u64,
    /// Which cache it is about.
    pub(crate) cache: String,
    pub(crate) body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// These keys changed; loads of each must reflect its version.
    Invalidate(Vec<(Bytes, Version)>),
    /// Everything is void; loads must reflect the version.
    Clear(Version),
    /// The sender lives, and has sent nothing since `sequence`.
    Heartbeat,
    /// The sender stops for good and owes nothing.
    Goodbye,
}

/// Bytes that are not a message of this release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("message cannot be read")]
pub(crate) struct Unreadable;

impl Message {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(64);
        out.extend(MAGIC);
        out.push(FORMAT);
        out.push(self.body.kind());
        for number in [self.origin, self.sequence, self.sent_us] {
            out.extend(number.to_be_bytes());
        }
        put(&mut out, self.cache.as_bytes());
        match &self.body {
            Body::Invalidate(keys) => {
                out.extend((keys.len() as u64).to_be_bytes());
                for (key, version) in keys {
                    out.extend(version.0.to_be_bytes());
                    put(&mut out, key);
                }
            }
            Body::Clear(version) => out.extend(version.0.to_be_bytes()),
            Body::Heartbeat | Body::Goodbye => {}
        }
        out.into()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        let mut reader = Reader(bytes);
        if reader.array()? != MAGIC || reader.array()? != [FORMAT] {
            return Err(Unreadable);
        }
        let [kind] = reader.array()?;
        let (origin, sequence, sent_us) = (reader.number()?, reader.number()?, reader.number()?);
        let cache = String::from_utf8(reader.bytes()?.to_vec()).map_err(|_| Unreadable)?;
        let body = match kind {
            1 => Body::Invalidate(reader.keys()?),
            2 => Body::Clear(Version(reader.number()?)),
            3 => Body::Heartbeat,
            4 => Body::Goodbye,
            _ => return Err(Unreadable),
        };
        reader.0.is_empty().then_some(Self { origin, sequence, sent_us, cache, body }).ok_or(Unreadable)
    }
}

impl Body {
    fn kind(&self) -> u8 {
        match self {
            Self::Invalidate(_) => 1,
            Self::Clear(_) => 2,
            Self::Heartbeat => 3,
            Self::Goodbye => 4,
        }
    }
}

/// A length and the bytes. Names and keys are far below 4 GiB; a longer one would be unreadable,
/// which makes the receivers drop everything.
fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(bytes);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], Unreadable> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Unreadable)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn number(&mut self) -> Result<u64, Unreadable> {
        self.array().map(u64::from_be_bytes)
    }

    fn bytes(&mut self) -> Result<&'a [u8], Unreadable> {
        let length = usize::try_from(u32::from_be_bytes(self.array()?)).map_err(|_| Unreadable)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Unreadable)?;
        self.0 = rest;
        Ok(taken)
    }

    fn keys(&mut self) -> Result<Vec<(Bytes, Version)>, Unreadable> {
        // Grown as keys are found: a count that lies must not reserve memory.
        let mut keys = Vec::new();
        for _ in 0..self.number()? {
            let version = Version(self.number()?);
            keys.push((Bytes::copy_from_slice(self.bytes()?), version));
        }
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: Body) -> Message {
        Message { origin: 1, sequence: 2, sent_us: 3, cache: "accounts".to_owned(), body }
    }

    fn bodies() -> [Body; 5] {
        let keys = vec![(Bytes::from_static(b"k"), Version(7)), (Bytes::new(), Version::LATEST)];
        [
            Body::Invalidate(keys),
            Body::Invalidate(vec![]),
            Body::Clear(Version(9)),
            Body::Heartbeat,
            Body::Goodbye,
        ]
    }

    #[test]
    fn every_message_is_read_back() {
        for body in bodies() {
            assert_eq!(Message::decode(&message(body.clone()).encode()), Ok(message(body)));
        }
    }

    #[test]
    fn cut_or_lengthened_message_is_unreadable() {
        for body in bodies() {
            let bytes = message(body).encode();
            for length in 0..bytes.len() {
                assert_eq!(Message::decode(&bytes[..length]), Err(Unreadable), "{length}");
            }
            assert_eq!(Message::decode(&[&bytes[..], &[0]].concat()), Err(Unreadable));
        }
    }

    #[test]
    fn count_that_lies_reserves_no_memory() {
        let mut bytes = message(Body::Invalidate(vec![])).encode().to_vec();
        let count = bytes.len() - 8;
        bytes[count..].fill(0xff);
        assert_eq!(Message::decode(&bytes), Err(Unreadable));
    }
}
