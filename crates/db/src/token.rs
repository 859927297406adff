//! The read-your-writes token: a position in the write-ahead log of one timeline.
//! It refuses sloppy text: exactly 8 and 16 upper-case hexadecimal digits. Made by commits, carried by callers
//! (headers, queues), and given back to `Db::read_after`.

use std::fmt;
use std::str::FromStr;

use tokio_postgres::Row;

/// A write is visible on any node of `timeline` that has replayed the log up to `lsn`.
///
/// The order is by timeline first, then by position, so the larger of two tokens covers both
/// as long as no failover lost writes. Two words, `Copy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    /// The timeline of the primary that committed; it grows by one or more at each failover.
    pub timeline: u32,
    /// The byte position in the log at, or shortly after, the end of the commit record.
    pub lsn: u64,
}

/// Why a text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Not of the form `00000001-000000000A3F2C18`.
    #[error("a token is 8 and 16 upper-case hexadecimal digits joined by a dash")]
    Shape,
    /// The server sent a position or a timeline in a form this crate does not know.
    #[error("the server reported a log position in an unknown form")]
    ServerForm,
}

const TIMELINE_DIGITS: usize = 8;
const LSN_DIGITS: usize = 16;

impl Token {
    /// Asks a primary for its present position. Run it after `COMMIT`, on the same connection (it may be pipelined
    /// behind it): a position taken before the commit could be satisfied while the commit is not yet replayed.
    ///
    /// It reads the insert position and not the write position, because with `synchronous_commit = off` the
    /// latter can lie before the commit record.
    pub const SQL: &str = "SELECT pg_current_wal_insert_lsn()::text, \
                           left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)";

    /// For a read of the last state there is, as the primary has it, whatever became of this write.
    #[must_use]
    pub const fn latest(self) -> Self {
        Self { timeline: self.timeline, lsn: u64::MAX }
    }

    /// True of what [`Token::latest`] gives.
    pub(crate) const fn is_latest(self) -> bool {
        self.lsn == u64::MAX
    }

    /// Reads the row that [`Token::SQL`] answers with.
    ///
    /// # Errors
    /// [`TokenError::ServerForm`] when the row has another shape.
    pub fn from_row(row: &Row) -> Result<Self, TokenError> {
        let lsn: &str = row.try_get(0).map_err(|_| TokenError::ServerForm)?;
        let timeline: &str = row.try_get(1).map_err(|_| TokenError::ServerForm)?;
        Self::from_server(lsn, timeline)
    }

    /// Joins a position as the server writes it (`16/B374D848`) and a timeline as log file names carry it (`0000000A`).
    ///
    /// # Errors
    /// [`TokenError::ServerForm`] when either is written otherwise.
    pub fn from_server(lsn: &str, timeline_hex: &str) -> Result<Self, TokenError> {
        let lsn = parse_lsn(lsn).ok_or(TokenError::ServerForm)?;
        let timeline = u32::from_str_radix(timeline_hex, 16).map_err(|_| TokenError::ServerForm)?;
        Ok(Self { timeline, lsn })
    }
}

/// Reads the server's `high/low` form of a log position.
pub(crate) fn parse_lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let high = u32::from_str_radix(high, 16).ok()?;
    let low = u32::from_str_radix(low, 16).ok()?;
    Some(u64::from(high) << 32 | u64::from(low))
}

impl fmt::Display for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:08X}-{:016X}", self.timeline, self.lsn)
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let (timeline, lsn) = text.split_once('-').ok_or(TokenError::Shape)?;
        let timeline = strict_hex(timeline, TIMELINE_DIGITS).ok_or(TokenError::Shape)?;
        let timeline = u32::try_from(timeline).map_err(|_| TokenError::Shape)?;
        let lsn = strict_hex(lsn, LSN_DIGITS).ok_or(TokenError::Shape)?;
        Ok(Self { timeline, lsn })
    }
}

// `from_str_radix` alone would take a sign and lower case, and one token would have several texts.
fn strict_hex(text: &str, digits: usize) -> Option<u64> {
    let strict = text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    if strict { u64::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_token_agree_both_ways() {
        let token = Token { timeline: 1, lsn: 0x0A3F_2C18 };
        assert_eq!(token.to_string(), "00000001-000000000A3F2C18");
        for token in [token, Token { timeline: 0, lsn: 0 }, Token { timeline: u32::MAX, lsn: u64::MAX }] {
            assert_eq!(token.to_string().parse(), Ok(token));
        }
    }

    #[test]
    fn anything_but_the_exact_form_is_refused() {
        for text in [
            "",
            "-",
            "1-2",
            "00000001",
            "00000001-000000000A3F2C1",
            "00000001-000000000A3F2C180",
            "00000001-000000000a3f2c18",
            "+0000001-000000000A3F2C18",
            "00000001-+00000000A3F2C18",
            " 00000001-000000000A3F2C18",
            "00000001-000000000A3F2C18 ",
            "00000001-000000000A3F2C1\u{e9}",
            "0000000G-000000000A3F2C18",
        ] {
            assert_eq!(text.parse::<Token>(), Err(TokenError::Shape), "{text:?}");
        }
    }

    #[test]
    fn a_later_timeline_is_later_whatever_the_position() {
        let before = Token { timeline: 1, lsn: 900 };
        assert!(before < Token { timeline: 1, lsn: 901 });
        assert!(before < Token { timeline: 2, lsn: 5 });
    }

    #[test]
    fn the_servers_form_is_read() {
        let token = Token::from_server("16/B374D848", "0000000A");
        assert_eq!(token, Ok(Token { timeline: 10, lsn: 0x16_B374_D848 }));
        assert_eq!(Token::from_server("16B374D848", "0000000A"), Err(TokenError::ServerForm));
    }
}
