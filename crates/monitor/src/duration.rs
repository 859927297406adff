//! Durations as whole nanoseconds, the unit inside this crate, and as text for people.

use std::time::Duration;

/// Whole nanoseconds; 584 years and more are `u64::MAX`.
#[inline]
pub(crate) fn to_ns(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(duration.subsec_nanos()))
}

/// Three digits and a unit, as in `1.25 ms`.
pub(crate) fn to_text(value_ns: u64) -> String {
    const UNITS: [(f64, &str); 3] = [(1e9, "s"), (1e6, "ms"), (1e3, "µs")];
    let value = value_ns as f64;
    let Some((scale, unit)) = UNITS.into_iter().find(|(scale, _)| value >= *scale) else {
        return format!("{value_ns} ns");
    };
    let value = value / scale;
    let decimals = if value < 10.0 {
        2
    } else if value < 100.0 {
        1
    } else {
        0
    };
    format!("{value:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nanoseconds_saturate() {
        assert_eq!(to_ns(Duration::new(3, 7)), 3_000_000_007);
        assert_eq!(to_ns(Duration::MAX), u64::MAX);
    }

    #[test]
    fn text_keeps_three_digits() {
        let check = |value_ns, expected: &str| assert_eq!(to_text(value_ns), expected);
        check(0, "0 ns");
        check(999, "999 ns");
        check(1_250, "1.25 µs");
        check(12_345_678, "12.3 ms");
        check(999_000_000, "999 ms");
        check(1_500_000_000, "1.50 s");
        check(3_600_000_000_000, "3600 s");
    }
}
