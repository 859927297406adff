//! What a gateway really said, kept for people who must judge an outcome later.
//! Masks card numbers, card codes and credentials, and is bounded; refuses to keep the raw bytes.

use std::fmt;

use crate::secret::Secret;

/// Enough for any reply of the gateways here; an HTML error page is cut.
const EXCERPT_CHARACTERS_MAX: usize = 2048;
/// Masking looks at no more than this, so that a huge body costs nothing.
const RAW_BYTES_MAX: usize = 16 * 1024;
/// Shorter runs of digits are ids, dates and amounts.
const CARD_DIGITS_MIN: usize = 13;
/// Shorter secrets would blank out ordinary text.
const SECRET_BYTES_MIN: usize = 4;
/// Values of these JSON keys are hidden wherever a gateway or proxy echoes our request.
const HIDDEN_KEYS: [&str; 6] = ["cardNumber", "cardCode", "transactionKey", "dataValue", "name", "zip"];

/// A masked, bounded excerpt of a reply. Safe to log and to store.
#[derive(Clone, PartialEq, Eq)]
pub struct Evidence(String);

impl Evidence {
    /// Masks `raw`. `secrets` are the credentials of this gateway, hidden even where they stand alone.
    pub fn from_reply(raw: &[u8], secrets: &[&Secret]) -> Self {
        let text = String::from_utf8_lossy(&raw[..raw.len().min(RAW_BYTES_MAX)]);
        let mut text = text.trim_start_matches('\u{feff}').to_owned();
        for secret in secrets {
            if secret.expose().len() >= SECRET_BYTES_MIN {
                text = text.replace(secret.expose(), "***");
            }
        }
        for key in HIDDEN_KEYS {
            text = hide_value(&text, key);
        }
        Self(mask_card_numbers(&text).chars().take(EXCERPT_CHARACTERS_MAX).collect())
    }

    /// The excerpt.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Evidence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

/// Replaces the string value after each `"key"` by `***`, except values that the gateway masked itself.
fn hide_value(text: &str, key: &str) -> String {
    let quoted = format!("\"{key}\"");
    let mut output = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(found) = rest.find(&quoted) {
        let (before, after) = rest.split_at(found + quoted.len());
        output.push_str(before);
        rest = after;
        let value = after.trim_start_matches([' ', ':', '\n', '\t']);
        let Some(inside) = value.strip_prefix('"') else { continue };
        let length = inside.find('"').unwrap_or(inside.len());
        if !inside.starts_with("XXXX") {
            output.push_str(&after[..after.len() - inside.len()]);
            output.push_str("***");
            rest = &inside[length..];
        }
    }
    output.push_str(rest);
    output
}

/// Hides all but the last four digits of each run of 13 or more digits; single spaces and hyphens do not end a run.
fn mask_card_numbers(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut output = characters.clone();
    let mut start = 0;
    while start < characters.len() {
        if !characters[start].is_ascii_digit() {
            start += 1;
            continue;
        }
        let mut digits = Vec::new();
        let mut place = start;
        while let Some(character) = characters.get(place) {
            let next_is_digit = characters.get(place + 1).is_some_and(char::is_ascii_digit);
            if character.is_ascii_digit() {
                digits.push(place);
            } else if !(matches!(character, ' ' | '-') && next_is_digit) {
                break;
            }
            place += 1;
        }
        if digits.len() >= CARD_DIGITS_MIN {
            for masked in &digits[..digits.len() - 4] {
                output[*masked] = 'X';
            }
        }
        start = place;
    }
    output.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::{EXCERPT_CHARACTERS_MAX, Evidence};
    use crate::secret::Secret;

    fn check(raw: &str, expected: &str) {
        let key = Secret::new("top-secret-key");
        assert_eq!(Evidence::from_reply(raw.as_bytes(), &[&key]).as_str(), expected);
    }

    #[test]
    fn secrets_and_card_numbers_are_masked() {
        check("\u{feff}{\"a\":1}", "{\"a\":1}");
        check("x top-secret-key y", "x *** y");
        check("pan 4111111111111111.", "pan XXXXXXXXXXXX1111.");
        check("pan 4111 1111-1111 1111.", "pan XXXX XXXX-XXXX 1111.");
        check("id 60019392075", "id 60019392075");
        check("{\"cardCode\": \"900\",\"b\":2}", "{\"cardCode\": \"***\",\"b\":2}");
        check("{\"cardNumber\":\"XXXX1111\"}", "{\"cardNumber\":\"XXXX1111\"}");
        check("{\"dataValue\":\"eyJ", "{\"dataValue\":\"***");
    }

    #[test]
    fn excerpt_is_bounded() {
        let evidence = Evidence::from_reply(&vec![b'a'; 1 << 20], &[]);
        assert_eq!(evidence.as_str().len(), EXCERPT_CHARACTERS_MAX);
    }
}
