//! Parts of a chunk: how one that was rejected is split, and what is left of it without its bad rows. Used by `write`.

use std::ops::Range;

/// What is left of so many rows.
pub(super) fn without(rows: usize, bad: &mut [usize]) -> Vec<Range<usize>> {
    bad.sort_unstable();
    let ends = bad.iter().copied().chain([rows]);
    let starts = [0].into_iter().chain(bad.iter().map(|row| row + 1));
    starts.zip(ends).map(|(start, end)| start..end).filter(|range| !range.is_empty()).collect()
}

/// Adds the parts of a range, the earliest on top. Around a row that was named there are three, else two halves.
pub(super) fn split(parts: &mut Vec<Range<usize>>, range: Range<usize>, hint: Option<usize>) {
    let named = hint.filter(|row| range.contains(row) && range.len() > 1);
    let middle = range.start + range.len() / 2;
    let pieces = match named {
        Some(row) => [row + 1..range.end, row..row + 1, range.start..row],
        None => [middle..range.end, range.start..middle, range.end..range.end],
    };
    parts.extend(pieces.into_iter().filter(|piece| !piece.is_empty()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_split_around_the_named_row_or_in_halves_and_nothing_is_lost() {
        for (hint, wanted) in [
            (Some(5), vec![6..10, 5..6, 2..5]),
            (Some(2), vec![3..10, 2..3]),
            (Some(9), vec![9..10, 2..9]),
            (Some(10), vec![6..10, 2..6]),
            (None, vec![6..10, 2..6]),
        ] {
            let mut parts = Vec::new();
            split(&mut parts, 2..10, hint);
            assert_eq!(parts, wanted, "{hint:?}");
        }
        let mut parts = Vec::new();
        split(&mut parts, 4..5, None);
        assert_eq!(parts, vec![4..5]);
    }

    #[test]
    fn what_is_not_bad_is_written() {
        assert_eq!(without(5, &mut [3, 1]), vec![0..1, 2..3, 4..5]);
        assert_eq!(without(5, &mut [0, 4]), vec![1..4]);
        assert_eq!(without(2, &mut [1, 0]), vec![]);
        assert_eq!(without(3, &mut []), vec![0..3]);
    }
}
