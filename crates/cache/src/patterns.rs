//! Sweeps over the keys that match a glob. The line keeps one among its tags, under a name that no other tag has, so that a
//! store behind it need not know of patterns. Used by `sweeps`, `store` and the test kit.

use std::sync::Arc;

use bytes::Bytes;

use crate::backplane::Swath;

/// Begins the name of a pattern among the tags; reserved.
const PREFIX: &str = "\0glob:";

/// What a key has to look like: `*` stands for any bytes, `?` for any one, and `\` takes the next one as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob(Bytes);

/// What the keys that match are swept by: where it says no more, a prefix, or everything.
pub(crate) fn swath_of(pattern: &[u8]) -> Swath {
    let (literal, rest) = split(pattern);
    let is_prefix = !rest.is_empty() && rest.iter().all(|byte| *byte == b'*');
    match is_prefix {
        true if literal.is_empty() => Swath::All,
        true => Swath::Prefix(literal),
        false => Swath::Tag(Arc::from(format!("{PREFIX}{}", hex(pattern)))),
    }
}

/// The pattern that a swath stands for, if it stands for one.
pub(crate) fn glob_of(swath: &Swath) -> Option<Glob> {
    let Swath::Tag(name) = swath else { return None };
    unhex(name.strip_prefix(PREFIX)?).map(Glob)
}

impl Glob {
    /// As it was given.
    pub(crate) fn pattern(&self) -> &[u8] {
        &self.0
    }

    /// What every key that matches begins with.
    pub(crate) fn literal(&self) -> Bytes {
        split(&self.0).0
    }

    /// Takes as long as both are, or, with several stars, as their product.
    pub(crate) fn covers(&self, key: &[u8]) -> bool {
        let glob = &self.0[..];
        let (mut at, mut seen) = (0, 0);
        // After the last star, and how much of the key it has taken.
        let mut star: Option<(usize, usize)> = None;
        loop {
            let step = match glob.get(at) {
                Some(b'*') => {
                    at += 1;
                    star = Some((at, seen));
                    continue;
                }
                None if seen == key.len() => return true,
                Some(wanted) if seen < key.len() => step(*wanted, glob.get(at + 1), key[seen]),
                _ => 0,
            };
            if step > 0 {
                (at, seen) = (at + step, seen + 1);
                continue;
            }
            // The star takes one more, if there is one, and one more is left.
            let Some((after, taken)) = star.filter(|(_, taken)| *taken < key.len()) else { return false };
            (at, seen) = (after, taken + 1);
            star = Some((after, seen));
        }
    }
}

/// How many bytes of the pattern this byte of a key matches; none if it does not.
fn step(wanted: u8, next: Option<&u8>, byte: u8) -> usize {
    match (wanted, next) {
        (b'?', _) => 1,
        (b'\\', Some(next)) => 2 * usize::from(*next == byte),
        _ => usize::from(wanted == byte),
    }
}

/// What a pattern says word for word at its beginning, and the rest.
fn split(pattern: &[u8]) -> (Bytes, &[u8]) {
    let (mut literal, mut rest) = (Vec::new(), pattern);
    loop {
        rest = match rest {
            [b'*' | b'?', ..] | [] => return (literal.into(), rest),
            [b'\\', next, after @ ..] => {
                literal.push(*next);
                after
            }
            [byte, after @ ..] => {
                literal.push(*byte);
                after
            }
        };
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Option<Bytes> {
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| {
            u8::from_str_radix(std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?, 16).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    fn glob(pattern: &str) -> Glob {
        Glob(Bytes::copy_from_slice(pattern.as_bytes()))
    }

    #[test]
    fn patterns_cover_what_they_say() {
        for (pattern, yes, no) in [
            (
                "user:*:name",
                vec!["user:7:name", "user::name", "user:a:b:name"],
                vec!["user:7:names", "user:name", ""],
            ),
            ("a?c", vec!["abc", "a?c"], vec!["ac", "abbc"]),
            (r"a\*c", vec!["a*c"], vec!["abc", r"a\*c"]),
            (r"a\", vec![r"a\"], vec!["a", "ab"]),
            ("*a*b*", vec!["ab", "xaxbx", "aab"], vec!["ba", "a", "b"]),
            ("", vec![""], vec!["a"]),
            ("abc", vec!["abc"], vec!["ab", "abcd"]),
        ] {
            for key in yes {
                assert!(glob(pattern).covers(key.as_bytes()), "{pattern:?} covers {key:?}");
            }
            for key in no {
                assert!(!glob(pattern).covers(key.as_bytes()), "{pattern:?} does not cover {key:?}");
            }
        }
    }

    /// Straight from the words: slow, and plain to see.
    fn matches(pattern: &[u8], key: &[u8]) -> bool {
        match (pattern, key) {
            ([], key) => key.is_empty(),
            ([b'*', rest @ ..], key) => (0..=key.len()).any(|taken| matches(rest, &key[taken..])),
            ([b'?', rest @ ..], [_, key @ ..]) => matches(rest, key),
            ([b'\\', wanted, rest @ ..], [byte, key @ ..]) => wanted == byte && matches(rest, key),
            ([b'\\', _, ..], []) => false,
            ([wanted, rest @ ..], [byte, key @ ..]) => wanted == byte && matches(rest, key),
            (_, []) => false,
        }
    }

    #[test]
    fn random_patterns_cover_what_their_words_say() {
        let mut random = StdRng::seed_from_u64(7);
        let mut text = |letters: &[u8], most: usize| -> Vec<u8> {
            (0..random.random_range(0..=most))
                .map(|_| letters[random.random_range(0..letters.len())])
                .collect()
        };
        let mut covered = 0;
        for _ in 0..200_000 {
            let (pattern, key) = (text(br"ab*?\", 7), text(br"ab*\", 8));
            let is_covered = Glob(pattern.clone().into()).covers(&key);
            assert_eq!(
                is_covered,
                matches(&pattern, &key),
                "{:?} {:?}",
                pattern.escape_ascii(),
                key.escape_ascii()
            );
            covered += u32::from(is_covered);
        }
        assert!(covered > 10_000, "{covered}");
    }

    #[test]
    fn swath_of_a_pattern_stands_for_it_and_a_plain_one_for_itself() {
        let pattern = b"k\0\xff*:?";
        assert_eq!(glob_of(&swath_of(pattern)), Some(Glob(Bytes::from_static(pattern))));
        assert_eq!(glob("user:\\*7?x").literal(), "user:*7");
        assert_eq!(swath_of(b"a\\*b*"), Swath::Prefix(Bytes::from_static(b"a*b")));
        assert_eq!(swath_of(b"**"), Swath::All);
        for name in ["", "glob:61", "\0glob:6", "\0glob:zz", "\0glob:6é"] {
            assert_eq!(glob_of(&Swath::Tag(name.into())), None, "{name:?}");
        }
    }
}
