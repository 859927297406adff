//! The log-linear scale that durations are counted on: which cell a value falls in, and what a cell stands for.
//! Every power of two is cut into 64 cells, so a cell's middle is at most 1/128 = 0.79 % away from any value in it;
//! below 128 ns each cell is one nanosecond. The scheme is that of HdrHistogram with 64 instead of 1024 sub-buckets.
//! Pure arithmetic: no state, no atomics. Called by `shard` to record and by `snapshot` to read.

/// Durations above this are counted as this: an operation that takes longer than an hour is a batch job.
pub(crate) const VALUE_MAX_NS: u64 = 3_600_000_000_000;

/// Cells in the scale: 18.3 KiB of counters.
pub(crate) const CELLS: usize = index(VALUE_MAX_NS) + 1;

/// Binary digits kept of a value, besides its leading one.
const PRECISION_BITS: u32 = 6;
const CELLS_PER_OCTAVE: usize = 1 << PRECISION_BITS;

/// The cell of a value of at most [`VALUE_MAX_NS`].
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the scale ends at 2345, and `try_from` is not const")]
pub(crate) const fn index(value_ns: u64) -> usize {
    // Setting bit 6 makes everything below 128 take the linear part, without a branch.
    let magnitude = 63 - (value_ns | CELLS_PER_OCTAVE as u64).leading_zeros();
    let shift = magnitude - PRECISION_BITS;
    shift as usize * CELLS_PER_OCTAVE + (value_ns >> shift) as usize
}

/// The smallest value in a cell.
pub(crate) const fn lowest_ns(index: usize) -> u64 {
    if index < 2 * CELLS_PER_OCTAVE {
        index as u64
    } else {
        ((index % CELLS_PER_OCTAVE + CELLS_PER_OCTAVE) as u64) << (index / CELLS_PER_OCTAVE - 1)
    }
}

/// The value that stands for all values of a cell: its middle.
pub(crate) const fn middle_ns(index: usize) -> u64 {
    let lowest = lowest_ns(index);
    lowest + (lowest_ns(index + 1) - 1 - lowest) / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cells_tile_the_scale_without_gap_or_overlap() {
        for cell in 0..CELLS {
            assert_eq!(index(lowest_ns(cell)), cell);
            assert_eq!(index(lowest_ns(cell + 1) - 1), cell);
        }
        assert_eq!(index(VALUE_MAX_NS), CELLS - 1);
    }

    proptest! {
        #[test]
        fn middle_of_a_cell_is_within_0_79_percent(magnitude in 0_u32..42, noise in any::<u64>()) {
            // Uniform over magnitudes: a uniform value would nearly always be above half an hour.
            let value_ns = ((1_u64 << magnitude) | (noise & ((1 << magnitude) - 1))).min(VALUE_MAX_NS);
            let distance_ns = middle_ns(index(value_ns)).abs_diff(value_ns);
            prop_assert!(distance_ns * 128 <= value_ns, "{value_ns} ns is counted as {distance_ns} ns off");
        }
    }
}
