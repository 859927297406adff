//! Calendar months in UTC, and where they begin in UUIDv7 order.
//! It knows no time zones and no days. Used by the partition functions.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// A month of the Gregorian calendar, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month {
    year: i32,
    month: u8,
}

const MONTHS_PER_YEAR: u8 = 12;
const MILLIS_PER_DAY: i64 = 86_400_000;
/// UUIDv7 counts milliseconds since 1970 in 48 bits, which end in the year 10889.
const YEAR_MIN: i32 = 1970;
const YEAR_MAX: i32 = 9999;

impl Month {
    /// A month from 1970-01 to 9999-12; None outside.
    #[must_use]
    pub const fn new(year: i32, month: u8) -> Option<Self> {
        if year < YEAR_MIN || year > YEAR_MAX || month < 1 || month > MONTHS_PER_YEAR {
            return None;
        }
        Some(Self { year, month })
    }

    /// The month that `time` lies in; times before 1970 or after 9999 give the first or the last month.
    #[must_use]
    pub fn containing(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let days = i64::try_from(since.as_secs() / 86_400).unwrap_or(i64::MAX);
        let (year, month) = civil_from_days(days.min(days_from_civil(YEAR_MAX, MONTHS_PER_YEAR)));
        Self { year, month }
    }

    /// The year.
    #[must_use]
    pub const fn year(self) -> i32 {
        self.year
    }

    /// The month of the year, 1 to 12.
    #[must_use]
    pub const fn month(self) -> u8 {
        self.month
    }

    /// The month after.
    #[must_use]
    pub const fn next(self) -> Self {
        if self.month == MONTHS_PER_YEAR {
            Self { year: self.year + 1, month: 1 }
        } else {
            Self { year: self.year, month: self.month + 1 }
        }
    }

    /// Its first millisecond, counted from 1970.
    #[must_use]
    pub fn first_millisecond(self) -> u64 {
        let millis = days_from_civil(self.year, self.month) * MILLIS_PER_DAY;
        u64::try_from(millis).expect("no month before 1970 can be made")
    }

    /// The lowest UUID that a version 7 UUID made in this month can reach: the 48-bit time, then zeros.
    #[must_use]
    pub fn first_uuid(self) -> String {
        let millis = self.first_millisecond();
        format!("{:08x}-{:04x}-0000-0000-000000000000", millis >> 16, millis & 0xffff)
    }
}

impl fmt::Display for Month {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:04}_{:02}", self.year, self.month)
    }
}

/// Days from 1970-01-01 to the first of the month. Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn days_from_civil(year: i32, month: u8) -> i64 {
    // Years begin in March, so that the leap day comes last.
    let (year, month) = (i64::from(year) - i64::from(month <= 2), i64::from(month));
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The inverse, from the same source.
fn civil_from_days(days: i64) -> (i32, u8) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let in_range = "the callers keep to the years 1970 to 9999";
    (i32::try_from(year).expect(in_range), u8::try_from(month).expect(in_range))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn month(year: i32, month: u8) -> Month {
        Month::new(year, month).expect("a valid month")
    }

    #[test]
    fn known_instants() {
        assert_eq!(month(1970, 1).first_millisecond(), 0);
        assert_eq!(month(2000, 3).first_millisecond(), 951_868_800_000);
        assert_eq!(month(2026, 11).first_millisecond(), 1_793_491_200_000);
        assert_eq!(month(2026, 11).first_uuid(), "01a19467-e800-0000-0000-000000000000");
        assert_eq!(month(2026, 11).to_string(), "2026_11");
        assert_eq!(month(2026, 12).next(), month(2027, 1));
    }

    #[test]
    fn every_month_begins_where_the_one_before_ends() {
        let mut current = month(1970, 1);
        while current < month(9999, 12) {
            let next = current.next();
            let first = UNIX_EPOCH + Duration::from_millis(next.first_millisecond());
            assert_eq!(Month::containing(first), next);
            assert_eq!(Month::containing(first - Duration::from_millis(1)), current);
            assert!(current.first_uuid() < next.first_uuid());
            current = next;
        }
    }

    #[test]
    fn months_that_do_not_exist_are_refused() {
        assert_eq!((Month::new(2026, 0), Month::new(2026, 13), Month::new(1969, 12)), (None, None, None));
        assert_eq!(Month::containing(UNIX_EPOCH - Duration::from_secs(1)), month(1970, 1));
    }
}
