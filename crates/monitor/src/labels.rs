//! Label sets: the fixed dimensions of an instrument, and the bound on how many of them one name may have.
//! Refuses to grow with traffic: over the bound everything lands in one set labelled `overflow`.
//! Does not escape or rename anything, which is the exposition's business. Called by `registry`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// Label sets per name. Each costs memory in here and a series in every store downstream; more than this is
/// nearly always an identifier used as a label.
pub const LABEL_SETS_MAX: usize = 64;

/// Labels in one set; further ones are left out.
pub const LABELS_MAX: usize = 8;

/// Bytes of one label's value; a longer one is cut.
pub const LABEL_VALUE_BYTES_MAX: usize = 128;

const OVERFLOW: (&str, &str) = ("overflow", "true");

/// The fixed labels of one series, in order of their names. Cloning copies a pointer.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabelSet {
    labels: Arc<[(&'static str, Box<str>)]>,
}

impl LabelSet {
    pub(crate) fn new(labels: &[(&'static str, &str)]) -> Self {
        // A map, so that the order given does not make two sets of one; of a name given twice the last value counts.
        let by_name: BTreeMap<&'static str, &str> = labels.iter().take(LABELS_MAX).copied().collect();
        Self { labels: by_name.into_iter().map(|(name, value)| (name, cut(value).into())).collect() }
    }

    fn overflow() -> Self {
        Self::new(&[OVERFLOW])
    }

    /// Names and values, in order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.labels.iter().map(|(name, value)| (*name, &**value))
    }

    /// Whether there are no labels.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// As in `{tier=l1, result=hit}`; nothing for an empty set.
impl fmt::Display for LabelSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return Ok(());
        }
        for (position, (name, value)) in self.iter().enumerate() {
            let before = if position == 0 { "{" } else { ", " };
            write!(formatter, "{before}{name}={value}")?;
        }
        formatter.write_str("}")
    }
}

impl Serialize for LabelSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

/// The series of one name: at most [`LABEL_SETS_MAX`] and the one for overflow.
#[derive(Clone, Debug)]
pub(crate) struct SeriesSet<T> {
    series: BTreeMap<LabelSet, T>,
}

impl<T: Clone> SeriesSet<T> {
    pub(crate) const fn new() -> Self {
        Self { series: BTreeMap::new() }
    }

    /// The series with these labels, made if it is new and there is room; else the one for overflow.
    pub(crate) fn get_or_insert(&mut self, labels: LabelSet, make: impl FnOnce(&LabelSet) -> T) -> T {
        let labels = self.admit(labels);
        self.series.entry(labels).or_insert_with_key(make).clone()
    }

    /// Like [`Self::get_or_insert`], but replaces what is there.
    /// Gives back the replaced one, for the caller to drop where foreign code may run.
    pub(crate) fn replace(&mut self, labels: LabelSet, series: T) -> Option<T> {
        let labels = self.admit(labels);
        self.series.insert(labels, series)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&LabelSet, &T)> {
        self.series.iter()
    }

    fn admit(&self, labels: LabelSet) -> LabelSet {
        let has_room = self.series.len() < LABEL_SETS_MAX || self.series.contains_key(&labels);
        if has_room { labels } else { LabelSet::overflow() }
    }
}

fn cut(value: &str) -> &str {
    &value[..value.floor_char_boundary(LABEL_VALUE_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_repetition_do_not_make_another_set() {
        let set = LabelSet::new(&[("tier", "l1"), ("result", "hit")]);
        assert_eq!(set, LabelSet::new(&[("result", "miss"), ("tier", "l1"), ("result", "hit")]));
        assert_eq!(set.to_string(), "{result=hit, tier=l1}");
        assert_eq!(LabelSet::default().to_string(), "");
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        let set = LabelSet::new(&[("name", &"ü".repeat(LABEL_VALUE_BYTES_MAX))]);
        let (_, value) = set.iter().next().unwrap();
        assert_eq!(value, "ü".repeat(LABEL_VALUE_BYTES_MAX / 2));
    }

    #[test]
    fn labels_over_the_bound_are_left_out() {
        let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
        let set = LabelSet::new(&names.map(|name| (name, "1")));
        assert_eq!(set.iter().map(|(name, _)| name).collect::<Vec<_>>(), names[..LABELS_MAX]);
    }

    #[test]
    fn sets_over_the_bound_share_the_overflow_set_and_earlier_ones_keep_theirs() {
        let mut series = SeriesSet::new();
        let labels = |number: usize| LabelSet::new(&[("number", &number.to_string())]);
        for number in 0..LABEL_SETS_MAX {
            assert_eq!(series.get_or_insert(labels(number), |_| number), number);
        }
        let over = [LABEL_SETS_MAX, LABEL_SETS_MAX + 1];
        assert_eq!(over.map(|number| series.get_or_insert(labels(number), |_| number)), [LABEL_SETS_MAX; 2]);
        assert_eq!(series.get_or_insert(labels(3), |_| 99), 3);
        assert_eq!(series.iter().count(), LABEL_SETS_MAX + 1);
        assert!(series.iter().any(|(labels, _)| labels.to_string() == "{overflow=true}"));
    }
}
