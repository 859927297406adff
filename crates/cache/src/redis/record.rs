//! How a record lies in Redis: a header of text and tokens, then the payload as it was given.
//!
//! ```text
//! magic 2 | state 1 | server 8 | token 8 | deadline 13 | expiry 13 | floor 16 | floor_until 13 | payload
//! ```
//! States: `V`alue, `F`ree, `C`laimed, claimed `A`head. `server` is the witness of the server that wrote it, and on any
//! other server only the floor counts. Times are that server's milliseconds. The scripts in `lua/` read
//! and write the same; here it is read for plain reads, and written for claims that need no script.
//! Refuses to judge payloads. Called by `reads`.

use std::time::Duration;

use bytes::{Buf, Bytes};

use super::witness::ServerId;
use crate::{
    Version,
    tier::{Payload, Remnant, Token},
};

const MAGIC: &[u8] = b"P2";
const HEADER: usize = 74;

/// A claim made without a script ends when its key does, and then the deadline need not be known.
const AS_LONG_AS_THE_KEY: &[u8] = b"9999999999999";

/// What a record says, to a reader that knows the server and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    /// A value with some life left.
    Value(Payload),
    /// Claimed.
    Claimed { token: Token, floor: Version, fallback: Option<Payload> },
    /// Anything else: free, run out, another server's, or none of ours.
    Other,
}

impl Record {
    /// Reads a record. `now_ms` must not be earlier than the server's present, so that a life is
    /// rounded down.
    pub(super) fn decode(mut raw: Bytes, server: ServerId, now_ms: u64) -> Self {
        let Some(header) = raw.first_chunk::<HEADER>() else { return Self::Other };
        if &header[..2] != MAGIC || header[3..11] != server.0 {
            return Self::Other;
        }
        let (state, remaining_ms) = (header[2], number(&header[32..45]).saturating_sub(now_ms));
        let claimed = match state {
            b'C' | b'A' if number(&header[19..32]) > now_ms => Some((
                token(&header[11..19]),
                if number(&header[61..74]) > now_ms { version(&header[45..61]) } else { Version::NONE },
            )),
            _ => None,
        };
        // Moves a pointer; splitting would allocate.
        raw.advance(HEADER);
        let payload = (remaining_ms > 0)
            .then(|| Payload { bytes: raw, remaining: Duration::from_millis(remaining_ms) });
        match (state, payload, claimed) {
            (b'V' | b'A', Some(payload), _) => Self::Value(payload),
            (_, fallback, Some((token, floor))) => Self::Claimed { token, floor, fallback },
            _ => Self::Other,
        }
    }

    /// What a record says that is no value. Of another server's only the floor counts.
    pub(super) fn remnant(mut raw: Bytes, server: ServerId, now_ms: u64) -> Option<Remnant> {
        if raw.len() < HEADER || &raw[..2] != MAGIC {
            return None;
        }
        let mut header = [0; HEADER];
        header.copy_from_slice(&raw[..HEADER]);
        raw.advance(HEADER);
        let has_floor = number(&header[61..74]) > now_ms;
        let floor = if has_floor { version(&header[45..61]) } else { Version::NONE };
        if header[3..11] != server.0 {
            return Remnant::of(floor, false, None);
        }
        let remaining_ms = number(&header[32..45]).saturating_sub(now_ms);
        let payload = (remaining_ms > 0)
            .then(|| Payload { bytes: raw, remaining: Duration::from_millis(remaining_ms) });
        let (is_value, may_be_claimed) = (matches!(header[2], b'V' | b'A'), matches!(header[2], b'C' | b'A'));
        if is_value && payload.is_some() {
            return None;
        }
        Remnant::of(floor, may_be_claimed && number(&header[19..32]) > now_ms, payload)
    }

    /// The record of a claim on a key of which nothing is known.
    pub(super) fn fresh_claim(server: ServerId, token: Token) -> [u8; HEADER] {
        let mut record = [b'0'; HEADER];
        record[..2].copy_from_slice(MAGIC);
        record[2] = b'C';
        record[3..11].copy_from_slice(&server.0);
        record[11..19].copy_from_slice(&token.0.to_be_bytes());
        record[19..32].copy_from_slice(AS_LONG_AS_THE_KEY);
        record
    }
}

fn number(digits: &[u8]) -> u64 {
    // Of what is no digit some number comes too, as of each record that somebody else has written.
    digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit & 0x0f))
}

fn token(bytes: &[u8]) -> Token {
    Token(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// A version as the scripts compare it: 16 hex digits.
pub(super) fn hex(version: Version) -> String {
    format!("{:016x}", version.0)
}

/// The version of 16 hex digits; anything else is the highest, which is never too low for a floor.
pub(super) fn version(hex: &[u8]) -> Version {
    let number = std::str::from_utf8(hex).ok().and_then(|hex| u64::from_str_radix(hex, 16).ok());
    number.map_or(Version::LATEST, Version)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: ServerId = ServerId([7; 8]);

    fn record(state: u8, deadline: u64, expiry: u64, payload: &[u8]) -> Bytes {
        let mut record = b"P2".to_vec();
        record.push(state);
        record.extend(SERVER.0);
        record.extend(9_u64.to_be_bytes());
        record.extend(format!("{deadline:013}{expiry:013}{:016x}{:013}", 5, 2_000).into_bytes());
        record.extend(payload);
        record.into()
    }

    fn payload(remaining_ms: u64) -> Payload {
        Payload { bytes: Bytes::from_static(b"old"), remaining: Duration::from_millis(remaining_ms) }
    }

    #[test]
    fn record_is_read_by_its_state_and_the_time() {
        let check = |raw: Bytes, now_ms, expected| assert_eq!(Record::decode(raw, SERVER, now_ms), expected);
        let claimed = |floor, fallback| Record::Claimed { token: Token(9), floor: Version(floor), fallback };
        check(record(b'V', 0, 1_500, b"old"), 1_000, Record::Value(payload(500)));
        check(record(b'V', 0, 1_500, b"old"), 1_500, Record::Other);
        check(record(b'F', 0, 1_500, b"old"), 1_000, Record::Other);
        check(record(b'A', 1_200, 1_500, b"old"), 1_000, Record::Value(payload(500)));
        check(record(b'A', 1_200, 1_500, b"old"), 1_300, Record::Value(payload(200)));
        check(record(b'A', 1_200, 1_100, b"old"), 1_100, claimed(5, None));
        check(record(b'C', 1_200, 1_500, b"old"), 1_000, claimed(5, Some(payload(500))));
        check(record(b'C', 1_200, 0, b""), 1_000, claimed(5, None));
        check(record(b'C', 3_000, 0, b""), 2_000, claimed(0, None));
        check(record(b'C', 1_200, 1_500, b"old"), 1_200, Record::Other);
        check(Record::fresh_claim(SERVER, Token(9)).to_vec().into(), 1_000, claimed(0, None));
    }

    #[test]
    fn what_is_no_value_is_told_with_its_floor_its_claim_and_its_fallback() {
        let check = |raw: Bytes, now_ms, expected| assert_eq!(Record::remnant(raw, SERVER, now_ms), expected);
        let left = |floor, is_claimed, fallback| Remnant::of(Version(floor), is_claimed, fallback);
        check(record(b'V', 0, 1_500, b"old"), 1_000, None);
        check(record(b'V', 0, 1_500, b"old"), 1_500, left(5, false, None));
        check(record(b'F', 0, 1_500, b"old"), 1_000, left(5, false, Some(payload(500))));
        check(record(b'F', 0, 1_500, b"old"), 2_000, None);
        check(record(b'C', 3_000, 0, b""), 2_000, left(0, true, None));
        check(record(b'C', 1_200, 1_500, b"old"), 1_200, left(5, false, Some(payload(300))));
        check(Record::fresh_claim(SERVER, Token(9)).to_vec().into(), 1_000, left(0, true, None));
        let elsewhere = Record::remnant(record(b'V', 0, 1_500, b"old"), ServerId([8; 8]), 1_000);
        assert_eq!(elsewhere, left(5, false, None), "what another server wrote is no value");
        assert_eq!(Record::remnant(Bytes::from(vec![0xff; 200]), SERVER, 1_000), None);
    }

    #[test]
    fn record_of_another_server_or_of_nobody_is_none() {
        let raw = record(b'V', 0, 1_500, b"old");
        assert_eq!(Record::decode(raw.clone(), ServerId([8; 8]), 1_000), Record::Other);
        for length in 0..HEADER {
            assert_eq!(Record::decode(raw.slice(..length), SERVER, 1_000), Record::Other);
        }
        assert_eq!(Record::decode(Bytes::from(vec![0xff; 200]), SERVER, 1_000), Record::Other);
    }
}
