//! A payment card, checked once at the edge and never printed.
//! Refuses numbers that fail the Luhn check and cards past their month; does not know whether a card exists.

use std::fmt;

use thiserror::Error;
use time::{Date, Month};

use crate::secret::Secret;

/// ISO/IEC 7812 card numbers have 12 to 19 digits; Authorize.Net takes at least 13.
const NUMBER_DIGITS: std::ops::RangeInclusive<usize> = 13..=19;
/// Authorize.Net's limit for `zip`.
const ZIP_CHARACTERS_MAX: usize = 20;

/// Why a card is refused. [`CardError::field`] names the field as the HTTP contract does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CardError {
    /// The number is not 13 to 19 digits.
    #[error("a card number has 13 to 19 digits")]
    NumberMalformed,
    /// The Luhn check digit is wrong: a typing mistake.
    #[error("the card number fails its check digit")]
    NumberChecksum,
    /// The expiration is not `YYYY-MM`.
    #[error("an expiration is written YYYY-MM")]
    ExpirationMalformed,
    /// The card's last month is over.
    #[error("the card has expired")]
    Expired,
    /// The code is not 3 or 4 digits.
    #[error("a card code has 3 or 4 digits")]
    CodeMalformed,
    /// The zip is empty, longer than 20 characters or has unusual characters.
    #[error("a billing zip has 1 to 20 letters, digits, spaces or hyphens")]
    ZipMalformed,
}

impl CardError {
    /// The field at fault: `number`, `expiration`, `code` or `billing_zip`.
    pub fn field(&self) -> &'static str {
        match self {
            Self::NumberMalformed | Self::NumberChecksum => "number",
            Self::ExpirationMalformed | Self::Expired => "expiration",
            Self::CodeMalformed => "code",
            Self::ZipMalformed => "billing_zip",
        }
    }
}

/// The fields of a card as the wire carries them. Not printable: it holds the raw number.
#[derive(Clone, Copy)]
pub struct CardFields<'a> {
    /// 13 to 19 digits, no spaces.
    pub number: &'a str,
    /// `YYYY-MM`.
    pub expiration: &'a str,
    /// The 3 or 4 digits printed on the card.
    pub code: Option<&'a str>,
    /// The postal code of the card's billing address.
    pub billing_zip: Option<&'a str>,
}

impl fmt::Debug for CardFields<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("CardFields(***)")
    }
}

/// A card that passed [`Card::parse`]. Its number and code are wiped on drop; `Debug` shows the last four only.
#[derive(Clone)]
pub struct Card {
    number: Secret,
    expiration: String,
    code: Option<Secret>,
    billing_zip: Option<Secret>,
}

impl Card {
    /// Checks every field. `today` comes in, so that the expiry check has no hidden clock.
    pub fn parse(fields: CardFields<'_>, today: Date) -> Result<Self, CardError> {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(fields.number) || !NUMBER_DIGITS.contains(&fields.number.len()) {
            return Err(CardError::NumberMalformed);
        }
        if !passes_luhn(fields.number) {
            return Err(CardError::NumberChecksum);
        }
        if is_expired(fields.expiration, today)? {
            return Err(CardError::Expired);
        }
        if fields.code.is_some_and(|code| !digits(code) || !(3..=4).contains(&code.len())) {
            return Err(CardError::CodeMalformed);
        }
        if fields.billing_zip.is_some_and(|zip| !is_zip(zip)) {
            return Err(CardError::ZipMalformed);
        }
        Ok(Self {
            number: Secret::from(fields.number),
            expiration: fields.expiration.to_owned(),
            code: fields.code.map(Secret::from),
            billing_zip: fields.billing_zip.map(Secret::from),
        })
    }

    /// The last four digits, which may be shown and stored.
    pub fn last4(&self) -> &str {
        let number = self.number.expose();
        &number[number.len() - 4..]
    }

    /// The first six digits: the issuer. May be stored; with [`Card::last4`] it is the most that may.
    pub fn bin(&self) -> &str {
        &self.number.expose()[..6]
    }

    /// `YYYY-MM`.
    pub fn expiration(&self) -> &str {
        &self.expiration
    }

    /// The whole number, for the wire and for keyed fingerprints only.
    pub fn number(&self) -> &Secret {
        &self.number
    }

    pub(crate) fn code(&self) -> Option<&Secret> {
        self.code.as_ref()
    }

    pub(crate) fn billing_zip(&self) -> Option<&Secret> {
        self.billing_zip.as_ref()
    }
}

impl fmt::Debug for Card {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Card(..{})", self.last4())
    }
}

/// The Luhn check (ISO/IEC 7812-1): every second digit from the right doubled, digit sums add to a multiple of 10.
pub fn passes_luhn(number: &str) -> bool {
    let sum: u32 = number
        .bytes()
        .rev()
        .enumerate()
        .map(|(place, byte)| {
            let digit = u32::from(byte.wrapping_sub(b'0'));
            let doubled = if place % 2 == 1 { digit * 2 } else { digit };
            if doubled > 9 { doubled - 9 } else { doubled }
        })
        .sum();
    sum.is_multiple_of(10)
}

/// Whether the last day of `YYYY-MM` lies before `today`.
pub(crate) fn is_expired(expiration: &str, today: Date) -> Result<bool, CardError> {
    let malformed = CardError::ExpirationMalformed;
    let (year, month) = expiration.split_once('-').ok_or(malformed)?;
    if year.len() != 4 || month.len() != 2 || !year.bytes().chain(month.bytes()).all(|b| b.is_ascii_digit()) {
        return Err(malformed);
    }
    let year: i32 = year.parse().map_err(|_| malformed)?;
    let month: u8 = month.parse().map_err(|_| malformed)?;
    let month = Month::try_from(month).map_err(|_| malformed)?;
    Ok((year, u8::from(month)) < (today.year(), u8::from(today.month())))
}

fn is_zip(zip: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b' ' || byte == b'-';
    !zip.is_empty() && zip.len() <= ZIP_CHARACTERS_MAX && zip.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use time::macros::date;

    use super::{Card, CardError, CardFields};

    const GOOD: CardFields<'static> = CardFields {
        number: "4111111111111111",
        expiration: "2030-12",
        code: Some("900"),
        billing_zip: Some("46201"),
    };

    fn check(fields: CardFields<'_>, expected: Option<(CardError, &str)>) {
        let found = Card::parse(fields, date!(2030 - 12 - 31)).err();
        assert_eq!(found.map(|error| (error, error.field())), expected);
    }

    #[test]
    fn each_bad_field_is_named() {
        check(GOOD, None);
        check(CardFields { code: None, billing_zip: None, ..GOOD }, None);
        check(CardFields { number: "4111", ..GOOD }, Some((CardError::NumberMalformed, "number")));
        check(
            CardFields { number: "4111 1111 1111 1111", ..GOOD },
            Some((CardError::NumberMalformed, "number")),
        );
        check(CardFields { number: "4111111111111112", ..GOOD }, Some((CardError::NumberChecksum, "number")));
        check(CardFields { expiration: "2030-11", ..GOOD }, Some((CardError::Expired, "expiration")));
        for expiration in ["2030-13", "2030-00", "12-2030", "2030-1", "+203-01", ""] {
            check(CardFields { expiration, ..GOOD }, Some((CardError::ExpirationMalformed, "expiration")));
        }
        check(CardFields { code: Some("12a"), ..GOOD }, Some((CardError::CodeMalformed, "code")));
        check(
            CardFields { billing_zip: Some("46<01"), ..GOOD },
            Some((CardError::ZipMalformed, "billing_zip")),
        );
    }

    #[test]
    fn debug_shows_the_last_four_only() {
        let card = Card::parse(GOOD, date!(2030 - 01 - 01)).unwrap();
        assert_eq!(format!("{card:?}"), "Card(..1111)");
        assert_eq!(card.bin(), "411111");
        assert_eq!(format!("{GOOD:?}"), "CardFields(***)");
    }
}
