//! Reading and writing of the bytes that nodes exchange, and the pulse, which is the smallest of them.
//! Bytes that cannot be read are told apart from none: the reader must then assume the worst.
//!
//! ```text
//! pulse: "PP" format u8 | origin u64 | sent_us u64 | leaving u8
//! ```

use bytes::Bytes;

/// Bytes that this release does not write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("bytes cannot be read")]
pub struct Unreadable;

/// A length and the bytes. Names and keys are far below 4 GiB; a longer one would be unreadable.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(bytes);
}

/// What is left to be read.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], Unreadable> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Unreadable)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn number(&mut self) -> Result<u64, Unreadable> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn count(&mut self) -> Result<u32, Unreadable> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Unreadable> {
        let length = usize::try_from(self.count()?).map_err(|_| Unreadable)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Unreadable)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn end(self) -> Result<(), Unreadable> {
        if self.0.is_empty() { Ok(()) } else { Err(Unreadable) }
    }
}

const PULSE: [u8; 3] = *b"PP\x01";

/// A sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pulse {
    /// Who lives: a number drawn when its cache was built.
    pub(crate) origin: u64,
    /// When it was sent, by the sender's clock. Means something to the sender alone.
    pub(crate) sent_us: u64,
    pub(crate) stays: Stays,
}

/// Whether more is to come from whoever sent a pulse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stays {
    Yes,
    /// It owes nothing, and its silence means nothing.
    No,
}

impl Pulse {
    pub(crate) fn encode(self) -> Bytes {
        let mut out = Vec::with_capacity(20);
        out.extend(PULSE);
        out.extend(self.origin.to_be_bytes());
        out.extend(self.sent_us.to_be_bytes());
        out.push(u8::from(self.stays == Stays::No));
        out.into()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        let mut reader = Reader(bytes);
        if reader.array()? != PULSE {
            return Err(Unreadable);
        }
        let (origin, sent_us) = (reader.number()?, reader.number()?);
        let stays = match reader.array()? {
            [0] => Stays::Yes,
            [1] => Stays::No,
            _ => return Err(Unreadable),
        };
        reader.end()?;
        Ok(Self { origin, sent_us, stays })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pulse_is_read_back_and_anything_else_is_unreadable() {
        for stays in [Stays::Yes, Stays::No] {
            let pulse = Pulse { origin: 1, sent_us: 2, stays };
            let bytes = pulse.encode();
            assert_eq!(Pulse::decode(&bytes), Ok(pulse));
            (0..bytes.len()).for_each(|length| assert_eq!(Pulse::decode(&bytes[..length]), Err(Unreadable)));
            assert_eq!(Pulse::decode(&[&bytes[..], &[0]].concat()), Err(Unreadable));
        }
    }
    /// Nodes of two releases exchange them: a form that changes needs another number.
    #[test]
    fn pulse_is_spelled_as_format_1_has_it() {
        for (stays, leaving) in [(Stays::Yes, "00"), (Stays::No, "01")] {
            let pulse = Pulse { origin: 0x0102_0304_0506_0708, sent_us: 0x1112_1314_1516_1718, stays };
            let spelled: String = pulse.encode().iter().map(|byte| format!("{byte:02x}")).collect();
            let expected = ["505001", "0102030405060708", "1112131415161718", leaving];
            assert_eq!(spelled, expected.concat());
        }
    }
}
