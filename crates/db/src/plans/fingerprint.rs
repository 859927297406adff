//! Fingerprints of statements: one for all texts that differ only in literals, comments, case and spaces.
//! What it keeps of a text shows no literal. Called by the slow log.

use std::fmt;

use sha2::{Digest, Sha256};

/// Names a statement whatever its literals are. Stable across processes and releases of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// Of a statement's text.
    #[must_use]
    pub fn of(sql: &str) -> Self {
        Self::of_redacted(&redacted(sql))
    }

    pub(super) fn of_redacted(text: &str) -> Self {
        let digest = Sha256::digest(text.as_bytes());
        let first = digest.first_chunk().expect("a digest has 32 bytes");
        Self(u64::from_be_bytes(*first))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

/// The text with `?` for each literal, without comments, in lower case outside of quoted names, one space at most.
pub(super) fn redacted(sql: &str) -> String {
    let mut text = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some(letter) = rest.chars().next() {
        let length = match letter {
            '\'' => {
                let length = quoted(rest, '\'', is_escape(&text));
                put(&mut text, "?", length)
            }
            '"' => {
                let length = quoted(rest, '"', Backslash::Plain);
                put(&mut text, &rest[..length], length)
            }
            '$' => match dollar_quoted(rest) {
                Some(length) => put(&mut text, "?", length),
                None => put(&mut text, "$", 1),
            },
            '-' if rest.starts_with("--") => put_space(&mut text, rest.find('\n').unwrap_or(rest.len())),
            '/' if rest.starts_with("/*") => put_space(&mut text, block_comment(rest)),
            _ if letter.is_ascii_digit() && !ends_in_word(&text) => put(&mut text, "?", number(rest)),
            _ if letter.is_whitespace() => put_space(&mut text, letter.len_utf8()),
            _ => {
                text.extend(letter.to_lowercase());
                letter.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    text.trim_matches([' ', ';']).to_owned()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Backslash {
    Plain,
    Escapes,
}

/// `E'..'`, whose prefix stands in the text already.
fn is_escape(text: &str) -> Backslash {
    let prefix = text.strip_suffix('e');
    if prefix.is_some_and(|before| !ends_in_word(before)) { Backslash::Escapes } else { Backslash::Plain }
}

fn put(text: &mut String, what: &str, length: usize) -> usize {
    text.push_str(what);
    length
}

fn put_space(text: &mut String, length: usize) -> usize {
    if !text.is_empty() && !text.ends_with(' ') {
        text.push(' ');
    }
    length
}

/// Bytes of what stands in quotes, doubled ones inside included; all that is left when it never ends.
fn quoted(rest: &str, quote: char, backslash: Backslash) -> usize {
    let mut letters = rest.char_indices().skip(1).peekable();
    while let Some((at, letter)) = letters.next() {
        if letter == '\\' && backslash == Backslash::Escapes {
            letters.next();
        } else if letter == quote && letters.next_if(|(_, next)| *next == quote).is_none() {
            return at + 1;
        }
    }
    rest.len()
}

/// Bytes of `$tag$ .. $tag$`; none where the dollar begins a parameter.
fn dollar_quoted(rest: &str) -> Option<usize> {
    let tag_end = rest[1..].find('$')? + 2;
    let tag = &rest[..tag_end];
    let mut letters = tag[1..tag_end - 1].chars();
    let is_tag = letters.next().is_none_or(|first| first.is_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_alphanumeric() || letter == '_');
    if !is_tag {
        return None;
    }
    Some(rest[tag_end..].find(tag).map_or(rest.len(), |at| tag_end + at + tag_end))
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_u32, 0);
    let bytes = rest.as_bytes();
    while at < bytes.len() {
        let length = match &bytes[at..] {
            [b'/', b'*', ..] => {
                depth += 1;
                2
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                2
            }
            _ => 1,
        };
        at += length;
        if depth == 0 {
            break;
        }
    }
    at
}

fn number(rest: &str) -> usize {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '.' || letter == '_';
    rest.find(|letter| !is_part(letter)).unwrap_or(rest.len())
}

/// A digit behind it belongs to a name or a parameter.
fn ends_in_word(text: &str) -> bool {
    text.chars().next_back().is_some_and(|last| last.is_alphanumeric() || last == '_' || last == '$')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_literal_is_left() {
        for (sql, expected) in [
            ("SELECT *  FROM t1 WHERE id = 17;", "select * from t1 where id = ?"),
            ("SELECT 'it''s', E'a\\'b', 'c'", "select ?, e?, ?"),
            ("SELECT $1, $$secret$$, $t$a $x$ b$t$, $2", "select $1, ?, ?, $2"),
            ("SELECT 1.5e3 -- 42 here\n, 0x1F /* 7 /* 8 */ 9 */ FROM x", "select ? , ? from x"),
            ("SELECT \"Name 5\" FROM \"T\"", "select \"Name 5\" from \"T\""),
            ("SELECT 'never ends", "select ?"),
            ("SELECT 'Grüße', ünï", "select ?, ünï"),
        ] {
            assert_eq!(redacted(sql), expected, "{sql}");
        }
    }

    #[test]
    fn texts_that_differ_in_literals_have_one_fingerprint_and_others_their_own() {
        let one = Fingerprint::of("SELECT a FROM t WHERE b = 'x'  AND c = 5");
        assert_eq!(one, Fingerprint::of("select a from T where b = 'yy' and c = 70000 -- why"));
        assert_ne!(one, Fingerprint::of("select a from t where b = 'yy' or c = 5"));
        assert_eq!(Fingerprint::of("SELECT 1").to_string().len(), 16);
    }
}
