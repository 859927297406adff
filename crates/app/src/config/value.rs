//! Checked values, and how a field of a section takes its own.
//!
//! Refuses nothing at run time: a row of the table whose kind does not fit its field is a mistake in the table,
//! which the test that loads every setting finds.

use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use super::secret::{Secret, SecretUrl};
use crate::ids::AccountId;

/// A value that passed its check.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Flag(bool),
    Integer(i64),
    Span(Duration),
    Address(SocketAddr),
    Text(String),
    Secret(Secret),
    Url(Option<SecretUrl>),
    Urls(Vec<SecretUrl>),
    Hosts(Vec<String>),
    Blocklist(Vec<BlocklistEntry>),
}

/// Who is refused by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlocklistEntry {
    /// An account of the ledger.
    Account(AccountId),
    /// The first 6 digits of a card number.
    Bin(String),
}

impl BlocklistEntry {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (scope, name) = text.split_once(':')?;
        let is_bin = name.len() == 6 && name.bytes().all(|byte| byte.is_ascii_digit());
        match scope {
            // In its one spelling: any other would never match.
            "account" => name.parse().ok().map(Self::Account),
            "bin" if is_bin => Some(Self::Bin(name.to_owned())),
            _ => None,
        }
    }
}

impl fmt::Display for BlocklistEntry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account(id) => write!(formatter, "account:{id}"),
            Self::Bin(digits) => write!(formatter, "bin:{digits}"),
        }
    }
}

/// Turns a checked value into the type of a field.
pub(crate) trait Take {
    fn take(value: &Value) -> Self;
}

/// Called when a row of the table and the type of its field disagree.
fn mismatch(value: &Value, field: &str) -> ! {
    unreachable!("the table of settings gives {value:?} to a field of type {field}")
}

macro_rules! take {
    ($($type:ty: $pattern:pat => $result:expr;)+) => {$(
        impl Take for $type {
            fn take(value: &Value) -> Self {
                match value {
                    $pattern => $result,
                    other => mismatch(other, stringify!($type)),
                }
            }
        }
    )+};
}

take! {
    bool: Value::Flag(flag) => *flag;
    Duration: Value::Span(span) => *span;
    SocketAddr: Value::Address(address) => *address;
    String: Value::Text(text) => text.clone();
    Secret: Value::Secret(secret) => secret.clone();
    SecretUrl: Value::Url(Some(url)) => url.clone();
    Option<SecretUrl>: Value::Url(url) => url.clone();
    Vec<SecretUrl>: Value::Urls(urls) => urls.clone();
    Vec<String>: Value::Hosts(hosts) => hosts.clone();
    Vec<BlocklistEntry>: Value::Blocklist(entries) => entries.clone();
    Option<String>: Value::Text(text) => (!text.is_empty()).then(|| text.clone());
    Option<PathBuf>: Value::Text(text) => (!text.is_empty()).then(|| PathBuf::from(text));
    i64: Value::Integer(number) => *number;
    u32: Value::Integer(number) => u32::try_from(*number).expect(FITS);
    u64: Value::Integer(number) => u64::try_from(*number).expect(FITS);
    usize: Value::Integer(number) => usize::try_from(*number).expect(FITS);
    NonZeroU32: Value::Integer(number) => NonZeroU32::new(u32::take(&Value::Integer(*number))).expect(FITS);
    NonZeroUsize: Value::Integer(number) => NonZeroUsize::new(usize::take(&Value::Integer(*number))).expect(FITS);
}

const FITS: &str = "the bounds of the setting keep it inside the type of its field";
