//! Text that must never be seen: card numbers, card codes and credentials.
//! Refuses to be printed; wipes its bytes on drop. Everything in this crate that holds such text holds it here.

use std::fmt;

/// Secret text. `Debug` prints `Secret(***)`; there is no `Display` and no serialisation.
#[derive(Clone)]
pub struct Secret {
    bytes: Vec<u8>,
}

impl Secret {
    /// Takes the text over. Costs nothing beyond the move.
    pub fn new(text: impl Into<String>) -> Self {
        Self { bytes: text.into().into_bytes() }
    }

    /// The text itself, for the one place that puts it on the wire.
    pub fn expose(&self) -> &str {
        std::str::from_utf8(&self.bytes).expect("built from a String, so it is UTF-8")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(***)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        wipe(&mut self.bytes);
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

/// Overwrites the bytes with zeros.
pub(crate) fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    // Without this the compiler may drop the writes as dead stores before the memory is freed.
    std::hint::black_box(&bytes);
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn debug_hides_the_text() {
        let secret = Secret::new("4111111111111111");
        assert_eq!(format!("{secret:?}"), "Secret(***)");
        assert_eq!(secret.expose(), "4111111111111111");
    }
}
