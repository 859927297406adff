//! Which numbers of a JSON text mean something else once they were read and written again: digits beyond a 64-bit float
//! are lost without a word. Judges literals only; knows no field. Called by `unique`.

use serde_json::Number;

/// Positions, counted from 0 among all numbers of a well-formed JSON text, of those that would come back as another
/// value. One pass over the text.
pub(super) fn changed(json: &[u8]) -> Vec<usize> {
    let literals = Literals { rest: json };
    literals.enumerate().filter(|(_, literal)| !survives(literal)).map(|(position, _)| position).collect()
}

/// The numbers of a well-formed JSON text, as they are written there.
struct Literals<'json> {
    rest: &'json [u8],
}

impl<'json> Iterator for Literals<'json> {
    type Item = &'json str;

    fn next(&mut self) -> Option<&'json str> {
        loop {
            let (first, rest) = self.rest.split_first()?;
            match first {
                b'"' => self.rest = after_string(rest),
                b'-' | b'0'..=b'9' => {
                    let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
                    let end = self.rest.iter().position(|byte| !is_part(byte)).unwrap_or(self.rest.len());
                    let (literal, rest) = self.rest.split_at(end);
                    self.rest = rest;
                    return std::str::from_utf8(literal).ok();
                }
                _ => self.rest = rest,
            }
        }
    }
}

/// What follows the closing quote of a string whose opening one was passed.
fn after_string(mut rest: &[u8]) -> &[u8] {
    loop {
        match rest {
            [] => return rest,
            [b'"', tail @ ..] => return tail,
            [b'\\', _, tail @ ..] | [_, tail @ ..] => rest = tail,
        }
    }
}

fn survives(literal: &str) -> bool {
    // Integers of 64 bits are kept as such.
    if literal.parse::<i64>().is_ok() || literal.parse::<u64>().is_ok() {
        return true;
    }
    let Ok(kept) = serde_json::from_str::<Number>(literal) else { return false };
    let value = Decimal::of(literal);
    // A float that lies halfway between two shortest forms is printed as one by some programs, as the other by the rest.
    value == Decimal::of(&kept.to_string())
        || kept.as_f64().is_some_and(|float| value == Decimal::of(&float.to_string()))
}

/// The value of a literal: `digits` times ten to the `exponent`, with neither leading nor trailing zeros, so that equal
/// values are equal.
#[derive(PartialEq, Eq, Debug)]
struct Decimal {
    is_negative: bool,
    digits: String,
    exponent: i64,
}

impl Decimal {
    fn of(literal: &str) -> Self {
        let (mantissa, exponent) = literal.split_once(['e', 'E']).unwrap_or((literal, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{}{fraction}", whole.trim_start_matches('-'));
        let significant = digits.trim_end_matches('0');
        let zeros = length(&digits) - length(significant);
        let significant = significant.trim_start_matches('0');
        if significant.is_empty() {
            return Self { is_negative: false, digits: String::new(), exponent: 0 };
        }
        // An exponent beyond 64 bits belongs to no number that was read.
        let exponent: i64 = exponent.trim_start_matches('+').parse().unwrap_or(i64::MIN);
        Self {
            is_negative: whole.starts_with('-'),
            digits: significant.to_owned(),
            exponent: exponent.saturating_add(zeros).saturating_sub(length(fraction)),
        }
    }
}

fn length(text: &str) -> i64 {
    i64::try_from(text.len()).expect("a text in memory is shorter than 2^63 bytes")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_that_comes_back_as_another_value_is_found_by_its_position() {
        let check = |json: &str, expected: &[usize]| assert_eq!(changed(json.as_bytes()), expected, "{json}");
        check("[0,-0,-0.0,1.10,1e3,1E+3,1e-3,0.1,0.30000000000000004]", &[]);
        check("[18446744073709551615,-9223372036854775808,100000000000000000000,1e300,5e-324,0e999]", &[]);
        check("[12345678901234567890123]", &[0]);
        check("[1,18446744073709551617,2]", &[1]);
        check("[0.1000000000000000055511151231257827]", &[0]);
        check("[9007199254740993.0,3.141592653589793238]", &[0, 1]);
        check("[1e-400,1e-99999999999999999999]", &[0, 1]);
    }

    #[test]
    fn either_shortest_form_of_a_float_halfway_between_two_is_kept() {
        // Exactly 20503967199761.3125.
        assert!(survives("-20503967199761.312"));
        assert!(survives("-20503967199761.313"));
        assert!(!survives("-20503967199761.311"));
        assert!(!survives("-20503967199761.314"));
    }

    #[test]
    fn digits_in_texts_are_no_numbers() {
        let text = r#"{"12345678901234567890123":"1.10000000000000000001 \" 2 \\","b":["\\\"",3,0.1234567890123456789]}"#;
        assert_eq!(changed(text.as_bytes()), [1]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// What any program writes for a float of its own is kept.
        #[test]
        fn every_float_survives_in_its_shortest_form(bits in any::<u64>()) {
            let float = f64::from_bits(bits);
            prop_assume!(float.is_finite());
            for text in [format!("{float}"), format!("{float:e}")] {
                prop_assert!(survives(&text), "{}", text);
            }
        }

        /// One more digit than a float tells apart is never dropped in silence.
        #[test]
        fn a_value_is_either_kept_or_found(digits in "[1-9][0-9]{0,30}", point in 0_usize..31) {
            let text = match digits.get(..point).filter(|whole| !whole.is_empty()) {
                Some(whole) if point < digits.len() => format!("{whole}.{}", &digits[point..]),
                _ => digits.clone(),
            };
            let kept: Number = serde_json::from_str(&text).expect("a number");
            let (before, after) = (Decimal::of(&text), Decimal::of(&kept.to_string()));
            if before == after || digits.len() <= 15 {
                prop_assert!(survives(&text), "{}", text);
            } else if survives(&text) {
                // A float halfway between two forms: the other one is a single step of the last digit away.
                let [before_steps, after_steps] = [&before, &after].map(|value| value.digits.parse::<u128>().expect("digits"));
                prop_assert_eq!((before.exponent, before_steps.abs_diff(after_steps)), (after.exponent, 1), "{}", text);
            }
        }
    }
}
