//! Identifiers: UUIDv7 with a prefix that says what they name (`acc_`, `pay_`, ...). Parses strictly, names nobody.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// A text that is not an identifier of the expected kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be an identifier such as \"{0}\" followed by 32 hexadecimal digits")]
pub struct InvalidId(pub &'static str);

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Uuid);

        impl $name {
            /// What every text form starts with.
            pub const PREFIX: &'static str = $prefix;

            /// A new id, later than every id this process made before.
            #[must_use]
            #[expect(clippy::new_without_default, reason = "a default id would hide that each is new")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut digits = [0_u8; uuid::fmt::Simple::LENGTH];
                formatter.write_str($prefix)?;
                formatter.write_str(self.0.as_simple().encode_lower(&mut digits))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, formatter)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                parse_prefixed(text, $prefix).map(Self).ok_or(InvalidId($prefix))
            }
        }
    };
}

identifier!(/// A merchant: the owner of keys, accounts and payments.
    MerchantId, "mer_");
identifier!(/// An account of the ledger.
    AccountId, "acc_");
identifier!(/// A payment.
    PaymentId, "pay_");
identifier!(/// One side of a double entry, as the API shows it.
    EntryId, "ent_");
identifier!(/// One effect at an external gateway.
    OperationId, "gop_");

fn parse_prefixed(text: &str, prefix: &str) -> Option<Uuid> {
    let digits = text.strip_prefix(prefix)?;
    // `Uuid::try_parse` also accepts hyphens, braces and capitals: one id must have one spelling.
    let strict =
        digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if strict { Uuid::try_parse(digits).ok() } else { None }
}

/// Creation time of a UUIDv7 in Unix milliseconds: its first 48 bits.
#[must_use]
pub fn created_ms(id: Uuid) -> i64 {
    let bytes = id.as_bytes();
    let mut wide = [0_u8; 8];
    wide[2..].copy_from_slice(&bytes[..6]);
    i64::from_be_bytes(wide)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text_form() {
        let id = PaymentId::new();
        assert_eq!(id.to_string().parse::<PaymentId>().unwrap(), id);
    }

    #[test]
    fn other_spellings_are_refused() {
        let id = AccountId::new();
        let hyphens = format!("acc_{}", id.0.hyphenated());
        let capitals = id.to_string().to_uppercase();
        let wrong_kind = PaymentId(id.0).to_string();
        for text in ["", "acc_", &hyphens, &capitals, &wrong_kind, &format!("{id}0")] {
            assert_eq!(text.parse::<AccountId>(), Err(InvalidId("acc_")), "{text}");
        }
    }

    #[test]
    fn creation_time_is_the_first_48_bits() {
        let id = Uuid::try_parse("018c2c5a-8b00-7000-8000-000000000000").unwrap();
        assert_eq!(created_ms(id), 0x018c_2c5a_8b00);
    }
}
