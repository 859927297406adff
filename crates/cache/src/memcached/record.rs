//! What an item holds: a header that says which state the record is in, and the payload.
//!
//! memcached counts whole seconds and tells of an item only how many are left. So every deadline in the
//! header counts backwards from the item's own end, and needs no clock but the server's: with
//! `left_s` seconds left, a deadline `before_end_ms` is `left_s * 1000 - before_end_ms` away.
//! The server's second may be almost over or have just begun: what a payload has left is taken one
//! second short, leases and floors are taken in full.
//!
//! The protocol's own stale marks (`md I`) are not used: whoever is told to recache an item keeps
//! that right for as long as it lives, so that a load that dies would end all loading.
//! Knows no connection and no key; called by the verbs.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::wire::Item;
use crate::{
    FLOOR_LIFE, Version,
    tier::{Claim, Over, Payload, Remnant, Token},
};

/// Begins every record of this format. Other bytes are nobody's record, and are overwritten.
const MAGIC: u16 = 0xca51;

/// Bytes before the payload.
pub(super) const HEADER_BYTES: usize = 2 + 1 + 1 + 8 + 8 + 3 * 4;

/// What memcached takes as a life; more would be read as a date.
const LIFE_S_MAX: u32 = 30 * 24 * 3_600;
const LIFE_MAX: Duration = Duration::from_secs(LIFE_S_MAX as u64);

/// How far the server's clock may be off what it tells.
const SECOND_MS: i64 = 1_000;

/// The state of a record. Deadlines are milliseconds from the second in which it was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Record {
    /// Bytes that are a value, or what is left of one.
    pub(super) kept: Option<Kept>,
    /// The highest version that voided or was put, with the rest of its life.
    pub(super) floor: Option<Floor>,
    /// Who loads, with the rest of the lease.
    pub(super) claim: Option<Lease>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) bytes: Bytes,
    pub(super) left_ms: i64,
    pub(super) role: Role,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Value,
    Fallback,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Floor {
    pub(super) version: Version,
    pub(super) left_ms: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) token: Token,
    pub(super) left_ms: i64,
}

/// A record as it is sent.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) header: Bytes,
    pub(super) payload: Bytes,
    pub(super) life_s: u32,
}

impl Record {
    /// What the item says now. An empty item is one that was vivified: claimed, by whom is not said.
    /// An unreadable one says nothing.
    pub(super) fn open(item: &Item) -> Self {
        if item.bytes.is_empty() {
            let lease = Lease { token: Token(0), left_ms: i64::from(item.left_s) * SECOND_MS };
            return Self { claim: Some(lease), ..Self::default() };
        }
        let mut bytes = item.bytes.clone();
        if bytes.len() < HEADER_BYTES || bytes.get_u16() != MAGIC {
            return Self::default();
        }
        let (state, _reserved) = (bytes.get_u8(), bytes.get_u8());
        let (token, version) = (Token(bytes.get_u64()), Version(bytes.get_u64()));
        let kept_ms = if state & IS_BEYOND == 0 {
            left_ms_of(item, &mut bytes) - SECOND_MS
        } else {
            (i64::from(item.left_s) + i64::from(bytes.get_u32()) - 1) * SECOND_MS
        };
        let (floor_ms, lease_ms) = (left_ms_of(item, &mut bytes), left_ms_of(item, &mut bytes));
        let role = if state & IS_VALUE == 0 { Role::Fallback } else { Role::Value };
        let stands = |flag: u8, left_ms: i64| state & flag != 0 && left_ms > 0;
        Self {
            kept: stands(HAS_PAYLOAD, kept_ms).then_some(Kept { bytes, left_ms: kept_ms, role }),
            floor: stands(HAS_FLOOR, floor_ms).then_some(Floor { version, left_ms: floor_ms }),
            claim: stands(HAS_CLAIM, lease_ms).then_some(Lease { token, left_ms: lease_ms }),
        }
    }

    /// The bytes to store. `None` if there is nothing to remember.
    pub(super) fn seal(&self) -> Option<Sealed> {
        let deadlines = [
            self.kept.as_ref().map(|kept| kept.left_ms),
            self.floor.map(|floor| floor.left_ms),
            self.claim.map(|lease| lease.left_ms),
        ];
        let longest_ms = deadlines.iter().flatten().copied().max().filter(|longest| *longest > 0)?;
        let life_s = u32::try_from(longest_ms / SECOND_MS + 1).unwrap_or(u32::MAX).min(LIFE_S_MAX);
        let end_ms = i64::from(life_s) * SECOND_MS;
        let mut state = 0;
        let mut header = BytesMut::with_capacity(HEADER_BYTES);
        for (flag, deadline) in [HAS_PAYLOAD, HAS_FLOOR, HAS_CLAIM].into_iter().zip(deadlines) {
            state |= if deadline.is_some() { flag } else { 0 };
        }
        if self.kept.as_ref().is_some_and(|kept| kept.role == Role::Value) {
            state |= IS_VALUE;
        }
        // memcached forgets it earlier, and until then it is as good as it says.
        let is_beyond = deadlines[0].is_some_and(|kept_ms| kept_ms > end_ms);
        state |= if is_beyond { IS_BEYOND } else { 0 };
        header.put_u16(MAGIC);
        header.put_u8(state);
        header.put_u8(0);
        header.put_u64(self.claim.map_or(0, |lease| lease.token.0));
        header.put_u64(self.floor().0);
        for (place, deadline) in deadlines.into_iter().enumerate() {
            let before_end_ms = end_ms - deadline.unwrap_or(0);
            if place == 0 && is_beyond {
                header.put_u32(u32::try_from(-before_end_ms / SECOND_MS).unwrap_or(u32::MAX));
            } else {
                header.put_u32(u32::try_from(before_end_ms.max(0)).unwrap_or(u32::MAX));
            }
        }
        let payload = self.kept.as_ref().map(|kept| kept.bytes.clone()).unwrap_or_default();
        Some(Sealed { header: header.freeze(), payload, life_s })
    }

    pub(super) fn floor(&self) -> Version {
        self.floor.map_or(Version::NONE, |floor| floor.version)
    }

    /// The value that may be served.
    pub(super) fn value(&self) -> Option<Payload> {
        self.kept.as_ref().filter(|kept| kept.role == Role::Value).map(Kept::payload)
    }

    pub(super) fn fallback(&self) -> Option<Payload> {
        self.kept.as_ref().map(Kept::payload)
    }

    /// What it says besides a value.
    pub(super) fn remnant(&self) -> Option<Remnant> {
        if self.value().is_some() {
            return None;
        }
        Remnant::of(self.floor(), self.claim.is_some(), self.fallback())
    }

    /// The floor rises and lives anew.
    pub(super) fn raise(&mut self, version: Version) {
        let version = version.max(self.floor());
        let left_ms = milliseconds(FLOOR_LIFE) + SECOND_MS;
        self.floor = (version > Version::NONE).then_some(Floor { version, left_ms });
    }

    /// What was put last is remembered for as long as it may be there. LATEST is no number.
    pub(super) fn keep_floor_for(&mut self, lifetime: Duration) {
        if let Some(floor) = self.floor.as_mut().filter(|floor| floor.version != Version::LATEST) {
            floor.left_ms = floor.left_ms.max(milliseconds(lifetime.min(LIFE_MAX)));
        }
    }

    /// Somebody loads; unless that is ahead of time, what is kept is a fallback from now on.
    pub(super) fn claim(&mut self, claim: Claim) {
        if claim.over != Over::Ahead {
            self.degrade();
        }
        let Claim { token, lease, .. } = claim;
        self.claim = Some(Lease { token, left_ms: milliseconds(lease.min(LIFE_MAX)) + SECOND_MS });
    }

    /// A value no longer is one.
    pub(super) fn degrade(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.role = Role::Fallback;
        }
    }

    /// Puts a value in place; one with no life worth the name is as good as none.
    pub(super) fn fill(&mut self, bytes: Bytes, lifetime: Duration) {
        let left_ms = milliseconds(lifetime);
        self.kept = (left_ms > 0).then_some(Kept { bytes, left_ms, role: Role::Value });
        self.claim = None;
    }
}

const HAS_PAYLOAD: u8 = 1;
const IS_VALUE: u8 = 2;
const HAS_FLOOR: u8 = 4;
const HAS_CLAIM: u8 = 8;
/// The payload's deadline counts whole seconds from the item's end on.
const IS_BEYOND: u8 = 16;

impl Kept {
    fn payload(&self) -> Payload {
        let remaining_ms = u64::try_from(self.left_ms).unwrap_or(0);
        Payload { bytes: self.bytes.clone(), remaining: Duration::from_millis(remaining_ms) }
    }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 2)
}

/// The next deadline of the header.
fn left_ms_of(item: &Item, header: &mut Bytes) -> i64 {
    i64::from(item.left_s) * SECOND_MS - i64::from(header.get_u32())
}

/// A lease in whole seconds that is at no moment shorter than asked for.
pub(super) fn vivify_s(lease: Duration) -> u32 {
    u32::try_from(lease.as_secs()).unwrap_or(u32::MAX).min(LIFE_S_MAX - 2) + 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(record: &Record, elapsed_s: u32) -> Record {
        let sealed = record.seal().expect("something to remember");
        let bytes = [&sealed.header[..], &sealed.payload[..]].concat().into();
        Record::open(&Item { bytes, cas: 1, left_s: sealed.life_s - elapsed_s, is_won: false })
    }

    fn full() -> Record {
        let mut record = Record::default();
        record.fill(Bytes::from_static(b"value"), Duration::from_millis(10_500));
        record.raise(Version(7));
        record
    }

    #[test]
    fn a_payload_never_outlives_its_life_and_loses_a_second_of_it_at_most() {
        for elapsed_s in 0..10 {
            let left = stored(&full(), elapsed_s).value().map(|payload| payload.remaining);
            let expected = Duration::from_millis(9_500 - u64::from(elapsed_s) * 1_000);
            assert_eq!(left, Some(expected), "after {elapsed_s} s");
        }
        assert_eq!(stored(&full(), 10).value(), None);
        assert_eq!(stored(&full(), 10).floor(), Version(7));
    }

    #[test]
    fn a_claim_lasts_no_less_than_its_lease_and_turns_the_value_into_a_fallback() {
        let mut record = full();
        let claim = Claim { token: Token(9), lease: Duration::from_secs(3), over: Over::Value };
        record.claim(Claim { over: Over::Ahead, ..claim });
        assert!(stored(&record, 1).value().is_some(), "it is loaded ahead of time");
        record.claim(claim);
        for elapsed_s in 0..=3 {
            let read = stored(&record, elapsed_s);
            assert_eq!(read.claim.map(|lease| lease.token), Some(Token(9)), "after {elapsed_s} s");
            assert_eq!(read.value(), None);
            assert!(read.fallback().is_some());
        }
        assert_eq!(stored(&record, 4).claim, None);
    }

    #[test]
    fn lives_beyond_what_memcached_counts_are_cut_and_none_are_not_stored() {
        let mut record = Record::default();
        record.fill(Bytes::from_static(b"value"), Duration::MAX);
        let sealed = record.seal().expect("a value");
        assert_eq!(sealed.life_s, LIFE_S_MAX);
        assert!(stored(&record, 1).value().is_some());
        let days = |days: u64| Duration::from_secs(days * 86_400);
        record.fill(Bytes::from_static(b"value"), days(60));
        let left = stored(&record, 3).value().map(|payload| payload.remaining);
        assert_eq!(left, Some(days(60) - Duration::from_secs(4)), "it is not nearer to its end than it is");
        record.fill(Bytes::from_static(b"value"), Duration::ZERO);
        assert!(record.seal().is_none());
    }

    #[test]
    fn bytes_that_are_no_record_say_nothing() {
        for length in 1..2 * HEADER_BYTES {
            let item = Item { bytes: vec![0xff; length].into(), cas: 1, left_s: u32::MAX, is_won: false };
            assert_eq!(Record::open(&item), Record::default());
        }
    }
}
