//! A quantile as an exact fraction, so that ranks are computed without rounding. Called by `snapshot` and `report`.

/// A quantile in parts per million: 990 000 is the 99th percentile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantile {
    parts_per_million: u32,
}

const WHOLE: u32 = 1_000_000;

impl Quantile {
    /// The median.
    pub const P50: Self = Self::per_million(500_000);
    /// The 95th percentile.
    pub const P95: Self = Self::per_million(950_000);
    /// The 99th percentile.
    pub const P99: Self = Self::per_million(990_000);
    /// The 99.9th percentile.
    pub const P999: Self = Self::per_million(999_000);

    /// A quantile in parts per million; more than a million is the maximum.
    #[must_use]
    pub const fn per_million(parts: u32) -> Self {
        Self { parts_per_million: if parts > WHOLE { WHOLE } else { parts } }
    }

    /// Which of `count` ordered values the quantile is, counted from 1: the smallest one that at least
    /// that part of all values does not exceed (the nearest-rank method).
    pub(crate) fn rank(self, count: u64) -> u64 {
        let rank = (u128::from(count) * u128::from(self.parts_per_million)).div_ceil(u128::from(WHOLE));
        u64::try_from(rank).unwrap_or(count).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_is_the_nearest_rank() {
        let check = |quantile: Quantile, count, expected| assert_eq!(quantile.rank(count), expected);
        check(Quantile::P50, 1, 1);
        check(Quantile::P50, 2, 1);
        check(Quantile::P50, 3, 2);
        check(Quantile::P99, 100, 99);
        check(Quantile::P999, 1_000, 999);
        check(Quantile::P999, 1_001, 1_000);
        check(Quantile::per_million(0), 10, 1);
        check(Quantile::per_million(u32::MAX), u64::MAX, u64::MAX);
    }
}
