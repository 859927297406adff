//! The meta commands of memcached's text protocol, as bytes: `mg`, `ms`, `md` out, their replies in.
//! Every command carries an opaque number that a reply to it repeats, so that a reply can never be
//! taken for that of another command. Refuses whatever it does not know: the connection is closed then.
//! Does no I/O; called by `connection`. The protocol: <https://docs.memcached.org/protocols/meta/>.

use std::fmt::Write as _;

use bytes::{Buf, Bytes, BytesMut};

/// A line is a code, a length and a handful of flags. A longer one is not of this protocol.
const LINE_BYTES_MAX: usize = 512;

/// What an item may weigh on any server: memcached's own upper limit for `-I`.
const VALUE_BYTES_MAX: usize = 1 << 30;

/// One command on one key, which must be fit for the protocol.
#[derive(Debug, Clone)]
pub(super) enum Command {
    /// Value, CAS number and seconds left. With `vivify_s` a miss makes an empty item that lives so
    /// long, and tells one client only that it has won it.
    Get { key: Bytes, vivify_s: Option<u32> },
    /// Stores, under a condition, and tells the new CAS number.
    Set { key: Bytes, when: When, header: Bytes, payload: Bytes, life_s: u32 },
    /// Deletes; with a CAS number only that very item.
    Delete { key: Bytes, cas: Option<u64> },
}

/// When a `Set` stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// Nothing is there.
    Absent,
    /// The item is there and has not changed since it had this CAS number.
    Unchanged(u64),
}

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// `VA`: an item.
    Item(Item),
    /// `EN`: nothing there to read.
    Miss,
    /// `HD`: done; the CAS number, where one was made.
    Done { cas: u64 },
    /// `NS`, `EX`, `NF`: the condition did not hold.
    Unmet,
    /// `SERVER_ERROR`: this one item is too large, or there is no memory for it.
    Refused,
}

/// An item as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) bytes: Bytes,
    pub(super) cas: u64,
    /// Seconds until it is gone, by the server's clock, which counts whole ones.
    pub(super) left_s: u32,
    /// This read made it.
    pub(super) is_won: bool,
}

/// The bytes are not what the protocol allows here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a reply that is none")]
pub(super) struct Garbage;

/// Appends the command to what is to be sent.
pub(super) fn encode(command: &Command, opaque: u64, out: &mut BytesMut) {
    match command {
        Command::Get { key, vivify_s } => {
            put(out, &[b"mg ", key]);
            let _written = write!(out, " v c t O{opaque:x}");
            if let Some(seconds) = vivify_s {
                let _written = write!(out, " N{seconds}");
            }
            put(out, &[b"\r\n"]);
        }
        Command::Set { key, when, header, payload, life_s } => {
            put(out, &[b"ms ", key]);
            let _written = write!(out, " {} c T{life_s} O{opaque:x}", header.len() + payload.len());
            let _written = match when {
                When::Absent => write!(out, " ME"),
                When::Unchanged(cas) => write!(out, " C{cas}"),
            };
            put(out, &[b"\r\n", header, payload, b"\r\n"]);
        }
        Command::Delete { key, cas } => {
            put(out, &[b"md ", key]);
            let _written = write!(out, " O{opaque:x}");
            if let Some(cas) = cas {
                let _written = write!(out, " C{cas}");
            }
            put(out, &[b"\r\n"]);
        }
    }
}

fn put(out: &mut BytesMut, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Takes one whole reply off the front, the one to the command with this opaque number. `None` if
/// more bytes are needed.
///
/// # Errors
///
/// If it is none, or the reply to another command. Nothing after it can be made sense of then.
pub(super) fn decode(input: &mut BytesMut, opaque: u64) -> Result<Option<Reply>, Garbage> {
    let Some(end) = line_end(input)? else { return Ok(None) };
    let line = std::str::from_utf8(&input[..end]).map_err(|_| Garbage)?;
    let mut words = line.split(' ').filter(|word| !word.is_empty());
    let code = words.next().ok_or(Garbage)?;
    let reply = match code {
        "VA" => return decode_item(input, end, opaque),
        "EN" => Reply::Miss,
        "SERVER_ERROR" => Reply::Refused,
        "HD" | "NS" | "EX" | "NF" => {
            let flags = Flags::read(words)?;
            if flags.opaque != Some(opaque) {
                return Err(Garbage);
            }
            if code == "HD" { Reply::Done { cas: flags.cas } } else { Reply::Unmet }
        }
        _ => return Err(Garbage),
    };
    input.advance(end + 2);
    Ok(Some(reply))
}

/// An item: a line, as many bytes as it says, and the end of a line.
fn decode_item(input: &mut BytesMut, end: usize, opaque: u64) -> Result<Option<Reply>, Garbage> {
    let line = std::str::from_utf8(&input[..end]).map_err(|_| Garbage)?;
    let mut words = line.split(' ').filter(|word| !word.is_empty()).skip(1);
    let size: usize = words.next().and_then(|word| word.parse().ok()).ok_or(Garbage)?;
    let flags = Flags::read(words)?;
    if flags.opaque != Some(opaque) || size > VALUE_BYTES_MAX {
        return Err(Garbage);
    }
    let (begins, ends) = (end + 2, end + 2 + size);
    if input.len() < ends + 2 {
        input.reserve(ends + 2 - input.len());
        return Ok(None);
    }
    if input[ends..ends + 2] != *b"\r\n" {
        return Err(Garbage);
    }
    let mut whole = input.split_to(ends + 2).freeze();
    let bytes = whole.split_off(begins).slice(..size);
    Ok(Some(Reply::Item(Item { bytes, cas: flags.cas, left_s: flags.left_s, is_won: flags.is_won })))
}

/// Where the first line ends, without its CR LF.
pub(super) fn line_end(input: &[u8]) -> Result<Option<usize>, Garbage> {
    let window = &input[..input.len().min(LINE_BYTES_MAX)];
    match window.iter().position(|byte| *byte == b'\n') {
        Some(0) => Err(Garbage),
        Some(at) if window[at - 1] == b'\r' => Ok(Some(at - 1)),
        Some(_) => Err(Garbage),
        None if window.len() == LINE_BYTES_MAX => Err(Garbage),
        None => Ok(None),
    }
}

#[derive(Debug, Default)]
struct Flags {
    opaque: Option<u64>,
    cas: u64,
    left_s: u32,
    is_won: bool,
}

impl Flags {
    fn read<'a>(words: impl Iterator<Item = &'a str>) -> Result<Self, Garbage> {
        let mut flags = Self::default();
        for word in words {
            let (letter, token) = word.split_at_checked(1).ok_or(Garbage)?;
            match letter {
                "O" => flags.opaque = Some(u64::from_str_radix(token, 16).map_err(|_| Garbage)?),
                "c" => flags.cas = token.parse().map_err(|_| Garbage)?,
                // Ours all have an end; what has none was stored by somebody else.
                "t" if token == "-1" => flags.left_s = u32::MAX,
                "t" => flags.left_s = token.parse().map_err(|_| Garbage)?,
                "W" => flags.is_won = true,
                _ => {}
            }
        }
        Ok(flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(given: &[u8], opaque: u64, expected: &Result<Option<Reply>, Garbage>) {
        assert_eq!(
            &decode(&mut BytesMut::from(given), opaque),
            expected,
            "{:?}",
            String::from_utf8_lossy(given)
        );
        if let Ok(Some(_)) = expected {
            for cut in 0..given.len() {
                let short = decode(&mut BytesMut::from(&given[..cut]), opaque);
                assert_eq!(short, Ok(None), "cut at {cut}: {:?}", String::from_utf8_lossy(given));
            }
        }
    }

    fn item(bytes: &'static [u8], cas: u64, left_s: u32, is_won: bool) -> Reply {
        Reply::Item(Item { bytes: Bytes::from_static(bytes), cas, left_s, is_won })
    }

    #[test]
    fn replies_are_read_and_half_replies_waited_for() {
        check(b"EN\r\n", 1, &Ok(Some(Reply::Miss)));
        check(b"HD c7 Oa\r\n", 10, &Ok(Some(Reply::Done { cas: 7 })));
        check(b"HD O1\r\n", 1, &Ok(Some(Reply::Done { cas: 0 })));
        check(b"NS O1\r\n", 1, &Ok(Some(Reply::Unmet)));
        check(b"VA 4 c9 t30 O1\r\n\r\n\r\n\r\n", 1, &Ok(Some(item(b"\r\n\r\n", 9, 30, false))));
        check(b"VA 0 c9 t5 O1 W\r\n\r\n", 1, &Ok(Some(item(b"", 9, 5, true))));
        check(b"VA 1 c9 t-1 O1 Z\r\nx\r\n", 1, &Ok(Some(item(b"x", 9, u32::MAX, false))));
        check(b"SERVER_ERROR object too large for cache\r\n", 1, &Ok(Some(Reply::Refused)));
    }

    #[test]
    fn what_is_no_reply_to_this_command_is_garbage() {
        for given in [
            &b"HD O2\r\n"[..],
            b"HD\r\n",
            b"VA 1 c9 t5 O2\r\nx\r\n",
            b"VA 1 c9 t5 O1\r\nxyz\r\n",
            b"VA x O1\r\n",
            b"VA 99999999999 O1\r\n",
            b"VA 1 cx O1\r\nx\r\n",
            b"\r\n",
            b"\n",
            b"EN\n",
            b"\xff\xff\r\n",
            b"STORED\r\n",
            b"ERROR\r\n",
            b"CLIENT_ERROR bad data chunk\r\n",
            &[b'x'; LINE_BYTES_MAX],
        ] {
            check(given, 1, &Err(Garbage));
        }
    }

    #[test]
    fn commands_are_written_as_the_protocol_has_them() {
        let check = |command: Command, expected: &str| {
            let mut out = BytesMut::new();
            encode(&command, 255, &mut out);
            assert_eq!(std::str::from_utf8(&out).unwrap(), expected);
        };
        let key = Bytes::from_static(b"k");
        check(Command::Get { key: key.clone(), vivify_s: None }, "mg k v c t Off\r\n");
        check(Command::Get { key: key.clone(), vivify_s: Some(3) }, "mg k v c t Off N3\r\n");
        let (header, payload) = (Bytes::from_static(b"h"), Bytes::from_static(b"\r\n"));
        let set = |when| Command::Set {
            key: key.clone(),
            when,
            header: header.clone(),
            payload: payload.clone(),
            life_s: 9,
        };
        check(set(When::Absent), "ms k 3 c T9 Off ME\r\nh\r\n\r\n");
        check(set(When::Unchanged(5)), "ms k 3 c T9 Off C5\r\nh\r\n\r\n");
        check(Command::Delete { key: key.clone(), cas: Some(5) }, "md k Off C5\r\n");
        check(Command::Delete { key: key.clone(), cas: None }, "md k Off\r\n");
    }
}
