//! What a client says to a PostgreSQL server, read along as it passes: where it first runs a statement that writes or
//! commits. Knows statements by their text and not by their place, so that another statement before them changes nothing.
//! Called by the proxy; refuses nothing and changes no byte.

use std::collections::HashSet;

/// How the text of a statement begins that writes or ends what was written.
const WRITES: [&str; 5] = ["INSERT", "UPDATE", "DELETE", "COPY", "COMMIT"];
/// The type of a message, and its length, which counts itself and not the type.
const HEAD_BYTES: usize = 5;
const LENGTH_BYTES: usize = 4;

/// Follows the messages of one connection from its first byte.
#[derive(Debug, Default)]
pub(crate) struct Frontend {
    /// What has come of a message whose end has not.
    rest: Vec<u8>,
    /// The first message has no type.
    begun: bool,
    /// Names of prepared statements that write.
    writes: HashSet<Vec<u8>>,
}

impl Frontend {
    /// Takes the next bytes. Gives where in them the first message begins that runs a statement that writes: zero when it
    /// began before them.
    pub(crate) fn follow(&mut self, bytes: &[u8]) -> Option<usize> {
        let before = self.rest.len();
        self.rest.extend_from_slice(bytes);
        let (mut at, mut found) = (0, None);
        while let Some(length) = self.message_length(at) {
            let message = self.rest[at..at + length].to_vec();
            if std::mem::replace(&mut self.begun, true) && self.runs_a_write(&message) {
                found = found.or(Some(at.saturating_sub(before)));
            }
            at += length;
        }
        self.rest.drain(..at);
        found
    }

    /// The length of the message that begins at `at`, once all of it has come.
    fn message_length(&self, at: usize) -> Option<usize> {
        let type_bytes = usize::from(self.begun);
        let length = self.rest.get(at + type_bytes..at + type_bytes + LENGTH_BYTES)?;
        let length = u32::from_be_bytes(length.try_into().expect("a slice of four bytes"));
        let length = type_bytes + usize::try_from(length).expect("32 bits fit").max(LENGTH_BYTES);
        (self.rest.len() - at >= length).then_some(length)
    }

    fn runs_a_write(&mut self, message: &[u8]) -> bool {
        let mut texts = message[HEAD_BYTES..].split(|byte| *byte == 0);
        match message[0] {
            b'P' => {
                let name = texts.next().unwrap_or_default().to_vec();
                // A name may be given again, and the unnamed one always is.
                if is_write(texts.next().unwrap_or_default()) {
                    self.writes.insert(name);
                } else {
                    self.writes.remove(&name);
                }
                false
            }
            // A portal comes first, then the statement.
            b'B' => self.writes.contains(texts.nth(1).unwrap_or_default()),
            b'Q' => is_write(texts.next().unwrap_or_default()),
            _ => false,
        }
    }
}

fn is_write(text: &[u8]) -> bool {
    let text = text.trim_ascii_start();
    WRITES
        .iter()
        .any(|word| text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + LENGTH_BYTES).expect("a short message");
        [&[kind], length.to_be_bytes().as_slice(), body].concat()
    }

    /// The first message, two statements, and one run of each.
    fn conversation() -> (Vec<u8>, usize) {
        let first = message(b'-', b"\0\x03\0\0user\0x\0\0")[1..].to_vec();
        let said = [
            first,
            message(b'P', b"s0\0SELECT 'COMMIT'\0\0\0"),
            message(b'P', b"s1\0 commit\0\0\0"),
            message(b'B', b"\0s0\0\0\0\0\0\0\0"),
        ]
        .concat();
        let run = message(b'B', b"\0s1\0\0\0\0\0\0\0");
        let at = said.len();
        ([said, run, message(b'S', b"")].concat(), at)
    }

    #[test]
    fn the_first_write_is_found_by_its_text() {
        let (said, at) = conversation();
        assert_eq!(Frontend::default().follow(&said), Some(at));
        let asked = message(b'Q', b"BEGIN\0");
        let mut frontend = Frontend::default();
        assert_eq!(frontend.follow(&said), Some(at));
        assert_eq!(frontend.follow(&asked), None);
        assert_eq!(frontend.follow(&[asked, message(b'Q', b"INSERT ..\0")].concat()), Some(11));
    }

    #[test]
    fn a_message_over_two_reads_is_found_with_its_end() {
        let (said, at) = conversation();
        for cut in 0..said.len() {
            let mut frontend = Frontend::default();
            let found = (frontend.follow(&said[..cut]), frontend.follow(&said[cut..]));
            let end = said.len() - HEAD_BYTES;
            let expected = if cut >= end { (Some(at), None) } else { (None, Some(at.saturating_sub(cut))) };
            assert_eq!(found, expected, "cut at {cut}");
        }
    }
}
