//! Money as whole minor units with an ISO 4217 currency. No float, no rounding, no silent overflow.
//! Names nobody; everything else in the app builds on it.

use std::fmt;
use std::str::FromStr;

/// Largest amount of one payment, in minor units: 10^15 - 1. Nine thousand payments of it still fit an `i64` balance.
pub const AMOUNT_MAX: i64 = 999_999_999_999_999;

/// The overdraft of an external account: what lies outside this ledger has no floor of its own.
/// Half of the `i64` range, so that `posted - held` cannot overflow while both respect it.
pub const OVERDRAFT_UNBOUNDED: i64 = i64::MAX / 2;

/// An amount that can be paid: 1 to [`AMOUNT_MAX`] minor units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(i64);

/// Why a number is not an [`Amount`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a whole number of minor units from 1 to {AMOUNT_MAX}")]
pub struct AmountOutOfRange;

impl Amount {
    /// # Errors
    /// Zero, negative, or above [`AMOUNT_MAX`].
    pub fn new(minor_units: i64) -> Result<Self, AmountOutOfRange> {
        if (1..=AMOUNT_MAX).contains(&minor_units) { Ok(Self(minor_units)) } else { Err(AmountOutOfRange) }
    }

    /// Minor units.
    #[must_use]
    pub fn get(self) -> i64 {
        self.0
    }
}

/// An ISO 4217 currency, stored by its numeric code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency(u8);

/// A text or number that names no active ISO 4217 currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be an ISO 4217 currency code in capitals, such as \"USD\"")]
pub struct UnknownCurrency;

impl Currency {
    /// The three capital letters.
    #[must_use]
    pub fn code(self) -> &'static str {
        CURRENCIES[usize::from(self.0)].0
    }

    /// The ISO numeric code, which is how the database stores it.
    #[must_use]
    pub fn numeric(self) -> i16 {
        CURRENCIES[usize::from(self.0)].1
    }

    /// Digits after the decimal point: 2 for USD, 0 for JPY, 3 for KWD.
    #[must_use]
    pub fn exponent(self) -> u8 {
        CURRENCIES[usize::from(self.0)].2
    }

    /// # Errors
    /// The number names no active currency.
    pub fn from_numeric(numeric: i16) -> Result<Self, UnknownCurrency> {
        Self::position(|row| row.1 == numeric)
    }

    fn position(matches: impl Fn(&(&'static str, i16, u8)) -> bool) -> Result<Self, UnknownCurrency> {
        let index = CURRENCIES.iter().position(matches).ok_or(UnknownCurrency)?;
        Ok(Self(u8::try_from(index).expect("the table has fewer than 256 rows")))
    }
}

impl FromStr for Currency {
    type Err = UnknownCurrency;
    fn from_str(text: &str) -> Result<Self, UnknownCurrency> {
        Self::position(|row| row.0 == text)
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.code())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.code())
    }
}

/// Code, numeric code, exponent (ISO 4217). The commonest stand first: look-up is a short scan.
#[rustfmt::skip]
const CURRENCIES: [(&str, i16, u8); 156] = [
    ("USD", 840, 2), ("EUR", 978, 2), ("GBP", 826, 2), ("JPY", 392, 0), ("CHF", 756, 2), ("AUD", 36, 2),
    ("CAD", 124, 2), ("CNY", 156, 2), ("INR", 356, 2), ("SEK", 752, 2), ("NOK", 578, 2), ("DKK", 208, 2),
    ("AED", 784, 2), ("AFN", 971, 2), ("ALL", 8, 2), ("AMD", 51, 2), ("AOA", 973, 2), ("ARS", 32, 2),
    ("AWG", 533, 2), ("AZN", 944, 2), ("BAM", 977, 2), ("BBD", 52, 2), ("BDT", 50, 2), ("BHD", 48, 3),
    ("BIF", 108, 0), ("BMD", 60, 2), ("BND", 96, 2), ("BOB", 68, 2), ("BRL", 986, 2), ("BSD", 44, 2),
    ("BTN", 64, 2), ("BWP", 72, 2), ("BYN", 933, 2), ("BZD", 84, 2), ("CDF", 976, 2), ("CLF", 990, 4),
    ("CLP", 152, 0), ("COP", 170, 2), ("CRC", 188, 2), ("CUP", 192, 2), ("CVE", 132, 2), ("CZK", 203, 2),
    ("DJF", 262, 0), ("DOP", 214, 2), ("DZD", 12, 2), ("EGP", 818, 2), ("ERN", 232, 2), ("ETB", 230, 2),
    ("FJD", 242, 2), ("FKP", 238, 2), ("GEL", 981, 2), ("GHS", 936, 2), ("GIP", 292, 2), ("GMD", 270, 2),
    ("GNF", 324, 0), ("GTQ", 320, 2), ("GYD", 328, 2), ("HKD", 344, 2), ("HNL", 340, 2), ("HTG", 332, 2),
    ("HUF", 348, 2), ("IDR", 360, 2), ("ILS", 376, 2), ("IQD", 368, 3), ("IRR", 364, 2), ("ISK", 352, 0),
    ("JMD", 388, 2), ("JOD", 400, 3), ("KES", 404, 2), ("KGS", 417, 2), ("KHR", 116, 2), ("KMF", 174, 0),
    ("KPW", 408, 2), ("KRW", 410, 0), ("KWD", 414, 3), ("KYD", 136, 2), ("KZT", 398, 2), ("LAK", 418, 2),
    ("LBP", 422, 2), ("LKR", 144, 2), ("LRD", 430, 2), ("LSL", 426, 2), ("LYD", 434, 3), ("MAD", 504, 2),
    ("MDL", 498, 2), ("MGA", 969, 2), ("MKD", 807, 2), ("MMK", 104, 2), ("MNT", 496, 2), ("MOP", 446, 2),
    ("MRU", 929, 2), ("MUR", 480, 2), ("MVR", 462, 2), ("MWK", 454, 2), ("MXN", 484, 2), ("MYR", 458, 2),
    ("MZN", 943, 2), ("NAD", 516, 2), ("NGN", 566, 2), ("NIO", 558, 2), ("NPR", 524, 2), ("NZD", 554, 2),
    ("OMR", 512, 3), ("PAB", 590, 2), ("PEN", 604, 2), ("PGK", 598, 2), ("PHP", 608, 2), ("PKR", 586, 2),
    ("PLN", 985, 2), ("PYG", 600, 0), ("QAR", 634, 2), ("RON", 946, 2), ("RSD", 941, 2), ("RUB", 643, 2),
    ("RWF", 646, 0), ("SAR", 682, 2), ("SBD", 90, 2), ("SCR", 690, 2), ("SDG", 938, 2), ("SGD", 702, 2),
    ("SHP", 654, 2), ("SOS", 706, 2), ("SRD", 968, 2), ("SSP", 728, 2), ("STN", 930, 2), ("SVC", 222, 2),
    ("SYP", 760, 2), ("SZL", 748, 2), ("THB", 764, 2), ("TJS", 972, 2), ("TMT", 934, 2), ("TND", 788, 3),
    ("TOP", 776, 2), ("TRY", 949, 2), ("TTD", 780, 2), ("TWD", 901, 2), ("TZS", 834, 2), ("UAH", 980, 2),
    ("UGX", 800, 0), ("UYU", 858, 2), ("UZS", 860, 2), ("VES", 928, 2), ("VND", 704, 0), ("VUV", 548, 0),
    ("WST", 882, 2), ("XAF", 950, 0), ("XCD", 951, 2), ("XOF", 952, 0), ("YER", 886, 2), ("ZAR", 710, 2),
    ("SLE", 925, 2), ("VED", 926, 2), ("XCG", 532, 2), ("XPF", 953, 0), ("ZMW", 967, 2), ("ZWG", 924, 2),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_currency_is_found_by_both_its_codes() {
        for (code, numeric, exponent) in CURRENCIES {
            let currency: Currency = code.parse().unwrap();
            assert_eq!(currency, Currency::from_numeric(numeric).unwrap(), "{code}");
            assert_eq!(currency.exponent(), exponent);
        }
    }

    /// Codes that older lists lack, as list one of ISO 4217 gives them.
    #[test]
    fn currencies_that_came_lately_are_known() {
        for (code, numeric, exponent) in [
            ("SLE", 925, 2),
            ("VED", 926, 2),
            ("XCG", 532, 2),
            ("XPF", 953, 0),
            ("ZMW", 967, 2),
            ("ZWG", 924, 2),
        ] {
            let currency: Currency = code.parse().unwrap();
            assert_eq!(currency, Currency::from_numeric(numeric).unwrap(), "{code}");
            assert_eq!((currency.code(), currency.exponent()), (code, exponent));
        }
    }

    #[test]
    fn near_misses_of_a_currency_are_refused() {
        for text in ["", "usd", "US", "USDD", "XXX", "840"] {
            assert_eq!(text.parse::<Currency>(), Err(UnknownCurrency), "{text}");
        }
    }

    #[test]
    fn amounts_outside_the_range_are_refused() {
        for bad in [0, -1, i64::MIN, AMOUNT_MAX + 1, i64::MAX] {
            assert_eq!(Amount::new(bad), Err(AmountOutOfRange), "{bad}");
        }
        assert_eq!(Amount::new(AMOUNT_MAX).unwrap().get(), AMOUNT_MAX);
    }
}
