//! Exact amounts: integer minor units and a currency, written as decimal text for gateways that want it.
//! Never passes through a float. Knows no list of currencies: the caller says code and exponent.

use std::fmt;

use thiserror::Error;

/// ISO 4217 knows exponents up to 4 (CLF, UYW).
const EXPONENT_MAX: u8 = 4;

/// Why an amount or currency is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AmountError {
    /// The code is not three upper-case ASCII letters.
    #[error("a currency code is three upper-case letters")]
    Code,
    /// The exponent is above 4.
    #[error("a currency exponent is at most 4")]
    Exponent,
    /// Gateways move positive amounts only.
    #[error("an amount is a positive number of minor units")]
    NotPositive,
}

/// An ISO 4217 currency: its code and how many decimals its minor unit has.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Currency {
    code: [u8; 3],
    exponent: u8,
}

impl Currency {
    /// `Currency::new("USD", 2)`. Checks the form, not whether the currency exists.
    pub fn new(code: &str, exponent: u8) -> Result<Self, AmountError> {
        let code: [u8; 3] = code.as_bytes().try_into().map_err(|_| AmountError::Code)?;
        if !code.iter().all(u8::is_ascii_uppercase) {
            return Err(AmountError::Code);
        }
        if exponent > EXPONENT_MAX {
            return Err(AmountError::Exponent);
        }
        Ok(Self { code, exponent })
    }

    /// The three-letter code.
    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.code).expect("checked to be ASCII letters")
    }

    /// Decimals of the minor unit: 0 for JPY, 2 for USD, 3 for KWD.
    pub fn exponent(&self) -> u8 {
        self.exponent
    }

    /// Minor units of a decimal text such as `10`, `10.5` or `10.50`; `None` when the text is not an exact,
    /// non-negative amount of this currency. Surplus decimals are accepted only when they are zeros.
    pub fn parse_minor_units(&self, text: &str) -> Option<i64> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let kept = fraction.len().min(usize::from(self.exponent));
        if fraction.bytes().skip(kept).any(|byte| byte != b'0') {
            return None;
        }
        let padding = usize::from(self.exponent) - kept;
        let digits =
            whole.bytes().chain(fraction.bytes().take(kept)).chain(std::iter::repeat_n(b'0', padding));
        digits
            .map(|byte| i64::from(byte - b'0'))
            .try_fold(0_i64, |sum, digit| sum.checked_mul(10)?.checked_add(digit))
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.code(), self.exponent)
    }
}

/// A positive amount of one currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Amount {
    minor_units: i64,
    currency: Currency,
}

impl Amount {
    /// `Amount::new(1050, usd)` is 10.50 USD. Refuses zero and less.
    pub fn new(minor_units: i64, currency: Currency) -> Result<Self, AmountError> {
        if minor_units <= 0 {
            return Err(AmountError::NotPositive);
        }
        Ok(Self { minor_units, currency })
    }

    /// The amount in the currency's smallest unit.
    pub fn minor_units(&self) -> i64 {
        self.minor_units
    }

    /// The currency.
    pub fn currency(&self) -> Currency {
        self.currency
    }

    /// Exact decimal text: `1000` JPY is `1000`, `1050` USD is `10.50`, `1` KWD is `0.001`.
    pub fn to_decimal_text(&self) -> String {
        let exponent = usize::from(self.currency.exponent);
        if exponent == 0 {
            return self.minor_units.to_string();
        }
        let digits = format!("{:0>width$}", self.minor_units, width = exponent + 1);
        let (whole, fraction) = digits.split_at(digits.len() - exponent);
        format!("{whole}.{fraction}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Amount, AmountError, Currency};

    fn check(code: &str, exponent: u8, minor_units: i64, expected: &str) {
        let currency = Currency::new(code, exponent).unwrap();
        let text = Amount::new(minor_units, currency).unwrap().to_decimal_text();
        assert_eq!(text, expected);
        assert_eq!(currency.parse_minor_units(&text), Some(minor_units));
    }

    #[test]
    fn text_follows_the_exponent() {
        check("JPY", 0, 1000, "1000");
        check("USD", 2, 1000, "10.00");
        check("USD", 2, 5, "0.05");
        check("KWD", 3, 1, "0.001");
        check("KWD", 3, 1234, "1.234");
        check("USD", 2, i64::MAX, "92233720368547758.07");
    }

    #[test]
    fn inexact_and_foreign_texts_are_refused() {
        let usd = Currency::new("USD", 2).unwrap();
        for text in ["", ".5", "1.005", "1e3", "-1", "1,00", " 1", "99999999999999999999"] {
            assert_eq!(usd.parse_minor_units(text), None, "{text}");
        }
        assert_eq!(usd.parse_minor_units("5"), Some(500));
        assert_eq!(usd.parse_minor_units("5.000"), Some(500));
    }

    #[test]
    fn zero_and_bad_codes_are_refused() {
        let usd = Currency::new("USD", 2).unwrap();
        assert_eq!(Amount::new(0, usd), Err(AmountError::NotPositive));
        assert_eq!(Currency::new("usd", 2), Err(AmountError::Code));
        assert_eq!(Currency::new("USD", 5), Err(AmountError::Exponent));
    }

    proptest! {
        #[test]
        fn text_and_minor_units_are_inverse(minor_units in 1_i64.., exponent in 0_u8..=4) {
            let currency = Currency::new("XTS", exponent).unwrap();
            let text = Amount::new(minor_units, currency).unwrap().to_decimal_text();
            prop_assert_eq!(currency.parse_minor_units(&text), Some(minor_units));
        }
    }
}
