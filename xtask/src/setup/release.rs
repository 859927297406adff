//! Numbers of releases, as programs and packages tell them, and the least that serve. Compares; runs nothing.

use std::fmt;

/// Up to three numbers, the missing ones zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Release(pub(crate) [u32; 3]);

impl Release {
    pub(crate) fn major(self) -> u32 {
        self.0[0]
    }

    /// The numbers right behind `mark`, as in `postgres (PostgreSQL) 15.18` or `memcached 1.6.18`.
    pub(super) fn behind(mark: &str, said: &str) -> Option<Release> {
        Release::at_start(said.split_once(mark)?.1)
    }

    /// The numbers in front of a text: 15 of `15+248+deb12u2`, 17 of `17beta1`.
    pub(super) fn at_start(text: &str) -> Option<Release> {
        let is_of_release = |letter: char| letter.is_ascii_digit() || letter == '.';
        let end = text.find(|letter| !is_of_release(letter)).unwrap_or(text.len());
        let mut numbers = text[..end].split('.');
        let mut release = [numbers.next()?.parse().ok()?, 0, 0];
        for place in &mut release[1..] {
            *place = numbers.next().and_then(|number| number.parse().ok()).unwrap_or(0);
        }
        Some(Release(release))
    }
}

impl fmt::Display for Release {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Release([major, minor, patch]) = self;
        match (minor, patch) {
            (0, 0) => write!(formatter, "{major}"),
            (_, 0) => write!(formatter, "{major}.{minor}"),
            _ => write!(formatter, "{major}.{minor}.{patch}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Release;

    #[test]
    fn releases_are_read_from_what_programs_say() {
        for (mark, said, expected) in [
            ("(PostgreSQL) ", "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", Some([15, 18, 0])),
            ("(PostgreSQL) ", "postgres (PostgreSQL) 18beta1", Some([18, 0, 0])),
            ("v=", "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0", Some([7, 0, 15])),
            ("memcached ", "memcached 1.6.18", Some([1, 6, 18])),
            ("v=", "something else", None),
            ("v=", "v=none", None),
        ] {
            assert_eq!(Release::behind(mark, said), expected.map(Release), "{said}");
        }
    }

    #[test]
    fn releases_are_ordered_and_told_by_their_numbers() {
        assert!(Release([1, 6, 9]) < Release([1, 6, 12]) && Release([15, 0, 0]) < Release([15, 1, 0]));
        let told = [[15, 0, 0], [7, 2, 0], [1, 6, 12]].map(|numbers| Release(numbers).to_string());
        assert_eq!(told, ["15", "7.2", "1.6.12"]);
    }
}
