//! Counts by word, as printed at the end of a run. Bounded: words come from the service, and a broken service must not
//! fill the generator's memory.

use std::collections::BTreeMap;
use std::fmt;

/// Statuses and codes of the API are a few dozen.
const WORDS_MAX: usize = 200;
const OTHER: &str = "(other)";

/// Counts by word, in alphabetical order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    counts: BTreeMap<String, u64>,
}

impl Tally {
    /// Counts one.
    pub fn add(&mut self, word: &str) {
        self.add_many(word, 1);
    }

    /// Counts all of another.
    pub fn merge(&mut self, other: &Self) {
        for (word, count) in &other.counts {
            self.add_many(word, *count);
        }
    }

    fn add_many(&mut self, word: &str, count: u64) {
        let word = if self.counts.contains_key(word) || self.counts.len() < WORDS_MAX { word } else { OTHER };
        *self.counts.entry(word.to_owned()).or_default() += count;
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Those of one word.
    #[must_use]
    pub fn count(&self, word: &str) -> u64 {
        self.counts.get(word).copied().unwrap_or(0)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.counts.is_empty() {
            return formatter.write_str("0");
        }
        write!(formatter, "{} (", self.total())?;
        for (index, (word, count)) in self.counts.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(formatter, "{separator}{word} {count}")?;
        }
        formatter.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted_and_bounded() {
        let mut tally = Tally::default();
        assert_eq!(tally.to_string(), "0");
        for word in ["succeeded", "failed", "succeeded"] {
            tally.add(word);
        }
        assert_eq!(tally.to_string(), "3 (failed 1, succeeded 2)");
        for number in 0..1_000 {
            tally.add(&format!("word {number}"));
        }
        tally.add("succeeded");
        assert_eq!((tally.total(), tally.count("succeeded"), tally.counts.len()), (1_004, 3, WORDS_MAX + 1));
    }
}
