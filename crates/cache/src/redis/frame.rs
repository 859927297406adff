//! What goes over a channel: `P2`, kind, incarnation in 16 hex digits, sequence in 16 decimal ones, body.
//! Made by the scripts, because only they know the number; read here.
//! Refuses to guess: what it cannot read is `Unreadable`. Called by `subscription` and `line`.

use bytes::Bytes;

use crate::backplane::{Heard, Mark};

const HEADER: usize = 35;

pub(super) fn decode(mut frame: Bytes) -> Heard {
    if frame.len() < HEADER || &frame[..2] != b"P2" {
        return Heard::Unreadable;
    }
    let header = frame.split_to(HEADER);
    let (Some(incarnation), Some(sequence)) = (hex(&header[3..19]), decimal(&header[19..])) else {
        return Heard::Unreadable;
    };
    let mark = Mark { incarnation, sequence };
    match header[2] {
        b'A' => Heard::Announcement { mark, body: frame },
        b'P' => Heard::Pulse { mark, body: frame },
        _ => Heard::Unreadable,
    }
}

pub(super) fn hex(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_is_read_or_unreadable() {
        let check =
            |frame: &'static str, expected| assert_eq!(decode(Bytes::from(frame)), expected, "{frame}");
        let mark = Mark { incarnation: 0xff, sequence: 12 };
        let body = |text: &'static str| Bytes::from(text);
        check("P2A00000000000000ff0000000000000012x", Heard::Announcement { mark, body: body("x") });
        check("P2P00000000000000ff0000000000000012", Heard::Pulse { mark, body: body("") });
        for frame in [
            "",
            "P2A00000000000000ff000000000000001",
            "P3A00000000000000ff0000000000000012x",
            "P2Z00000000000000ff0000000000000012x",
            "P2A0000000000000xff0000000000000012x",
            "P2A00000000000000ff00000000000000-2x",
        ] {
            check(frame, Heard::Unreadable);
        }
    }
}
